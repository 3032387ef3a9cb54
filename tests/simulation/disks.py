"""What a node keeps from one life to the next, and the ways in which that fails it.

Most runs keep it in memory; some in a real SQLite file and a real key file, of which a crash leaves what the kernel has.
"""

from __future__ import annotations

import os
import shutil
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from nodes.store.audit import AuditLine, Chain, Head, Kept
from nodes.store.base import (
    ClosedRound,
    KeptKey,
    KeptReceipt,
    LedgerEntry,
    OpenRound,
    Posted,
    ReceiptLine,
    Step,
    Store,
    StoreError,
)
from nodes.store.counter import BackupGuard
from nodes.store.round_keys import RoundKeys
from nodes.store.sealing import KEY_BYTES, SealingKey, StorageKey
from nodes.store.sqlite import SqliteStore
from nodes.store.volatile import VolatileStore
from tests.mpc.nodes import HOSPITAL

T = TypeVar("T")

Point = Callable[[str], None]
"""Called at a named point of synchronous work. May end the life, and may raise StoreError."""


class Disk(Protocol):
    """One node's."""

    store: Store
    keys: RoundKeys
    guard: BackupGuard

    @abstractmethod
    def put(self, point: Point) -> None:
        """`point` hears of the work of the next life."""

    @abstractmethod
    async def crash(self) -> None:
        """A new life finds what the last one had on the disk; that one's handles reach it no more."""

    @abstractmethod
    async def close(self) -> None:
        """After the run."""

    @abstractmethod
    def back_up(self) -> None:
        """Takes a copy of the store."""

    @abstractmethod
    def restore(self) -> bool:
        """Puts the oldest copy in the place of the store, if there is one. For a node that is down."""


class VolatileKeys(RoundKeys):
    """Round keys without a file."""

    def __init__(self, kept: dict[bytes, SealingKey] | None = None) -> None:
        self._kept: dict[bytes, SealingKey] = {} if kept is None else kept
        self._reclaimed: set[bytes] = set()
        self.point: Point = _nothing

    def next_life(self) -> VolatileKeys:
        """The same keys, of which no round has taken one yet."""
        return VolatileKeys(self._kept)

    def make(self, round_id: bytes) -> SealingKey:
        self.point("before key")
        key = self._kept.setdefault(round_id, SealingKey(os.urandom(KEY_BYTES)))
        self.point("after key")
        return key

    def slot(self, round_id: bytes) -> int:
        return 0

    def take_again(self, round_id: bytes, slot: int) -> SealingKey:
        if round_id not in self._kept:
            raise StoreError("unsealable", "there is no such key")
        self._reclaimed.add(round_id)
        return self._kept[round_id]

    def destroy(self, round_id: bytes) -> None:
        self.point("before destroy")
        self._kept.pop(round_id, None)
        self.point("after destroy")

    def renew_others(self) -> None:
        for round_id in set(self._kept) - self._reclaimed:
            self.destroy(round_id)
        self._reclaimed.clear()

    def rounds(self) -> list[bytes]:
        return sorted(self._kept)


class VolatileGuard(BackupGuard):
    """The counter without a file."""

    def __init__(self) -> None:
        self._counter: int | None = None
        self.point: Point = _nothing

    def keep(self, counter: int, *, wait: bool = False) -> None:
        self.point("before counter")
        self._counter = counter
        self.point("after counter")

    def close(self) -> None:
        """There is no file."""

    def _read(self) -> int | None:
        return self._counter


class MemoryDisk:
    """See `Disk`."""

    def __init__(self) -> None:
        self._volatile = VolatileStore()
        self._copies: list[VolatileStore] = []
        self.store: Store = self._volatile
        self.keys: RoundKeys = VolatileKeys()
        self.guard: BackupGuard = VolatileGuard()

    def put(self, point: Point) -> None:
        for part in (self.keys, self.guard):
            assert isinstance(part, VolatileKeys | VolatileGuard)
            part.point = point

    async def crash(self) -> None:
        self.store = self._volatile = self._volatile.copy()
        assert isinstance(self.keys, VolatileKeys)
        self.keys = self.keys.next_life()

    async def close(self) -> None:
        """There is nothing to let go of."""

    def back_up(self) -> None:
        self._copies.append(self._volatile.copy())

    def restore(self) -> bool:
        if self._copies:
            self.store = self._volatile = self._copies[0].copy()
        return bool(self._copies)


class _PointedKeys(RoundKeys):
    point: Point

    def make(self, round_id: bytes) -> SealingKey:
        self.point("before key")
        key = super().make(round_id)
        self.point("after key")
        return key

    def destroy(self, round_id: bytes) -> None:
        self.point("before destroy")
        super().destroy(round_id)
        self.point("after destroy")

    def renew_others(self) -> None:
        self.point("before destroy")
        super().renew_others()
        self.point("after destroy")


