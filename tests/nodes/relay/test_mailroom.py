"""The relay over HTTP: who may ask for what, what each gets, and how bad requests end."""

from __future__ import annotations

import asyncio
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from mpc.envelope import Place, write_unsealed
from mpc.identity import Identity, Role
from mpc.keys import RoundKey, publish
from mpc.mailbox import PublishedKey, Quota, Rules
from mpc.messages import Kind
from mpc.wire import encode
from nodes.transport.base import DeliveryError
from tests.mpc.nodes import CONSORTIUM, HOSPITAL, ROUND, keyring
from tests.nodes.relay.conftest import (
    ALICE,
    AMPLE,
    BOB,
    CHARLIE,
    MakeClient,
    MakeStation,
    Station,
    envelope,
    eventually,
)
from tests.nodes.transport.certificates import Authority, Files
from tests.nodes.transport.conftest import cut, plain_context

ACCEPTED, LATER, REJECTED, REFUSED = 0, 1, 3, 4


def batch(*envelopes: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(raw)) + raw for raw in envelopes)


def fetched(body: bytes) -> list[tuple[int, bytes]]:
    found = []
    while body:
        number, size = struct.unpack(">QI", body[:12])
        found.append((number, body[12 : 12 + size]))
        body = body[12 + size :]
    return found


@pytest.fixture
async def station(make_station: MakeStation) -> Station:
    station = await make_station()
    await station.store.open_boxes([ALICE, BOB])
    return station


# -- posted and fetched


async def test_what_one_posts_the_other_fetches(station: Station, make_client: MakeClient) -> None:
    alice, bob = make_client(station, ALICE), make_client(station, BOB)
    first, second, third = envelope(), envelope(), envelope()

    assert await alice.ask("POST", "/v1/mail", batch(first, second)) == (200, bytes([ACCEPTED, ACCEPTED]))
    assert await alice.ask("POST", "/v1/mail", batch(third)) == (200, bytes([ACCEPTED]))
    status, body = await bob.ask("GET", "/v1/mail")

    assert (status, fetched(body)) == (200, [(1, first), (2, second), (3, third)])
    assert fetched((await bob.ask("GET", "/v1/mail?finished=2"))[1]) == [(3, third)]
    assert (await bob.ask("GET", "/v1/mail?finished=3")) == (200, b"")
    assert station.posted == {"taken": 3}


async def test_a_mailbox_is_its_owners_alone(station: Station, make_client: MakeClient) -> None:
    alice = make_client(station, ALICE)
    await alice.ask("POST", "/v1/mail", batch(envelope()))

    assert (await alice.ask("GET", "/v1/mail")) == (200, b"")
    assert (await make_client(station, CHARLIE).ask("GET", "/v1/mail")) == (200, b"")
    assert (await alice.ask("GET", "/v1/mail?owner=patient/bob"))[0] == 400
    assert len(fetched((await make_client(station, BOB).ask("GET", "/v1/mail"))[1])) == 1


async def test_a_fetch_waits_for_mail_and_returns_with_it(station: Station, make_client: MakeClient) -> None:
    alice, bob = make_client(station, ALICE), make_client(station, BOB)
    waiting = asyncio.create_task(bob.ask("GET", "/v1/mail?wait=30"))
    await eventually(lambda: station.room.polls() == 1)
    sent = envelope()
    await alice.ask("POST", "/v1/mail", batch(sent))

    async with asyncio.timeout(5):
        assert fetched((await waiting)[1]) == [(1, sent)]


async def test_a_second_fetch_takes_the_place_of_the_first(station: Station, make_client: MakeClient) -> None:
    bob = make_client(station, BOB)
    first = asyncio.create_task(bob.ask("GET", "/v1/mail?wait=30"))
    await eventually(lambda: station.room.polls() == 1)
    second = asyncio.create_task(make_client(station, BOB).ask("GET", "/v1/mail?wait=30"))

    async with asyncio.timeout(5):
        assert await first == (200, b"")
    assert not second.done()
    station.room.stop()
    async with asyncio.timeout(5):
        assert await second == (200, b"")


