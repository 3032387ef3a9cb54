"""`cohortium pki token`: one node may come and get one certificate, once and soon."""

from __future__ import annotations

import re
import time
from pathlib import Path

import click

from mpc.errors import UsageError
from nodes.commands.pki.options import days_option, directory_option, dns_option, granted_days, identity_of, ip_option

_TTL = re.compile(r"([1-9][0-9]{0,6})([smhd])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@click.command()
@click.argument("node", metavar="ROLE/NAME")
@click.option("--address", required=True, metavar="URL", help="Where the node enrols: https://HOST:PORT.")
@click.option("--service", required=True, metavar="ROLE/NAME", help="Who answers there: the hospital, or a relay.")
@click.option("--ttl", default="10m", show_default=True, metavar="TIME", help="How long it can be used: 90s, 10m, 2h or 7d.")
@dns_option
@ip_option
@days_option
@directory_option
def token(
    node: str,
    address: str,
    service: str,
    ttl: str,
    dns: tuple[str, ...],
    ip: tuple[str, ...],
    days: int | None,
    directory: Path,
) -> None:
    """Print a token by which ROLE/NAME, and nobody else, gets one certificate.

    Standard output is the token alone. It is a secret until it is used: hand it over as you would a password.
    """
    from pki.certificate import utc
    from pki.office import Office
    from pki.token import short

    seconds = seconds_of(ttl)
    granted = granted_days(days, dns, ip)
    office = Office.load(directory)
    identity, who = (identity_of(office.consortium, text) for text in (node, service))
    now = time.time()
    made = office.grant(identity, dns, ip, now, granted, seconds=seconds, service=who, address=address)
    click.echo(f"token {short(made.digest)} for {identity} at {who}, once, until {utc(int(now) + seconds)}", err=True)
    click.echo(made.encode())


def seconds_of(ttl: str) -> int:
    """How long a token can be used, from "10m". Raises UsageError."""
    from pki.office import MAX_TOKEN_SECONDS

    match = _TTL.fullmatch(ttl)
    seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
    if not 1 <= seconds <= MAX_TOKEN_SECONDS:
        raise UsageError(f"--ttl {ttl}: write a number and s, m, h or d, at most 7d, as in 10m")
    return seconds
