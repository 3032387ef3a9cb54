"""A relay's mailboxes in PostgreSQL, for several relay processes at once.

A mailbox's row is locked while messages enter or leave it, so its numbers commit in their order. Locks are taken in one order,
mailboxes before senders and each by name, so that no two processes wait for each other. Expiry skips mailboxes that are in use.
After a commit, NOTIFY wakes the long-polls of every process.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from typing import Any

from mpc.errors import ConfigError
from mpc.identity import Identity
from mpc.mailbox import Box, Letter, Rules, Usage, Verdict, sort
from nodes.group import Group
from nodes.store.audit import ERASED_AT_ONCE, AuditLine, Chain, Head, Kept
from nodes.store.audit_postgres import AuditTables
from nodes.store.base import StoreError
from nodes.store.mail import Arrived, CursorError, Depth, Fetched, totals
from nodes.store.postgres import load_asyncpg
from nodes.store.schema import refuse_newer

_UPGRADES = (
    """
    CREATE TABLE cohortium_relay.box (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        owner text NOT NULL UNIQUE,
        last bigint NOT NULL DEFAULT 0,
        messages bigint NOT NULL DEFAULT 0,
        bytes bigint NOT NULL DEFAULT 0
    );

    CREATE TABLE cohortium_relay.sender (
        name text PRIMARY KEY,
        messages bigint NOT NULL DEFAULT 0,
        bytes bigint NOT NULL DEFAULT 0
    );

    CREATE TABLE cohortium_relay.mail (
        box bigint NOT NULL REFERENCES cohortium_relay.box (id),
        number bigint NOT NULL,
        sender text NOT NULL,
        arrived double precision NOT NULL,
        size bigint NOT NULL,
        digest bytea NOT NULL,
        envelope bytea NOT NULL,
        PRIMARY KEY (box, number),
        UNIQUE (box, digest)
    );
    CREATE INDEX mail_arrived ON cohortium_relay.mail (arrived);
    -- Sealed bytes do not compress: do not try.
    ALTER TABLE cohortium_relay.mail ALTER envelope SET STORAGE EXTERNAL;

    CREATE TABLE cohortium_relay.published (
        owner text PRIMARY KEY,
        not_after double precision NOT NULL,
        key bytea NOT NULL
    );

    -- As in nodes.store.schema, but that there is one row and no key: the seal is empty.
    CREATE TABLE cohortium_relay.stores (
        node integer PRIMARY KEY CHECK (node = 1),
        counter bigint NOT NULL,
        erased_to bigint NOT NULL,
        anchor bytea NOT NULL,
        last bigint NOT NULL,
        digest bytea NOT NULL,
        seal bytea NOT NULL
    );
    INSERT INTO cohortium_relay.stores
        VALUES (1, 0, 0, decode(repeat('00', 32), 'hex'), 0, decode(repeat('00', 32), 'hex'), '');

    CREATE TABLE cohortium_relay.audit (
        node integer NOT NULL REFERENCES cohortium_relay.stores,
        number bigint NOT NULL,
        at double precision NOT NULL,
        event text NOT NULL,
        study text NOT NULL,
        content bytea NOT NULL,
        salt bytea NOT NULL,
        tag bytea NOT NULL,
        PRIMARY KEY (node, number)
    );
    CREATE INDEX audit_at ON cohortium_relay.audit (node, at);
    """,
)
_NODE = 1
_CHANNEL = "cohortium_mail"
_UPGRADE_LOCK = 0x436F684D
"""Of pg_advisory_xact_lock: one process makes the tables, the others wait."""
_CONNECTIONS = 4
_TOGETHER = 512
_TOGETHER_BYTES = 8 * 1024 * 1024
_LOOK_AHEAD = 1000
"""Messages whose sizes are looked at in order to fill one answer."""
_EXPIRED_AT_ONCE = 20
"""Mailboxes cleared in one transaction."""
_RECONNECT_SECONDS = 1.0
_COMMAND_SECONDS = 30.0

Post = tuple[Sequence[Letter], float]


class PostgresMail:
    """See `nodes.store.mail.MailStore`."""

    def __init__(self, url: str, rules: Rules) -> None:
        self.chain = Chain()
        """See `AuditStore.chain`."""
        self._audit = AuditTables("cohortium_relay")
        self._url = url
        self._rules = rules
        self._driver = load_asyncpg()
        self._pool: Any = None
        self._posts: Group[Post, Sequence[Verdict]] = Group(
            self._post, most=_TOGETHER, heaviest=_TOGETHER_BYTES, weigh=lambda post: sum(letter.size for letter in post[0])
        )
        self._arrived: Arrived = lambda _: None
        self._listener: asyncio.Task[None] | None = None

    async def open(self, arrived: Arrived) -> None:
        """See `MailStore.open`. Raises StoreError for a server that is away."""
        self._arrived = arrived
        try:
            await self._prepare()
        except BaseException:
            await self.close()
            raise
        listening = asyncio.Event()
        self._listener = asyncio.create_task(self._listen(listening))
        await listening.wait()

    async def close(self) -> None:
        """See `MailStore.close`."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        await self._posts.stop(StoreError("closed", "the relay is stopping"))
        if self._pool is not None:
            await self._pool.close()

    async def open_boxes(self, owners: Collection[Identity]) -> None:
        """See `MailStore.open_boxes`."""
        async with self._transaction() as connection:
            await _open_boxes(connection, owners)

    async def post(self, letters: Sequence[Letter], now: float) -> Sequence[Verdict]:
        """See `MailStore.post`."""
        return await self._posts.submit((letters, now))

    async def fetch(self, owner: Identity, finished: int, after: int, limit: int, since: float) -> Fetched:
        """See `MailStore.fetch`."""
        async with self._transaction() as connection:
            row = await connection.fetchrow(
                "SELECT id, last, EXISTS (SELECT FROM cohortium_relay.mail WHERE box = id AND number <= $2) AS old "
                "FROM cohortium_relay.box WHERE owner = $1",
                owner.uri,
                finished,
            )
            if row is None:
                await _open_boxes(connection, [owner])
                row = {"id": 0, "last": 0, "old": False}
            if max(finished, after) > row["last"]:
                raise CursorError(f"the mailbox of {owner} ends before the cursor")
            if row["old"]:
                await connection.execute("SELECT FROM cohortium_relay.box WHERE id = $1 FOR UPDATE", row["id"])
                await _delete(connection, "box = $1 AND number <= $2", row["id"], finished)
            return await _read(connection, row["id"], after, limit, since)

    async def expire(self, before: float) -> int:
        """See `MailStore.expire`."""
        expired = 0
        while True:
            async with self._transaction() as connection:
                await connection.execute("DELETE FROM cohortium_relay.published WHERE not_after < $1", before)
                boxes = await connection.fetch(
                    "SELECT id FROM cohortium_relay.box WHERE EXISTS "
                    "(SELECT FROM cohortium_relay.mail WHERE box = box.id AND arrived < $1) "
                    "ORDER BY owner LIMIT $2 FOR UPDATE SKIP LOCKED",
                    before,
                    _EXPIRED_AT_ONCE,
                )
                if not boxes:
                    return expired
                expired += await _delete(connection, "box = ANY ($1) AND arrived < $2", [row["id"] for row in boxes], before)

    async def publish(self, owner: Identity, key: bytes, not_after: float) -> None:
        """See `MailStore.publish`."""
        async with self._transaction() as connection:
            await _open_boxes(connection, [owner])
            await connection.execute(
                "INSERT INTO cohortium_relay.published (owner, not_after, key) VALUES ($1, $2, $3) "
                "ON CONFLICT (owner) DO UPDATE SET not_after = excluded.not_after, key = excluded.key",
                owner.uri,
                not_after,
                key,
            )

    async def published(self, owner: Identity, now: float) -> bytes | None:
        """See `MailStore.published`."""
        async with self._transaction() as connection:
            key: bytes | None = await connection.fetchval(
                "SELECT key FROM cohortium_relay.published WHERE owner = $1 AND not_after >= $2", owner.uri, now
            )
            return key

    async def depth(self) -> Depth:
        """See `MailStore.depth`."""
        async with self._transaction() as connection:
            row = await connection.fetchrow(
                "SELECT count(*) AS boxes, coalesce(sum(messages), 0)::bigint AS messages, "
                "coalesce(sum(bytes), 0)::bigint AS bytes, "
                "(SELECT min(arrived) FROM cohortium_relay.mail) AS oldest FROM cohortium_relay.box"
            )
            return Depth(row["boxes"], row["messages"], row["bytes"], row["oldest"])

    async def record(self, lines: Sequence[AuditLine]) -> None:
        """See `AuditStore.record`. Lines of several processes come one after the other."""
        async with self._transaction() as connection:
            head = await self._audit.read_head(connection, _NODE, lock=True)
            await self._audit.write(connection, _NODE, *self.chain.extend(head, lines))

    async def audit_head(self) -> Head:
        """See `AuditStore.audit_head`."""
        async with self._transaction() as connection:
            return await self._audit.read_head(connection, _NODE)

    async def audit(self, after: int, limit: int, *, since: float = 0.0, event: str = "") -> list[Kept]:
        """See `AuditStore.audit`."""
        async with self._transaction() as connection:
            return await self._audit.read(connection, _NODE, after, limit, since, event)

    async def erase_audit(self, before: float) -> int:
        """See `MailStore.erase_audit`."""
        erased, lines = 0, ERASED_AT_ONCE
        while lines == ERASED_AT_ONCE:
            async with self._transaction() as connection:
                head = await self._audit.read_head(connection, _NODE, lock=True)
                _, lines = await self._audit.erase(connection, _NODE, self.chain, head, before=before, study=None, rounds=0)
                erased += lines
        return erased

    # -- inside

    async def _prepare(self) -> None:
        """Connects, and makes or upgrades the tables."""
        try:
            self._pool = await self._driver.create_pool(
                self._url, min_size=1, max_size=_CONNECTIONS, command_timeout=_COMMAND_SECONDS
            )
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", _UPGRADE_LOCK)
                await connection.execute("CREATE SCHEMA IF NOT EXISTS cohortium_relay")
                await connection.execute("CREATE TABLE IF NOT EXISTS cohortium_relay.version (number integer NOT NULL)")
                version = await connection.fetchval("SELECT coalesce(max(number), 0) FROM cohortium_relay.version")
                refuse_newer(version, len(_UPGRADES), "the relay's PostgreSQL store")
                for script in _UPGRADES[version:]:
                    await connection.execute(script)
                if version < len(_UPGRADES):
                    await connection.execute("DELETE FROM cohortium_relay.version")
                    await connection.execute("INSERT INTO cohortium_relay.version VALUES ($1)", len(_UPGRADES))
        except (OSError, TimeoutError, self._driver.PostgresConnectionError, self._driver.CannotConnectNowError) as error:
            raise StoreError("postgresql", f"the PostgreSQL store cannot be reached ({type(error).__name__})") from None
        except (ValueError, self._driver.PostgresError, self._driver.InterfaceError) as error:
            # Not the text: it may repeat the URL, and a password may stand in that.
            raise ConfigError(
                f"cannot use the PostgreSQL store ({type(error).__name__}); check the URL under 'store', "
                f"and that this user may create tables there"
            ) from None

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Any]:
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                yield connection
        except (OSError, TimeoutError, self._driver.PostgresError, self._driver.InterfaceError) as error:
            raise StoreError("postgresql", f"the PostgreSQL store failed ({type(error).__name__}); is the server up?") from error

    async def _post(self, posts: list[Post]) -> Sequence[Sequence[Verdict]]:
        letters = [letter for of_one, _ in posts for letter in of_one]
        now = max(now for _, now in posts)
        async with self._transaction() as connection:
            verdicts = iter(await _enter(connection, letters, self._rules, now))
        return [[next(verdicts) for _ in of_one] for of_one, _ in posts]

    async def _listen(self, listening: asyncio.Event) -> None:
        """Hears of mail that any process has taken. Without a connection nothing is heard: everybody looks once it is back."""
        while True:
            lost = asyncio.Event()
            connection = None
            try:
                connection = await self._driver.connect(self._url)
                connection.add_termination_listener(lambda _connection, lost=lost: lost.set())
                await connection.add_listener(_CHANNEL, self._heard)
                listening.set()
                self._arrived(None)
                await lost.wait()
            except (OSError, TimeoutError, self._driver.PostgresError, self._driver.InterfaceError):
                pass
            finally:
                if connection is not None and not connection.is_closed():
                    connection.terminate()
            await asyncio.sleep(_RECONNECT_SECONDS)

    def _heard(self, _connection: object, _process: int, _channel: str, payload: str) -> None:
        self._arrived(Identity.parse(payload))


