"""What is too large for the database lies beside it, each piece in a file of its own, for as long as its round is open.

A million values take ten times longer through an SQLite log, page by page, than into a file, and once more when they are deleted.
A file is on the disk before the transaction that names it, and is removed after the one that forgets it; in between, and after a
crash, there may be files that nobody names. What they hold is sealed under the key of its round, or to another node.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from nodes.store.base import StoreError

LARGE_BYTES = 256 * 1024
"""What is longer is kept in a file."""


class LargePieces:
    """A directory of files, named by number. For one thread. Made when the first piece is kept."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def keep(self, piece: bytes) -> int:
        """Its number, when it is on the disk. Raises StoreError."""
        number = secrets.randbits(63)
        path = self._path(number)
        try:
            if not self._directory.is_dir():
                self._directory.mkdir(mode=0o700)
                _sync(self._directory.parent)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                left = memoryview(piece)
                while left:
                    left = left[os.write(descriptor, left) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            _sync(self._directory)
        except OSError as error:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            raise self._failed("write", error) from error
        return number

    def read(self, number: int) -> bytes:
        """The piece; empty when it is lost, which opens under no key. Raises StoreError when the disk does not answer."""
        try:
            return self._path(number).read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise self._failed("read", error) from error

    def keep_only(self, numbers: Collection[int]) -> None:
        """Removes every other. Raises StoreError."""
        wanted = {self._path(number).name for number in numbers}
        try:
            for path in list(self._directory.iterdir()):
                if path.name not in wanted:
                    path.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._failed("remove from", error) from error

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:016x}"

    def _failed(self, what: str, error: OSError) -> StoreError:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        reason = "disk-full" if full else "read-only" if error.errno == errno.EROFS else "disk"
        return StoreError(reason, f"cannot {what} {self._directory}: {error.strerror}")


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
