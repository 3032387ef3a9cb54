"""A node's audit log as it is kept: each line is bound to all before it, so that none is changed, moved or lost unseen.

    text(n)    {"at":1800000000.000000,"event":"...","study":"...","content":{...},"salt":"..."}        JSON, these very bytes
    digest(n)  SHA-256("cohortium/v1/audit" ‖ 00 ‖ digest(n - 1) ‖ n, 8 bytes big-endian ‖ SHA-256(text(n)));  digest(0) is zeros
    tag(n)     HMAC-SHA-256("line" ‖ digest(n)) under a key of the storage key; digest(n) itself where a node has none (a relay)
    seal       HMAC-SHA-256("head" ‖ the rest of the head) under the same key; empty where there is none

The digests need no key, so that an export of the log can be checked by anybody; the tags keep whoever can write to the store and
lacks the key from making lines. The head counts the store's commits, so an old head does not fit beside a newer store.

What is erased leaves SHA-256(text), and of the lines at the begin the digest of the last one; the salt, 16 random bytes, goes
with the line, so that nothing of it can be guessed from these. A line says what was erased, or it counts as lost.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from mpc.errors import CohortiumError
from mpc.signature import tagged_digest

DIGEST_BYTES = 32
ERASED_AT_ONCE = 1000
"""Lines that one transaction erases, so that no commit waits long behind it."""
_SALT_BYTES = 16
_HEAD = struct.Struct(">qq32sq32s")


class AuditEvent(StrEnum):
    """Everything that an audit log may say. docs/operations.md has the same list."""

    ENROLLED = "enrolled"
    """A certificate was issued for a token: at the authority, and at the node that has it now."""
    ENROLMENT_REFUSED = "enrolment-refused"
    RENEWED = "renewed"
    """This node has a new certificate."""
    RENEWAL_GRANTED = "renewal-granted"
    """This node's authority renewed the certificate of another node."""
    RENEWAL_REFUSED = "renewal-refused"
    REVOKED = "revoked"
    """A newer list of revoked certificates is obeyed."""
    REFUSED = "refused"
    """A connection, a request or a message was turned away: the first of a kind in an hour, with how many there were before."""
    CONSENTED = "consented"
    DECLINED = "declined"
    ASKED = "asked"
    """An invitation waits for a person."""
    APPROVED = "approved"
    """A person approved of a study, for as long as the line says."""
    WITHDRAWN = "withdrawn"
    """A person takes no part in a study any more."""
    FREED = "freed"
    """A person freed sources from the rosters that they were bound to."""
    SUBMITTED = "submitted"
    """This patient's partial sum is kept: the round counts."""
    RELEASED = "released"
    """This node has the result."""
    RECEIPTED = "receipted"
    """The round's receipt is kept here; at a patient, who countersigned it."""
    ENDED = "ended"
    RELOADED = "reloaded"
    RESTORED = "restored"
    """The store was older than this node's last commit: lines that were written since are lost."""
    ERASED = "erased"
    """Lines, or rounds that had ended, were erased. The store writes it."""
    TAMPERED = "tampered"
    """The head of the log was not as this node had left it. The store writes it."""


@dataclass(frozen=True, slots=True)
class AuditLine:
    """What happened."""

    at: float
    """Unix seconds; microseconds count."""
    event: str
    """An AuditEvent. Empty: the line was erased, and `content` is SHA-256 of its text."""
    study: str
    """Empty when it belongs to none."""
    content: bytes
    """A JSON object, no values."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A line in its place."""

    number: int
    """Counted from 1."""
    line: AuditLine
    salt: bytes
    tag: bytes

    @property
    def body(self) -> bytes:
        """SHA-256 of the line's text."""
        return self.line.content if not self.line.event else hashlib.sha256(text(self.line, self.salt)).digest()

    def emptied(self) -> Kept:
        """What is left when it is erased."""
        return Kept(self.number, AuditLine(0.0, "", "", self.body), b"", self.tag)


class Head(msgspec.Struct, frozen=True):
    """Where the log begins and ends. Every commit of the store makes one."""

    counter: int
    """Of the store's commits."""
    erased_to: int
    """Number of the last line that was erased from the begin; 0 while none was."""
    anchor: bytes
    """Its digest."""
    last: int
    """Number of the last line; 0 for none."""
    digest: bytes
    """Its digest."""
    seal: bytes


