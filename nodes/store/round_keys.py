"""A key for each open round, outside the database: whoever destroys it has erased all that the round kept.

All keys lie in one file of slots. Each slot has a key at any time, made before a round needs it, so that no round waits for the
disk twice; a round takes a slot, the store keeps which one with what it seals under that key, and when the round has ended the
slot is written over with a new key. (A file for each key would cost some journal commits of the file system a round.)

    slot, 64 bytes:  60 the key, sealed under the storage key with the slot's number as its label   4 zeros

A slot lies within one sector, which disks write whole or not at all; a slot that does not open is no key. What is left of an
overwritten slot on flash storage, in snapshots and in backups is out of reach of any program.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from mpc.errors import IdentityError
from nodes.store.sealing import KEY_BYTES, NONCE_BYTES, TAG_BYTES, SealingKey, StorageKey, failed

_SEALED_BYTES = NONCE_BYTES + KEY_BYTES + TAG_BYTES
_SLOT_BYTES = 64
_GROW_SLOTS = 32


class RoundKeys:
    """The keys of the open rounds. What writes waits for the disk, some tenths of a millisecond, and may raise StoreError."""

    def __init__(self, path: Path, storage_key: StorageKey) -> None:
        """Opens the file, or makes it, mode 0600. Raises IdentityError when it cannot be used."""
        self._path = path
        self._storage_key = storage_key
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise IdentityError(f"cannot write {path}: {error.strerror}; give its directory to uid {os.geteuid()}") from error
        status = os.fstat(self._file)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._file)
            raise IdentityError(f"{path} is not a file; remove it")
        self._count = status.st_size // _SLOT_BYTES
        self._taken: dict[bytes, int] = {}
        self._spare: list[int] = []
        """Slots whose keys have sealed nothing. Those of an earlier life are not among them: see `renew_others`."""

    def make(self, round_id: bytes) -> SealingKey:
        """A key for a round that begins. No wait for the disk but when more rounds are open than ever."""
        if round_id not in self._taken:
            if not self._spare:
                self._grow()
            self._taken[round_id] = self._spare.pop()
        return self._read(self._taken[round_id])

    def slot(self, round_id: bytes) -> int:
        """Where the key of a round is: what `take_again` wants to know in another life."""
        return self._taken[round_id]

    def take_again(self, round_id: bytes, slot: int) -> SealingKey:
        """The key of a round that goes on. Raises StoreError "unsealable" when there is none, or no longer that one."""
        key = self._read(slot)
        self._taken[round_id] = slot
        return key

    def destroy(self, round_id: bytes) -> None:
        """Writes over a round's key; no effect when it has none."""
        slot = self._taken.get(round_id)
        if slot is not None:
            self._renew([slot])
            del self._taken[round_id]

    def renew_others(self) -> None:
        """Writes over every key that no round has taken since the file was opened: some are of rounds that have ended."""
        self._renew([slot for slot in range(self._count) if slot not in set(self._taken.values())])

    def rounds(self) -> list[bytes]:
        """The ids of the rounds that have a key, sorted."""
        return sorted(self._taken)

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self._file)

    def _grow(self) -> None:
        new = range(self._count, self._count + _GROW_SLOTS)
        self._renew(new)
        self._count = new.stop

    def _renew(self, slots: Sequence[int]) -> None:
        try:
            for slot in slots:
                sealed = self._storage_key.seal(os.urandom(KEY_BYTES), _label(slot))
                os.pwrite(self._file, sealed.ljust(_SLOT_BYTES, b"\0"), slot * _SLOT_BYTES)
            os.fdatasync(self._file)
        except OSError as error:
            raise failed(error, f"cannot write {self._path}: {error.strerror}") from error
        self._spare.extend(slots)

    def _read(self, slot: int) -> SealingKey:
        try:
            content = os.pread(self._file, _SEALED_BYTES, slot * _SLOT_BYTES)
        except OSError as error:
            raise failed(error, f"cannot read {self._path}: {error.strerror}") from error
        return SealingKey(self._storage_key.unseal(content, _label(slot)))


def _label(slot: int) -> str:
    return f"round key in slot {slot}"
