"""A hospital's inbox on a free port, and ways to come at it: another node, or a client that does as it likes."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from mpc.errors import Answer
from mpc.identity import Identity, Role
from nodes.transport.base import Receive
from nodes.transport.https import HttpsTransport
from nodes.transport.limits import Limits
from nodes.transport.tls import CheckPeer
from tests.nodes.transport.certificates import Authority, Files

HOSPITAL = Identity("ward", Role.HOSPITAL, "general")
ALICE = Identity("ward", Role.PATIENT, "alice")
BOB = Identity("ward", Role.PATIENT, "bob")


@dataclass
class Node:
    """A transport, what came in, and what it refused."""

    identity: Identity
    transport: HttpsTransport
    refused: Counter[str]
    answer: Answer | Exception = Answer.ACCEPTED
    received: list[tuple[bytes, Identity]] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"https://127.0.0.1:{self.transport.port}"

    async def receive(self, message: bytes, peer: Identity) -> Answer:
        self.received.append((message, peer))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def send_to(self, other: Node, message: bytes = b"hello") -> Answer:
        return await self.transport.send(other.identity, other.endpoint, message)


@dataclass
class RawClient:
    """TLS done right, HTTP done by the test."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def status(self) -> int:
        """The status of the next answer, whose body is read as well."""
        async with asyncio.timeout(5):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        lengths = [line.partition(":")[2] for line in head.split("\r\n") if line.lower().startswith("content-length:")]
        await self.reader.readexactly(int(lengths[0]))
        return int(head.split()[1])

    async def closed(self) -> bytes:
        """Waits until the server has closed the connection; what it still sent."""
        try:
            async with asyncio.timeout(5):
                return await self.reader.read()
        except ConnectionError:
            return b""


async def eventually(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Waits for a condition that other tasks bring about."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 5
    while not (await met if isinstance(met := condition(), Awaitable) else met):
        assert loop.time() < deadline, "the condition did not come about"
        await asyncio.sleep(0.002)


async def cut(writer: asyncio.StreamWriter) -> None:
    """Ends a connection at once."""
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"), "another authority")


@pytest.fixture(scope="session")
def alice_files(authority: Authority) -> Files:
    return authority.issue(ALICE)


MakeNode = Callable[..., Awaitable[Node]]


@pytest.fixture
async def make_node(authority: Authority) -> AsyncIterator[MakeNode]:
    """Starts nodes; `limits` are given as keywords, and every node is stopped afterwards."""
    async with AsyncExitStack() as stack:

        async def make(
            identity: Identity,
            *,
            files: Files | None = None,
            roles: frozenset[Role] = frozenset(Role),
            check_peer: CheckPeer | None = None,
            receive: Receive | None = None,
            **limits: Any,
        ) -> Node:
            files = files or authority.issue(identity)
            refused: Counter[str] = Counter()
            node = Node(
                identity,
                HttpsTransport(
                    "127.0.0.1:0",
                    proof=files.pair,
                    roots=files.roots,
                    roles=roles,
                    check_peer=check_peer,
                    limits=Limits(**({"linger_seconds": 0.2, "stop_seconds": 1.0} | limits)),
                    count=lambda slug: refused.update([slug]),
                ),
                refused,
            )
            await node.transport.start(receive or node.receive)
            stack.push_async_callback(node.transport.stop)
            return node

        yield make


Connect = Callable[..., Awaitable[RawClient]]


@pytest.fixture
async def connect(alice_files: Files) -> AsyncIterator[Connect]:
    """Opens raw TLS connections to a node."""
    async with AsyncExitStack() as stack:

        async def open_connection(node: Node, files: Files | None = alice_files) -> RawClient:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", node.transport.port, ssl=plain_context(files), server_hostname=""
            )

            stack.push_async_callback(cut, writer)
            return RawClient(reader, writer)

        yield open_connection


def plain_context(files: Files | None) -> ssl.SSLContext:
    """A client's context made by hand, without a line of the code under test. It trusts any server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    if files is not None:
        context.load_cert_chain(files.certificate_file, files.key_file)
    return context


def post(body: bytes = b"hello", *, length: int | None = None) -> bytes:
    """A request to the inbox as a correct client writes it."""
    size = len(body) if length is None else length
    return (
        b"POST /v1/inbox HTTP/1.1\r\nHost: hospital\r\nContent-Type: application/octet-stream\r\n"
        b"Content-Length: %d\r\n\r\n" % size
    ) + body
