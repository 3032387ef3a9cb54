"""`cohortium erase`: delete what a running daemon keeps of old rounds."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from mpc.errors import UsageError
from nodes.commands.options import admin_socket, daemon_option, socket_option

_WHAT = """\
This deletes for good what the node keeps of {which}: summaries, results and lines of the audit log.
Out of reach: backups, snapshots and replicas of the store; what a disk or a database server has not written over yet; the log;
results that were shown or sent; and what the other nodes keep of the same rounds. Open rounds stay.\
"""


@click.command()
@click.option(
    "--older-than",
    "days",
    type=click.IntRange(0, 36_500),
    metavar="DAYS",
    help="Rounds that ended before; 0: all.",
)
@click.option("--study", metavar="ID", help="Only rounds of this study; without --older-than all of them.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@daemon_option
@socket_option
def erase(days: int | None, study: str | None, yes: bool, config: Path | None, socket: Path | None) -> None:
    """Delete what a running daemon keeps of rounds that have ended, before `keep_days` would."""
    if days is None and study is None:
        raise UsageError("say what: give --older-than DAYS, --study ID, or both")
    place = admin_socket(config, socket)
    which = f"rounds that ended more than {days} days ago" if days else "all rounds that have ended"
    which += "" if study is None else f", of the study {study!r} alone"
    click.echo(_WHAT.format(which=which), err=True)
    if not yes and not click.confirm("Delete it?", err=True):
        click.echo("nothing was deleted", err=True)
        sys.exit(1)
    rows = asyncio.run(_erase(place, days or 0, study))
    click.echo(f"deleted {rows} rounds and lines of the audit log")


async def _erase(socket: Path, days: int, study: str | None) -> int:
    from nodes.admin.client import AdminClient

    async with AdminClient(socket) as daemon:
        answer: dict[str, int] = await daemon.post("/v1/erase", {"older_than_days": days, "study": study})
        return answer["rows"]
