"""Whoever misbehaves at the door is cut off within its deadline, counted once, and the next peer is served as ever."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mpc.errors import Answer
from mpc.identity import Identity
from nodes.transport.base import DeliveryError
from tests.nodes.transport.certificates import Authority, Files
from tests.nodes.transport.conftest import (
    ALICE,
    BOB,
    HOSPITAL,
    Connect,
    MakeNode,
    Node,
    cut,
    eventually,
    plain_context,
    post,
)


@pytest.fixture
async def hospital(make_node: MakeNode) -> AsyncIterator[Node]:
    """A hospital with short deadlines; after the test it must still serve its patients."""
    node = await make_node(HOSPITAL, handshake_seconds=0.2, header_seconds=0.2, idle_seconds=0.3)
    yield node
    before = len(node.received)
    assert await (await make_node(BOB)).send_to(node, b"after") is Answer.ACCEPTED
    assert node.received[before:] == [(b"after", BOB)]


@asynccontextmanager
async def plain_tcp(node: Node) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", node.transport.port)
    try:
        yield reader, writer
    finally:
        await cut(writer)


async def read_all(reader: asyncio.StreamReader) -> bytes:
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    except ConnectionError:
        return b""


async def test_a_client_that_never_speaks_is_cut(hospital: Node) -> None:
    async with plain_tcp(hospital) as (reader, _):
        assert await read_all(reader) == b""
    assert hospital.refused == {"handshake-timeout": 1}


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes(200), b"\x16\x03\x01\x00\x05hello"])
async def test_plain_http_and_garbage_are_cut(hospital: Node, garbage: bytes) -> None:
    async with plain_tcp(hospital) as (reader, writer):
        writer.write(garbage)
        assert b"HTTP" not in await read_all(reader)
    assert hospital.refused == {"tls": 1}


async def test_a_client_that_leaves_within_the_handshake_is_no_offence(hospital: Node) -> None:
    async with plain_tcp(hospital) as (_, writer):
        writer.write(b"\x16\x03\x01")
    assert not hospital.refused


async def test_tls_1_2_is_refused(hospital: Node, alice_files: Files) -> None:
    context = plain_context(alice_files)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        await asyncio.open_connection("127.0.0.1", hospital.transport.port, ssl=context, server_hostname="")
    assert hospital.refused == {"tls": 1}


async def test_a_client_without_certificate_hears_that_one_is_needed(hospital: Node, connect: Connect) -> None:
    client = await connect(hospital, files=None)
    client.write(post())
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
        await client.reader.read()
    assert hospital.refused == {"no-certificate": 1}
    assert hospital.received == []


async def test_a_refused_client_that_keeps_talking_is_cut(hospital: Node, stranger: Authority) -> None:
    files = stranger.issue(ALICE)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = plain_context(files).wrap_bio(incoming, outgoing)
    async with plain_tcp(hospital) as (reader, writer):
        finished = False
        while not finished:
            try:
                tls.do_handshake()
                finished = True
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(65536))
        tls.write(post())
        writer.write(outgoing.read())
        await eventually(lambda: bool(hospital.refused))
        writer.write(bytes(100_000))
        await read_all(reader)
    assert hospital.refused == {"certificate": 1}


@pytest.mark.parametrize("protocols", [[], ["h2"]])
async def test_a_client_that_does_not_agree_on_http_1_1_is_cut(hospital: Node, alice_files: Files, protocols: list[str]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(alice_files.certificate_file, alice_files.key_file)
    if protocols:
        context.set_alpn_protocols(protocols)
    reader, writer = await asyncio.open_connection("127.0.0.1", hospital.transport.port, ssl=context, server_hostname="")
    assert await read_all(reader) == b""
    await cut(writer)
    assert hospital.refused == {"protocol": 1}


async def test_no_session_ticket_is_issued(hospital: Node, alice_files: Files) -> None:
    openssl = await asyncio.create_subprocess_exec(
        "openssl", "s_client", "-connect", f"127.0.0.1:{hospital.transport.port}", "-alpn", "http/1.1", "-ign_eof",
        "-cert", alice_files.certificate_file, "-key", alice_files.key_file,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await openssl.communicate()  # it ends when the server cuts it for its silence
    assert b"Protocol: TLSv1.3" in output or b"New, TLSv1.3" in output
    assert b"New Session Ticket" not in output
    assert hospital.refused == {"header-timeout": 1}


async def test_a_silent_client_is_cut_after_the_handshake(hospital: Node, connect: Connect) -> None:
    client = await connect(hospital)
    assert await client.closed() == b""
    assert hospital.refused == {"header-timeout": 1}


async def test_a_client_that_drips_headers_is_cut(hospital: Node, connect: Connect) -> None:
    client = await connect(hospital)
    closed = asyncio.create_task(client.closed())
    client.write(b"POST /v1/inbox HTTP/1.1\r\n")
    while not closed.done():
        client.write(b"X: y\r\n")
        await asyncio.wait([closed], timeout=0.02)
    assert hospital.refused == {"header-timeout": 1}
    assert hospital.received == []


async def test_a_client_that_drips_its_second_request_is_cut(make_node: MakeNode, connect: Connect) -> None:
    hospital = await make_node(HOSPITAL, header_seconds=0.2)
    client = await connect(hospital)
    client.write(post())
    assert await client.status() == 202
    client.write(b"POST")
    assert await client.closed() == b""
    assert hospital.refused == {"header-timeout": 1}


async def test_an_idle_connection_is_closed_and_is_no_offence(hospital: Node, connect: Connect) -> None:
    client = await connect(hospital)
    client.write(post())
    assert await client.status() == 202
    assert await client.closed() == b""
    assert not hospital.refused


async def test_what_is_not_http_is_refused(hospital: Node, connect: Connect) -> None:
    client = await connect(hospital)
    client.write(b"EHLO hospital\r\n\r\n")
    assert b" 400 " in await client.closed()
    assert hospital.refused == {"malformed": 1}


async def test_an_endless_header_is_refused(hospital: Node, connect: Connect) -> None:
    client = await connect(hospital)
    client.write(b"POST /v1/inbox HTTP/1.1\r\nX: " + b"y" * 5000 + b"\r\n\r\n")
    assert b" 400 " in await client.closed()
    assert hospital.refused == {"malformed": 1}


async def test_requests_sent_ahead_are_answered_in_order(hospital: Node, connect: Connect) -> None:
    client = await connect(hospital)
    client.write(post(b"one") + post(b"two") + post(b"three"))
    assert [await client.status() for _ in range(3)] == [202, 202, 202]
    assert [message for message, _ in hospital.received] == [b"one", b"two", b"three"]


async def served(sender: Node, recipient: Node) -> bool:
    try:
        return await sender.send_to(recipient) is Answer.ACCEPTED
    except DeliveryError:
        return False  # the connections of before are not yet noticed to be gone


async def test_connections_above_the_total_are_refused(make_node: MakeNode) -> None:
    hospital, alice = await make_node(HOSPITAL, connections=2), await make_node(ALICE)
    async with plain_tcp(hospital), plain_tcp(hospital), plain_tcp(hospital) as (reader, _):
        assert await read_all(reader) == b""
        assert hospital.refused == {"connections": 1}
    await eventually(lambda: served(alice, hospital))


async def test_handshakes_of_one_address_are_limited(make_node: MakeNode) -> None:
    hospital, alice = await make_node(HOSPITAL, handshakes_per_address=1), await make_node(ALICE)
    async with plain_tcp(hospital), plain_tcp(hospital) as (reader, _):
        assert await read_all(reader) == b""
        assert hospital.refused == {"address": 1}
    await eventually(lambda: served(alice, hospital))


async def test_busy_connections_of_one_peer_are_limited(make_node: MakeNode, connect: Connect) -> None:
    hospital, bob = await make_node(HOSPITAL, connections_per_peer=2), await make_node(BOB)
    clients = [await connect(hospital) for _ in range(2)]
    for client in clients:
        client.write(post(length=9)[:-5])  # headers only: the body does not come
    await eventually(lambda: True)
    third = await connect(hospital)
    assert await third.closed() == b""
    assert hospital.refused == {"peer": 1}
    assert await bob.send_to(hospital) is Answer.ACCEPTED


async def test_an_idle_connection_gives_way_to_a_new_one_of_its_peer(make_node: MakeNode, connect: Connect) -> None:
    hospital = await make_node(HOSPITAL, connections_per_peer=2)
    clients = []
    for _ in range(3):
        clients.append(await connect(hospital))
        clients[-1].write(post())
        assert await clients[-1].status() == 202
    cut_off = await asyncio.wait([asyncio.create_task(c.closed()) for c in clients], return_when="FIRST_COMPLETED")
    assert len(cut_off[0]) == 1
    for task in cut_off[1]:
        task.cancel()
    assert not hospital.refused


async def test_an_identity_is_not_the_address(make_node: MakeNode, authority: Authority) -> None:
    hospital = await make_node(HOSPITAL, connections_per_peer=1)
    patients = [await make_node(Identity("ward", ALICE.role, f"p{i}")) for i in range(4)]
    assert await asyncio.gather(*(p.send_to(hospital) for p in patients)) == [Answer.ACCEPTED] * 4
