"""A full disk stops a node's work, loses nothing of it, and is over once there is space again."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nodes.store.base import StoreError
from nodes.store.counter import BackupGuard
from nodes.store.round_keys import RoundKeys
from nodes.store.sqlite import SqliteStore
from tests.nodes.store.conftest import KEY, needs_root
from tests.nodes.store.steps import NODE, ONE, begin, close, event

pytestmark = needs_root


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MB."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", tmp_path], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def fill(disk: Path) -> Path:
    """Takes all the space that is left."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(disk).free == 0
    return ballast


async def test_what_was_committed_stays_and_work_goes_on_when_there_is_space(disk: Path) -> None:
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(6_000_000))
    store = SqliteStore(disk / "store.db", NODE, KEY)
    await store.open()
    await store.commit([begin(1), begin(2)])
    counter, fault = 1, None
    while fault is None:
        try:
            counter = await store.commit([event(1, bytes(500_000))])
        except StoreError as error:
            fault = error
    assert fault.reason == "disk-full"
    assert str(disk / "store.") in str(fault)
    assert counter > 2
    for _ in range(3):
        with pytest.raises(StoreError):
            await store.commit([event(1, bytes(500_000))])
    assert await store.counter() == counter
    assert len((await store.open_rounds())[0].events) == counter - 1
    ballast.unlink()
    assert await store.commit([event(1, bytes(500_000))]) == counter + 1
    assert await store.commit([close(1)]) == counter + 2
    await store.close()
    again = SqliteStore(disk / "store.db", NODE, KEY)
    await again.open()
    assert await again.counter() == counter + 2
    await again.close()


async def test_a_store_on_a_full_disk_is_read_and_closed(disk: Path) -> None:
    store = SqliteStore(disk / "store.db", NODE, KEY)
    await store.open()
    await store.commit([begin(1), event(1, bytes(200_000))])
    await store.commit([close(1), begin(2)])
    ballast = fill(disk)
    assert len(await store.open_rounds()) == 1
    await store.close()
    ballast.unlink()
    again = SqliteStore(disk / "store.db", NODE, KEY)
    await again.open()
    assert [kept.events for kept in await again.open_rounds()] == [()]
    assert await again.counter() == 2
    await again.close()


async def test_a_store_on_a_full_disk_is_opened(disk: Path) -> None:
    store = SqliteStore(disk / "store.db", NODE, KEY)
    await store.open()
    await store.commit([begin(1)])
    await store.close()
    ballast = fill(disk)
    with ballast.open("r+b") as file:
        file.truncate(ballast.stat().st_size - 65_536)  # SQLite's index of its log, which is no larger
    await store.open()
    assert len(await store.open_rounds()) == 1
    with pytest.raises(StoreError) as caught:
        await store.commit([event(1, bytes(500_000))])
    assert caught.value.reason == "disk-full"
    ballast.unlink()
    assert await store.commit([event(1, bytes(500_000))]) == 2
    await store.close()


async def test_a_store_cannot_be_made_on_a_full_disk_but_later(disk: Path) -> None:
    ballast = fill(disk)
    with pytest.raises(StoreError) as caught:
        await SqliteStore(disk / "store.db", NODE, KEY).open()
    assert caught.value.reason in {"disk-full", "disk"}
    ballast.unlink()
    store = SqliteStore(disk / "store.db", NODE, KEY)
    await store.open()
    assert await store.counter() == 0
    await store.close()


def test_a_rounds_key_that_does_not_fit_is_not_there(disk: Path) -> None:
    keys = RoundKeys(disk / "rounds.keys", KEY)
    ballast = fill(disk)
    with pytest.raises(StoreError, match="No space left") as caught:
        keys.make(ONE)
    assert caught.value.reason == "disk-full"
    assert keys.rounds() == []
    ballast.unlink()
    keys.make(ONE)
    assert keys.rounds() == [ONE]


def test_the_counter_file_needs_no_new_space(disk: Path) -> None:
    guard = BackupGuard(disk / "counter")
    guard.keep(1)
    ballast = fill(disk)
    guard.keep(2)
    assert guard.check(2) == "same"
    guard.close()
    late = BackupGuard(disk / "late")
    with pytest.raises(StoreError) as caught:
        late.keep(1)
    assert caught.value.reason == "disk-full"
    ballast.unlink()
    late.close()
