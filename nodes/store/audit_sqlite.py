"""The audit log in SQLite: the table `audit`, and the head in the one row of the table `store`. For the database's thread.

The store of a node and that of a relay have the same columns (`nodes.store.schema`), so that this serves both.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from nodes.store.audit import ERASED_AT_ONCE, AuditEvent, AuditLine, Chain, Head, Kept
from nodes.store.rows import AUDIT_COLUMNS, kept_of, row_of


def read_head(connection: sqlite3.Connection) -> Head:
    """The head."""
    row = connection.execute("SELECT counter, erased_to, anchor, last, digest, seal FROM store").fetchone()
    return Head(*row)


def write(connection: sqlite3.Connection, head: Head, made: Sequence[Kept]) -> None:
    """Keeps the new head, and the lines that it has been moved over."""
    connection.execute(
        "UPDATE store SET counter = ?, erased_to = ?, anchor = ?, last = ?, digest = ?, seal = ?", msgspec.structs.astuple(head)
    )
    if made:
        connection.executemany("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?)", map(row_of, made))


def record(connection: sqlite3.Connection, chain: Chain, lines: Sequence[AuditLine]) -> int:
    """Puts lines at the end: see `Store.commit`. Returns the new counter."""
    head, made = chain.extend(read_head(connection), lines)
    write(connection, head, made)
    return head.counter


def read(connection: sqlite3.Connection, after: int, limit: int, since: float, event: str) -> list[Kept]:
    """See `AuditStore.audit`."""
    if event or since:
        which, values = " AND at >= ? AND (event = ? OR ? = '')", [since, event, event]
    else:
        which, values = "", []
    query = f"SELECT {AUDIT_COLUMNS} FROM audit WHERE number > ?{which} ORDER BY number LIMIT ?"  # noqa: S608  (our own words)
    return [kept_of(row) for row in connection.execute(query, (after, *values, limit)).fetchall()]


def erase(connection: sqlite3.Connection, chain: Chain, before: float, study: str | None, rounds: int) -> int:
    """Empties up to ERASED_AT_ONCE lines and says so, and how many rounds went with them. Returns how many lines."""
    rows = connection.execute(
        f"SELECT {AUDIT_COLUMNS} FROM audit WHERE at < ? AND event NOT IN ('', ?) AND coalesce(study = ?, TRUE)"  # noqa: S608
        " ORDER BY number LIMIT ?",
        (before, AuditEvent.ERASED, study, ERASED_AT_ONCE),
    ).fetchall()
    if not rows and not rounds:
        return 0
    doomed = [kept_of(row) for row in rows]
    connection.executemany(
        "UPDATE audit SET at = 0.0, event = '', study = '', content = ?, salt = x'' WHERE number = ?",
        [(kept.body, kept.number) for kept in doomed],
    )
    head = read_head(connection)
    first = connection.execute(
        f"SELECT {AUDIT_COLUMNS} FROM audit WHERE number <"  # noqa: S608
        " coalesce((SELECT number FROM audit WHERE event <> '' AND (event <> ? OR at >= ?) ORDER BY number LIMIT 1), ?)"
        " ORDER BY number",
        (AuditEvent.ERASED, before, head.last + 1),
    ).fetchall()
    gone = [kept_of(row) for row in first]
    if gone:
        connection.execute("DELETE FROM audit WHERE number <= ?", (gone[-1].number,))
    numbers = [kept.number for kept in doomed]
    write(connection, *chain.erase(head, numbers, gone, before=before, of_study=study is not None, rounds=rounds))
    return len(doomed)
