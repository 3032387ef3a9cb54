"""The door at which nodes enrol: HTTPS that asks nobody for a certificate, has its own limits, and tells strangers little.

A refused token is refused in one word; which of its faults it was is in the log and the audit log of this node.
"""

from __future__ import annotations

import ssl
import time
from typing import cast

import msgspec
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding

from mpc.errors import IdentityError
from mpc.identity import Identity
from nodes.enrolment.desk import Desk
from nodes.enrolment.messages import (
    AUTHORITY_PATH,
    ENROLL_PATH,
    JSON,
    MAX_APPLICATION,
    PEM,
    Application,
    RelayPlace,
    Welcome,
)
from nodes.enrolment.rate import Rate
from nodes.transport.guard import Count, peer_address
from nodes.transport.inbox import Intake, Reply, Route
from nodes.transport.limits import Limits
from nodes.transport.listener import Listener
from nodes.transport.tls import NodeObject
from pki.request import MAX_REQUEST_BYTES, read_request
from pki.token import TokenRefused

_LIMITS = Limits(
    handshake_seconds=5.0,
    header_seconds=5.0,
    body_seconds=5.0,
    idle_seconds=10.0,
    stop_seconds=5.0,
    connections=100,
    connections_per_peer=20,
    handshakes_per_address=20,
)
"""Nobody stays: a node comes twice in its life."""


class Door:
    """Listens at `listen`. `port` is where this node takes messages; `relay` the one that it uses.

    Slugs counted: "path", "method", "rate", and those of `Guard` and `Intake`.
    """

    def __init__(
        self, listen: str, context: ssl.SSLContext, desk: Desk, count: Count, *, port: int, relay: RelayPlace | None
    ) -> None:
        self.listener = Listener(listen, context, _LIMITS, count, peer_address)
        self._desk = desk
        self._intake = Intake(_LIMITS, count)
        self._port = port
        self._relay = relay
        self._rate = Rate(time.monotonic())
        self._root = desk.authority.root.x509.public_bytes(Encoding.PEM)

    async def start(self) -> None:
        """Raises ConfigError when the address cannot be had."""
        await self.listener.start(self._handle)

    async def stop(self) -> None:
        """See `Listener.stop`."""
        await self.listener.stop()

    async def _handle(self, request: web.BaseRequest, address: str) -> web.StreamResponse:
        method = {AUTHORITY_PATH: "GET", ENROLL_PATH: "POST"}.get(request.rel_url.raw_path)
        if method is None:
            return self._intake.refuse("path", 404)
        if request.method != method:
            return self._intake.refuse("method", 405, headers={"Allow": method})
        if method == "GET":
            return Reply(200, self._root, headers={"Content-Type": PEM})
        wait = self._rate.attempt(address, time.monotonic())
        if wait:
            return self._intake.refuse("rate", 429, headers={"Retry-After": str(wait)}, close=True)
        reply = await self._intake.take(
            request, address, MAX_APPLICATION, lambda body: self._apply(body, address), content_type=JSON
        )
        if reply.status not in (200, 503):
            self._rate.failed(address, time.monotonic())
        return reply

    async def _apply(self, body: bytes, address: str) -> Reply:
        try:
            asked = msgspec.json.decode(body, type=Application)
            identity = Identity.parse(asked.identity)
            read_request(asked.request.encode())
        except (ValueError, IdentityError):
            self._desk.refused("malformed", address, "what it sent is not an application with a request that holds")
            return Reply(400, "malformed")
        try:
            chain = await self._desk.enrol(asked.secret, identity, asked.request.encode(), address)
        except TokenRefused:
            return Reply(403, "refused")
        except IdentityError:
            return Reply(503, "unavailable", headers={"Retry-After": "60"})
        welcome = Welcome(chain.decode(), self._port, self._relay)
        return Reply(200, msgspec.json.encode(welcome), headers={"Content-Type": JSON})


def renewal(desk: Desk, limits: Limits, count: Count) -> Route:
    """`POST /v1/renew` of the node's ordinary listener: who asks is who TLS proved, by the certificate of that connection."""
    intake = Intake(limits, count)

    async def answer(request: web.BaseRequest, peer: Identity) -> web.StreamResponse:
        assert request.transport is not None, "the request is being read"
        shown = cast(NodeObject, request.transport.get_extra_info("ssl_object")).chain[0]

        async def take(body: bytes) -> Reply:
            try:
                return Reply(200, await desk.renew(peer, shown, body), headers={"Content-Type": PEM})
            except IdentityError:
                return Reply(403, "refused")

        return await intake.take(request, peer, MAX_REQUEST_BYTES, take)

    return Route("POST", answer)
