"""Mutated requests: to a node's inbox and a relay's mailroom behind their guard, and JSON to the admin socket.

A request is answered with a status that says what was wrong with it, or its connection is closed; none is our fault.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from mpc.credentials import Credentials
from mpc.errors import Answer
from mpc.identity import Identity, Role
from mpc.mailbox import Quota, Rules
from nodes.config import check_hospital
from nodes.hospital import HospitalDaemon
from nodes.store.mail_sqlite import SqliteMail
from nodes.transport.batch import pack_posted
from nodes.transport.guard import Guard, Handler, proved_peer
from nodes.transport.inbox import Inbox
from nodes.transport.limits import Limits
from nodes.transport.mailroom import Mailroom
from tests.fuzz.mutate import change_bytes, mutated
from tests.fuzz.run import STALL_SECONDS
from tests.fuzz.targets import envelopes, split_envelope, split_posted
from tests.fuzz.test_parsers import SEED, SOAK
from tests.mpc.nodes import CONSORTIUM, HOSPITAL, patient, trust
from tests.services import write_deployment

INBOX, MAILROOM, ADMIN = 1000, 250, 400
"""Requests in `make test`."""
LIMITS = Limits(message_bytes=1 << 20)
ALICE = patient("alice")


class Pipe(asyncio.Transport):
    """The other end of a guarded connection, as TLS would give it: what the server writes, and whether it has hung up."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": ("192.0.2.1", 4711), "ssl_object": SimpleNamespace(peer=ALICE)})
        self.protocol = protocol
        self.written = b""
        self._closing = False

    def is_closing(self) -> bool:
        return self._closing

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.written += data

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close

    def pause_reading(self) -> None:
        """Nothing more comes by itself."""

    resume_reading = pause_reading

    def get_write_buffer_size(self) -> int:
        return 0


