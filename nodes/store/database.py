"""An SQLite file on a thread of its own: what waits together is committed together, with one wait for the disk.

    path        the database, mode 0600, in WAL mode, every commit fsynced
    path-wal    what is committed and not yet in the database; emptied when the thread has nothing else to do
    path.lock   held by the one process that has the database open

Callers hand over functions of a connection. The thread runs all that wait in one transaction and answers when it is on the disk.
If that fails, it runs each of them again in a transaction of its own, so that nobody fails for another's reason.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from mpc.errors import ConfigError
from nodes.store.base import StoreError
from nodes.store.schema import refuse_newer

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

APPLICATION_ID = 0x436F686F
""""Coho" in the file's header: tells our files from other SQLite databases."""
PAGE_BYTES = 8_192
"""Between what large blobs like (16 kB) and what small commits cost (4 kB): each page that a commit touches is written whole."""
_LOG_BYTES = 4 * 1024 * 1024
"""A log that is longer is brought into the database once the thread is quiet, so that no burst of commits waits for that."""
_SPARE_PAGES = 4096
"""Free pages that the file keeps for what comes next (64 MB, all zeros); more are given back."""
_QUIET_SECONDS = 1.0
"""Without work for so long, the thread tidies up."""
_UNTIDY_SECONDS = 5.0
"""With work all the time, it tidies up a little in between when it has not been able to for so long."""
_TRY_AGAIN_SECONDS = 30.0
"""Like the first, after tidying has failed."""
_BUSY_MILLISECONDS = 5000
"""How long another process that writes may hold up the thread. None should; readers, a backup for one, do not."""

_REASONS = {
    sqlite3.SQLITE_FULL: "disk-full",
    sqlite3.SQLITE_READONLY: "read-only",
    sqlite3.SQLITE_IOERR: "disk",
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_NOTADB: "damaged",
    sqlite3.SQLITE_BUSY: "busy",
    sqlite3.SQLITE_CONSTRAINT: "inconsistent",
}


class _Job(Generic[T]):
    """A function that waits for the thread, and the caller that waits for its answer."""

    __slots__ = ("answer", "work", "writes")

    def __init__(self, work: Work[T], *, writes: bool) -> None:
        self.work = work
        self.writes = writes
        self.answer: Future[T] = Future()


