"""The relay's side over HTTP (docs/relay.md): nodes post envelopes for others and fetch their own, and publish their keys.

    POST /v1/mail                                 a batch of envelopes; one answer each
    GET  /v1/mail?finished=N&after=M&wait=S&limit=B   deletes up to N, then what lies beyond M, waiting for it up to S seconds
    PUT  /v1/key                                  the caller's key statement and certificates
    GET  /v1/key/ROLE/NAME                        those of another node

Who asks is who TLS proved, and nobody says whose mailbox it is: it is the caller's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from mpc.credentials import Credentials
from mpc.errors import Answer, IdentityError, MessageRefused
from mpc.identity import Identity, Role
from mpc.mailbox import SERVED, Letter, Rules, read_key, read_letter
from nodes.store.base import StoreError
from nodes.store.mail import CursorError, Fetched, MailStore
from nodes.transport.batch import (
    BATCH_BYTES,
    FETCH_BYTES,
    KEY,
    MAIL,
    MAX_BATCH,
    MAX_NUMBER,
    MAX_WAIT,
    POSTED_OVERHEAD,
    pack_answers,
    pack_fetched,
    unpack_posted,
)
from nodes.transport.budget import ByteBudget
from nodes.transport.guard import Count
from nodes.transport.inbox import CONTENT_TYPE, Intake, Reply, Routes
from nodes.transport.limits import MIB, Limits

_REPLY_BYTES = 64 * MIB
"""Answers that may be in memory together."""
_KEY_BYTES = 64 * 1024
_RETRY = {"Retry-After": "1"}
_KIND = {"Content-Type": CONTENT_TYPE}

Posted = Callable[[str, Identity, Identity | None], None]
"""Hears of each posted envelope: its outcome (a Verdict, or the reason of a refusal), who posted it, and for whom if known."""
StoreFailed = Callable[[StoreError], None]


@dataclass(slots=True)
class _Poll:
    """A fetch that waits."""

    bell: asyncio.Event
    replaced: bool = False


class Mailroom:
    """Serves nodes of one consortium from `store`, by the rules. `credentials` may be exchanged at any time.

    Slugs counted: "role", "path", "method", "query", "batch" (cut off, or too many), "cursor", "key", "store" (it failed),
    and those of `Intake`.
    """

    def __init__(
        self,
        me: Identity,
        store: MailStore,
        credentials: Credentials,
        rules: Rules,
        limits: Limits,
        *,
        count: Count,
        posted: Posted,
        store_failed: StoreFailed,
        routes: Routes | None = None,
    ) -> None:
        self._me = me
        self._store = store
        self.credentials = credentials
        self._rules = rules
        self._limits = limits
        self._count = count
        self._posted = posted
        self._failed = store_failed
        self._routes = {} if routes is None else routes
        self._intake = Intake(limits, count)
        self._replies = ByteBudget(_REPLY_BYTES)
        self._polls: dict[Identity, _Poll] = {}
        self._known: set[Identity] = set()
        """Who has been here since the start, and so has a mailbox."""
        self._stopping = False

    def polls(self) -> int:
        """Fetches that wait now."""
        return len(self._polls)

    def arrived(self, owner: Identity | None) -> None:
        """There may be mail in this mailbox; None: in any."""
        for poll in self._polls.values() if owner is None else filter(None, [self._polls.get(owner)]):
            poll.bell.set()

    def stop(self) -> None:
        """Answers every fetch that waits, and lets none wait from now on."""
        self._stopping = True
        self.arrived(None)

    async def handle(self, request: web.BaseRequest, peer: Identity) -> web.StreamResponse:
        """Answers one request."""
        if peer.role not in SERVED or peer.consortium != self._me.consortium:
            return self._intake.refuse("role", 403, Answer.REJECTED, close=True)
        path, method = request.rel_url.raw_path, request.method
        route = self._routes.get(path)
        if route is not None:
            if method != route.method:
                return self._intake.refuse("method", 405, headers={"Allow": route.method})
            return await route.answer(request, peer)
        try:
            if peer not in self._known:  # before it can have written to anybody who would answer
                await self._store.open_boxes([peer])
                self._known.add(peer)
            if path == MAIL and method == "POST":
                most = max(BATCH_BYTES, self._limits.message_bytes + POSTED_OVERHEAD)
                return await self._intake.take(request, peer, most, lambda body: self._post(body, peer))
            if path == MAIL and method == "GET":
                return await self._fetch(request, peer)
            if path == KEY and method == "PUT":
                return await self._intake.take(request, peer, _KEY_BYTES, lambda body: self._publish(body, peer))
            if path.startswith(f"{KEY}/") and method == "GET":
                return await self._published(path.removeprefix(f"{KEY}/"))
        except StoreError as error:
            return self._store_failed(error)
        if path in (MAIL, KEY):
            return self._intake.refuse("method", 405, headers={"Allow": "GET, POST" if path == MAIL else "PUT"})
        return self._intake.refuse("path", 404)

    def _store_failed(self, error: StoreError) -> Reply:
        self._failed(error)
        return self._intake.refuse("store", 503, headers=_RETRY)

    # -- mail in

    async def _post(self, body: bytes, peer: Identity) -> Reply:
        try:
            envelopes = unpack_posted(body)
        except ValueError:
            return self._intake.refuse("batch", 400)
        if len(envelopes) > MAX_BATCH:
            return self._intake.refuse("batch", 413)
        letters: list[Letter] = []
        answers: list[Answer | None] = []
        for envelope in envelopes:
            try:
                letters.append(read_letter(envelope, peer, self._me, self._limits.message_bytes))
                answers.append(None)
            except MessageRefused as refused:
                answers.append(refused.answer)
                self._posted(refused.reason, peer, None)
        try:
            verdicts = await self._store.post(letters, time.time()) if letters else ()
        except StoreError as error:
            return self._store_failed(error)
        for letter, verdict in zip(letters, verdicts, strict=True):
            self._posted(verdict, peer, letter.recipient)
        taken = iter(verdicts)
        said = [next(taken).answer if answer is None else answer for answer in answers]
        if all(answer is Answer.LATER for answer in said):
            return Reply(429, pack_answers(said), headers=_RETRY | _KIND)
        return Reply(200, pack_answers(said), headers=_KIND)

    # -- mail out

    async def _fetch(self, request: web.BaseRequest, peer: Identity) -> Reply:
        asked = _numbers(request, {"finished": MAX_NUMBER, "after": MAX_NUMBER, "wait": MAX_WAIT, "limit": FETCH_BYTES})
        if asked is None:
            return self._intake.refuse("query", 400)
        earlier = self._polls.get(peer)
        if earlier is not None:  # its connection may be one that only the peer knows to be dead
            earlier.replaced = True
            earlier.bell.set()
        poll = self._polls[peer] = _Poll(asyncio.Event())
        try:
            return await self._wait_for_mail(request, peer, poll, asked)
        except CursorError:
            return self._intake.refuse("cursor", 409)
        finally:
            if self._polls.get(peer) is poll:
                del self._polls[peer]

    async def _wait_for_mail(self, request: web.BaseRequest, peer: Identity, poll: _Poll, asked: dict[str, int]) -> Reply:
        finished, limit = asked["finished"], asked["limit"] or FETCH_BYTES
        after = max(finished, asked["after"])
        loop = asyncio.get_running_loop()
        deadline = loop.time() + asked["wait"]
        while True:
            poll.bell.clear()
            async with self._replies.hold(limit):
                letters = await self._store.fetch(peer, finished, after, limit, time.time() - self._rules.max_age)
                if letters or poll.replaced or self._stopping or loop.time() >= deadline:
                    return await self._write(request, letters)
            try:
                async with asyncio.timeout_at(deadline):
                    await poll.bell.wait()
            except TimeoutError:
                return Reply(200, headers=_KIND)

    async def _write(self, request: web.BaseRequest, letters: Fetched) -> Reply:
        body = b"".join(pack_fetched(letters))
        return await self._intake.give(request, Reply(200, body, headers=_KIND), len(body))

    # -- keys

    async def _publish(self, body: bytes, peer: Identity) -> Reply:
        try:
            key = read_key(body, peer, self.credentials, time.time())
        except MessageRefused:
            return self._intake.refuse("key", 409, Answer.REFUSED)
        try:
            await self._store.publish(peer, body, key.not_after)
        except StoreError as error:
            return self._store_failed(error)
        return Reply(204)

    async def _published(self, name: str) -> Reply:
        role, _, name = name.partition("/")
        try:
            owner = Identity(self._me.consortium, Role(role), name)
        except (ValueError, IdentityError):
            return self._intake.refuse("path", 404)
        key = await self._store.published(owner, time.time())
        return Reply(404) if key is None else Reply(200, key, headers=_KIND)


def _numbers(request: web.BaseRequest, most: dict[str, int]) -> dict[str, int] | None:
    """The query's numbers, 0 where one is not given, each at most what `most` says; None when it says anything else."""
    found = dict.fromkeys(most, 0)
    for name, text in request.rel_url.query.items():
        if name not in most or not text.isascii() or not text.isdecimal() or len(text) > 19:
            return None
        found[name] = int(text)
        if found[name] > MAX_NUMBER:
            return None
    return {name: min(number, most[name]) for name, number in found.items()}
