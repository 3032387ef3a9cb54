"""`cohortium status`: ask a running daemon how it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from nodes.commands.options import admin_socket, daemon_option, socket_option

_TIMES = ("certificate_not_after", "at", "since")


@click.command()
@daemon_option
@socket_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(config: Path | None, socket: Path | None, as_json: bool) -> None:
    """Ask a running daemon how it is."""
    import asyncio

    answer = asyncio.run(_ask(admin_socket(config, socket)))
    if as_json:
        click.echo(json.dumps(answer))
    else:
        for line in _lines(answer):
            click.echo(line)


def _lines(answer: dict[str, object], indent: str = "") -> Iterator[str]:
    for key, value in answer.items():
        name = f"{indent}{key.replace('_', ' ')}:"
        if isinstance(value, dict) and value:
            yield name
            yield from _lines(value, indent + "  ")
        else:
            yield f"{name} {_text(key, value)}"


def _text(key: str, value: object) -> str:
    """Times and durations as people read them."""
    if key in _TIMES and isinstance(value, int | float):
        return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if key == "uptime_seconds" and isinstance(value, int | float):
        return str(timedelta(seconds=int(value)))
    if isinstance(value, list | dict):
        return ", ".join(map(str, value)) or "none"
    return "yes" if value is True else "no" if value is False else str(value)


async def _ask(socket: Path) -> dict[str, object]:
    from nodes.admin.client import AdminClient

    async with AdminClient(socket) as daemon:
        answer: dict[str, object] = await daemon.get("/v1/status")
        return answer
