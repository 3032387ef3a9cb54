"""`cohortium relay`: run a relay's daemon."""

from __future__ import annotations

from pathlib import Path

import click

from nodes.commands.options import check_option, config_option


@click.command()
@config_option
@check_option
def relay(config: Path, check: bool) -> None:
    """Run a relay's daemon until it is told to stop (SIGTERM or Ctrl-C)."""
    from nodes.config import check_relay
    from nodes.relay import RelayDaemon
    from nodes.run import run_daemon

    run_daemon(config, lambda: check_relay(config), RelayDaemon, check=check)
