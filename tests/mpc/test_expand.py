"""Seed to vector: frozen vectors, and a second implementation on Python integers that shares no code with the first."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from mpc.expand import add_expansion, add_expansions, expand
from mpc.ring import Ring, RunningSum, Vector
from tests.mpc.properties import quick
from tests.mpc.test_ring import EDGES

VECTORS = Path(__file__).parents[1] / "vectors" / "expand.json"
CASES: list[dict[str, Any]] = json.loads(VECTORS.read_text())["cases"]
SEED, CONTEXT = bytes(range(32)), bytes(range(100, 132))


def by_hand(seed: bytes, context: bytes, modulus: int, length: int, segment: int = 0) -> tuple[list[int], int]:
    """(the vector, how many words were skipped), with integers, one AES block after the other."""
    info = b"cohortium/v1/share" + (b"/" + str(segment).encode() if segment else b"")
    key = hmac.digest(hmac.digest(context, seed, "sha256"), info + b"\1", "sha256")
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305  # a counter mode is built from it here
    bits = (modulus - 1).bit_length()
    width = 2 if bits + 8 <= 16 else 4 if bits + 8 <= 32 else 8
    limit = 2 ** (8 * width) // modulus * modulus
    vector: list[int] = []
    skipped = counter = 0
    while True:
        octets = block.update(counter.to_bytes(16, "big"))
        counter += 1
        for at in range(0, 16, width):
            if len(vector) == length:
                return vector, skipped
            word = int.from_bytes(octets[at : at + width], "little")
            if word < limit:
                vector.append(word % modulus)
            else:
                skipped += 1


def streamed(seed: bytes, context: bytes, modulus: int, length: int, segment: int = 0) -> Vector:
    ring = Ring(modulus)
    total = RunningSum(ring, ring.zeros(length))
    add_expansion(total, seed, context, segment=segment)
    return total.finish()


def test_there_are_vectors() -> None:
    assert len(CASES) == 45


@pytest.mark.parametrize("make", [expand, streamed])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['modulus']}x{case['length']}")
def test_agrees_with_the_frozen_vectors(case: dict[str, Any], make: Any) -> None:
    vector = make(bytes.fromhex(case["seed"]), bytes.fromhex(case["context"]), case["modulus"], case["length"])

    assert (vector.dtype, vector.shape) == (np.uint64, (case["length"],))
    if "vector" in case:
        assert vector.tolist() == case["vector"]
    else:
        assert vector[: len(case["first"])].tolist() == case["first"]
        assert vector[-len(case["last"]) :].tolist() == case["last"]
        assert sum(vector.tolist()) % case["modulus"] == case["sum_mod"]
        assert hashlib.sha256(vector.astype("<u8").tobytes()).hexdigest() == case["sha256_u64le"]


@pytest.mark.parametrize("modulus", EDGES)
def test_agrees_with_the_second_implementation_at_every_word_edge(modulus: int) -> None:
    for length in (0, 1, 33):
        vector, _ = by_hand(SEED, CONTEXT, modulus, length)
        assert expand(SEED, CONTEXT, modulus, length).tolist() == vector


@pytest.mark.parametrize(
    ("modulus", "length"),
    [
        (197, 40_000),  # 2-byte words, two blocks, one word in 500 skipped
        (2**23 + 1, 20_000),  # 4-byte words, two blocks, one in 512
        (2**55 + 1, 9_000),  # 8-byte words, two blocks, one in 512
        (2**64 // 3 + 1, 9_000),  # a third of all words: the most that any modulus skips
    ],
)
def test_words_that_would_bias_the_result_are_skipped(modulus: int, length: int) -> None:
    vector, skipped = by_hand(SEED, CONTEXT, modulus, length)

    assert skipped > 10, "the case must exercise what it is for"
    assert expand(SEED, CONTEXT, modulus, length).tolist() == vector
    assert streamed(SEED, CONTEXT, modulus, length).tolist() == vector


def test_the_first_word_that_would_bias_is_skipped() -> None:
    """2^16 = 257 x 255 + 1: of all words only 0xffff is one too many. This seed's stream has it, once."""
    seed = (263).to_bytes(32, "big")
    vector, skipped = by_hand(seed, bytes(32), 255, 500)

    assert skipped == 1
    assert expand(seed, bytes(32), 255, 500).tolist() == vector


