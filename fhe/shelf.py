"""A service's evaluation keys: taken in as they arrive, checked before anybody computes with them, kept within limits.

    SHELF/MODEL.KEY.evaluation    the payload, without its header
    SHELF/MODEL.KEY.json          who sent it, when, and the SHA-256 of what was sent

An evaluation key is large, and is sent by whoever may ask a model. So its header is judged before its payload is taken, it goes
to the disk piece by piece, and it gets its name only when its digest holds and a worker of its own has tried it.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from fhe.bundle import Bundle, Struct
from fhe.envelope import Header, check_fits, split_header
from fhe.errors import InputError, Refused, Why
from fhe.files import make_directory, put, write_file
from fhe.keys import discard
from fhe.pool import Key

_CHUNK = 1024 * 1024
_NAME = re.compile(r"(?P<model>[0-9a-f]{64})\.(?P<key>[0-9a-f]{32})\.json", re.ASCII)


class Kept(Struct, frozen=True, kw_only=True):
    """What is known of a key on the shelf."""

    model: str
    key: str
    owner: str
    """Whoever sent it, and alone may use it."""
    size: int
    """Bytes of the payload."""
    sha256: str
    """Of what was sent, header and payload: the name it was sent under."""
    received: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a shelf takes."""

    per_owner: int = 4 * 1024**3
    """Bytes."""
    total: int = 64 * 1024**3
    """Bytes."""
    age: float = 90 * 86400.0
    """Seconds after which a key is erased."""


class Shelf:
    """The evaluation keys in a directory, which is made when it is missing."""

    def __init__(self, directory: Path, limits: Limits) -> None:
        make_directory(directory)
        self._directory = directory
        self.limits = limits
        self._kept = {(one.model, one.key): one for one in self._load()}

    def find(self, model: str, identifier: str, owner: str, now: float) -> Key:
        """A key that `owner` has sent. Raises Refused: there is none, or it has become too old."""
        kept = self._kept.get((model, identifier))
        if kept is None or kept.owner != owner:  # another's key is as good as none, and nobody learns whose ids there are
            raise Refused(Why.NO_KEY, f"there is no evaluation key {identifier[:12]} for this model; send it first")
        if now > kept.received + self.limits.age:
            raise Refused(Why.STALE, f"the evaluation key {identifier[:12]} has become too old; make a new one")
        return Key(identifier, self._path(model, identifier), kept.size)

    def kept(self, owner: str | None = None) -> list[Kept]:
        """What is there, of one owner or of all, the oldest first."""
        return sorted((one for one in self._kept.values() if owner in {None, one.owner}), key=lambda one: one.received)

    def erase(self, model: str, identifier: str) -> None:
        """Delete a key, if it is there."""
        kept = self._kept.pop((model, identifier), None)
        if kept is not None:
            path = self._path(model, identifier)
            discard(path.with_suffix(".json"))  # first, so that what is left after a power cut has no name
            discard(path)

    def expire(self, now: float, models: set[str]) -> list[Kept]:
        """Delete the keys that are too old, or of models other than `models`, and say which."""
        old = [one for one in self.kept() if now > one.received + self.limits.age or one.model not in models]
        for one in old:
            self.erase(one.model, one.key)
        return old

    def receive(self, bundle: Bundle, sha256: str, owner: str, now: float) -> Arrival:
        """Take in a key for the bundle's model that is sent under the name `sha256`, the digest of all its bytes."""
        return Arrival(self, bundle, sha256, owner, now)

    def take(self, bundle: Bundle, path: Path) -> Key:
        """Take in a key from a file, for work without a service. Raises Refused, InputError."""
        try:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                file.seek(0)
                with self.receive(bundle, sha256, "", 0.0) as arrival:
                    while chunk := file.read(_CHUNK):
                        arrival.feed(chunk)
                    arrival.finish()
                    return arrival.keep()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}; check the path") from error

    def check_room(self, owner: str, size: int) -> None:
        """Raises Refused when `owner` may not add `size` bytes, or nobody may."""
        mine = sum(one.size for one in self.kept(owner))
        if mine + size > self.limits.per_owner:
            raise Refused(Why.TOO_LARGE, f"your keys here may take {self.limits.per_owner} bytes together; erase one first")
        if sum(one.size for one in self.kept()) + size > self.limits.total:
            raise Refused(Why.TOO_LARGE, "this service has no room for another key now")

    def scratch(self) -> Path:
        """A name for a file that is not finished."""
        return self._directory / f".{secrets.token_hex(16)}.tmp"

    def add(self, kept: Kept, payload: Path) -> Key:
        """Give a checked payload its name. A key that is sent again replaces itself. Raises InputError."""
        path = self._path(kept.model, kept.key)
        put(payload, path, force=True)
        write_file(path.with_suffix(".json"), msgspec.json.encode(kept), force=True)
        self._kept[kept.model, kept.key] = kept
        return Key(kept.key, path, kept.size)

    def owner(self, model: str, identifier: str) -> str | None:
        """Whose key it is, if it is there."""
        kept = self._kept.get((model, identifier))
        return None if kept is None else kept.owner

    def _path(self, model: str, identifier: str) -> Path:
        return self._directory / f"{model}.{identifier}.evaluation"

    def _load(self) -> list[Kept]:
        found = []
        try:
            for path in self._directory.glob(".*.tmp"):  # of a service that ended while a key arrived
                discard(path)
            for path in sorted(self._directory.glob("*.json")):
                if (name := _NAME.fullmatch(path.name)) is None or not path.with_suffix(".evaluation").is_file():
                    continue
                kept = msgspec.json.decode(path.read_bytes(), type=Kept)
                if (kept.model, kept.key) == (name["model"], name["key"]):
                    found.append(kept)
        except (OSError, msgspec.MsgspecError, UnicodeError) as error:
            raise InputError(f"the keys in {self._directory} cannot be read: {error}") from error
        return found


