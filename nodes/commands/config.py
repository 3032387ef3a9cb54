"""`cohortium config`: what a configuration may say."""

from __future__ import annotations

import json
from typing import Any

import click

ROLES = ("hospital", "patient", "relay", "study")


@click.group()
def config() -> None:
    """Show what a node's configuration, or a study's file, may say."""


@config.command()
@click.argument("role", type=click.Choice(ROLES))
def schema(role: str) -> None:
    """Print the JSON schema of ROLE's file, for editors. They show most mistakes by it; a daemon's --check finds all."""
    click.echo(json.dumps(schema_for(role), indent=2))


def schema_for(role: str) -> dict[str, Any]:
    """The schema of one of ROLES."""
    from nodes.config import HospitalConfig, PatientConfig, RelayConfig
    from nodes.studies import StudyFile
    from nodes.yaml_schema import schema_of

    kinds = {"hospital": HospitalConfig, "patient": PatientConfig, "relay": RelayConfig, "study": StudyFile}
    return schema_of(kinds[role], f"Cohortium: a {role}'s file")
