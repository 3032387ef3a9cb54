"""SIGHUP inside the daemon: all is checked before anything changes, what changes changes at once, and open rounds go on."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from mpc.credentials import Credentials
from mpc.errors import ConfigError
from mpc.identity import Identity, Role
from nodes.config import PatientConfig, check_patient
from nodes.daemon import RESTART_KEYS
from nodes.patient import PatientDaemon
from pki.authority import Authority
from pki.trust import TrustStore
from tests.mpc.nodes import CONSORTIUM
from tests.nodes.house import Site, eventually, make_site, short_directory, soon

VALUES = {"alice": 725, "bob": 310, "charlie": 540}


@pytest.fixture
def site() -> Iterator[Site]:
    with short_directory() as directory:
        yield make_site(directory, VALUES)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.keys.DEFAULT_BITS", 2048)
    monkeypatch.setattr("nodes.service._settle", lambda: None)
    monkeypatch.setattr("nodes.service.configure", lambda *_: None)  # the log is captured


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with capture_logs() as entries:
        yield entries


@contextlib.asynccontextmanager
async def alice_at_work(site: Site) -> AsyncIterator[PatientDaemon]:
    path = site.patients["alice"]
    daemon = PatientDaemon(check_patient(path))
    task = asyncio.create_task(daemon.run(lambda: check_patient(path)))
    try:
        await eventually(lambda: not daemon.not_ready() or task.done())
        yield daemon
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def config(site: Site) -> PatientConfig:
    return check_patient(site.patients["alice"])


def renew(site: Site, directory: Path | None = None) -> None:
    """A new key and certificate for alice."""
    authority = Authority.load(directory or site.directory / "ca")
    authority.issue_node(
        Identity(CONSORTIUM, Role.PATIENT, "alice"), (), ("127.0.0.1",), time.time(), out=site.directory, force=True
    )


CHANGED: dict[str, Any] = {
    "consortium": "another",
    "name": "another",
    "listen": "127.0.0.1:1",
    "admin": Path("/another.sock"),
    "health": "another",
    "limits": "others",
    "state": Path("/another"),
    "store": "postgresql://another/db",
    "authority": "another",
    "storage_key": Path("/another.key"),
    "topology": "relay",
    "relay": "another",
    "proxy": "http://127.0.0.1:1",
}


def test_every_key_that_needs_a_restart_has_a_case_here() -> None:
    assert set(RESTART_KEYS) == set(CHANGED) | {"enrolment"}, "which a patient has not"


async def test_what_needs_a_restart_is_refused_by_its_name(site: Site) -> None:
    async with alice_at_work(site) as daemon:
        for key, value in CHANGED.items():
            fresh = msgspec.structs.replace(config(site), **{key: value})
            with pytest.raises(ConfigError, match=rf"^{key}: cannot change while the daemon runs; restart it"):
                daemon._refuse_restart_keys(fresh)


async def test_a_new_policy_holds_from_the_next_invitation_on(site: Site, logged: list[Any]) -> None:
    async with alice_at_work(site) as daemon:
        before = config(site)
        fresh = msgspec.structs.replace(before, policy=msgspec.structs.replace(before.policy, floor=3, max_members=7))
        assert await soon(daemon.reload(lambda: fresh))
        assert daemon.policy.max_members == 7
    assert "reloaded" in [entry["event"] for entry in logged]


async def test_a_refusal_changes_nothing_and_is_told_everywhere(site: Site, logged: list[Any]) -> None:
    def broken() -> PatientConfig:
        raise ConfigError("alice.yaml:3: it is broken")

    async with alice_at_work(site) as daemon:
        policy, keys, credential = daemon.policy, daemon.keys, daemon.credential
        assert not await soon(daemon.reload(broken))
        assert (daemon.policy, daemon.keys, daemon.credential) == (policy, keys, credential)
        told: Any = daemon.status()["last_reload"]
        assert (told["success"], told["reason"]) == (False, "alice.yaml:3: it is broken")
        assert "cohortium_last_reload_success 0\n" in daemon.metrics.render()
        assert not daemon.not_ready(), "the old configuration is good"
    [line] = [entry for entry in logged if entry["event"] == "reload-refused"]
    assert line["reason"] == "alice.yaml:3: it is broken"


async def test_a_later_good_reload_clears_the_refusal(site: Site) -> None:
    def broken() -> PatientConfig:
        raise ConfigError("broken")

    async with alice_at_work(site) as daemon:
        await soon(daemon.reload(broken))
        refused: Any = daemon.status()["last_reload"]
        assert await soon(daemon.reload(lambda: config(site)))
        taken: Any = daemon.status()["last_reload"]
    assert taken["success"]
    assert taken["at"] >= refused["at"]
    assert "reason" not in taken


async def test_a_bug_in_a_reload_costs_the_reload_alone(site: Site, logged: list[Any]) -> None:
    def failing() -> PatientConfig:
        raise ZeroDivisionError("725")

    async with alice_at_work(site) as daemon:
        assert not await soon(daemon.reload(failing))
        assert not daemon.not_ready()
    [line] = [entry for entry in logged if entry["event"] == "reload-refused"]
    assert line["reason"].startswith("ZeroDivisionError at ")
    assert "725" not in line["reason"]


async def test_a_new_certificate_gives_new_keys_to_new_rounds_and_an_old_one_keeps_them(site: Site) -> None:
    async with alice_at_work(site) as daemon:
        before, digest = daemon.keys.keyring, daemon.credential.digest
        assert await soon(daemon.reload(lambda: config(site)))
        assert daemon.keys.keyring is before
        renew(site)
        assert await soon(daemon.reload(lambda: config(site)))
        assert daemon.credential.digest != digest
        after = daemon.keys.keyring
        assert after.certificate_digest == daemon.credential.digest
        assert after.encryption.key_id != before.encryption.key_id
        assert daemon.keys.find(before.encryption.key_id) is before


async def test_a_key_that_belongs_to_another_certificate_changes_nothing(site: Site) -> None:
    async with alice_at_work(site) as daemon:
        digest = daemon.credential.digest
        certificate = (site.directory / "alice.crt").read_bytes()
        renew(site)
        (site.directory / "alice.crt").write_bytes(certificate)
        assert not await soon(daemon.reload(lambda: config(site)))
        assert daemon.credential.digest == digest


async def test_what_is_read_is_read_off_the_event_loop(site: Site) -> None:
    threads: list[str] = []

    def read() -> PatientConfig:
        threads.append(threading.current_thread().name)
        return config(site)

    async with alice_at_work(site) as daemon:
        assert await soon(daemon.reload(read))
    assert threads != [threading.main_thread().name]


async def test_the_new_configuration_is_taken_between_two_transitions(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    async with alice_at_work(site) as daemon:
        use = daemon.use

        def noted(fresh: Any) -> None:
            threads.append(threading.current_thread().name)
            use(fresh)

        monkeypatch.setattr(daemon, "use", noted)
        assert await soon(daemon.reload(lambda: config(site)))
    assert len(threads) == 1
    assert threads[0].startswith("protocol")


async def test_two_reloads_at_once_come_one_after_the_other(site: Site) -> None:
    inside = 0

    def read() -> PatientConfig:
        nonlocal inside
        inside += 1
        assert inside == 1
        time.sleep(0.02)  # in a thread: whoever came in meanwhile would be seen
        inside -= 1
        return config(site)

    async with alice_at_work(site) as daemon:
        assert await soon(asyncio.gather(daemon.reload(read), daemon.reload(read))) == [True, True]


async def test_the_daemon_is_alive_while_its_protocol_thread_answers(site: Site) -> None:
    release = threading.Event()
    async with alice_at_work(site) as daemon:
        assert await daemon.alive(5)
        held = asyncio.create_task(daemon.driver.on_thread(release.wait))
        await asyncio.sleep(0)  # the thread is taken before it is asked
        try:
            assert not await daemon.alive(0.05)
        finally:
            release.set()
        await soon(held)
        assert await daemon.alive(5)


def test_trust_that_is_replaced_keeps_whom_it_still_believes(site: Site, tmp_path: Path) -> None:
    now = time.time()
    other = Authority.create(tmp_path / "other", CONSORTIUM, now)
    other.issue_node(Identity(CONSORTIUM, Role.PATIENT, "dora"), (), ("127.0.0.1",), now, out=tmp_path)
    both = TrustStore.load(site.directory / "ca" / "ca.crt", tmp_path / "other" / "ca.crt")
    credentials = Credentials(both)
    alice, dora = (credentials.learn(chain_of(path), now) for path in (site.directory / "alice.crt", tmp_path / "dora.crt"))
    one = TrustStore.load(site.directory / "ca" / "ca.crt")
    credentials.replace_trust(one, frozenset({alice.authority}))
    assert credentials.find(alice.digest, now) == alice
    assert credentials.find(dora.digest, now) is None


def chain_of(path: Path) -> tuple[bytes, ...]:
    from pki.files import read_certificates

    return read_certificates(path)
