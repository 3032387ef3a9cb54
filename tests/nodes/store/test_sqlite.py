"""The SQLite file: who may open it, what is refused, and that what is deleted is gone from the disk."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpc.errors import ConfigError, IdentityError
from nodes.store import sqlite
from nodes.store.base import KeptKey, Step
from nodes.store.round_keys import RoundKeys
from nodes.store.schema import SQLITE
from nodes.store.sealing import StorageKey
from nodes.store.sqlite import SqliteStore
from tests.nodes.store.conftest import KEY, needs_root
from tests.nodes.store.steps import CLOSED, NODE, NOW, ONE, OTHER_NODE, begin, begun, close, closed_at, event, posted, round_id

SOMEBODY = 65_534


def make(state: Path, node: str = NODE, key: StorageKey = KEY) -> SqliteStore:
    return SqliteStore(state / "store.db", node, key)


async def filled(state: Path) -> None:
    """A store of one open and one ended round."""
    store = make(state)
    await store.open()
    await store.commit([begin(1), event(1), begin(2), close(2)])
    await store.close()


async def refusal(store: SqliteStore) -> str:
    with pytest.raises(ConfigError) as caught:
        await store.open()
    return str(caught.value)


def bytes_on_disk(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())


def noise(name: str, length: int) -> bytes:
    return hashlib.shake_256(name.encode()).digest(length)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A directory that waits for no disk, where there is such a thing."""
    shared = Path("/dev", "shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared) as name:
        yield Path(name)


def samples(data: bytes) -> list[bytes]:
    """Pieces of `data` from its begin to its end, each short enough to lie in one page."""
    return [data[at : at + 64] for at in range(0, len(data), max(64, len(data) // 50))]


async def test_files_and_directory_are_private(state: Path) -> None:
    before = os.umask(0)
    try:
        store = make(state)
        await store.open()
        await store.commit([begin()])
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()}
        await store.close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert set(modes) == {"store.db", "store.db-wal", "store.db-shm", "store.db.lock"}
    assert set(modes.values()) == {0o600}


async def test_every_commit_waits_for_the_disk_and_what_is_deleted_is_overwritten(state: Path) -> None:
    store = make(state)
    await store.open()
    settings = {}
    for name in ("journal_mode", "synchronous", "secure_delete", "foreign_keys", "auto_vacuum"):
        (row,) = await store._rows(f"PRAGMA {name}")
        settings[name] = row[0]
    await store.close()
    # synchronous 2 is FULL, auto_vacuum 2 is INCREMENTAL (sqlite.org/pragma.html).
    assert settings == {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "foreign_keys": 1, "auto_vacuum": 2}


async def test_two_daemons_cannot_use_one_store(state: Path) -> None:
    first = make(state)
    await first.open()
    await first.commit([begin()])
    text = await refusal(make(state))
    assert f"is in use by another daemon (process {os.getpid()}); stop that one" in text
    assert await first.commit([event()]) == 2
    await first.close()
    second = make(state)
    await second.open()
    assert await second.counter() == 2
    await second.close()


async def test_the_store_of_another_node_is_refused(state: Path) -> None:
    await filled(state)
    assert f"is the store of {NODE}, not of {OTHER_NODE}" in await refusal(make(state, OTHER_NODE))
    store = make(state)
    await store.open()  # a refusal changed nothing, and let go of the lock
    await store.close()


async def test_the_wrong_storage_key_is_one_clear_error(state: Path) -> None:
    await filled(state)
    with pytest.raises(IdentityError, match=r"the storage key does not fit this store \(.*store\.db\); bring back the key"):
        await make(state, key=StorageKey(bytes(32))).open()


async def test_a_store_of_a_newer_program_is_refused_and_left_alone(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(state)
    monkeypatch.setattr(sqlite, "SQLITE", (*SQLITE, "CREATE TABLE tomorrow (x INTEGER) STRICT;"))
    newer = make(state)
    await newer.open()  # upgrades
    assert len(await newer.open_rounds()) == 1
    await newer.close()
    monkeypatch.undo()
    before = (state / "store.db").read_bytes()
    expected = f"was written by a newer cohortium (store version {len(SQLITE) + 1}, this program knows {len(SQLITE)}); install"
    assert expected in await refusal(make(state))
    assert (state / "store.db").read_bytes() == before


async def test_an_upgrade_that_fails_leaves_the_old_version(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(state)
    monkeypatch.setattr(sqlite, "SQLITE", (*SQLITE, "CREATE TABLE tomorrow (x INTEGER) STRICT; INSERT INTO nowhere VALUES (1);"))
    with pytest.raises(ConfigError):
        await make(state).open()
    monkeypatch.undo()
    store = make(state)
    await store.open()
    assert await store._rows("SELECT name FROM sqlite_schema WHERE name = 'tomorrow'") == []
    await store.close()


@pytest.mark.parametrize(
    "content", [b"not a database at all, but long enough to look at" * 30, b"\x00" * 20_000], ids=["text", "zeros"]
)
async def test_what_is_no_database_is_refused(state: Path, content: bytes) -> None:
    state.mkdir()
    (state / "store.db").write_bytes(content)
    assert "is damaged or no SQLite database; restore it from a backup" in await refusal(make(state))
    assert (state / "store.db").read_bytes() == content


async def test_a_damaged_database_is_refused(state: Path) -> None:
    await filled(state)
    path = state / "store.db"
    content = bytearray(path.read_bytes())
    content[16_384 : 3 * 16_384] = noise("damage", 2 * 16_384)
    path.write_bytes(content)
    assert "is damaged" in await refusal(make(state))


async def test_a_database_that_was_cut_is_refused(state: Path) -> None:
    await filled(state)
    path = state / "store.db"
    os.truncate(path, path.stat().st_size // 2)
    assert "is damaged" in await refusal(make(state))


async def test_the_database_of_another_program_is_refused(state: Path) -> None:
    state.mkdir()
    connection = sqlite3.connect(state / "store.db")
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    assert "is a database of another program" in await refusal(make(state))


@needs_root
@pytest.mark.parametrize("mode", [0o555, 0o700], ids=["read-only", "closed"])
async def test_a_directory_that_cannot_be_written_says_whose_it_must_be(mode: int) -> None:
    # Not tmp_path: its parents are closed to the other user.
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        state = Path(name) / "state"
        await filled(state)
        for path in state.iterdir():
            path.chmod(0o644)
        state.chmod(mode)
        user = os.geteuid()
        os.seteuid(SOMEBODY)
        try:
            text = await refusal(make(state))
        finally:
            os.seteuid(user)
    assert f"the directory {state} and all in it must belong to this user (uid {SOMEBODY})" in text


@needs_root
async def test_a_file_that_cannot_be_written_says_whose_it_must_be() -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        await filled(Path(name))
        (Path(name) / "store.db.lock").chmod(0o666)
        user = os.geteuid()
        os.seteuid(SOMEBODY)
        try:
            text = await refusal(make(Path(name)))
        finally:
            os.seteuid(user)
    assert "store.db: Permission denied" in text


async def test_a_copied_state_directory_shows_nothing_without_its_key(state: Path) -> None:
    storage_key, value, result = noise("storage key", 32), noise("value", 5_000), noise("result", 5_000)
    key = StorageKey(storage_key)
    state.mkdir()
    round_key = RoundKeys(state / "rounds.keys", key).make(ONE)
    store = make(state, key=key)
    await store.open()
    await store.commit(
        [
            Step(ONE, begun=begun(1, sealed=round_key.seal(value, "seed")), event=round_key.seal(value, "event 0")),
            Step(ONE, event=round_key.seal(result, "event 1")),
        ]
    )
    await store.keep_key(KeptKey(b"k" * 32, NOW, key.seal(value, "key")))
    disk = bytes_on_disk(state)
    await store.close()
    disk += bytes_on_disk(state)
    assert b"study-1" in disk  # this is where it would be
    assert [piece for piece in (storage_key, *samples(value), *samples(result)) if piece in disk] == []


@pytest.mark.parametrize("size", [200, 3_000_000])
async def test_an_ended_rounds_journal_is_overwritten_on_the_disk(state: Path, size: int) -> None:
    seed, content, envelope, kept = (noise(name, size) for name in ("seed", "event", "envelope", "of another round"))
    store = make(state)
    await store.open()
    await store.commit([Step(ONE, begun=begun(1, sealed=seed), event=content, posted=(posted(0, envelope),))])
    await store.commit([begin(2), event(2, kept)])
    disk = bytes_on_disk(state)
    for data in (seed, content, envelope, kept):
        assert all(piece in disk for piece in samples(data))
    await store.commit([close(1)])
    # Soon after, without being told, and in the log as well as in the database.
    async with asyncio.timeout(20):
        while any(piece in disk for data in (seed, content, envelope) for piece in samples(data)):
            await asyncio.sleep(0.02)
            disk = bytes_on_disk(state)
    assert (state / "store.db-wal").stat().st_size == 0
    assert all(piece in disk for piece in samples(kept))
    await store.close()


async def test_large_pieces_lie_in_private_files_until_their_round_has_ended(state: Path) -> None:
    content, envelope, other = noise("event", 300_000), noise("envelope", 300_000), noise("of another round", 300_000)
    store = make(state)
    await store.open()
    await store.commit([begin(1), Step(ONE, event=content, posted=(posted(0, envelope),)), begin(2), event(2, other)])
    pieces = sorted((state / "store.large").iterdir())
    assert sorted(piece.read_bytes() for piece in pieces) == sorted([content, envelope, other])
    assert {stat.S_IMODE(piece.stat().st_mode) for piece in pieces} == {0o600}
    await store.close()
    store = make(state)
    await store.open()
    first, second = await store.open_rounds()
    assert (first.events, [post.envelope for post in first.outbox], second.events) == ((content,), [envelope], (other,))
    await store.commit([close(1)])
    assert [post.envelope for _, post in await store.left_over()] == []
    await store.close()
    assert [piece.read_bytes() for piece in (state / "store.large").iterdir()] == [other]


async def test_a_large_piece_that_is_lost_opens_under_no_key_and_one_that_nobody_names_is_removed(state: Path) -> None:
    store = make(state)
    await store.open()
    await store.commit([begin(1), event(1, noise("event", 300_000))])
    await store.close()
    (lost,) = (state / "store.large").iterdir()
    lost.rename(lost.with_name("0000000000000000"))  # as if a crash had come before the commit
    store = make(state)
    await store.open()
    assert [kept.events for kept in await store.open_rounds()] == [(b"",)]
    await store.close()
    assert list((state / "store.large").iterdir()) == []


async def test_a_journal_that_a_crash_left_is_deleted_after_the_next_start(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = noise("event", 100_000)
    with monkeypatch.context() as patched:
        patched.setattr(SqliteStore, "_sweep", lambda _store, _connection: False)
        store = make(state)
        await store.open()
        await store.commit([begin(), event(1, content)])
        await store.commit([close()])
        await store.close()
    assert samples(content)[0] in bytes_on_disk(state)
    store = make(state)
    await store.open()
    await store.close()
    disk = bytes_on_disk(state)
    assert [piece for piece in samples(content) if piece in disk] == []


async def test_erased_results_and_keys_are_overwritten_on_the_disk(state: Path) -> None:
    result, key = noise("result", 50_000), noise("key", 1_000)
    store = make(state)
    await store.open()
    await store.keep_key(KeptKey(b"k" * 32, NOW, key))
    await store.commit([begin(), Step(ONE, closed=closed_at(NOW)), begin(2)])
    await store.commit([Step(round_id(2), closed=type(CLOSED)(NOW, "released", "", b"", result))])
    disk = bytes_on_disk(state)
    assert all(piece in disk for data in (result, key) for piece in samples(data))
    assert await store.erase_before(NOW + 1) == 2
    await store.erase_key(b"k" * 32)
    await store.close()
    disk = bytes_on_disk(state)
    assert [piece for data in (result, key) for piece in samples(data) if piece in disk] == []


async def test_a_thousand_rounds_leave_neither_space_nor_descriptors_behind(memory: Path) -> None:
    state = memory / "state"
    descriptors = Path("/proc/self/fd")
    content = noise("event", 40_000)
    store = make(state)
    await store.open()
    sizes, open_files = [], []
    for number in range(1000):
        step = Step(round_id(number), begun=begun(number), event=content, posted=(posted(0, content),))
        await store.commit([step, *([] if number == 0 else [close(number - 1)])])
        if number % 500 == 499:
            await store.close()
            sizes.append((state / "store.db").stat().st_size)
            store = make(state)
            await store.open()
            open_files.append(len(list(descriptors.iterdir())))
    assert len(await store.closed_rounds(2000)) == 999
    await store.close()
    # 500 rounds of 80,000 bytes went by between the two; what stays of each is some 200 bytes.
    assert sizes[1] - sizes[0] < 500 * 500
    assert sizes[0] < 40_000_000
    assert open_files[0] == open_files[1]
