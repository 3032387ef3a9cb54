"""Whole rounds through a relay between real processes: no listener at the patients, and everybody may go down and come back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scripts.daemons import Daemons
from scripts.deployment import COHORTIUM, HOSPITAL, RELAY, STUDY, Deployment, Question
from tests.services import until

VALUES = {"alice": 1, "bob": 100, "charlie": 10_000}
SUM = 10_101
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@dataclass
class Ward:
    """A deployment whose daemons run, and a round in it."""

    deployment: Deployment
    daemons: Daemons
    stack: ExitStack

    def start(self, *names: str) -> None:
        for name in names:
            self.daemons.start(name)
        self.daemons.wait_until_ready()

    def kill(self, name: str) -> None:
        """As a power cut would."""
        process = self.daemons.children.pop(name).process
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        self.deployment.socket(name).unlink(missing_ok=True)

    def open(self) -> subprocess.Popen[str]:
        command = [*COHORTIUM, "round", "open", STUDY, "--config", str(self.deployment.hospital_config), "--watch", "--json"]
        opened = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.stack.callback(opened.kill)
        return self.stack.enter_context(opened)

    def status(self, name: str) -> dict[str, Any]:
        command = [*COHORTIUM, "status", "--json", "--socket", str(self.deployment.socket(name))]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def round(self) -> dict[str, Any]:
        command = [*COHORTIUM, "round", "list", "--json", "--config", str(self.deployment.hospital_config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, done.stderr
        rounds = json.loads(done.stdout)
        last: dict[str, Any] = rounds[-1] if rounds else {}
        return last


def released(opened: subprocess.Popen[str]) -> int:
    """The sum that the round ends with."""
    output, errors = opened.communicate(timeout=60)
    final = json.loads(output.strip().splitlines()[-1])
    assert final["outcome"] == "released", (final, errors)
    total: int = final["statistics"]["value"]["sum"]
    return total


MakeWard = Callable[..., Ward]


@pytest.fixture
def make_ward(tmp_path: Path) -> Iterator[MakeWard]:
    with ExitStack() as stack:

        def make(*relayed: str) -> Ward:
            sources = {name: {"literal": value} for name, value in VALUES.items()}
            deployment = Deployment(tmp_path, sources, Question(1_000_000, deadline=50), relayed=frozenset(relayed))
            deployment.write()
            daemons = Daemons(deployment)
            stack.callback(daemons.stop)
            return Ward(deployment, daemons, stack)

        yield make


@pytest.mark.parametrize("relayed", [tuple(VALUES), ("alice", "bob"), ("charlie",)], ids="+".join)
def test_a_round_through_the_relay_gives_the_exact_sum(make_ward: MakeWard, relayed: tuple[str, ...]) -> None:
    ward = make_ward(*relayed)
    ward.start(*ward.deployment.nodes)

    assert released(ward.open()) == SUM
    until(lambda: ward.status(RELAY)["messages_waiting"] == 0, "the mailboxes to be empty")
    status = ward.status(RELAY)
    assert status["identity"] == "spiffe://demo/relay/relay"
    assert status["mailboxes"] == 4
    for name in relayed:
        assert "listen" not in ward.deployment.config(name).read_text()


def test_a_patient_that_was_down_takes_part_when_it_comes(make_ward: MakeWard) -> None:
    """It has been here before, so that its key is known; the Invitation waits for it."""
    ward = make_ward(*VALUES)
    ward.start(*ward.deployment.nodes)
    assert released(ward.open()) == SUM
    ward.kill("bob")
    opened = ward.open()
    until(lambda: ward.round().get("waiting_for") == ["bob"], "everybody else to consent")
    kept = b"".join(file.read_bytes() for file in (ward.deployment.directory / RELAY).rglob("*") if file.is_file())
    assert b"spiffe://demo/patient/bob" in kept
    for word in (b"A private sum", b"demonstration", STUDY.encode()):
        assert word not in kept, "the question waits at the relay, sealed"
    ward.start("bob")

    assert released(opened) == SUM


def test_a_relay_that_dies_in_the_middle_and_comes_back_ends_no_round(make_ward: MakeWard) -> None:
    ward = make_ward(*VALUES)
    ward.start(*ward.deployment.nodes)
    assert released(ward.open()) == SUM
    ward.kill("charlie")
    opened = ward.open()
    until(lambda: ward.round().get("waiting_for") == ["charlie"], "the others to consent")
    ward.kill(RELAY)
    ward.start("charlie")
    until(lambda: b"relay-unreachable" in (ward.deployment.directory / "alice" / "daemon.log").read_bytes(), "alice to notice")
    ward.start(RELAY)

    assert released(opened) == SUM


def test_a_hospital_that_dies_in_the_middle_goes_on_with_the_invitations_that_it_sealed(make_ward: MakeWard) -> None:
    ward = make_ward(*VALUES)
    ward.start(*ward.deployment.nodes)
    assert released(ward.open()) == SUM
    ward.kill("charlie")
    ward.open()
    until(lambda: ward.round().get("waiting_for") == ["charlie"], "the others to consent")
    opened = ward.round()["round"]
    ward.kill(HOSPITAL)
    ward.start(HOSPITAL, "charlie")

    ended = until(lambda: (last := ward.round()).get("outcome") and last, "the round to end")
    assert (ended["round"], ended["outcome"]) == (opened, "released")


def test_the_relay_stops_in_order_and_says_so(make_ward: MakeWard) -> None:
    ward = make_ward(*VALUES)
    ward.start(RELAY, "alice")
    until(lambda: ward.status(RELAY)["fetches_waiting"] == 1, "alice to wait for mail")
    process = ward.daemons.children.pop(RELAY).process
    process.send_signal(signal.SIGTERM)

    assert process.wait(10) == 0
    assert not ward.deployment.socket(RELAY).exists()
    events = [json.loads(line)["event"] for line in (ward.deployment.directory / RELAY / "daemon.log").read_text().splitlines()]
    assert events[-2:] == ["stopping", "stopped"]


def test_a_configuration_is_checked_without_starting(make_ward: MakeWard) -> None:
    ward = make_ward(*VALUES)
    config = ward.deployment.config(RELAY)
    command = [*COHORTIUM, "relay", "--config", str(config), "--check"]
    good = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    config.write_text(config.read_text().replace("listen:", "lisden:"))
    bad = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)

    assert (good.returncode, "spiffe://demo/relay/relay" in good.stdout) == (0, True)
    assert (bad.returncode, "listen" in bad.stderr) == (78, True)


def test_run_all_goes_through_a_relay(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "scripts/run_all.py", "--relay", "--json", "--values", "ann=1,ben=20,cleo=300"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    final = json.loads(done.stdout.splitlines()[-1])
    assert (final["outcome"], final["statistics"]["value"]["sum"]) == ("released", 321)
