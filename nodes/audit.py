"""The audit log of a running node: takes what happens outside rounds, and checks what is kept.

What happens in a round is kept with the round's own commit (`rounds`); the rest is put into the store by and by, and again when
that fails. Refusals are thinned: strangers can cause them, and must not fill a disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence
from functools import partial

from nodes.log import Event, Logger, Thinned, scrubbed
from nodes.store.audit import AuditEvent, AuditLine, Chain, ChainBroken, Head, Kept, Walk, audit_line
from nodes.store.base import AuditStore, StoreError

PAGE = 1000
"""Lines that are read at once."""
_THIN_SECONDS = 3600.0
_RETRY_SECONDS = 5.0
_END_SECONDS = 5.0
_TRIES = 3
_REFUSALS = frozenset({AuditEvent.REFUSED, AuditEvent.ENROLMENT_REFUSED, AuditEvent.RENEWAL_REFUSED})
_ALIKE = ("what", "reason", "outcome")
"""Refusals that agree in these are of one kind."""


class AuditLog:
    """Takes lines at any time; they are written between `begin` and `end`. For the event loop."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._store: AuditStore | None = None
        self._waiting: deque[AuditLine] = deque()
        self._thinned = Thinned(_THIN_SECONDS)
        self._writing: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()

    def __call__(self, event: str, *, study: str = "", **content: object) -> None:
        """Something happened; `event` is an AuditEvent. No secret may be in `content`, and no value.

        Of refusals with the same `what`, `reason` and `outcome`, all of them slugs, one an hour is kept: `left_out` says how many
        there were since.
        """
        kind = AuditEvent(event)
        if kind in _REFUSALS:
            left_out = self._thinned.due(" ".join([kind, *(str(content.get(key, "")) for key in _ALIKE)]))
            if left_out is None:
                return
            content["left_out"] = left_out
        self._waiting.append(audit_line(time.time(), kind, study, **scrubbed(content)))
        self._write()

    async def begin(self, store: AuditStore) -> None:
        """Writes to this store, which is open, from now on. Raises StoreError."""
        if not store.chain.is_genuine(await store.audit_head()):
            self._log.error(Event.AUDIT_TAMPERED)
        self._store = store
        self._write()

    async def end(self) -> None:
        """Writes what waits, and nothing more. The store can be closed then."""
        self._ending.set()
        writing = self._writing
        if writing is not None:
            await asyncio.wait([writing], timeout=_END_SECONDS)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
        self._store = None

    def _write(self) -> None:
        if self._store is not None and self._waiting and self._writing is None:
            self._writing = asyncio.create_task(self._write_all(self._store))

    async def _write_all(self, store: AuditStore) -> None:
        try:
            while self._waiting:
                lines = list(self._waiting)
                while not await self._written(store, lines):  # the same again: they may be in the store after all
                    if self._ending.is_set():
                        return
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_RETRY_SECONDS):
                            await self._ending.wait()
                for _ in lines:
                    self._waiting.popleft()
        finally:
            self._writing = None

    async def _written(self, store: AuditStore, lines: Sequence[AuditLine]) -> bool:
        try:
            await store.record(lines)
        except StoreError as error:
            self._log.error(Event.STORE_FAILED, reason=error.reason, detail=str(error))
            return False
        return True


async def verify(store: AuditStore) -> Head:
    """Reads the whole log. Its head, if every line is as it was written and none is lost. Raises ChainBroken, StoreError."""
    for attempt in range(_TRIES):
        head = await store.audit_head()
        try:
            await _follow(store, head)
        except ChainBroken:
            # Lines that were erased while they were read look lost.
            if attempt < _TRIES - 1 and await store.audit(head.last, 1, event=AuditEvent.ERASED):
                continue
            raise
        break
    return head


async def _follow(store: AuditStore, head: Head) -> None:
    walk = Walk(head.erased_to, head.anchor)
    while walk.number < head.last and (page := await store.audit(walk.number, PAGE)):
        await asyncio.to_thread(_take_all, walk, store.chain, [kept for kept in page if kept.number <= head.last])
        if page[-1].number > head.last:
            break
    walk.finish(head.last)
    if walk.digest != head.digest or not store.chain.is_genuine(head):
        raise ChainBroken(head.last, "the log does not end here as this node has left it; lines after it may be lost")
    later = await store.audit(head.last, 1)
    if later and (await store.audit_head()).last == head.last:
        raise ChainBroken(later[0].number, "it stands after the end of the log")


def _take_all(walk: Walk, chain: Chain, page: Sequence[Kept]) -> None:
    for kept in page:
        walk.take(kept.number, kept.body, kept.line, partial(chain.fits, kept))
