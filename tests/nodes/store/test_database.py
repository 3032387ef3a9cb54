"""The thread of an SQLite file: what waits together is committed together, and its faults are told by name."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nodes.store.base import StoreError
from nodes.store.database import Database
from tests.nodes.transport.conftest import eventually

UPGRADES = ("CREATE TABLE words (word TEXT NOT NULL UNIQUE) STRICT;",)


@pytest.fixture
async def database(state: Path) -> AsyncIterator[Database]:
    database = Database(state / "words.db", UPGRADES, lambda _: False)
    await database.open(lambda _: None)
    yield database
    await database.close()


def insert(connection: sqlite3.Connection, word: str) -> int:
    connection.execute("INSERT INTO words VALUES (?)", (word,))
    return threading.get_ident()


def words(connection: sqlite3.Connection) -> list[str]:
    return [word for (word,) in connection.execute("SELECT word FROM words ORDER BY rowid")]


@asynccontextmanager
async def held(database: Database) -> AsyncIterator[None]:
    """Keeps the thread busy, so that what is asked meanwhile waits together."""
    started, go_on = threading.Event(), threading.Event()

    def hold(_connection: sqlite3.Connection) -> None:
        started.set()
        go_on.wait(10)

    task = asyncio.create_task(database.write(hold))
    assert await asyncio.to_thread(started.wait, 10)
    yield
    await asyncio.sleep(0)  # tasks made meanwhile have asked now
    go_on.set()
    await task


def ask(database: Database, word: str) -> asyncio.Task[int]:
    return asyncio.create_task(database.write(lambda connection: insert(connection, word)))


async def test_writes_that_wait_together_share_one_commit(database: Database) -> None:
    statements: list[str] = []
    async with held(database):
        trace = asyncio.create_task(database.read(lambda connection: connection.set_trace_callback(statements.append)))
        writes = [ask(database, f"w{number}") for number in range(20)]
    threads = await asyncio.gather(*writes)
    await trace
    assert statements.count("COMMIT") == 1
    assert await database.read(words) == [f"w{number}" for number in range(20)]
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


async def test_a_write_that_fails_leaves_those_beside_it_alone(database: Database) -> None:
    async with held(database):
        writes = [ask(database, word) for word in ("a", "b", "a", "c")]
    done = await asyncio.gather(*writes, return_exceptions=True)
    failed = done[2]
    assert isinstance(failed, StoreError)
    assert failed.reason == "inconsistent"
    assert await database.read(words) == ["a", "b", "c"]


async def test_half_of_a_write_is_none(database: Database) -> None:
    def two(connection: sqlite3.Connection) -> None:
        insert(connection, "a")
        insert(connection, "a")

    with pytest.raises(StoreError):
        await database.write(two)
    assert await database.read(words) == []


async def test_a_caller_that_gave_up_before_its_turn_changes_nothing(database: Database) -> None:
    async with held(database):
        write = ask(database, "a")
        await asyncio.sleep(0)
        write.cancel()
        with pytest.raises(asyncio.CancelledError):
            await write
    assert await database.read(words) == []


async def test_closing_does_what_was_asked_for_first(state: Path) -> None:
    database = Database(state / "words.db", UPGRADES, lambda _: False)
    await database.open(lambda _: None)
    write = ask(database, "a")
    await asyncio.sleep(0)
    await database.close()
    await write
    again = Database(state / "words.db", UPGRADES, lambda _: False)
    await again.open(lambda _: None)
    assert await again.read(words) == ["a"]
    await again.close()


async def test_sweeping_waits_for_quiet_but_not_for_ever(state: Path) -> None:
    swept: list[int] = []

    def sweep(_connection: sqlite3.Connection) -> bool:
        swept.append(1)
        return len(swept) < 3

    database = Database(state / "words.db", UPGRADES, sweep)
    await database.open(lambda _: None)

    def untidy(connection: sqlite3.Connection) -> None:
        insert(connection, "a")
        database.untidy = True

    await database.write(untidy)
    async with asyncio.timeout(10):
        while database.untidy:  # never quiet: there is always another read
            await database.read(words)
    assert len(swept) == 3
    await database.write(lambda c: insert(c, "b"))
    await database.close()
    assert len(swept) == 3


async def test_a_sweep_that_fails_does_not_stop_the_thread(state: Path) -> None:
    tried = threading.Event()

    def sweep(_connection: sqlite3.Connection) -> bool:
        tried.set()
        raise sqlite3.OperationalError("disk I/O error")

    database = Database(state / "words.db", UPGRADES, sweep)
    await database.open(lambda _: None)
    database.untidy = True
    await database.write(lambda c: insert(c, "a"))
    assert await asyncio.to_thread(tried.wait, 10)
    assert await database.read(words) == ["a"]
    await database.close()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (sqlite3.SQLITE_FULL, "disk-full"),
        (sqlite3.SQLITE_READONLY, "read-only"),
        (sqlite3.SQLITE_READONLY_DBMOVED, "read-only"),
        (sqlite3.SQLITE_IOERR_FSYNC, "disk"),
        (sqlite3.SQLITE_CORRUPT, "damaged"),
        (sqlite3.SQLITE_BUSY, "busy"),
    ],
)
async def test_faults_have_a_reason_for_counters(database: Database, code: int, reason: str) -> None:
    def fail(_connection: sqlite3.Connection) -> None:
        error = sqlite3.OperationalError("as SQLite says it")
        error.sqlite_errorcode = code
        raise error

    with pytest.raises(StoreError, match=r"words\.db: as SQLite says it") as caught:
        await database.write(fail)
    assert caught.value.reason == reason


async def test_a_bug_is_not_taken_for_a_fault(database: Database) -> None:
    def bug(_connection: sqlite3.Connection) -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        await database.write(bug)
    assert await database.read(words) == []


async def test_a_reader_from_outside_stops_neither_a_commit_nor_for_long_the_tidying(state: Path) -> None:
    path, log = state / "words.db", state / "words.db-wal"
    swept = threading.Event()

    def sweep(_connection: sqlite3.Connection) -> bool:
        swept.set()
        return False

    noted = Database(path, UPGRADES, sweep)

    def untidy(connection: sqlite3.Connection, word: str) -> None:
        insert(connection, word)
        noted.untidy = True

    await noted.open(lambda _: None)
    await noted.write(lambda c: insert(c, "a"))
    outside = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    outside.execute("BEGIN")
    assert words(outside) == ["a"]
    await noted.write(lambda c: untidy(c, "b"))
    assert await asyncio.to_thread(swept.wait, 10)
    async with asyncio.timeout(3):  # the log cannot be emptied now, and nobody waits for that
        await noted.write(lambda c: untidy(c, "c"))
    assert words(outside) == ["a"]
    assert log.stat().st_size > 0
    outside.close()
    await noted.write(lambda c: untidy(c, "d"))
    await eventually(lambda: log.stat().st_size == 0)
    assert await noted.read(words) == ["a", "b", "c", "d"]
    await noted.close()


async def test_a_long_log_is_brought_into_the_database_without_being_told(database: Database, state: Path) -> None:
    for number in range(10):
        await database.write(lambda c, word=f"{number} {'x' * 1_000_000}": insert(c, word))  # type: ignore[misc]
    await eventually(lambda: (state / "words.db-wal").stat().st_size == 0)
    assert (state / "words.db").stat().st_size > 10_000_000
