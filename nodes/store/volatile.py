"""The store in memory, for tests and the simulation: it keeps what the others keep, fails when it is told to, and can be copied.

`copy` is what a disk would hold if the power went now. A test that raises in `before` has a store that failed; one that copies in
`after` and raises has a process that died after its commit; one that waits has a slow disk.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import TypeVar

from nodes.store.audit import AuditEvent, AuditLine, Chain, Head, Kept
from nodes.store.base import (
    Begun,
    ClosedRound,
    KeptKey,
    KeptReceipt,
    LedgerEntry,
    OpenRound,
    Posted,
    ReceiptLine,
    ReceiptPart,
    Step,
    StoreError,
)
from nodes.store.rows import inconsistent

T = TypeVar("T")
Hook = Callable[[str], Awaitable[None]]
"""Called with the name of the method. May wait, and may raise."""


_CHAIN = Chain()


async def _nothing(_method: str) -> None:
    """The hook of a store that does not fail."""


@dataclass(slots=True)
class _Disk:
    """All that is kept, each table in its order. What the tables hold is immutable: copies of them are a copy of it all."""

    head: Head = field(default_factory=_CHAIN.start)
    open: dict[bytes, tuple[Begun, tuple[bytes, ...]]] = field(default_factory=dict)
    """Of each round: how it began, and its events."""
    closed: dict[bytes, ClosedRound] = field(default_factory=dict)
    outbox: dict[tuple[bytes, int], Posted] = field(default_factory=dict)
    audit: list[Kept] = field(default_factory=list)
    keys: dict[bytes, KeptKey] = field(default_factory=dict)
    receipts: dict[bytes, dict[int, ReceiptPart]] = field(default_factory=dict)
    """Of each round, by number."""
    ledger: dict[tuple[str, str], LedgerEntry] = field(default_factory=dict)

    def copy(self) -> _Disk:
        return _Disk(
            self.head,
            dict(self.open),
            dict(self.closed),
            dict(self.outbox),
            list(self.audit),
            dict(self.keys),
            {round_id: dict(parts) for round_id, parts in self.receipts.items()},
            dict(self.ledger),
        )

    def record(self, lines: Sequence[AuditLine]) -> None:
        self.head, made = _CHAIN.extend(self.head, lines)
        self.audit += made

    def erase_lines(self, is_old: Callable[[str, float], bool], before: float, *, of_study: bool, rounds: int) -> int:
        said = ("", AuditEvent.ERASED)
        doomed = {kept.number for kept in self.audit if kept.line.event not in said and is_old(kept.line.study, kept.line.at)}
        if not doomed and not rounds:
            return 0
        self.audit = [kept.emptied() if kept.number in doomed else kept for kept in self.audit]
        first = list(takewhile(lambda kept: kept.line.event in said and kept.line.at < before, self.audit))
        self.audit = self.audit[len(first) :]
        self.head, made = _CHAIN.erase(self.head, sorted(doomed), first, before=before, of_study=of_study, rounds=rounds)
        self.audit += made
        return len(doomed)

    def posted(self, round_id: bytes) -> dict[tuple[bytes, int], Posted]:
        return {place: post for place, post in self.outbox.items() if place[0] == round_id}

    def call_back(self, round_id: bytes) -> None:
        for place in self.posted(round_id):
            del self.outbox[place]

    def take(self, step: Step) -> None:
        round_id = step.round_id
        if step.begun is not None:
            if round_id in self.open or round_id in self.closed:
                raise inconsistent(round_id, "has begun before")
            self.open[round_id] = (step.begun, ())
        if (step.event or step.closed is not None) and round_id not in self.open:
            raise inconsistent(round_id, "is not open")
        if step.event:
            begun, events = self.open[round_id]
            self.open[round_id] = (begun, (*events, step.event))
        if step.called_back or step.closed is not None:
            self.call_back(round_id)
        if step.closed is not None:
            begun, _ = self.open.pop(round_id)
            self.closed[round_id] = ClosedRound(round_id, begun.opened, begun.study, step.closed)
        if step.receipt is not None and round_id in self.closed:
            self.receipts.setdefault(round_id, {}).setdefault(step.receipt.number, step.receipt)
        for entry in step.ledger:
            self.ledger[entry.kind, entry.key] = entry
        for post in step.posted:
            if (round_id, post.number) in self.outbox:
                raise inconsistent(round_id, f"has a message {post.number} already")
            self.outbox[round_id, post.number] = post


class VolatileStore:
    """See `nodes.store.base.Store`."""

    chain = _CHAIN
    """See `AuditStore.chain`. There is nobody to keep a key from."""

    def __init__(self) -> None:
        self.before: Hook = _nothing
        """Before anything is changed or read."""
        self.after: Hook = _nothing
        """When it has been; what it raises is raised, but the change stays."""
        self._disk = _Disk()
        self._open = False

    def copy(self) -> VolatileStore:
        """A store that holds what this one holds now; not open, and without its hooks."""
        other = VolatileStore()
        other._disk = self._disk.copy()
        return other

    async def open(self) -> None:
        """See `Store.open`."""
        await self.before("open")
        self._open = True

    async def close(self) -> None:
        """See `Store.close`."""
        self._open = False

    async def commit(self, steps: Sequence[Step]) -> int:
        """See `Store.commit`."""

        def change() -> int:
            disk = self._disk.copy()  # a step that does not fit leaves everything as it was
            disk.record([line for step in steps for line in step.audit])
            for step in steps:
                disk.take(step)
            self._disk = disk
            return disk.head.counter

        return await self._do("commit", change)

    async def counter(self) -> int:
        """See `Store.counter`."""
        return await self._do("counter", lambda: self._disk.head.counter)

    async def record(self, lines: Sequence[AuditLine]) -> None:
        """See `AuditStore.record`."""
        await self._do("record", lambda: self._disk.record(lines))

    async def audit_head(self) -> Head:
        """See `AuditStore.audit_head`."""
        return await self._do("audit_head", lambda: self._disk.head)

    async def audit(self, after: int, limit: int, *, since: float = 0.0, event: str = "") -> list[Kept]:
        """See `AuditStore.audit`."""

        def look() -> list[Kept]:
            later = (kept for kept in self._disk.audit if kept.number > after and kept.line.at >= since)
            return list(islice((kept for kept in later if event in ("", kept.line.event)), limit))

        return await self._do("audit", look)

    async def delivered(self, messages: Sequence[tuple[bytes, int]]) -> None:
        """See `Store.delivered`."""

        def change() -> None:
            for message in messages:
                self._disk.outbox.pop(message, None)

        await self._do("delivered", change)

    async def open_rounds(self) -> list[OpenRound]:
        """See `Store.open_rounds`."""
        return await self._do(
            "open_rounds",
            lambda: [
                OpenRound(round_id, begun, events, tuple(self._disk.posted(round_id).values()))
                for round_id, (begun, events) in self._disk.open.items()
            ],
        )

    async def left_over(self) -> list[tuple[bytes, Posted]]:
        """See `Store.left_over`."""
        return await self._do(
            "left_over",
            lambda: [(round_id, post) for (round_id, _), post in self._disk.outbox.items() if round_id not in self._disk.open],
        )

    async def closed_rounds(self, limit: int) -> list[ClosedRound]:
        """See `Store.closed_rounds`."""
        return await self._do("closed_rounds", lambda: list(islice(reversed(self._disk.closed.values()), limit)))

    async def find_closed(self, round_id: bytes) -> ClosedRound | None:
        """See `Store.find_closed`."""
        return await self._do("find_closed", lambda: self._disk.closed.get(round_id))

    async def receipts(self, limit: int) -> list[ReceiptLine]:
        """See `Store.receipts`."""

        def look() -> list[ReceiptLine]:
            disk = self._disk
            ended = (one for one in reversed(disk.closed.values()) if one.round_id in disk.receipts)
            return [
                ReceiptLine(one.round_id, one.study, one.closed.at, disk.receipts[one.round_id][0].digest)
                for one in islice(ended, limit)
            ]

        return await self._do("receipts", look)

    async def find_receipt(self, round_id: bytes) -> KeptReceipt | None:
        """See `Store.find_receipt`."""
        return await self._do("find_receipt", lambda: next(self._receipts(lambda one, _part: one == round_id), None))

    async def open_receipts(self, now: float) -> list[KeptReceipt]:
        """See `Store.open_receipts`."""
        return await self._do("open_receipts", lambda: list(self._receipts(lambda _one, part: part.until > now)))

    def _receipts(self, wanted: Callable[[bytes, ReceiptPart], bool]) -> Iterator[KeptReceipt]:
        for round_id, parts in self._disk.receipts.items():
            if wanted(round_id, parts[0]):
                added = tuple((number, parts[number].content) for number in sorted(parts) if number)
                yield KeptReceipt(round_id, parts[0].content, added)

    async def ledger(self) -> list[LedgerEntry]:
        """See `Store.ledger`."""
        return await self._do("ledger", lambda: list(self._disk.ledger.values()))

    async def forget_ledger(self, now: float) -> None:
        """See `Store.forget_ledger`."""

        def change() -> None:
            self._disk.ledger = {name: entry for name, entry in self._disk.ledger.items() if entry.until > now}

        await self._do("forget_ledger", change)

    async def keep_key(self, key: KeptKey) -> None:
        """See `Store.keep_key`."""
        await self._do("keep_key", lambda: self._disk.keys.update({key.key_id: key}))

    async def keys(self) -> list[KeptKey]:
        """See `Store.keys`."""
        return await self._do("keys", lambda: list(self._disk.keys.values()))

    async def erase_key(self, key_id: bytes) -> None:
        """See `Store.erase_key`."""
        await self._do("erase_key", lambda: self._disk.keys.pop(key_id, None))

    async def erase_before(self, at: float, study: str | None = None) -> int:
        """See `Store.erase_before`."""

        def is_old(of: str, time: float) -> bool:
            return time < at and study in (None, of)

        def change() -> int:
            disk = self._disk
            old = [round_id for round_id, ended in disk.closed.items() if is_old(ended.study, ended.closed.at)]
            for round_id in old:
                del disk.closed[round_id]
                disk.receipts.pop(round_id, None)
                disk.call_back(round_id)
            return len(old) + disk.erase_lines(is_old, at, of_study=study is not None, rounds=len(old))

        return await self._do("erase_before", change)

    async def _do(self, method: str, act: Callable[[], T]) -> T:
        if not self._open:
            raise StoreError("closed", "the store is not open")
        await self.before(method)
        result = act()
        await self.after(method)
        return result
