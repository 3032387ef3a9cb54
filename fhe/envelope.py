r"""What travels says what it is: a header before every key and ciphertext, so that a wrong one is an error and not nonsense.

    b"cohortium-fhe/1\n" ‖ length of the header (4 bytes, big-endian) ‖ header (JSON) ‖ payload

The header names the model by its hash and the set of keys by its id, and gives the payload's size and SHA-256. A ciphertext under
one key decrypts under another to numbers that look like any others; that is why ids are compared before anything is decrypted.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Sequence
from typing import Literal

import msgspec

from fhe.bundle import Bundle, Struct
from fhe.errors import Refused, Why

MAGIC = b"cohortium-fhe/1\n"
MAX_HEADER = 256 * 1024
MAX_SAMPLES = 10_000

_LENGTH = struct.Struct(">I")
_HEX64 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_HEX32 = re.compile(r"[0-9a-f]{32}", re.ASCII)

Kind = Literal["key", "input", "output", "secret"]


class Header(Struct, frozen=True, kw_only=True):
    """What stands before a payload."""

    kind: Kind
    backend: Literal["concrete", "ckks"]
    model: str
    """Hash of the bundle, hex."""
    key: str
    """Id of the set of keys, 16 random bytes in hex."""
    sizes: tuple[int, ...]
    """Bytes of each payload: one a sample in "input" and "output", else a single one."""
    sha256: str
    """Of all the payloads together, hex."""

    @property
    def size(self) -> int:
        """Bytes of all the payloads."""
        return sum(self.sizes)


def write_header(header: Header) -> bytes:
    """All that comes before the payload."""
    raw = msgspec.json.encode(header)
    return MAGIC + _LENGTH.pack(len(raw)) + raw


def split_header(data: bytes) -> tuple[Header, int] | None:
    """The header at the start of `data` and where the payload begins; None when `data` is too short to tell.

    Raises Refused ("damaged") for what is neither a key nor a ciphertext.
    """
    start = len(MAGIC) + _LENGTH.size
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise _damaged("this is no key or ciphertext of this program")
    if len(data) < start:
        return None
    (length,) = _LENGTH.unpack(data[len(MAGIC) : start])
    if length > MAX_HEADER:
        raise _damaged("the header is longer than one may be")
    if len(data) < start + length:
        return None
    try:
        header = msgspec.json.decode(data[start : start + length], type=Header)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise _damaged("the header does not say what it must") from None
    many = header.kind in {"input", "output"}
    if not (
        _HEX64.fullmatch(header.model)
        and _HEX64.fullmatch(header.sha256)
        and _HEX32.fullmatch(header.key)
        and 1 <= len(header.sizes) <= (MAX_SAMPLES if many else 1)
        and min(header.sizes) > 0
    ):
        raise _damaged("the header does not say what it must")
    return header, start + length


def check_fits(header: Header, bundle: Bundle, kind: Kind) -> None:
    """Raises Refused unless the header is that of a `kind` for the bundle's model, of the size that its shape asks for."""
    what = {"key": "an evaluation key", "input": "an encrypted input", "output": "an encrypted result", "secret": "a secret key"}
    if header.kind != kind:
        raise Refused(Why.MISMATCH, f"this is {what[header.kind]}, and {what[kind]} is asked for")
    if header.model != bundle.hash or header.backend != bundle.model.backend:
        raise Refused(
            Why.MISMATCH,
            f"{what[kind]} for the model {header.model[:12]} was given, and {bundle.model.id} is {bundle.hash[:12]}; "
            f"keys and ciphertexts fit the very bundle that they were made with",
        )
    sizes = bundle.model.sizes
    if kind == "key" and header.size > sizes.key:
        raise Refused(Why.TOO_LARGE, f"the key has {header.size} bytes, and one for {bundle.model.id} has at most {sizes.key}")
    if kind in {"input", "output"}:
        span = sizes.input if kind == "input" else sizes.output
        if not all(span.least <= size <= span.most for size in header.sizes):
            raise _damaged(f"a ciphertext is not as long as one of {bundle.model.id} is")


def make_header(kind: Kind, bundle: Bundle, key: str, sizes: Sequence[int], sha256: str) -> Header:
    """The header of payloads for the bundle's model under the set of keys `key`."""
    return Header(kind=kind, backend=bundle.model.backend, model=bundle.hash, key=key, sizes=tuple(sizes), sha256=sha256)


def seal_payloads(kind: Kind, bundle: Bundle, key: str, payloads: list[bytes]) -> bytes:
    """Header and payloads."""
    digest = hashlib.sha256()
    for payload in payloads:
        digest.update(payload)
    header = make_header(kind, bundle, key, [len(payload) for payload in payloads], digest.hexdigest())
    return b"".join([write_header(header), *payloads])


def open_payloads(data: bytes, bundle: Bundle, kind: Literal["input", "output"]) -> tuple[Header, list[bytes]]:
    """The payloads of a ciphertext for the bundle's model, every byte accounted for. Raises Refused."""
    found = split_header(data)
    if found is None:
        raise _damaged("the ciphertext ends within its header")
    header, at = found
    check_fits(header, bundle, kind)
    body = memoryview(data)[at:]
    if len(body) != header.size:
        raise _damaged(f"the ciphertext has {len(body)} bytes after its header, which says {header.size}")
    if hashlib.sha256(body).hexdigest() != header.sha256:
        raise _damaged("the ciphertext was altered on its way")
    payloads, start = [], 0
    for size in header.sizes:
        payloads.append(bytes(body[start : start + size]))
        start += size
    return header, payloads


def _damaged(text: str) -> Refused:
    return Refused(Why.DAMAGED, f"{text}; make it and send it again")
