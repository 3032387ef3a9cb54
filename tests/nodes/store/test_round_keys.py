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
SLOT = 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rounds.keys"


def test_a_rounds_key_opens_after_a_restart_until_it_is_destroyed(path: Path) -> None:
    keys = RoundKeys(path, KEY)
    sealed = keys.make(ONE).seal(b"seventy-two", "label")
    assert keys.make(ONE).unseal(sealed, "label") == b"seventy-two"
    with pytest.raises(StoreError):
        keys.make(TWO).unseal(sealed, "label")
    slot = keys.slot(ONE)
    again = RoundKeys(path, KEY)
    assert again.rounds() == []
    assert again.take_again(ONE, slot).unseal(sealed, "label") == b"seventy-two"
    assert again.rounds() == [ONE]
    again.destroy(ONE)
    again.destroy(ONE)
    assert again.rounds() == []
    with pytest.raises(StoreError):
        RoundKeys(path, KEY).take_again(ONE, slot).unseal(sealed, "label")


def test_no_round_waits_for_the_disk_while_there_are_spare_keys(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = RoundKeys(path, KEY)
    keys.make(ONE)
    monkeypatch.setattr(os, "fdatasync", lambda _: pytest.fail("a wait for the disk"))
    keys.make(TWO)


def test_keys_of_another_life_that_no_round_takes_again_are_destroyed_and_not_given_out_before(path: Path) -> None:
    keys = RoundKeys(path, KEY)
    kept, lost = keys.make(ONE).seal(b"x", "label"), keys.make(TWO).seal(b"x", "label")
    slots = keys.slot(ONE), keys.slot(TWO)
    again = RoundKeys(path, KEY)
    again.take_again(ONE, slots[0])
    with pytest.raises(StoreError):
        again.make(bytes([3] * 16)).unseal(lost, "label")
    again.renew_others()
    assert again.take_again(ONE, slots[0]).unseal(kept, "label") == b"x"
    with pytest.raises(StoreError):
        again.take_again(TWO, slots[1]).unseal(lost, "label")


def test_the_file_is_private_and_opens_under_its_storage_key_alone(path: Path) -> None:
    keys = RoundKeys(path, KEY)
    keys.make(ONE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(StoreError) as caught:
        RoundKeys(path, OTHER).take_again(ONE, keys.slot(ONE))
    assert caught.value.reason == "unsealable"


def test_a_key_moved_to_another_slot_does_not_open(path: Path) -> None:
    keys = RoundKeys(path, KEY)
    keys.make(ONE)
    slot = keys.slot(ONE)
    content = path.read_bytes()
    mine = content[slot * SLOT :][:SLOT]
    path.write_bytes(mine * (len(content) // SLOT))
    keys = RoundKeys(path, KEY)
    keys.take_again(ONE, slot)
    with pytest.raises(StoreError, match=f"slot {slot - 1}'"):
        keys.take_again(TWO, slot - 1)


def test_a_slot_that_is_not_there_is_an_error(path: Path) -> None:
    with pytest.raises(StoreError):
        RoundKeys(path, KEY).take_again(ONE, 5)


def test_destroying_writes_over_the_bytes_of_the_key(path: Path) -> None:
    keys = RoundKeys(path, KEY)
    keys.make(ONE)
    before = path.read_bytes()[keys.slot(ONE) * SLOT :][:60]
    keys.destroy(ONE)
    assert before not in path.read_bytes()


def test_slots_are_used_again_and_the_file_grows_no_more_than_it_must(path: Path) -> None:
    keys = RoundKeys(path, KEY)
    for number in range(200):
        round_id = number.to_bytes(16, "big")
        keys.make(round_id)
        keys.destroy(round_id)
    assert path.stat().st_size == 32 * SLOT
    many = [bytes([7, number]) + bytes(14) for number in range(100)]
    for round_id in many:
        keys.make(round_id)
    assert keys.rounds() == sorted(many)
    assert len({keys.slot(one) for one in many}) == 100


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
        assert RoundKeys(path, KEY).take_again(round_id, keys.slot(round_id)).unseal(sealed, "label") == b"x"


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="Is a directory"):
        RoundKeys(tmp_path, KEY)
