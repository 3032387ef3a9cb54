"""`cohortium enroll`: a new node gets its certificate for a token, and a directory with which it can be started."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpc.errors import ConfigError, UsageError
from nodes.commands.pki.options import passphrase_of, path

if TYPE_CHECKING:
    from nodes.enrolment.kit import Place
    from nodes.enrolment.visit import Granted
    from pki.token import Token

ENVIRONMENT = "COHORTIUM_TOKEN"


@click.command()
@click.argument("token", required=False)
@click.option("--dir", "directory", type=path, required=True, metavar="DIR", help="Where the node will live; made when missing.")
@click.option("--hospital", metavar="NAME[=URL]", help="Of a patient: whose invitations it answers.")
@click.option("--relay", metavar="NAME=URL", help="The relay that it uses.")
@click.option("--patient", "patients", multiple=True, metavar="NAME=URL|relay", help="Of a hospital: who can be asked.")
@click.option("--vouched", multiple=True, metavar="NAME,NAME...", help="Of a patient: members that you know to be real.")
@click.option("--listen", metavar="HOST:PORT", default="", help="Where it listens, if it does.")
@click.option("--proxy", metavar="URL", default="", help="An HTTP proxy on the way out.")
@click.option("--authority", type=path, metavar="DIR", help="The authority itself, for the node that is to serve it.")
@click.option("--passphrase-file", type=path, metavar="FILE", help="Holds the passphrase of the authority's key.")
def enroll(
    token: str | None,
    directory: Path,
    hospital: str | None,
    relay: str | None,
    patients: tuple[str, ...],
    vouched: tuple[str, ...],
    listen: str,
    proxy: str,
    authority: Path | None,
    passphrase_file: Path | None,
) -> None:
    """Get a certificate for TOKEN, and write all that a node needs into DIR.

    The key is made here and stays here. Nothing is said to anybody who does not prove to be whom the token names. If it was
    interrupted, run it again: what is done stays done.

    TOKEN is '-' for standard input; without it, $COHORTIUM_TOKEN is used, or the file 'token' in DIR.
    """
    from nodes.enrolment.arrival import arrive, redeem_here
    from nodes.enrolment.kit import PORTS, Plan
    from nodes.enrolment.visit import visit
    from pki.authority import Authority
    from pki.office import key_path
    from pki.token import Token

    parsed = Token.parse(_token(token, directory))
    if parsed.identity.role not in PORTS:
        raise UsageError(f"{parsed.identity} has no daemon that could be set up; use 'cohortium pki request' and 'sign'")
    _check_listen(listen)
    plan = Plan(
        parsed.identity,
        parsed.root,
        listen=listen,
        hospital=_place("--hospital", hospital, url_needed=False),
        relay=_place("--relay", relay),
        proxy=proxy,
        patients=_patients(patients),
        vouched=tuple(name for names in vouched for name in names.split(",")),
        authority=Path() if authority is None else Path(os.path.relpath(authority, directory)),
    )

    async def fetch(request: bytes) -> Granted:
        if authority is None:
            return await visit(parsed, request, time.time(), proxy or None)
        here = Authority.load(authority, passphrase_of(key_path(authority), passphrase_file))
        return redeem_here(here, parsed, request, time.time())

    written = asyncio.run(arrive(parsed, directory, plan, fetch, time.time()))
    if written:
        click.echo(f"{parsed.identity} has its certificate")
    else:
        click.echo(
            f"{parsed.identity} has its certificate; nothing was missing, and the token was not needed. For another certificate "
            f"move identity.key and identity.crt in {directory} away, and run this again"
        )
    for file in written:
        click.echo(f"  {file}")
    _say_what_is_open(parsed, directory / plan.config_name)


def _token(given: str | None, directory: Path) -> str:
    from nodes.enrolment.kit import TOKEN
    from pki.files import is_there, read_secret

    if given == "-":
        return sys.stdin.read(64 * 1024)
    if given is not None:
        click.echo(
            "cohortium: warning: a token on the command line stands in the process list, readable by everybody on this machine, "
            "and in the shell's history; give '-' and the token on standard input instead",
            err=True,
        )
        return given
    if found := os.environ.get(ENVIRONMENT):
        return found
    if is_there(directory / TOKEN):
        return read_secret(directory / TOKEN).decode(errors="replace")
    raise UsageError(f"there is no token: give '-' and the token on standard input, or ${ENVIRONMENT}, or {directory / TOKEN}")


def _place(option: str, text: str | None, *, url_needed: bool = True) -> Place | None:
    from nodes.enrolment.kit import Place

    if text is None:
        return None
    name, _, url = text.partition("=")
    if not name or (url_needed and not url):
        raise UsageError(f"{option} {text}: write NAME=https://HOST:PORT")
    return Place(name, url)


def _check_listen(listen: str) -> None:
    from nodes.fields import address

    try:
        host, port = address(listen or "any:1")
    except ValueError:
        host, port = "", 0
    if not host or not 0 < port < 2**16:
        raise UsageError(f"--listen {listen}: write HOST:PORT")


def _patients(given: tuple[str, ...]) -> dict[str, str]:
    patients = {}
    for text in given:
        name, _, url = text.partition("=")
        if not name or not url:
            raise UsageError(f"--patient {text}: write NAME=https://HOST:PORT, or NAME=relay")
        patients[name] = url
    return patients


def _say_what_is_open(token: Token, config: Path) -> None:
    """What the daemon would complain of, now that somebody looks."""
    from mpc.identity import Role
    from nodes.config import check_hospital, check_patient, check_relay

    check = {Role.HOSPITAL: check_hospital, Role.PATIENT: check_patient, Role.RELAY: check_relay}[token.identity.role]
    try:
        check(config)
    except ConfigError as error:
        click.echo("still to be said by you:")
        for line in str(error).splitlines():
            click.echo(f"  {line}")
    else:
        click.echo(f"start it with: cohortium {token.identity.role} --config {config}")
