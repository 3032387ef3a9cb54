"""Identity that lasts: nodes enrol by token, every certificate and encryption key is replaced during rounds, one is revoked.

The authority lives at the relay, which all nodes reach. What it issues first, it issues with its clock almost a day behind and
for one day: so the certificates are good for some minutes more, and their renewal is due. That is kept back, by a register that
cannot be opened, until rounds are under way.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.deployment import HOSPITAL, RELAY
from tests.e2e.enrolled import Enrolled
from tests.e2e.harness import ROOT, cohortium, total
from tests.services import free_port

PATIENTS = ("alice", "bob", "charlie")
VALUES = {"alice": 72, "bob": 1_300, "charlie": 40_000, "dora": 500_000}
ROLES = {RELAY: "relay", HOSPITAL: "hospital", **dict.fromkeys(VALUES, "patient")}
LEFT = 300
"""Seconds that the first certificates are still good for."""
ROUNDS = 20

pytestmark = pytest.mark.slow


class House(Enrolled):
    """An authority at the relay, and nodes that come with a token each."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.ca = directory / "ca"
        self.door = free_port()
        self.relay_port = free_port()
        site = directory / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(f"import time\nreal = time.time\ntime.time = lambda: real() - {86_400 - LEFT}\n")
        self.behind = os.pathsep.join([str(site), str(ROOT)])
        """PYTHONPATH of who has a clock that is behind."""

    def do(self, *words: str | Path, **environment: str) -> str:
        done = cohortium(*words, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def enroll(self, name: str, *options: str | Path, **environment: str) -> None:
        """Has a token made for a node, and takes it there."""
        node, clock = f"{ROLES[name]}/{name}", {"PYTHONPATH": self.behind} if name != "dora" else {}
        at = ("--address", f"https://127.0.0.1:{self.door}", "--service", f"relay/{RELAY}")
        names = ("--ip", "127.0.0.1") if ROLES[name] != "patient" else ()
        token = self.do("pki", "token", node, *at, *names, "--days", "1", "--dir", self.ca, **clock)
        said = self.do("enroll", "--dir", self.directory / name, *options, COHORTIUM_TOKEN=token, **environment)
        assert f"start it with: cohortium {ROLES[name]}" in said, said

    def enroll_patient(self, name: str) -> None:
        others = ",".join(other for other in VALUES if other != name)
        self.enroll(name, "--hospital", HOSPITAL, "--vouched", others)
        self.prepare(name, VALUES[name])

    def not_after(self, name: str) -> int:
        return int(self.admin(name).get("/v1/status")["certificate_not_after"])


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """A relay, a hospital and three patients, all of them enrolled by token and started."""
    house = House(tmp_path)
    behind = {"PYTHONPATH": house.behind}
    with house:
        house.do("pki", "init", "--consortium", "demo", "--dir", house.ca, **behind)
        house.enroll(RELAY, "--authority", house.ca, "--listen", f"127.0.0.1:{house.relay_port}", **behind)
        house.prepare(RELAY)
        with monkeypatch.context() as patched:
            patched.setenv("PYTHONPATH", house.behind)
            house.start(RELAY)
        patients = [word for name in VALUES for word in ("--patient", f"{name}=relay")]
        house.enroll(HOSPITAL, "--listen", f"127.0.0.1:{free_port()}", *patients)
        house.prepare(HOSPITAL)
        (house.directory / HOSPITAL / "studies" / "first-sum.yaml").unlink()
        for name in PATIENTS:
            house.enroll_patient(name)
        assert house.stop(RELAY) == 0
        _lock(house)
        house.start(RELAY, HOSPITAL, *PATIENTS)
        yield house


def _lock(house: House) -> None:
    """The authority is there and cannot sign: nothing that is due is renewed."""
    register = house.ca / "register.jsonl"
    register.rename(house.ca / "aside")
    register.mkdir()


def _unlock(house: House) -> None:
    (house.ca / "register.jsonl").rmdir()
    (house.ca / "aside").rename(house.ca / "register.jsonl")


def test_a_consortium_lives_on_while_all_its_keys_and_certificates_change_and_one_member_is_revoked(house: House) -> None:
    nodes = (RELAY, HOSPITAL, *PATIENTS)
    with_keys = (HOSPITAL, *PATIENTS)
    house.write_study("first", members=PATIENTS)
    first_certificates = {name: house.not_after(name) for name in nodes}
    first_keys = {name: set(house.admin(name).get("/v1/status")["encryption_keys"]) for name in with_keys}

    # Twenty rounds, one after the other, without a failed one.
    renewed: set[str] = set()
    finals: list[dict[str, Any]] = []
    while len(finals) < ROUNDS or renewed != set(nodes):
        assert len(finals) < 40 * ROUNDS, f"only {renewed} were renewed"
        if len(finals) == 3:
            house.wait_for_log(HOSPITAL, "renewal-failed")
            _unlock(house)
        opened = house.open("first")
        name = with_keys[len(finals) % len(with_keys)]
        if len(finals) < ROUNDS - len(with_keys):
            house.admin(name).post("/v1/keys/rotate")  # in the middle of the round
        finals.append(house.result(opened))
        assert total(finals[-1]) == 41_372
        renewed |= {name for name in nodes if house.not_after(name) > first_certificates[name]}
    assert {final["attempt"] for final in finals} == {1}
    for name in with_keys:
        states = house.admin(name).get("/v1/status")["encryption_keys"]
        [active] = [key for key, found in states.items() if found["state"] == "active"]
        assert active not in first_keys[name]
    assert total(house.run("first")) == 41_372

    # A fourth comes, charlie goes: the next round is over others, and about a value of its own.
    house.enroll_patient("dora")
    for name in ("alice", "bob", "dora"):
        house.edit(name, lambda config: config["sources"].update(later={"bounds": [0, 100], "literal": 9}))
    house.start("dora")
    for name in ("alice", "bob"):
        house.signal(name, signal.SIGHUP)
        house.wait_for_log(name, "reloaded")
    house.do("pki", "revoke", "patient/charlie", "--reason", "keyCompromise", "--dir", house.ca)
    house.wait_for_log(RELAY, "connection-refused", reason="revoked")
    for name in (HOSPITAL, "alice", "bob", "dora"):
        house.wait_for_log(name, "revocations-taken", revoked=2)  # charlie's certificate, and the one before
    house.write_study("later", members=("alice", "bob", "dora"), variable="later", bounds=(0, 100))
    assert total(house.run("later"), "later") == 27

    # Whoever was there has kept it, and nobody has touched what was kept.
    for name in (RELAY, HOSPITAL, "alice", "bob", "dora"):
        assert "are as they were written" in house.do("audit", "verify", "--config", house.config(name))
    kept = {
        name: {
            json.loads(line)["event"] for line in house.do("audit", "show", "--json", "--config", house.config(name)).splitlines()
        }
        for name in (RELAY, HOSPITAL, "alice")
    }
    assert kept[RELAY] >= {"enrolled", "renewal-granted", "renewed", "revoked"}
    assert kept[HOSPITAL] >= {"released", "renewed", "revoked"}
    assert kept["alice"] >= {"consented", "submitted", "renewed", "revoked"}
