"""Where a node's next certificate and the newest revocation lists come from: another node over mutual TLS, or the authority here.

    POST /v1/renew          PKCS #10, DER -> 200 and the certificate chain, PEM; 403 refused
    GET  /v1/revocations    -> 200 and the lists, see `pki.lists`; 304 none but those of If-None-Match; 404 none at all

Neither answer is believed because of who gives it: `renewal` and `revocation` check what it says.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import aiohttp
from yarl import URL

from mpc.identity import Identity, Role
from nodes.config import AuthorityAddress, PatientConfig, RelayConfig
from nodes.config.hospital import HospitalConfig
from nodes.enrolment.desk import Desk
from nodes.enrolment.messages import RENEW_PATH
from nodes.transport.base import DeliveryError
from nodes.transport.client import NodeClient, Read, T, origin, unexpected
from nodes.transport.inbox import CONTENT_TYPE
from nodes.transport.limits import Limits
from nodes.transport.tls import NodeContext
from pki.lists import MAX_BYTES, pack
from pki.trust import Listed, TrustStore

REVOCATIONS_PATH = "/v1/revocations"
_SECONDS = 60.0
_MAX_CHAIN = 64 * 1024
_DAY = 86_400
_LOOK_SECONDS = 5.0


class Source(Protocol):
    """See the two classes."""

    seconds: float
    """How often it may be asked for lists at least, whatever is configured."""

    async def renew(self, request: bytes) -> bytes:
        """The chain, PEM, that answers a request (PKCS #10, DER). Raises CohortiumError."""
        ...

    async def lists(self, have: bytes) -> bytes | None:
        """Revocation lists; None when there are none but those whose tag is `have`. Raises CohortiumError."""
        ...


def tag(lists: bytes) -> bytes:
    """What stands for lists in If-None-Match."""
    return hashlib.sha256(lists).digest()


def service_of(config: HospitalConfig | PatientConfig | RelayConfig) -> tuple[Identity, str] | None:
    """The node that this one asks, and its URL; a patient asks whom it talks to anyway, if it is told nothing else."""
    place = config.authority
    if place is None and isinstance(config, PatientConfig):
        if config.topology == "relay":
            assert config.relay is not None, "`problems` asks for it"
            place = AuthorityAddress(role="relay", name=config.relay.name, url=config.relay.url)
        else:
            place = AuthorityAddress(role="hospital", name=config.hospital.name, url=config.hospital_url)
    return None if place is None else (Identity(config.consortium, Role(place.role), place.name), place.url)


class Remote:
    """Another node. Each question has a connection of its own: hundreds of nodes that ask now and then keep none open."""

    seconds = math.inf

    def __init__(self, node: Identity, url: str, proxy: str | None, context: Callable[[], NodeContext]) -> None:
        """`context` is asked each time. Raises DeliveryError for a URL that is none."""
        self._node = node
        self._origin = origin(node, url)
        self._proxy = proxy
        self._context = context

    async def renew(self, request: bytes) -> bytes:
        """See `Source.renew`."""
        url = self._origin.with_path(RENEW_PATH)

        async def read(response: aiohttp.ClientResponse) -> bytes:
            match response.status:
                case 200:
                    return await _body(response, _MAX_CHAIN)
                case 403:
                    raise DeliveryError("refused", f"{self._node} does not renew this certificate; its log says why")
                case 404:
                    raise DeliveryError("refused", f"{self._node} renews no certificates; let 'authority' name who does")
                case status:
                    raise unexpected(self._node, url, status)

        return await self._ask("POST", url, read, [request], {"Content-Type": CONTENT_TYPE})

    async def lists(self, have: bytes) -> bytes | None:
        """See `Source.lists`."""
        url = self._origin.with_path(REVOCATIONS_PATH)

        async def read(response: aiohttp.ClientResponse) -> bytes | None:
            match response.status:
                case 200:
                    return await _body(response, MAX_BYTES)
                case 304 | 404:
                    return None
                case status:
                    raise unexpected(self._node, url, status)

        return await self._ask("GET", url, read, (), {"If-None-Match": f'"{have.hex()}"'})

    async def _ask(self, method: str, url: URL, read: Read[T], body: Sequence[bytes], headers: Mapping[str, str]) -> T:
        client = NodeClient(self._context(), Limits(), self._proxy)
        client.start()
        try:
            return await client.ask(method, self._node, url, read, seconds=_SECONDS, body=body, headers=headers)
        finally:
            await client.stop()


class Own:
    """The authority of this node itself. It signs a list when there is none, half of its time is over, or it lacks somebody."""

    seconds = _LOOK_SECONDS

    def __init__(
        self, me: Identity, desk: Desk, certificate: Callable[[], bytes], held: Callable[[], TrustStore], days: int
    ) -> None:
        """`certificate` is this node's now, DER; `held` knows the lists that it obeys; `days` is how long a list is good for."""
        self._me = me
        self._desk = desk
        self._certificate = certificate
        self._held = held
        self._days = days
        self._seen: tuple[int, ...] = ()
        """The register's file when it was last read."""
        self._until = 0.0
        """Until when nothing has to be signed if that file stays as it is, Unix seconds."""

    async def renew(self, request: bytes) -> bytes:
        """See `Source.renew`."""
        return await self._desk.renew(self._me, self._certificate(), request)

    async def lists(self, have: bytes) -> bytes | None:
        """See `Source.lists`."""
        return await asyncio.to_thread(self._newest)

    def _newest(self) -> bytes | None:
        authority, now = self._desk.authority, time.time()
        seen = _look(authority.register.path)
        if seen == self._seen and now < self._until:
            return None
        records = authority.register.read()
        if records.lists:
            last, known = records.lists[-1], self._known()
            until = last.at + self._days * _DAY / 2
            if not records.unlisted and known >= last.number and now < until:
                self._seen, self._until = seen, until
                return None
        signed = authority.revocation_list(now, self._days)
        above = () if authority.certificate == authority.root else (authority.certificate.der,)
        return pack([Listed(signed, above)])

    def _known(self) -> int:
        """Number of the newest list of this authority that is obeyed here: somebody may have signed one by hand."""
        subject = self._desk.authority.certificate.x509.subject
        lists = [listed.revocations for listed in self._held().lists]
        return max((one.number for one in lists if one.x509.issuer == subject), default=0)


def _look(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_ino, found.st_size, found.st_mtime_ns)


async def _body(response: aiohttp.ClientResponse, most: int) -> bytes:
    """All of it, or one byte more than `most`: whoever reads it refuses that."""
    body = b""
    while len(body) <= most and (piece := await response.content.read(most + 1 - len(body))):
        body += piece
    return body