class Door:
    """A guard and what it says to one request after the other, each on a connection of its own."""

    def __init__(self, handler: Handler[Identity], refused: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused = refused
        self._handler = handler
        self._at_work = 0
        context: Any = SimpleNamespace()
        self._guard = Guard(self._handle, context, LIMITS, lambda slug: refused.update([slug]), proved_peer)
        monkeypatch.setattr(asyncio.get_running_loop(), "start_tls", self._start_tls)

    async def _start_tls(self, raw: Pipe, *_arguments: object, **_options: object) -> Pipe:
        return raw

    async def _handle(self, request: web.BaseRequest, peer: Identity) -> web.StreamResponse:
        self._at_work += 1
        try:
            return await self._handler(request, peer)
        finally:
            self._at_work -= 1

    async def say(self, request: bytes) -> tuple[list[int], float]:
        """(statuses of the answers, processor seconds) for these bytes."""
        waiting = self._at_work  # fetches that wait for mail do so when nobody is there any more, too
        protocol = self._guard.protocol()
        assert isinstance(protocol, asyncio.Protocol)
        pipe = Pipe(protocol)
        protocol.connection_made(pipe)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        began = time.process_time()
        protocol.data_received(request)
        for _ in range(8):
            await asyncio.sleep(0)
        spent = time.process_time() - began
        for _ in range(20):  # the store's thread may have to answer first; or the body is not all here, and never will be
            if self._at_work <= waiting:
                break
            await asyncio.sleep(0.0005)
        pipe.abort()
        for _ in range(10_000):
            if not self._guard.count_connections():
                break
            await asyncio.sleep(0)
        else:
            raise AssertionError(f"the connection does not end after {request.hex()[:8192]}")
        return [int(status) for status in re.findall(rb"HTTP/1\.[01] ([0-9]{3}) ", pipe.written)], spent


def post(path: str, body: bytes, method: str = "POST") -> bytes:
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: node\r\nContent-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


_LINES = (
    b"Content-Length: 0",
    b"Content-Length: -1",
    b"Content-Length: +5",
    b"Content-Length: 99999999999999999999",
    b"Content-Length: 1048577",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip",
    b"Content-Encoding: deflate",
    b"Content-Type: text/plain",
    b"Connection: close, upgrade",
    b"Upgrade: websocket",
    b"Expect: 100-continue",
    b"X: " + b"x" * 3000,
    b" folded",
    b"Bad Name: x",
    b": nothing",
    b"\x00: \xff",
)


def change_request(random: Random, request: bytes) -> bytes:
    """A request with other lines in its head, other bytes anywhere, or another one after it."""
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    match random.randrange(6):
        case 0:
            lines.insert(random.randrange(1, len(lines) + 1), random.choice(_LINES))
        case 1:
            lines[random.randrange(1, len(lines))] = random.choice(_LINES)
        case 2:
            del lines[random.randrange(len(lines))]
        case 3:
            place = random.randrange(len(lines))
            lines[place] = change_bytes(random, lines[place])
        case 4:
            return change_bytes(random, request, request)
        case _:
            return request + request
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def storm(door: Door, make: Callable[[Random], bytes], count: int, good: frozenset[int]) -> None:
    """Says `count` requests; every answer has a `good` status, and none takes long."""
    random = Random(f"{count} {SEED}")
    seen: Counter[int] = Counter()
    for _ in range(count):
        request = make(random)
        statuses, spent = await door.say(request)
        if spent > STALL_SECONDS:
            spent = min([(await door.say(request))[1] for _ in range(5)])
        assert spent <= STALL_SECONDS, f"{spent:.3f} s for {request.hex()[:8192]} (seed {SEED})"
        assert set(statuses) <= good, f"{statuses} for {request.hex()[:8192]} (seed {SEED})"
        seen.update(statuses)
    assert not door.refused["failed"]
    assert len(seen) > 3, f"the requests were too much alike: {seen}"


_HTTP = frozenset({400, 403, 404, 405, 408, 411, 413, 414, 415, 417, 429, 431, 501, 505})


@asynccontextmanager
async def inbox(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Door]:
    words = iter(list(Answer) * 1000)
    refused: Counter[str] = Counter()

    async def receive(raw: bytes, peer: Identity) -> Answer:
        assert peer == ALICE
        assert len(raw) <= LIMITS.message_bytes
        return next(words, Answer.ACCEPTED)

    yield Door(Inbox(receive, frozenset(Role), LIMITS, lambda slug: refused.update([slug])).handle, refused, monkeypatch)


@asynccontextmanager
async def mailroom(monkeypatch: pytest.MonkeyPatch, directory: Path) -> AsyncIterator[Door]:
    rules = Rules(Quota(1000, 1 << 24), Quota(1000, 1 << 24), 3600.0, LIMITS.message_bytes)
    refused: Counter[str] = Counter()
    store = SqliteMail(directory / "relay.db", rules)
    count = refused.update
    room = Mailroom(
        Identity(CONSORTIUM, Role.RELAY, "post"),
        store,
        Credentials(trust()),
        rules,
        LIMITS,
        count=lambda slug: count([slug]),
        posted=lambda _outcome, _sender, _recipient: None,
        store_failed=lambda _: None,
    )
    await store.open(room.arrived)
    await store.open_boxes([HOSPITAL, ALICE])
    try:
        yield Door(room.handle, refused, monkeypatch)
    finally:
        room.stop()
        await store.close()


def inbox_request(random: Random) -> bytes:
    request = post("/v1/inbox", mutated(random, envelopes(), split_envelope))
    return change_request(random, request) if random.random() < 0.8 else request


def mail_request(random: Random) -> bytes:
    raws = envelopes()
    number = random.choice((0, 1, 2, 7, 2**63 - 1, 2**63, 10**19))
    match random.randrange(5):
        case 0:
            batch = b"".join(pack_posted(random.sample(raws, 3)))
            request = post("/v1/mail", mutated(random, [batch], split_posted))
        case 1:
            name = random.choice(("finished", "after", "limit", "wait", "%66inished", "x"))
            request = post(f"/v1/mail?{name}={number}&{name}=1", b"", "GET")
        case 2:
            request = post("/v1/key", mutated(random, raws), "PUT")
        case 3:
            request = post(
                f"/v1/key/{random.choice(('patient', 'relay', ''))}/{random.choice(('bob', '..', '%00', 'B'))}", b"", "GET"
            )
        case _:
            request = post("/v1/mail", b"".join(pack_posted(random.sample(raws, 2))))
    return change_request(random, request) if random.random() < 0.6 else request


async def _inbox_storm(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    async with inbox(monkeypatch) as door:
        await storm(door, inbox_request, count, _HTTP | {202, 409, 410, 422, 503})
        assert await door.say(post("/v1/inbox", b"x")) is not None


async def _mail_storm(monkeypatch: pytest.MonkeyPatch, directory: Path, count: int) -> None:
    async with mailroom(monkeypatch, directory) as door:
        await storm(door, mail_request, count, _HTTP | {200, 204, 409})


@pytest.mark.slow
async def test_an_inbox_stands_mutated_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    await _inbox_storm(monkeypatch, INBOX)


@pytest.mark.soak
async def test_an_inbox_stands_far_more_mutated_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    await _inbox_storm(monkeypatch, SOAK * INBOX)


@pytest.mark.slow
async def test_a_mailroom_stands_mutated_requests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    await _mail_storm(monkeypatch, tmp_path, MAILROOM)


@pytest.mark.soak
async def test_a_mailroom_stands_far_more_mutated_requests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    await _mail_storm(monkeypatch, tmp_path, SOAK * MAILROOM)


# -- the admin socket


_ASKED: list[object] = [
    {"study": "nothing"},
    {"level": "debug"},
    {"study": "x" * 100},
    [],
    {"level": ["info"]},
    {"study": {"id": 1}},
]
_BODIES = [json.dumps(asked).encode() for asked in _ASKED]
_PATHS = ("/v1/rounds", "/v1/log", "/v1/rounds/{}/cancel", "/v1/rounds/{}", "/v1/rounds/{}/watch")


async def _admin_storm(directory: Path, count: int) -> None:
    daemon = HospitalDaemon(check_hospital(write_deployment(directory).hospital_config))
    await daemon.admin.start()
    random = Random(SEED)
    statuses: Counter[int] = Counter()
    connector = aiohttp.UnixConnector(str(daemon.config.admin))
    try:
        async with aiohttp.ClientSession("http://daemon", connector=connector) as session:

            async def ask(method: str, path: str, body: bytes) -> float:
                began = time.process_time()
                async with session.request(method, path, data=body, headers={"Content-Type": "application/json"}) as answer:
                    await answer.read()
                    assert answer.status < 500, f"{answer.status} for {method} {path} {body.hex()} (seed {SEED})"
                    statuses[answer.status] += 1
                return time.process_time() - began

            for _ in range(count):
                path = random.choice(_PATHS).format(random.choice(("00", "zz", "%2e%2e", "%00", "é", "0" * 200)))
                case: tuple[str, str, bytes] = random.choice(("POST", "POST", "GET")), path, mutated(random, _BODIES)
                if await ask(*case) > STALL_SECONDS:
                    assert min([await ask(*case) for _ in range(5)]) <= STALL_SECONDS, f"{case} (seed {SEED})"
    finally:
        await daemon.admin.stop()
    assert statuses[422] > count / 4


@pytest.mark.slow
async def test_an_admin_socket_stands_mutated_json(tmp_path_factory: pytest.TempPathFactory) -> None:
    await _admin_storm(tmp_path_factory.mktemp("a"), ADMIN)


@pytest.mark.soak
async def test_an_admin_socket_stands_far_more_mutated_json(tmp_path_factory: pytest.TempPathFactory) -> None:
    await _admin_storm(tmp_path_factory.mktemp("a"), SOAK * ADMIN)
