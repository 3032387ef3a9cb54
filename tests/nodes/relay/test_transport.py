"""A node behind a relay: what it posts and fetches, and what it does when the relay, the proxy or a message is difficult."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from mpc.envelope import Place, write_unsealed
from mpc.errors import Answer
from mpc.identity import Identity, Role
from mpc.keys import RoundKey
from mpc.mailbox import Quota, Rules
from mpc.messages import Kind
from nodes.config import RelayAddress
from nodes.transport.base import DeliveryError
from nodes.transport.https import HttpsTransport
from nodes.transport.limits import Limits
from nodes.transport.mail import relay_of
from tests.mpc.nodes import HOSPITAL, ROUND, keyring
from tests.nodes.relay.conftest import ALICE, AMPLE, BOB, MakeNode, MakeStation, Node, Station, envelope, eventually
from tests.nodes.relay.wires import balancer, proxy
from tests.nodes.transport.certificates import Files

AT_RELAY = "relay://post@relay.example:443"


async def send(node: Node, message: bytes, to: Identity = BOB, endpoint: str = AT_RELAY) -> Answer:
    return await node.transport.send(to, endpoint, message)


async def empty(station: Station) -> None:
    async def is_empty() -> bool:
        return (await station.store.depth()).messages == 0

    await eventually(is_empty)


async def pair(make_station: MakeStation, make_relayed: MakeNode, **options: object) -> tuple[Station, Node, Node]:
    station = await make_station(**options)
    await station.store.open_boxes([ALICE, BOB])
    return station, await make_relayed(station.url, ALICE), await make_relayed(station.url, BOB)


async def test_what_one_sends_the_other_receives_and_the_relay_forgets(make_station: MakeStation, make_relayed: MakeNode) -> None:
    station, alice, bob = await pair(make_station, make_relayed)
    messages = [envelope() for _ in range(20)]
    answers = await asyncio.gather(*(send(alice, message) for message in messages))

    assert answers == [Answer.ACCEPTED] * 20
    await eventually(lambda: len(bob.received) == 20)
    assert bob.received == messages
    await empty(station)


async def test_messages_that_wait_together_are_posted_together(make_station: MakeStation, make_relayed: MakeNode) -> None:
    station, alice, bob = await pair(make_station, make_relayed)
    requests = 0
    handle = station.room._post

    async def count(body: bytes, peer: Identity) -> object:
        nonlocal requests
        requests += 1
        return await handle(body, peer)

    station.room._post = count  # type: ignore[method-assign,assignment]
    await asyncio.gather(*(send(alice, envelope()) for _ in range(200)))

    assert requests <= 3
    await eventually(lambda: len(bob.received) == 200)


async def test_a_message_ahead_of_its_round_keeps_nobody_else(make_station: MakeStation, make_relayed: MakeNode) -> None:
    station, alice, bob = await pair(make_station, make_relayed)
    early, others = envelope(), [envelope() for _ in range(3)]
    bob.answer = lambda message: Answer.LATER if message == early and bob.asked.count(early) < 3 else Answer.ACCEPTED
    for message in (early, *others):
        await send(alice, message)

    await eventually(lambda: len(bob.received) == 4)
    assert bob.received == [*others, early]
    await empty(station)


@pytest.mark.parametrize("answer", [Answer.GONE, Answer.REFUSED, Answer.UNOPENABLE])
async def test_a_message_with_a_final_answer_is_not_fetched_again(
    make_station: MakeStation, make_relayed: MakeNode, answer: Answer
) -> None:
    station, alice, bob = await pair(make_station, make_relayed)
    bob.answer = lambda _: answer
    await send(alice, envelope())

    await empty(station)
    assert len(bob.asked) == 1


async def test_what_was_not_finished_is_fetched_again_after_a_restart(make_station: MakeStation, make_relayed: MakeNode) -> None:
    station, alice, bob = await pair(make_station, make_relayed)
    first, second = envelope(), envelope()
    bob.answer = lambda message: Answer.LATER if message == first else Answer.ACCEPTED
    await send(alice, first)
    await send(alice, second)
    await eventually(lambda: first in bob.asked and bob.received == [second])
    await bob.transport.stop()

    restarted = await make_relayed(station.url, BOB)
    await eventually(lambda: restarted.received == [first, second])
    await empty(station)


async def test_a_relay_that_goes_down_and_comes_back_loses_nothing(
    make_station: MakeStation, make_relayed: MakeNode, tmp_path: Path
) -> None:
    station, alice, bob = await pair(make_station, make_relayed)
    await bob.transport.stop()
    kept = envelope()
    await send(alice, kept)
    port = station.listener.port
    await station.stop()

    with pytest.raises(DeliveryError):
        await send(alice, envelope())
    bob = await make_relayed(f"https://127.0.0.1:{port}", BOB)
    await eventually(lambda: bob.transport.trouble != "")
    await make_station(listen=f"127.0.0.1:{port}")
    late = envelope()
    assert await send(alice, late) is Answer.ACCEPTED

    await eventually(lambda: bob.received == [kept, late])
    assert bob.transport.trouble == ""


async def test_a_relay_with_a_new_store_delivers_all_it_is_given(
    make_station: MakeStation, make_relayed: MakeNode, tmp_path: Path
) -> None:
    station, alice, bob = await pair(make_station, make_relayed)
    await asyncio.gather(*(send(alice, envelope()) for _ in range(5)))
    await eventually(lambda: len(bob.received) == 5)
    port = station.listener.port
    await station.stop()

    other = await make_station(where=tmp_path / "other.db", listen=f"127.0.0.1:{port}")
    await other.store.open_boxes([BOB])
    messages = [envelope() for _ in range(8)]
    for message in messages:
        await send(alice, message)
    await eventually(lambda: bob.received[5:] == messages)


async def test_over_quota_is_later_and_passes(make_station: MakeStation, make_relayed: MakeNode) -> None:
    station, alice, bob = await pair(make_station, make_relayed, rules=Rules(AMPLE, Quota(1, 1 << 20), 3600.0, 1 << 20))
    bob.answer = lambda _: Answer.LATER
    first = envelope()
    assert await send(alice, first) is Answer.ACCEPTED
    second = envelope()
    assert await send(alice, second) is Answer.LATER

    bob.answer = lambda _: Answer.ACCEPTED
    await eventually(lambda: bob.received == [first])
    await empty(station)
    assert await send(alice, second) is Answer.ACCEPTED
    await eventually(lambda: bob.received == [first, second])


async def test_mail_for_nobody_is_refused(make_station: MakeStation, make_relayed: MakeNode) -> None:
    _, alice, _ = await pair(make_station, make_relayed)
    assert await send(alice, envelope(to=HOSPITAL), HOSPITAL) is Answer.REFUSED


async def test_an_unsealed_message_is_never_shown_to_a_relay(make_station: MakeStation, make_relayed: MakeNode) -> None:
    station, alice, _ = await pair(make_station, make_relayed)
    bare, _ = write_unsealed(
        Kind.INVITATION, b"q", Place(ROUND, bytes(32)), keyring=keyring(ALICE), round_key=RoundKey(bytes), recipient=BOB
    )
    for message in (bare, b"no envelope"):
        with pytest.raises(DeliveryError, match="sealed") as caught:
            await send(alice, message)
        assert caught.value.reason == "unsealed"
    assert not station.posted


async def test_only_the_nodes_own_relay_is_used(make_station: MakeStation, make_relayed: MakeNode) -> None:
    station, alice, _ = await pair(make_station, make_relayed)
    with pytest.raises(DeliveryError, match="elsewhere") as caught:
        await send(alice, envelope(), endpoint="relay://elsewhere@evil.example:443")
    assert caught.value.reason == "endpoint"
    assert await send(alice, envelope(), endpoint="https://bob.example:8443") is Answer.ACCEPTED, "behind a relay, all goes there"
    assert station.posted["taken"] == 1


async def test_another_node_at_the_relays_address_gets_nothing(
    make_station: MakeStation, make_relayed: MakeNode, files: Callable[[Identity], Files]
) -> None:
    own = files(HOSPITAL)
    impostor = HttpsTransport(
        "127.0.0.1:0",
        proof=own.pair,
        roots=own.roots,
        roles=frozenset(Role),
        limits=Limits(stop_seconds=0.5),
    )

    async def refuse(_message: bytes, _peer: Identity) -> Answer:
        raise AssertionError("not a byte arrives")

    await impostor.start(refuse)
    alice = await make_relayed(f"https://127.0.0.1:{impostor.port}", ALICE)
    with pytest.raises(DeliveryError) as caught:
        await send(alice, envelope())
    assert caught.value.reason == "identity-mismatch"
    await alice.transport.stop()
    await impostor.stop()


async def test_a_node_that_listens_too_uses_the_relay_for_those_behind_it(
    make_station: MakeStation, make_relayed: MakeNode, files: Callable[[Identity], Files]
) -> None:
    station = await make_station()
    await station.store.open_boxes([ALICE, BOB])
    bob = await make_relayed(station.url, BOB)
    own = files(ALICE)
    direct = HttpsTransport(
        "127.0.0.1:0",
        proof=own.pair,
        roots=own.roots,
        roles=frozenset(Role),
        limits=Limits(stop_seconds=0.5),
    )
    alice = await make_relayed(station.url, ALICE, direct=direct)
    await send(alice, through := envelope())
    with pytest.raises(DeliveryError):
        await send(alice, envelope(), endpoint="https://127.0.0.1:9")
    await send(bob, back := envelope(BOB, ALICE), ALICE)

    await eventually(lambda: (bob.received, alice.received) == ([through], [back]))
    assert alice.transport.port == direct.port != 0


# -- through a proxy


async def test_everything_goes_through_the_proxy(make_station: MakeStation, make_relayed: MakeNode) -> None:
    station = await make_station()
    await station.store.open_boxes([BOB])
    async with proxy() as between:
        options = {"proxy": f"http://127.0.0.1:{between.port}"}
        alice = await make_relayed(station.url, ALICE, **options)
        bob = await make_relayed(station.url, BOB, **options)
        sent = envelope()
        assert await send(alice, sent) is Answer.ACCEPTED
        await eventually(lambda: bob.received == [sent])
        await bob.transport.stop()
        await alice.transport.stop()
    assert set(between.asked) == {f"127.0.0.1:{station.listener.port}"}


async def test_a_proxy_that_refuses_or_is_not_there_is_named(make_station: MakeStation, make_relayed: MakeNode) -> None:
    station = await make_station()
    async with proxy(allows=False) as between:
        for port, text in ((between.port, "403"), (9, "cannot reach the proxy")):
            alice = await make_relayed(station.url, ALICE, proxy=f"http://127.0.0.1:{port}")
            with pytest.raises(DeliveryError, match=text) as caught:
                await send(alice, envelope())
            assert caught.value.reason == "proxy"
            await alice.transport.stop()


# -- several relays on one PostgreSQL


async def test_two_relays_behind_a_balancer_one_killed_lose_no_message(
    make_station: MakeStation, make_relayed: MakeNode, database: str
) -> None:
    first, second = await make_station(where=database), await make_station(where=database)
    await first.store.open_boxes([ALICE, BOB])
    async with balancer(first.listener.port, second.listener.port) as between:
        url = f"https://127.0.0.1:{between.port}"
        alice, bob = await make_relayed(url, ALICE), await make_relayed(url, BOB)
        messages = [envelope() for _ in range(150)]
        sent: list[bytes] = []

        async def deliver(message: bytes) -> None:
            for _ in range(200):  # as an outbox does
                try:
                    if await send(alice, message) is Answer.ACCEPTED:
                        sent.append(message)
                        return
                except DeliveryError:
                    await asyncio.sleep(0.01)
            raise AssertionError("not delivered")

        posting = [asyncio.create_task(deliver(message)) for message in messages[:100]]
        await eventually(lambda: len(sent) >= 50)
        posting += [asyncio.create_task(deliver(message)) for message in messages[100:]]
        first.room.stop()
        await first.listener.stop()  # it answers nobody from here on
        between.cut()
        await asyncio.gather(*posting)

        await eventually(lambda: set(bob.received) == set(messages))
        await empty(second)
        await alice.transport.stop()
        await bob.transport.stop()


async def test_a_fetch_at_one_relay_hears_what_another_takes(
    make_station: MakeStation, make_relayed: MakeNode, database: str
) -> None:
    first, second = await make_station(where=database), await make_station(where=database)
    await first.store.open_boxes([BOB])
    bob = await make_relayed(second.url, BOB)
    await eventually(lambda: second.room.polls() == 1)
    alice = await make_relayed(first.url, ALICE)

    await send(alice, sent := envelope())
    async with asyncio.timeout(5):
        await eventually(lambda: bob.received == [sent])


def test_an_endpoint_names_the_relay_and_where_it_is() -> None:
    assert RelayAddress(name="post", url="https://relay.example:8443").endpoint == "relay://post@relay.example:8443"
    assert relay_of("relay://post@relay.example:8443") == "post"
    for other in ("https://relay.example:8443", "relay://relay.example:8443", "relay://a@b@c:1", "relay://post@x:1/path", ""):
        assert relay_of(other) is None
