"""What a node keeps, and the one interface that keeps it: one transaction a batch of steps, before any of it is sent or answered.

A round is kept as its journal: how it began, and every event that it took. Machines are deterministic, so that the journal is the
state; nothing else has to be written when a machine changes, and nothing can be written that the machine would not do.
What is secret (events, seeds, envelopes, keys, results) reaches a store already sealed: a store holds bytes, not meanings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mpc.errors import TemporaryError
from nodes.store.audit import AuditLine, Chain, Head, Kept


class StoreError(TemporaryError):
    """The store could not do it: a full disk, a read-only file, a lost connection. `reason` is a fixed slug for counters."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Posted:
    """A message in the outbox."""

    number: int
    """Of the round's messages, counted from 0 in the order in which it sent them."""
    recipient: str
    """Identity URI."""
    kind: int
    endpoint: str
    until: float
    """Unix seconds."""
    envelope: bytes = field(repr=False)
    """As it travels: sealed for its recipient, so not sealed once more."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A round begins."""

    opened: float
    """Unix seconds."""
    role: str
    """"hospital" or "patient": which machine takes its events."""
    study: str
    sealed: bytes = field(repr=False)
    """What the machine is made from, under the round's key, and where that key is."""


@dataclass(frozen=True, slots=True)
class Closed:
    """A round ends: its journal and outbox up to here are deleted."""

    at: float
    outcome: str
    code: str
    taken: bytes
    """The 32-byte digests of the messages that it took, one after the other."""
    result: bytes = field(default=b"", repr=False)
    """Sealed; empty when there is none."""
    summary: bytes = b""
    """For people, as JSON; no values."""


@dataclass(frozen=True, slots=True)
class ReceiptPart:
    """The receipt of a round, or a countersignature that is added to it. For others to see, and so not sealed."""

    number: int
    """0: the receipt, which comes with the end of the round; else the member's place in the roster, from 1."""
    content: bytes = field(repr=False)
    digest: bytes = b""
    """By which people call the receipt; empty for a countersignature."""
    until: float = 0.0
    """Unix seconds until which countersignatures are added; 0.0 where none are."""


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One thing that `nodes.ledger` remembers, which says what it means. It takes the place of an earlier one of its name."""

    kind: str
    key: str
    """With `kind` its name."""
    at: float
    """Unix seconds."""
    until: float
    """When it may be forgotten; infinity for never."""
    content: bytes = field(repr=False)
    """Sealed where it tells of values."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one transition changes."""

    round_id: bytes
    """Empty where only lines and entries are kept, of no round."""
    begun: Begun | None = None
    event: bytes = field(default=b"", repr=False)
    """The event, sealed under the round's key; empty when none was taken."""
    posted: tuple[Posted, ...] = ()
    called_back: bool = False
    """The outbox of the round is emptied first."""
    closed: Closed | None = None
    audit: tuple[AuditLine, ...] = ()
    receipt: ReceiptPart | None = None
    """A countersignature that is there already, or whose round was erased, is passed over."""
    ledger: tuple[LedgerEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenRound:
    """A round that has begun and not ended, as it was kept."""

    round_id: bytes
    begun: Begun
    events: tuple[bytes, ...] = field(repr=False)
    outbox: tuple[Posted, ...]


@dataclass(frozen=True, slots=True)
class ClosedRound:
    """A round that has ended."""

    round_id: bytes
    opened: float
    study: str
    closed: Closed


@dataclass(frozen=True, slots=True)
class ReceiptLine:
    """That there is a receipt."""

    round_id: bytes
    study: str
    at: float
    """When the round ended here, Unix seconds."""
    digest: bytes


@dataclass(frozen=True, slots=True)
class KeptReceipt:
    """A receipt with what was added to it."""

    round_id: bytes
    content: bytes = field(repr=False)
    countersignatures: tuple[tuple[int, bytes], ...]
    """(place in the roster from 1, content), in this order."""


@dataclass(frozen=True, slots=True)
class KeptKey:
    """An encryption key of this node."""

    key_id: bytes
    not_after: float
    sealed: bytes = field(repr=False)


class AuditStore(Protocol):
    """What keeps an audit log. Every method raises StoreError when the store cannot do it; then nothing has changed."""

    @property
    def chain(self) -> Chain:
        """What tells whether this node has written a line."""
        ...

    async def record(self, lines: Sequence[AuditLine]) -> None:
        """Puts lines, one at least, at the end of the audit log: a commit of its own."""
        ...

    async def audit_head(self) -> Head:
        """Where the audit log begins and ends now."""
        ...

    async def audit(self, after: int, limit: int, *, since: float = 0.0, event: str = "") -> list[Kept]:
        """At most `limit` lines of the audit log after number `after`, in their order.

        With `since` (Unix seconds) or `event` only lines of that time or later, and of that event.
        """
        ...


class Store(AuditStore, Protocol):
    """Durable state of one node. Every method raises StoreError when the store cannot do it; then nothing has changed.

    `commit` is called by one task at a time; the others may be called at any time.
    """

    async def open(self) -> None:
        """Makes or upgrades the tables. Raises ConfigError for a store that a newer program made, or that is another node's."""
        ...

    async def close(self) -> None:
        """Finishes what is under way."""
        ...

    async def commit(self, steps: Sequence[Step]) -> int:
        """Keeps all the steps in one transaction. Returns the store's new counter, which only ever grows, by one a commit.

        `record` and `erase_before` count as commits.
        """
        ...

    async def counter(self) -> int:
        """The counter of the last commit; 0 for a new store."""
        ...

    async def delivered(self, messages: Sequence[tuple[bytes, int]]) -> None:
        """Takes messages, each by its round and number, out of the outbox: their recipients have answered for good."""
        ...

    async def open_rounds(self) -> list[OpenRound]:
        """Every round that has begun and not ended, oldest first, with its events in order and what is in its outbox.

        Outboxes of rounds that have ended (receipts, aborts) are in `left_over`.
        """
        ...

    async def left_over(self) -> list[tuple[bytes, Posted]]:
        """Messages of rounds that have ended which are still to be delivered: (round id, message)."""
        ...

    async def closed_rounds(self, limit: int) -> list[ClosedRound]:
        """The rounds that ended last, newest first."""
        ...

    async def find_closed(self, round_id: bytes) -> ClosedRound | None:
        """A round that has ended."""
        ...

    async def receipts(self, limit: int) -> list[ReceiptLine]:
        """The receipts of the rounds that ended last, newest first."""
        ...

    async def find_receipt(self, round_id: bytes) -> KeptReceipt | None:
        """The receipt of a round."""
        ...

    async def open_receipts(self, now: float) -> list[KeptReceipt]:
        """Those to which countersignatures are still added at `now` (Unix seconds)."""
        ...

    async def ledger(self) -> list[LedgerEntry]:
        """Every entry, in the order in which their names were first kept."""
        ...

    async def forget_ledger(self, now: float) -> None:
        """Deletes the entries that may be forgotten at `now` (Unix seconds)."""
        ...

    async def keep_key(self, key: KeptKey) -> None:
        """Keeps an encryption key."""
        ...

    async def keys(self) -> list[KeptKey]:
        """All encryption keys kept, oldest first."""
        ...

    async def erase_key(self, key_id: bytes) -> None:
        """Forgets an encryption key."""
        ...

    async def erase_before(self, at: float, study: str | None = None) -> int:
        """Deletes closed rounds with their results, and empties lines of the audit log, that are older than `at` (Unix seconds),
        of one study if it is given. A new line says what was erased. Returns how many rounds and lines.
        """
        ...
