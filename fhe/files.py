"""Files of the library: they appear whole or not at all, and what is secret is for its owner alone.

As in `pki.files`, which this library does not know: temporary file in the same directory, fsync, link or rename.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from fhe.errors import InputError

PRIVATE, PUBLIC = 0o600, 0o644


def write_file(path: Path, data: bytes, *, mode: int = PUBLIC, force: bool = False) -> None:
    """Put `data` at `path` atomically and durably, with `mode` from its first moment.

    Without `force` a file that is there stays there. Raises InputError.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)  # the process's umask may have taken bits away
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            put(temporary, path, force=force)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritten(path, error) from error


def put(temporary: Path, path: Path, *, force: bool = False) -> None:
    """Give the finished file `temporary` its name. Raises InputError."""
    try:
        if force:
            temporary.replace(path)
        else:
            path.hardlink_to(temporary)  # unlike a rename, this fails when the name is taken
            temporary.unlink()
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except FileExistsError as error:
        raise InputError(f"{path} exists already and is not overwritten; use another place, or remove it first") from error
    except OSError as error:
        raise _unwritten(path, error) from error


def make_directory(path: Path) -> None:
    """Create `path` and its parents where missing, `path` itself for the owner alone. Raises InputError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritten(path, error) from error


def read_file(path: Path, limit: int) -> bytes:
    """The bytes of the file at `path`, at most `limit`. Raises InputError."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; check the path") from error
    if len(data) > limit:
        raise InputError(f"{path} is larger than {limit} bytes, so it is not what is read here; check the path")
    return data


def _unwritten(path: Path, error: OSError) -> InputError:
    return InputError(f"cannot write {path}: {error.strerror}")
