"""On the network in memory nothing happens by itself: a test decides over every message."""

from __future__ import annotations

import asyncio

import pytest

from mpc.errors import Answer
from mpc.identity import Identity
from nodes.transport.base import DeliveryError, Transport
from nodes.transport.memory import MemoryNetwork
from tests.nodes.transport.conftest import ALICE, HOSPITAL


class Inbox:
    def __init__(self) -> None:
        self.received: list[tuple[bytes, Identity]] = []

    async def receive(self, message: bytes, peer: Identity) -> Answer:
        self.received.append((message, peer))
        return Answer.ACCEPTED if len(self.received) == 1 else Answer.LATER


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork()


@pytest.fixture
async def inbox(network: MemoryNetwork) -> Inbox:
    inbox = Inbox()
    await network.transport(HOSPITAL).start(inbox.receive)
    return inbox


async def send(network: MemoryNetwork, *messages: bytes) -> list[asyncio.Task[Answer]]:
    alice: Transport = network.transport(ALICE)
    tasks = [asyncio.create_task(alice.send(HOSPITAL, "https://hospital:8443", message)) for message in messages]
    await network.arrival()
    return tasks


async def test_messages_are_delivered_in_any_order_the_test_likes(network: MemoryNetwork, inbox: Inbox) -> None:
    one, two = await send(network, b"one", b"two")
    first, second = network.waiting
    assert await network.deliver(second) is Answer.ACCEPTED
    assert await two is Answer.ACCEPTED
    assert not one.done()
    await network.deliver(first)
    assert await one is Answer.LATER
    assert inbox.received == [(b"two", ALICE), (b"one", ALICE)]
    assert network.waiting == []


async def test_a_dropped_message_is_an_error_to_its_sender_alone(network: MemoryNetwork, inbox: Inbox) -> None:
    (sending,) = await send(network, b"one")
    network.drop(network.waiting[0])
    with pytest.raises(DeliveryError):
        await sending
    assert inbox.received == []


async def test_a_lost_answer_is_an_error_after_the_effect(network: MemoryNetwork, inbox: Inbox) -> None:
    (sending,) = await send(network, b"one")
    assert await network.lose_answer(network.waiting[0]) is Answer.ACCEPTED
    with pytest.raises(DeliveryError):
        await sending
    assert inbox.received == [(b"one", ALICE)]


async def test_a_doubled_message_arrives_twice_and_is_answered_once(network: MemoryNetwork, inbox: Inbox) -> None:
    (sending,) = await send(network, b"one")
    parcel = network.waiting[0]
    assert await network.double(parcel) is Answer.ACCEPTED
    assert await network.deliver(parcel) is Answer.LATER
    assert await sending is Answer.LATER
    assert inbox.received == [(b"one", ALICE)] * 2


async def test_a_corrupted_message_differs_in_one_bit(network: MemoryNetwork, inbox: Inbox) -> None:
    (sending,) = await send(network, b"one")
    network.corrupt(network.waiting[0])
    await network.deliver(network.waiting[0])
    await sending
    assert inbox.received == [(b"ond", ALICE)]


async def test_who_does_not_listen_refuses(network: MemoryNetwork) -> None:
    (sending,) = await send(network, b"one")
    with pytest.raises(DeliveryError, match="does not listen"):
        await network.deliver(network.waiting[0])
    with pytest.raises(DeliveryError, match="does not listen"):
        await sending


async def test_a_stopped_node_refuses(network: MemoryNetwork, inbox: Inbox) -> None:
    await network.transport(HOSPITAL).stop()
    (sending,) = await send(network, b"one")
    with pytest.raises(DeliveryError):
        await network.deliver(network.waiting[0])
    with pytest.raises(DeliveryError):
        await sending


async def test_a_failing_receiver_fails_the_test_and_the_sender(network: MemoryNetwork) -> None:
    async def fail(_message: bytes, _peer: Identity) -> Answer:
        raise ValueError("a bug")

    await network.transport(HOSPITAL).start(fail)
    (sending,) = await send(network, b"one")
    with pytest.raises(ValueError, match="a bug"):
        await network.deliver(network.waiting[0])
    with pytest.raises(DeliveryError):
        await sending


async def test_a_cancelled_sender_takes_its_parcel_along(network: MemoryNetwork) -> None:
    (sending,) = await send(network, b"one")
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert network.waiting == []


async def test_a_parcel_prints_no_content(network: MemoryNetwork) -> None:
    (sending,) = await send(network, b"seed")
    assert "seed" not in repr(network.waiting[0])
    network.drop(network.waiting[0])
    with pytest.raises(DeliveryError):
        await sending
