"""`cohortium fhe`: encrypted models for people. One file for each kind of work: make, look, ask; key sets.

The libraries are imported inside the commands, so that `cohortium --help` does not wait for them.
"""

from __future__ import annotations

import click

from nodes.commands.fhe.ask import decrypt, encrypt, infer, keygen
from nodes.commands.fhe.convert import convert
from nodes.commands.fhe.keys import keys
from nodes.commands.fhe.look import inspect
from nodes.commands.fhe.train import train


@click.group()
def fhe() -> None:
    """Train, convert and use models that compute on encrypted numbers."""


for _command in (train, convert, inspect, keygen, encrypt, infer, decrypt, keys):
    fhe.add_command(_command)
