"""What travels between a node and its relay (docs/relay.md): several messages in one body, integers big-endian.

posted    (4: length, envelope) ...
answered  (1: answer) ...                          one a posted envelope, in order
fetched   (8: number, 4: length, envelope) ...     numbers ascend
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

from mpc.errors import Answer

MAIL = "/v1/mail"
KEY = "/v1/key"
BATCH_BYTES = 1024 * 1024
"""A posted batch up to this size is taken whatever the limit for one message is."""
MAX_BATCH = 1024
"""Envelopes in one batch."""
MAX_WAIT = 60
"""Seconds that a fetch may wait."""
FETCH_BYTES = 256 * 1024
"""What a fetch returns at the most, unless its first message is larger."""

_LENGTH = struct.Struct(">I")
_NUMBERED = struct.Struct(">QI")
POSTED_OVERHEAD = _LENGTH.size
MAX_NUMBER = 2**63 - 1
"""What a database's 64-bit column holds."""

_CODES = {
    Answer.ACCEPTED: 0,
    Answer.LATER: 1,
    Answer.GONE: 2,
    Answer.REJECTED: 3,
    Answer.REFUSED: 4,
    Answer.UNOPENABLE: 5,
}
_ANSWERS = {code: answer for answer, code in _CODES.items()}


def pack_posted(envelopes: Iterable[bytes]) -> list[bytes]:
    """The pieces of a body; joined only by whoever writes them."""
    return [piece for envelope in envelopes for piece in (_LENGTH.pack(len(envelope)), envelope)]


def unpack_posted(body: bytes) -> list[bytes]:
    """The envelopes. Raises ValueError unless the body ends where the last one does, or when there is none."""
    found: list[bytes] = []
    at = 0
    while at < len(body):
        start = at + _LENGTH.size
        if start > len(body):
            raise ValueError("a length is cut off")
        at = start + _LENGTH.unpack_from(body, at)[0]
        if at > len(body):
            raise ValueError("an envelope is cut off")
        found.append(body[start:at])
    if not found:
        raise ValueError("there is no envelope")
    return found


def pack_answers(answers: Iterable[Answer]) -> bytes:
    """A byte an answer."""
    return bytes(_CODES[answer] for answer in answers)


def unpack_answers(body: bytes, count: int) -> list[Answer]:
    """Exactly `count` answers. Raises ValueError."""
    if len(body) != count or not set(body) <= _ANSWERS.keys():
        raise ValueError("not one known answer a message")
    return [_ANSWERS[code] for code in body]


def pack_fetched(letters: Sequence[tuple[int, bytes]]) -> list[bytes]:
    """The pieces of a body."""
    return [piece for number, envelope in letters for piece in (_NUMBERED.pack(number, len(envelope)), envelope)]


def unpack_fetched(body: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, envelope), numbers ascending. Raises ValueError for anything else."""
    at, last = 0, 0
    while at < len(body):
        start = at + _NUMBERED.size
        if start > len(body):
            raise ValueError("a number is cut off")
        number, length = _NUMBERED.unpack_from(body, at)
        at = start + length
        if at > len(body) or not last < number <= MAX_NUMBER:
            raise ValueError("an envelope is cut off, or its number is not above the one before")
        yield number, body[start:at]
        last = number
