"""Strict bytes in and out: one value has one encoding, and no other bytes are taken for it.

A struct travels as a MessagePack array of its fields in their order (msgspec `array_like`). msgspec accepts integers that
are longer than need be and arrays with surplus elements; so whatever was decoded is encoded again and must give the bytes
that came in. Signatures are checked over the received bytes, never over an encoding of one's own.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from mpc.errors import Answer, MessageRefused


class Struct(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of everything that is encoded. Prints its type alone: msgspec's own repr would print every field, secrets too."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


S = TypeVar("S", bound=Struct)

_encoder = msgspec.msgpack.Encoder()


@lru_cache(maxsize=64)
def _decoder(kind: type[Any]) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind, strict=True)


def encode(value: Struct) -> bytes:
    """The one encoding of `value`."""
    return _encoder.encode(value)


def decode(raw: bytes | memoryview, kind: type[S]) -> S:
    """The `kind` that `raw` encodes. Raises MessageRefused ("encoding") for anything but the one encoding of a value."""
    try:
        value: S = _decoder(kind).decode(raw)
        canonical = _encoder.encode(value)
    except (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError) as error:
        raise MessageRefused(Answer.REJECTED, "encoding") from error
    if canonical != raw:
        raise MessageRefused(Answer.REJECTED, "encoding")
    return value


def decode_payload(raw: bytes | memoryview, kind: type[S]) -> S:
    """Like `decode`, for what lies inside a signature that holds: the refusal is `unopenable`, as for a seal that fails."""
    try:
        return decode(raw, kind)
    except MessageRefused as error:
        raise MessageRefused(Answer.UNOPENABLE, "payload") from error
