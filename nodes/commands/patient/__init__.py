"""`cohortium patient`: run a patient's daemon; and what a person asks of one, one file for each kind of question."""

from __future__ import annotations

from pathlib import Path

import click

from mpc.errors import UsageError
from nodes.commands.options import check_option
from nodes.commands.patient.consent import approve, decline, inbox, withdraw
from nodes.commands.patient.ledger import ledger, release
from nodes.commands.patient.preview import preview


@click.group(invoke_without_command=True)
@click.option("--config", metavar="FILE", type=click.Path(path_type=Path), help="The node's YAML file: runs its daemon.")
@check_option
@click.option(
    "--value",
    "values",
    multiple=True,
    metavar="[VARIABLE=]VALUE",
    help="Use this value instead of the configured source. Others on this machine can read command lines: for trying out only.",
)
@click.pass_context
def patient(ctx: click.Context, config: Path | None, check: bool, values: tuple[str, ...]) -> None:
    """Run a patient's daemon until it is told to stop (SIGTERM or Ctrl-C), or ask it something."""
    if ctx.invoked_subcommand is not None:
        if config is not None or check or values:
            raise UsageError(f"options of 'patient' itself run a daemon; put those of '{ctx.invoked_subcommand}' behind it")
        return
    if config is None:
        raise UsageError("say which patient: give --config FILE")

    from nodes.config import check_patient, with_values
    from nodes.config.answers import Answers
    from nodes.patient import PatientDaemon
    from nodes.run import run_daemon

    if values:
        click.echo(
            "cohortium: warning: --value stands in the process list, readable by everybody on this machine; "
            "write it to a file and name that under 'sources'",
            err=True,
        )
    answers = Answers(ask=not check)
    run_daemon(config, lambda: answers.fill(with_values(check_patient(config), values)), PatientDaemon, check=check)


for _command in (preview, inbox, approve, decline, withdraw, ledger, release):
    patient.add_command(_command)
