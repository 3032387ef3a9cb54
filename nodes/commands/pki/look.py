"""`cohortium pki list`, `show` and `verify`: what was issued, what a file says, and whether to believe it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpc.errors import IdentityError, UsageError
from nodes.commands.pki.options import directory_option, identity_of, json_option, path
from nodes.commands.pki.revoke import serial_of

if TYPE_CHECKING:
    from pki.register import Issued, Records


@click.command("list")
@directory_option
@click.option("--all", "everything", is_flag=True, help="Also what has expired.")
@json_option
def list_all(directory: Path, everything: bool, as_json: bool) -> None:
    """List what the authority has issued, oldest first, and the tokens that are still open."""
    from pki.certificate import utc
    from pki.office import Office
    from pki.token import short

    office = Office.load(directory)
    records, now = office.register.read(), time.time()
    certificates = [_line(records, entry, now) for entry in records.issued.values() if everything or entry.not_after >= now]
    tokens = [
        {"token": short(entry.token), "identity": entry.identity, "expires": utc(entry.expires)}
        for entry in records.open_tokens(now)
    ]
    for number in records.torn:
        click.echo(
            f"cohortium: {office.register.path}, line {number}, was cut off by a crash; nothing was handed out for it", err=True
        )
    if as_json:
        click.echo(json.dumps({"certificates": certificates, "tokens": tokens}))
        return
    for line in certificates:
        click.echo(f"{line['serial']:>40}  {line['not_after']}  {line['state']:<8} {line['identity']} {line['reason']}".rstrip())
    for line in tokens:
        click.echo(f"{'token ' + line['token']:>40}  {line['expires']}  open     {line['identity']}")


@click.command()
@click.argument("what", metavar="FILE...", nargs=-1, required=True)
@click.option("--dir", "directory", type=path, metavar="DIR", help="An authority: show SERIAL or ROLE/NAME of its register.")
@json_option
def show(what: tuple[str, ...], directory: Path | None, as_json: bool) -> None:
    """Say what the certificates and revocation lists in FILE... contain, trusted or not."""
    from pki.show import render

    described = [found for name in what for found in (_in_file(Path(name)) if directory is None else _issued(name, directory))]
    if as_json:
        click.echo(json.dumps(described))
    else:
        click.echo("\n\n".join(f"{found.pop('file')}\n{render(found)}" for found in described))


@click.command()
@click.argument("file", type=path)
@click.option("--ca", type=path, required=True, metavar="FILE", help="The roots to trust, usually ca.crt.")
@click.option("--crl", "lists", type=path, multiple=True, metavar="FILE", help="A revocation list to obey; may be repeated.")
@click.option("--role", metavar="ROLE", help="Also require this role.")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
def verify(file: Path, ca: Path, lists: tuple[Path, ...], role: str | None, as_json: bool) -> None:
    """Check that the certificate in FILE is valid now and comes from a trusted authority."""
    from mpc.identity import Role
    from pki.certificate import utc
    from pki.files import read_certificates
    from pki.revocation import RevocationList
    from pki.show import fingerprint
    from pki.trust import TrustStore

    if role is not None and role not in set(Role):
        raise UsageError(f"--role {role}: roles are {', '.join(Role)}")
    now = time.time()
    trust = TrustStore.load(ca)
    chain = read_certificates(file)
    try:
        for revocations in map(RevocationList.load, lists):
            trust = trust.with_list(revocations, now, chain[1:])
        credential = trust.verify(chain, now)
        if lists and trust.lists_for(chain)[0] is None:
            raise IdentityError("no list that is given is of the authority that issued it; give that one's, too")
        if role is not None and credential.identity.role != role:
            raise IdentityError(f"it is for {credential.identity}, which is not a {role}")
    except IdentityError as error:
        if as_json:
            click.echo(json.dumps({"valid": False, "detail": str(error)}))
        raise IdentityError(f"{file}: {error}") from error
    if as_json:
        answer = {
            "valid": True,
            "identity": credential.identity.uri,
            "role": str(credential.identity.role),
            "not_after": utc(credential.not_after),
            "fingerprint": fingerprint(credential.digest),
            "authority": fingerprint(credential.authority),
        }
        click.echo(json.dumps(answer))
    else:
        click.echo(f"{file}: {credential.identity} is trusted until {utc(credential.not_after)}")


def _line(records: Records, entry: Issued, now: float) -> dict[str, str]:
    from pki.certificate import utc

    revoked = records.revoked.get(entry.serial)
    return {
        "serial": entry.serial,
        "identity": entry.identity,
        "not_after": utc(entry.not_after),
        "state": "revoked" if revoked else "expired" if entry.not_after < now else "valid",
        "reason": f"{utc(revoked.at)} {revoked.reason}" if revoked else "",
    }


def _in_file(file: Path) -> list[dict[str, object]]:
    from pki.files import read_certificates, read_public
    from pki.revocation import MAX_LIST_BYTES, RevocationList
    from pki.show import describe, describe_list

    if read_public(file, MAX_LIST_BYTES).lstrip().startswith(b"-----BEGIN X509 CRL-----"):
        return [{"file": str(file), **describe_list(RevocationList.load(file))}]
    return [{"file": str(file), **describe(der)} for der in read_certificates(file)]


def _issued(what: str, directory: Path) -> list[dict[str, object]]:
    """The certificate with this serial number, or all of this ROLE/NAME."""
    from pki.office import Office
    from pki.show import describe

    office = Office.load(directory)
    issued = office.register.read().issued
    if "/" in what:
        uri = identity_of(office.consortium, what).uri
        found = [entry for entry in issued.values() if entry.identity == uri]
    else:
        found = [issued[serial] for serial in [serial_of(what)] if serial in issued]
    if not found:
        raise IdentityError(f"nothing was issued to {what} in {directory}; look with 'cohortium pki list'")
    return [{"file": str(office.register.path), **describe(entry.certificate)} for entry in found]
