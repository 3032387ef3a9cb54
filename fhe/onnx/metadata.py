"""A text of ours in an ONNX file, which stays a valid ONNX file. Written and read without the `onnx` package.

    ModelProto.metadata_props (field 14) = { key (field 1), value (field 2) }            onnx/onnx.proto

Two messages in protobuf's encoding, one after the other, are one message with the fields of both; so an entry is put in by
writing it behind the file, and of two with one key the later counts.
"""

from __future__ import annotations

from collections.abc import Iterator

_METADATA, _KEY, _VALUE = 14, 1, 2
_BYTES = 2
"""Wire type of what has a length before it; 0, 1 and 5 are numbers."""
_FIXED = {1: 8, 5: 4}


def put_text(model: bytes, key: str, value: str) -> bytes:
    """The file `model` with one more entry."""
    entry = _field(_KEY, key.encode()) + _field(_VALUE, value.encode())
    return model + _field(_METADATA, entry)


def find_text(model: bytes, key: str) -> str | None:
    """The value of the last entry with this key; None when there is none, or `model` is no such file."""
    found = None
    try:
        for number, data in _fields(model):
            if number == _METADATA:
                entry = dict(_fields(data))
                if entry.get(_KEY) == key.encode():
                    found = entry.get(_VALUE, b"").decode()
    except (IndexError, ValueError):
        return None
    return found


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each field that has bytes. Raises IndexError or ValueError for what is no message."""
    at = 0
    while at < len(data):
        tag, at = _read(data, at)
        kind = tag & 7
        if kind == _BYTES:
            length, at = _read(data, at)
            if length > len(data) - at:
                raise ValueError("a field ends beyond the message")
            yield tag >> 3, data[at : at + length]
            at += length
        elif kind == 0:
            _, at = _read(data, at)
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            raise ValueError("a field of no known kind")


def _read(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than ten bytes")
