"""Requests that the inbox does not take get a fixed status, cost no memory, and leave the node serving."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mpc.errors import Answer
from mpc.identity import Identity
from tests.nodes.transport.conftest import ALICE, BOB, HOSPITAL, Connect, MakeNode, Node, eventually, post


@pytest.fixture
async def hospital(make_node: MakeNode) -> AsyncIterator[Node]:
    """A hospital with small limits; after the test it must still serve its patients."""
    node = await make_node(HOSPITAL, body_seconds=0.2, message_bytes=1_000_000, requests_per_peer=2)
    yield node
    node.answer = Answer.ACCEPTED
    assert await (await make_node(BOB)).send_to(node, b"after") is Answer.ACCEPTED


def changed(old: bytes, new: bytes) -> bytes:
    request = post()
    assert old in request
    return request.replace(old, new)


@pytest.mark.parametrize(
    ("request_bytes", "status", "slug"),
    [
        (changed(b"/v1/inbox", b"/"), 404, "path"),
        (changed(b"/v1/inbox", b"/v1/inbox/"), 404, "path"),
        (changed(b"/v1/inbox", b"/v1/%69nbox"), 404, "path"),
        (changed(b"/v1/inbox", b"/v2/inbox"), 404, "path"),
        (changed(b"POST", b"PUT"), 405, "method"),
        (changed(b"POST", b"DELETE"), 405, "method"),
        (changed(b"application/octet-stream", b"text/plain"), 415, "type"),
        (
            changed(b"Content-Length: 5", b"Transfer-Encoding: chunked").replace(b"hello", b"5\r\nhello\r\n0\r\n\r\n"),
            411,
            "length",
        ),
        (changed(b"Content-Length: 5\r\n", b"").removesuffix(b"hello"), 411, "length"),
        (changed(b": 5", b": 1000001"), 413, "too-large"),
    ],
)
async def test_a_request_of_the_wrong_form_gets_its_status(
    hospital: Node, connect: Connect, request_bytes: bytes, status: int, slug: str
) -> None:
    client = await connect(hospital)
    client.write(request_bytes)
    assert await client.status() == status
    assert hospital.refused == {slug: 1}
    assert hospital.received == []


@pytest.mark.parametrize("length", [b"-5", b"5.0", b"five", b"+5", b"9" * 30, b"5\r\nContent-Length: 6"])
async def test_a_length_that_is_no_number_is_malformed(hospital: Node, connect: Connect, length: bytes) -> None:
    client = await connect(hospital)
    client.write(changed(b": 5\r\n", b": " + length + b"\r\n"))
    assert b" 400 " in await client.closed()
    assert hospital.received == []


async def test_a_refused_body_is_not_kept_and_ends_the_connection(hospital: Node, connect: Connect) -> None:
    client = await connect(hospital)
    client.write(post(length=100_000_000)[:-5])
    assert await client.status() == 413
    for _ in range(50):
        client.write(bytes(100_000))
    assert await client.closed() == b""


async def test_a_body_that_drips_is_given_up(hospital: Node, connect: Connect) -> None:
    client = await connect(hospital)
    client.write(post(length=1000))
    status = asyncio.create_task(client.status())
    while not status.done():
        client.write(b"x")
        await asyncio.wait([status], timeout=0.02)
    assert status.result() == 408
    await client.closed()
    assert hospital.refused == {"body-timeout": 1}
    assert hospital.received == []


@pytest.mark.parametrize("size", [1000, 500_000])
async def test_a_body_that_ends_early_is_no_message(hospital: Node, connect: Connect, size: int) -> None:
    client = await connect(hospital)
    client.write(post() + post(length=size))
    assert await client.status() == 202  # so the second one's handler is at work
    client.writer.close()
    await eventually(lambda: hospital.refused == {"body-cut": 1})
    assert hospital.received == [(b"hello", ALICE)]


async def test_a_peer_has_only_so_many_requests_at_work(make_node: MakeNode, connect: Connect, hospital: Node) -> None:
    clients = [await connect(hospital) for _ in range(3)]
    for client in clients[:2]:
        client.write(post(length=5)[:-5])
    # The two are at work once a third is told so; a round trip on their own connections cannot tell it earlier.
    status = 0
    while status != 429:
        clients[2].write(post())
        head = await clients[2].reader.readuntil(b"\r\n\r\n")
        status = int(head.split()[1])
    assert b"\r\nRetry-After: 1\r\n" in head
    for client in clients[:2]:
        client.write(b"hello")
        assert await client.status() == 202
    clients[2].write(post())
    assert await clients[2].status() == 202


async def test_later_says_when(hospital: Node, connect: Connect) -> None:
    hospital.answer = Answer.LATER
    client = await connect(hospital)
    client.write(post())
    head = await client.reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 1\r\n" in head
    assert await client.reader.readexactly(5) == b"later"


@pytest.mark.parametrize(
    ("answer", "status"),
    [("accepted", 202), ("later", 503), ("gone", 410), ("rejected", 403), ("refused", 409), ("unopenable", 422)],
)
async def test_each_answer_has_its_status(hospital: Node, connect: Connect, answer: str, status: int) -> None:
    hospital.answer = Answer(answer)
    client = await connect(hospital)
    client.write(post())
    assert await client.status() == status


async def test_http_1_0_and_close_end_the_connection(hospital: Node, connect: Connect) -> None:
    for request in (changed(b"HTTP/1.1", b"HTTP/1.0"), changed(b"Host: hospital", b"Host: x\r\nConnection: close")):
        client = await connect(hospital)
        client.write(request)
        assert await client.closed() == b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


async def test_large_bodies_come_in_one_after_another(make_node: MakeNode) -> None:
    hospital = await make_node(HOSPITAL, budget_bytes=600_000)
    patients = [await make_node(Identity("ward", ALICE.role, f"p{i}")) for i in range(4)]
    await hospital.transport.stop()
    at_work: list[str] = []
    most, turn = 0, asyncio.Semaphore(0)

    async def hold(message: bytes, peer: Identity) -> Answer:
        nonlocal most
        at_work.append(peer.name)
        most = max(most, len(at_work))
        await turn.acquire()
        at_work.remove(peer.name)
        return Answer.ACCEPTED

    await hospital.transport.start(hold)
    sending = [asyncio.create_task(p.send_to(hospital, bytes(400_000))) for p in patients]
    await eventually(lambda: len(at_work) == 1)
    # A small message does not wait behind them.
    small = asyncio.create_task(patients[0].send_to(hospital, b"small"))
    await eventually(lambda: len(at_work) == 2)
    turn.release()
    turn.release()
    await small
    most = 0
    for _ in range(3):
        turn.release()
    assert await asyncio.gather(*sending) == [Answer.ACCEPTED] * 4
    assert most == 1