async def _open_boxes(connection: Any, owners: Iterable[Identity]) -> None:
    await connection.execute(
        "INSERT INTO cohortium_relay.box (owner) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING", sorted(o.uri for o in owners)
    )


async def _enter(connection: Any, letters: Sequence[Letter], rules: Rules, now: float) -> Sequence[Verdict]:
    rows = await connection.fetch(
        "SELECT id, owner, last, messages, bytes FROM cohortium_relay.box WHERE owner = ANY ($1) ORDER BY owner FOR UPDATE",
        sorted({letter.recipient.uri for letter in letters}),
    )
    ids = {Identity.parse(row["owner"]): row["id"] for row in rows}
    boxes = {Identity.parse(row["owner"]): Box(row["last"], Usage(row["messages"], row["bytes"])) for row in rows}
    names = sorted({letter.sender.uri for letter in letters if letter.recipient in ids})
    await connection.execute("INSERT INTO cohortium_relay.sender (name) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING", names)
    usages = await connection.fetch(
        "SELECT name, messages, bytes FROM cohortium_relay.sender WHERE name = ANY ($1) ORDER BY name FOR UPDATE", names
    )
    senders = {Identity.parse(row["name"]): Usage(row["messages"], row["bytes"]) for row in usages}
    known = [letter for letter in letters if letter.recipient in ids]
    there = await connection.fetch(
        "SELECT box, digest FROM cohortium_relay.mail JOIN unnest($1::bigint[], $2::bytea[]) AS asked (box, digest) "
        "USING (box, digest)",
        [ids[letter.recipient] for letter in known],
        [letter.digest for letter in known],
    )
    owners = {box: owner for owner, box in ids.items()}
    waiting = {(owners[row["box"]], bytes(row["digest"])) for row in there}
    done = sort(letters, boxes, senders, waiting, rules)
    await connection.copy_records_to_table(
        "mail",
        schema_name="cohortium_relay",
        columns=("box", "number", "sender", "arrived", "size", "digest", "envelope"),
        records=[
            (ids[letter.recipient], number, letter.sender.uri, now, letter.size, letter.digest, letter.envelope)
            for number, letter in done.taken
        ],
    )
    await connection.executemany(
        "UPDATE cohortium_relay.box SET last = $2, messages = $3, bytes = $4 WHERE id = $1",
        [(ids[owner], box.last, box.usage.messages, box.usage.bytes) for owner, box in done.boxes.items()],
    )
    await connection.executemany(
        "UPDATE cohortium_relay.sender SET messages = $2, bytes = $3 WHERE name = $1",
        [(sender.uri, usage.messages, usage.bytes) for sender, usage in done.senders.items()],
    )
    if done.boxes:
        owners_of_new = [owner.uri for owner in done.boxes]
        await connection.execute("SELECT pg_notify($1, owner) FROM unnest($2::text[]) AS owner", _CHANNEL, owners_of_new)
    return done.verdicts


