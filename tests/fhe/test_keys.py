"""Secret keys on a disk: sealed, for their owner alone, and bound to their model and id."""

from __future__ import annotations

import stat
from pathlib import Path

import msgspec
import pytest

from fhe.bundle import Bundle
from fhe.envelope import split_header
from fhe.errors import InputError, Refused, Why
from fhe.keys import SecretKeys
from nodes.store.base import StoreError
from nodes.store.sealing import StorageKey
from tests.fhe.house import DESCRIPTION, TRUST, make_up, secret_keys

MODEL = Bundle.open(make_up(), TRUST)
OTHER = Bundle.open(make_up(msgspec.structs.replace(DESCRIPTION, id="other")), TRUST)
SECRET = b"the secret of a set of keys, which is long enough to be found"
EVALUATION = bytes(range(256)) * 3


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def add(keys: SecretKeys, bundle: Bundle = MODEL) -> str:
    identifier, place = keys.new()
    place.write_bytes(EVALUATION)
    keys.add(bundle, identifier, SECRET, place)
    return identifier


def test_a_secret_comes_back_and_its_evaluation_key_is_ready_to_be_sent(directory: Path) -> None:
    keys = secret_keys(directory)
    identifier = add(keys)
    assert keys.secret(MODEL, identifier) == SECRET
    data = keys.path(identifier).read_bytes()
    found = split_header(data)
    assert found is not None
    header, at = found
    assert (header.kind, header.model, header.key, header.sizes) == ("key", MODEL.hash, identifier, (len(EVALUATION),))
    assert data[at:] == EVALUATION


def test_nobody_else_reads_the_secret_and_no_file_holds_it(directory: Path) -> None:
    identifier = add(secret_keys(directory))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / f"{identifier}.secret").stat().st_mode) == 0o600
    files = sorted(directory.iterdir())
    assert [file.name for file in files] == [f"{identifier}.key", f"{identifier}.secret"]  # and no scratch file is left
    assert not any(SECRET[:16] in file.read_bytes() for file in files)


def test_a_secret_that_others_can_read_is_not_used(directory: Path) -> None:
    keys = secret_keys(directory)
    identifier = add(keys)
    (directory / f"{identifier}.secret").chmod(0o640)
    with pytest.raises(InputError, match="chmod 600"):
        keys.secret(MODEL, identifier)


def test_another_storage_key_opens_nothing(directory: Path) -> None:
    identifier = add(secret_keys(directory))
    with pytest.raises(StoreError):
        SecretKeys(directory, StorageKey(bytes(32))).secret(MODEL, identifier)


def test_a_secret_under_another_name_does_not_open(directory: Path) -> None:
    keys = secret_keys(directory)
    one, two = add(keys), add(keys)
    (directory / f"{one}.secret").replace(directory / f"{two}.secret")
    with pytest.raises(Refused):
        keys.secret(MODEL, two)


def test_a_secret_whose_header_was_rewritten_does_not_open(directory: Path) -> None:
    keys = secret_keys(directory)
    one, two = add(keys), add(keys)
    moved = (directory / f"{one}.secret").read_bytes().replace(one.encode(), two.encode())
    (directory / f"{two}.secret").write_bytes(moved)
    with pytest.raises(StoreError):  # the name is part of what was sealed
        keys.secret(MODEL, two)


def test_a_key_of_another_model_is_a_mismatch(directory: Path) -> None:
    keys = secret_keys(directory)
    identifier = add(keys, OTHER)
    with pytest.raises(Refused) as caught:
        keys.secret(MODEL, identifier)
    assert caught.value.why is Why.MISMATCH


@pytest.mark.parametrize("identifier", ["0" * 32, "../../x", "", "Z" * 32, "/etc/passwd"])
def test_a_set_that_is_not_there_is_no_key(directory: Path, identifier: str) -> None:
    keys = secret_keys(directory)
    add(keys)
    with pytest.raises(Refused) as caught:
        keys.secret(MODEL, identifier)
    assert caught.value.why is Why.NO_KEY


def test_a_damaged_secret_is_told_as_such(directory: Path) -> None:
    keys = secret_keys(directory)
    identifier = add(keys)
    file = directory / f"{identifier}.secret"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(Refused) as caught:
        keys.secret(MODEL, identifier)
    assert caught.value.why is Why.DAMAGED


def test_the_newest_set_of_the_model_is_the_one_that_is_meant(directory: Path) -> None:
    import os

    keys = secret_keys(directory)
    old, new = add(keys), add(keys)
    add(keys, OTHER)
    os.utime(directory / f"{old}.secret", (1, 1))
    assert keys.only(MODEL) == new
    assert {one.header.key for one in keys.sets()} >= {old, new}


def test_an_erased_set_leaves_no_file(directory: Path) -> None:
    keys = secret_keys(directory)
    identifier = add(keys)
    keys.erase(identifier)
    assert list(directory.iterdir()) == []
    with pytest.raises(Refused):
        keys.erase(identifier)


def test_nothing_prints_what_is_secret(directory: Path) -> None:
    keys = secret_keys(directory)
    add(keys)
    assert SECRET.decode() not in repr(keys) + repr(list(keys.sets()))
