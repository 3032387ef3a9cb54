"""Notices a store that was restored from a backup: the counter of the last commit, in a small file outside the database.

    file = slot ‖ slot        slot = counter, 8 bytes big-endian ‖ first 8 bytes of SHA-256 of the same

The file is written after the commit, so that a crash between the two leaves the store ahead; only a store put back to an earlier
state is behind. The file must not be in the backup that brings the store back: two copies of one moment agree.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct
from pathlib import Path
from typing import Literal

from mpc.errors import ConfigError
from nodes.store.base import StoreError

_SLOT = struct.Struct(">Q8s")


def _check(counter: int) -> bytes:
    return hashlib.sha256(counter.to_bytes(8, "big")).digest()[:8]


class BackupGuard:
    """The counter file."""

    def __init__(self, path: Path) -> None:
        """Opens the file, or makes it empty, mode 0600. Raises ConfigError when it cannot."""
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}; give its directory to uid {os.geteuid()}") from error
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            self.close()
            raise ConfigError(f"{path} is not a file; remove it")
        self._path = path

    def check(self, store_counter: int) -> Literal["same", "ahead", "behind"]:
        """Where the store stands against this file.

        "same", or "ahead": all is well (a crash came between a commit and this file); `keep` the store's counter.
        "behind": the store is older than this file, or the file is missing though the store is not new. Burn the open rounds,
        then `keep` the store's counter.
        """
        kept = self._read()
        if kept is None:
            return "behind" if store_counter else "same"
        if kept == store_counter:
            return "same"
        return "ahead" if kept < store_counter else "behind"

    def keep(self, counter: int, *, wait: bool = False) -> None:
        """Writes the counter of a commit. Raises StoreError.

        It waits for the disk only when told to. What a power cut takes away before the system has written it leaves the store
        ahead, as a crash does.
        """
        try:
            os.pwrite(self._descriptor, _SLOT.pack(counter, _check(counter)) * 2, 0)
            if wait:
                os.fdatasync(self._descriptor)
        except OSError as error:
            reason = "disk-full" if error.errno in {errno.ENOSPC, errno.EDQUOT} else "counter-file"
            raise StoreError(reason, f"cannot write {self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Lets go of the file; later calls fail."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _read(self) -> int | None:
        try:
            content = os.pread(self._descriptor, 2 * _SLOT.size, 0)
        except OSError as error:
            raise StoreError("counter-file", f"cannot read {self._path}: {error.strerror}") from error
        whole = content[: len(content) // _SLOT.size * _SLOT.size]
        # A torn write spoils one of the two slots; where both are whole and differ, the later commit counts.
        return max((counter for counter, check in _SLOT.iter_unpack(whole) if check == _check(counter)), default=None)