async def test_each_message_of_a_batch_has_its_own_answer(station: Station, make_client: MakeClient) -> None:
    good, cut, stranger = envelope(), envelope()[:-1], envelope(to=CHARLIE)
    forged, foreign = envelope(sender=BOB), b"\2" + envelope()[1:]
    bare, _ = write_unsealed(
        Kind.INVITATION, b"q", Place(ROUND, bytes(32)), keyring=keyring(ALICE), round_key=RoundKey(bytes), recipient=BOB
    )
    status, answers = await make_client(station).ask("POST", "/v1/mail", batch(good, cut, stranger, forged, foreign, bare, good))

    assert (status, list(answers)) == (200, [ACCEPTED, REJECTED, REFUSED, REFUSED, REJECTED, REFUSED, ACCEPTED])
    assert station.posted == {
        "taken": 1,
        "encoding": 1,
        "unknown-recipient": 1,
        "sender": 1,
        "version": 1,
        "unsealed": 1,
        "duplicate": 1,
    }
    assert [raw for _, raw in fetched((await make_client(station, BOB).ask("GET", "/v1/mail"))[1])] == [good]


async def test_over_quota_is_later_with_a_time_to_come_back(make_station: MakeStation, make_client: MakeClient) -> None:
    station = await make_station(rules=Rules(AMPLE, Quota(2, 1 << 20), 3600.0, 1 << 20))
    await station.store.open_boxes([BOB])
    alice, bob = make_client(station, ALICE), make_client(station, BOB)

    partly = await alice.ask("POST", "/v1/mail", batch(envelope(), envelope(), envelope()))
    fully = await alice.ask("POST", "/v1/mail", batch(kept := envelope()))
    assert (partly, fully) == ((200, bytes([ACCEPTED, ACCEPTED, LATER])), (429, bytes([LATER])))
    assert int(alice.headers["Retry-After"]) >= 1

    await bob.ask("GET", "/v1/mail?finished=1")
    assert await alice.ask("POST", "/v1/mail", batch(kept)) == (200, bytes([ACCEPTED]))


async def test_mail_of_rounds_long_over_is_not_handed_out(make_station: MakeStation, make_client: MakeClient) -> None:
    station = await make_station(rules=Rules(AMPLE, AMPLE, 0.0, 1 << 20))
    await station.store.open_boxes([BOB])
    await make_client(station).ask("POST", "/v1/mail", batch(envelope()))

    assert await make_client(station, BOB).ask("GET", "/v1/mail") == (200, b"")


async def test_whoever_has_asked_for_anything_can_be_written_to(station: Station, make_client: MakeClient) -> None:
    """So that a node which has posted gets its answers, though it has not fetched from this relay yet."""
    alice, charlie = make_client(station, ALICE), make_client(station, CHARLIE)
    assert await alice.ask("POST", "/v1/mail", batch(envelope(to=CHARLIE))) == (200, bytes([REFUSED]))
    await charlie.ask("GET", "/v1/key/patient/bob")

    assert await alice.ask("POST", "/v1/mail", batch(envelope(to=CHARLIE))) == (200, bytes([ACCEPTED]))


# -- bad requests


@pytest.mark.parametrize(
    "body",
    [b"", b"\0", b"\0\0\0", b"\0\0\0\5abcd", b"\xff\xff\xff\xff", batch(b"x")[:-1], batch(b"") + b"\0"],
    ids=["empty", "one byte", "half a length", "a byte short", "4 GB announced", "cut", "a byte too many"],
)
async def test_a_batch_that_is_cut_off_is_refused_as_a_whole(station: Station, make_client: MakeClient, body: bytes) -> None:
    good = envelope()
    alice = make_client(station)
    status, _ = await alice.ask("POST", "/v1/mail", body and batch(good) + body, **({} if body else {"Content-Length": "0"}))

    assert status == 400
    assert (await station.store.depth()).messages == 0


async def test_a_batch_that_is_too_large_is_refused_unread(make_station: MakeStation, make_client: MakeClient) -> None:
    station = await make_station(rules=Rules(AMPLE, AMPLE, 60.0, 1 << 16))
    await station.store.open_boxes([BOB])
    alice = make_client(station)
    large = envelope(payload=bytes(1 << 16))

    assert await alice.ask("POST", "/v1/mail", batch(large)) == (200, bytes([REJECTED])), "above the limit for one message"
    with suppress(DeliveryError):  # the connection may go before the client has written it all
        assert (await alice.ask("POST", "/v1/mail", batch(*[large] * 20)))[0] == 413
    assert station.refused["too-large"] == 1
    assert (await alice.ask("POST", "/v1/mail", batch(*[b""] * 1025)))[0] == 413


