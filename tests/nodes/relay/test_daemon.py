"""The relay's daemon in this process: it lives as every daemon does, and tells what waits, what fails and what is refused."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs
from yarl import URL

from mpc.errors import ConfigError
from mpc.identity import Identity
from nodes.admin.client import AdminClient
from nodes.audit import verify
from nodes.audit_export import check_export
from nodes.config import RelayConfig, check_relay
from nodes.fields import address
from nodes.relay import RESTART_KEYS, RelayDaemon
from nodes.service import COMMON_RESTART_KEYS
from nodes.store.audit import AuditEvent, audit_line
from nodes.store.mail import mail_store
from nodes.transport.client import NodeClient
from nodes.transport.limits import Limits
from nodes.transport.tls import client_context
from pki.authority import Authority
from pki.files import read_certificates
from scripts.ports import free_ports
from tests.mpc.nodes import CONSORTIUM, patient
from tests.nodes.house import Clock, eventually, nothing_left_over, short_directory, soon
from tests.nodes.relay.conftest import ALICE, BOB, CHARLIE, RELAY, RULES, envelope
from tests.nodes.relay.conftest import eventually as becomes
from tests.nodes.transport.certificates import pair_of
from tests.services import metric

ACCEPTED, LATER, REFUSED = b"\0", b"\1", b"\4"
QUOTA = "quota: {recipient_messages: 2}\n"


@dataclass
class Post:
    """A relay's files, and whatever alice does at it."""

    directory: Path
    path: Path

    @property
    def config(self) -> RelayConfig:
        return check_relay(self.path)

    def add(self, text: str) -> None:
        self.path.write_text(self.path.read_text() + text)

    def issue(self, identity: Identity) -> None:
        authority = Authority.load(self.directory / "ca")
        authority.issue_node(identity, (), ("127.0.0.1",), time.time(), out=self.directory, force=True)

    def context(self, name: str) -> ssl.SSLContext:
        roots = read_certificates(self.directory / "ca" / "ca.crt")
        return client_context(pair_of(self.directory / f"{name}.key", self.directory / f"{name}.crt"), roots)

    @asynccontextmanager
    async def alice(self) -> AsyncIterator[Callable[..., Awaitable[tuple[int, bytes]]]]:
        """Posts one envelope, a new one if none is given: (status, body)."""
        client = NodeClient(self.context("alice"), Limits())  # type: ignore[arg-type]
        url = URL(f"https://{self.config.listen}/v1/mail")

        async def read(response: aiohttp.ClientResponse) -> tuple[int, bytes]:
            return response.status, await response.read()

        async def post(to: Identity = BOB) -> tuple[int, bytes]:
            raw = envelope(ALICE, to)
            headers = {"Content-Type": "application/octet-stream"}
            body = [struct.pack(">I", len(raw)) + raw]
            return await client.ask("POST", RELAY, url, read, seconds=5, body=body, headers=headers)

        client.start()
        try:
            yield post
        finally:
            await client.stop()


