"""`cohortium fhe convert`: from an ONNX network to a signed bundle, and how good it came out."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

import click

from nodes.commands.fhe.options import bounds, pair, path, worker_option

if TYPE_CHECKING:
    from fhe.bundle import Description
    from fhe.onnx.job import Report


@click.command()
@click.argument("model", metavar="MODEL", type=path)
@click.option("-c", "--calibration", required=True, metavar="FILE", type=path, help="Samples (.npy, .npz, .zip), 30 or more.")
@click.option("--id", "identifier", required=True, metavar="ID", help="What a service calls it: a-z, 0-9 and dashes.")
@click.option("--title", default="", metavar="TEXT", help="For people (default: ID).")
@click.option("--end", default="", metavar="TENSOR", help="Where the model ends (default: its own output).")
@click.option("--backend", default="ckks", show_default=True, type=click.Choice(["ckks", "concrete"]), help="What computes.")
@click.option(
    "--degree", default=2, show_default=True, type=click.IntRange(2, 4), help="ckks: of the polynomials for activations."
)
@click.option("--bits", default=5, show_default=True, type=click.IntRange(2, 7), help="concrete: of each number.")
@click.option("--names", default="", metavar="NAME,NAME", help="Of the features (default: x1,x2 and on).")
@click.option("--range", "ranges", multiple=True, metavar="NAME=LOW:HIGH", help="Of a feature (default: the data's, rounded).")
@click.option("--unit", "units", multiple=True, metavar="NAME=UNIT", help="Of a feature.")
@click.option("--labels", default="", metavar="NAME,NAME", help="Of a classifier, in the order of its scores.")
@click.option("--truth", metavar="FILE", type=path, help="The true class of each sample, from 0, for the accuracy (.npy).")
@click.option(
    "--key", "key_file", required=True, metavar="FILE", type=path, help="The owner's P-256 key, which signs the bundle."
)
@click.option("--certificate", metavar="FILE", type=path, help="Its certificate, for clients that trust its authority.")
@click.option("-o", "--output", "target_file", required=True, metavar="FILE", type=path, help="The bundle.")
@worker_option
def convert(
    model: Path,
    calibration: Path,
    identifier: str,
    title: str,
    end: str,
    backend: Literal["ckks", "concrete"],
    degree: int,
    bits: int,
    names: str,
    ranges: tuple[str, ...],
    units: tuple[str, ...],
    labels: str,
    truth: Path | None,
    key_file: Path,
    certificate: Path | None,
    target_file: Path,
    worker: Path | None,
) -> None:
    """Make a bundle of MODEL, an ONNX network.

    For ckks it is one of affine maps and activations, which become polynomials fitted to the calibration's samples. For
    concrete its numbers become small integers, and every activation is a table. A quarter of the samples is held out and says
    how well it went.
    """
    from fhe.bundle import make_bundle
    from fhe.environment import Environment
    from fhe.files import write_file
    from fhe.maker import run_maker
    from fhe.onnx.job import MODULE, Conversion, read_report
    from fhe.signature import make_signer
    from nodes.models import as_user_errors
    from pki.files import read_certificates, read_private_key

    with as_user_errors():
        signer = make_signer(read_private_key(key_file), () if certificate is None else read_certificates(certificate))
        job = Conversion(
            id=identifier,
            title=title or identifier,
            model=str(model.absolute()),
            calibration=str(calibration.absolute()),
            created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            output=end,
            backend=backend,
            degree=degree,
            bits=bits,
            names=_listed(names),
            units=dict(map(pair, units)),
            ranges={name: bounds(text) for name, text in map(pair, ranges)},
            labels=_listed(labels),
            truth="" if truth is None else str(truth.absolute()),
        )
        environment = Environment.find(worker) if backend == "ckks" else Environment.find_training(worker)
        with TemporaryDirectory(prefix="cohortium-convert-") as scratch:
            description, parts = run_maker(environment, MODULE, job, Path(scratch))
            report = read_report(Path(scratch))
        write_file(target_file, make_bundle(description, parts, signer), force=True)
    show(report, description)
    click.echo(f"{target_file}: see it with 'cohortium fhe inspect {target_file}'")


def show(report: Report, model: Description) -> None:
    """Print how good a network came out."""
    click.echo(
        f"{report.measure}: {report.clear:g} in clear, {report.simulated:g} simulated, on {report.samples} samples held out; "
        f"{report.encrypted:g} encrypted, on {report.tried} of them"
    )
    if report.levels:
        click.echo(f"noise: {report.noise:g}; results are rounded to multiples of {report.step:g}")
    click.echo(
        f"a sample: {model.seconds.infer:g} s to compute, {model.sizes.input.most / 1e6:.2g} MB there, "
        f"{model.sizes.output.most / 1e6:.2g} MB back; keys: {model.seconds.keygen:g} s, {model.sizes.key / 1e6:.3g} MB"
    )
    if report.levels:
        click.echo(f"parameters: degree {report.degree}, {report.levels} levels, {sum(report.bits)} bits of primes")


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",")) if text else ()
