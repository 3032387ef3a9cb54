"""`cohortium keys`: the encryption keys of a running daemon."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from nodes.commands.options import admin_socket, daemon_option, socket_option


@click.group()
def keys() -> None:
    """Rotate the encryption key of a running daemon; 'cohortium status' shows its keys."""


@keys.command()
@daemon_option
@socket_option
def rotate(config: Path | None, socket: Path | None) -> None:
    """Use a new encryption key from now on. Open rounds finish under the old one, which is erased after them."""
    states = asyncio.run(_rotate(admin_socket(config, socket)))
    for key_id, key in states.items():
        click.echo(f"{key_id} {key['state']}")


async def _rotate(socket: Path) -> dict[str, dict[str, object]]:
    from nodes.admin.client import AdminClient

    async with AdminClient(socket) as daemon:
        answer: dict[str, dict[str, object]] = await daemon.post("/v1/keys/rotate")
        return answer