@pytest.fixture
def post() -> Iterator[Post]:
    """A relay called post with a mailbox for bob, and a patient called alice."""
    with short_directory() as directory:
        Authority.create(directory / "ca", CONSORTIUM, time.time())
        path = directory / "post.yaml"
        path.write_text(
            f"consortium: {CONSORTIUM}\nname: post\n"
            "identity: {key: post.key, certificate: post.crt, authorities: [ca/ca.crt]}\n"
            f'listen: "127.0.0.1:{free_ports(1)[0]}"\nadmin: post.sock\nhealth: {{socket: health.sock}}\nstate: state\n'
        )
        made = Post(directory, path)
        made.issue(RELAY)
        made.issue(ALICE)
        made.add("recipients: [patient/bob]\n")
        yield made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Nothing that is meant for a process of its own; the levels that the log would have been set to."""
    levels: list[str] = []
    monkeypatch.setattr("nodes.service._settle", lambda: None)
    monkeypatch.setattr("nodes.service.configure", lambda level, _format: levels.append(level))
    monkeypatch.setattr("nodes.relay._LOOK_SECONDS", 0.01)
    return levels


@pytest.fixture(autouse=True)
async def nothing_is_left_over() -> AsyncIterator[None]:
    async with nothing_left_over():
        yield


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with capture_logs() as entries:
        yield entries


def lines(logged: list[Any], event: str) -> list[Any]:
    return [entry for entry in logged if entry["event"] == event]


@asynccontextmanager
async def at_work(post: Post) -> AsyncIterator[RelayDaemon]:
    daemon = RelayDaemon(post.config)
    task = asyncio.create_task(daemon.run(lambda: post.config))
    try:
        await eventually(lambda: not daemon.not_ready() or task.done())
        yield daemon
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ask(post: Post, path: str) -> tuple[int, str]:
    """Of the health socket."""
    connector = aiohttp.UnixConnector(str(post.directory / "health.sock"))
    async with (
        asyncio.timeout(5),
        aiohttp.ClientSession("http://relay", connector=connector) as session,
        session.get(path) as response,
    ):
        return response.status, await response.text()


# -- its life


async def test_it_runs_until_it_is_told_to_stop(post: Post, logged: list[Any]) -> None:
    daemon = RelayDaemon(post.config)
    running = asyncio.create_task(daemon.run(lambda: post.config))
    await eventually(lambda: bool(lines(logged, "ready")))
    os.kill(os.getpid(), signal.SIGTERM)
    await soon(running)
    assert [entry["event"] for entry in logged] == ["starting", "ready", "stopping", "stopped"]
    assert logged[0]["version"] == daemon.vitals.version
    assert not (post.directory / "post.sock").exists()


async def test_a_second_signal_forces_it(post: Post, monkeypatch: pytest.MonkeyPatch, logged: list[Any]) -> None:
    exits: list[int] = []
    monkeypatch.setattr("nodes.service.os._exit", exits.append)
    daemon = RelayDaemon(post.config)
    release = asyncio.Event()
    monkeypatch.setattr(daemon.listener, "stop", release.wait)
    running = asyncio.create_task(daemon.run(lambda: post.config))
    await eventually(lambda: bool(lines(logged, "ready")))
    os.kill(os.getpid(), signal.SIGTERM)
    await eventually(lambda: bool(lines(logged, "stopping")))
    os.kill(os.getpid(), signal.SIGTERM)
    await eventually(lambda: exits == [1])
    release.set()
    await soon(running)
    assert lines(logged, "stopped")[0]["forced"] is True
    monkeypatch.undo()
    await daemon.listener.stop()


async def test_its_status_says_version_uptime_last_reload_and_what_waits(post: Post) -> None:
    async with at_work(post) as daemon, post.alice() as send, AdminClient(post.config.admin) as client:
        assert await send() == (200, ACCEPTED)
        await eventually(lambda: daemon.waiting() == 1)
        status = await client.get("/v1/status")
    assert status["identity"] == "spiffe://demo/relay/post"
    assert (status["version"], status["log_level"], status["not_ready"]) == (daemon.vitals.version, "info", [])
    assert status["uptime_seconds"] >= 0
    assert status["last_reload"]["success"] is True
    assert (status["mailboxes"], status["messages_waiting"], status["connections"]) == (2, 1, 1)
    assert status["bytes_waiting"] > 0
    assert status["oldest_message_seconds"] >= 0


async def test_its_level_changes_at_run_time_and_goes_back_with_a_reload(post: Post, quick: list[str]) -> None:
    async with at_work(post) as daemon, AdminClient(post.config.admin) as client:
        assert await client.post("/v1/log", {"level": "debug"}) == {"level": "debug", "before": "info"}
        assert (await client.get("/v1/status"))["log_level"] == "debug"
        assert await soon(daemon.reload(lambda: post.config))
        assert (await client.get("/v1/status"))["log_level"] == "info"
    assert quick == ["debug", "info"]


async def test_guests_who_are_refused_again_and_again_fill_no_log(post: Post, logged: list[Any]) -> None:
    async with at_work(post) as daemon:
        for _ in range(30):
            _, writer = await asyncio.open_connection(*address(post.config.listen))
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await writer.drain()
            writer.close()
        refused = 'cohortium_connections_refused_total{reason="tls"}'
        await eventually(lambda: f"{refused} 30\n" in daemon.metrics.render())
    assert 1 <= len(lines(logged, "connection-refused")) <= 6, "one a second"


# -- reload


async def test_a_reload_takes_recipients_certificate_and_authorities(post: Post, logged: list[Any]) -> None:
    async with at_work(post) as daemon, post.alice() as send:
        assert (await send(CHARLIE))[1] == REFUSED
        before = daemon.credential.digest
        post.issue(RELAY)
        Authority.create(post.directory / "second", CONSORTIUM, time.time())
        post.path.write_text(
            post.path.read_text()
            .replace("[ca/ca.crt]", "[ca/ca.crt, second/ca.crt]")
            .replace("[patient/bob]", "[patient/bob, patient/charlie]")
        )
        assert await soon(daemon.reload(lambda: post.config))
        assert daemon.credential.digest != before
        assert daemon.status()["certificate_not_after"] == daemon.credential.not_after
        async with post.alice() as again:
            assert await again(CHARLIE) == (200, ACCEPTED)
        _, writer = await asyncio.open_connection(
            *address(post.config.listen), ssl=post.context("alice"), server_hostname=RELAY.uri
        )
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        assert shown == read_certificates(post.directory / "post.crt")[0]
        writer.close()
        text = daemon.metrics.render()
    assert metric(text, "cohortium_last_reload_success") == 1
    assert lines(logged, "reloaded")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text + "bogus: 1\n", "bogus: is not a known key"),
        (lambda text: text.replace("post.key", "nowhere.key"), "nowhere.key does not exist"),
        (
            lambda text: text.replace("post.key", "alice.key").replace("post.crt", "alice.crt"),
            "configured as spiffe://demo/relay",
        ),
        (lambda text: text + QUOTA, "quota: cannot change while the daemon runs; restart it"),
        (lambda text: text[:40], ""),
    ],
    ids=["unknown key", "no key", "another's identity", "needs a restart", "half a file"],
)
async def test_a_configuration_that_cannot_be_used_changes_nothing_and_is_told_everywhere(
    post: Post, logged: list[Any], change: Callable[[str], str], reason: str
) -> None:
    async with at_work(post) as daemon, post.alice() as send:
        loaded, good = daemon._loaded, post.path.read_text()
        post.path.write_text(change(good))
        assert not await soon(daemon.reload(lambda: post.config))
        post.path.write_text(good)
        assert daemon._loaded is loaded
        last: Any = daemon.status()["last_reload"]
        assert (last["success"], daemon.not_ready()) == (False, [])
        assert reason in last["reason"]
        assert "cohortium_last_reload_success 0\n" in daemon.metrics.render()
        assert await send() == (200, ACCEPTED)
    [refused] = lines(logged, "reload-refused")
    assert reason in refused["reason"]


async def test_a_store_that_fails_a_reload_leaves_all_as_it_was(post: Post) -> None:
    async with at_work(post) as daemon:
        before = daemon.credential.digest
        post.issue(RELAY)
        await daemon.store.close()
        assert not await soon(daemon.reload(lambda: post.config))
        assert daemon.credential.digest == before


def test_what_needs_a_restart_is_in_its_configuration() -> None:
    assert set(RESTART_KEYS) - set(COMMON_RESTART_KEYS) == {"quota", "max_age_hours"}
    assert set(RESTART_KEYS) <= set(RelayConfig.__struct_fields__)


# -- health


async def test_monitoring_sees_mail_links_certificate_and_reloads(post: Post) -> None:
    async with at_work(post) as daemon, post.alice() as send:
        assert await ask(post, "/healthz") == (200, "ok\n")
        assert await ask(post, "/readyz") == (200, "ready\n")
        await send()
        await send(CHARLIE)
        await eventually(lambda: daemon.waiting() == 1)
        _, text = await ask(post, "/metrics")
    assert metric(text, "cohortium_mailboxes") == 2, "bob's and alice's"
    assert metric(text, "cohortium_mailbox_messages") == 1
    assert metric(text, "cohortium_mailbox_bytes") > 100
    assert 0 <= metric(text, "cohortium_mailbox_oldest_seconds") < 60
    assert metric(text, "cohortium_connections") == 1
    assert metric(text, "cohortium_fetches_waiting") == 0
    assert metric(text, "cohortium_certificate_not_after_timestamp_seconds") == daemon.credential.not_after
    assert metric(text, "cohortium_last_reload_success") == 1
    assert metric(text, "cohortium_last_reload_timestamp_seconds") == daemon.vitals.started
    assert metric(text, 'cohortium_mail_posted_total{outcome="taken"}') == 1
    assert metric(text, 'cohortium_mail_posted_total{outcome="unknown-recipient"}') == 1
    assert "# TYPE cohortium_store_errors_total counter\n" in text
    assert "cohortium_round" not in text, "it has no rounds"


async def test_a_store_that_is_away_is_no_reason_to_restart_the_relay(post: Post, logged: list[Any]) -> None:
    async with at_work(post) as daemon:
        await daemon.store.close()
        await eventually(lambda: bool(daemon.not_ready()))
        assert await ask(post, "/readyz") == (503, "the store fails: closed\n")
        assert await ask(post, "/healthz") == (200, "ok\n")
        await eventually(lambda: metric(daemon.metrics.render(), 'cohortium_store_errors_total{reason="closed"}') > 20)
    assert 1 <= len(lines(logged, "store-failed")) <= 6, "one a second"


async def test_a_certificate_that_ends_is_told(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    async with at_work(post) as daemon:
        monkeypatch.setattr("nodes.service.time", Clock(daemon.credential.not_after + 1))
        assert await ask(post, "/readyz") == (503, "the certificate is not valid now\n")


# -- bad weather


def pragma(daemon: RelayDaemon, statement: str) -> Awaitable[Any]:
    """Tells SQLite, on its own connection."""
    database = daemon.store._database  # type: ignore[attr-defined]
    reading: Awaitable[Any] = database.read(lambda connection: connection.execute(statement).fetchall())
    return reading


@pytest.mark.parametrize(
    ("breaks", "mends", "reason"),
    [
        ("PRAGMA max_page_count = 1", "PRAGMA max_page_count = 1000000", "disk-full"),
        ("PRAGMA query_only = 1", "PRAGMA query_only = 0", "read-only"),
    ],
    ids=["full disk", "read-only"],
)
async def test_a_store_that_cannot_be_written_is_told_and_loses_nothing(
    post: Post, logged: list[Any], breaks: str, mends: str, reason: str
) -> None:
    async with at_work(post) as daemon, post.alice() as send:
        assert await send() == (200, ACCEPTED)
        await pragma(daemon, breaks)
        status = 200
        while status == 200:  # until the pages that it has are full
            status, _ = await soon(send())
        assert status == 503
        assert await ask(post, "/readyz") == (503, f"the store fails: {reason}\n")
        kept = (await daemon.store.depth()).messages
        await eventually(lambda: daemon.waiting() == kept)
        assert daemon.not_ready(), "it can be read, and is still not to be relied on"
        await pragma(daemon, mends)
        assert await send() == (200, ACCEPTED)
        assert await ask(post, "/readyz") == (200, "ready\n")
        assert len(await daemon.store.fetch(BOB, 0, 0, 1 << 20, 0.0)) == kept + 1
        assert metric(daemon.metrics.render(), f'cohortium_store_errors_total{{reason="{reason}"}}') >= 1
    failed = lines(logged, "store-failed")
    assert failed[0]["reason"] == reason
    assert "relay.db" in failed[0]["detail"]


async def test_trouble_that_nobody_meets_again_is_over_after_a_while(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    async with at_work(post) as daemon, post.alice() as send:
        await pragma(daemon, "PRAGMA query_only = 1")
        assert (await send())[0] == 503
        assert daemon.not_ready() == ["the store fails: read-only"]
        monkeypatch.setattr("nodes.relay._TROUBLE_SECONDS", 0.0)
        await eventually(lambda: not daemon.not_ready())


async def test_a_store_that_does_not_answer_is_told(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.relay._ANSWER_SECONDS", 0.02)
    async with at_work(post) as daemon:
        silent = asyncio.Event()
        monkeypatch.setattr(daemon.store, "depth", silent.wait)
        await eventually(lambda: daemon.not_ready() == ["the store fails: timeout"])


async def test_a_damaged_store_is_refused_before_anybody_is_served(post: Post) -> None:
    async with at_work(post):
        pass
    store = post.config.state / "relay.db"
    content = bytearray(store.read_bytes())
    content[8192 : 8192 + 4096] = os.urandom(4096)
    store.write_bytes(content)
    with pytest.raises(ConfigError, match=r"relay\.db"):
        await soon(RelayDaemon(post.config).run(lambda: post.config))
    assert not post.config.admin.exists()


async def test_another_relay_on_the_same_store_is_refused_and_the_first_lives_on(post: Post) -> None:
    async with at_work(post), post.alice() as send:
        with pytest.raises(ConfigError, match=r"relay\.db is in use"):
            await soon(RelayDaemon(post.config).run(lambda: post.config))
        assert await send() == (200, ACCEPTED)


async def test_who_is_over_quota_and_who_has_no_mailbox_is_named_in_the_log(post: Post, logged: list[Any]) -> None:
    post.add(QUOTA)
    async with at_work(post), post.alice() as send:
        assert [await send() for _ in range(4)] == [(200, ACCEPTED), (200, ACCEPTED), (429, LATER), (429, LATER)]
        assert await send(patient("dora")) == (200, REFUSED)
    told = [(line["reason"], line["sender"], line["recipient"], line["left_out"]) for line in lines(logged, "message-refused")]
    assert told[0] == ("recipient-full", "alice", "bob", 0)
    assert told[-1] == ("unknown-recipient", "alice", "dora", 0)


async def test_a_relay_has_an_audit_log_that_outlives_it_verifies_and_is_signed(post: Post) -> None:
    post.add(QUOTA)
    async with at_work(post) as daemon, post.alice() as send:
        for _ in range(4):
            await send()
        assert await soon(daemon.reload(lambda: post.config))
    async with at_work(post), AdminClient(post.config.admin) as admin:
        lines = [line async for line in admin.lines("/v1/audit")]
        said = [(line["event"], line["content"].get("reason")) for line in lines]
        assert said == [("refused", "recipient-full"), ("reloaded", None)]
        assert await admin.get("/v1/audit/verify") == {"verified": True, "erased_to": 0, "last": 2}
        export = post.directory / "export.jsonl"
        export.write_bytes(b"".join([line async for line in admin.raw_lines("/v1/audit/export")]))
    assert check_export(export, certificate=post.directory / "post.crt").node == RELAY


async def test_a_relay_erases_old_lines(post: Post) -> None:
    store = mail_store(post.directory / "state" / "relay.db", RULES)
    await store.open(lambda _: None)
    await store.record([audit_line(time.time() - days * 24 * 3600, AuditEvent.RELOADED) for days in (3, 1)])
    await store.close()
    post.add("keep_days: 2\n")
    async with at_work(post) as daemon:

        async def erased() -> bool:
            return [kept.number for kept in await daemon.store.audit(0, 10, event="erased")] == [3]

        await becomes(erased)
        assert (await verify(daemon.store)).erased_to == 1


@pytest.mark.parametrize("off", [-3600, 3600])
async def test_mail_outlives_a_clock_that_is_an_hour_off(post: Post, monkeypatch: pytest.MonkeyPatch, off: int) -> None:
    async with at_work(post) as daemon, post.alice() as send:
        assert await send() == (200, ACCEPTED)
        wrong = Clock(time.time() + off)
        for module in ("nodes.relay", "nodes.transport.mailroom"):
            monkeypatch.setattr(f"{module}.time", wrong)
        assert await send() == (200, ACCEPTED)
        await daemon.store.expire(wrong.now - 7 * 24 * 3600)
        assert len(await daemon.store.fetch(BOB, 0, 0, 1 << 20, wrong.now - 7 * 24 * 3600)) == 2
        oldest: Any = daemon.status()["oldest_message_seconds"]
        assert oldest >= 0
