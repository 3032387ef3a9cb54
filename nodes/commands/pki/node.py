"""`cohortium pki request` and `needs-renewal`: what is run where the node is."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from mpc.errors import IdentityError
from nodes.commands.pki.options import identity_of, path


@click.command()
@click.argument("node", metavar="ROLE/NAME")
@click.option("--out", type=path, default=Path(), show_default="here", help="Where NAME.key and NAME.csr go.")
@click.option("--force", is_flag=True, help="Replace NAME.key and NAME.csr.")
def request(node: str, out: Path, force: bool) -> None:
    """Make a key, and the request that an authority signs; the key stays here."""
    from pki.request import request_node
    from pki.show import fingerprint

    name = identity_of("any", node).name  # which consortium is for the authority to say
    files = request_node(name, out, force=force)
    click.echo(f"  {files.key}  keep it secret, readable by the node alone")
    click.echo(f"  {files.request}  send it to the authority")
    click.echo(f"  key {fingerprint(files.digest)}  the authority must see the same")


@click.command("needs-renewal")
@click.argument("file", metavar="CERTIFICATE", type=path)
def needs_renewal(file: Path) -> None:
    """Say whether two thirds of a certificate's life are over.

    Exit status: 0 it should be renewed, 1 not yet, 2 it cannot be used at all.
    """
    from pki.certificate import read, utc
    from pki.files import read_certificates
    from pki.profile import renewal_time
    from pki.trust import check_leaf

    now = time.time()
    try:
        facts = read(read_certificates(file)[0])
        if not facts.authority:
            check_leaf(facts.der)
        if now < facts.not_before:
            raise IdentityError(f"it is not valid before {utc(facts.not_before)}; check the clock")
    except IdentityError as error:
        click.echo(f"cohortium: {file}: {error}", err=True)
        sys.exit(2)
    if now > facts.not_after:
        click.echo(f"{file}: has expired on {utc(facts.not_after)}")
    elif now >= renewal_time(facts):
        click.echo(f"{file}: renew it before {utc(facts.not_after)}")
    else:
        click.echo(f"{file}: not before {utc(renewal_time(facts))}")
        sys.exit(1)
