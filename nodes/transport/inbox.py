"""The inbox over HTTP: `POST /v1/inbox`, one sealed message a request, and the word that its sender hears.

    202 accepted (empty)    503 later    410 gone    403 rejected    409 refused    422 unopenable

Anything else that HTTP allows is refused before its body is read. A share is a few hundred bytes, so the answer
to a message carries only headers that say something: no Date, no Server.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict

from mpc.errors import Answer
from mpc.identity import Identity, Role
from nodes.log import Event, logger, place
from nodes.transport.base import Receive
from nodes.transport.budget import ByteBudget
from nodes.transport.guard import Count, Handler
from nodes.transport.limits import Limits

PATH = "/v1/inbox"
CONTENT_TYPE = "application/octet-stream"
_PIECE = 128 * 1024

_NO_CONTENT = frozenset({204, 304})
"""A length would be wrong here (RFC 9110 section 8.6)."""
STATUS = {
    Answer.ACCEPTED: 202,
    Answer.LATER: 503,
    Answer.GONE: 410,
    Answer.REJECTED: 403,
    Answer.REFUSED: 409,
    Answer.UNOPENABLE: 422,
}
"""The status that stands for each answer, in both directions."""


class Reply(web.StreamResponse):
    """A complete answer of a status and a body, written with no header that says nothing."""

    def __init__(
        self, status: int, body: str | bytes = b"", *, headers: dict[str, str] | None = None, close: bool = False
    ) -> None:
        super().__init__(status=status, headers=headers)
        self._content = body.encode() if isinstance(body, str) else body
        self._closes = close
        self._written = False

    @property
    def keep_alive(self) -> bool:
        """Whether the connection stays for another request."""
        return not self._closes

    def force_close(self) -> None:
        """The connection ends with this answer."""
        self._closes = True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Writes all of the answer, once."""
        if self._written:
            return request.writer
        self._written = True
        if not request.keep_alive:
            self._closes = True
        if request.method == "HEAD":
            self._content = b""
        headers = CIMultiDict(self.headers)
        if self.status not in _NO_CONTENT:
            headers["Content-Length"] = str(len(self._content))
        if self._closes:
            headers["Connection"] = "close"
        await request.writer.write_headers(f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}", headers)
        # In pieces: asyncio takes whatever it is given in one write, and only a later one waits for a slow reader.
        last = (len(self._content) - 1) // _PIECE * _PIECE
        for start in range(0, last, _PIECE):
            await request.writer.write(self._content[start : start + _PIECE])
        await request.writer.write_eof(self._content[last:])
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


@dataclass(frozen=True, slots=True)
class Route:
    """One more thing that a node answers its peers, besides messages."""

    method: str
    answer: Handler[Identity]


Routes = Mapping[str, Route]
"""By path. The same mapping may grow until the listener starts."""

Take = Callable[[bytes], Awaitable[Reply]]
"""Answers a request whose whole body is here."""


