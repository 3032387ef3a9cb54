"""`cohortium fhe train`: from a table to a signed bundle. The training itself runs in its own environment."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from mpc.errors import UsageError
from nodes.commands.fhe.options import bounds, pair, path

if TYPE_CHECKING:
    from fhe.train.job import Recipe

_RECIPES = ["linear-regression", "logistic-regression", "xgboost", "random-forest", "mlp"]


@click.command()
@click.argument("data", metavar="DATA")
@click.option("--recipe", required=True, type=click.Choice(_RECIPES), help="What kind of model.")
@click.option("--id", "identifier", required=True, metavar="ID", help="What a service calls it: a-z, 0-9 and dashes.")
@click.option("--title", default="", metavar="TEXT", help="For people (default: ID).")
@click.option("--target", default="", metavar="COLUMN", help="What is predicted (default: the last column).")
@click.option("--range", "ranges", multiple=True, metavar="NAME=LOW:HIGH", help="Of a feature (default: the data's, rounded).")
@click.option("--unit", "units", multiple=True, metavar="NAME=UNIT", help="Of a feature.")
@click.option("--bits", default=0, metavar="N", help="Of each number (default: 8 for linear models, 3 for others).")
@click.option("--trees", default=10, show_default=True, metavar="N")
@click.option("--depth", default=3, show_default=True, metavar="N", help="Of each tree.")
@click.option("--hidden", default="16", show_default=True, metavar="N,N", help="Units of each hidden layer of a network.")
@click.option("--seed", default=42, show_default=True, metavar="N", help="Of the split and the training.")
@click.option(
    "--key", "key_file", required=True, metavar="FILE", type=path, help="The owner's P-256 key, which signs the bundle."
)
@click.option("--certificate", metavar="FILE", type=path, help="Its certificate, for clients that trust its authority.")
@click.option("-o", "--output", "target_file", required=True, metavar="FILE", type=path, help="The bundle.")
@click.option("--python", metavar="PYTHON", type=path, help="Of the training environment (default: .venv-train of the checkout).")
def train(
    data: str,
    recipe: Recipe,
    identifier: str,
    title: str,
    target: str,
    ranges: tuple[str, ...],
    units: tuple[str, ...],
    bits: int,
    trees: int,
    depth: int,
    hidden: str,
    seed: int,
    key_file: Path,
    certificate: Path | None,
    target_file: Path,
    python: Path | None,
) -> None:
    """Train a model on DATA, a CSV file or one of scikit-learn's sets (breast-cancer, diabetes, digits, iris, wine).

    A quarter of the rows is held out for the metrics. The bundle tells the declared ranges, and nothing else of the data.
    """
    from fhe.bundle import make_bundle
    from fhe.environment import Environment
    from fhe.files import write_file
    from fhe.maker import run_maker
    from fhe.signature import make_signer
    from fhe.train.job import MODULE, Job
    from nodes.models import as_user_errors
    from pki.files import read_certificates, read_private_key

    with as_user_errors():
        signer = make_signer(read_private_key(key_file), () if certificate is None else read_certificates(certificate))
        job = Job(
            id=identifier,
            title=title or identifier,
            recipe=recipe,
            data=str(Path(data).absolute()) if Path(data).exists() else data,
            created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            target=target,
            ranges={name: bounds(text) for name, text in map(pair, ranges)},
            units=dict(map(pair, units)),
            bits=bits,
            trees=trees,
            depth=depth,
            hidden=_hidden(hidden),
            seed=seed,
        )
        environment = Environment.find_training(python)
        with TemporaryDirectory(prefix="cohortium-train-") as scratch:
            description, parts = run_maker(environment, MODULE, job, Path(scratch))
        write_file(target_file, make_bundle(description, parts, signer), force=True)
    for metric in description.metrics:
        click.echo(f"{metric.name}: {metric.clear:g} in clear, {metric.quantised:g} quantised, on {metric.samples} samples")
    click.echo(f"{target_file}: see it with 'cohortium fhe inspect {target_file}'")


def _hidden(text: str) -> tuple[int, ...]:
    try:
        layers = tuple(int(part) for part in text.split(","))
    except ValueError:
        layers = ()
    if not layers or min(layers) < 1:
        raise UsageError(f"--hidden {text}: write the units of each layer, as in 16,8")
    return layers
