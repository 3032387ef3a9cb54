"""`cohortium pki revoke` and `crl`: take certificates back, and tell so in a signed list."""

from __future__ import annotations

import time
from pathlib import Path

import click

from mpc.errors import UsageError
from nodes.commands.pki.options import directory_option, identity_of, passphrase_of, passphrase_option, path

_REASONS = (
    "unspecified",
    "keyCompromise",
    "cACompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
    "privilegeWithdrawn",
)
"""The keys of pki.office.REASONS, known here without loading it."""


@click.command()
@click.argument("what", metavar="SERIAL|ROLE/NAME")
@click.option("--reason", type=click.Choice(_REASONS, case_sensitive=False), default="unspecified", show_default=True)
@directory_option
def revoke(what: str, reason: str, directory: Path) -> None:
    """Take back one certificate, or all that a node has, and its open tokens. There is no way back.

    Needs no passphrase. Nodes hear of it by the next list: 'cohortium pki crl'.
    """
    from pki.office import Office
    from pki.token import short

    office = Office.load(directory)
    now = time.time()
    if "/" in what:
        certificates, tokens = office.revoke_identity(identity_of(office.consortium, what), reason, now)
    else:
        certificates, tokens = [office.revoke(serial_of(what), reason, now)], []
    for issued in certificates:
        click.echo(f"revoked {issued.serial} of {issued.identity}")
    for granted in tokens:
        click.echo(f"withdrawn token {short(granted.token)} for {granted.identity}")
    click.echo("nodes hear of it by the next list: cohortium pki crl")


@click.command()
@click.option("--out", type=path, metavar="FILE", help="Where the list goes (default: ca.crl in DIR).")
@click.option("--days", type=int, help="When the next list is due, 1 to 397 days from now (default: 7).")
@directory_option
@passphrase_option
def crl(out: Path | None, days: int | None, directory: Path, passphrase_file: Path | None) -> None:
    """Sign the next revocation list, PEM; an older one in FILE is replaced."""
    from cryptography.hazmat.primitives.serialization import Encoding

    from pki.authority import Authority
    from pki.certificate import utc
    from pki.files import PUBLIC, write_file
    from pki.office import key_path
    from pki.profile import LIST_DAYS, MAX_LIST_DAYS

    if days is not None and not 1 <= days <= MAX_LIST_DAYS:
        raise UsageError(f"--days {days}: a revocation list is valid for 1 to {MAX_LIST_DAYS} days")
    authority = Authority.load(directory, passphrase_of(key_path(directory), passphrase_file))
    made = authority.revocation_list(time.time(), LIST_DAYS if days is None else days)
    place = out or directory / "ca.crl"
    write_file(place, made.x509.public_bytes(Encoding.PEM), mode=PUBLIC, force=True)
    click.echo(f"list number {made.number}, {len(made.revoked)} revoked, until {utc(made.next_update)}")
    click.echo(f"  {place}")


def serial_of(text: str) -> str:
    """A serial number as tools print it ("0A:1B", "a1b") in the register's form. Raises UsageError."""
    try:
        return f"{int(text.replace(':', ''), 16):x}"
    except ValueError as error:
        raise UsageError(f"{text!r} is neither a serial number (hexadecimal, see 'cohortium pki list') nor ROLE/NAME") from error