class Arrival:
    """One key on its way in: `feed` its bytes, `finish`, try it, `keep`; `abort` at any time. Use it in `with`."""

    def __init__(self, shelf: Shelf, bundle: Bundle, sha256: str, owner: str, now: float) -> None:
        self._shelf = shelf
        self._bundle = bundle
        self._expected = sha256
        self._owner = owner
        self._now = now
        self._all = hashlib.sha256()
        self._payload = hashlib.sha256()
        self._head = b""
        self._header: Header | None = None
        self._taken = 0
        self._path = shelf.scratch()
        try:
            self._file = self._path.open("xb")
        except OSError as error:
            raise InputError(f"cannot keep a key in {self._path.parent}: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def feed(self, data: bytes) -> None:
        """The next bytes. Raises Refused as soon as it is clear that the key is not taken."""
        self._all.update(data)
        if self._header is None:
            self._head += data
            found = split_header(self._head)
            if found is None:  # no more is kept than a header may have: a longer one is refused by its length
                return
            self._header, at = found
            self._check(self._header)
            data = self._head[at:]
            self._head = b""
        self._taken += len(data)
        if self._taken > self._header.size:
            raise Refused(Why.DAMAGED, "the key is longer than its header says; send it again")
        self._payload.update(data)
        try:
            self._file.write(data)
        except OSError as error:
            raise InputError(f"cannot keep the key: {error.strerror}") from error

    def finish(self) -> Key:
        """The key, whole and undamaged, to be tried before `keep`. Raises Refused."""
        header = self._header
        if header is None or self._taken != header.size:
            raise Refused(Why.DAMAGED, "the key ends before its header says; send it again")
        if self._payload.hexdigest() != header.sha256 or self._all.hexdigest() != self._expected:
            raise Refused(Why.DAMAGED, "the key was altered on its way, or is not the one that its name says; send it again")
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise InputError(f"cannot keep the key: {error.strerror}") from error
        return Key(header.key, self._path, header.size)

    def keep(self) -> Key:
        """Put it on the shelf. Only after `finish`. Raises Refused, InputError."""
        assert self._header is not None, "the key has arrived"
        self._check(self._header)  # others may have arrived meanwhile
        kept = Kept(
            model=self._header.model,
            key=self._header.key,
            owner=self._owner,
            size=self._header.size,
            sha256=self._expected,
            received=self._now,
        )
        return self._shelf.add(kept, self._path)

    def abort(self) -> None:
        """Forget it, unless it was kept."""
        self._file.close()
        discard(self._path)

    def _check(self, header: Header) -> None:
        check_fits(header, self._bundle, "key")
        holder = self._shelf.owner(header.model, header.key)
        if holder not in {None, self._owner}:
            raise Refused(Why.MISMATCH, "a set of keys with this id is somebody else's; make a new one")
        if holder is None:
            self._shelf.check_room(self._owner, header.size)
