"""The real transport: every node has an inbox behind mutual TLS and posts to the inboxes of the others.

`listener` and `guard` keep the door, `inbox` answers requests, `tls` proves who is there, `client` goes to the others; this
file puts them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import aiohttp

from mpc.errors import Answer
from mpc.identity import Identity, Role
from nodes.transport.base import DeliveryError, Receive
from nodes.transport.client import NodeClient, origin, unexpected
from nodes.transport.guard import Count
from nodes.transport.inbox import CONTENT_TYPE, PATH, STATUS, Inbox
from nodes.transport.limits import Limits
from nodes.transport.listener import Listener
from nodes.transport.tls import CheckPeer, client_context, server_context

_ANSWER = {status: answer for answer, status in STATUS.items()}


class HttpsTransport:
    """Sends to other nodes, and takes messages at `listen`, "HOST:PORT" or "[IPV6]:PORT".

    `key_file` and `certificate_file` are PEM, `roots` DER (see `tls.server_context`, whose errors the constructor
    raises). Peers whose role is not in `roles` are rejected. `count` hears a slug for each connection or request that
    is refused: those that `Guard` and `Inbox` list.
    """

    def __init__(
        self,
        listen: str,
        *,
        key_file: Path,
        certificate_file: Path,
        roots: Sequence[bytes],
        roles: frozenset[Role],
        check_peer: CheckPeer | None = None,
        limits: Limits | None = None,
        count: Count | None = None,
    ) -> None:
        self._roles = roles
        self._check_peer = check_peer
        self._limits = limits or Limits()
        self._count = count or (lambda _: None)
        accepting = server_context(key_file, certificate_file, roots, check_peer)
        self._listener = Listener(listen, accepting, self._limits, self._count)
        self._client = NodeClient(client_context(key_file, certificate_file, roots, check_peer), self._limits)

    @property
    def port(self) -> int:
        """The port listened on; of use where `listen` asked for port 0, once started."""
        return self._listener.port

    def connections(self) -> int:
        """Connections that other nodes have open here."""
        return self._listener.connections()

    def reload(self, key_file: Path, certificate_file: Path, roots: Sequence[bytes]) -> None:
        """Uses these for connections made from now on; those in use stay as they are.

        Raises IdentityError, and changes nothing, when a file cannot be used.
        """
        accepting = server_context(key_file, certificate_file, roots, self._check_peer)
        self._client.context = client_context(key_file, certificate_file, roots, self._check_peer)
        self._listener.context = accepting

    async def start(self, receive: Receive) -> None:
        """Listens, and gives each message to `receive`. Raises ConfigError when the address cannot be had."""
        await self._listener.start(Inbox(receive, self._roles, self._limits, self._count).handle)
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
