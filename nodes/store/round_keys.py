"""A key for each open round, outside the database: whoever destroys it has erased all that the round kept.

All keys lie in one file of fixed slots that are written over in place, so that making and destroying a key is one write and one
fdatasync. (A file for each would cost some journal commits of the file system a round: more than the round itself.)

    slot, 128 bytes:  16 round id   60 the key, sealed under the storage key with the id as its label   52 zeros;  free: 128 zeros

A slot lies within one sector, which disks write whole or not at all; a slot that does not open is no key. What is left of an
overwritten slot on flash storage, in snapshots and in backups is out of reach of any program.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mpc.errors import IdentityError
from nodes.store.base import StoreError
from nodes.store.sealing import KEY_BYTES, NONCE_BYTES, TAG_BYTES, SealingKey, StorageKey, failed

_ID_BYTES = 16
_SEALED_BYTES = NONCE_BYTES + KEY_BYTES + TAG_BYTES
_SLOT_BYTES = 128
_GROW_SLOTS = 32


class RoundKeys:
    """The keys of the open rounds. The methods wait for the disk, some tenths of a millisecond, and raise StoreError."""

    def __init__(self, path: Path, storage_key: StorageKey) -> None:
        """Opens the file, or makes it, mode 0600. Raises IdentityError when it cannot be used."""
        self._path = path
        self._storage_key = storage_key
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise IdentityError(f"cannot write {path}: {error.strerror}; give its directory to uid {os.geteuid()}") from error
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            os.close(self._file)
            raise IdentityError(f"{path} is not a file; remove it")
        self._slots: dict[bytes, int] = {}
        self._free: list[int] = []
        try:
            content = os.pread(self._file, os.fstat(self._file).st_size, 0)
        except OSError as error:
            raise IdentityError(f"cannot read {path}: {error.strerror}; check the disk") from error
        self._count = len(content) // _SLOT_BYTES
        for slot in range(self._count):
            round_id = content[slot * _SLOT_BYTES :][:_ID_BYTES]
            if any(round_id):
                self._slots[round_id] = slot
            else:
                self._free.append(slot)

    def make(self, round_id: bytes) -> SealingKey:
        """A key for a round (16 bytes, not all zero), on the disk when this returns.

        A key that a crash left behind before its round began is taken again: nothing durable was sealed under it, or else the
        same round was.
        """
        try:
            return self.get(round_id)
        except StoreError as error:
            if error.reason not in {"no-key", "unsealable"}:
                raise
        key = os.urandom(KEY_BYTES)
        slot = self._slots.get(round_id)
        if slot is None:
            slot = self._take_slot()
        sealed = self._storage_key.seal(key, _label(round_id))
        self._slots[round_id] = slot  # taken even if the write fails half-way: what is in it then is no key, and is written over
        self._write(slot, (round_id + sealed).ljust(_SLOT_BYTES, b"\0"))
        return SealingKey(key)

    def get(self, round_id: bytes) -> SealingKey:
        """The key of a round. Raises StoreError with reason "no-key" when there is none (any more)."""
        slot = self._slots.get(round_id)
        if slot is None:
            raise StoreError("no-key", f"{self._path} has no key of the round {round_id.hex()}")
        try:
            content = os.pread(self._file, _SLOT_BYTES, slot * _SLOT_BYTES)
        except OSError as error:
            raise failed(error, f"cannot read {self._path}: {error.strerror}") from error
        return SealingKey(self._storage_key.unseal(content[_ID_BYTES : _ID_BYTES + _SEALED_BYTES], _label(round_id)))

    def destroy(self, round_id: bytes) -> None:
        """Writes over a round's key; no effect when there is none."""
        slot = self._slots.get(round_id)
        if slot is not None:
            self._write(slot, bytes(_SLOT_BYTES))
            del self._slots[round_id]
            self._free.append(slot)

    def all(self) -> list[bytes]:
        """The ids of the rounds that have a key, sorted."""
        return sorted(self._slots)

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self._file)

    def _take_slot(self) -> int:
        if not self._free:
            self._write(self._count, bytes(_GROW_SLOTS * _SLOT_BYTES))
            self._free.extend(reversed(range(self._count, self._count + _GROW_SLOTS)))
            self._count += _GROW_SLOTS
        return self._free.pop()

    def _write(self, slot: int, content: bytes) -> None:
        try:
            os.pwrite(self._file, content, slot * _SLOT_BYTES)
            os.fdatasync(self._file)
        except OSError as error:
            raise failed(error, f"cannot write {self._path}: {error.strerror}") from error


def _label(round_id: bytes) -> str:
    return f"key of round {round_id.hex()}"