async def _read(connection: Any, box: int, after: int, limit: int, since: float) -> Fetched:
    sizes = await connection.fetch(
        "SELECT number, size FROM cohortium_relay.mail WHERE box = $1 AND number > $2 AND arrived >= $3 ORDER BY number LIMIT $4",
        box,
        after,
        since,
        _LOOK_AHEAD,
    )
    total, upto = 0, 0
    for row in sizes:
        total += row["size"]
        if upto and total > limit:
            break
        upto = row["number"]
    rows = await connection.fetch(
        "SELECT number, envelope FROM cohortium_relay.mail "
        "WHERE box = $1 AND number > $2 AND number <= $3 AND arrived >= $4 ORDER BY number",
        box,
        after,
        upto,
        since,
    )
    return [(row["number"], row["envelope"]) for row in rows]


async def _delete(connection: Any, which: str, *values: object) -> int:
    """Deletes the messages of mailboxes that the caller has locked, and takes them off the counts. Returns how many."""
    statement = f"DELETE FROM cohortium_relay.mail WHERE {which} RETURNING box, sender, size"  # noqa: S608  (our own words)
    gone = await connection.fetch(statement, *values)
    names = sorted({row["sender"] for row in gone})
    await connection.fetch("SELECT FROM cohortium_relay.sender WHERE name = ANY ($1) ORDER BY name FOR UPDATE", names)
    await connection.executemany(
        "UPDATE cohortium_relay.box SET messages = messages - $1, bytes = bytes - $2 WHERE id = $3",
        totals((row["box"], row["size"]) for row in gone),
    )
    await connection.executemany(
        "UPDATE cohortium_relay.sender SET messages = messages - $1, bytes = bytes - $2 WHERE name = $3",
        totals((row["sender"], row["size"]) for row in gone),
    )
    return len(gone)
