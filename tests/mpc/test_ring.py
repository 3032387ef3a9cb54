"""Ring arithmetic against Python's integers, with moduli at every edge of a machine word."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mpc.ring import Ring, RunningSum, Vector
from tests.mpc.properties import quick

EDGES = sorted(
    {2, 3, 5, 251, 3_000_001, 10_000_001, 2**63 - 25, 2**63 - 1, 2**63}
    | {2**bits + step for bits in (8, 16, 24, 32, 40, 48, 56) for step in (-1, 0, 1)}
)
moduli = st.one_of(st.sampled_from(EDGES), st.integers(2, 2**63))


def elements(modulus: int) -> st.SearchStrategy[int]:
    return st.one_of(st.sampled_from((0, 1, modulus // 2, modulus - 1)), st.integers(0, modulus - 1))


def vector(values: list[int]) -> Vector:
    return np.array(values, dtype=np.uint64)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[int, list[int], list[int]]:
    modulus = draw(moduli)
    length = draw(st.integers(0, 9))
    one = st.lists(elements(modulus), min_size=length, max_size=length)
    return modulus, draw(one), draw(one)


@given(pairs())
@example((2**63, [2**63 - 1, 0, 2**63 - 1], [2**63 - 1, 2**63 - 1, 0]))
@example((2, [0, 0, 1, 1], [0, 1, 0, 1]))
@quick
def test_add_and_subtract_agree_with_integers(case: tuple[int, list[int], list[int]]) -> None:
    modulus, a, b = case
    ring = Ring(modulus)

    assert ring.add(vector(a), vector(b)).tolist() == [(x + y) % modulus for x, y in zip(a, b, strict=True)]
    assert ring.subtract(vector(a), vector(b)).tolist() == [(x - y) % modulus for x, y in zip(a, b, strict=True)]


def test_arithmetic_leaves_its_arguments_alone_and_works_across_blocks() -> None:
    modulus, size = 2**63 - 25, 3 * 2**13 + 5
    a = (np.arange(size, dtype=np.uint64) * np.uint64(6_700_417_000_003)) % np.uint64(modulus)
    b = a[::-1].copy()
    before = a.tolist(), b.tolist()
    ring = Ring(modulus)

    total, difference = ring.add(a, b), ring.subtract(a, b)

    assert (a.tolist(), b.tolist()) == before
    assert total.tolist() == [(x + y) % modulus for x, y in zip(*before, strict=True)]
    assert difference.tolist() == [(x - y) % modulus for x, y in zip(*before, strict=True)]


@given(moduli, st.lists(st.one_of(st.integers(0, 2**64 - 1), st.just(2**64 - 1)), max_size=9))
@quick
def test_reduce_takes_any_word_modulo_the_modulus(modulus: int, words: list[int]) -> None:
    reduced = vector(words)
    Ring(modulus).reduce(reduced)

    assert reduced.tolist() == [word % modulus for word in words]


@given(pairs())
@quick
def test_packed_vectors_are_little_endian_integers_of_the_least_width(case: tuple[int, list[int], list[int]]) -> None:
    modulus, values, _ = case
    ring = Ring(modulus)
    width = max(1, -(-(modulus - 1).bit_length() // 8))

    packed = ring.pack(vector(values))

    assert packed == b"".join(value.to_bytes(width, "little") for value in values)
    assert ring.unpack(packed, len(values)).tolist() == values
    assert ring.unpack(memoryview(packed), len(values)).dtype == np.uint64


@given(pairs(), st.integers(-3, 3).filter(bool))
@quick
def test_unpack_refuses_another_length(case: tuple[int, list[int], list[int]], off: int) -> None:
    modulus, values, _ = case
    ring = Ring(modulus)
    packed = ring.pack(vector(values))

    with pytest.raises(ValueError, match="another length"):
        ring.unpack(packed + bytes(off) if off > 0 else packed + bytes(9), len(values) if off > 0 else len(values) + 99)
    if values:
        with pytest.raises(ValueError, match="another length"):
            ring.unpack(packed[:-1], len(values))


@pytest.mark.parametrize("modulus", [m for m in EDGES if m < 256 ** Ring(m).width])
def test_unpack_refuses_an_element_that_is_not_reduced(modulus: int) -> None:
    ring = Ring(modulus)
    good, bad = (value.to_bytes(ring.width, "little") for value in (modulus - 1, modulus))
    largest = b"\xff" * ring.width

    assert ring.unpack(good, 1).tolist() == [modulus - 1]
    for packed in (bad, largest):
        with pytest.raises(ValueError, match="not below the modulus"):
            ring.unpack(good + packed + good, 3)


@given(pairs(), st.integers(1, 40))
@example((2**63, [2**63 - 1], [2**63 - 1]), 9)
@example((2**63 - 1, [2**63 - 2], [2**63 - 2]), 9)
@example((2**62 + 1, [2**62], [2**62]), 17)
@quick
def test_a_running_sum_never_overflows(case: tuple[int, list[int], list[int]], terms: int) -> None:
    modulus, start, term = case
    total = RunningSum(Ring(modulus), vector(start))

    for _ in range(terms):
        total.add(vector(term))

    assert total.finish().tolist() == [(x + terms * y) % modulus for x, y in zip(start, term, strict=True)]


@pytest.mark.parametrize("modulus", EDGES)
def test_lazy_terms_is_the_most_that_a_word_holds(modulus: int) -> None:
    terms = Ring(modulus).lazy_terms

    assert terms * (modulus - 1) < 2**64 <= (terms + 1) * (modulus - 1)


@pytest.mark.parametrize("around", [-1, 0, 1, 2])
@pytest.mark.parametrize("modulus", [m for m in EDGES if m >= 2**56 - 1])
def test_a_running_sum_at_the_edge_of_its_room(modulus: int, around: int) -> None:
    ring = Ring(modulus)
    terms = ring.lazy_terms + around
    total = RunningSum(ring, vector([modulus - 1]))

    for _ in range(terms - 1):
        total.add(vector([modulus - 1]))

    assert total.finish().tolist() == [terms * (modulus - 1) % modulus]


@pytest.mark.parametrize("modulus", [-1, 0, 1, 2**63 + 1, 2**64])
def test_a_modulus_outside_its_range_is_refused(modulus: int) -> None:
    with pytest.raises(ValueError, match=r"between 2 and 2\^63"):
        Ring(modulus)
