"""The audit log in PostgreSQL: the table `audit`, and the head in the node's row of the table `stores`, both of one schema.

The stores of nodes and that of a relay have the same columns, so that this serves both. What writes is called in a transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from nodes.store.audit import ERASED_AT_ONCE, AuditEvent, Chain, Head, Kept
from nodes.store.base import StoreError
from nodes.store.rows import AUDIT_COLUMNS, kept_of, row_of


class AuditTables:
    """The tables of the schema `schema`. `connection` is asyncpg's, `node` the number of a row of `stores`."""

    def __init__(self, schema: str) -> None:
        self._stores = f"{schema}.stores"
        self._audit = f"{schema}.audit"

    async def read_head(self, connection: Any, node: int, *, lock: bool = False) -> Head:
        """The head; nobody else moves it before the end of the transaction if it is locked."""
        query = f"SELECT counter, erased_to, anchor, last, digest, seal FROM {self._stores} WHERE node = $1"  # noqa: S608
        return Head(*await connection.fetchrow(query + (" FOR UPDATE" if lock else ""), node))

    async def write(self, connection: Any, node: int, head: Head, made: Sequence[Kept]) -> None:
        """Keeps the new head, and the lines that it has been moved over. Raises StoreError where somebody else moved it."""
        if made:
            await connection.executemany(
                f"INSERT INTO {self._audit} (node, {AUDIT_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",  # noqa: S608
                [(node, *row_of(kept)) for kept in made],
            )
        moved = await connection.execute(
            f"UPDATE {self._stores} SET counter = $2, erased_to = $3, anchor = $4, last = $5, digest = $6, seal = $7"  # noqa: S608
            " WHERE node = $1 AND counter = $2 - 1",
            node,
            *msgspec.structs.astuple(head),
        )
        if not moved.endswith(" 1"):
            raise StoreError("overtaken", "the PostgreSQL store was changed by somebody else meanwhile; restart this daemon")

    async def read(self, connection: Any, node: int, after: int, limit: int, since: float, event: str) -> list[Kept]:
        """See `AuditStore.audit`."""
        rows = await connection.fetch(
            f"SELECT {AUDIT_COLUMNS} FROM {self._audit}"  # noqa: S608
            " WHERE node = $1 AND number > $2 AND at >= $4 AND $5 IN ('', event) ORDER BY number LIMIT $3",
            node,
            after,
            limit,
            since,
            event,
        )
        return [kept_of(row) for row in rows]

    async def erase(
        self, connection: Any, node: int, chain: Chain, head: Head, *, before: float, study: str | None, rounds: int
    ) -> tuple[Head, int]:
        """Empties up to ERASED_AT_ONCE lines and says so, and how many rounds went with them.

        Returns the new head, and how many lines.
        """
        rows = await connection.fetch(
            f"SELECT {AUDIT_COLUMNS} FROM {self._audit} WHERE node = $1 AND at < $2 AND event NOT IN ('', $3)"  # noqa: S608
            " AND coalesce(study = $4, TRUE) ORDER BY number LIMIT $5",
            node,
            before,
            AuditEvent.ERASED,
            study,
            ERASED_AT_ONCE,
        )
        if not rows and not rounds:
            return head, 0
        doomed = [kept_of(row) for row in rows]
        await connection.executemany(
            f"UPDATE {self._audit} SET at = 0, event = '', study = '', content = $3, salt = ''"  # noqa: S608
            " WHERE node = $1 AND number = $2",
            [(node, kept.number, kept.body) for kept in doomed],
        )
        first = await connection.fetch(
            f"SELECT {AUDIT_COLUMNS} FROM {self._audit} WHERE node = $1 AND number < coalesce((SELECT number FROM {self._audit}"  # noqa: S608
            " WHERE node = $1 AND event <> '' AND (event <> $2 OR at >= $3) ORDER BY number LIMIT 1), $4) ORDER BY number",
            node,
            AuditEvent.ERASED,
            before,
            head.last + 1,
        )
        gone = [kept_of(row) for row in first]
        if gone:
            await connection.execute(
                f"DELETE FROM {self._audit} WHERE node = $1 AND number <= $2",  # noqa: S608
                node,
                gone[-1].number,
            )
        numbers = [kept.number for kept in doomed]
        head, made = chain.erase(head, numbers, gone, before=before, of_study=study is not None, rounds=rounds)
        await self.write(connection, node, head, made)
        return head, len(doomed)
