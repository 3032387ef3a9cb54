"""A client's sets of keys: the secret sealed and for its owner alone, the evaluation key beside it, ready to be sent.

    KEYS/ID.secret    header ‖ secret, sealed under the caller's storage key (AES-256-GCM); mode 0600
    KEYS/ID.key       header ‖ evaluation key; public, and needed here only until the service has it

Both headers name the model and the set (`fhe.envelope`). The label that the secret is sealed under names them too, so that a
sealed secret that was moved to another name or model does not open.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fhe.bundle import Bundle
from fhe.envelope import Header, check_fits, make_header, split_header, write_header
from fhe.errors import InputError, Refused, Why
from fhe.files import PRIVATE, make_directory, put, read_file, write_file

_SECRET, _KEY = ".secret", ".key"
_MAX_SECRET = 1024 * 1024 * 1024
_CHUNK = 1024 * 1024


class Sealer(Protocol):
    """Seals what lies on a disk. `nodes.store.sealing.StorageKey` is one."""

    def seal(self, data: bytes, label: str) -> bytes:
        """`data`, encrypted and authenticated together with `label`."""
        ...

    def unseal(self, sealed: bytes, label: str) -> bytes:
        """What was sealed under `label`. Raises when it was not, or was altered."""
        ...


@dataclass(frozen=True, slots=True)
class KeySet:
    """What a directory of keys has of one set."""

    header: Header
    """Of the secret."""
    created: float
    """Unix seconds."""
    uploadable: bool
    """Whether the evaluation key is still beside it."""


class SecretKeys:
    """The sets of keys in a directory, which is made when it is missing."""

    def __init__(self, directory: Path, sealer: Sealer) -> None:
        self._directory = directory
        self._sealer = sealer

    def __repr__(self) -> str:
        return f"<SecretKeys in {self._directory}>"

    def sets(self) -> Iterator[KeySet]:
        """All of them, by id. Raises InputError."""
        try:
            paths = sorted(self._directory.glob(f"*{_SECRET}"))
        except OSError as error:
            raise InputError(f"cannot look into {self._directory}: {error.strerror}") from error
        for path in paths:
            header, _ = self._read(path.stem)
            yield KeySet(header, path.stat().st_mtime, path.with_suffix(_KEY).exists())

    def new(self) -> tuple[str, Path]:
        """A fresh id, and where a worker shall put the evaluation key before `add`. Raises InputError."""
        make_directory(self._directory)
        identifier = secrets.token_hex(16)
        return identifier, self._directory / f".{identifier}.tmp"

    def add(self, bundle: Bundle, identifier: str, secret: bytes, evaluation: Path) -> Path:
        """Keep a new set: the sealed secret, and the file to be sent, whose path is returned. `evaluation` is moved into it."""
        sealed = self._sealer.seal(secret, _label(bundle.hash, identifier))
        header = make_header("secret", bundle, identifier, [len(sealed)], hashlib.sha256(sealed).hexdigest())
        target = self.path(identifier)
        with_header = target.with_name(f".{target.name}.tmp")
        try:
            with evaluation.open("rb") as source:
                digest = hashlib.file_digest(source, "sha256").hexdigest()
                source.seek(0)
                with with_header.open("wb") as file:
                    file.write(write_header(make_header("key", bundle, identifier, [evaluation.stat().st_size], digest)))
                    shutil.copyfileobj(source, file, _CHUNK)
                    file.flush()
                    os.fsync(file.fileno())
            # The secret first: an evaluation key whose secret is lost would be of no use.
            write_file(self._directory / f"{identifier}{_SECRET}", write_header(header) + sealed, mode=PRIVATE)
            put(with_header, target)
        except OSError as error:
            raise InputError(f"cannot write {target}: {error.strerror}") from error
        finally:
            evaluation.unlink(missing_ok=True)
            with_header.unlink(missing_ok=True)
        return target

    def path(self, identifier: str) -> Path:
        """Of the file to be sent."""
        return self._directory / f"{identifier}{_KEY}"

    def secret(self, bundle: Bundle, identifier: str) -> bytes:
        """The secret of a set for the bundle's model.

        Raises Refused when it is not here or of another model, InputError when others can read it, and what the sealer raises.
        """
        header, sealed = self._read(identifier)
        check_fits(header, bundle, "secret")
        return self._sealer.unseal(sealed, _label(header.model, header.key))

    def only(self, bundle: Bundle) -> str:
        """The id of the newest set for the bundle's model. Raises Refused when there is none."""
        fitting = [one for one in self.sets() if one.header.model == bundle.hash]
        if not fitting:
            raise Refused(Why.NO_KEY, f"there is no key for {bundle.model.id} in {self._directory}; make one with 'keygen'")
        return max(fitting, key=lambda one: one.created).header.key

    def erase(self, identifier: str) -> None:
        """Delete a set: nothing that was encrypted under it is ever decrypted again. Raises Refused, InputError."""
        path = self._directory / f"{identifier}{_SECRET}"
        self._read(identifier)
        try:
            path.unlink()
            path.with_suffix(_KEY).unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"cannot erase {path}: {error.strerror}") from error

    def _read(self, identifier: str) -> tuple[Header, bytes]:
        path = self._directory / f"{identifier}{_SECRET}"
        if len(identifier) != 32 or not set(identifier) <= set("0123456789abcdef") or not path.is_file():
            raise Refused(Why.NO_KEY, f"there is no secret key {identifier[:32]} in {self._directory}; see 'keys list'")
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise InputError(f"{path} holds a secret and others can read it; run: chmod 600 {path}")
        data = read_file(path, _MAX_SECRET)
        found = split_header(data)
        if found is None or found[0].kind != "secret" or found[0].key != identifier or len(data) - found[1] != found[0].size:
            raise Refused(Why.DAMAGED, f"{path} is damaged; bring it back from a copy")
        return found[0], data[found[1] :]


def _label(model: str, identifier: str) -> str:
    return f"fhe/{model}/{identifier}"


def discard(path: Path) -> None:
    """Delete a file that is no longer needed, if it can be."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
