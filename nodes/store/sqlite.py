"""A node's store in one SQLite file of its state directory.

The journal of a round that has ended is not deleted in the commit that ends it, since its result would wait for that: it is out
of every answer from then on, and deleted when the thread is quiet. (Its key is destroyed by then: `nodes.store.sealing`.)
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from nodes.store import audit_sqlite
from nodes.store.audit import ERASED_AT_ONCE, AuditLine, Chain, Head, Kept
from nodes.store.base import (
    Begun,
    ClosedRound,
    KeptKey,
    KeptReceipt,
    LedgerEntry,
    OpenRound,
    Posted,
    ReceiptLine,
    Step,
    StoreError,
)
from nodes.store.database import Database
from nodes.store.large import LARGE_BYTES, LargePieces
from nodes.store.rows import closed_round, inconsistent
from nodes.store.schema import SQLITE, refuse_stranger
from nodes.store.sealing import StorageKey

_SWEEP_BYTES = 8_000_000
"""Of journals, deleted in one transaction: what a commit may have to wait for."""


class SqliteStore:
    """See `nodes.store.base.Store`."""

    def __init__(self, path: Path, identity: str, key: StorageKey) -> None:
        """`identity` is the node's URI; `key` must be the one that the store was made with."""
        self._identity = identity
        self._key = key
        self.chain = Chain(key.mac)
        """See `AuditStore.chain`."""
        self._path = path
        self._database = Database(path, SQLITE, self._sweep)
        self._large = LargePieces(path.with_name(f"{path.stem}.large"))

    async def open(self) -> None:
        """See `Store.open`. Also raises ConfigError when damaged or in use, IdentityError for the wrong storage key."""
        await self._database.open(self._check)

    async def close(self) -> None:
        """See `Store.close`."""
        await self._database.close()

    async def commit(self, steps: Sequence[Step]) -> int:
        """See `Store.commit`."""
        try:
            return await self._database.write(partial(self._commit, steps=steps))
        except StoreError:
            self._database.untidy = True  # perhaps a large piece is on the disk
            raise

    async def counter(self) -> int:
        """See `Store.counter`."""
        return (await self.audit_head()).counter

    async def record(self, lines: Sequence[AuditLine]) -> None:
        """See `AuditStore.record`."""
        await self._database.write(partial(audit_sqlite.record, chain=self.chain, lines=lines))

    async def audit_head(self) -> Head:
        """See `AuditStore.audit_head`."""
        return await self._database.read(audit_sqlite.read_head)

    async def audit(self, after: int, limit: int, *, since: float = 0.0, event: str = "") -> list[Kept]:
        """See `AuditStore.audit`."""
        return await self._database.read(partial(audit_sqlite.read, after=after, limit=limit, since=since, event=event))

    async def delivered(self, messages: Sequence[tuple[bytes, int]]) -> None:
        """See `Store.delivered`."""

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM outbox WHERE round = ? AND number = ?", messages)

        await self._database.write(work)

    async def open_rounds(self) -> list[OpenRound]:
        """See `Store.open_rounds`."""
        return await self._database.read(self._open_rounds)

    async def left_over(self) -> list[tuple[bytes, Posted]]:
        """See `Store.left_over`."""
        return await self._database.read(self._left_over)

    async def closed_rounds(self, limit: int) -> list[ClosedRound]:
        """See `Store.closed_rounds`."""
        rows = await self._rows(
            "SELECT round, opened, study, at, outcome, code, taken, result, summary FROM rounds"
            " WHERE ended IS NOT NULL ORDER BY ended DESC, id DESC LIMIT ?",
            limit,
        )
        return [closed_round(*row) for row in rows]

    async def find_closed(self, round_id: bytes) -> ClosedRound | None:
        """See `Store.find_closed`."""
        rows = await self._rows(
            "SELECT round, opened, study, at, outcome, code, taken, result, summary FROM rounds"
            " WHERE round = ? AND ended IS NOT NULL",
            round_id,
        )
        return closed_round(*rows[0]) if rows else None

    async def receipts(self, limit: int) -> list[ReceiptLine]:
        """See `Store.receipts`."""
        rows = await self._rows(
            "SELECT rounds.round, study, at, digest FROM receipts JOIN rounds ON rounds.id = receipts.round"
            " WHERE number = 0 ORDER BY ended DESC, rounds.id DESC LIMIT ?",
            limit,
        )
        return [ReceiptLine(*row) for row in rows]

    async def find_receipt(self, round_id: bytes) -> KeptReceipt | None:
        """See `Store.find_receipt`."""
        found = await self._database.read(partial(self._receipts, round_id=round_id))
        return found[0] if found else None

    async def open_receipts(self, now: float) -> list[KeptReceipt]:
        """See `Store.open_receipts`."""
        return await self._database.read(partial(self._receipts, now=now))

    async def ledger(self) -> list[LedgerEntry]:
        """See `Store.ledger`."""
        return [LedgerEntry(*row) for row in await self._rows("SELECT kind, key, at, until, content FROM ledger ORDER BY id")]

    async def forget_ledger(self, now: float) -> None:
        """See `Store.forget_ledger`."""
        await self._change("DELETE FROM ledger WHERE until <= ?", now, untidy=True)

    async def keep_key(self, key: KeptKey) -> None:
        """See `Store.keep_key`."""
        await self._change(
            "INSERT INTO keys (key_id, not_after, sealed) VALUES (?, ?, ?)"
            " ON CONFLICT (key_id) DO UPDATE SET not_after = excluded.not_after, sealed = excluded.sealed",
            key.key_id,
            key.not_after,
            key.sealed,
        )

    async def keys(self) -> list[KeptKey]:
        """See `Store.keys`."""
        return [KeptKey(*row) for row in await self._rows("SELECT key_id, not_after, sealed FROM keys ORDER BY id")]

    async def erase_key(self, key_id: bytes) -> None:
        """See `Store.erase_key`."""
        await self._change("DELETE FROM keys WHERE key_id = ?", key_id, untidy=True)

    async def erase_before(self, at: float, study: str | None = None) -> int:
        """See `Store.erase_before`."""
        rounds, lines = await self._database.write(partial(self._erase_before, at=at, study=study))
        erased = rounds + lines
        while lines == ERASED_AT_ONCE:
            rounds, lines = await self._database.write(partial(self._erase_before, at=at, study=study))
            erased += rounds + lines
        return erased

    async def _rows(self, query: str, *values: object) -> list[Any]:
        return await self._database.read(lambda connection: connection.execute(query, values).fetchall())

    async def _change(self, statement: str, *values: object, untidy: bool = False) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute(statement, values)
            self._database.untidy |= untidy

        await self._database.write(work)

    # ---- on the database's thread

    def _check(self, connection: sqlite3.Connection) -> None:
        row = connection.execute("SELECT identity, proof FROM store").fetchone()
        if row is None:
            connection.execute(
                "INSERT INTO store VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?)",
                (self._identity, self._key.proof(), *msgspec.structs.astuple(self.chain.start())),
            )
            return
        identity, proof = row
        refuse_stranger(identity, self._identity, str(self._path))
        self._key.check(proof, str(self._path))
        self._database.untidy = True  # perhaps it was not closed in peace

    def _commit(self, connection: sqlite3.Connection, steps: Sequence[Step]) -> int:
        counter = audit_sqlite.record(connection, self.chain, [line for step in steps for line in step.audit])
        for step in steps:
            if step.begun is not None:
                begun = step.begun
                connection.execute(
                    "INSERT INTO rounds (round, opened, role, study, sealed) VALUES (?, ?, ?, ?, ?)",
                    (step.round_id, begun.opened, begun.role, begun.study, begun.sealed),
                )
            if step.event:
                taken = connection.execute(
                    "INSERT INTO events"
                    " SELECT id, (SELECT coalesce(max(number) + 1, 0) FROM events WHERE events.round = rounds.id), ?, ?"
                    " FROM rounds WHERE round = ? AND ended IS NULL",
                    (*self._placed(step.event), step.round_id),
                )
                _expect_one(taken, step.round_id)
            if step.called_back or step.closed is not None:
                connection.execute("DELETE FROM outbox WHERE round = ?", (step.round_id,))
            if step.closed is not None:
                closed = step.closed
                ended = connection.execute(
                    "UPDATE rounds SET ended = ?, at = ?, outcome = ?, code = ?, taken = ?, result = ?, summary = ?, sealed = x''"
                    " WHERE round = ? AND ended IS NULL",
                    (counter, closed.at, closed.outcome, closed.code, closed.taken, closed.result, closed.summary, step.round_id),
                )
                _expect_one(ended, step.round_id)
                self._database.untidy = True
            if step.receipt is not None:
                part = step.receipt
                connection.execute(
                    "INSERT INTO receipts (round, number, digest, until, content, piece)"
                    " SELECT id, ?, ?, ?, ?, ? FROM rounds WHERE round = ? AND ended IS NOT NULL ON CONFLICT DO NOTHING",
                    (part.number, part.digest, part.until, *self._placed(part.content), step.round_id),
                )
            self._database.untidy |= bool(step.ledger)  # what was there before is overwritten, in the log, too
            connection.executemany(
                "INSERT INTO ledger (kind, key, at, until, content) VALUES (?, ?, ?, ?, ?) ON CONFLICT (kind, key)"
                " DO UPDATE SET at = excluded.at, until = excluded.until, content = excluded.content",
                [(one.kind, one.key, one.at, one.until, one.content) for one in step.ledger],
            )
            connection.executemany(
                "INSERT INTO outbox (round, number, recipient, kind, endpoint, until, envelope, piece)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        step.round_id,
                        post.number,
                        post.recipient,
                        post.kind,
                        post.endpoint,
                        post.until,
                        *self._placed(post.envelope),
                    )
                    for post in step.posted
                ),
            )
        return counter

    def _placed(self, piece: bytes) -> tuple[bytes, int | None]:
        """What goes into the row, and the number of its file if it has one."""
        return (piece, None) if len(piece) <= LARGE_BYTES else (b"", self._large.keep(piece))

    def _found(self, piece: bytes, number: int | None) -> bytes:
        return piece if number is None else self._large.read(number)

    def _post(
        self, number: int, recipient: str, kind: int, endpoint: str, until: float, envelope: bytes, piece: int | None
    ) -> Posted:
        return Posted(number, recipient, kind, endpoint, until, self._found(envelope, piece))

    def _left_over(self, connection: sqlite3.Connection) -> list[tuple[bytes, Posted]]:
        rows = connection.execute(
            "SELECT round, number, recipient, kind, endpoint, until, envelope, piece FROM outbox"
            " WHERE round NOT IN (SELECT round FROM rounds WHERE ended IS NULL) ORDER BY id"
        )
        return [(round_id, self._post(*posted)) for round_id, *posted in rows.fetchall()]

    def _open_rounds(self, connection: sqlite3.Connection) -> list[OpenRound]:
        rounds = connection.execute(
            "SELECT id, round, opened, role, study, sealed FROM rounds WHERE ended IS NULL ORDER BY id"
        ).fetchall()
        return [
            OpenRound(
                round_id,
                Begun(*begun),
                tuple(
                    self._found(*event)
                    for event in connection.execute(
                        "SELECT sealed, piece FROM events WHERE round = ? ORDER BY number", (journal,)
                    ).fetchall()
                ),
                tuple(
                    self._post(*posted)
                    for posted in connection.execute(
                        "SELECT number, recipient, kind, endpoint, until, envelope, piece FROM outbox"
                        " WHERE round = ? ORDER BY id",
                        (round_id,),
                    ).fetchall()
                ),
            )
            for journal, round_id, *begun in rounds
        ]

    def _receipts(self, connection: sqlite3.Connection, round_id: bytes = b"", now: float = math.inf) -> list[KeptReceipt]:
        """The receipt of a round, or those that are open at `now`."""
        found = connection.execute(
            "SELECT rounds.id, rounds.round, content, piece FROM receipts JOIN rounds ON rounds.id = receipts.round"
            " WHERE number = 0 AND (rounds.round = ? OR until > ?) ORDER BY rounds.id",
            (round_id, now),
        ).fetchall()
        return [
            KeptReceipt(
                round_id,
                self._found(content, piece),
                tuple(
                    connection.execute(
                        "SELECT number, content FROM receipts WHERE round = ? AND number > 0 ORDER BY number", (row,)
                    ).fetchall()
                ),
            )
            for row, round_id, content, piece in found
        ]

    def _erase_before(self, connection: sqlite3.Connection, at: float, study: str | None) -> tuple[int, int]:
        """How many rounds, and how many lines: there are more of these where it is ERASED_AT_ONCE."""
        values = (at, study)  # a study of NULL is any
        connection.execute(
            "DELETE FROM outbox WHERE round IN"
            " (SELECT round FROM rounds WHERE ended IS NOT NULL AND at < ? AND coalesce(study = ?, TRUE))",
            values,
        )
        rounds = connection.execute("DELETE FROM rounds WHERE ended IS NOT NULL AND at < ? AND coalesce(study = ?, TRUE)", values)
        lines = audit_sqlite.erase(connection, self.chain, at, study, rounds.rowcount)
        self._database.untidy = True
        return rounds.rowcount, lines

    def _sweep(self, connection: sqlite3.Connection) -> bool:
        rows = connection.execute(
            "SELECT rowid, length(sealed) FROM events WHERE rowid IN (SELECT events.rowid FROM events"
            " CROSS JOIN rounds ON rounds.id = events.round WHERE rounds.ended IS NOT NULL LIMIT 1000)"
        ).fetchall()
        size = 0
        for row, length in rows:
            connection.execute("DELETE FROM events WHERE rowid = ?", (row,))
            size += length
            if size >= _SWEEP_BYTES:
                break
        if not rows:
            named = connection.execute(
                "SELECT piece FROM events WHERE piece NOT NULL UNION ALL SELECT piece FROM outbox WHERE piece NOT NULL"
                " UNION ALL SELECT piece FROM receipts WHERE piece NOT NULL"
            )
            self._large.keep_only({number for (number,) in named})
        return bool(rows)


def _expect_one(changed: sqlite3.Cursor, round_id: bytes) -> None:
    if changed.rowcount != 1:
        raise inconsistent(round_id, "is not open")
