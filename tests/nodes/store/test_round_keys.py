"""The keys of open rounds in one file: each opens after a restart, until it is destroyed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from mpc.errors import IdentityError
from nodes.store.base import StoreError
from nodes.store.round_keys import RoundKeys
from nodes.store.sealing import StorageKey

KEY, OTHER = StorageKey(bytes(range(32))), StorageKey(bytes(32))
ONE, TWO = bytes([1] * 16), bytes([2] * 16)
SLOT = 128


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rounds.keys"


def test_a_rounds_key_opens_after_a_restart_until_it_is_destroyed(path: Path) -> None:
    keys = RoundKeys(path, KEY)
    sealed = keys.make(ONE).seal(b"seventy-two", "label")
    keys.make(TWO)
    again = RoundKeys(path, KEY)
    assert again.all() == [ONE, TWO]
    assert again.get(ONE).unseal(sealed, "label") == b"seventy-two"
    with pytest.raises(StoreError):
        again.get(TWO).unseal(sealed, "label")
    again.destroy(ONE)
    again.destroy(ONE)
    assert again.all() == [TWO]
    with pytest.raises(StoreError) as caught:
        again.get(ONE)
    assert caught.value.reason == "no-key"
    with pytest.raises(StoreError):
        again.make(ONE).unseal(sealed, "label")


def test_the_file_is_private_and_opens_under_its_storage_key_alone(path: Path) -> None:
    RoundKeys(path, KEY).make(ONE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(StoreError):
        RoundKeys(path, OTHER).get(ONE)


def test_a_key_moved_to_another_round_does_not_open(path: Path) -> None:
    RoundKeys(path, KEY).make(ONE)
    path.write_bytes(path.read_bytes().replace(ONE, TWO))
    with pytest.raises(StoreError, match=f"key of round {TWO.hex()}"):
        RoundKeys(path, KEY).get(TWO)


def test_a_key_left_by_a_crash_is_taken_again_and_half_a_key_is_replaced(path: Path) -> None:
    keys = RoundKeys(path, KEY)
    sealed = keys.make(ONE).seal(b"x", "label")
    assert RoundKeys(path, KEY).make(ONE).unseal(sealed, "label") == b"x"
    at = path.read_bytes().index(ONE)
    with path.open("r+b") as file:
        file.seek(at + 40)
        file.write(bytes(20))
    keys = RoundKeys(path, KEY)
    sealed = keys.make(ONE).seal(b"y", "label")
    assert keys.get(ONE).unseal(sealed, "label") == b"y"


def test_destroying_writes_over_the_bytes_of_the_key(path: Path) -> None:
    keys = RoundKeys(path, KEY)
    keys.make(ONE)
    content = path.read_bytes()
    slot = content[content.index(ONE) :][:SLOT]
    keys.destroy(ONE)
    after = path.read_bytes()
    assert not any(after)
    assert slot[16:76] not in after


def test_slots_are_used_again_and_the_file_grows_no_more_than_it_must(path: Path) -> None:
    keys = RoundKeys(path, KEY)
    for number in range(1000):
        round_id = number.to_bytes(16, "big", signed=False)[::-1] if number else ONE
        keys.make(round_id)
        keys.destroy(round_id)
    assert path.stat().st_size == 32 * SLOT
    many = [bytes([7, number]) + bytes(14) for number in range(100)]
    for round_id in many:
        keys.make(round_id)
    assert RoundKeys(path, KEY).all() == sorted(many)


def test_a_full_disk_costs_no_other_rounds_key(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = RoundKeys(path, KEY)
    kept = {bytes([9, number]) + bytes(14): b"" for number in range(32)}
    for round_id in kept:
        kept[round_id] = keys.make(round_id).seal(b"x", "label")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(StoreError) as caught:
            keys.make(ONE)
        assert caught.value.reason == "disk-full"
    keys.make(TWO)
    for round_id, sealed in kept.items():
        assert RoundKeys(path, KEY).get(round_id).unseal(sealed, "label") == b"x"


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="Is a directory"):
        RoundKeys(tmp_path, KEY)
