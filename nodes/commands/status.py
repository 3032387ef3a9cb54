"""`cohortium status`: ask a running daemon how it is."""

from __future__ import annotations

import json
from pathlib import Path

import click

from nodes.commands.options import admin_socket, daemon_option, socket_option


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
        return
    for key, value in answer.items():
        if isinstance(value, dict):
            click.echo(f"{key}:" + ("" if value else " none"))
            for name, text in value.items():
                click.echo(f"  {name}: {text}")
        else:
            click.echo(f"{key}: {value}")


async def _ask(socket: Path) -> dict[str, object]:
    from nodes.admin.client import AdminClient

    async with AdminClient(socket) as daemon:
        answer: dict[str, object] = await daemon.get("/v1/status")
        return answer
