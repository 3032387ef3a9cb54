"""A relay on a free port, nodes that use it, and letters for them."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from mpc.credentials import Credentials
from mpc.envelope import Place, Recipient, parse, seal
from mpc.errors import Answer
from mpc.identity import Identity, Role
from mpc.keys import RoundKey, check_statement
from mpc.mailbox import Letter, Quota, Rules
from mpc.messages import Kind
from nodes.log import logger
from nodes.store.mail import MailStore, mail_store
from nodes.transport.client import NodeClient
from nodes.transport.guard import proved_peer
from nodes.transport.limits import Limits
from nodes.transport.listener import Listener
from nodes.transport.mail import RelayedTransport
from nodes.transport.mailroom import Mailroom
from nodes.transport.tls import client_context, server_context
from pki.trust import TrustStore
from scripts.postgres import Cluster, NotInstalled, running_cluster
from tests.mpc.nodes import CONSORTIUM, NOW, ROUND, credential, keyring, patient
from tests.nodes.transport.certificates import Authority, Files

ALICE, BOB, CHARLIE = patient("alice"), patient("bob"), patient("charlie")
RELAY = Identity(CONSORTIUM, Role.RELAY, "post")
AMPLE = Quota(100_000, 1 << 30)
RULES = Rules(AMPLE, AMPLE, 3600.0, 1 << 20)
_numbers = itertools.count()


def envelope(sender: Identity = ALICE, to: Identity = BOB, payload: bytes = b"payload") -> bytes:
    """Sealed in earnest, each one different."""
    key = check_statement(keyring(to).encryption.statement, credential(to), NOW)
    raw, _ = seal(
        Kind.SHARE,
        payload,
        Place(ROUND, bytes(32)),
        keyring=keyring(sender),
        round_key=RoundKey(os.urandom),
        recipient=Recipient(to, key, RoundKey(os.urandom).public),
        secret=os.urandom(32),
    )
    return raw


def letter(sender: Identity = ALICE, to: Identity = BOB, payload: bytes = b"payload") -> Letter:
    raw = envelope(sender, to, payload)
    return Letter(sender, to, parse(raw, 1 << 20).digest, raw)


async def eventually(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Waits for what other tasks bring about."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 10
    while not (await met if isinstance(met := condition(), Awaitable) else met):
        assert loop.time() < deadline, "the condition did not come about"
        await asyncio.sleep(0.002)


@dataclass
class Station:
    """A relay: its store, its room, its door."""

    store: MailStore
    room: Mailroom
    listener: Listener[Identity]
    refused: Counter[str] = field(default_factory=Counter)
    posted: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    running: bool = False

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.listener.port}"

    async def start(self) -> None:
        await self.store.open(self.room.arrived)
        await self.listener.start(self.room.handle)
        self.running = True

    async def stop(self) -> None:
        if self.running:
            self.running = False
            self.room.stop()
            await self.listener.stop()
            await self.store.close()


@dataclass
class Client:
    """Asks the relay as one node, in any way that a test likes."""

    node: Identity
    station: Station
    client: NodeClient

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        async def read(response: aiohttp.ClientResponse) -> tuple[int, bytes]:
            self.headers = dict(response.headers)
            return response.status, await response.read()

        url = URL(self.station.url + path, encoded=True)
        kind = {"Content-Type": "application/octet-stream"} | headers
        return await self.client.ask(method, RELAY, url, read, seconds=10, body=[body] if body else [], headers=kind)


@dataclass
class Node:
    """A transport behind the relay, and what came in."""

    identity: Identity
    transport: RelayedTransport
    answer: Callable[[bytes], Answer] = lambda _: Answer.ACCEPTED
    received: list[bytes] = field(default_factory=list)
    asked: list[bytes] = field(default_factory=list)

    async def receive(self, message: bytes, peer: Identity) -> Answer:
        assert peer == RELAY
        self.asked.append(message)
        answer = self.answer(message)
        if answer is Answer.ACCEPTED:
            self.received.append(message)
        return answer


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def files(authority: Authority) -> Callable[[Identity], Files]:
    issued: dict[Identity, Files] = {}
    return lambda identity: issued.setdefault(identity, authority.issue(identity))


MakeStation = Callable[..., Awaitable[Station]]
MakeClient = Callable[..., Client]
MakeNode = Callable[..., Awaitable[Node]]


@pytest.fixture
async def make_station(files: Callable[[Identity], Files], tmp_path: Path) -> AsyncIterator[MakeStation]:
    """Starts relays; `limits` are given as keywords."""
    async with AsyncExitStack() as stack:

        async def make(
            *,
            where: str | Path | None = None,
            listen: str = "127.0.0.1:0",
            rules: Rules = RULES,
            **limits: Any,
        ) -> Station:
            own = files(RELAY)
            used = Limits(**({"linger_seconds": 0.2, "stop_seconds": 1.0, "message_bytes": rules.max_message} | limits))
            refused: Counter[str] = Counter()
            posted: Counter[str] = Counter()
            failed: Counter[str] = Counter()
            store = mail_store(where or tmp_path / "relay.db", rules)
            room = Mailroom(
                RELAY,
                store,
                Credentials(TrustStore(own.roots)),
                rules,
                used,
                count=lambda slug: refused.update([slug]),
                posted=lambda outcome, _sender, _recipient: posted.update([outcome]),
                store_failed=lambda error: failed.update([error.reason]),
            )
            context = server_context(own.pair, own.roots)
            listener = Listener(listen, context, used, lambda slug: refused.update([slug]), proved_peer)
            station = Station(store, room, listener, refused, posted, failed)
            await station.start()
            stack.push_async_callback(station.stop)
            return station

        yield make


@pytest.fixture
async def make_client(files: Callable[[Identity], Files]) -> AsyncIterator[MakeClient]:
    async with AsyncExitStack() as stack:

        def make(station: Station, node: Identity = ALICE) -> Client:
            own = files(node)
            client = NodeClient(client_context(own.pair, own.roots), Limits())
            client.start()
            stack.push_async_callback(client.stop)
            return Client(node, station, client)

        yield make


@pytest.fixture
async def make_relayed(files: Callable[[Identity], Files]) -> AsyncIterator[MakeNode]:
    """Starts nodes behind a relay; they stop before the relays do."""
    async with AsyncExitStack() as stack:

        async def make(url: str, identity: Identity, *, start: bool = True, **options: Any) -> Node:
            own = files(identity)
            node = Node(
                identity,
                RelayedTransport(
                    RELAY,
                    url,
                    proof=own.pair,
                    roots=own.roots,
                    check_peer=None,
                    limits=Limits(stop_seconds=1.0),
                    log=logger(identity),
                    **options,
                ),
            )
            if start:
                await node.transport.start(node.receive)
            stack.push_async_callback(node.transport.stop)
            return node

        yield make


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server, or a reason why there is none."""
    if importlib.util.find_spec("asyncpg") is None:
        pytest.skip("asyncpg is not installed")
    try:
        with running_cluster() as running:
            yield running
    except NotInstalled as missing:
        pytest.skip(str(missing))


@pytest.fixture
def database(cluster: Cluster) -> str:
    """The URL of a new database."""
    name = f"relay_{next(_numbers)}"
    cluster.sql(f"CREATE DATABASE {name}")
    return cluster.url(name)
