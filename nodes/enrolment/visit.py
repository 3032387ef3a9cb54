"""A new node goes to the door with its token: it makes sure of the authority before it says anything, then gets its certificate.

Two connections: the first fetches the root from whoever answers, and is believed for nothing; the root is right when it is the
one whose digest the token carries. The second is verified by that root, to the identity that the token names, and only there is
the secret said.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from yarl import URL

from mpc.errors import IdentityError, TemporaryError
from nodes.enrolment.kit import Place
from nodes.enrolment.messages import AUTHORITY_PATH, ENROLL_PATH, JSON, Application, Welcome
from nodes.transport.base import DeliveryError
from nodes.transport.client import NodeClient
from nodes.transport.limits import KIB, Limits
from nodes.transport.tls import NodeContext, visitor_context
from pki.token import Token
from pki.trust import TrustStore, check_leaf

_MOST_ROOT = 16 * KIB
_MOST_WELCOME = 256 * KIB
_SECONDS = 60.0
"""For one question and its answer; the authority may be at work for others."""
_OTHERS = frozenset({"certificate", "identity-mismatch"})
"""Reasons of a DeliveryError: somebody else is there."""


@dataclass(frozen=True, slots=True)
class Granted:
    """What a node comes home with, checked against the token."""

    root: x509.Certificate
    chain: tuple[x509.Certificate, ...] = field(repr=False)
    """Leaf first, without the root."""
    service_url: str = ""
    """Where whoever gave it takes messages; empty when it was not asked over the network."""
    relay: Place | None = None
    """The relay that it uses."""


async def visit(token: Token, request: bytes, now: float, proxy: str | None = None) -> Granted:
    """What the token is good for, for the key whose PKCS #10 request (PEM) is given. `now` is Unix seconds.

    Raises IdentityError when somebody else answers or the token is not taken, and TemporaryError when it may work later.
    """
    root = await _fetch_root(token, proxy)
    trust = TrustStore([root])
    welcome = await _apply(token, request, trust, now, proxy)
    try:
        chain = tuple(x509.load_pem_x509_certificates(welcome.certificate.encode()))
    except ValueError as error:
        raise IdentityError(f"what {token.service} sent is no certificate; it may be of another version") from error
    relay = None if welcome.relay is None else Place(welcome.relay.name, welcome.relay.url)
    service_url = f"{token.address.rpartition(':')[0]}:{welcome.port}"
    granted = Granted(x509.load_der_x509_certificate(root), chain, service_url, relay)
    check_granted(token, granted, request, trust, now)
    return granted


def check_granted(token: Token, granted: Granted, request: bytes, trust: TrustStore, now: float) -> None:
    """Raises IdentityError unless the certificate is for the key of `request` and the name of `token`, and holds now."""
    ders = tuple(certificate.public_bytes(Encoding.DER) for certificate in granted.chain)
    credential = trust.verify(ders, now)
    if credential.identity != token.identity or credential.public_key != x509.load_pem_x509_csr(request).public_key():
        raise IdentityError(f"{token.service} sent a certificate that is not for this node and its key; tell who runs it")


async def _fetch_root(token: Token, proxy: str | None) -> bytes:
    """The root, DER, whose digest is the token's."""
    url = URL(token.address).with_path(AUTHORITY_PATH)

    async def read(response: aiohttp.ClientResponse) -> bytes:
        if response.status != 200:
            raise _no_door(token, response.status)
        return await _body(response, _MOST_ROOT)

    async with _client(token, visitor_context(None, lambda chain: check_leaf(chain[0])), proxy) as client:
        pem = await client.ask("GET", token.service, url, read, seconds=_SECONDS)
    try:
        root = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    except ValueError:
        raise _no_door(token, 200) from None
    if hashlib.sha256(root).digest() != token.root:
        raise IdentityError(
            f"what answers at {token.address} has another authority than the token, which was not sent to it; somebody may be "
            f"in between, or the authority was made anew: ask who made the token"
        )
    return root


async def _apply(token: Token, request: bytes, trust: TrustStore, now: float, proxy: str | None) -> Welcome:
    url = URL(token.address).with_path(ENROLL_PATH)
    body = msgspec.json.encode(Application(token.identity.uri, token.secret, request.decode()))

    async def read(response: aiohttp.ClientResponse) -> Welcome:
        if response.status == 200:
            return msgspec.json.decode(await _body(response, _MOST_WELCOME), type=Welcome)
        raise _refusal(token, response)

    headers = {"Content-Type": JSON}
    async with _client(token, visitor_context(trust.roots, lambda chain: trust.verify(chain, now).identity), proxy) as client:
        try:
            return await client.ask("POST", token.service, url, read, seconds=_SECONDS, body=[body], headers=headers)
        except msgspec.DecodeError:
            raise IdentityError(f"{token.service} answered in a form that this version does not know; use the same one") from None


@asynccontextmanager
async def _client(token: Token, context: NodeContext, proxy: str | None) -> AsyncIterator[NodeClient]:
    client = NodeClient(context, Limits(), proxy)
    client.start()
    try:
        yield client
    except DeliveryError as error:
        if error.reason in _OTHERS:
            raise IdentityError(f"{error}. The token was not sent to it") from error
        if error.reason == "certificate-refused":  # it asks for a certificate, or closes the door for now
            raise TemporaryError(
                f"{token.address} closed the connection; is that where nodes enrol ('enrolment.listen'), and not where "
                f"{token.service} takes messages? If it is, try again in a minute"
            ) from error
        raise
    finally:
        await client.stop()


async def _body(response: aiohttp.ClientResponse, most: int) -> bytes:
    body = b""
    while len(body) <= most and (piece := await response.content.read(most + 1 - len(body))):
        body += piece
    return body


def _no_door(token: Token, status: int) -> IdentityError:
    return IdentityError(
        f"{token.address} answers (status {status}), but not as a place to enrol; ask who made the token for the right --address"
    )


def _refusal(token: Token, response: aiohttp.ClientResponse) -> IdentityError | TemporaryError:
    match response.status:
        case 403:
            return IdentityError(
                f"{token.service} does not take this token: it was used, withdrawn or not made there, its time is over, or it is "
                f"for another node; the log there says which. Have a new one made with 'cohortium pki token'"
            )
        case 429:
            seconds = response.headers.get("Retry-After", "60")
            return TemporaryError(
                f"{token.service} has had too many attempts; try again in {seconds[:4]} s, the token is still good"
            )
        case 503:
            return TemporaryError(
                f"the authority of {token.service} cannot sign now, its log says why; try again later, the token is still good"
            )
        case status:
            return _no_door(token, status)
