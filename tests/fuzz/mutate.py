"""Changes to valid messages: blind ones to the bytes, and ones that know the layout and so get past the first check.

Everything comes from one `random.Random`, so a seed gives the same changes again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgspec

Split = Callable[[bytes], list[tuple[int, bytes]]]
"""A message as its fields: (bytes of the length before it, 0 for a field of fixed size; content)."""

EDGES = sorted(
    {sign * (2**bits + step) for bits in (0, 5, 7, 8, 15, 16, 31, 32, 53, 62, 63) for step in (-1, 0, 1) for sign in (1, -1)}
)
"""Where encodings, machine words and this protocol's rules have their limits."""
_SIZES = (0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 257)
_LARGEST = 2**64 - 1
_DEEP = 3000
_TEXTS = ("", "\0", "a" * 300, "spiffe://", "spiffe://demo/patient/..", "\u202e", "é", "https://", "../../x", "%s{0}")


def mutated(random: Random, originals: Sequence[bytes], split: Split | None = None) -> bytes:
    """One of the originals, changed once or a few times; now and then plain noise."""
    raw = random.choice(originals)
    roll = random.random()
    if roll < 0.03:
        return random.randbytes(random.choice(_SIZES))
    if split is not None and roll < 0.5:
        return _change_field(random, raw, originals, split)
    if roll < 0.7 and (changed := _change_tree(random, raw)) is not None:
        return changed
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        raw = change_bytes(random, raw, random.choice(originals))
    return raw


def change_bytes(random: Random, raw: bytes, other: bytes = b"") -> bytes:
    """One change that knows nothing; `other` is a second message to splice with."""
    at, end = sorted(random.randrange(len(raw) + 1) for _ in range(2))
    match random.randrange(9):
        case 0:  # a bit
            flipped = bytearray(raw)
            if flipped:
                flipped[random.randrange(len(raw))] ^= 1 << random.randrange(8)
            return bytes(flipped)
        case 1:  # a byte
            return raw[:at] + bytes([random.choice((0, 1, 0x7F, 0x80, 0xC0, 0xFF, random.randrange(256)))]) + raw[at + 1 :]
        case 2:  # cut off
            return raw[:at]
        case 3:  # cut out
            return raw[:at] + raw[min(end, at + 64) :]
        case 4:  # once more
            return raw[:end] + raw[at:end] + raw[end:]
        case 5:  # the head of one, the tail of the other
            return raw[:at] + other[random.randrange(len(other) + 1) :]
        case 6:  # a number at one of its limits
            size = random.choice((1, 2, 4, 8))
            return raw[:at] + (random.choice(EDGES) % (1 << 8 * size)).to_bytes(size, "big") + raw[at + size :]
        case 7:  # MessagePack's longer forms of the same number, and of the same length of bytes
            longer = {0xC4: b"\xc5\x00", 0xD9: b"\xda\x00", 0xCC: b"\xcd\x00", 0xCD: b"\xce\x00\x00"}
            places = [place for place, octet in enumerate(raw) if octet in longer or octet < 0x80]
            if not places:
                return raw
            place = random.choice(places)
            octet = raw[place]
            return raw[:place] + longer.get(octet, b"\xcd\x00" + bytes([octet])) + raw[place + 1 :]
        case _:  # put in
            return raw[:at] + random.randbytes(random.choice((1, 2, 8, 64))) + raw[at:]


def _change_field(random: Random, raw: bytes, originals: Sequence[bytes], split: Split) -> bytes:
    """One field changed, or taken from another message, or there twice; lengths are right, or one of them is wrong."""
    fields = split(raw)
    place = random.randrange(len(fields))
    width, content = fields[place]
    match random.randrange(6):
        case 0:
            others = split(random.choice(originals))
            fields[place] = (width, others[min(place, len(others) - 1)][1])
        case 1:
            fields.insert(place, fields[place])
        case 2:
            del fields[place]
        case 3 if width:
            wrong = random.choice((0, len(content) - 1, len(content) + 1, (1 << 8 * width) - 1, (1 << 8 * width) // 2))
            length = (wrong % (1 << 8 * width)).to_bytes(width, "big")
            return join(fields[:place]) + length + content + join(fields[place + 1 :])
        case _:
            changed = _change_tree(random, content) if random.random() < 0.7 else None
            fields[place] = (width, change_bytes(random, content, content) if changed is None else changed)
    return join(fields)


def join(fields: Sequence[tuple[int, bytes]]) -> bytes:
    """The message that has these fields."""
    return b"".join(_field(*field) for field in fields)


def _field(width: int, content: bytes) -> bytes:
    return (len(content) % (1 << 8 * width)).to_bytes(width, "big") + content if width else content


# -- MessagePack


def _change_tree(random: Random, raw: bytes) -> bytes | None:
    """The same struct with one value, array or nested struct changed; None for what is no struct."""
    tree = _tree(raw)
    if tree is None:
        return None
    if random.random() < 0.01:
        return b"\x91" * random.randrange(_DEEP) + raw
    changed: bytes = msgspec.msgpack.encode(_changed(random, tree))
    return changed


def _tree(raw: bytes) -> list[Any] | None:
    try:
        tree = msgspec.msgpack.decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return tree if isinstance(tree, list) and tree and msgspec.msgpack.encode(tree) == raw else None


def _changed(random: Random, value: Any) -> Any:
    """`value` with one change somewhere in it."""
    if random.random() < 0.04:  # of another type
        return random.choice([None, True, 0, -1, 1.5, float("nan"), "", b"", [], {}, [[]], {"a": 1}])
    match value:
        case bool() | None | float():
            return random.choice([None, True, False, 0.0, float("inf")])
        case int():
            edge = random.choice([*EDGES, value - 1, value + 1, 2 * value, -value])
            return max(-(2**63), min(_LARGEST, edge))
        case str():
            return random.choice([*_TEXTS, value + "x", value[:-1], value.upper(), value + "\0", value * 2])
        case bytes():
            nested = _tree(value)
            if nested is not None and random.random() < 0.8:
                return msgspec.msgpack.encode(_changed(random, nested))
            return random.choice([bytes(random.choice(_SIZES)), value[:-1], value + b"\0", change_bytes(random, value, value)])
        case list():
            return _changed_array(random, value)
    return value


def _changed_array(random: Random, array: list[Any]) -> list[Any]:
    array = list(array)
    if not array:
        return [0]
    place = random.randrange(len(array))
    match random.randrange(12):
        case 0:
            del array[place]
        case 1:
            array.insert(place, array[place])
        case 2:
            array += [array[place]] * random.choice((1, 2, 64))
        case 3:
            other = random.randrange(len(array))
            array[place], array[other] = array[other], array[place]
        case 4:
            array.append(random.choice([0, None, b"", ""]))
        case 5:
            array[place] = array[random.randrange(len(array))]
        case _:
            array[place] = _changed(random, array[place])
    return array
