"""`cohortium hospital`: run a hospital's daemon."""

from __future__ import annotations

from pathlib import Path

import click

from nodes.commands.options import check_option, config_option


@click.command()
@config_option
@check_option
def hospital(config: Path, check: bool) -> None:
    """Run a hospital's daemon until it is told to stop (SIGTERM or Ctrl-C)."""
    from nodes.config import check_hospital
    from nodes.hospital import HospitalDaemon
    from nodes.run import run_daemon

    run_daemon(config, lambda: check_hospital(config), HospitalDaemon, check=check)
