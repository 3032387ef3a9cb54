"""A node's store in PostgreSQL: one connection, which also holds the lock that keeps a second daemon of the same node out.

Tables are in the schema `cohortium`, and each key begins with the node, so that nodes may share a database. While the server is
away every call raises StoreError, and the next one connects again. The counter tells whether a commit whose answer was lost took
place. A server does not overwrite what is deleted; what makes an ended round unreadable is that its key is destroyed.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Any

import msgspec

from mpc.errors import ConfigError, UserError
from nodes.store.audit import ERASED_AT_ONCE, AuditLine, Chain, Head, Kept
from nodes.store.audit_postgres import AuditTables
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
from nodes.store.rows import closed_round, inconsistent
from nodes.store.schema import POSTGRES, refuse_newer
from nodes.store.sealing import StorageKey

_CONNECT_SECONDS = 5.0
_COMMAND_SECONDS = 30.0
_LOCK_TIMEOUT = "2s"
"""The server may need a moment to notice that the last holder of a node's lock is gone."""
_UPGRADE_LOCK = 0x436F686F
"""Held while tables are made: daemons that start together do it one after the other."""


class PostgresStore:
    """See `nodes.store.base.Store`."""

    def __init__(self, url: str, identity: str, key: StorageKey) -> None:
        """`url` is postgresql://...; `identity` is the node's URI; `key` must be the one that the store was made with.

        Raises ConfigError when asyncpg is not installed.
        """
        self._url = url
        self._identity = identity
        self._key = key
        self.chain = Chain(key.mac)
        """See `AuditStore.chain`."""
        self._audit = AuditTables("cohortium")
        self._asyncpg = load_asyncpg()
        self._where = f"the PostgreSQL store of {identity}"
        self._turn = asyncio.Lock()
        self._opened = False
        self._connection: Any = None
        self._node = 0
        self._head = self.chain.start()
        """Of the last commit that the caller knows of."""
        self._doubtful: tuple[Sequence[Step], Sequence[AuditLine]] | None = None
        """What a commit had that the server may or may not have taken; nothing for one that erased."""

    async def open(self) -> None:
        """See `Store.open`. Also raises ConfigError when in use or refused access, IdentityError for the wrong storage key."""
        pg = self._asyncpg
        self._opened = True
        try:
            async with self._session() as connection:
                self._head = await self._head_of(connection)
        except StoreError as error:
            await self.close()
            cause = error.__cause__
            if isinstance(
                cause, pg.InvalidAuthorizationSpecificationError | pg.InvalidCatalogNameError | pg.InsufficientPrivilegeError
            ):
                raise ConfigError(
                    f"{self._where} cannot be used: {cause.args[0]}; check the URL under 'store', and that its user may create "
                    f"a schema"
                ) from error
            if isinstance(cause, pg.LockNotAvailableError):
                raise ConfigError(
                    f"{self._where} is in use by another daemon; stop that one, or correct the name of this one"
                ) from error
            raise
        except UserError:
            await self.close()
            raise

    async def close(self) -> None:
        """See `Store.close`."""
        async with self._turn:
            self._opened = False
            connection, self._connection = self._connection, None
            if connection is not None:
                try:
                    await connection.close(timeout=_CONNECT_SECONDS)
                except self._failures():
                    connection.terminate()

    async def commit(self, steps: Sequence[Step]) -> int:
        """See `Store.commit`. The same steps again, after one that was in doubt, are not kept twice."""
        return await self._keep(steps, [line for step in steps for line in step.audit])

    async def counter(self) -> int:
        """See `Store.counter`."""
        async with self._session() as connection:
            return self._committed(await self._head_of(connection))

    async def record(self, lines: Sequence[AuditLine]) -> None:
        """See `AuditStore.record`. The same lines again, after some that were in doubt, are not kept twice."""
        await self._keep((), lines)

    async def audit_head(self) -> Head:
        """See `AuditStore.audit_head`."""
        async with self._session() as connection:
            return await self._head_of(connection)

    async def audit(self, after: int, limit: int, *, since: float = 0.0, event: str = "") -> list[Kept]:
        """See `AuditStore.audit`."""
        async with self._session() as connection:
            return await self._audit.read(connection, self._node, after, limit, since, event)

    async def delivered(self, messages: Sequence[tuple[bytes, int]]) -> None:
        """See `Store.delivered`."""
        async with self._session() as connection:
            await connection.executemany(
                "DELETE FROM cohortium.outbox WHERE node = $1 AND round = $2 AND number = $3",
                [(self._node, *message) for message in messages],
            )

    async def open_rounds(self) -> list[OpenRound]:
        """See `Store.open_rounds`."""
        async with self._session() as connection:
            self._committed(await self._head_of(connection))
            rounds = await connection.fetch(
                "SELECT round, opened, role, study, sealed FROM cohortium.rounds WHERE node = $1 AND ended IS NULL ORDER BY id",
                self._node,
            )
            found = []
            for round_id, *begun in rounds:
                events = await connection.fetch(
                    "SELECT sealed FROM cohortium.events WHERE node = $1 AND round = $2 ORDER BY number", self._node, round_id
                )
                posted = await connection.fetch(
                    "SELECT number, recipient, kind, endpoint, until, envelope FROM cohortium.outbox"
                    " WHERE node = $1 AND round = $2 ORDER BY id",
                    self._node,
                    round_id,
                )
                outbox = tuple(Posted(*post) for post in posted)
                found.append(OpenRound(round_id, Begun(*begun), tuple(sealed for (sealed,) in events), outbox))
            return found

    async def left_over(self) -> list[tuple[bytes, Posted]]:
        """See `Store.left_over`."""
        rows = await self._fetch(
            "SELECT round, number, recipient, kind, endpoint, until, envelope FROM cohortium.outbox"
            " WHERE node = $1 AND round NOT IN (SELECT round FROM cohortium.rounds WHERE node = $1 AND ended IS NULL) ORDER BY id"
        )
        return [(round_id, Posted(*posted)) for round_id, *posted in rows]

    async def closed_rounds(self, limit: int) -> list[ClosedRound]:
        """See `Store.closed_rounds`."""
        rows = await self._fetch(
            "SELECT round, opened, study, at, outcome, code, taken, result, summary FROM cohortium.rounds"
            " WHERE node = $1 AND ended IS NOT NULL ORDER BY ended DESC, id DESC LIMIT $2",
            limit,
        )
        return [closed_round(*row) for row in rows]

    async def find_closed(self, round_id: bytes) -> ClosedRound | None:
        """See `Store.find_closed`."""
        rows = await self._fetch(
            "SELECT round, opened, study, at, outcome, code, taken, result, summary FROM cohortium.rounds"
            " WHERE node = $1 AND round = $2 AND ended IS NOT NULL",
            round_id,
        )
        return closed_round(*rows[0]) if rows else None

    async def receipts(self, limit: int) -> list[ReceiptLine]:
        """See `Store.receipts`."""
        rows = await self._fetch(
            "SELECT round, study, at, digest FROM cohortium.receipts JOIN cohortium.rounds USING (node, round)"
            " WHERE node = $1 AND number = 0 ORDER BY ended DESC, id DESC LIMIT $2",
            limit,
        )
        return [ReceiptLine(*row) for row in rows]

    async def find_receipt(self, round_id: bytes) -> KeptReceipt | None:
        """See `Store.find_receipt`."""
        found = await self._receipts(round_id=round_id)
        return found[0] if found else None

    async def open_receipts(self, now: float) -> list[KeptReceipt]:
        """See `Store.open_receipts`."""
        return await self._receipts(now=now)

    async def ledger(self) -> list[LedgerEntry]:
        """See `Store.ledger`."""
        rows = await self._fetch("SELECT kind, key, at, until, content FROM cohortium.ledger WHERE node = $1 ORDER BY id")
        return [LedgerEntry(*row) for row in rows]

    async def forget_ledger(self, now: float) -> None:
        """See `Store.forget_ledger`."""
        await self._execute("DELETE FROM cohortium.ledger WHERE node = $1 AND until <= $2", now)

    async def keep_key(self, key: KeptKey) -> None:
        """See `Store.keep_key`."""
        await self._execute(
            "INSERT INTO cohortium.keys (node, key_id, not_after, sealed) VALUES ($1, $2, $3, $4)"
            " ON CONFLICT (node, key_id) DO UPDATE SET not_after = excluded.not_after, sealed = excluded.sealed",
            key.key_id,
            key.not_after,
            key.sealed,
        )

    async def keys(self) -> list[KeptKey]:
        """See `Store.keys`."""
        rows = await self._fetch("SELECT key_id, not_after, sealed FROM cohortium.keys WHERE node = $1 ORDER BY id")
        return [KeptKey(*row) for row in rows]

    async def erase_key(self, key_id: bytes) -> None:
        """See `Store.erase_key`."""
        await self._execute("DELETE FROM cohortium.keys WHERE node = $1 AND key_id = $2", key_id)

    async def erase_before(self, at: float, study: str | None = None) -> int:
        """See `Store.erase_before`."""
        rounds, lines = await self._erase_before(at, study)
        erased = rounds + lines
        while lines == ERASED_AT_ONCE:
            rounds, lines = await self._erase_before(at, study)
            erased += rounds + lines
        return erased

    # ---- inside

    async def _keep(self, steps: Sequence[Step], lines: Sequence[AuditLine]) -> int:
        """One commit of steps and lines, those of the steps among these. Returns the new counter."""
        async with self._session() as connection:
            if await self._is_kept(connection, steps, lines):
                return self._head.counter
            head, made = self.chain.extend(self._head, lines)
            async with connection.transaction():
                for step in steps:
                    await self._take(connection, step, head.counter)
                await self._audit.write(connection, self._node, head, made)
                self._doubtful = (steps, lines)
            return self._committed(head)

    async def _is_kept(self, connection: Any, steps: Sequence[Step], lines: Sequence[AuditLine]) -> bool:
        """Clears up a doubt. Whether a commit of these was taken; raises StoreError when it was one of other steps."""
        if self._doubtful is None:
            return False
        head, (doubtful_steps, doubtful_lines) = await self._head_of(connection), self._doubtful
        if head.counter == self._head.counter:
            self._doubtful = None
            return False
        same = (list(steps), list(lines)) == (list(doubtful_steps), list(doubtful_lines))
        if doubtful_steps and not same:
            raise StoreError("in-doubt", f"{self._where} has taken a commit that it could not answer; read the rounds again")
        self._committed(head)
        return same

    async def _erase_before(self, at: float, study: str | None) -> tuple[int, int]:
        """How many rounds, and how many lines: there are more of these where it is ERASED_AT_ONCE."""
        async with self._session() as connection:
            await self._is_kept(connection, (), ())
            async with connection.transaction():
                rounds = await self._erase_rounds(connection, at, study)
                head, lines = await self._audit.erase(
                    connection, self._node, self.chain, self._head, before=at, study=study, rounds=rounds
                )
                if head is not self._head:
                    self._doubtful = ((), ())
            self._committed(head)
            return rounds, lines

    async def _erase_rounds(self, connection: Any, at: float, study: str | None) -> int:
        rounds = await connection.fetch(  # a study of NULL is any
            "DELETE FROM cohortium.rounds WHERE node = $1 AND ended IS NOT NULL AND at < $2 AND coalesce(study = $3, TRUE)"
            " RETURNING round",
            self._node,
            at,
            study,
        )
        await connection.execute(
            "DELETE FROM cohortium.outbox WHERE node = $1 AND round = ANY ($2)",
            self._node,
            [round_id for (round_id,) in rounds],
        )
        return len(rounds)

    async def _receipts(self, round_id: bytes = b"", now: float = math.inf) -> list[KeptReceipt]:
        """The receipt of a round, or those that are open at `now`."""
        rows = await self._fetch(
            "SELECT round, number, content FROM cohortium.receipts WHERE node = $1 AND (round = $2 OR round IN"
            " (SELECT round FROM cohortium.receipts WHERE node = $1 AND until > $3)) ORDER BY round, number",
            round_id,
            now,
        )
        return [
            KeptReceipt(round_id, first, tuple((number, content) for _, number, content in others))
            for round_id, group in groupby(rows, key=lambda row: row[0])
            for (_, _, first), *others in [list(group)]
        ]

    async def _fetch(self, query: str, *values: object) -> list[Any]:
        async with self._session() as connection:
            rows: list[Any] = await connection.fetch(query, self._node, *values)
            return rows

    async def _execute(self, statement: str, *values: object) -> None:
        async with self._session() as connection:
            await connection.execute(statement, self._node, *values)

    async def _take(self, connection: Any, step: Step, counter: int) -> None:
        place = (self._node, step.round_id)
        if step.begun is not None:
            begun = step.begun
            await connection.execute(
                "INSERT INTO cohortium.rounds (node, round, opened, role, study, sealed) VALUES ($1, $2, $3, $4, $5, $6)",
                *place,
                begun.opened,
                begun.role,
                begun.study,
                begun.sealed,
            )
        if step.event:
            taken = await connection.execute(
                "INSERT INTO cohortium.events (node, round, number, sealed) SELECT $1, $2,"
                " (SELECT coalesce(max(number) + 1, 0) FROM cohortium.events WHERE node = $1 AND round = $2), $3"
                " FROM cohortium.rounds WHERE node = $1 AND round = $2 AND ended IS NULL",
                *place,
                step.event,
            )
            _expect_one(taken, step.round_id)
        if step.called_back or step.closed is not None:
            await connection.execute("DELETE FROM cohortium.outbox WHERE node = $1 AND round = $2", *place)
        if step.closed is not None:
            closed = step.closed
            ended = await connection.execute(
                "UPDATE cohortium.rounds SET ended = $3, at = $4, outcome = $5, code = $6, taken = $7, result = $8, summary = $9,"
                " sealed = '' WHERE node = $1 AND round = $2 AND ended IS NULL",
                *place,
                counter,
                closed.at,
                closed.outcome,
                closed.code,
                closed.taken,
                closed.result,
                closed.summary,
            )
            _expect_one(ended, step.round_id)
            await connection.execute("DELETE FROM cohortium.events WHERE node = $1 AND round = $2", *place)
        if step.receipt is not None:
            part = step.receipt
            await connection.execute(
                "INSERT INTO cohortium.receipts (node, round, number, digest, until, content)"
                " SELECT $1, $2, $3, $4, $5, $6 FROM cohortium.rounds WHERE node = $1 AND round = $2 AND ended IS NOT NULL"
                " ON CONFLICT DO NOTHING",
                *place,
                part.number,
                part.digest,
                part.until,
                part.content,
            )
        if step.ledger:
            await connection.executemany(
                "INSERT INTO cohortium.ledger (node, kind, key, at, until, content) VALUES ($1, $2, $3, $4, $5, $6)"
                " ON CONFLICT (node, kind, key)"
                " DO UPDATE SET at = excluded.at, until = excluded.until, content = excluded.content",
                [(self._node, one.kind, one.key, one.at, one.until, one.content) for one in step.ledger],
            )
        if step.posted:
            await connection.executemany(
                "INSERT INTO cohortium.outbox (node, round, number, recipient, kind, endpoint, until, envelope)"
                " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                [
                    (*place, post.number, post.recipient, post.kind, post.endpoint, post.until, post.envelope)
                    for post in step.posted
                ],
            )

    def _committed(self, head: Head) -> int:
        self._head, self._doubtful = head, None
        return head.counter

    async def _head_of(self, connection: Any) -> Head:
        return await self._audit.read_head(connection, self._node)

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Any]:
        """The connection, for one caller at a time. What goes wrong with it is raised as StoreError."""
        async with self._turn:
            if not self._opened:
                raise StoreError("closed", f"{self._where} is not open")
            try:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await self._connect()
                yield self._connection
            except UserError as error:
                if not self._node:
                    raise
                raise StoreError("overtaken", f"while the connection was lost: {error}") from error
            except self._failures() as error:
                reason = self._reason(error)
                if reason in {"connection", "timeout"} and self._connection is not None:
                    self._connection.terminate()
                    self._connection = None
                # The server's own words, without its details, which may quote a row.
                raise StoreError(reason, f"{self._where}: {error.args[0] if error.args else type(error).__name__}") from error

    async def _connect(self) -> Any:
        try:
            connection = await self._asyncpg.connect(self._url, timeout=_CONNECT_SECONDS, command_timeout=_COMMAND_SECONDS)
        except ValueError:
            # Not the text: it may repeat the URL, and a password may stand in that.
            raise ConfigError("store: the URL cannot be read; write postgresql://USER@HOST/DATABASE") from None
        try:
            await self._make_tables(connection)
            await self._enter(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _make_tables(self, connection: Any) -> None:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _UPGRADE_LOCK)
            # Asked first: whoever may not create a schema may use one that somebody else has made.
            if await connection.fetchval("SELECT to_regclass('cohortium.version') IS NULL"):
                await connection.execute("CREATE SCHEMA IF NOT EXISTS cohortium")
                await connection.execute("CREATE TABLE cohortium.version (number integer NOT NULL)")
                await connection.execute("INSERT INTO cohortium.version VALUES (0)")
            version = await connection.fetchval("SELECT number FROM cohortium.version")
            refuse_newer(version, len(POSTGRES), self._where)
            for script in POSTGRES[version:]:
                await connection.execute(script)
            await connection.execute("UPDATE cohortium.version SET number = $1 WHERE number <> $1", len(POSTGRES))

    async def _enter(self, connection: Any) -> None:
        """Takes the node's lock for as long as the connection lives, and checks that the store is the one we think it is."""
        name = hashlib.sha256(self._identity.encode()).digest()
        async with connection.transaction():
            await connection.execute("SELECT set_config('lock_timeout', $1, true)", _LOCK_TIMEOUT)
            await connection.execute("SELECT pg_advisory_lock($1)", int.from_bytes(name[:8], "big", signed=True))
        await connection.execute(
            "INSERT INTO cohortium.stores (identity, proof, counter, erased_to, anchor, last, digest, seal)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
            self._identity,
            self._key.proof(),
            *msgspec.structs.astuple(self.chain.start()),
        )
        node, counter, proof = await connection.fetchrow(
            "SELECT node, counter, proof FROM cohortium.stores WHERE identity = $1", self._identity
        )
        self._key.check(proof, self._where)
        ahead = {0} if self._doubtful is None else {0, 1}
        if self._node and (node != self._node or counter - self._head.counter not in ahead):
            raise StoreError("overtaken", f"{self._where} was used by another daemon meanwhile; restart this one")
        self._node = node

    def _failures(self) -> tuple[type[Exception], ...]:
        pg = self._asyncpg
        # The last is what a call meets when the server's farewell has come between two calls.
        return (OSError, pg.PostgresError, pg.InterfaceError, pg.InternalClientError)

    def _reason(self, error: Exception) -> str:
        pg = self._asyncpg
        if isinstance(error, TimeoutError):
            return "timeout"
        lost = isinstance(error, pg.PostgresConnectionError | pg.OperatorInterventionError)
        if lost or not isinstance(error, pg.PostgresError):
            return "connection"
        if isinstance(error, pg.DiskFullError):
            return "disk-full"
        if isinstance(error, pg.ReadOnlySQLTransactionError):
            return "read-only"
        if isinstance(error, pg.IntegrityConstraintViolationError):
            return "inconsistent"
        return "server"


def load_asyncpg() -> Any:
    """The module asyncpg. Raises ConfigError when it is not installed."""
    try:
        return importlib.import_module("asyncpg")
    except ImportError:
        raise ConfigError(
            "a PostgreSQL store needs the package asyncpg, which is not installed; install cohortium[postgres]"
        ) from None


def _expect_one(status: str, round_id: bytes) -> None:
    """`status` is the server's command tag, as in "INSERT 0 1"."""
    if not status.endswith(" 1"):
        raise inconsistent(round_id, "is not open")