class ChainBroken(CohortiumError):
    """A line is not what was written. `number` is the first such line's, as far as one can tell."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"line {number}: {why}")
        self.number = number


def audit_line(at: float, event: AuditEvent, study: str = "", /, **content: object) -> AuditLine:
    """A line; `content` is what JSON can say."""
    return AuditLine(at, event, study, json.dumps(content, separators=(",", ":")).encode())


def text(line: AuditLine, salt: bytes) -> bytes:
    """The bytes of a line that are hashed, and that an export shows."""
    return b'{"at":%.6f,"event":%s,"study":%s,"content":%s,"salt":"%s"}' % (
        line.at,
        json.dumps(line.event).encode(),
        json.dumps(line.study).encode(),
        line.content,
        salt.hex().encode(),
    )


def link(before: bytes, number: int, body: bytes) -> bytes:
    """The digest of a line, from that of the line before it and SHA-256 of its text."""
    return tagged_digest("audit", before + number.to_bytes(8, "big", signed=True) + body)


class Chain:
    """Makes lines and heads, and tells whether it has made one."""

    def __init__(self, mac: Callable[[bytes], bytes] | None = None) -> None:
        """`mac` is HMAC-SHA-256 under a key that only this node has; without it whoever can write to the store can make lines."""
        self._mac = mac

    def start(self) -> Head:
        """The head of a new log."""
        return self._head(0, 0, bytes(DIGEST_BYTES), 0, bytes(DIGEST_BYTES))

    def extend(self, head: Head, lines: Iterable[AuditLine], anchor: tuple[int, bytes] | None = None) -> tuple[Head, list[Kept]]:
        """One commit later: the head with these lines after it, and the lines in their places.

        `anchor` is the number and digest of the line up to which the log is erased now. A head that this node has not made gets
        a line that says so: what it hid must not look sound again because the log goes on.
        """
        if not self.is_genuine(head):
            lines = [audit_line(time.time(), AuditEvent.TAMPERED), *lines]
        number, digest, made = head.last, head.digest, []
        for line in lines:
            number += 1
            salt = os.urandom(_SALT_BYTES)
            digest = link(digest, number, hashlib.sha256(text(line, salt)).digest())
            made.append(Kept(number, line, salt, self._tag(digest)))
        erased_to, begin = anchor or (head.erased_to, head.anchor)
        return self._head(head.counter + 1, erased_to, begin, number, digest), made

    def erase(
        self, head: Head, doomed: Sequence[int], first: Sequence[Kept], *, before: float, of_study: bool, rounds: int
    ) -> tuple[Head, list[Kept]]:
        """One commit later: the head, and the line that says what was erased.

        `doomed` are the numbers of lines that are emptied, ascending; `first` are the lines that are taken away from the begin:
        empty ones, those among `doomed` included, and old lines that say what was erased. `rounds` went in the same transaction.
        """
        number, digest = head.erased_to, head.anchor
        for kept in first:
            number, digest = kept.number, link(digest, kept.number, kept.body)
        line = audit_line(
            time.time(),
            AuditEvent.ERASED,
            before=before,
            of_one_study=of_study,  # not which: its name may be what was to be erased
            rounds=rounds,
            lines=len(doomed),
            up_to=number,
            numbers=_ranges(one for one in doomed if one > number),
        )
        return self.extend(head, [line], (number, digest))

    def is_genuine(self, head: Head) -> bool:
        """Whether this node has made the head. True where there is no key to tell by."""
        return hmac.compare_digest(self._seal(head.counter, head.erased_to, head.anchor, head.last, head.digest), head.seal)

    def fits(self, kept: Kept, digest: bytes) -> bool:
        """Whether this node has written this line, whose digest was worked out, in this place."""
        return hmac.compare_digest(self._tag(digest), kept.tag)

    def _tag(self, digest: bytes) -> bytes:
        return digest if self._mac is None else self._mac(b"line" + digest)

    def _head(self, counter: int, erased_to: int, anchor: bytes, last: int, digest: bytes) -> Head:
        return Head(counter, erased_to, anchor, last, digest, self._seal(counter, erased_to, anchor, last, digest))

    def _seal(self, *head: int | bytes) -> bytes:
        return b"" if self._mac is None else self._mac(b"head" + _HEAD.pack(*head))


class Walk:
    """Follows a log from its first line to its last, and stops where something is wrong."""

    def __init__(self, erased_to: int, anchor: bytes) -> None:
        self.number = erased_to
        """Of the line that was taken last."""
        self.digest = anchor
        self._begin = erased_to
        self._said_to = 0
        """Up to where the lines say that the log was erased."""
        self._empty: set[int] = set()
        """Lines that no line has declared erased yet."""
        self._tampered = 0

    def take(self, number: int, body: bytes, line: AuditLine, fits: Callable[[bytes], bool]) -> None:
        """The next line; `body` is SHA-256 of its text. `fits` tells whether what was written has this digest.

        Raises ChainBroken.
        """
        expected = self.number + 1
        if number != expected:
            raise ChainBroken(expected, "it is missing" if number > expected else f"line {number} stands in its place")
        self.digest, self.number = link(self.digest, number, body), number
        if not fits(self.digest):
            raise ChainBroken(number, "it was changed, or is not the one that was written here")
        match line.event:
            case "":
                self._empty.add(number)
            case AuditEvent.ERASED:
                self._said_to, erased = _said(number, line.content)
                self._empty.difference_update(erased)
            case AuditEvent.TAMPERED:
                self._tampered = self._tampered or number

    def finish(self, last: int) -> None:
        """All lines were taken, and the last one should have been this. Raises ChainBroken."""
        if self.number != last:
            raise ChainBroken(self.number + 1, f"it is missing, and so is what follows; the log has {last} lines")
        if self._said_to != self._begin:
            raise ChainBroken(self._begin, "it and those before it are gone, and no line says that they were erased")
        if self._empty:
            raise ChainBroken(min(self._empty), "it is empty, and no later line says that it was erased")
        if self._tampered:
            raise ChainBroken(self._tampered, "the log did not end here as the node had left it; lines before it may be lost")


class _Said(msgspec.Struct, frozen=True):
    """What matters here of the content of a line that says what was erased."""

    up_to: int
    numbers: tuple[tuple[int, int], ...]


def _said(number: int, content: bytes) -> tuple[int, list[int]]:
    """Up to where, and which lines after that. Anybody may have made the line: it must not take for ever to read."""
    try:
        said = msgspec.json.decode(content, type=_Said)
    except ValueError:  # msgspec's own errors, and UnicodeDecodeError
        raise ChainBroken(number, "it does not say what was erased") from None
    runs = [range(first, last + 1) for first, last in said.numbers]
    if sum(map(len, runs)) > ERASED_AT_ONCE:
        raise ChainBroken(number, "it says that more was erased than is ever erased at once")
    return said.up_to, [one for run in runs for one in run]


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending numbers as (first, last) of each run."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges
