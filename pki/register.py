"""The authority's register: one file that only ever grows, one JSON object a line, and the lock that keeps writers apart.

A line is on disk before anything that it speaks of is handed out. A crash can therefore leave at most one line that is cut
off, the last, and nobody has what it was about: the next writer closes it with a line of kind "torn", and readers pass over
the two. A crash may cut that line off as well, and the next writer closes both. A broken line anywhere else is damage, and is
said.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec

from mpc.errors import IdentityError
from pki.files import PRIVATE, sync_directory

Serial = Annotated[str, msgspec.Meta(pattern="^[1-9a-f][0-9a-f]*$")]
"""A certificate's serial number in lower-case hexadecimal."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="kind"):
    """One line."""

    at: int
    """When, in Unix seconds."""


class Issued(Entry, frozen=True, kw_only=True, tag="issued"):
    """A certificate was signed."""

    serial: Serial
    identity: str
    """The URI name: of a node, or `spiffe://CONSORTIUM` of an issuing authority."""
    days: int
    """As granted, for its renewal; the certificate itself may end earlier, with its authority."""
    not_after: int
    key: str
    """SHA-256 of the SubjectPublicKeyInfo, hexadecimal."""
    token: str = ""
    """The digest of the token that this certificate used up, if there was one."""
    certificate: bytes
    """DER."""


class Revoked(Entry, frozen=True, tag="revoked"):
    """A certificate is not to be believed any more."""

    serial: Serial
    reason: str
    """As RFC 5280 section 5.3.1 spells it ("keyCompromise")."""


class Listed(Entry, frozen=True, tag="list"):
    """A revocation list was signed."""

    number: int
    this_update: int
    next_update: int


class Granted(Entry, frozen=True, tag="token"):
    """A token was made."""

    token: str
    """SHA-256 of its secret, hexadecimal: who reads the register cannot use it."""
    identity: str
    dns: tuple[str, ...]
    ips: tuple[str, ...]
    days: int
    expires: int


class Withdrawn(Entry, frozen=True, tag="withdrawn"):
    """A token that nobody has used is not to be used any more."""

    token: str


class Torn(Entry, frozen=True, tag="torn"):
    """The line before this one was cut off by a crash and means nothing."""


_TORN = b'{"kind":"torn",'
"""How each of these lines begins."""

_decoder = msgspec.json.Decoder(Issued | Revoked | Listed | Granted | Withdrawn | Torn)


@dataclass(frozen=True, slots=True)
class Records:
    """What the register says."""

    issued: dict[str, Issued] = field(default_factory=dict)
    """By serial number, oldest first."""
    revoked: dict[str, Revoked] = field(default_factory=dict)
    """By serial number, in the order of revocation."""
    granted: dict[str, Granted] = field(default_factory=dict)
    """By the token's digest, oldest first."""
    withdrawn: dict[str, Withdrawn] = field(default_factory=dict)
    """By the token's digest."""
    used: dict[str, Issued] = field(default_factory=dict)
    """By the token's digest: the certificate that it was used for."""
    lists: list[Listed] = field(default_factory=list)
    unlisted: list[Revoked] = field(default_factory=list)
    """What was revoked after the last list was signed."""
    torn: list[int] = field(default_factory=list)
    """Numbers of the lines that a crash cut off, from 1."""

    def newest(self, identity: str) -> Issued | None:
        """The certificate that was issued last to `identity`, a URI name."""
        return next((entry for entry in reversed(self.issued.values()) if entry.identity == identity), None)

    def open_tokens(self, now: float) -> list[Granted]:
        """The tokens that could be used at `now` (Unix seconds), oldest first."""
        gone = self.used.keys() | self.withdrawn.keys()
        return [entry for entry in self.granted.values() if entry.token not in gone and now <= entry.expires]

    def add(self, entry: Entry) -> None:
        """Take one more line into account."""
        match entry:
            case Issued():
                self.issued[entry.serial] = entry
                if entry.token:
                    self.used[entry.token] = entry
            case Revoked():
                self.revoked.setdefault(entry.serial, entry)
                self.unlisted.append(entry)
            case Granted():
                self.granted[entry.token] = entry
            case Withdrawn():
                self.withdrawn[entry.token] = entry
            case Listed():
                self.lists.append(entry)
                self.unlisted.clear()


class Book:
    """The register, open for writing by this process alone. Made by `Register.locked`."""

    def __init__(self, path: Path, descriptor: int, data: bytes) -> None:
        self.records, self._torn = _decode(path, data)
        self._path = path
        self._descriptor = descriptor
        # A last line that is whole and lacks only its end is good: no part of a JSON object is a JSON object.
        self._open_line = bool(data) and not data.endswith(b"\n")
        self._new = not data

    def append(self, *entries: Entry) -> None:
        """Write lines, wait until they are on disk, and take them into `records`. Raises IdentityError."""
        lines = [Torn(at=entries[0].at), *entries] if self._torn else entries
        data = b"\n" * self._open_line + b"".join(msgspec.json.encode(entry) + b"\n" for entry in lines)
        try:
            if os.write(self._descriptor, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._descriptor)
            if self._new:
                sync_directory(self._path.parent)
        except OSError as error:
            raise IdentityError(f"cannot write {self._path}: {error.strerror}") from error
        self._torn = self._open_line = self._new = False
        for entry in entries:
            self.records.add(entry)


@dataclass(frozen=True, slots=True)
class Register:
    """The file, which need not exist yet."""

    path: Path

    def read(self) -> Records:
        """What it says now. Raises IdentityError when it cannot be read or is damaged."""
        try:
            with self.path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)  # not in the middle of somebody's line
                return _decode(self.path, file.read())[0]
        except FileNotFoundError:
            return Records()
        except OSError as error:
            raise IdentityError(f"cannot read {self.path}: {error.strerror}") from error

    @contextmanager
    def locked(self) -> Iterator[Book]:
        """The register for writing; others wait until this ends. Errors as for `read`."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
        except OSError as error:
            raise IdentityError(f"cannot write {self.path}: {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as file:  # closing it gives the lock back
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield Book(self.path, descriptor, file.read())


def _decode(path: Path, data: bytes) -> tuple[Records, bool]:
    """What the lines say, and whether the last of them is cut off and not closed by a "torn" line."""
    records = Records()
    broken = 0
    for number, line in enumerate(data.removesuffix(b"\n").split(b"\n") if data else (), 1):
        try:
            entry = _decoder.decode(line)
        except msgspec.ValidationError as error:
            raise IdentityError(
                f"{path}, line {number}, is not understood; a newer version may have written it, so use that one"
            ) from error
        except msgspec.DecodeError:
            if broken and not _begins_torn(line):
                raise _damaged(path, broken) from None
            broken = number
            records.torn.append(number)
            continue
        if broken and not isinstance(entry, Torn):
            raise _damaged(path, broken)
        broken = 0
        records.add(entry)
    return records, broken > 0


def _begins_torn(line: bytes) -> bool:
    """Whether this may be what a crash left of a "torn" line: then the line before it was cut off, too."""
    left = line.rstrip(b"\0")  # some file systems leave zeros where nothing was written yet
    return left.startswith(_TORN) or _TORN.startswith(left)


def _damaged(path: Path, number: int) -> IdentityError:
    return IdentityError(f"{path}, line {number}, is damaged, and not by a crash; restore the file from a backup")
