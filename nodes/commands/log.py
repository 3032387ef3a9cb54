"""`cohortium log`: change the level of a running daemon's log."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from nodes.commands.options import admin_socket, daemon_option, socket_option


@click.command()
@click.argument("level", type=click.Choice(["debug", "info", "warning", "error"]))
@daemon_option
@socket_option
def log(level: str, config: Path | None, socket: Path | None) -> None:
    """Log from LEVEL on, until the daemon's next reload or restart."""
    answer = asyncio.run(_set(admin_socket(config, socket), level))
    click.echo(f"logs {answer['level']} and worse; before: {answer['before']}")


async def _set(socket: Path, level: str) -> dict[str, str]:
    from nodes.admin.client import AdminClient

    async with AdminClient(socket) as daemon:
        answer: dict[str, str] = await daemon.post("/v1/log", {"level": level})
        return answer
