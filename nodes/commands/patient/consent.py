"""`cohortium patient inbox|approve|decline|withdraw`: a person decides what the own daemon takes part in."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from nodes.commands.options import admin_socket, daemon_option, printable, socket_option
from nodes.commands.patient.asking import ask

_DAYS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]
_UNITS = {"m": 60, "h": 3600, "d": 24 * 3600}
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _seconds(_ctx: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    match = re.fullmatch(r"([1-9][0-9]{0,5})([mhd])", value or "1m", re.ASCII)
    if match is None:
        raise click.BadParameter(f"{value!r} is no duration; write a number of minutes, hours or days: 90m, 12h, 30d")
    return None if value is None else float(match[1]) * _UNITS[match[2]]


@click.command()
@daemon_option
@socket_option
@_json
def inbox(config: Path | None, socket: Path | None, as_json: bool) -> None:
    """List the requests that wait for a person, oldest first."""
    found = ask(admin_socket(config, socket), "/v1/inbox")
    if as_json:
        click.echo(json.dumps(found))
        return
    for request in found:
        _show(request)
    if not found:
        click.echo("nothing waits")


@click.command()
@click.argument("study", metavar="STUDY")
@daemon_option
@socket_option
@click.option("--until", type=click.DateTime(_DAYS), metavar="TIME", help="Also consent, up to then (UTC), to the same again.")
@click.option("--for", "duration", callback=_seconds, metavar="TIME", help="The same for so long from now: 90m, 12h, 30d.")
def approve(study: str, config: Path | None, socket: Path | None, until: datetime | None, duration: float | None) -> None:
    """Consent to what waits under the id STUDY, or under the digest that begins with STUDY. No value is read for that.

    A consent in advance holds for the very same study and no other: one whose digest is the same, word for word.
    """
    if until is not None and duration is not None:
        raise click.UsageError("give --until or --for, and not both")
    end = until.replace(tzinfo=UTC).timestamp() if until is not None else None
    end = time.time() + duration if duration is not None else end
    _tell("approved", ask(admin_socket(config, socket), "/v1/approve", {"study": study, "until": end}))
    if end is not None:
        click.echo(f"the same study is consented to until {_time(end)}, without asking again")


@click.command()
@click.argument("study", metavar="STUDY")
@daemon_option
@socket_option
def decline(study: str, config: Path | None, socket: Path | None) -> None:
    """Decline what waits under the id STUDY, or under the digest that begins with STUDY."""
    _tell("declined", ask(admin_socket(config, socket), "/v1/decline", {"study": study}))


@click.command()
@click.argument("study", metavar="STUDY")
@daemon_option
@socket_option
@_json
def withdraw(study: str, config: Path | None, socket: Path | None, as_json: bool) -> None:
    """Take no part any more in studies whose id matches STUDY (a pattern as in a shell), and list the rounds that were.

    Nor in any that asks the same under another name. Open rounds end, unless the partial sum is given already; what was given
    cannot be taken back.
    """
    answer = ask(admin_socket(config, socket), "/v1/withdraw", {"study": study})
    if as_json:
        click.echo(json.dumps(answer))
        return
    click.echo(f"withdrawn from {study}; {len(answer['ended'])} open rounds ended")
    for given in answer["given"]:
        click.echo(f"{_time(given['at'])}  {given['study']:<24} round {given['round'][:12]}, {len(given['members'])} members")
    if not answer["given"]:
        click.echo("nothing was ever given to it, as far as the ledger goes back")


def _show(request: dict[str, Any]) -> None:
    reach = "the hospital and all members" if request["publish"] == "members" else "the hospital"
    lines = [
        f"{request['study']}  {request['title']}",
        f"  what for   {request['purpose']}",
        *(f"  {'' if at else 'asks':<10} {question}" for at, question in enumerate(request["asks"])),
        f"  of         {request['invited']} patients, at least {request['minimum']}, by {request['hospital']}",
        f"  result     {'noised, ' if request['noise'] else ''}for {reach}",
        f"  answer by  {_time(request['answer_by'])}; the round ends by {_time(request['deadline'])}",
        f"  digest     {request['digest']}",
    ]
    for line in lines:
        click.echo(printable(line))


def _tell(what: str, found: list[dict[str, Any]]) -> None:
    for request in found:
        click.echo(f"{what} {request['study']} (digest {request['digest'][:16]}, round {request['round'][:12]})")


def _time(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
