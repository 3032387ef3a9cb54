"""The real transport: every node has an inbox behind mutual TLS and posts to the inboxes of the others.

`listener` and `guard` keep the door, `inbox` answers requests, `tls` proves who is there, `client` goes to the others; this
file puts them together.
"""

from __future__ import annotations

from collections.abc import Sequence

import aiohttp

from mpc.errors import Answer
from mpc.identity import Identity, Role
from nodes.transport.base import DeliveryError, Receive
from nodes.transport.client import NodeClient, origin, unexpected
from nodes.transport.guard import Count, proved_peer
from nodes.transport.inbox import CONTENT_TYPE, PATH, STATUS, Inbox, Routes
from nodes.transport.limits import Limits
from nodes.transport.listener import Listener
from nodes.transport.tls import CheckPeer, Proof, client_context, is_refused, server_context

_ANSWER = {status: answer for answer, status in STATUS.items()}


class HttpsTransport:
    """Sends to other nodes, and takes messages at `listen`, "HOST:PORT" or "[IPV6]:PORT".

    `proof` is what it shows, `roots` are DER (see `tls.server_context`, whose errors the constructor raises). Peers whose
    role is not in `roles` are rejected; `routes` is what they may ask besides. `count` hears a slug for each connection or
    request that is refused: those that `Guard` and `Inbox` list.
    """

    def __init__(
        self,
        listen: str,
        *,
        proof: Proof,
        roots: Sequence[bytes],
        roles: frozenset[Role],
        check_peer: CheckPeer | None = None,
        limits: Limits | None = None,
        count: Count | None = None,
        routes: Routes | None = None,
    ) -> None:
        self._roles = roles
        self._routes = routes
        self._check_peer = check_peer
        self._limits = limits or Limits()
        self._count = count or (lambda _: None)
        accepting = server_context(proof, roots, check_peer)
        self._listener = Listener(listen, accepting, self._limits, self._count, proved_peer)
        self._client = NodeClient(client_context(proof, roots, check_peer), self._limits)

    @property
    def port(self) -> int:
        """The port listened on; of use where `listen` asked for port 0, once started."""
        return self._listener.port

    def connections(self) -> int:
        """Connections that other nodes have open here."""
        return self._listener.connections()

    def reload(self, proof: Proof, roots: Sequence[bytes]) -> None:
        """Uses these for connections made from now on; those in use stay as they are.

        Raises IdentityError, and changes nothing, when they cannot be used.
        """
        accepting = server_context(proof, roots, self._check_peer)
        self._client.context = client_context(proof, roots, self._check_peer)
        self._listener.context = accepting

    def close_refused(self, check_peer: CheckPeer) -> int:
        """Cuts the connections, of either direction, to peers that `check_peer` refuses now. Returns how many."""
        inbound = self._listener.cut(lambda transport: is_refused(transport, check_peer))
        return inbound + self._client.close_refused(check_peer)

    async def start(self, receive: Receive) -> None:
        """Listens, and gives each message to `receive`. Raises ConfigError when the address cannot be had."""
        await self._listener.start(Inbox(receive, self._roles, self._limits, self._count, self._routes).handle)
        self._client.start()

    async def stop(self) -> None:
        """Stops accepting, lets requests under way finish within `stop_seconds`, closes every connection."""
        await self._listener.stop()
        await self._client.stop()

    async def send(self, recipient: Identity, endpoint: str, envelope: bytes) -> Answer:
        """Posts `envelope` to the inbox at `endpoint`, "https://HOST:PORT", and returns the answer of `recipient`.

        Raises DeliveryError for "endpoint", "too-large", "busy", "answer", and the reasons that `NodeClient.ask` lists.
        """
        if len(envelope) > self._limits.message_bytes:
            raise DeliveryError(
                "too-large", f"a message of {len(envelope)} bytes is above the limit of {self._limits.message_bytes}"
            )
        url = origin(recipient, endpoint).with_path(PATH)

        async def read(response: aiohttp.ClientResponse) -> Answer:
            answer = _ANSWER.get(response.status)
            if answer is None:
                raise unexpected(recipient, url, response.status)
            # The status says it all; the word is read so that the connection can be kept. A longer body closes it.
            await response.content.read(64)
            return answer

        seconds = self._limits.send_deadline(len(envelope))
        headers = {"Content-Type": CONTENT_TYPE}
        return await self._client.ask("POST", recipient, url, read, seconds=seconds, body=[envelope], headers=headers)
