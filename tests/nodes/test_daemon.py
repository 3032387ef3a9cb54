"""The life of a daemon in this process: it starts, says what it does, and leaves nothing behind, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from mpc.errors import CohortiumError, ConfigError, DataError, IdentityError
from mpc.identity import Identity, Role
from mpc.rounds.events import ABORTED, Decided, Ended, Progressed, Submitted
from nodes.admin.client import AdminClient
from nodes.config import EncryptionKeyRules, check_hospital, check_patient
from nodes.fields import address
from nodes.hospital import HospitalDaemon
from nodes.patient import PatientDaemon
from nodes.sources.base import read_study
from nodes.store.base import StoreError
from tests.mpc.nodes import HOSPITAL, ROUND, patient, study
from tests.nodes.house import Site, at_work, eventually, make_site, nothing_left_over, run, short_directory, soon

VALUES = {"alice": 725, "bob": 310, "charlie": 540}


@pytest.fixture
def site() -> Iterator[Site]:
    with short_directory() as directory:
        yield make_site(directory, VALUES)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small keys, and nothing that is meant for a process of its own."""
    monkeypatch.setattr("nodes.keys.DEFAULT_BITS", 2048)
    monkeypatch.setattr("nodes.service._settle", lambda: None)


@pytest.fixture(autouse=True)
async def nothing_is_left_over() -> AsyncIterator[None]:
    async with nothing_left_over():
        yield


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with capture_logs() as entries:
        yield entries


def events(logged: list[Any]) -> list[str]:
    return [str(entry["event"]) for entry in logged]


def alice(site: Site) -> PatientDaemon:
    return PatientDaemon(check_patient(site.patients["alice"]))


def listening(daemon: PatientDaemon) -> tuple[str, int]:
    assert daemon.config.listen is not None
    return address(daemon.config.listen)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_daemon_runs_until_it_is_told_to_stop(number: signal.Signals, site: Site, logged: list[Any]) -> None:
    daemon = alice(site)
    running = asyncio.create_task(run(daemon))
    await eventually(lambda: "ready" in events(logged))
    assert daemon.config.admin.exists()
    os.kill(os.getpid(), number)
    await soon(running)
    assert events(logged) == ["starting", "key-rotated", "ready", "stopping", "stopped"]
    assert {entry["node"] for entry in logged} == {"spiffe://demo/patient/alice"}
    assert not daemon.config.admin.exists()
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(listening(daemon))


