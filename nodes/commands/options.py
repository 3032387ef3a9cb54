"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

from mpc.errors import UsageError

config_option = click.option(
    "--config", "config", required=True, metavar="FILE", type=click.Path(path_type=Path), help="The node's YAML file."
)
check_option = click.option("--check", is_flag=True, help="Check the configuration, keys and certificates, and exit.")

daemon_option = click.option(
    "--config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The running daemon's YAML file, which names its admin socket.",
)
socket_option = click.option("--socket", metavar="PATH", type=click.Path(path_type=Path), help="The admin socket itself.")


def printable(text: str) -> str:
    """What a peer has said, with nothing in it that moves the cursor."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def admin_socket(config: Path | None, socket: Path | None) -> Path:
    """The socket that the two options name. Raises UsageError unless exactly one is given."""
    from nodes.config import admin_of

    if config is not None and socket is None:
        return admin_of(config)
    if socket is not None and config is None:
        return socket
    raise UsageError("say which daemon: give --config FILE or --socket PATH")
