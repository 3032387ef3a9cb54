"""`cohortium audit`: what a node has decided and refused, and whether the record of it is whole."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from mpc.errors import CohortiumError, UsageError
from nodes.commands.options import admin_socket, daemon_option, printable, socket_option

_file = click.Path(path_type=Path)
_DAYS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]


@click.group()
def audit() -> None:
    """Show, verify and export what a node decided and refused."""


@audit.command()
@daemon_option
@socket_option
@click.option("--since", type=click.DateTime(_DAYS), metavar="TIME", help="From then on, UTC: 2027-01-31, 2027-01-31T09:30:00.")
@click.option("--event", default="", metavar="EVENT", help="Only these, such as consented, released or refused.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def show(config: Path | None, socket: Path | None, since: datetime | None, event: str, as_json: bool) -> None:
    """Show the lines of a running daemon's audit log, oldest first."""
    seconds = since.replace(tzinfo=UTC).timestamp() if since is not None else 0.0
    show_lines(admin_socket(config, socket), frozenset(), as_json=as_json, query=urlencode({"since": seconds, "event": event}))


def show_lines(socket: Path, events: Collection[str], *, as_json: bool, query: str = "") -> None:
    """Prints lines, oldest first: of these events, or of all if there are none."""

    async def print_all() -> None:
        async for line in _lines(socket, f"/v1/audit?{query}"):
            read = json.loads(line)
            if not events or read.get("event", "") in events:
                click.echo(line if as_json else _text(read), nl=not as_json)

    asyncio.run(print_all())


@audit.command()
@click.argument("file", type=_file, required=False)
@daemon_option
@socket_option
@click.option("--certificate", type=_file, metavar="FILE", help="Of the node that exported FILE, at that time.")
@click.option("--authority", type=_file, metavar="FILE", help="Instead: the root that this node's certificate is of.")
@click.option("--after", type=_file, metavar="OLDER", help="An earlier export, which FILE must go on from.")
def verify(
    file: Path | None,
    config: Path | None,
    socket: Path | None,
    certificate: Path | None,
    authority: Path | None,
    after: Path | None,
) -> None:
    """Verify the audit log of a running daemon, or the exported one in FILE.

    Exit status 0: every line is as it was written, and none is lost. 1: not so; the first line that is wrong is named.
    """
    if file is None:
        if certificate is not None or authority is not None or after is not None:
            raise UsageError("--certificate, --authority and --after are for an export: name its FILE")
        _verify_daemon(admin_socket(config, socket))
        return
    if config is not None or socket is not None:
        raise UsageError("give FILE, or a daemon with --config or --socket, but not both")
    if (certificate is None) == (authority is None):
        raise UsageError("say who signed FILE: give the node's --certificate FILE, or the root of its --authority FILE")

    from nodes.audit_export import check_export

    older = None if after is None else check_export(after, certificate=certificate, authority=authority)
    found = check_export(file, certificate=certificate, authority=authority, after=older)
    click.echo(f"{found.node}, exported {_time(found.exported)}: {_whole(found.erased_to, found.last)}")


@audit.command()
@click.argument("file", type=_file)
@daemon_option
@socket_option
@click.option("--force", is_flag=True, help="Replace FILE.")
def export(file: Path, config: Path | None, socket: Path | None, force: bool) -> None:
    """Write the audit log of a running daemon to FILE, signed with the node's key.

    Whoever has the node's certificate can verify FILE. A log that does not verify is not exported.
    """
    from pki.files import PRIVATE, check_free, write_file

    if not force:
        check_free(file)
    write_file(file, asyncio.run(_export(admin_socket(config, socket))), mode=PRIVATE, force=force)


async def _lines(socket: Path, path: str) -> AsyncIterator[bytes]:
    """What the daemon streams. Raises CohortiumError with its words when it could not finish."""
    from nodes.admin.client import AdminClient

    async with AdminClient(socket) as daemon:
        async for line in daemon.raw_lines(path):
            if line.startswith(b'{"error":'):
                raise CohortiumError(json.loads(line)["error"])
            yield line


async def _export(socket: Path) -> bytes:
    return b"".join([line async for line in _lines(socket, "/v1/audit/export")])


async def _ask(socket: Path) -> Any:
    from nodes.admin.client import AdminClient

    async with AdminClient(socket) as daemon:
        return await daemon.get("/v1/audit/verify")


def _verify_daemon(socket: Path) -> None:
    answer = asyncio.run(_ask(socket))
    if not answer["verified"]:
        raise CohortiumError(answer["detail"])
    click.echo(_whole(answer["erased_to"], answer["last"]))


def _whole(erased_to: int, last: int) -> str:
    erased = f"; lines 1 to {erased_to} were erased, and a line says so" if erased_to else ""
    return "there are no lines yet" if not last else f"lines {erased_to + 1} to {last} are as they were written{erased}"


def _text(line: dict[str, Any]) -> str:
    if line.get("erased"):
        return f"{line['number']:>6}  (erased)"
    said = [(key, value) for key, value in line["content"].items() if key != "questions"]  # those are for programs
    words = [f"{key}={','.join(map(str, value)) if isinstance(value, list) else value}" for key, value in said if value != ""]
    text = f"{line['number']:>6}  {_time(line['at'])}  {line['event']:<17} {line['study']:<16} {' '.join(words)}".rstrip()
    return printable(text)


def _time(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"
