"""`cohortium pki issue`, `sign` and `renew`: certificates, with or without the key beside them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nodes.commands.pki.options import (
    as_option,
    days_option,
    directory_option,
    dns_option,
    granted_days,
    identity_of,
    ip_option,
    passphrase_of,
    passphrase_option,
    path,
)

if TYPE_CHECKING:
    from cryptography import x509

    from pki.authority import Authority

_request = click.argument("request", metavar="REQUEST", type=path)
_out = click.option("--out", type=path, default=Path(), show_default="here", metavar="OUT", help="Where NAME.crt goes.")
_force = click.option("--force", is_flag=True, help="Replace NAME.crt.")


@click.command()
@click.argument("nodes", metavar="ROLE/NAME...", nargs=-1, required=True)
@dns_option
@ip_option
@days_option
@directory_option
@passphrase_option
@click.option("--out", type=path, default=Path(), show_default="here", help="Where NAME.key and NAME.crt go.")
@click.option("--per-node", is_flag=True, help="Put them into the directory NAME in there.")
@click.option("--force", is_flag=True, help="Replace NAME.key and NAME.crt.")
def issue(
    nodes: tuple[str, ...],
    dns: tuple[str, ...],
    ip: tuple[str, ...],
    days: int | None,
    directory: Path,
    passphrase_file: Path | None,
    out: Path,
    per_node: bool,
    force: bool,
) -> None:
    """Issue a key and certificate for each node, such as hospital/general or patient/alice."""
    from pki.certificate import utc

    granted = granted_days(days, dns, ip)
    authority = _authority(directory, passphrase_file)
    for identity in [identity_of(authority.consortium, node) for node in nodes]:
        place = out / identity.name if per_node else out
        files = authority.issue_node(identity, dns, ip, time.time(), granted, out=place, force=force)
        click.echo(f"{identity} until {utc(files.facts.not_after)}")
        click.echo(f"  {files.key}  keep it secret, readable by the node alone")
        click.echo(f"  {files.certificate}")


@click.command()
@_request
@as_option
@dns_option
@ip_option
@days_option
@directory_option
@passphrase_option
@_out
@_force
def sign(
    request: Path,
    node: str,
    dns: tuple[str, ...],
    ip: tuple[str, ...],
    days: int | None,
    directory: Path,
    passphrase_file: Path | None,
    out: Path,
    force: bool,
) -> None:
    """Sign the REQUEST that a node made with 'cohortium pki request'.

    Names come from these options alone; what the request asks for is not looked at.
    """
    from pki.request import load_request

    granted = granted_days(days, dns, ip)
    data = load_request(request)
    authority = _authority(directory, passphrase_file)
    identity = identity_of(authority.consortium, node)
    place = _place(out, identity.name, force)
    _hand_out(authority.sign(data, identity, dns, ip, time.time(), granted), place, force)


@click.command()
@_request
@as_option
@directory_option
@passphrase_option
@_out
@_force
def renew(request: Path, node: str, directory: Path, passphrase_file: Path | None, out: Path, force: bool) -> None:
    """Sign the REQUEST of a node that has a certificate, with the names and days that it was granted then."""
    from pki.request import load_request

    data = load_request(request)
    authority = _authority(directory, passphrase_file)
    identity = identity_of(authority.consortium, node)
    place = _place(out, identity.name, force)
    _hand_out(authority.renew(data, identity, time.time()), place, force)


def _authority(directory: Path, passphrase_file: Path | None) -> Authority:
    from pki.authority import Authority
    from pki.office import key_path

    return Authority.load(directory, passphrase_of(key_path(directory), passphrase_file))


def _place(out: Path, name: str, force: bool) -> Path:
    """Where the certificate goes, found free before anything is signed."""
    from pki.files import check_free, make_directory

    place = out / f"{name}.crt"
    make_directory(out)
    if not force:
        check_free(place)
    return place


def _hand_out(chain: Sequence[x509.Certificate], place: Path, force: bool) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding

    from pki.certificate import read, utc
    from pki.files import write_certificates
    from pki.request import key_digest
    from pki.show import fingerprint

    write_certificates(place, chain, force=force)
    facts = read(chain[0].public_bytes(Encoding.DER))
    click.echo(f"{facts.uris[0]} until {utc(facts.not_after)}")
    click.echo(f"  key {fingerprint(key_digest(facts.public_key))}")
    click.echo(f"  {place}")