async def test_a_peer_that_is_refused_again_and_again_fills_no_log(
    site: Site, logged: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = alice(site)
    now = 1000.0
    monkeypatch.setattr("nodes.log.time.monotonic", lambda: now)
    for _ in range(500):
        daemon._refused("busy")
    daemon._refused("tls")
    now += 2
    daemon._refused("busy")
    lines = [(entry["reason"], entry["left_out"]) for entry in logged if entry["event"] == "connection-refused"]
    assert lines == [("busy", 0), ("tls", 0), ("busy", 499)]
    assert 'cohortium_connections_refused_total{reason="busy"} 501' in daemon.metrics.render()


async def test_a_daemon_that_is_cancelled_stops_in_order(site: Site, logged: list[Any]) -> None:
    daemon = alice(site)
    async with at_work(daemon):
        pass
    assert events(logged)[-1] == "stopped"
    assert not daemon.config.admin.exists()


async def test_a_port_in_use_is_told_and_nothing_is_left(site: Site) -> None:
    daemon = alice(site)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(listening(daemon))
        other.listen()
        with pytest.raises(ConfigError, match=r"cannot listen on 127.0.0.1:\d+: another program uses that port"):
            await soon(run(daemon))
    assert not daemon.config.admin.exists()


async def test_an_admin_socket_that_cannot_be_frees_the_port_again(site: Site) -> None:
    config = msgspec.structs.replace(check_patient(site.patients["alice"]), admin=site.patients["alice"])
    daemon = PatientDaemon(config)
    with pytest.raises(ConfigError, match="is there and is no socket"):
        await soon(run(daemon))
    assert site.patients["alice"].exists()
    async with at_work(alice(site)):
        pass


async def test_the_same_daemon_twice_is_refused_and_the_first_lives_on(site: Site) -> None:
    first = alice(site)
    async with at_work(first):
        with pytest.raises(ConfigError, match=r"alice\.state/store\.db is in use by another daemon"):
            await soon(run(alice(site)))
        async with AdminClient(first.config.admin) as client:
            assert (await client.get("/v1/status"))["identity"] == "spiffe://demo/patient/alice"


async def test_status_says_who_it_is_and_what_it_waits_for(site: Site) -> None:
    daemon = alice(site)
    async with at_work(daemon), AdminClient(daemon.config.admin) as client:
        status = await client.get("/v1/status")
    assert status["identity"] == "spiffe://demo/patient/alice"
    assert status["certificate_not_after"] == daemon.credential.not_after
    assert (status["messages_on_their_way"], status["unreachable"], status["open_rounds"]) == (0, {}, 0)


async def test_who_is_turned_away_is_counted_and_logged(site: Site, logged: list[Any]) -> None:
    daemon = alice(site)
    async with at_work(daemon):
        _, writer = await asyncio.open_connection(*listening(daemon))
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await eventually(lambda: "connection-refused" in events(logged))
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        assert "cohortium_connections_refused_total{" in daemon.metrics.render()


async def test_what_happens_in_a_round_is_logged_in_fixed_words(site: Site, logged: list[Any]) -> None:
    daemon = alice(site)
    for effect in (
        Decided("pressure", HOSPITAL, "the policy says no"),
        Progressed("sharing", ("bob",)),
        Submitted("pressure", bytes(32), (patient("alice"), patient("bob"))),
        Ended(ABORTED, "member-missing", "sharing", ("bob",), "bob went silent while sharing"),
    ):
        daemon.observe(ROUND, effect)
    await daemon.driver.stop(0)
    name = {"round": ROUND.hex(), "node": "spiffe://demo/patient/alice"}
    decided, phase, submitted, ended = logged
    assert decided == name | {
        "event": "invitation-decided",
        "log_level": "info",
        "study": "pressure",
        "hospital": "st-marys",
        "reason": "the policy says no",
    }
    assert phase == name | {"event": "round-phase", "log_level": "debug", "phase": "sharing", "waiting_for": ["bob"]}
    assert submitted == name | {"event": "submitted", "log_level": "info", "study": "pressure", "members": ["alice", "bob"]}
    assert ended == name | {
        "event": "round-ended",
        "log_level": "info",
        "outcome": "aborted",
        "code": "member-missing",
        "phase": "sharing",
        "missing": ["bob"],
        "detail": "bob went silent while sharing",
    }


def with_files(site: Site, **files: Path | tuple[Path, ...]) -> PatientDaemon:
    config = check_patient(site.patients["alice"])
    return PatientDaemon(msgspec.structs.replace(config, identity=msgspec.structs.replace(config.identity, **files)))


async def test_keys_that_cannot_be_used_are_told_before_anything_starts(site: Site, tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="does not exist"):
        with_files(site, key=tmp_path / "missing.key")
    with pytest.raises(IdentityError, match="is not the certificate of the key"):
        with_files(site, key=site.directory / "bob.key")
    with pytest.raises(IdentityError, match=r"it is for spiffe://demo/patient/bob, but this node is configured as .*alice"):
        with_files(site, key=site.directory / "bob.key", certificate=site.directory / "bob.crt")
    readable = tmp_path / "alice.key"
    readable.write_bytes((site.directory / "alice.key").read_bytes())
    readable.chmod(0o644)
    with pytest.raises(IdentityError, match=r"alice\.key"):
        with_files(site, key=readable)


async def test_a_patients_certificate_makes_no_hospital(site: Site) -> None:
    config = check_hospital(site.hospital)
    files = msgspec.structs.replace(config.identity, key=site.directory / "alice.key", certificate=site.directory / "alice.crt")
    with pytest.raises(IdentityError, match="but this node is configured as spiffe://demo/hospital/general"):
        HospitalDaemon(msgspec.structs.replace(config, identity=files))


async def test_a_value_that_a_source_refuses_is_told_without_it(site: Site) -> None:
    with pytest.raises(DataError) as caught:
        read_study(study("alice", "bob", "charlie", length=2), alice(site).sources, 1)
    assert "725" not in str(caught.value)


def test_a_daemon_speaks_only_with_the_roles_of_its_rounds() -> None:
    assert HospitalDaemon.speaks_with == {Role.PATIENT, Role.RELAY}
    assert PatientDaemon.speaks_with == {Role.HOSPITAL, Role.PATIENT, Role.RELAY}


async def test_a_silent_client_does_not_delay_the_stop(site: Site) -> None:
    daemon = alice(site)
    running = asyncio.create_task(run(daemon))
    await eventually(daemon.config.admin.exists)
    _, writer = await asyncio.open_connection(*listening(daemon))
    running.cancel()
    async with asyncio.timeout(3):
        await asyncio.gather(running, return_exceptions=True)
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def test_identities_are_those_of_the_files(site: Site) -> None:
    assert alice(site).identity == Identity("demo", Role.PATIENT, "alice")


async def test_the_admin_socket_rotates_the_encryption_key_and_says_which_ones_there_are(
    site: Site, logged: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodes.daemon._CHORE_SECONDS", 0.01)
    config = check_patient(site.patients["alice"])
    daemon = PatientDaemon(msgspec.structs.replace(config, encryption_keys=EncryptionKeyRules(keep=0)))
    async with at_work(daemon), AdminClient(daemon.config.admin) as admin:
        before = daemon.keys.keyring.encryption.key_id.hex()[:16]
        shown = await admin.post("/v1/keys/rotate")
        after = daemon.keys.keyring.encryption.key_id.hex()[:16]
        assert {key_id: key["state"] for key_id, key in shown.items()} == {before: "expired", after: "active"}
        await eventually(lambda: daemon.keys.status()[before]["state"] == "erased")
        assert (await admin.get("/v1/status"))["encryption_keys"] == daemon.keys.status()
    assert [entry["key_id"] for entry in logged if entry["event"] == "key-rotated"] == [before, after]


async def test_a_rotation_that_cannot_be_kept_is_told_and_changes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = alice(site)
    async with at_work(daemon), AdminClient(daemon.config.admin) as admin:
        before = daemon.keys.keyring

        async def full(_key: object) -> None:
            raise StoreError("disk-full", "the disk is full")

        monkeypatch.setattr(daemon.store, "keep_key", full)
        with pytest.raises(CohortiumError, match="the disk is full"):
            await admin.post("/v1/keys/rotate")
        assert daemon.keys.keyring is before
