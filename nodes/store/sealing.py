"""What is secret on a disk is sealed: under the node's storage key, or under a key of its round that dies with the round.

    sealed = 12-byte random nonce ‖ AES-256-GCM ciphertext ‖ 16-byte tag        (NIST SP 800-38D; at most 2^32 of them a key)

The label (which table, round and column) is associated data, so that a sealed value moved to another place does not open.
A round's key lives in a file outside the database: when that is destroyed, what the database, its log or a backup of it still
holds of the round cannot be read any more. A backup of the key files, a snapshot or the spare blocks of a flash disk may keep a
key; that is beyond a program's reach.
"""

from __future__ import annotations

import binascii
import errno
import hmac
import os
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mpc.errors import IdentityError
from nodes.store.base import StoreError
from pki.files import PRIVATE, is_there, read_secret, write_file

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
CREDENTIAL = "storage-key"
"""Name of the file in `$CREDENTIALS_DIRECTORY` (systemd.exec, LoadCredential=)."""

_FITS = "the storage key fits this store"
_AUDIT = b"cohortium/v1/audit"


class SealingKey:
    """Seals and opens under one key. Does not print, compare or pickle its key."""

    __slots__ = ("_aead",)

    def __init__(self, key: bytes) -> None:
        assert len(key) == KEY_BYTES, "a sealing key has 32 bytes"
        self._aead = AESGCM(key)

    def seal(self, data: bytes, label: str) -> bytes:
        """`data` under this key and `label`; 28 bytes longer than `data`."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, data, label.encode())

    def unseal(self, sealed: bytes, label: str) -> bytes:
        """What was sealed. Raises StoreError when it was sealed under another key or label, or has been altered."""
        nonce, ciphertext = sealed[:NONCE_BYTES], memoryview(sealed)[NONCE_BYTES:]
        try:
            if len(sealed) < NONCE_BYTES + TAG_BYTES:
                raise InvalidTag
            return self._aead.decrypt(nonce, ciphertext, label.encode())
        except InvalidTag:
            raise StoreError(
                "unsealable", f"what the store holds as '{label}' does not open: it is damaged, or another key sealed it"
            ) from None


class StorageKey(SealingKey):
    """The node's own sealing key."""

    __slots__ = ("_mac_key",)

    def __init__(self, key: bytes) -> None:
        super().__init__(key)
        self._mac_key = HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=_AUDIT).derive(key)

    @classmethod
    def load(cls, path: Path | None, credentials_directory: Path | None) -> StorageKey:
        """The key of `credentials_directory` if it holds one, or else that of the file at `path`: 32 bytes, plain or in base64.

        Raises IdentityError when neither is there, when others may read the file, or when it is not a key.
        """
        credential = None if credentials_directory is None else credentials_directory / CREDENTIAL
        if credential is not None and is_there(credential):
            return cls(_key(credential, read_secret(credential)))
        if path is None:
            raise IdentityError(
                f"no storage key: name its file in the configuration, or give the service LoadCredential={CREDENTIAL}:FILE"
            )
        if not is_there(path):
            raise IdentityError(
                f"the storage key {path} does not exist; bring it back from where its copy is kept: nothing else opens this "
                f"node's store. (A new node makes its key when it first starts; with a PostgreSQL store, make it with: "
                f"umask 077; openssl rand -out {path} {KEY_BYTES})"
            )
        return cls(_key(path, read_secret(path)))

    def mac(self, data: bytes) -> bytes:
        """HMAC-SHA-256 (RFC 2104) under a key of this one (HKDF, RFC 5869): for the audit log."""
        return hmac.digest(self._mac_key, data, "sha256")

    def proof(self) -> bytes:
        """What a store keeps so that `check` can tell this key from others."""
        return self.seal(b"", _FITS)

    def check(self, proof: bytes, where: str) -> None:
        """Raises IdentityError when `proof`, found in the store at `where`, was not made by this key."""
        try:
            self.unseal(proof, _FITS)
        except StoreError:
            raise IdentityError(
                f"the storage key does not fit this store ({where}); bring back the key that the store was made with, or give "
                f"the node a new state directory: without its key a store cannot be read"
            ) from None


def make_storage_key(path: Path) -> None:
    """Writes a new storage key to a file of mode 0600 that does not exist yet. Raises IdentityError."""
    write_file(path, binascii.b2a_base64(os.urandom(KEY_BYTES)), mode=PRIVATE, force=False)


def credentials_directory(environment: Mapping[str, str]) -> Path | None:
    """What systemd gave the service, if it did: `$CREDENTIALS_DIRECTORY`."""
    name = environment.get("CREDENTIALS_DIRECTORY")
    return Path(name) if name else None


def failed(cause: BaseException | None, text: str) -> StoreError:
    """The StoreError for a file of keys that could not be read or written."""
    full = isinstance(cause, OSError) and cause.errno in {errno.ENOSPC, errno.EDQUOT}
    return StoreError("disk-full" if full else "key-file", text)


def _key(path: Path, content: bytes) -> bytes:
    if len(content) == KEY_BYTES:
        return content
    try:
        key = binascii.a2b_base64(content.strip(), strict_mode=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        # Nothing of the content is told: it may be most of a key.
        raise IdentityError(
            f"{path} is not a storage key: it must hold {KEY_BYTES} bytes, plain or in base64; bring back the key that the "
            f"store was made with, or for a new node make one with: openssl rand -out {path} {KEY_BYTES}"
        )
    return key
