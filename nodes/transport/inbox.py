"""The inbox over HTTP: `POST /v1/inbox`, one sealed message a request, and the word that its sender hears.

    202 accepted (empty)    503 later    410 gone    403 rejected    409 refused    422 unopenable

Anything else that HTTP allows is refused before its body is read. A share is a few hundred bytes, so an answer carries
only headers that say something: no Date, no Server.
"""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict

from mpc.errors import Answer
from mpc.identity import Identity, Role
from nodes.log import Event, logger, place
from nodes.transport.base import Receive
from nodes.transport.budget import ByteBudget
from nodes.transport.guard import Count
from nodes.transport.limits import Limits

PATH = "/v1/inbox"
CONTENT_TYPE = "application/octet-stream"

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
    """A complete answer of a status and a word, written with no header that says nothing."""

    def __init__(self, status: int, word: str = "", *, headers: dict[str, str] | None = None, close: bool = False) -> None:
        super().__init__(status=status, headers=headers)
        self._word = word.encode()
        self._closes = close

    @property
    def keep_alive(self) -> bool:
        """Whether the connection stays for another request."""
        return not self._closes

    def force_close(self) -> None:
        """The connection ends with this answer."""
        self._closes = True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Writes all of the answer."""
        if not request.keep_alive:
            self._closes = True
        if request.method == "HEAD":
            self._word = b""
        headers = CIMultiDict(self.headers)
        headers["Content-Length"] = str(len(self._word))
        if self._closes:
            headers["Connection"] = "close"
        await request.writer.write_headers(f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}", headers)
        await request.writer.write_eof(self._word)
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


class Inbox:
    """Takes requests of peers whose identity is proved and gives their messages to `receive`.

    Slugs counted: "role", "path", "method", "type", "length", "too-large", "busy", "body-timeout", "body-cut",
    "failed" (`receive` raised).
    """

    def __init__(self, receive: Receive, roles: frozenset[Role], limits: Limits, count: Count) -> None:
        self._receive = receive
        self._roles = roles
        self._limits = limits
        self._count = count
        self._budget = ByteBudget(limits.budget_bytes)
        self._at_work: Counter[Identity] = Counter()

    async def handle(self, request: web.BaseRequest, peer: Identity) -> web.StreamResponse:
        """Answers one request."""
        if peer.role not in self._roles:
            return self._refuse("role", 403, Answer.REJECTED, close=True)
        if request.rel_url.raw_path != PATH:
            return self._refuse("path", 404)
        if request.method != "POST":
            return self._refuse("method", 405, headers={"Allow": "POST"})
        if request.headers.get("Content-Type") != CONTENT_TYPE:
            return self._refuse("type", 415)
        size = request.content_length
        if size is None or "Transfer-Encoding" in request.headers:
            return self._refuse("length", 411, close=True)
        if size > self._limits.message_bytes:
            return self._refuse("too-large", 413, close=True)
        if self._at_work[peer] >= self._limits.requests_per_peer:
            return self._refuse("busy", 429, headers={"Retry-After": "1"})
        self._at_work[peer] += 1
        try:
            if size <= self._limits.small_bytes:
                return await self._take(request, peer, size)
            async with self._budget.hold(size):
                return await self._take(request, peer, size)
        finally:
            self._at_work[peer] -= 1
            if not self._at_work[peer]:
                del self._at_work[peer]

    async def _take(self, request: web.BaseRequest, peer: Identity, size: int) -> Reply:
        try:
            async with asyncio.timeout(self._limits.body_deadline(size)):
                message = await _body(request, size)
        except TimeoutError:
            return self._refuse("body-timeout", 408, close=True)
        except (OSError, web.RequestPayloadError):
            return self._refuse("body-cut", 400, close=True)
        try:
            answer = await self._receive(message, peer)
        except Exception as error:
            # Neither the text of an unforeseen error nor its stack's variables may go anywhere: they can hold secrets.
            logger("inbox").error(Event.FAILED, peer=str(peer), error=type(error).__name__, place=place(error))
            return self._refuse("failed", 500)
        if answer is Answer.ACCEPTED:
            return Reply(202)
        return Reply(STATUS[answer], answer, headers={"Retry-After": "1"} if answer is Answer.LATER else None)

    def _refuse(
        self, slug: str, status: int, word: str = "", *, headers: dict[str, str] | None = None, close: bool = False
    ) -> Reply:
        self._count(slug)
        return Reply(status, word, headers=headers, close=close)


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
