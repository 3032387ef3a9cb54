"""The door: a token gets one certificate, once; whoever has none hears one word, is counted, slowed, and learns nothing."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import structlog
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from mpc.errors import IdentityError, TemporaryError
from mpc.identity import Identity
from nodes.enrolment.visit import Granted, visit
from nodes.log import configure
from nodes.transport.guard import proved_peer
from nodes.transport.limits import Limits
from nodes.transport.listener import Listener
from nodes.transport.tls import server_context, strangers_context
from pki.authority import Authority
from pki.node import NodeKey
from pki.request import make_request
from pki.token import Token
from tests.nodes.enrolment.conftest import ALICE, BOB, GENERAL, House, node_key
from tests.pki.forge import p256

KEY = p256()
REQUEST = make_request(KEY, "alice")


@pytest.fixture(autouse=True)
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    root = logging.getLogger()
    before = list(root.handlers)
    configure("debug", "json", stream)
    yield stream
    structlog.reset_defaults()
    root.handlers[:] = before


async def come(token: Token, key: ec.EllipticCurvePrivateKey = KEY) -> Granted:
    return await visit(token, make_request(key, "x"), time.time())


def application(token: Token, request: bytes = REQUEST, **changed: object) -> bytes:
    fields = {"identity": token.identity.uri, "secret": token.secret, "request": request.decode()}
    return msgspec.json.encode(fields | changed)


async def refusal(token: Token, kind: type[Exception] = IdentityError) -> str:
    with pytest.raises(kind) as caught:
        await come(token)
    return str(caught.value)


async def test_a_token_gets_a_certificate_in_its_name_with_what_was_granted(house: House, log: io.StringIO) -> None:
    token = house.token(dns=["alice.example"])
    granted = await come(token)
    leaf = granted.chain[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://demo/patient/alice"]
    assert names.get_values_for_type(x509.DNSName) == ["alice.example"]
    assert leaf.public_key() == KEY.public_key()
    leaf.verify_directly_issued_by(granted.chain[1])
    granted.chain[1].verify_directly_issued_by(granted.root)
    assert granted.service_url == "https://127.0.0.1:7000"
    serial = f"{leaf.serial_number:x}"
    said = {"identity": ALICE.uri, "serial": serial, "token": token.digest[:16], "address": "127.0.0.1"}
    assert house.audited == [("enrolled", said)]
    assert said.items() <= json.loads(log.getvalue().splitlines()[-1]).items()
    assert house.count("enrolled") == 1


async def test_anybody_may_have_the_root_which_is_public(house: House) -> None:
    status, headers, body = await house.say(b"GET /v1/authority HTTP/1.1\r\nHost: h\r\n\r\n")
    assert (status, headers["content-type"]) == (200, "application/x-pem-file")
    root = x509.load_pem_x509_certificate(body).public_bytes(Encoding.DER)
    assert hashlib.sha256(root).digest() == house.token().root


async def test_every_bad_token_hears_the_same_word_and_the_log_says_which_fault_it_was(house: House, log: io.StringIO) -> None:
    used, withdrawn, guessed = house.token(), house.token(BOB), house.token()
    late = house.token(seconds=1, at=time.time() - 60)
    await come(used)
    house.authority.revoke_identity(BOB, "unspecified", time.time())
    other = make_request(p256(), "alice")
    bodies = {
        "used": application(used, other),
        "withdrawn": application(withdrawn, other, identity=BOB.uri),
        "late": application(late, other),
        "other-name": application(house.token(), other, identity=BOB.uri),
        "unknown": application(guessed, other, secret=bytes(32)),
    }
    for outcome, body in bodies.items():
        status, _, word = await house.post(body)
        assert (status, word) == (403, b"refused"), outcome
        assert house.count(outcome) == 1
        assert json.loads(log.getvalue().splitlines()[-1])["outcome"] == outcome
    assert [content["outcome"] for event, content in house.audited if event == "enrolment-refused"] == list(bodies)


async def test_no_secret_is_in_the_log_or_the_audit_log(house: House, log: io.StringIO) -> None:
    token = house.token()
    await house.post(application(token, identity=BOB.uri))
    await come(token)
    for text in (log.getvalue(), repr(house.audited)):
        assert token.secret.hex() not in text
        assert msgspec.json.encode(token.secret).decode().strip('"=')[:40] not in text
        assert token.encode() not in text


async def test_the_same_key_gets_the_same_certificate_again_because_an_answer_may_be_lost(house: House) -> None:
    token = house.token()
    first, second = await come(token), await come(token)
    assert first.chain == second.chain
    assert len(house.authority.register.read().used) == 1
    assert "does not take this token" in await _with_another_key(token)
    house.authority.revoke_identity(ALICE, "keyCompromise", time.time())
    assert "does not take this token" in await refusal(token)


async def _with_another_key(token: Token) -> str:
    with pytest.raises(IdentityError) as caught:
        await come(token, p256())
    return str(caught.value)


async def test_two_at_once_with_one_token_are_one_certificate(house: House) -> None:
    token = house.token()
    answers = await asyncio.gather(*(come(token, p256()) for _ in range(4)), return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in answers) == ["Granted", *["IdentityError"] * 3]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff" * 100,
        json.dumps({"identity": ALICE.uri, "secret": "AAAA", "request": REQUEST.decode()}).encode(),
        json.dumps({"identity": "alice", "secret": "A" * 43 + "=", "request": REQUEST.decode()}).encode(),
        json.dumps({"identity": ALICE.uri, "secret": "A" * 43 + "=", "request": "x"}).encode(),
        json.dumps({"identity": ALICE.uri, "secret": "A" * 43 + "=", "request": REQUEST.decode(), "admin": True}).encode(),
    ],
)
async def test_what_is_no_application_is_refused(house: House, body: bytes) -> None:
    status, _, word = await house.post(body)
    assert (status, word) == (400, b"malformed")
    assert house.count("malformed") == 1


async def test_a_request_that_is_not_signed_by_its_own_key_is_refused(house: House) -> None:
    genuine = x509.load_pem_x509_csr(REQUEST).public_bytes(Encoding.DER)
    stolen = genuine[:-4] + bytes(octet ^ 1 for octet in genuine[-4:])
    token = house.token()
    pem = x509.load_der_x509_csr(stolen).public_bytes(Encoding.PEM)
    assert (await house.post(application(token, pem)))[0] == 400
    assert not house.authority.register.read().used


async def test_nothing_else_is_served_and_large_bodies_are_not_read(house: House) -> None:
    head = b" HTTP/1.1\r\nHost: h\r\n"
    assert (await house.say(b"GET /v1/enroll" + head + b"\r\n"))[:1] == (405,)
    assert (await house.say(b"POST /v1/authority" + head + b"Content-Length: 0\r\n\r\n"))[0] == 405
    for path in (b"/", b"/v1/inbox", b"/v1/renew", b"/v1/revocations", b"/metrics", b"/v1//enroll"):
        assert (await house.say(b"GET " + path + head + b"\r\n"))[0] == 404, path
    assert (await house.post(b"", kind="text/plain"))[0] == 415
    length = b"Content-Type: application/json\r\nContent-Length: 10000000\r\n\r\n"
    assert (await house.say(b"POST /v1/enroll" + head + length))[0] == 413
    chunked = b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert (await house.say(b"POST /v1/enroll" + head + chunked))[0] == 411


async def test_who_guesses_is_told_to_wait_and_who_has_a_token_is_not_held_up_by_using_it(house: House) -> None:
    token = house.token()
    for _ in range(10):
        assert (await house.post(application(token, secret=bytes(32))))[0] == 403
    status, headers, _ = await house.post(application(token, secret=bytes(32)))
    assert status == 429
    assert 1 <= int(headers["retry-after"]) <= 6
    assert house.refused["rate"] == 1
    assert "try again in" in await refusal(token, TemporaryError)


async def test_who_sends_what_is_no_application_is_told_to_wait_before_others_are(house: House) -> None:
    for _ in range(10):
        assert (await house.post(b"", kind="text/plain"))[0] == 415
    assert (await house.post(b"", kind="text/plain"))[0] == 429


async def test_while_the_authority_is_away_a_token_stays_good(house: House, log: io.StringIO) -> None:
    token, directory = house.token(), house.authority.directory
    away = directory.with_name("away")
    directory.rename(away)
    assert "cannot sign now, its log says why; try again later" in await refusal(token, TemporaryError)
    assert "cannot write" in json.loads(log.getvalue().splitlines()[-1])["reason"]
    assert house.count("failed") == 1
    away.rename(directory)
    assert (await come(token)).chain


async def test_a_damaged_register_stops_enrolment_and_the_log_says_where(house: House, log: io.StringIO) -> None:
    token = house.token()
    with house.authority.register.path.open("r+b") as file:
        file.write(b"x")
    assert "cannot sign now" in await refusal(token, TemporaryError)
    assert "line 1" in json.loads(log.getvalue().splitlines()[-1])["reason"]


# ---- the visitor


@asynccontextmanager
async def impostor(proof: NodeKey, root: Authority, genuine: Token) -> AsyncIterator[tuple[Token, list[bytes]]]:
    """Whoever holds `proof` answers everything with the certificate of `root`. The token that leads there, and what is heard."""
    heard: list[bytes] = []
    pem = root.root.x509.public_bytes(Encoding.PEM)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            heard.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(pem), pem))
            await writer.drain()
        writer.transport.abort()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=strangers_context(proof))
    async with server:
        yield replace(genuine, address=f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"), heard


async def test_who_has_another_authority_hears_no_token(house: House, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", "demo", time.time())
    async with impostor(node_key(other, GENERAL, tmp_path / "there"), other, house.token()) as (token, heard):
        assert "has another authority than the token, which was not sent to it; somebody may be in between" in await refusal(
            token
        )
    assert [line.split()[0] for line in heard] == [b"GET"]


async def test_who_has_the_right_authority_to_show_but_no_certificate_of_it_hears_no_token(house: House, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", "demo", time.time())
    async with impostor(node_key(other, GENERAL, tmp_path / "there"), house.authority, house.token()) as (token, heard):
        assert "is not accepted" in await refusal(token)
    assert [line.split()[0] for line in heard] == [b"GET"]


async def test_another_node_of_the_consortium_hears_no_token(house: House, tmp_path: Path) -> None:
    async with impostor(node_key(house.authority, BOB, tmp_path / "there"), house.authority, house.token()) as (token, heard):
        assert "expected spiffe://demo/hospital/general, met spiffe://demo/patient/bob" in await refusal(token)
    assert heard == []


async def test_an_address_where_messages_are_taken_is_not_the_door_and_that_is_said(house: House, tmp_path: Path) -> None:
    proof = node_key(house.authority, GENERAL, tmp_path / "there")
    listener = Listener(
        "127.0.0.1:0", server_context(proof, [house.authority.root.der]), Limits(linger_seconds=0.1), lambda _: None, proved_peer
    )

    async def handle(request: web.BaseRequest, peer: Identity) -> web.StreamResponse:
        raise AssertionError

    await listener.start(handle)
    said = await refusal(replace(house.token(), address=f"https://127.0.0.1:{listener.port}"), TemporaryError)
    await listener.stop()
    assert "is that where nodes enrol ('enrolment.listen')" in said


async def test_nobody_at_the_address_is_a_fault_that_may_pass(house: House) -> None:
    token = house.token()
    await house.door.stop()
    assert "nothing listens for" in await refusal(token, TemporaryError)
