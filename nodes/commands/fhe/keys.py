"""`cohortium fhe keys`: the sets of keys in a directory."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from nodes.commands.fhe.options import keys_option, secret_keys, storage_key_option


@click.group()
def keys() -> None:
    """See and erase sets of keys."""


@keys.command("list")
@keys_option
@storage_key_option
def list_keys(keys: Path, storage_key: Path | None) -> None:
    """List the sets, with the models that they are for."""
    from nodes.models import as_user_errors

    with as_user_errors():
        for one in secret_keys(keys, storage_key).sets():
            made = datetime.fromtimestamp(one.created, UTC).strftime("%Y-%m-%d %H:%M")
            there = "" if one.uploadable else "  (its evaluation key is not here)"
            click.echo(f"{one.header.key}  {made}  {one.header.backend}  model {one.header.model[:12]}{there}")


@keys.command()
@click.argument("identifier", metavar="ID")
@keys_option
@storage_key_option
def erase(identifier: str, keys: Path, storage_key: Path | None) -> None:
    """Delete a set: what was encrypted under it can never be read again."""
    from nodes.models import as_user_errors

    with as_user_errors():
        secret_keys(keys, storage_key).erase(identifier)
    click.echo(f"{identifier} is erased here; ask the service to erase its evaluation key, too")