class _PointedGuard(BackupGuard):
    point: Point

    def keep(self, counter: int, *, wait: bool = False) -> None:
        self.point("before counter")
        super().keep(counter, wait=wait)
        self.point("after counter")


class FileDisk:
    """See `Disk`. Each life has a directory of its own: a copy of its predecessor's, taken when that ended."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory, self._name, self._lives = directory, name, 0
        self._key = StorageKey(os.urandom(KEY_BYTES))
        self._old: list[SqliteStore] = []
        self._use()

    @property
    def _state(self) -> Path:
        return self._directory / f"{self._name}-{self._lives}"

    def _use(self) -> None:
        self._state.mkdir(mode=0o700, exist_ok=True)
        self.store: Store = SqliteStore(self._state / "store.db", HOSPITAL.uri, self._key)
        self.keys: RoundKeys = _PointedKeys(self._state / "rounds.keys", self._key)
        self.guard: BackupGuard = _PointedGuard(self._state / "commits")

    def put(self, point: Point) -> None:
        for part in (self.keys, self.guard):
            assert isinstance(part, _PointedKeys | _PointedGuard)
            part.point = point

    async def crash(self) -> None:
        old = self._state
        self._lives += 1
        shutil.copytree(old, self._state)
        await self.close(old)
        self._use()

    async def close(self, directory: Path | None = None) -> None:
        """Lets go of everything, and removes it."""
        await self.store.close()
        self.keys.close()
        self.guard.close()
        shutil.rmtree(directory or self._state)

    def back_up(self) -> None:
        """Not here: the copies in memory show the same."""

    def restore(self) -> bool:
        return False


class Watched:
    """A store with a guest before and after each call. See `nodes.store.base.Store`."""

    def __init__(
        self,
        inner: Store,
        before: Callable[[str], Awaitable[None]],
        after: Callable[[str], Awaitable[None]],
        kept: Callable[[Sequence[Step]], None],
    ) -> None:
        """`kept` hears of the steps of a commit as soon as it is on the disk."""
        self._inner = inner
        self._before = before
        self._after = after
        self._kept = kept

    async def _do(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        await self._before(name)
        result = await call()
        await self._after(name)
        return result

    async def open(self) -> None:
        await self._do("open", self._inner.open)

    async def close(self) -> None:
        await self._inner.close()

    async def commit(self, steps: Sequence[Step]) -> int:
        async def commit() -> int:
            counter = await self._inner.commit(steps)
            self._kept(steps)
            return counter

        return await self._do("commit", commit)

    async def counter(self) -> int:
        return await self._do("counter", self._inner.counter)

    async def delivered(self, messages: Sequence[tuple[bytes, int]]) -> None:
        await self._do("delivered", lambda: self._inner.delivered(messages))

    async def open_rounds(self) -> list[OpenRound]:
        return await self._do("open_rounds", self._inner.open_rounds)

    async def left_over(self) -> list[tuple[bytes, Posted]]:
        return await self._do("left_over", self._inner.left_over)

    async def closed_rounds(self, limit: int) -> list[ClosedRound]:
        return await self._do("closed_rounds", lambda: self._inner.closed_rounds(limit))

    async def find_closed(self, round_id: bytes) -> ClosedRound | None:
        return await self._inner.find_closed(round_id)

    @property
    def chain(self) -> Chain:
        return self._inner.chain

    async def record(self, lines: Sequence[AuditLine]) -> None:
        await self._inner.record(lines)

    async def audit_head(self) -> Head:
        return await self._inner.audit_head()

    async def audit(self, after: int, limit: int, *, since: float = 0.0, event: str = "") -> list[Kept]:
        return await self._inner.audit(after, limit, since=since, event=event)

    async def ledger(self) -> list[LedgerEntry]:
        return await self._do("ledger", self._inner.ledger)

    async def forget_ledger(self, now: float) -> None:
        await self._inner.forget_ledger(now)

    async def receipts(self, limit: int) -> list[ReceiptLine]:
        return await self._inner.receipts(limit)

    async def find_receipt(self, round_id: bytes) -> KeptReceipt | None:
        return await self._do("find_receipt", lambda: self._inner.find_receipt(round_id))

    async def open_receipts(self, now: float) -> list[KeptReceipt]:
        return await self._do("open_receipts", lambda: self._inner.open_receipts(now))

    async def keep_key(self, key: KeptKey) -> None:
        await self._inner.keep_key(key)

    async def keys(self) -> list[KeptKey]:
        return await self._inner.keys()

    async def erase_key(self, key_id: bytes) -> None:
        await self._inner.erase_key(key_id)

    async def erase_before(self, at: float, study: str | None = None) -> int:
        return await self._inner.erase_before(at, study)


def _nothing(_point: str) -> None:
    """Of a disk that no life has yet."""