@pytest.mark.parametrize(
    "query",
    [
        "finished=-1",
        "finished=x",
        "after=1.5",
        "wait=",
        "limit=%31%30x",
        "finished=" + "9" * 20,
        "finished=9999999999999999999",
        "who=1",
    ],
)
async def test_a_query_that_makes_no_sense_is_refused(station: Station, make_client: MakeClient, query: str) -> None:
    assert (await make_client(station, BOB).ask("GET", f"/v1/mail?{query}"))[0] == 400


async def test_a_cursor_beyond_the_end_is_refused_and_nothing_deleted(station: Station, make_client: MakeClient) -> None:
    await make_client(station).ask("POST", "/v1/mail", batch(envelope()))
    bob = make_client(station, BOB)

    assert (await bob.ask("GET", "/v1/mail?finished=2"))[0] == 409
    assert (await bob.ask("GET", f"/v1/mail?after={2**63 - 1}"))[0] == 409
    assert len(fetched((await bob.ask("GET", "/v1/mail"))[1])) == 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "/v1/mail", 405),
        ("POST", "/v1/key", 405),
        ("GET", "/", 404),
        ("GET", "/v1/mailx", 404),
        ("POST", "/v1/inbox", 404),
    ],
)
async def test_there_is_nothing_else(station: Station, make_client: MakeClient, method: str, path: str, status: int) -> None:
    assert (await make_client(station).ask(method, path, b"x"))[0] == status


@pytest.mark.parametrize(
    "identity",
    [
        Identity(CONSORTIUM, Role.MODEL, "oracle"),
        Identity(CONSORTIUM, Role.RELAY, "other"),
        Identity("elsewhere", Role.PATIENT, "eve"),
    ],
    ids=str,
)
async def test_other_roles_and_consortiums_are_not_served(station: Station, make_client: MakeClient, identity: Identity) -> None:
    assert (await make_client(station, identity).ask("GET", "/v1/mail"))[0] == 403
    assert station.refused == {"role": 1}


async def test_a_node_of_an_unknown_authority_does_not_get_in(station: Station, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "another authority").issue(BOB)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", station.listener.port, ssl=plain_context(stranger), server_hostname=""
    )
    writer.write(b"GET /v1/mail HTTP/1.1\r\nHost: relay\r\n\r\n")
    with suppress(OSError):  # an alert, or just the end
        assert await reader.read() == b""
    await cut(writer)
    assert station.refused == {"certificate": 1}


async def test_a_slow_reader_is_cut_off_and_loses_nothing(make_station: MakeStation, make_client: MakeClient) -> None:
    station = await make_station(rules=Rules(AMPLE, AMPLE, 3600.0, 24 << 20), send_seconds=0.2, bytes_per_second=1 << 30)
    await station.store.open_boxes([BOB])
    large = envelope(payload=bytes(20 << 20))
    assert await make_client(station).ask("POST", "/v1/mail", batch(large)) == (200, bytes([ACCEPTED]))
    bob = make_client(station, BOB)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", station.listener.port, ssl=bob.client.context, server_hostname="spiffe://demo/relay/post", limit=1 << 10
    )
    writer.write(b"GET /v1/mail HTTP/1.1\r\nHost: relay\r\n\r\n")
    await reader.readline()

    await eventually(lambda: station.refused["slow-reader"] == 1)
    await cut(writer)
    assert fetched((await bob.ask("GET", "/v1/mail"))[1]) == [(1, large)]


async def test_a_store_that_fails_is_a_passing_fault(station: Station, make_client: MakeClient) -> None:
    alice = make_client(station)
    await station.store.close()

    assert (await alice.ask("POST", "/v1/mail", batch(envelope())))[0] == 503
    assert "Retry-After" in alice.headers
    assert (await alice.ask("GET", "/v1/mail"))[0] == 503
    assert (await alice.ask("GET", "/v1/key/patient/bob"))[0] == 503
    assert station.refused == {"store": 3}
    assert station.failed == {"closed": 3}


# -- guests who mean harm, and a node that is served all the same


async def is_served(station: Station, make_client: MakeClient) -> bool:
    return await make_client(station).ask("POST", "/v1/mail", batch(envelope())) == (200, bytes([ACCEPTED]))


