"""`cohortium pki`: who is who. One file for each kind of work: make, issue, revoke and invite at the authority; node; look.

The libraries are imported inside the commands, so that `cohortium --help` does not wait for them.
"""

from __future__ import annotations

import click

from nodes.commands.pki.invite import token
from nodes.commands.pki.issue import issue, renew, sign
from nodes.commands.pki.look import list_all, show, verify
from nodes.commands.pki.make import init
from nodes.commands.pki.node import needs_renewal, request
from nodes.commands.pki.revoke import crl, revoke


@click.group()
def pki() -> None:
    """Make an authority; issue, renew, revoke and check certificates."""


for _command in (init, issue, request, sign, renew, needs_renewal, revoke, crl, token, list_all, show, verify):
    pki.add_command(_command)
