"""What several commands take: the authority's directory and passphrase, a node's name, and what its certificate is to say."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpc.errors import IdentityError, UsageError

if TYPE_CHECKING:
    from mpc.identity import Identity

DIRECTORY = Path("ca")
path = click.Path(path_type=Path)

directory_option = click.option(
    "--dir", "directory", type=path, default=DIRECTORY, show_default=True, metavar="DIR", help="The authority."
)
passphrase_option = click.option(
    "--passphrase-file", type=path, metavar="FILE", help="Holds the passphrase of ca.key; without it the terminal is asked."
)
dns_option = click.option("--dns", multiple=True, metavar="NAME", help="A host name where the node listens; may be repeated.")
ip_option = click.option("--ip", multiple=True, metavar="ADDRESS", help="An address where the node listens; may be repeated.")
days_option = click.option("--days", type=int, help="How long the certificate is valid, 1 to 397 (default: 30).")
as_option = click.option(
    "--as", "node", required=True, metavar="ROLE/NAME", help="Whose request it is, as you have made sure yourself."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def identity_of(consortium: str, node: str) -> Identity:
    """The identity that ROLE/NAME stands for. Raises UsageError."""
    from mpc.identity import Identity, Role

    role, _, name = node.partition("/")
    if role not in set(Role) or not name:
        raise UsageError(f"{node!r} is not ROLE/NAME; roles are {', '.join(Role)}, as in patient/alice")
    try:
        return Identity(consortium, Role(role), name)
    except IdentityError as error:
        raise UsageError(str(error)) from error


def granted_days(days: int | None, dns: Sequence[str], ip: Sequence[str]) -> int:
    """How long a certificate is to be valid, once this and its names are possible. Raises UsageError."""
    from pki.profile import LEAF_DAYS, MAX_LEAF_DAYS, ListenerNames

    if days is not None and not 1 <= days <= MAX_LEAF_DAYS:
        raise UsageError(f"--days {days}: a certificate is valid for 1 to {MAX_LEAF_DAYS} days")
    try:
        ListenerNames.parse(dns, ip)
    except IdentityError as error:
        raise UsageError(str(error)) from error
    return LEAF_DAYS if days is None else days


def passphrase_of(key: Path, file: Path | None, option: str = "--passphrase-file") -> Callable[[], bytes]:
    """What tells the passphrase of the existing `key`, if it turns out to have one: `file`, or else the terminal."""

    def ask() -> bytes:
        from pki.files import read_passphrase

        if file is not None:
            return read_passphrase(file)
        if not sys.stdin.isatty():
            raise IdentityError(f"{key} is protected by a passphrase; give {option} FILE, or use a terminal")
        return str(click.prompt(f"Passphrase of {key}", hide_input=True, err=True)).encode()

    return ask


def new_passphrase(key: Path, file: Path | None, protect: bool) -> bytes | None:
    """The passphrase for the new `key`: of `file`, or of the terminal when `protect` says so, or none."""
    from pki.files import read_passphrase

    if file is not None:
        return read_passphrase(file)
    if not protect:
        return None
    if not sys.stdin.isatty():
        raise UsageError("--protect asks for the passphrase on a terminal, and there is none; give it in a file")
    return str(click.prompt(f"New passphrase for {key}", hide_input=True, confirmation_prompt=True, err=True)).encode()