@given(
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
    st.one_of(st.sampled_from(EDGES), st.integers(2, 2**63)),
    st.integers(0, 60),
    st.integers(0, 12),
)
@quick
def test_agrees_with_the_second_implementation_anywhere(
    seed: bytes, context: bytes, modulus: int, length: int, segment: int
) -> None:
    vector, _ = by_hand(seed, context, modulus, length, segment)

    assert expand(seed, context, modulus, length, segment=segment).tolist() == vector
    assert streamed(seed, context, modulus, length, segment).tolist() == vector


def test_a_longer_vector_begins_with_the_shorter() -> None:
    for modulus in (3, 2**63 - 1):
        assert expand(SEED, CONTEXT, modulus, 20_000)[:17].tolist() == expand(SEED, CONTEXT, modulus, 17).tolist()


def test_every_segment_context_and_seed_has_a_vector_of_its_own() -> None:
    vectors = [
        expand(SEED, CONTEXT, 2**63, 4),
        expand(SEED, CONTEXT, 2**63, 4, segment=1),
        expand(SEED, CONTEXT, 2**63, 4, segment=2),
        expand(SEED, SEED, 2**63, 4),
        expand(CONTEXT, CONTEXT, 2**63, 4),
    ]
    assert len({tuple(vector.tolist()) for vector in vectors}) == len(vectors)


def test_streaming_adds_to_what_is_there() -> None:
    ring = Ring(2**63 - 1)
    total = RunningSum(ring, ring.unpack(ring.pack(expand(SEED, SEED, ring.modulus, 9_000)), 9_000))
    for _ in range(5):
        add_expansion(total, SEED, CONTEXT)

    first, term = (by_hand(SEED, context, ring.modulus, 9_000)[0] for context in (SEED, CONTEXT))
    assert total.finish().tolist() == [(a + 5 * b) % ring.modulus for a, b in zip(first, term, strict=True)]


@pytest.mark.parametrize("length", [0, 1, 30, 600, 20_000])
@pytest.mark.parametrize("modulus", [2, 3, 2**16 - 1, 2**24 - 3, 2**32, 2**45 - 55, 2**61 + 1, 2**62 + 1, 2**63])
def test_many_seeds_are_added_as_one_after_the_other(modulus: int, length: int) -> None:
    """With words to skip in some rows, in none, and rings in which the sum of two vectors already needs reducing."""
    ring, seeds = Ring(modulus), [bytes([number]) * 32 for number in range(7)]
    total = RunningSum(ring, ring.unpack(ring.pack(expand(SEED, SEED, modulus, length)), length))
    add_expansions(total, seeds, CONTEXT, segment=2)

    terms = [by_hand(SEED, SEED, modulus, length)[0], *(by_hand(seed, CONTEXT, modulus, length, 2)[0] for seed in seeds)]
    assert total.finish().tolist() == [sum(column) % modulus for column in zip(*terms, strict=True)]


@pytest.mark.parametrize(("seed", "context"), [(bytes(31), bytes(32)), (bytes(32), bytes(33)), (b"", bytes(32))])
def test_a_seed_or_context_of_another_size_is_refused(seed: bytes, context: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        expand(seed, context, 5, 1)


@pytest.mark.parametrize("modulus", [0, 1, 2**63 + 1])
def test_a_modulus_outside_its_range_is_refused(modulus: int) -> None:
    with pytest.raises(ValueError, match="modulus"):
        expand(SEED, CONTEXT, modulus, 1)