@pytest.fixture
def many_files() -> Iterator[None]:
    """Lets this process open 1,000 sockets and their other ends."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("many_files")
async def test_1000_silent_connections_keep_nobody_else_out(make_station: MakeStation, make_client: MakeClient) -> None:
    station = await make_station(connections=60, handshakes_per_address=40, handshake_seconds=0.5)
    await station.store.open_boxes([BOB])
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        for _ in range(1000):
            silent = stack.enter_context(socket.socket())
            silent.setblocking(False)
            await loop.sock_connect(silent, ("127.0.0.1", station.listener.port))
        await eventually(lambda: station.refused["address"] >= 900)
        await eventually(lambda: station.refused["address"] + station.refused["handshake-timeout"] == 1000)
        assert station.refused["handshake-timeout"] >= 40
        assert await is_served(station, make_client)


HEAD = b"POST /v1/mail HTTP/1.1\r\nHost: relay\r\nContent-Type: application/octet-stream\r\n"


@pytest.mark.parametrize(
    ("head", "drop", "reason"),
    [
        (HEAD + b"X: ", b"x", "header-timeout"),
        (HEAD + b"Content-Length: 1000\r\n\r\n", b"x", "body-timeout"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"4000\r\n" + bytes(0x4000) + b"\r\n", "length"),
    ],
    ids=["a head by the byte", "a body by the byte", "a body without end"],
)
async def test_a_request_without_end_is_cut_off(
    make_station: MakeStation, make_client: MakeClient, head: bytes, drop: bytes, reason: str
) -> None:
    station = await make_station(header_seconds=0.3, body_seconds=0.3, bytes_per_second=1 << 30)
    await station.store.open_boxes([BOB])
    context = make_client(station).client.context
    _, writer = await asyncio.open_connection(
        "127.0.0.1", station.listener.port, ssl=context, server_hostname="spiffe://demo/relay/post"
    )
    writer.write(head)

    async def refused() -> bool:
        with suppress(OSError):
            writer.write(drop)
            await writer.drain()
        return station.refused[reason] == 1

    await eventually(refused)
    await cut(writer)
    assert await is_served(station, make_client)
    assert (await station.store.depth()).messages == 1


# -- keys


@pytest.fixture(scope="module")
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def published(files: Files, identity: Identity, private_key: rsa.RSAPrivateKey, now: float) -> bytes:
    signing_key: Any = load_pem_private_key(files.key_file.read_bytes(), None)
    assert isinstance(signing_key, ec.EllipticCurvePrivateKey)
    chain = (load_pem_x509_certificate(files.certificate_file.read_bytes()).public_bytes(Encoding.DER),)
    return encode(PublishedKey(chain, publish(identity, signing_key, private_key, now).statement))


async def test_a_published_key_is_there_for_others(
    station: Station, make_client: MakeClient, files: Callable[[Identity], Files], private_key: rsa.RSAPrivateKey
) -> None:
    key = published(files(ALICE), ALICE, private_key, time.time())
    hospital = make_client(station, HOSPITAL)

    assert (await hospital.ask("GET", "/v1/key/patient/alice"))[0] == 404
    assert (await make_client(station, ALICE).ask("PUT", "/v1/key", key))[0] == 204
    assert await hospital.ask("GET", "/v1/key/patient/alice") == (200, key)
    for path in ("hospital/alice", "patient/Alice", "patient/", "doctor/alice", "patient/alice/x"):
        assert (await hospital.ask("GET", f"/v1/key/{path}"))[0] == 404


async def test_nobody_publishes_anothers_key_or_an_old_one(
    station: Station, make_client: MakeClient, files: Callable[[Identity], Files], private_key: rsa.RSAPrivateKey
) -> None:
    alice = make_client(station, ALICE)
    theirs = published(files(BOB), BOB, private_key, time.time())
    old = published(files(ALICE), ALICE, private_key, time.time() - 40 * 24 * 3600)

    ahead = published(files(ALICE), ALICE, private_key, time.time() + 3600)  # by a node whose clock is an hour off
    for key in (theirs, old, ahead, b"no key", theirs[:-1]):
        assert (await alice.ask("PUT", "/v1/key", key))[0] == 409
    assert (await alice.ask("GET", "/v1/key/patient/bob"))[0] == 404
    assert (await alice.ask("GET", "/v1/key/patient/alice"))[0] == 404
