"""`cohortium pki`: make an authority, issue certificates, look at them and check them.

The libraries are imported inside the commands, so that `cohortium --help` does not wait for them.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpc.errors import IdentityError, UsageError

if TYPE_CHECKING:
    from mpc.identity import Identity

_DEFAULT_DIRECTORY = Path("ca")
_path = click.Path(path_type=Path)


@click.group()
def pki() -> None:
    """Make an authority, issue certificates, look at them and check them."""


@pki.command()
@click.argument("directory", type=_path, required=False)
@click.option("--dir", "directory_option", type=_path, help="Where the authority lives (default: ca).")
@click.option("--consortium", required=True, metavar="NAME", help="What its certificates are for.")
@click.option("--force", is_flag=True, help="Replace an authority; all that it issued becomes worthless.")
def init(directory: Path | None, directory_option: Path | None, consortium: str, force: bool) -> None:
    """Make a new authority in DIRECTORY."""
    from pki.authority import Authority
    from pki.show import fingerprint

    if directory is not None and directory_option is not None:
        raise UsageError("the directory is given twice; use DIRECTORY or --dir")
    place = directory or directory_option or _DEFAULT_DIRECTORY
    authority = Authority.create(place, consortium, time.time(), force)
    click.echo(f"authority of {authority.consortium} in {authority.directory}")
    click.echo(f"  ca.crt  give a copy to every node  {fingerprint(authority.certificate.digest)}")
    click.echo("  ca.key  keep it secret: whoever has it can be anybody")


@pki.command()
@click.argument("nodes", metavar="ROLE/NAME...", nargs=-1, required=True)
@click.option("--dns", multiple=True, metavar="NAME", help="A host name where the node listens; may be repeated.")
@click.option("--ip", multiple=True, metavar="ADDRESS", help="An address where the node listens; may be repeated.")
@click.option("--days", type=int, help="How long the certificate is valid, 1 to 397 (default: 30).")
@click.option("--dir", "directory", type=_path, default=_DEFAULT_DIRECTORY, show_default=True, help="The authority.")
@click.option("--out", type=_path, default=Path(), show_default="here", help="Where NAME.key and NAME.crt go.")
@click.option("--per-node", is_flag=True, help="Put them into the directory NAME in there.")
@click.option("--force", is_flag=True, help="Replace NAME.key and NAME.crt.")
def issue(
    nodes: tuple[str, ...],
    dns: tuple[str, ...],
    ip: tuple[str, ...],
    days: int | None,
    directory: Path,
    out: Path,
    per_node: bool,
    force: bool,
) -> None:
    """Issue a key and certificate for each node, such as hospital/general or patient/alice."""
    from pki.authority import Authority
    from pki.certificate import utc
    from pki.profile import LEAF_DAYS, MAX_LEAF_DAYS, ListenerNames

    if days is not None and not 1 <= days <= MAX_LEAF_DAYS:
        raise UsageError(f"--days {days}: a certificate is valid for 1 to {MAX_LEAF_DAYS} days")
    try:
        ListenerNames.parse(dns, ip)
    except IdentityError as error:
        raise UsageError(str(error)) from error
    authority = Authority.load(directory)
    for identity in [_identity(authority.consortium, node) for node in nodes]:
        place = out / identity.name if per_node else out
        files = authority.issue_node(identity, dns, ip, time.time(), days or LEAF_DAYS, out=place, force=force)
        click.echo(f"{identity} until {utc(files.facts.not_after)}")
        click.echo(f"  {files.key}  keep it secret, readable by the node alone")
        click.echo(f"  {files.certificate}")


@pki.command()
@click.argument("files", metavar="FILE...", type=_path, nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print one array of objects.")
def show(files: tuple[Path, ...], as_json: bool) -> None:
    """Say what the certificates in FILE... contain, trusted or not."""
    from pki.files import read_certificates
    from pki.show import describe, render

    found = [(path, describe(der)) for path in files for der in read_certificates(path)]
    if as_json:
        click.echo(json.dumps([{"file": str(path), **description} for path, description in found]))
    else:
        click.echo("\n\n".join(f"{path}\n{render(description)}" for path, description in found))


@pki.command()
@click.argument("file", type=_path)
@click.option("--ca", type=_path, required=True, metavar="FILE", help="The roots to trust, usually ca.crt.")
@click.option("--role", metavar="ROLE", help="Also require this role.")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
def verify(file: Path, ca: Path, role: str | None, as_json: bool) -> None:
    """Check that the certificate in FILE is valid now and comes from a trusted authority."""
    from mpc.identity import Role
    from pki.certificate import utc
    from pki.files import read_certificates
    from pki.show import fingerprint
    from pki.trust import TrustStore

    if role is not None and role not in set(Role):
        raise UsageError(f"--role {role}: roles are {', '.join(Role)}")
    trust = TrustStore.load(ca)
    chain = read_certificates(file)
    try:
        credential = trust.verify(chain, time.time())
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


def _identity(consortium: str, node: str) -> Identity:
    from mpc.identity import Identity, Role

    role, _, name = node.partition("/")
    if role not in set(Role) or not name:
        raise UsageError(f"{node!r} is not ROLE/NAME; roles are {', '.join(Role)}, as in patient/alice")
    try:
        return Identity(consortium, Role(role), name)
    except IdentityError as error:
        raise UsageError(str(error)) from error
