"""What a relay keeps: mailboxes, and the key directory. Envelopes as they are, and nothing that opens them.

A store writes what `mpc.mailbox.sort` decides. The number of a message is given under the lock of its mailbox, so that whoever
sees a number sees every smaller one: a reader's cursor never passes a message that commits later.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from mpc.errors import CohortiumError
from mpc.identity import Identity
from mpc.mailbox import Letter, Rules, Verdict
from nodes.store.base import AuditStore

Owner = TypeVar("Owner", str, int)
Fetched = list[tuple[int, bytes]]
"""(number, envelope), in order."""
Arrived = Callable[[Identity | None], None]
"""There is something new in this mailbox; None: perhaps in any."""


class CursorError(CohortiumError):
    """A cursor beyond the end of its mailbox: it is of another store's, or of this one's before a backup was put back."""


@dataclass(frozen=True, slots=True)
class Depth:
    """How much waits."""

    boxes: int
    messages: int
    bytes: int
    oldest: float | None
    """When the oldest message came, Unix seconds."""


class MailStore(AuditStore, Protocol):
    """Durable mailboxes. Every method raises StoreError when the store cannot do it; then nothing has changed.

    Times are Unix seconds. A mailbox exists because `open_boxes` made it, or its owner fetched or published a key.
    A relay has no key that its store does not see, so its audit log's tags are plain digests.
    """

    async def open(self, arrived: Arrived) -> None:
        """Makes or upgrades the tables; `arrived` is called from now on. Raises ConfigError for a store that cannot be used,
        and then leaves nothing open.
        """
        ...

    async def close(self) -> None:
        """Finishes what is under way."""
        ...

    async def open_boxes(self, owners: Collection[Identity]) -> None:
        """Makes mailboxes for these nodes where there are none."""
        ...

    async def post(self, letters: Sequence[Letter], now: float) -> Sequence[Verdict]:
        """Takes what may be taken, durably."""
        ...

    async def fetch(self, owner: Identity, finished: int, after: int, limit: int, since: float) -> Fetched:
        """Deletes the messages up to number `finished`, then reads on after number `after` what came after `since`.

        At most `limit` bytes, but one message at least if there is any. Raises CursorError for a number beyond the end.
        """
        ...

    async def expire(self, before: float) -> int:
        """Deletes messages that came before then, and keys that ended before then. Returns how many messages."""
        ...

    async def publish(self, owner: Identity, key: bytes, not_after: float) -> None:
        """Keeps the owner's key in place of an earlier one."""
        ...

    async def published(self, owner: Identity, now: float) -> bytes | None:
        """The owner's key, if there is one that has not ended."""
        ...

    async def depth(self) -> Depth:
        """What waits now."""
        ...

    async def erase_audit(self, before: float) -> int:
        """Empties lines of the audit log from before then; a new line says so. Returns how many."""
        ...


def totals(gone: Iterable[tuple[Owner, int]]) -> list[tuple[int, int, Owner]]:
    """(messages, bytes, owner) of messages that are deleted, given as (owner, bytes)."""
    found: dict[Owner, tuple[int, int]] = {}
    for owner, size in gone:
        messages, total = found.get(owner, (0, 0))
        found[owner] = (messages + 1, total + size)
    return [(messages, size, owner) for owner, (messages, size) in found.items()]


def mail_store(where: str | Path, rules: Rules) -> MailStore:
    """The store at a postgresql:// URL, or in the SQLite file of that path."""
    if isinstance(where, str):
        from nodes.store.mail_postgres import PostgresMail

        return PostgresMail(where, rules)
    from nodes.store.mail_sqlite import SqliteMail

    return SqliteMail(where, rules)
