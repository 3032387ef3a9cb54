"""The counter file tells a store that was put back from one that was not."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpc.errors import ConfigError
from nodes.store.base import StoreError
from nodes.store.counter import BackupGuard


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "counter"


@pytest.fixture
def guard(path: Path) -> Iterator[BackupGuard]:
    guard = BackupGuard(path)
    yield guard
    guard.close()


def check_again(path: Path, store_counter: int) -> str:
    """What a new process finds."""
    guard = BackupGuard(path)
    try:
        return guard.check(store_counter)
    finally:
        guard.close()


def test_a_new_node_is_nothing_special(guard: BackupGuard) -> None:
    assert guard.check(0) == "same"


def test_a_store_without_its_counter_file_counts_as_restored(guard: BackupGuard) -> None:
    assert guard.check(7) == "behind"
    guard.keep(7)
    assert guard.check(7) == "same"


@pytest.mark.parametrize(("store", "found"), [(41, "behind"), (0, "behind"), (42, "same"), (43, "ahead"), (99, "ahead")])
def test_the_store_is_compared_with_the_last_commit_that_was_kept(guard: BackupGuard, path: Path, store: int, found: str) -> None:
    guard.keep(41)
    guard.keep(42)
    assert check_again(path, store) == found


def test_the_file_is_private_and_stays_small(guard: BackupGuard, path: Path) -> None:
    for counter in range(1, 50):
        guard.keep(counter)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size == 32
    assert path.read_bytes()[:16] == (49).to_bytes(8, "big") + hashlib.sha256((49).to_bytes(8, "big")).digest()[:8]


@pytest.mark.parametrize("written", range(33))
def test_a_write_cut_anywhere_leaves_the_old_counter_or_the_new(guard: BackupGuard, path: Path, written: int) -> None:
    guard.keep(0x0102030405060708)
    old = path.read_bytes()
    guard.keep(0x1112131415161718)
    new = path.read_bytes()
    path.write_bytes(new[:written] + old[written:])
    known = {check_again(path, counter) for counter in (0x0102030405060708, 0x1112131415161718)}
    assert known in ({"same", "ahead"}, {"behind", "same"})


@pytest.mark.parametrize("content", [b"", b"\x00" * 32, b"7\n", b"\xff" * 40], ids=["empty", "zeros", "text", "noise"])
def test_a_spoilt_file_counts_as_restored(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert check_again(path, 5) == "behind"


def test_one_spoilt_half_does_no_harm(guard: BackupGuard, path: Path) -> None:
    guard.keep(42)
    whole = path.read_bytes()
    for spoilt in (b"\x00" * 16 + whole[16:], whole[:16] + b"\x00" * 16, whole[:16]):
        path.write_bytes(spoilt)
        assert check_again(path, 42) == "same"


def test_a_file_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot write .*counter: No such file or directory; give its directory to uid"):
        BackupGuard(tmp_path / "missing" / "counter")


def test_only_a_plain_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "counter").symlink_to("/dev/full")
    with pytest.raises(ConfigError):
        BackupGuard(tmp_path / "counter")
    with pytest.raises(ConfigError, match="is not a file"):
        BackupGuard(Path("/dev/full"))


def test_a_disk_that_fails_is_a_passing_fault(path: Path) -> None:
    guard = BackupGuard(path)
    guard.close()  # as good as a disk that is gone
    with pytest.raises(StoreError, match="cannot write"):
        guard.keep(1)
    with pytest.raises(StoreError, match="cannot read"):
        guard.check(1)