class Database:
    """One file, one connection, one thread. The methods may be called from one event loop."""

    def __init__(self, path: Path, upgrades: tuple[str, ...], sweep: Callable[[sqlite3.Connection], bool]) -> None:
        """`upgrades`: the script of each version. `sweep` deletes some megabytes of what is left over and says if there is more.

        It is called in a transaction, on the thread, when that has nothing else to do and `untidy` was set.
        """
        self.untidy = False
        """Set by work functions that delete something or leave something to delete behind."""
        self._path = path
        self._log = path.with_name(f"{path.name}-wal")
        self._upgrades = upgrades
        self._sweep = sweep
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._finished: Future[None] | None = None

    async def open(self, check: Callable[[sqlite3.Connection], None]) -> None:
        """Makes the file or upgrades it, then runs `check`, which may write when there are new tables.

        Raises ConfigError for a file that is damaged, newer, not ours, not writable or in use, StoreError for a full disk.
        """
        opened: Future[None] = Future()
        self._finished = Future()
        self._jobs = queue.SimpleQueue()
        threading.Thread(target=self._live, args=(check, opened, self._finished), name="store", daemon=True).start()
        try:
            await asyncio.wrap_future(opened)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Does what was asked for, tidies up, and lets go of the file. No effect when it is not open."""
        finished, self._finished = self._finished, None
        if finished is not None:
            self._jobs.put(None)
            await asyncio.wrap_future(finished)

    async def write(self, work: Work[T]) -> T:
        """What `work` returns, once its changes are on the disk. Raises StoreError; then nothing has changed.

        `work` is run after what was asked for before it. It may be run twice; then the first time has left no trace.
        """
        return await self._ask(_Job(work, writes=True))

    async def read(self, work: Work[T]) -> T:
        """What `work` returns, which changes nothing. Raises StoreError."""
        return await self._ask(_Job(work, writes=False))

    async def _ask(self, job: _Job[T]) -> T:
        if self._finished is None:
            raise StoreError("closed", f"{self._path} is not open")
        self._jobs.put(job)
        return await asyncio.wrap_future(job.answer)

    # ---- on the thread

    def _live(self, check: Callable[[sqlite3.Connection], None], opened: Future[None], finished: Future[None]) -> None:
        try:
            with _locked(self._path), closing(_connect(self._path)) as connection:
                self._prepare(connection, check)
                opened.set_result(None)
                self._serve(connection)
                with suppress(sqlite3.Error, StoreError):  # what is left is deleted after the next start
                    while self.untidy and self._tidy_up(connection):
                        pass
        except Exception as error:
            if opened.done():
                raise
            opened.set_exception(_opening_error(error, self._path))
        finally:
            finished.set_result(None)

    def _prepare(self, connection: sqlite3.Connection, check: Callable[[sqlite3.Connection], None]) -> None:
        ours, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
        if _pragma(connection, "schema_version") == 0:
            # Nothing in it yet: the only time at which these can be chosen.
            _pragma(connection, f"page_size = {PAGE_BYTES}")
            _pragma(connection, "auto_vacuum = INCREMENTAL")
        elif ours != APPLICATION_ID:
            raise _not_ours(self._path)
        refuse_newer(version, len(self._upgrades), str(self._path))
        # Some tenths of a second a gigabyte. What blobs hold is checked when they are unsealed.
        if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise _damaged(self._path)
        for setting in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "secure_delete = ON",  # what is deleted is overwritten with zeros
            "foreign_keys = ON",
            "temp_store = MEMORY",
            "wal_autocheckpoint = 0",  # see _LOG_BYTES
        ):
            _pragma(connection, setting)
        scripts = self._upgrades[version:]
        with _transaction(connection, writes=bool(scripts)):  # a full disk does not keep an old store from being opened
            for script in scripts:
                for statement in _statements(script):
                    connection.execute(statement)
            if scripts:
                _pragma(connection, f"application_id = {APPLICATION_ID}")
                _pragma(connection, f"user_version = {len(self._upgrades)}")
            check(connection)

    def _serve(self, connection: sqlite3.Connection) -> None:
        patience, untidy_since = _QUIET_SECONDS, 0.0
        while True:
            jobs = self._next(patience if self.untidy else None)
            self._commit(connection, [job for job in jobs if job is not None and job.answer.set_running_or_notify_cancel()])
            if jobs and jobs[-1] is None:
                return
            with suppress(OSError):
                self.untidy |= self._log.stat().st_size > _LOG_BYTES
            now = time.monotonic()
            if not self.untidy:
                untidy_since = 0.0
                continue
            untidy_since = untidy_since or now
            if jobs and now - untidy_since < _UNTIDY_SECONDS:
                patience = _QUIET_SECONDS
                continue
            try:
                done = self._tidy_up(connection)
            except (sqlite3.Error, StoreError):
                done = False
            patience = 0.0 if done else _TRY_AGAIN_SECONDS
            if not done:
                untidy_since = now

    def _next(self, timeout: float | None) -> list[_Job[Any] | None]:
        """All that wait, or the first to come; none when the time is up. None, which can only be the last, ends the thread."""
        jobs: list[_Job[Any] | None] = []
        with suppress(queue.Empty):
            jobs.append(self._jobs.get(timeout=timeout))
            while jobs[-1] is not None:
                jobs.append(self._jobs.get_nowait())
        return jobs

    def _commit(self, connection: sqlite3.Connection, jobs: list[_Job[Any]]) -> None:
        if not jobs:
            return
        try:
            with _transaction(connection, writes=any(job.writes for job in jobs)):
                results = [job.work(connection) for job in jobs]
        except Exception as error:
            found = _store_error(error, self._path)
            if isinstance(found, StoreError) and found.reason == "disk-full":
                with suppress(sqlite3.Error):  # the log has taken the last space: give it back
                    _empty_log(connection)
            if len(jobs) == 1:
                jobs[0].answer.set_exception(found)
            else:
                for job in jobs:
                    self._commit(connection, [job])
            return
        for job, result in zip(jobs, results, strict=True):
            job.answer.set_result(result)

    def _tidy_up(self, connection: sqlite3.Connection) -> bool:
        """Does a part of it. False: a reader from outside is in the way."""
        with _transaction(connection):
            more = self._sweep(connection)
        if more:
            return True
        spare = _pragma(connection, "freelist_count") - _SPARE_PAGES
        if spare > 0:
            # Not `execute`, which would take one step of it: one page.
            connection.executescript(f"PRAGMA incremental_vacuum({spare})")
        if not _empty_log(connection):  # what is deleted must not stay in the log either
            return False
        _pragma(connection, "shrink_memory")
        self.untidy = False
        return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Left in place: whoever removed it could remove another's.
    descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            raise ConfigError(
                f"{path} is in use by another daemon (process {holder or 'unknown'}); stop that one, or give each daemon a state "
                f"directory of its own"
            ) from None
        with suppress(OSError):  # for the text above only
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        os.close(descriptor)


def _connect(path: Path) -> sqlite3.Connection:
    # SQLite gives its log the same mode as the database.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    return sqlite3.connect(path, timeout=_BUSY_MILLISECONDS / 1000, isolation_level=None)


@contextmanager
def _transaction(connection: sqlite3.Connection, *, writes: bool = True) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # some failures have rolled back already
            connection.execute("ROLLBACK")
        raise


def _pragma(connection: sqlite3.Connection, text: str) -> int:
    """Reads or sets; 0 when there is no number to be read."""
    row = connection.execute(f"PRAGMA {text}").fetchone()
    return row[0] if row is not None and isinstance(row[0], int) else 0


def _empty_log(connection: sqlite3.Connection) -> bool:
    """Brings the log into the database. False when somebody still reads what was before: it is not waited for."""
    _pragma(connection, "busy_timeout = 0")
    try:
        return _pragma(connection, "wal_checkpoint(TRUNCATE)") == 0
    finally:
        _pragma(connection, f"busy_timeout = {_BUSY_MILLISECONDS}")


def _statements(script: str) -> Iterator[str]:
    # `executescript` would commit on its own.
    statement = ""
    for piece in script.split(";")[:-1]:
        statement += f"{piece};"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _store_error(error: Exception, path: Path) -> Exception:
    reason = _REASONS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    return error if reason is None else StoreError(reason, f"{path}: {error}")


def _opening_error(error: Exception, path: Path) -> Exception:
    if isinstance(error, OSError):
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return StoreError("disk-full", f"{path}: {error.strerror}")
        return _not_writable(path, error.strerror or "it failed")
    found = _store_error(error, path)
    match found:
        case StoreError(reason="damaged"):
            return _damaged(path)
        case StoreError(reason="read-only"):
            return _not_writable(path, str(error))
    if isinstance(error, sqlite3.OperationalError):
        match error.sqlite_errorcode & 0xFF:
            case sqlite3.SQLITE_CANTOPEN:
                return _not_writable(path, str(error))
            case sqlite3.SQLITE_ERROR:  # "no such table" and the like
                return _not_ours(path)
    return found


def _not_ours(path: Path) -> ConfigError:
    return ConfigError(f"{path} is a database of another program; give the node a state directory of its own")


def _damaged(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} is damaged or no SQLite database; restore it from a backup, or move it away to begin anew (open rounds, results "
        f"and the ledger are lost then)"
    )


def _not_writable(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"cannot write {path}: {why}; the directory {path.parent} and all in it must belong to this user (uid {os.geteuid()})"
    )
