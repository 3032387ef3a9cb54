"""`cohortium fhe inspect`: what a bundle says of itself, and who signed it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nodes.commands.fhe.options import authority_option, open_bundle, open_pinned, path, signer_option

if TYPE_CHECKING:
    from fhe.bundle import Bundle


@click.command()
@click.argument("bundle", metavar="BUNDLE", type=path)
@signer_option
@authority_option
@click.option("--json", "as_json", is_flag=True, help="Print the manifest itself.")
def inspect(bundle: Path, signers: tuple[str, ...], authorities: tuple[Path, ...], as_json: bool) -> None:
    """Show what a model takes and gives, how good it is, and what it costs.

    Without --signer or --authority its signature is checked, but not whose it is.
    """
    import msgspec

    from nodes.models import as_user_errors

    with as_user_errors():
        known = bool(signers or authorities)
        opened = open_bundle(bundle, signers, authorities) if known else open_pinned(bundle)
    if as_json:
        click.echo(json.dumps({"hash": opened.hash, **msgspec.to_builtins(opened.manifest)}, indent=1))
        return
    for line in _lines(opened, known):
        click.echo(line)


def _lines(bundle: Bundle, known: bool) -> Iterator[str]:
    model, sizes, seconds = bundle.model, bundle.model.sizes, bundle.model.seconds
    yield f"{model.id}: {model.title} ({model.kind}, {model.backend}, {model.created})"
    yield f"  hash       {bundle.hash}"
    yield f"  signed by  {bundle.signature.fingerprint}{'' if known else ' (compare it with what the owner tells you)'}"
    if known and bundle.signature.chain:
        from pki.trust import check_leaf

        yield f"             {check_leaf(bundle.signature.certificates[0])}"
    yield f"  takes      {_shape(model.input.shape)}"
    for feature in model.input.features:
        yield f"               {feature.name}: {feature.low:g} to {feature.high:g} {feature.unit}".rstrip()
    gives = f"scores of {', '.join(model.output.labels)}" if model.output.labels else _shape(model.output.shape)
    yield f"  gives      {gives}{' in ' + model.output.unit if model.output.unit else ''}"
    for metric in model.metrics:
        yield f"  {metric.name:<9}  {metric.clear:g} in clear, {metric.quantised:g} quantised, on {metric.samples} samples"
    error = "" if model.security.p_error_log2 is None else f", errors below 2^{model.security.p_error_log2}"
    yield f"  security   {model.security.bits} bits{error}"
    yield f"  sizes      key {_bytes(sizes.key)}, input {_bytes(sizes.input.most)}, result {_bytes(sizes.output.most)}"
    times = ("keygen", seconds.keygen), ("encrypt", seconds.encrypt), ("infer", seconds.infer), ("decrypt", seconds.decrypt)
    yield f"  seconds    {', '.join(f'{what} {time:g}' for what, time in times)}"
    yield f"  made with  {', '.join(f'{name} {version}' for name, version in sorted(model.versions.items()))}"
    if model.notes:
        yield f"  notes      {model.notes}"


def _shape(shape: tuple[int, ...]) -> str:
    return f"{' x '.join(map(str, shape))} {'number' if shape == (1,) else 'numbers'}"


def _bytes(count: int) -> str:
    return f"{count / 1e6:.3g} MB" if count >= 100_000 else f"{count / 1e3:.3g} kB"
