"""`cohortium patient ledger|release`: what was asked, decided and given, and what sources are bound to for it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import click

from mpc.errors import CohortiumError
from nodes.commands.audit import show_lines
from nodes.commands.options import admin_socket, daemon_option, socket_option
from nodes.commands.patient.asking import ask
from nodes.store.audit import AuditEvent

_EVENTS = frozenset(
    {
        AuditEvent.ASKED,
        AuditEvent.CONSENTED,
        AuditEvent.DECLINED,
        AuditEvent.SUBMITTED,
        AuditEvent.RELEASED,
        AuditEvent.RECEIPTED,
        AuditEvent.ENDED,
        AuditEvent.APPROVED,
        AuditEvent.WITHDRAWN,
        AuditEvent.FREED,
        AuditEvent.RESTORED,
        AuditEvent.ERASED,
        AuditEvent.TAMPERED,
    }
)


@click.command()
@daemon_option
@socket_option
@click.option(
    "--verify", is_flag=True, help="Check that every line is as it was written and none is lost; exit status 1: not so."
)
@click.option("--sources", is_flag=True, help="Show what each source is bound to instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def ledger(config: Path | None, socket: Path | None, verify: bool, sources: bool, as_json: bool) -> None:
    """Show every request, what was decided and why, what was given, and the receipts. The lines are a part of the audit log."""
    place = admin_socket(config, socket)
    if verify:
        answer = ask(place, "/v1/audit/verify")
        if not answer["verified"]:
            raise CohortiumError(answer["detail"])
        click.echo(f"lines {answer['erased_to'] + 1} to {answer['last']} are as they were written")
    elif sources:
        for found in ask(place, "/v1/sources"):
            click.echo(json.dumps(found) if as_json else _bound(found))
    else:
        show_lines(place, _EVENTS, as_json=as_json)


@click.command()
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option("--all", "everything", is_flag=True, help="All sources.")
@daemon_option
@socket_option
def release(sources: tuple[str, ...], everything: bool, config: Path | None, socket: Path | None) -> None:
    """Free sources from the rosters that they are bound to, before their periods end. Their values are read anew after that.

    The hospital can then compare what it gets with what it had: over rosters that differ by one member, that is its value.
    """
    if everything == bool(sources):
        raise click.UsageError("name the sources, or say --all")
    freed = ask(admin_socket(config, socket), "/v1/release", {"sources": sources})
    click.echo(f"free: {', '.join(freed)}")


def _bound(found: dict[str, object]) -> str:
    members = found["members"]
    assert isinstance(members, list)
    until = datetime.fromtimestamp(float(str(found["until"])), UTC)
    return f"{found['source']:<24} until {until:%Y-%m-%d %H:%M} UTC, {found['rounds']} rounds, last over {', '.join(members)}"
