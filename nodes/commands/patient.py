"""`cohortium patient`: run a patient's daemon."""

from __future__ import annotations

from pathlib import Path

import click

from nodes.commands.options import check_option, config_option


@click.command()
@config_option
@check_option
@click.option(
    "--value",
    "values",
    multiple=True,
    metavar="[VARIABLE=]VALUE",
    help="Use this value instead of the configured source. Others on this machine can read command lines: for trying out only.",
)
def patient(config: Path, check: bool, values: tuple[str, ...]) -> None:
    """Run a patient's daemon until it is told to stop (SIGTERM or Ctrl-C)."""
    from nodes.config import check_patient, with_values
    from nodes.patient import PatientDaemon
    from nodes.run import run_daemon

    if values:
        click.echo(
            "cohortium: warning: --value stands in the process list, readable by everybody on this machine; "
            "write it to a file and name that under 'sources'",
            err=True,
        )
    run_daemon(config, lambda: with_values(check_patient(config), values), PatientDaemon, check=check)
