"""`cohortium patient preview`: what this patient would contribute to a study, for the eyes of whoever asks, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from nodes.commands.options import config_option
from nodes.commands.patient.asking import ask
from nodes.commands.round import json_option

if TYPE_CHECKING:
    from mpc.study import Study
    from nodes.config import PatientConfig


@click.command()
@click.argument("study")
@config_option
@click.option("--all", "every", is_flag=True, help="Show every record, not the first ones alone.")
@json_option
def preview(study: str, config: Path, every: bool, as_json: bool) -> None:
    """Show the values that this patient would contribute to STUDY. Nothing is sent, and nobody is told.

    STUDY is a study's file, or the id or digest of a request in the inbox of the running daemon.
    """
    import msgspec

    from nodes.config import check_patient
    from nodes.preview import MOST_RECORDS, contribution, lines

    patient = check_patient(config)
    found = contribution(_study(study, patient), patient)
    click.echo(
        "cohortium: notice: what follows are the values themselves, shown because you ask; others may see this screen, and what "
        "it remembers. Whether this patient takes part is decided without a look at them.",
        err=True,
    )
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    for line in lines(found, None if every else MOST_RECORDS):
        click.echo(line)


def _study(given: str, patient: PatientConfig) -> Study:
    from mpc.study import Study
    from mpc.wire import decode
    from nodes.studies import load_study

    path = Path(given)
    if path.exists() or path.suffix:
        return load_study(path, patient.consortium).study
    return decode(bytes.fromhex(ask(patient.admin, f"/v1/inbox/{quote(given, safe='')}")["study"]), Study)
