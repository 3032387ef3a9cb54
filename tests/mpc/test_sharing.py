"""Shares add up, and n-1 of them say nothing: tested as statistics, on fixed seeds."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpc.expand import expand
from mpc.ring import Ring, Vector
from mpc.secret import Entropy, Secret
from mpc.sharing import combine, draw_seeds, own_share, partial_sum
from tests.mpc.properties import quick
from tests.mpc.test_ring import elements, moduli

CONTEXT = hashlib.sha256(b"a context").digest()


def entropy(start: str) -> Entropy:
    """The same bytes each time, for a test that must not fail by chance."""
    numbers = itertools.count()
    return lambda size: hashlib.sha256(f"{start} {next(numbers)}".encode()).digest()[:size]


@st.composite
def inputs(draw: st.DrawFn) -> tuple[int, list[list[int]]]:
    modulus = draw(moduli)
    members, length = draw(st.integers(2, 6)), draw(st.integers(0, 5))
    row = st.lists(elements(modulus), min_size=length, max_size=length)
    return modulus, draw(st.lists(row, min_size=members, max_size=members))


def run(modulus: int, values: list[Vector], draw: Entropy, segment: int = 0) -> list[Vector]:
    """Every member's partial sum."""
    ring, members = Ring(modulus), range(len(values))
    sent = {i: dict(zip([j for j in members if j != i], draw_seeds(len(values) - 1, draw), strict=True)) for i in members}
    return [
        partial_sum(
            ring,
            own_share(ring, values[i], sent[i].values(), CONTEXT, segment=segment),
            [sent[j][i] for j in members if j != i],
            CONTEXT,
            segment=segment,
        )
        for i in members
    ]


@given(inputs(), st.integers(0, 3))
@quick
def test_the_partial_sums_add_up_to_the_sum(case: tuple[int, list[list[int]]], segment: int) -> None:
    modulus, rows = case
    values = [np.array(row, dtype=np.uint64) for row in rows]

    total = combine(Ring(modulus), run(modulus, values, entropy("sum"), segment), len(rows[0]))

    assert total.tolist() == [sum(column) % modulus for column in zip(*rows, strict=True)]
    assert [value.tolist() for value in values] == rows, "a member's own values are not changed"


def test_what_is_missing_from_the_sum_shows() -> None:
    values = [np.array([7], dtype=np.uint64)] * 3
    partial_sums = run(1_000_003, values, entropy("missing"))

    assert combine(Ring(1_000_003), partial_sums, 1).tolist() == [21]
    for left_out in range(3):
        rest = partial_sums[:left_out] + partial_sums[left_out + 1 :]
        assert combine(Ring(1_000_003), rest, 1).tolist() not in ([7], [14], [21])


def shares_of(modulus: int, value: int, members: int, length: int) -> list[Vector]:
    """All shares of one member's constant vector, its own first."""
    ring = Ring(modulus)
    seeds = draw_seeds(members - 1, entropy(f"{modulus} {value} {members}"))
    own = own_share(ring, np.full(length, value, dtype=np.uint64), seeds, CONTEXT)
    return [own, *(expand(seed.reveal(), CONTEXT, modulus, length) for seed in seeds)]


def chi_squared(modulus: int, shares: list[Vector]) -> float:
    """Pearson's statistic of the shares' joint distribution against the uniform one, modulus^shares cells."""
    cells, length = modulus ** len(shares), shares[0].size
    code = np.zeros(length, dtype=np.uint64)
    for share in shares:
        code = code * np.uint64(modulus) + share
    counts = np.bincount(code.astype(np.int64), minlength=cells)
    expected = length / cells
    return float(((counts - expected) ** 2 / expected).sum())


def critical(freedom: int) -> float:
    """Above this a uniform sample lies once in a million times (Wilson and Hilferty 1931; 4.7534 is the normal's quantile)."""
    spread = 2 / (9 * freedom)
    return float(freedom * (1 - spread + 4.7534 * spread**0.5) ** 3)


def test_the_critical_value_is_the_quantile() -> None:
    # The exact ones at p = 10^-6, by bisection of the survival function, a finite sum for even degrees of freedom.
    assert [critical(freedom) for freedom in (10, 24, 50)] == pytest.approx([46.86, 72.23, 112.61], abs=1.2)


@pytest.mark.parametrize(("modulus", "members"), [(5, 3), (7, 3), (3, 4)])
def test_any_but_one_of_the_shares_are_uniform_whatever_the_value(modulus: int, members: int) -> None:
    for value in range(modulus):
        shares = shares_of(modulus, value, members, 40_000)
        for held in itertools.combinations(shares, members - 1):
            assert chi_squared(modulus, list(held)) < critical(modulus ** (members - 1) - 1)


def test_all_of_the_shares_together_are_not_uniform() -> None:
    """The test above can fail: with every share the value is known, and the statistic says so."""
    assert chi_squared(5, shares_of(5, 2, 3, 40_000)) > 100_000


def test_what_all_but_one_member_hold_of_two_inputs_has_one_distribution() -> None:
    """Two-sample test: the shares of 0 and of M-1 that two of three hold."""
    for held in ((0, 1), (0, 2), (1, 2)):
        counts = []
        for value in (0, 4):
            shares = shares_of(5, value, 3, 40_000)
            counts.append(Counter(zip(*(shares[index].tolist() for index in held), strict=True)))
        statistic = sum((counts[0][cell] - counts[1][cell]) ** 2 / (counts[0][cell] + counts[1][cell]) for cell in counts[0])
        assert statistic < critical(24)


def test_seeds_are_drawn_one_by_one_and_never_print() -> None:
    asked: list[int] = []

    def draw(size: int) -> bytes:
        asked.append(size)
        return bytes([len(asked)]) * size

    seeds = draw_seeds(3, draw)

    assert asked == [32, 32, 32]
    assert [seed.reveal() for seed in seeds] == [b"\1" * 32, b"\2" * 32, b"\3" * 32]
    assert {repr(seed) for seed in seeds} == {"<secret>"}


def test_another_segment_has_other_shares() -> None:
    ring, value = Ring(2**63), np.zeros(4, dtype=np.uint64)
    seeds = [Secret(bytes(32))]

    shares: Iterator[Vector] = (own_share(ring, value, seeds, CONTEXT, segment=segment) for segment in range(3))

    assert len({tuple(share.tolist()) for share in shares}) == 3
