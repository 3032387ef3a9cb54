"""Keys: where they are read from, what they seal, and that a destroyed one is gone."""

from __future__ import annotations

import base64
import pickle
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mpc.errors import IdentityError
from nodes.store.base import StoreError
from nodes.store.sealing import SealingKey, StorageKey, credentials_directory, make_storage_key

RAW = bytes(range(100, 132))
OTHER = StorageKey(bytes(32))


def key_file(directory: Path, content: bytes, mode: int = 0o600, name: str = "node.storage-key") -> Path:
    path = directory / name
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_sealed_value_is_aes_256_gcm_with_its_label() -> None:
    sealed = SealingKey(RAW).seal(b"seventy-two", "events/1")
    assert AESGCM(RAW).decrypt(sealed[:12], sealed[12:], b"events/1") == b"seventy-two"
    assert len(sealed) == len(b"seventy-two") + 28


def test_what_is_sealed_opens_and_never_looks_the_same() -> None:
    key = SealingKey(RAW)
    assert key.unseal(key.seal(b"", "label"), "label") == b""
    assert key.seal(b"x", "label") != key.seal(b"x", "label")


@pytest.mark.parametrize("length", [0, 11, 27, 28, 38])
def test_a_sealed_value_that_was_cut_does_not_open(length: int) -> None:
    key = SealingKey(RAW)
    with pytest.raises(StoreError, match="'label' does not open"):
        key.unseal(key.seal(b"seventy-two", "label")[:length], "label")


def test_another_label_another_key_or_another_bit_does_not_open() -> None:
    key = SealingKey(RAW)
    sealed = key.seal(b"seventy-two", "label")
    with pytest.raises(StoreError, match="'another' does not open"):
        key.unseal(sealed, "another")
    with pytest.raises(StoreError):
        OTHER.unseal(sealed, "label")
    for place in (0, 12, len(sealed) - 1):
        altered = bytearray(sealed)
        altered[place] ^= 1
        with pytest.raises(StoreError):
            key.unseal(bytes(altered), "label")


def test_keys_do_not_print() -> None:
    key = SealingKey(RAW)
    assert RAW.hex() not in repr(key)
    assert repr(RAW) not in repr(key)
    with pytest.raises(TypeError):
        pickle.dumps(key)


@pytest.mark.parametrize("content", [RAW, base64.b64encode(RAW), base64.b64encode(RAW) + b"\n"], ids=["raw", "base64", "line"])
def test_a_storage_key_is_32_bytes_raw_or_in_base64(tmp_path: Path, content: bytes) -> None:
    key = StorageKey.load(key_file(tmp_path, content), None)
    assert SealingKey(RAW).unseal(key.seal(b"x", "label"), "label") == b"x"


def test_a_made_key_is_private_can_be_loaded_and_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "key"
    make_storage_key(path)
    content = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(base64.b64decode(content)) == 32
    StorageKey.load(path, None)
    with pytest.raises(IdentityError, match="exists already"):
        make_storage_key(path)
    assert path.read_bytes() == content
    other = tmp_path / "other"
    make_storage_key(other)
    assert other.read_bytes() != content


def test_the_service_managers_credential_comes_first(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    path = key_file(tmp_path, bytes(32))
    sealed = SealingKey(RAW).seal(b"x", "label")
    with pytest.raises(StoreError):
        StorageKey.load(path, credentials).unseal(sealed, "label")
    key_file(credentials, RAW, 0o400, "storage-key")
    assert StorageKey.load(path, credentials).unseal(sealed, "label") == b"x"
    assert StorageKey.load(None, credentials).unseal(sealed, "label") == b"x"


def test_the_environment_names_the_credentials() -> None:
    assert credentials_directory({"CREDENTIALS_DIRECTORY": "/run/credentials/x"}) == Path("/run/credentials/x")
    assert credentials_directory({"CREDENTIALS_DIRECTORY": ""}) is None
    assert credentials_directory({}) is None


def test_no_key_at_all_says_where_one_may_be(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="LoadCredential=storage-key:FILE"):
        StorageKey.load(None, tmp_path)


def test_a_missing_key_says_how_it_is_made_and_what_is_lost(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="gone does not exist; bring it back from where its copy is kept"):
        StorageKey.load(tmp_path / "gone", None)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=r"others can use it \(mode 0640\); run: chmod 600"):
        StorageKey.load(key_file(tmp_path, RAW, 0o640), None)


@pytest.mark.parametrize(
    "content",
    [b"", RAW[:31], RAW + b"\n", base64.b64encode(RAW[:31]), base64.b64encode(RAW)[:-2], b"\xff" * 44, b"A" * 64],
    ids=["empty", "short", "newline", "short-base64", "cut-base64", "not-base64", "long"],
)
def test_what_is_no_key_is_refused_without_a_word_of_it(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(IdentityError, match="is not a storage key: it must hold 32 bytes") as caught:
        StorageKey.load(key_file(tmp_path, content), None)
    assert len(content) < 31 or (content.hex() not in str(caught.value) and repr(content)[2:-1] not in str(caught.value))


def test_a_proof_tells_its_own_key_from_others() -> None:
    key = StorageKey(RAW)
    key.check(key.proof(), "here")
    with pytest.raises(IdentityError, match=r"the storage key does not fit this store \(here\)"):
        OTHER.check(key.proof(), "here")
