"""Runs `cohortium pki` in this process, for the tests of its commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mpc.errors import CohortiumError
from nodes.commands.pki import pki


def result(*arguments: str | Path) -> Result:
    """What came out, whatever the exit status; an error of ours is raised."""
    return CliRunner().invoke(pki, [str(argument) for argument in arguments], catch_exceptions=False)


def run(*arguments: str | Path) -> str:
    """What a command that succeeds prints to standard output."""
    done = result(*arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def refusal(kind: type[CohortiumError], *arguments: str | Path) -> str:
    """What a command that is refused says."""
    with pytest.raises(kind) as caught:
        run(*arguments)
    return str(caught.value)
