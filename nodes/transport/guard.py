"""The door of a listener: who may connect, how often, and how long they may take, before HTTP gets to see them.

aiohttp reads requests well but waits for a silent or dripping client for ever and counts nobody. So each accepted
connection is one `_Connection` here, which puts TLS under it, gives the decrypted bytes to aiohttp's own handler, and
cuts the connection when it breaks a limit:

    accepted -> (handshake_seconds) -> secured -> (header_seconds) -> request -> (idle_seconds) -> next request ...

Between the headers and the answer the request's handler has the say; it bounds the body itself.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar, cast

from aiohttp import web

from mpc.identity import Identity
from nodes.transport.limits import Limits
from nodes.transport.tls import NodeObject, PeerRefused, handshake_failed

P = TypeVar("P", bound=Hashable)
"""What a listener tells its guests apart by."""
Handler = Callable[[web.BaseRequest, P], Awaitable[web.StreamResponse]]
Who = Callable[[asyncio.Transport], P]
"""Who is at the other end of a connection whose handshake succeeded: `proved_peer` or `peer_address`."""

Count = Callable[[str], None]
"""Called with a fixed slug for each connection or request that was refused."""

_CANCEL_SECONDS = 0.1
"""What a request that outlived `stop_seconds` gets to notice that it is cancelled."""


def proved_peer(connection: asyncio.Transport) -> Identity:
    """The node that its certificate proves, where the context is one of `tls.server_context`."""
    return cast(NodeObject, connection.get_extra_info("ssl_object")).peer


def peer_address(connection: asyncio.Transport) -> str:
    """All that is known of a guest who need not show a certificate."""
    peername = connection.get_extra_info("peername")
    return str(peername[0]) if peername else "gone"


class Guard(Generic[P]):
    """All connections of one listener. `context` may be exchanged at any time: it holds for new connections.

    Slugs counted: "connections", "address" and "peer" (that limit is full), "handshake-timeout", "certificate" (not
    trusted, expired, not a node's), "revoked", "no-certificate", "protocol" (no HTTP/1.1), "tls" (not TLS 1.3), "header-timeout",
    "malformed" (TLS, but not HTTP).
    """

    def __init__(self, handler: Handler[P], context: ssl.SSLContext, limits: Limits, count: Count, who: Who[P]) -> None:
        self.context = context
        self.who = who
        self.limits = limits
        self.count = count
        self.handler = handler
        self.stopping = False
        self.logger = logging.Logger(__name__)
        self.logger.addHandler(_CountErrors(count))
        self._connections: set[_Connection[P]] = set()
        self._handshakes: Counter[str] = Counter()
        self._empty = asyncio.Event()

    def protocol(self) -> asyncio.Protocol:
        """For `loop.create_server`, without its `ssl`: a connection starts TLS itself, after it was counted."""
        return _Connection(self)

    def count_connections(self) -> int:
        """Connections that are open, those in their handshake included."""
        return len(self._connections)

    def cut(self, refused: Callable[[asyncio.Transport], bool]) -> int:
        """Cuts every connection past its handshake, also one in use, that is refused now. Returns how many."""
        found = [c for c in self._connections if c.secured is not None and refused(c.secured)]
        for connection in found:
            connection.abort()
        return len(found)

    async def close(self) -> None:
        """Closes idle connections at once, the others when their request ends or after `stop_seconds`."""
        self.stopping = True
        for connection in [c for c in self._connections if not c.busy]:
            connection.abort()
        if not await self._emptied(self.limits.stop_seconds):
            await asyncio.gather(*(c.cancel() for c in self._connections))
            await self._emptied(_CANCEL_SECONDS)

    async def _emptied(self, seconds: float) -> bool:
        self._empty.clear()
        if self._connections:
            try:
                async with asyncio.timeout(seconds):
                    await self._empty.wait()
            except TimeoutError:
                return False
        return True

    def admit(self, connection: _Connection[P], address: str) -> str | None:
        """Counts a connection that was just accepted; the slug of the limit that is full, if one is."""
        if self.stopping or len(self._connections) >= self.limits.connections:
            return "connections"
        if self._handshakes[address] >= self.limits.handshakes_per_address:
            return "address"
        self._connections.add(connection)
        self._handshakes[address] += 1
        return None

    def handshake_ended(self, address: str) -> None:
        """Gives back what `admit` counted for the address."""
        self._handshakes[address] -= 1
        if not self._handshakes[address]:
            del self._handshakes[address]

    def has_room(self, peer: P) -> bool:
        """Whether `peer` may have one more connection. If an idle one is in the way, it is closed."""
        same = [c for c in self._connections if c.peer == peer]
        if len(same) < self.limits.connections_per_peer:
            return True
        # A node that changed networks leaves connections behind that only it knows to be dead.
        idle = next((c for c in same if c.idle), None)
        if idle is None:
            return False
        idle.abort()
        return True

    def forget(self, connection: _Connection[P]) -> None:
        """The connection has ended."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()


class _Connection(asyncio.Protocol, Generic[P]):
    """One accepted connection. asyncio calls it with raw TCP first and, once TLS is under it, with decrypted bytes."""

    def __init__(self, guard: Guard[P]) -> None:
        self.peer: P | None = None
        self.busy = False
        """A request's handler is at work."""
        self.idle = False
        """Between two requests, nothing of the next one has arrived."""
        self._guard = guard
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._handshake: asyncio.Task[None] | None = None
        self._failed = False
        self._early: list[bytes] = []
        self._server: web.Server | None = None
        self._http: web.RequestHandler | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def secured(self) -> asyncio.Transport | None:
        """The transport, once the handshake is over and while the connection lasts."""
        return None if self._http is None else self._transport

    def abort(self) -> None:
        """Cuts the connection now."""
        self.idle = False
        if self._handshake is not None:
            self._handshake.cancel()
        if self._transport is not None:
            self._transport.abort()

    async def cancel(self) -> None:
        """Cancels the request under way, then cuts the connection."""
        if self._server is not None:
            await self._server.shutdown(_CANCEL_SECONDS)
        self.abort()

    # On TCP

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.pause_reading()  # the first bytes belong to TLS, which is not there yet
        address = peer_address(self._transport)
        full = self._guard.admit(self, address)
        if full is not None:
            self._guard.count(full)
            self._transport.abort()
            return
        self._handshake = self._loop.create_task(self._start_tls(self._transport))
        self._handshake.add_done_callback(lambda _: self._handshake_ended(address))

    async def _start_tls(self, raw: asyncio.Transport) -> None:
        handshake_failed.set(self._handshake_failed)
        limits = self._guard.limits
        try:
            secured = await self._loop.start_tls(
                raw,
                self,
                self._guard.context,
                server_side=True,
                ssl_handshake_timeout=limits.handshake_seconds,
                ssl_shutdown_timeout=limits.linger_seconds,
            )
        except ConnectionAbortedError:
            if not self._failed:
                self._guard.count("handshake-timeout")
        except ssl.SSLError as error:
            if not self._failed:
                self._guard.count(_slug(error))
        except OSError:
            pass  # the peer went away by itself
        else:
            if secured is not None and not secured.is_closing():
                self._begin(secured)

    def _handshake_failed(self, error: ssl.SSLError) -> None:
        self._failed = True
        self._guard.count(_slug(error))
        if self._transport is not None:
            self._loop.call_later(self._guard.limits.linger_seconds, self._transport.abort)

    def _handshake_ended(self, address: str) -> None:
        self._handshake = None
        self._guard.handshake_ended(address)
        if self._http is None:
            self.abort()
            self._guard.forget(self)

    # On TLS

    def _begin(self, secured: asyncio.Transport) -> None:
        self._transport = secured
        peer = self._guard.who(secured)
        if not self._guard.has_room(peer):
            self._guard.count("peer")
            return
        self.peer = peer
        limits = self._guard.limits
        self._server = web.Server(
            lambda request: self._handle(request, peer),
            logger=self._guard.logger,
            access_log=None,
            auto_decompress=False,
            lingering_time=limits.linger_seconds,
            read_bufsize=limits.small_bytes,
            max_line_size=2048,
            max_field_size=2048,
            # The idle deadline is kept here; aiohttp's own must only not be earlier.
            keepalive_timeout=2 * limits.idle_seconds,
        )
        self._http = self._server()
        self._set_timer(limits.header_seconds)
        self._http.connection_made(secured)
        early, self._early = self._early, []
        for data in early:
            self._http.data_received(data)

    async def _handle(self, request: web.BaseRequest, peer: P) -> web.StreamResponse:
        self.busy = True
        self.idle = False
        self._set_timer(None)
        try:
            answer = await self._guard.handler(request, peer)
        finally:
            self.busy = False
            if self._http is not None:
                self.idle = True
                self._set_timer(self._guard.limits.idle_seconds)
        if self._guard.stopping:
            answer.force_close()
        return answer

    def data_received(self, data: bytes) -> None:
        if self._http is None:
            self._early.append(data)  # asyncio reads on before `start_tls` has returned
            return
        if self.idle:
            self.idle = False
            self._set_timer(self._guard.limits.header_seconds)
        self._http.data_received(data)

    def eof_received(self) -> None:
        if self._http is not None:
            self._http.eof_received()

    def pause_writing(self) -> None:
        if self._http is not None:
            self._http.pause_writing()

    def resume_writing(self) -> None:
        if self._http is not None:
            self._http.resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._set_timer(None)
        self._transport = None
        http, self._http = self._http, None
        if http is not None:
            http.connection_lost(exc)
        self.idle = False
        self._guard.forget(self)

    def _set_timer(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None:
            self._timer = self._loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        if not self.idle:
            self._guard.count("header-timeout")
        self.abort()


class _CountErrors(logging.Handler):
    """aiohttp tells of a malformed request by logging it with its stack; here it is counted, and nothing of it kept."""

    def __init__(self, count: Count) -> None:
        super().__init__()
        self._count = count

    def emit(self, record: logging.LogRecord) -> None:
        self._count("malformed")


def _slug(error: ssl.SSLError) -> str:
    if isinstance(error, PeerRefused):
        return error.slug
    if isinstance(error, ssl.SSLCertVerificationError):
        return "certificate"
    return "no-certificate" if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE" else "tls"
