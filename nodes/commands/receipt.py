"""`cohortium receipt`: what proves that a round took place, who took part, and what came of it for whom."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from mpc.errors import CohortiumError, UsageError
from nodes.commands.options import admin_socket, daemon_option, socket_option

_file = click.Path(path_type=Path)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def receipt() -> None:
    """Verify receipts; show and export those of a running hospital or patient."""


@receipt.command("list")
@daemon_option
@socket_option
@_json_option
def list_receipts(config: Path | None, socket: Path | None, as_json: bool) -> None:
    """List the receipts that a running daemon keeps, oldest first."""
    found = asyncio.run(_get(admin_socket(config, socket), "/v1/receipts"))
    if as_json:
        click.echo(json.dumps(found))
        return
    for one in found:
        ended = datetime.fromtimestamp(one["ended"], UTC)
        click.echo(f"{one['receipt'][:16]}  {ended:%Y-%m-%d %H:%M} UTC  round {one['round'][:12]}  {one['study']}")


@receipt.command()
@click.argument("name", metavar="ID")
@daemon_option
@socket_option
@_json_option
def show(name: str, config: Path | None, socket: Path | None, as_json: bool) -> None:
    """Say what a receipt says, and who has signed it.

    ID is a study's, for its newest, or the beginning of the receipt's own or of its round's.
    """
    import msgspec

    from nodes.proof import Proof, facts

    found = asyncio.run(_get(admin_socket(config, socket), f"/v1/receipts/{_path(name)}"))
    if "problem" in found:
        raise CohortiumError(f"this daemon does not believe the receipt any more: {found['problem']}")
    if as_json:
        click.echo(json.dumps(found["proof"]))
        return
    for line in facts(msgspec.convert(found["proof"], Proof)):
        click.echo(line)


@receipt.command()
@click.argument("name", metavar="ID")
@daemon_option
@socket_option
@click.option("--to", "place", type=_file, required=True, metavar="FILE", help="The file to write.")
@click.option(
    "--result",
    type=_file,
    metavar="FILE",
    help="Also write what opens the commitment in it. Whoever has that has the exact totals.",
)
@click.option("--force", is_flag=True, help="Replace the files.")
def export(name: str, config: Path | None, socket: Path | None, place: Path, result: Path | None, force: bool) -> None:
    """Write a receipt to a file that anybody can verify.

    ID is a study's, for its newest, or the beginning of the receipt's own or of its round's.
    """
    from pki.files import PRIVATE, PUBLIC, check_free, write_file

    files = [place] if result is None else [place, result]
    if not force:
        for path in files:
            check_free(path)
    at = admin_socket(config, socket)
    whats = [f"/v1/receipts/{_path(name)}", f"/v1/receipts/{_path(name)}/result"][: len(files)]
    found = [asyncio.run(_get(at, what))["file"].encode() for what in whats]  # all of it, before the first is written
    for path, content, mode in zip(files, found, (PUBLIC, PRIVATE), strict=False):
        write_file(path, content, mode=mode, force=force)
        click.echo(path)


@receipt.command()
@click.argument("file", type=_file)
@click.option("--ca", type=_file, required=True, metavar="FILE", help="The roots to trust, usually ca.crt.")
@click.option("--crl", "lists", type=_file, multiple=True, metavar="FILE", help="A revocation list to obey; may be repeated.")
@click.option("--result", type=_file, metavar="FILE", help="A disclosed result: is it the one that the receipt commits to?")
@_json_option
def verify(file: Path, ca: Path, lists: tuple[Path, ...], result: Path | None, as_json: bool) -> None:
    """Verify FILE, and say what it proves and what not.

    Exit status 0: every signature in it holds, and every certificate was valid at the round's time. 1: not so. 2, 77: a file that
    was given cannot be read or used.
    """
    import time

    import msgspec

    from mpc.receipt import ReceiptRefused, check_result, read_receipt, read_result
    from nodes.proof import as_proof, facts, meaning, prove
    from pki.trust import TrustStore

    trust, raw = TrustStore.load(ca), _read(file)
    opens = None if result is None else _read(result)
    try:
        checked, notes = prove(read_receipt(raw), trust, time.time(), lists)
        opened = None if opens is None else check_result(checked, read_result(opens))
    except ReceiptRefused as error:
        if as_json:
            click.echo(json.dumps({"holds": False, "detail": str(error)}))
        raise ReceiptRefused(f"{file} does not hold: {error}") from error
    proof = as_proof(checked, notes, opened)
    if as_json:
        click.echo(msgspec.json.encode({"holds": True} | msgspec.to_builtins(proof)))
        return
    click.echo(f"{file} holds")
    for line in (*facts(proof), "", *meaning(proof)):
        click.echo(line)


async def _get(socket: Path, path: str) -> Any:
    from nodes.admin.client import AdminClient

    async with AdminClient(socket) as daemon:
        return await daemon.get(path)


def _path(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")


def _read(path: Path) -> bytes:
    from mpc.receipt import MAX_FILE

    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if len(raw) > MAX_FILE:
        raise UsageError(f"{path} is larger than {MAX_FILE} bytes, which no receipt is")
    return raw
