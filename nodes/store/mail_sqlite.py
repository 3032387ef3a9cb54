"""A relay's mailboxes in one SQLite file: what waits for the thread of the file is one transaction (group commit)."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mpc.errors import ConfigError
from mpc.identity import Identity
from mpc.mailbox import Box, Letter, Rules, Usage, Verdict, sort
from nodes.store import audit_sqlite
from nodes.store.audit import ERASED_AT_ONCE, AuditLine, Chain, Head, Kept
from nodes.store.database import Database
from nodes.store.mail import Arrived, CursorError, Depth, Fetched, totals

_UPGRADES = (
    """
    CREATE TABLE box (
        id INTEGER PRIMARY KEY,
        owner TEXT NOT NULL UNIQUE,         -- identity URI
        last INTEGER NOT NULL DEFAULT 0,    -- number of the newest message that it ever had
        messages INTEGER NOT NULL DEFAULT 0,
        bytes INTEGER NOT NULL DEFAULT 0    -- that wait now
    ) STRICT;

    CREATE TABLE sender (
        name TEXT PRIMARY KEY,
        messages INTEGER NOT NULL,
        bytes INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE mail (
        id INTEGER PRIMARY KEY,
        box INTEGER NOT NULL REFERENCES box (id),
        number INTEGER NOT NULL,
        sender TEXT NOT NULL,
        arrived REAL NOT NULL,              -- Unix seconds
        size INTEGER NOT NULL,
        digest BLOB NOT NULL,
        envelope BLOB NOT NULL,             -- sealed for the box's owner
        UNIQUE (box, number),
        UNIQUE (box, digest)
    ) STRICT;
    CREATE INDEX mail_arrived ON mail (arrived);

    CREATE TABLE published (
        owner TEXT PRIMARY KEY,
        not_after REAL NOT NULL,
        key BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE store (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        counter INTEGER NOT NULL,           -- as in nodes.store.schema, but that there is no key: the seal is empty
        erased_to INTEGER NOT NULL,
        anchor BLOB NOT NULL,
        last INTEGER NOT NULL,
        digest BLOB NOT NULL,
        seal BLOB NOT NULL
    ) STRICT;
    INSERT INTO store VALUES (1, 0, 0, zeroblob(32), 0, zeroblob(32), x'');

    CREATE TABLE audit (
        number INTEGER PRIMARY KEY,
        at REAL NOT NULL,
        event TEXT NOT NULL,
        study TEXT NOT NULL,
        content BLOB NOT NULL,
        salt BLOB NOT NULL,
        tag BLOB NOT NULL
    ) STRICT;
    CREATE INDEX audit_at ON audit (at);
    """,
)
_EXPIRED_AT_ONCE = 1000
"""Messages deleted in one transaction, so that nobody waits long behind it."""


class SqliteMail:
    """See `nodes.store.mail.MailStore`."""

    def __init__(self, path: Path, rules: Rules) -> None:
        self.chain = Chain()
        """See `AuditStore.chain`."""
        self._path = path
        self._rules = rules
        self._database = Database(path, _UPGRADES, _nothing_to_tidy)
        self._arrived: Arrived = lambda _: None

    async def open(self, arrived: Arrived) -> None:
        """See `MailStore.open`."""
        self._arrived = arrived
        await self._database.open(self._check)

    async def close(self) -> None:
        """See `MailStore.close`."""
        await self._database.close()

    async def open_boxes(self, owners: Collection[Identity]) -> None:
        """See `MailStore.open_boxes`."""
        await self._database.write(lambda connection: [_box(connection, owner) for owner in owners])

    async def post(self, letters: Sequence[Letter], now: float) -> Sequence[Verdict]:
        """See `MailStore.post`."""
        verdicts = await self._database.write(lambda connection: _post(connection, letters, self._rules, now))
        for owner in {letter.recipient for letter, what in zip(letters, verdicts, strict=True) if what is Verdict.TAKEN}:
            self._arrived(owner)
        return verdicts

    async def fetch(self, owner: Identity, finished: int, after: int, limit: int, since: float) -> Fetched:
        """See `MailStore.fetch`."""

        def fetch(connection: sqlite3.Connection) -> Fetched | None:
            box, last = _box(connection, owner)
            if max(finished, after) > last:
                return None
            if _delete(connection, "box = ? AND number <= ?", box, finished):
                self._database.untidy = True
            return _read(connection, box, after, limit, since)

        fetched = await self._database.write(fetch)
        if fetched is None:
            raise CursorError(f"the mailbox of {owner} ends before the cursor")
        return fetched

    async def expire(self, before: float) -> int:
        """See `MailStore.expire`."""
        expired = 0
        while deleted := await self._database.write(lambda connection: _expire(connection, before)):
            expired += deleted
            self._database.untidy = True
        return expired

    async def publish(self, owner: Identity, key: bytes, not_after: float) -> None:
        """See `MailStore.publish`."""

        def publish(connection: sqlite3.Connection) -> None:
            _box(connection, owner)
            statement = "INSERT OR REPLACE INTO published (owner, not_after, key) VALUES (?, ?, ?)"
            connection.execute(statement, (owner.uri, not_after, key))

        await self._database.write(publish)

    async def published(self, owner: Identity, now: float) -> bytes | None:
        """See `MailStore.published`."""
        query = "SELECT key FROM published WHERE owner = ? AND not_after >= ?"
        rows = await self._database.read(lambda connection: connection.execute(query, (owner.uri, now)).fetchall())
        return bytes(rows[0][0]) if rows else None

    async def depth(self) -> Depth:
        """See `MailStore.depth`."""
        query = "SELECT count(*), total(messages), total(bytes), (SELECT min(arrived) FROM mail) FROM box"
        ((boxes, messages, size, oldest),) = await self._database.read(lambda connection: connection.execute(query).fetchall())
        return Depth(boxes, int(messages), int(size), oldest)

    async def record(self, lines: Sequence[AuditLine]) -> None:
        """See `AuditStore.record`."""
        await self._database.write(partial(audit_sqlite.record, chain=self.chain, lines=lines))

    async def audit_head(self) -> Head:
        """See `AuditStore.audit_head`."""
        return await self._database.read(audit_sqlite.read_head)

    async def audit(self, after: int, limit: int, *, since: float = 0.0, event: str = "") -> list[Kept]:
        """See `AuditStore.audit`."""
        return await self._database.read(partial(audit_sqlite.read, after=after, limit=limit, since=since, event=event))

    async def erase_audit(self, before: float) -> int:
        """See `MailStore.erase_audit`."""
        erase = partial(audit_sqlite.erase, chain=self.chain, before=before, study=None, rounds=0)
        erased = lines = await self._database.write(erase)
        while lines == ERASED_AT_ONCE:
            lines = await self._database.write(erase)
            erased += lines
        self._database.untidy |= erased > 0
        return erased

    def _check(self, connection: sqlite3.Connection) -> None:
        if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'mail'").fetchone():
            raise ConfigError(f"{self._path} is not a relay's store; name a directory of the relay's own as 'state'")


# -- on the thread of the file: functions of the connection, inside a transaction


def _nothing_to_tidy(_connection: sqlite3.Connection) -> bool:
    return False


def _rows(connection: sqlite3.Connection, query: str, *values: object) -> list[Any]:
    return connection.execute(query, values).fetchall()


def _box(connection: sqlite3.Connection, owner: Identity) -> tuple[int, int]:
    """(id, last number) of a mailbox, which is made when there is none."""
    rows = _rows(connection, "SELECT id, last FROM box WHERE owner = ?", owner.uri)
    if not rows:
        rows = _rows(connection, "INSERT INTO box (owner) VALUES (?) RETURNING id, last", owner.uri)
    return rows[0][0], rows[0][1]


def _post(connection: sqlite3.Connection, letters: Sequence[Letter], rules: Rules, now: float) -> Sequence[Verdict]:
    ids: dict[Identity, int] = {}
    boxes: dict[Identity, Box] = {}
    senders: dict[Identity, Usage] = {}
    for owner in {letter.recipient for letter in letters}:
        query = "SELECT id, last, messages, bytes FROM box WHERE owner = ?"
        for box, last, messages, size in _rows(connection, query, owner.uri):
            ids[owner] = box
            boxes[owner] = Box(last, Usage(messages, size))
    for sender in {letter.sender for letter in letters}:
        for messages, size in _rows(connection, "SELECT messages, bytes FROM sender WHERE name = ?", sender.uri):
            senders[sender] = Usage(messages, size)
    waiting = {
        (letter.recipient, letter.digest)
        for letter in letters
        if letter.recipient in ids
        and _rows(connection, "SELECT 1 FROM mail WHERE box = ? AND digest = ?", ids[letter.recipient], letter.digest)
    }
    done = sort(letters, boxes, senders, waiting, rules)
    connection.executemany(
        "INSERT INTO mail (box, number, sender, arrived, size, digest, envelope) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (ids[letter.recipient], number, letter.sender.uri, now, letter.size, letter.digest, letter.envelope)
            for number, letter in done.taken
        ],
    )
    connection.executemany(
        "UPDATE box SET last = ?, messages = ?, bytes = ? WHERE id = ?",
        [(box.last, box.usage.messages, box.usage.bytes, ids[owner]) for owner, box in done.boxes.items()],
    )
    connection.executemany(
        "INSERT INTO sender (name, messages, bytes) VALUES (?, ?, ?) "
        "ON CONFLICT (name) DO UPDATE SET messages = excluded.messages, bytes = excluded.bytes",
        [(sender.uri, usage.messages, usage.bytes) for sender, usage in done.senders.items()],
    )
    return done.verdicts


def _read(connection: sqlite3.Connection, box: int, after: int, limit: int, since: float) -> Fetched:
    fetched: Fetched = []
    size = 0
    rows = connection.execute(
        "SELECT number, envelope FROM mail WHERE box = ? AND number > ? AND arrived >= ? ORDER BY number", (box, after, since)
    )
    for number, envelope in rows:
        size += len(envelope)
        if fetched and size > limit:
            break
        fetched.append((number, envelope))
    rows.close()
    return fetched


def _expire(connection: sqlite3.Connection, before: float) -> int:
    connection.execute("DELETE FROM published WHERE not_after < ?", (before,))
    oldest = "id IN (SELECT id FROM mail WHERE arrived < ? ORDER BY arrived LIMIT ?)"
    return _delete(connection, oldest, before, _EXPIRED_AT_ONCE)


def _delete(connection: sqlite3.Connection, which: str, *values: object) -> int:
    """Deletes the messages, and takes them off what their mailbox and sender are counted for. Returns how many."""
    statement = f"DELETE FROM mail WHERE {which} RETURNING box, sender, size"  # noqa: S608  (our own words)
    gone = _rows(connection, statement, *values)
    from_box = "UPDATE box SET messages = messages - ?, bytes = bytes - ? WHERE id = ?"
    connection.executemany(from_box, totals((box, size) for box, _, size in gone))
    from_sender = "UPDATE sender SET messages = messages - ?, bytes = bytes - ? WHERE name = ?"
    connection.executemany(from_sender, totals((sender, size) for _, sender, size in gone))
    return len(gone)
