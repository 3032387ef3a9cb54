"""Nodes one protocol version apart work together, so that a consortium can be upgraded node by node."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.daemons import Daemons
from scripts.deployment import COHORTIUM, HOSPITAL, STUDY, Deployment, Question

# The same program, one version on: it offers and takes version 2 as well, whose messages read as version 1 does.
NEXT = "import mpc.messages; mpc.messages.NEWEST_VERSION = 2; from nodes.cli import main; main()"


@dataclass
class MixedDeployment(Deployment):
    """Some nodes are upgraded already."""

    upgraded: frozenset[str] = frozenset()

    def command(self, name: str) -> list[str]:
        command = super().command(name)
        return [sys.executable, "-c", NEXT, *command[len(COHORTIUM) :]] if name in self.upgraded else command


@pytest.mark.parametrize(
    "upgraded",
    [{HOSPITAL}, {"alice"}, {HOSPITAL, "alice", "bob"}, {"alice", "bob", "charlie"}, {HOSPITAL, "alice", "bob", "charlie"}],
    ids=lambda upgraded: "+".join(sorted(upgraded)),
)
def test_a_mixed_deployment_gives_the_exact_sum(tmp_path: Path, upgraded: set[str]) -> None:
    values = {"alice": 725, "bob": 310, "charlie": 540}
    sources = {name: {"literal": value} for name, value in values.items()}
    deployment = MixedDeployment(tmp_path, sources, Question(1000, deadline=20), upgraded=frozenset(upgraded))
    deployment.write()
    with Daemons(deployment) as daemons:
        daemons.wait_until_ready()
        command = [*COHORTIUM, "round", "open", STUDY, "--config", str(deployment.hospital_config), "--watch", "--json"]
        opened = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert json.loads(opened.stdout.splitlines()[-1])["statistics"] == {"value": {"sum": 1575}}