class Intake:
    """Reads the bodies of requests, each within its limits and all of them within the budget.

    Slugs counted: "type", "length", "too-large", "busy", "body-timeout", "body-cut", "failed" (`take` raised).
    """

    def __init__(self, limits: Limits, count: Count) -> None:
        self._limits = limits
        self._count = count
        self._budget = ByteBudget(limits.budget_bytes)
        self._at_work: Counter[Hashable] = Counter()

    def refuse(
        self, slug: str, status: int, word: str = "", *, headers: dict[str, str] | None = None, close: bool = False
    ) -> Reply:
        """Counts the slug. The answer tells the time here: `cohortium doctor` compares clocks by a request that is refused."""
        self._count(slug)
        return Reply(status, word, headers={"Date": formatdate(usegmt=True), **(headers or {})}, close=close)

    async def take(
        self, request: web.BaseRequest, peer: Hashable, most: int, take: Take, *, content_type: str = CONTENT_TYPE
    ) -> Reply:
        """What `take` answers to the body of at most `most` bytes, or a refusal."""
        if request.headers.get("Content-Type") != content_type:
            return self.refuse("type", 415)
        size = request.content_length
        if size is None or "Transfer-Encoding" in request.headers:
            return self.refuse("length", 411, close=True)
        if size > most:
            return self.refuse("too-large", 413, close=True)
        if self._at_work[peer] >= self._limits.requests_per_peer:
            return self.refuse("busy", 429, headers={"Retry-After": "1"})
        self._at_work[peer] += 1
        try:
            if size <= self._limits.small_bytes:
                return await self._take(request, peer, size, take)
            async with self._budget.hold(size):
                return await self._take(request, peer, size, take)
        finally:
            self._at_work[peer] -= 1
            if not self._at_work[peer]:
                del self._at_work[peer]

    async def give(self, request: web.BaseRequest, reply: Reply, size: int) -> Reply:
        """Writes a reply of `size` bytes, which may be many; a peer that does not read is waited for no longer than one that does
        not write. Slug counted: "slow-reader".
        """
        try:
            async with asyncio.timeout(self._limits.send_deadline(size)):
                await reply.prepare(request)
        except TimeoutError:
            self._count("slow-reader")
            reply.force_close()
            if request.transport is not None:
                request.transport.abort()
        return reply

    async def _take(self, request: web.BaseRequest, peer: Hashable, size: int, take: Take) -> Reply:
        try:
            # A small message comes with its headers: then nothing is waited for.
            async with (
                contextlib.nullcontext() if request.content.is_eof() else asyncio.timeout(self._limits.body_deadline(size))
            ):
                body = await _body(request, size)
        except TimeoutError:
            return self.refuse("body-timeout", 408, close=True)
        except (OSError, web.RequestPayloadError):
            return self.refuse("body-cut", 400, close=True)
        try:
            return await take(body)
        except Exception as error:
            # Neither the text of an unforeseen error nor its stack's variables may go anywhere: they can hold secrets.
            logger("inbox").error(Event.FAILED, peer=str(peer), error=type(error).__name__, place=place(error))
            return self.refuse("failed", 500)


class Inbox:
    """Takes requests of peers whose identity is proved and gives their messages to `receive`, or what is for `routes` to those.

    Slugs counted: "role", "path", "method", and those of `Intake`.
    """

    def __init__(
        self, receive: Receive, roles: frozenset[Role], limits: Limits, count: Count, routes: Routes | None = None
    ) -> None:
        self._receive = receive
        self._routes = {} if routes is None else routes
        self._roles = roles
        self._limits = limits
        self._intake = Intake(limits, count)

    async def handle(self, request: web.BaseRequest, peer: Identity) -> web.StreamResponse:
        """Answers one request."""
        if peer.role not in self._roles:
            return self._intake.refuse("role", 403, Answer.REJECTED, close=True)
        route = self._routes.get(request.rel_url.raw_path)
        if route is None and request.rel_url.raw_path != PATH:
            return self._intake.refuse("path", 404)
        if request.method != (method := "POST" if route is None else route.method):
            return self._intake.refuse("method", 405, headers={"Allow": method})
        if route is not None:
            return await route.answer(request, peer)

        async def take(message: bytes) -> Reply:
            answer = await self._receive(message, peer)
            if answer is Answer.ACCEPTED:
                return Reply(202)
            return Reply(STATUS[answer], answer, headers={"Retry-After": "1"} if answer is Answer.LATER else None)

        return await self._intake.take(request, peer, self._limits.message_bytes, take)


async def _body(request: web.BaseRequest, size: int) -> bytes:
    """The body of exactly `size` bytes. Memory grows with what has arrived and not with what was announced."""
    first = await request.content.readany() if size else b""
    if len(first) == size:
        return first
    # BytesIO hands its buffer over without a copy, and a megabyte is copied once instead of twice.
    whole = io.BytesIO()
    whole.write(first)
    while whole.tell() < size:
        piece = await request.content.readany()
        if not piece:
            raise ConnectionResetError("the body ends early")
        whole.write(piece)
    return whole.getvalue()
