"""A node's way through a relay (docs/relay.md): it posts what is for others and fetches what is for itself. Outbound only.

What waits while a batch is posted goes with the next one. What is fetched is given to `receive` as if it had just arrived; the
cursor passes a message only when its answer is final, so that a message is deleted at the relay after its effect is durable here.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import aiohttp

from mpc.envelope import is_sealed
from mpc.errors import Answer, MessageRefused
from mpc.identity import Identity
from mpc.mailbox import Cursor
from nodes.group import Group
from nodes.log import Event, Logger, place
from nodes.transport.base import DeliveryError, Receive
from nodes.transport.batch import BATCH_BYTES, FETCH_BYTES, KEY, MAIL, pack_posted, unpack_answers, unpack_fetched
from nodes.transport.client import NodeClient, origin, unexpected
from nodes.transport.https import HttpsTransport
from nodes.transport.inbox import CONTENT_TYPE
from nodes.transport.limits import MIB, Limits
from nodes.transport.tls import CheckPeer, Proof, client_context

_BATCH = 256
_BATCH_BYTES = BATCH_BYTES * 3 // 4
_POLL_SECONDS = 30
"""How long a fetch waits for mail when nothing is under way here."""
_BUSY_POLL_SECONDS = 1
"""... and when something is: finished messages are acknowledged by the next fetch."""
_GRACE_SECONDS = 0.1
"""What the messages just fetched get to finish, so that the next fetch acknowledges them."""
_HOLD_BYTES = 8 * MIB
"""Fetched messages that wait for their final answer; beyond that nothing more is fetched."""
_PATIENCE = 900.0
"""Seconds after which a message that gets no final answer is given up: its round is not known here and will not be."""
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_PASSING = frozenset({Answer.LATER, Answer.REJECTED})
"""Answers that may change: of a message ahead of its round, or ahead of its sender's certificate."""

Key = Callable[[], bytes | None]
"""The encoded `mpc.mailbox.PublishedKey` of this node as it is now; None for a node that publishes none."""


def relay_of(endpoint: str) -> str | None:
    """The name of the relay in the endpoint of a node behind it, relay://NAME@HOST:PORT; None for any other text."""
    match = re.fullmatch(r"relay://([^@/\s]+)@[^@/\s]+", endpoint)
    return match[1] if match else None


