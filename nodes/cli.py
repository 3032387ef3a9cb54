"""The one command, `cohortium`. Each group is loaded only when it is used, so that `--help` answers at once."""

from __future__ import annotations

import importlib
import sys
from importlib import metadata
from typing import NoReturn

import click

from mpc.errors import CohortiumError

_COMMANDS = {
    "audit": "Show, verify and export what a node decided and refused.",
    "config": "Show what a configuration may say, as a JSON schema.",
    "doctor": "Check a node's configuration, keys, peers and machine.",
    "enroll": "Get a node's certificate for a token, and all that its daemon needs.",
    "erase": "Delete what a running daemon keeps of old rounds.",
    "hospital": "Run a hospital's daemon.",
    "init": "Make a consortium: an authority, and a directory for each node.",
    "keys": "Rotate the encryption key of a running daemon.",
    "log": "Change the level of a running daemon's log.",
    "patient": "Run a patient's daemon.",
    "pki": "Make an authority; issue, renew, revoke and check certificates.",
    "relay": "Run a relay's daemon.",
    "results": "Show and export what studies have found.",
    "round": "Open rounds at a running hospital, and look at them.",
    "status": "Ask a running daemon how it is.",
    "study": "Check studies, and see, open and plan those of a running hospital.",
}
"""Name and one-line help; the command itself is the function of that name in `nodes.commands.NAME`."""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"nodes.commands.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _print_version(ctx: click.Context, _option: click.Parameter, asked: bool) -> None:
    if asked:
        try:
            version = metadata.version("cohortium")
        except metadata.PackageNotFoundError:
            version = "(not installed)"
        click.echo(f"cohortium {version}")
        ctx.exit()


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version.")
def cohortium() -> None:
    """Statistics over values that nobody may see."""


def main() -> NoReturn:
    """Entry point. Exit status: 0 done, 1 no result, 2 usage, 75 try again, 77 identity refused, 78 configuration."""
    try:
        cohortium.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except CohortiumError as error:
        click.echo(f"cohortium: {error}", err=True)
        sys.exit(error.exit_status)
    sys.exit(0)


if __name__ == "__main__":
    main()
