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
from tests.services import cohortium, free_port, manager, until

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

    def emptied() -> bool:  # what it says of them is some seconds old
        status = ward.status(RELAY)
        return (status["mailboxes"], status["messages_waiting"]) == (4, 0)

    until(emptied, "the mailboxes to be empty")
    assert ward.status(RELAY)["identity"] == "spiffe://demo/relay/relay"
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


def test_a_round_opened_before_relay_and_patients_have_ever_been_there_waits_for_them(make_ward: MakeWard) -> None:
    ward = make_ward(*VALUES)
    ward.start(HOSPITAL)
    opened = ward.open()
    until(lambda: len(ward.round().get("waiting_for", ())) == 3, "the round to be open")
    ward.start(RELAY, "alice")
    until(lambda: ward.round()["waiting_for"] == ["bob", "charlie"], "alice to be invited and to consent")
    ward.start("bob", "charlie")

    assert released(opened) == SUM


def test_a_hospital_that_dies_while_it_asks_for_keys_asks_on(make_ward: MakeWard) -> None:
    ward = make_ward(*VALUES)
    ward.start(HOSPITAL, RELAY, "alice")
    ward.open()
    until(lambda: ward.round().get("waiting_for") == ["bob", "charlie"], "alice to be invited and to consent")
    opened = ward.round()["round"]
    ward.kill(HOSPITAL)
    ward.start(HOSPITAL, "bob", "charlie")

    ended = until(lambda: (last := ward.round())["outcome"] != "open" and last, "the round to end")
    assert (ended["round"], ended["outcome"]) == (opened, "released")


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

    ended = until(lambda: (last := ward.round())["outcome"] != "open" and last, "the round to end")
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


def test_the_relay_is_a_service_as_every_daemon_is(make_ward: MakeWard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ward = make_ward(*VALUES)
    config = ward.deployment.config(RELAY)
    address = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")  # said at once, then every 30 s
    with manager(address) as systemd:
        ward.start(RELAY)
        systemd.hear("READY=1")
        systemd.hear("WATCHDOG=1")
        good = config.read_text()
        config.write_text(good + "quota: {sender_messages: 1}\n")
        process = ward.daemons.children[RELAY].process
        process.send_signal(signal.SIGHUP)
        assert systemd.hear("RELOADING=1")[1].startswith("MONOTONIC_USEC=")
        assert "refused" in "".join(systemd.hear("READY=1"))
        shown = cohortium("status", "--config", config).stdout
        assert "\nversion: " in shown
        assert "\nuptime seconds: 0:00:" in shown
        assert "\n  reason: quota: cannot change while the daemon runs" in shown
        assert cohortium("log", "error", "--config", config).stdout == "logs error and worse; before: info\n"
        config.write_text(good)
        process.send_signal(signal.SIGHUP)
        until(lambda: ward.status(RELAY)["last_reload"]["success"], "the reload")
        assert ward.status(RELAY)["log_level"] == "info"
        process.send_signal(signal.SIGTERM)
        systemd.hear("STOPPING=1")
        assert ward.daemons.children.pop(RELAY).process.wait(10) == 0


def test_a_relay_whose_database_is_away_is_to_be_tried_again(make_ward: MakeWard) -> None:
    pytest.importorskip("asyncpg", reason="without asyncpg no PostgreSQL store is asked for")
    config = make_ward(*VALUES).deployment.config(RELAY)
    config.write_text(config.read_text() + f"store: postgresql://nobody:hunter2@127.0.0.1:{free_port()}/nowhere\n")
    done = cohortium("relay", "--config", config)
    assert done.returncode == 75
    assert "hunter2" not in done.stderr


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