class RelayedTransport:
    """See `nodes.transport.base.Transport`. Mail goes to, and comes from, one relay: `relay` at `url`, "https://HOST:PORT".

    With `direct`, a node that listens as well: only what is for an endpoint at the relay goes there. Without it everything does,
    through the HTTP proxy at `proxy` if one is given.
    """

    def __init__(
        self,
        relay: Identity,
        url: str,
        *,
        proof: Proof,
        roots: Sequence[bytes],
        check_peer: CheckPeer | None,
        limits: Limits,
        log: Logger,
        direct: HttpsTransport | None = None,
        proxy: str | None = None,
        key: Key = lambda: None,
    ) -> None:
        self._relay = relay
        self._origin = origin(relay, url)
        self._check_peer = check_peer
        self._limits = limits
        self._log = log
        self._direct = direct
        self._key = key
        # The fetch that waits for mail has a connection of its own: nothing else waits behind it.
        connections = replace(limits, connections_per_recipient=limits.connections_per_recipient + 1)
        self._client = NodeClient(client_context(proof, roots, check_peer), connections, proxy)
        self._posts: Group[bytes, Answer] = Group(self._post, most=_BATCH, heaviest=_BATCH_BYTES, weigh=len)
        self._pause_until = 0.0
        self._published: bytes | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._held_bytes = 0
        self.trouble = ""
        """Why nothing can be fetched, for people; empty while it works."""

    @property
    def port(self) -> int:
        """The port that `direct` listens on; 0 where there is none."""
        return 0 if self._direct is None else self._direct.port

    def connections(self) -> int:
        """Connections that other nodes have open here."""
        return 0 if self._direct is None else self._direct.connections()

    def reload(self, proof: Proof, roots: Sequence[bytes]) -> None:
        """See `HttpsTransport.reload`."""
        context = client_context(proof, roots, self._check_peer)
        if self._direct is not None:
            self._direct.reload(proof, roots)
        self._client.context = context

    def close_refused(self, check_peer: CheckPeer) -> int:
        """See `HttpsTransport.close_refused`."""
        direct = 0 if self._direct is None else self._direct.close_refused(check_peer)
        return direct + self._client.close_refused(check_peer)

    async def start(self, receive: Receive) -> None:
        """Begins to fetch; with `direct`, to listen."""
        if self._direct is not None:
            await self._direct.start(receive)
        self._client.start()
        self._fetching = asyncio.create_task(self._fetch_for_ever(receive))

    async def stop(self) -> None:
        """Stops fetching; what was not finished is fetched again after the next start."""
        tasks = [*self._tasks, *([self._fetching] if self._fetching else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._posts.cancel(DeliveryError("stopped", "this node is not running"))
        await self._client.stop()
        if self._direct is not None:
            await self._direct.stop()

    async def send(self, recipient: Identity, endpoint: str, envelope: bytes) -> Answer:
        """As `Transport.send`; `accepted` from the relay means that the message is in the recipient's mailbox, durably.

        Raises DeliveryError, also ("endpoint") for a relay other than this node's own, and ("unsealed") for what may not be
        shown to a relay.
        """
        name = relay_of(endpoint)
        if name is None and self._direct is not None:
            return await self._direct.send(recipient, endpoint, envelope)
        if name is not None and name != self._relay.name:
            raise DeliveryError(
                "endpoint", f"{recipient} is behind relay {name!r}, this node uses {self._relay.name!r}; both must use the same"
            )
        if not _may_be_carried(envelope):
            raise DeliveryError("unsealed", f"a message for {recipient} is not sealed, so no relay may carry it")
        return await self._posts.submit(envelope)

    async def key_of(self, node: Identity) -> bytes | None:
        """What `node` has published at the relay; unverified. Raises DeliveryError."""

        async def read(response: aiohttp.ClientResponse) -> bytes | None:
            if response.status == 404:
                return None
            if response.status != 200:
                raise unexpected(self._relay, url, response.status)
            return await response.read()

        url = self._origin.with_path(f"{KEY}/{node.role}/{node.name}")
        return await self._client.ask("GET", self._relay, url, read, seconds=self._limits.send_seconds)

    # -- out

    async def _post(self, envelopes: list[bytes]) -> Sequence[Answer]:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._pause_until - loop.time()))
        url = self._origin.with_path(MAIL)

        async def read(response: aiohttp.ClientResponse) -> Sequence[Answer]:
            if response.status in (429, 503):
                self._pause_until = loop.time() + _retry_after(response)
            if response.status not in (200, 429):
                raise unexpected(self._relay, url, response.status)
            body = await response.content.read(len(envelopes) + 1)
            try:
                return unpack_answers(body, len(envelopes))
            except ValueError as error:
                raise unexpected(self._relay, url, response.status) from error

        body = pack_posted(envelopes)
        seconds = self._limits.send_deadline(sum(map(len, body)))
        headers = {"Content-Type": CONTENT_TYPE}
        return await self._client.ask("POST", self._relay, url, read, seconds=seconds, body=body, headers=headers)

    # -- in

    async def _fetch_for_ever(self, receive: Receive) -> None:
        cursor = Cursor()
        failures = 0
        while True:
            try:
                await self._publish()
                letters = await self._fetch(cursor)
            except DeliveryError as error:
                # Whatever was wrong, the relay may now have another store: what is not acknowledged is fetched again.
                cursor = Cursor()
                self._published = None
                self._note(str(error))
                failures = min(failures + 1, 10)
                pause = random.uniform(0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**failures))  # noqa: S311  (no secret)
                await asyncio.sleep(pause)
                continue
            failures = 0
            self._note("")
            begun = [self._begin(cursor, number, envelope, receive) for number, envelope in letters if cursor.meet(number)]
            if begun:
                await asyncio.wait(begun, timeout=_GRACE_SECONDS)
            while self._held_bytes > _HOLD_BYTES:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def _fetch(self, cursor: Cursor) -> list[tuple[int, bytes]]:
        finished, after = cursor.finished, cursor.met
        wait = _POLL_SECONDS if finished == after else _BUSY_POLL_SECONDS
        query = {"finished": finished, "after": after, "wait": wait, "limit": FETCH_BYTES}
        url = self._origin.with_path(MAIL).with_query(query)

        async def read(response: aiohttp.ClientResponse) -> list[tuple[int, bytes]]:
            if response.status != 200:
                raise unexpected(self._relay, url, response.status)
            try:
                return list(unpack_fetched(await response.read()))
            except ValueError as error:
                raise unexpected(self._relay, url, response.status) from error

        seconds = wait + self._limits.send_deadline(self._limits.message_bytes)
        return await self._client.ask("GET", self._relay, url, read, seconds=seconds)

    def _begin(self, cursor: Cursor, number: int, envelope: bytes, receive: Receive) -> asyncio.Task[None]:
        task = asyncio.create_task(self._hand_over(cursor, number, envelope, receive))
        self._tasks.add(task)
        self._held_bytes += len(envelope)
        task.add_done_callback(lambda done: self._ended(done, len(envelope)))
        return task

    def _ended(self, task: asyncio.Task[None], size: int) -> None:
        self._tasks.discard(task)
        self._held_bytes -= size

    async def _hand_over(self, cursor: Cursor, number: int, envelope: bytes, receive: Receive) -> None:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + _PATIENCE
        pause = _FIRST_PAUSE
        while True:
            answer = Answer.LATER
            try:
                answer = await receive(envelope, self._relay)
            except Exception as error:  # a bug here must not delete what it has not taken
                self._log.error(Event.FAILED, error=type(error).__name__, place=place(error))
            if answer not in _PASSING or loop.time() >= give_up:
                cursor.finish(number)
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _publish(self) -> None:
        key = self._key()
        if key is None or key == self._published:
            return
        url = self._origin.with_path(KEY)

        async def read(response: aiohttp.ClientResponse) -> int:
            return response.status

        seconds, headers = self._limits.send_deadline(len(key)), {"Content-Type": CONTENT_TYPE}
        status = await self._client.ask("PUT", self._relay, url, read, seconds=seconds, body=[key], headers=headers)
        if status != 204:
            raise unexpected(self._relay, url, status)
        self._published = key

    def _note(self, trouble: str) -> None:
        if bool(trouble) != bool(self.trouble):
            self._log.info(Event.RELAY_UNREACHABLE if trouble else Event.RELAY_REACHED, relay=self._relay.name, reason=trouble)
        self.trouble = trouble


def _may_be_carried(envelope: bytes) -> bool:
    with contextlib.suppress(MessageRefused):
        return is_sealed(envelope)
    return False


def _retry_after(response: aiohttp.ClientResponse) -> float:
    """Seconds; ours say them as a whole number (RFC 9110 section 10.2.3)."""
    text = response.headers.get("Retry-After", "")
    return min(float(text), _LONGEST_PAUSE) if text.isascii() and text.isdecimal() and len(text) < 6 else 1.0
