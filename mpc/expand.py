"""A 32-byte seed becomes an exactly uniform ring vector, the same on every machine (protocol.md, "Ring").

    key    = HKDF-SHA256(ikm = seed, salt = context, info = "cohortium/v1/share", 32 bytes); segment s > 0 appends "/s"
    stream = AES-256-CTR keystream under key, first counter block all zero
    words  = little-endian, w bytes each; those not below t are skipped; an element is its word modulo M

Words are wide enough (8w >= b + 8) that fewer than one in 256 is skipped for b <= 56 bits, so a single vectorised division
does nearly all the work. The stream is made block by block into one buffer that stays in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mpc.ring import Ring, RunningSum, Vector

SEED_BYTES = 32
CONTEXT_BYTES = 32
_INFO = b"cohortium/v1/share"
_MODE = modes.CTR(bytes(16))
# Small enough for the processor's cache, and below the size from which malloc asks the kernel for fresh pages each time.
_BLOCK_BYTES = 1 << 16
_ZEROS = memoryview(bytes(_BLOCK_BYTES))

_Words = npt.NDArray[np.unsignedinteger[npt.NBitBase]]


@dataclass(frozen=True, slots=True)
class _WordRule:
    dtype: np.dtype[np.unsignedinteger[npt.NBitBase]]
    """Little-endian unsigned, w bytes."""
    limit: int | None
    """t; None when no word is skipped (M a power of two)."""


@lru_cache(maxsize=256)
def _word_rule(modulus: int) -> _WordRule:
    bits = (modulus - 1).bit_length()
    width = next((w for w in (2, 4) if 8 * w >= bits + 8), 8)
    space = 1 << (8 * width)
    limit = space // modulus * modulus
    return _WordRule(np.dtype(f"<u{width}"), None if limit == space else limit)


def _key(seed: bytes, context: bytes, segment: int) -> bytes:
    if len(seed) != SEED_BYTES or len(context) != CONTEXT_BYTES:
        raise ValueError("a seed and a context have 32 bytes each")
    info = _INFO if segment == 0 else _INFO + b"/%d" % segment
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=context, info=info).derive(seed)


def _stream(seed: bytes, context: bytes, segment: int) -> CipherContext:
    return Cipher(algorithms.AES256(_key(seed, context, segment)), _MODE).encryptor()


def _ample(missing: int) -> int:
    """A few words more than are missing, so that a handful of skipped words does not cost another turn."""
    return missing + missing // 128 + 8


def _blocks(seed: bytes, context: bytes, modulus: int, length: int, segment: int) -> Iterator[tuple[int, _Words]]:
    """Pieces of the vector in order, as (offset, words of the rule's dtype); each is valid until the next is asked for."""
    Ring(modulus)
    rule = _word_rule(modulus)
    stream = _stream(seed, context, segment)
    divisor = rule.dtype.type(modulus)
    buffer = bytearray(min(_BLOCK_BYTES, _ample(length) * rule.dtype.itemsize))
    block: _Words = np.frombuffer(buffer, dtype=rule.dtype)
    scratch = np.empty_like(block)
    done = 0
    while done < length:
        missing = length - done
        count = min(block.size, _ample(missing))
        octets = count * rule.dtype.itemsize
        stream.update_into(_ZEROS[:octets], memoryview(buffer)[:octets])
        words = block[:count]
        if rule.limit is not None and int(words.max()) >= rule.limit:
            words = words[words < rule.dtype.type(rule.limit)]
        words = words[:missing]
        multiples = np.floor_divide(words, divisor, out=scratch[: words.size])
        np.multiply(multiples, divisor, out=multiples)
        np.subtract(words, multiples, out=words)
        yield done, words
        done += words.size


def expand(seed: bytes, context: bytes, modulus: int, length: int, *, segment: int = 0) -> Vector:
    """The vector of `length` elements modulo `modulus` that `seed` stands for, shape (length,), uint64.

    Raises ValueError for a seed or context that is not 32 bytes, or a modulus outside [2, 2^63].
    """
    vector = np.empty(length, dtype=np.uint64)
    for offset, words in _blocks(seed, context, modulus, length, segment):
        vector[offset : offset + words.size] = words
    return vector


def add_expansion(total: RunningSum, seed: bytes, context: bytes, *, segment: int = 0) -> None:
    """Adds the expansion of `seed` to `total` without ever holding it whole."""
    total.reserve()
    for offset, words in _blocks(seed, context, total.ring.modulus, total.total.size, segment):
        total.total[offset : offset + words.size] += words


def add_expansions(total: RunningSum, seeds: Sequence[bytes], context: bytes, *, segment: int = 0) -> None:
    """Adds the expansion of every seed to `total`: of short vectors as many at a time as the cache holds, a row each."""
    rule, length = _word_rule(total.ring.modulus), total.total.size
    most = min(_BLOCK_BYTES // max(1, length * rule.dtype.itemsize), total.ring.lazy_terms - 1)
    if most < 2 or not length:
        for seed in seeds:
            add_expansion(total, seed, context, segment=segment)
        return
    for start in range(0, len(seeds), most):
        _add_rows(total, seeds[start : start + most], context, segment, rule)


def _add_rows(total: RunningSum, seeds: Sequence[bytes], context: bytes, segment: int, rule: _WordRule) -> None:
    octets = total.total.size * rule.dtype.itemsize
    buffer = bytearray(len(seeds) * octets)
    for row, seed in enumerate(seeds):
        _stream(seed, context, segment).update_into(_ZEROS[:octets], memoryview(buffer)[row * octets : (row + 1) * octets])
    words: _Words = np.frombuffer(buffer, dtype=rule.dtype).reshape(len(seeds), total.total.size)
    if rule.limit is not None and int(words.max()) >= rule.limit:  # a row with a skipped word goes the long way
        whole = (words < rule.dtype.type(rule.limit)).all(axis=1)
        words = words[whole]
        for row in np.flatnonzero(~whole).tolist():
            add_expansion(total, seeds[row], context, segment=segment)
    total.reserve(len(words))
    total.total += (words % rule.dtype.type(total.ring.modulus)).sum(axis=0, dtype=np.uint64)
