"""Nodes talk over real TLS on loopback: messages arrive, and every failure is told so that a person can act on it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from cryptography.x509 import SubjectAlternativeName, UniformResourceIdentifier, load_der_x509_certificate

from mpc.errors import Answer, ConfigError, IdentityError, RevokedError
from mpc.identity import Identity, Role
from nodes.transport.base import DeliveryError
from nodes.transport.https import HttpsTransport
from tests.nodes.transport.certificates import Authority, Files, Pair
from tests.nodes.transport.conftest import ALICE, BOB, HOSPITAL, Connect, MakeNode, Node, cut, post


async def failure(sender: Node, recipient: Identity, endpoint: str, message: bytes = b"hello") -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        await sender.transport.send(recipient, endpoint, message)
    return caught.value


async def test_messages_arrive_both_ways_with_the_proved_identity(make_node: MakeNode) -> None:
    hospital, alice = await make_node(HOSPITAL), await make_node(ALICE)
    assert await alice.send_to(hospital, b"from alice") is Answer.ACCEPTED
    assert await hospital.send_to(alice, b"from the hospital") is Answer.ACCEPTED
    assert hospital.received == [(b"from alice", ALICE)]
    assert alice.received == [(b"from the hospital", HOSPITAL)]


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3_000_001])
async def test_a_message_of_any_size_arrives_unchanged(make_node: MakeNode, size: int) -> None:
    hospital, alice = await make_node(HOSPITAL), await make_node(ALICE)
    message = (bytes(range(251)) * (size // 251 + 1))[:size]
    assert await alice.send_to(hospital, message) is Answer.ACCEPTED
    assert hospital.received == [(message, ALICE)]


@pytest.mark.parametrize("answer", list(Answer))
async def test_every_answer_comes_back_as_it_was_given(make_node: MakeNode, answer: Answer) -> None:
    hospital, alice = await make_node(HOSPITAL), await make_node(ALICE)
    hospital.answer = answer
    assert await alice.send_to(hospital) is answer


async def test_messages_one_after_another_share_a_connection(make_node: MakeNode) -> None:
    hospital, alice = await make_node(HOSPITAL), await make_node(ALICE)
    connections = 0

    async def count_and_forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await forward(reader, writer, hospital.transport.port)

    async with listener(count_and_forward) as port:
        for hospital.answer in Answer:
            assert await alice.transport.send(HOSPITAL, f"https://127.0.0.1:{port}", b"again") is hospital.answer
    assert connections == 1


async def test_a_kept_connection_that_the_server_closed_is_replaced_silently(make_node: MakeNode) -> None:
    hospital, alice = await make_node(HOSPITAL), await make_node(ALICE)
    connections = 0

    async def cut_the_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections > 1:
            await forward(reader, writer, hospital.transport.port)
            return
        # The first connection carries one exchange and dies when the second request arrives on it.
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", hospital.transport.port)
        replies = asyncio.create_task(pipe(inner_reader, writer))
        requests = asyncio.create_task(pipe(reader, inner_writer))
        await answered.wait()
        requests.cancel()
        await asyncio.wait([requests])
        await reader.read(1)
        await asyncio.gather(cut(writer), cut(inner_writer), replies, return_exceptions=True)

    answered = asyncio.Event()
    async with listener(cut_the_first) as port:
        endpoint = f"https://127.0.0.1:{port}"
        assert await alice.transport.send(HOSPITAL, endpoint, b"one") is Answer.ACCEPTED
        answered.set()
        assert await alice.transport.send(HOSPITAL, endpoint, b"two") is Answer.ACCEPTED
    assert connections == 2
    assert [message for message, _ in hospital.received] == [b"one", b"two"]


async def test_the_request_carries_no_needless_header(make_node: MakeNode, authority: Authority) -> None:
    alice, heads, names = await make_node(ALICE), list[bytes](), list[str | None]()
    async with tls_server(authority.issue(BOB), b"HTTP/1.1 202 OK\r\nContent-Length: 0\r\n\r\n", heads, names) as port:
        await alice.transport.send(BOB, f"https://127.0.0.1:{port}", b"")
    request, *headers = heads[0].decode().removesuffix("\r\n\r\n").split("\r\n")
    assert request == "POST /v1/inbox HTTP/1.1"
    assert sorted(line.partition(":")[0] for line in headers) == ["Content-Length", "Content-Type", "Host"]
    assert names == [None], "no server name travels in the clear"


async def test_the_answer_carries_no_needless_header(make_node: MakeNode, connect: Connect) -> None:
    client = await connect(await make_node(HOSPITAL))
    client.write(post())
    assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"


async def test_another_identity_than_expected_sees_no_byte_of_the_request(make_node: MakeNode) -> None:
    hospital, alice = await make_node(HOSPITAL), await make_node(ALICE)
    error = await failure(alice, BOB, hospital.endpoint)
    assert error.reason == "identity-mismatch"
    assert f"expected {BOB}, met {HOSPITAL}" in str(error)
    assert hospital.received == []
    assert await alice.send_to(hospital) is Answer.ACCEPTED


async def test_a_kept_connection_serves_no_other_expected_identity(make_node: MakeNode) -> None:
    hospital, alice = await make_node(HOSPITAL), await make_node(ALICE)
    await alice.send_to(hospital)
    assert (await failure(alice, BOB, hospital.endpoint)).reason == "identity-mismatch"
    assert len(hospital.received) == 1


async def test_a_server_of_another_authority_is_not_accepted(
    make_node: MakeNode, authority: Authority, stranger: Authority
) -> None:
    files = stranger.issue(HOSPITAL)
    impostor = await make_node(HOSPITAL, files=Files(files.key_file, files.certificate_file, authority.roots))
    error = await failure(await make_node(ALICE), HOSPITAL, impostor.endpoint)
    assert error.reason == "certificate"
    assert "same authority" in str(error)
    assert impostor.received == []


@pytest.mark.parametrize("size", [5, 1_000_000])
@pytest.mark.parametrize(
    ("days", "verdict"), [((-3, -1), "certificate expired"), ((-1, 5), "unknown ca")], ids=["expired", "stranger"]
)
async def test_a_client_hears_why_its_certificate_is_refused(
    make_node: MakeNode, authority: Authority, stranger: Authority, days: tuple[int, int], verdict: str, size: int
) -> None:
    files = (authority if days[1] < 0 else stranger).issue(ALICE, days=days)
    hospital = await make_node(HOSPITAL)
    alice = await make_node(ALICE, files=Files(files.key_file, files.certificate_file, authority.roots))
    error = await failure(alice, HOSPITAL, hospital.endpoint, bytes(size))
    assert error.reason == "certificate-refused"
    assert verdict in str(error)
    assert hospital.received == []
    assert hospital.refused == {"certificate": 1}


async def test_an_expired_server_is_not_accepted(make_node: MakeNode, authority: Authority) -> None:
    hospital = await make_node(HOSPITAL, files=authority.issue(HOSPITAL, days=(-3, -1)))
    error = await failure(await make_node(ALICE), HOSPITAL, hospital.endpoint)
    assert error.reason == "certificate"
    assert "expired" in str(error)


@pytest.mark.parametrize("uris", [(), (ALICE, BOB), ("spiffe://ward/janitor/alice",), ("https://alice.example",)])
async def test_a_client_needs_exactly_one_name_of_a_node(
    make_node: MakeNode, authority: Authority, uris: tuple[Identity | str, ...]
) -> None:
    hospital = await make_node(HOSPITAL)
    alice = await make_node(ALICE, files=authority.issue(*uris, dns=("alice.example",)))
    error = await failure(alice, HOSPITAL, hospital.endpoint)
    assert error.reason == "certificate-refused"
    assert hospital.received == []
    assert hospital.refused == {"certificate": 1}


async def test_a_role_that_may_not_send_here_is_rejected(make_node: MakeNode) -> None:
    hospital, alice = await make_node(HOSPITAL, roles=frozenset({Role.RELAY})), await make_node(ALICE)
    assert await alice.send_to(hospital) is Answer.REJECTED
    assert hospital.received == []
    assert hospital.refused == {"role": 1}


async def test_check_peer_decides_on_both_sides(make_node: MakeNode) -> None:
    def nobody(_chain: tuple[bytes, ...]) -> Identity:
        raise IdentityError("revoked")

    strict, alice = await make_node(HOSPITAL, check_peer=nobody), await make_node(ALICE)
    assert (await failure(alice, HOSPITAL, strict.endpoint)).reason == "certificate-refused"
    error = await failure(strict, ALICE, alice.endpoint)
    assert error.reason == "certificate"
    assert "revoked" in str(error)
    assert strict.received == alice.received == []


class Doorkeeper:
    """Refuses whom it has been told of. Who somebody is, it reads from the leaf."""

    def __init__(self) -> None:
        self.refused: set[Identity] = set()
        self.chains: list[tuple[bytes, ...]] = []

    def __call__(self, chain: tuple[bytes, ...]) -> Identity:
        self.chains.append(chain)
        names = load_der_x509_certificate(chain[0]).extensions.get_extension_for_class(SubjectAlternativeName).value
        [uri] = names.get_values_for_type(UniformResourceIdentifier)
        identity = Identity.parse(uri)
        if identity in self.refused:
            raise RevokedError(f"{identity} was revoked", uri)
        return identity


async def test_who_is_refused_later_loses_the_connections_that_it_has_and_gets_no_new_one(
    make_node: MakeNode, connect: Connect
) -> None:
    keeper = Doorkeeper()
    hospital, alice, bob = await make_node(HOSPITAL, check_peer=keeper), await make_node(ALICE), await make_node(BOB)
    silent, busy = await connect(hospital), await connect(hospital)
    busy.write(post(length=100))
    assert await alice.send_to(hospital) is await bob.send_to(hospital) is Answer.ACCEPTED
    assert hospital.transport.close_refused(keeper) == 0

    keeper.refused.add(ALICE)
    assert hospital.transport.close_refused(keeper) == 3, "her idle one, one that said nothing, one with a request half there"
    assert await silent.closed() == await busy.closed() == b""
    assert (await failure(alice, HOSPITAL, hospital.endpoint)).reason == "certificate-refused"
    assert hospital.refused["revoked"] == 1
    assert await bob.send_to(hospital) is Answer.ACCEPTED
    assert hospital.transport.connections() == 1


async def test_connections_to_a_peer_that_is_refused_later_are_cut_also_in_the_middle_of_a_request(make_node: MakeNode) -> None:
    keeper, waits = Doorkeeper(), asyncio.Event()
    alice, bob, hospital = await make_node(ALICE, check_peer=keeper), await make_node(BOB), await make_node(HOSPITAL)
    assert await alice.send_to(bob) is await alice.send_to(hospital) is Answer.ACCEPTED

    async def never(_message: bytes, _peer: Identity) -> Answer:
        waits.set()
        await asyncio.Event().wait()
        raise AssertionError

    slow = await make_node(BOB, receive=never)
    asking = asyncio.create_task(failure(alice, BOB, slow.endpoint))
    await waits.wait()
    keeper.refused.add(BOB)
    assert alice.transport.close_refused(keeper) == 2, "one that is kept for later, one in use"
    error = await asking
    assert error.reason in ("certificate", "certificate-refused", "revoked")
    assert (await failure(alice, BOB, bob.endpoint)).reason == "revoked"
    assert await alice.send_to(hospital) is Answer.ACCEPTED


async def test_an_error_of_the_receiver_stays_there(make_node: MakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    hospital, alice = await make_node(HOSPITAL), await make_node(ALICE)
    hospital.answer = ValueError("the value is 72")
    error = await failure(alice, HOSPITAL, hospital.endpoint)
    assert error.reason == "answer"
    assert hospital.refused == {"failed": 1}
    output = capsys.readouterr()
    assert "ValueError" in output.out + output.err
    assert "the value is" not in output.out + output.err
    hospital.answer = Answer.ACCEPTED
    assert await alice.send_to(hospital) is Answer.ACCEPTED


async def test_a_message_above_the_limit_is_not_sent(make_node: MakeNode) -> None:
    hospital, alice = await make_node(HOSPITAL), await make_node(ALICE, message_bytes=1000)
    assert (await failure(alice, HOSPITAL, hospital.endpoint, bytes(1001))).reason == "too-large"
    assert hospital.received == []


@pytest.mark.parametrize("size", [2000, 600_000])
async def test_a_message_above_the_recipients_limit_is_told_so(make_node: MakeNode, size: int) -> None:
    hospital, alice = await make_node(HOSPITAL, message_bytes=1000), await make_node(ALICE)
    assert (await failure(alice, HOSPITAL, hospital.endpoint, bytes(size))).reason == "too-large"
    assert hospital.received == []
    assert await alice.send_to(hospital) is Answer.ACCEPTED


async def test_nobody_listening_is_told_so(make_node: MakeNode) -> None:
    hospital, alice = await make_node(HOSPITAL), await make_node(ALICE)
    endpoint = hospital.endpoint
    await hospital.transport.stop()
    assert (await failure(alice, HOSPITAL, endpoint)).reason == "refused"


async def test_an_unknown_host_is_told_so(make_node: MakeNode) -> None:
    alice = await make_node(ALICE)
    assert (await failure(alice, HOSPITAL, "https://no-such-host.invalid:8443")).reason == "dns"


@pytest.mark.parametrize(
    "endpoint",
    ["http://127.0.0.1:1", "127.0.0.1:1", "https://u:p@127.0.0.1:1", "https://127.0.0.1:1/x", "https://[", ""],
)
async def test_only_an_https_address_of_host_and_port_is_used(make_node: MakeNode, endpoint: str) -> None:
    assert (await failure(await make_node(ALICE), HOSPITAL, endpoint)).reason == "endpoint"


async def test_a_silent_server_is_given_up(make_node: MakeNode) -> None:
    alice = await make_node(ALICE, connect_seconds=0.1)

    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listener(silent) as port:
        assert (await failure(alice, HOSPITAL, f"https://127.0.0.1:{port}")).reason == "timeout"


async def test_an_answer_that_does_not_come_is_given_up(make_node: MakeNode) -> None:
    hospital, alice = await make_node(HOSPITAL), await make_node(ALICE, send_seconds=0.2)
    forever = asyncio.Event()

    async def never(_message: bytes, _peer: Identity) -> Answer:
        await forever.wait()
        return Answer.ACCEPTED

    slow = await make_node(BOB)
    await slow.transport.stop()
    await slow.transport.start(never)
    assert (await failure(alice, BOB, slow.endpoint)).reason == "timeout"
    forever.set()
    assert await alice.send_to(hospital) is Answer.ACCEPTED


async def test_a_plain_http_server_is_told_so(make_node: MakeNode) -> None:
    alice = await make_node(ALICE)

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with listener(plain) as port:
        assert (await failure(alice, HOSPITAL, f"https://127.0.0.1:{port}")).reason == "tls"


async def test_a_redirect_is_not_followed(make_node: MakeNode, authority: Authority) -> None:
    alice, hospital = await make_node(ALICE), await make_node(HOSPITAL)
    reply = f"HTTP/1.1 307 Go\r\nLocation: {hospital.endpoint}/v1/inbox\r\nContent-Length: 0\r\n\r\n".encode()
    async with tls_server(authority.issue(HOSPITAL), reply) as port:
        assert (await failure(alice, HOSPITAL, f"https://127.0.0.1:{port}")).reason == "answer"
    assert hospital.received == []


async def test_an_answer_that_is_not_http_is_told_so(make_node: MakeNode, authority: Authority) -> None:
    alice = await make_node(ALICE)
    async with tls_server(authority.issue(HOSPITAL), b"220 mail.example ESMTP\r\n\r\n") as port:
        assert (await failure(alice, HOSPITAL, f"https://127.0.0.1:{port}")).reason == "protocol"


async def test_a_port_in_use_is_a_clear_error(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        transport = transport_at(f"127.0.0.1:{taken.getsockname()[1]}", authority)
        with pytest.raises(ConfigError, match="another program uses that port"):
            await transport.start(no_receiver)
        await transport.stop()


@pytest.mark.parametrize("listen", ["8443", ":8443", "host:", "host:99999", "::1:8443", "https://host:1", "a b:1"])
def test_a_listen_address_is_host_and_port(authority: Authority, listen: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        transport_at(listen, authority)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
async def test_an_ipv6_address_is_listened_on(make_node: MakeNode, authority: Authority) -> None:
    alice, transport = await make_node(ALICE), transport_at("[::1]:0", authority)

    async def accept(_message: bytes, _peer: Identity) -> Answer:
        return Answer.ACCEPTED

    try:
        await transport.start(accept)
    except ConfigError:
        pytest.skip("no IPv6 loopback here")
    try:
        assert await alice.transport.send(HOSPITAL, f"https://[::1]:{transport.port}", b"x") is Answer.ACCEPTED
    finally:
        await transport.stop()


async def test_reload_serves_the_new_certificate_and_keeps_connections(
    make_node: MakeNode, connect: Connect, authority: Authority
) -> None:
    hospital = await make_node(HOSPITAL)
    client = await connect(hospital)
    client.write(post())
    assert await client.status() == 202
    old = client.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    new = authority.issue(HOSPITAL)
    hospital.transport.reload(new.pair, new.roots)
    client.write(post())
    assert await client.status() == 202
    fresh = await connect(hospital)
    assert fresh.writer.get_extra_info("ssl_object").getpeercert(binary_form=True) != old


async def test_a_reload_that_fails_changes_nothing(make_node: MakeNode, authority: Authority) -> None:
    hospital, alice = await make_node(HOSPITAL), await make_node(ALICE)
    one, two = authority.issue(HOSPITAL), authority.issue(HOSPITAL)
    with pytest.raises(IdentityError, match="issued together"):
        hospital.transport.reload(Pair(one.pair.private_key, two.pair.chain), one.roots)
    assert await alice.send_to(hospital) is Answer.ACCEPTED


async def test_stop_lets_a_request_under_way_finish(make_node: MakeNode) -> None:
    alice, bob = await make_node(ALICE), await make_node(BOB)
    await bob.transport.stop()
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_message: bytes, _peer: Identity) -> Answer:
        arrived.set()
        await go_on.wait()
        return Answer.ACCEPTED

    await bob.transport.start(slow)
    sending = asyncio.create_task(alice.send_to(bob))
    await arrived.wait()
    stopping = asyncio.create_task(bob.transport.stop())
    await asyncio.sleep(0)
    go_on.set()
    assert await sending is Answer.ACCEPTED
    await stopping
    assert (await failure(bob, ALICE, alice.endpoint)).reason == "stopped"


async def test_stop_cancels_what_does_not_finish(make_node: MakeNode) -> None:
    alice, bob = await make_node(ALICE), await make_node(BOB, stop_seconds=0.1)
    await bob.transport.stop()
    arrived, cancelled = asyncio.Event(), asyncio.Event()

    async def stuck(_message: bytes, _peer: Identity) -> Answer:
        arrived.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return Answer.ACCEPTED

    await bob.transport.start(stuck)
    sending = asyncio.create_task(failure(alice, BOB, bob.endpoint))
    await arrived.wait()
    await bob.transport.stop()
    assert cancelled.is_set()
    await sending


# What the tests above stand on


async def no_receiver(_message: bytes, _peer: Identity) -> Answer:
    raise AssertionError("nothing was sent")


def transport_at(listen: str, authority: Authority) -> HttpsTransport:
    files = authority.issue(HOSPITAL)
    return HttpsTransport(
        listen,
        proof=files.pair,
        roots=files.roots,
        roles=frozenset(Role),
    )


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listener(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server of the test's own; its port. Connections still open at the end are cut."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        except (OSError, asyncio.CancelledError, asyncio.IncompleteReadError):
            pass
        finally:
            await cut(writer)

    server = await asyncio.start_server(run, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def tls_server(
    files: Files, reply: bytes, heads: list[bytes] | None = None, names: list[str | None] | None = None
) -> AbstractAsyncContextManager[int]:
    """A server with that certificate that gives each request the same reply; notes request heads and SNI names."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if heads is not None:
            heads.append(head)
        writer.write(reply)
        await reader.read()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate_file, files.key_file)
    context.set_alpn_protocols(["http/1.1"])
    if names is not None:
        context.sni_callback = lambda _connection, name, _context: names.append(name)
    return listener(serve, context)


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Carries bytes to and from another port until either end closes."""
    inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
    tasks = [asyncio.create_task(pipe(reader, inner_writer)), asyncio.create_task(pipe(inner_reader, writer))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cut(inner_writer)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
