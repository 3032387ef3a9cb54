"""From local values to ring elements and back: exact at every edge, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mpc.errors import DataError, StudyError
from mpc.ring import Vector
from mpc.statistics import Segment, decode, encode, plan
from mpc.study import Statistic, Study, Variable
from tests.mpc.nodes import study
from tests.mpc.properties import quick
from tests.mpc.world import array

NAMES = ("alice", "bob", "charlie")
GOOD = study(*NAMES)


def of(minimum: int, maximum: int, length: int = 1, **changes: Any) -> Study:
    return replace(GOOD, variables=(Variable.number("value", "", minimum, maximum, length),), **changes)


def added(asked: Study, rows: list[list[int]]) -> list[int]:
    """The statistic over these members' values, through the ring's elements as Python integers."""
    (segment,) = plan(asked)
    columns = zip(*(encode(asked, {"value": array(row)})[0].tolist() for row in rows), strict=True)
    total: Vector = np.array([sum(column) % segment.modulus for column in columns], dtype=np.uint64)
    (values,) = decode(asked, (total,), len(rows))
    return [int(value) for value in values]


@given(st.data())
@quick
def test_the_sum_is_exact_for_any_bounds_that_are_planned(data: st.DataObject) -> None:
    edges = (-(2**63), -(2**62), -1, 0, 1, 2**62, 2**63 - 1, (2**63 - 1) // 3, -(2**63 // 3))
    bounds = st.one_of(st.sampled_from(edges), st.integers(-(2**63), 2**63 - 1))
    near = data.draw(bounds)
    far = data.draw(st.one_of(bounds, st.integers(0, 9).map(lambda more: min(near + more, 2**63 - 1))))
    minimum, maximum = sorted((near, far))
    length = data.draw(st.integers(1, 3))
    asked = of(minimum, maximum, length)
    try:
        plan(asked)
    except StudyError:
        return
    value = st.one_of(st.sampled_from((minimum, maximum)), st.integers(minimum, maximum))
    rows = data.draw(st.lists(st.lists(value, min_size=length, max_size=length), min_size=3, max_size=3))

    assert added(asked, rows) == [sum(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize(
    ("minimum", "maximum"), [(0, 1), (-5, 5), (-(2**61), 2**59), (3_000_000, 3_000_001), (0, (2**63 - 1) // 3), (-1000, -999)]
)
def test_the_sum_is_exact_at_its_bounds(minimum: int, maximum: int) -> None:
    for row in ([minimum] * 3, [maximum] * 3, [minimum, maximum, maximum]):
        assert added(of(minimum, maximum), [[value] for value in row]) == [sum(row)]


@pytest.mark.parametrize(
    ("minimum", "maximum"),
    [
        ((2**63 - 1) // 3, (2**63 - 1) // 3 + 1),  # 3 x maximum is 2^63 + 1
        (2**62, 2**62 + 1),  # 3 x minimum leaves 64 bits, too
        (-(2**62) - 1, -(2**62)),
        (-(2**63) + 1, -(2**63) + 2),
    ],
)
def test_a_study_whose_sum_leaves_64_bits_is_refused_before_the_round(minimum: int, maximum: int) -> None:
    with pytest.raises(StudyError, match="leave 64 bits; narrow the bounds"):
        plan(of(minimum, maximum))


def test_an_assumed_range_may_be_as_large_as_64_bits_allow() -> None:
    assert plan(of(0, 2**63 - 1, range=2**63 - 1, assume_in_range=True)) == (Segment(2**63, 1),)


def test_the_modulus_is_members_times_the_width_of_the_bounds_and_one() -> None:
    assert plan(GOOD) == (Segment(3_000_001, 1),)
    assert plan(of(-10, 10, length=7)) == (Segment(61, 7),)
    assert plan(of(0, (2**63 - 1) // 3)) == (Segment(2**63 - 1, 1),)
    assert Segment(61, 7).ring.modulus == 61


def test_a_given_range_is_the_modulus_less_one() -> None:
    assert plan(of(0, 100, range=300)) == (Segment(301, 1),)
    assert plan(of(0, 100, range=2**63 - 1)) == (Segment(2**63, 1),)


def test_what_does_not_fit_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(StudyError, match=r"3 members x 100 = 300 is above the range 299; widen 'range', narrow the bounds"):
        plan(of(0, 100, range=299))
    bound = 2**63 // 3 + 1
    with pytest.raises(StudyError, match=rf"3 members x {bound} = {3 * bound} .*; narrow the bounds"):
        plan(of(0, bound))


def test_a_range_may_be_assumed_for_the_sum_and_never_for_a_single_value() -> None:
    asked = of(0, 100, range=150, assume_in_range=True)
    segments = plan(asked)

    assert segments == (Segment(151, 1),)
    assert added(asked, [[100], [50], [0]]) == [150]
    # Whoever may ask with a range below a member's bound reads the value by whose rounds fail.
    with pytest.raises(StudyError, match="one value may be 100, which is above the range 99"):
        plan(of(0, 100, range=99, assume_in_range=True))


def test_a_statistic_that_is_not_known_is_refused_with_those_that_are() -> None:
    with pytest.raises(StudyError, match="no statistic 'mode'; this version computes sum"):
        plan(replace(GOOD, statistics=(Statistic.of("mode", "value"),)))


def test_a_study_that_is_not_well_formed_is_not_planned() -> None:
    with pytest.raises(StudyError, match="too few"):
        plan(replace(GOOD, members=GOOD.members[:2]))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([-1], "a value is below the minimum 0"),
        ([1_000_001], "a value is above the bound 1000000"),
        ([2**63 - 1], "a value is above the bound"),
        ([-(2**63) + 1], "a value is below the minimum"),
        ([-(2**63)], "a value is missing, which the study refuses"),
        ([], "0 values where the study asks for 1"),
        ([1, 2], "2 values where the study asks for 1"),
    ],
)
def test_a_value_that_the_study_cannot_take_is_refused_and_not_shown(values: list[int], text: str) -> None:
    with pytest.raises(DataError) as caught:
        encode(GOOD, {"value": array(values)})
    assert text in str(caught.value)
    assert "1000001" not in str(caught.value)
    assert str(2**63) not in str(caught.value)


def test_one_value_out_of_bounds_spoils_the_vector() -> None:
    asked = of(10, 20, length=3)
    for values in ([10, 9, 20], [10, 21, 20]):
        with pytest.raises(DataError):
            encode(asked, {"value": array(values)})
    assert encode(asked, {"value": array([10, 15, 20])})[0].tolist() == [0, 5, 10]


def test_a_total_that_the_bounds_do_not_allow_is_refused() -> None:
    asked = of(0, 100, length=2, range=1000)
    good, bad = np.array([300, 0], dtype=np.uint64), np.array([0, 301], dtype=np.uint64)

    assert decode(asked, (good,), 3)[0].tolist() == [300, 0]
    with pytest.raises(ValueError, match="outside what the members' bounds allow"):
        decode(asked, (bad,), 3)


def test_several_variables_keep_the_studys_order() -> None:
    asked = replace(
        GOOD,
        variables=(Variable.number("weight", "kg", 0, 10, 1), Variable.number("height", "cm", 5, 8, 2)),
        statistics=(Statistic.of("sum", "height"), Statistic.of("sum", "weight")),
    )
    segments = plan(asked)
    vectors = encode(asked, {"weight": array([7]), "height": array([5, 8])})

    # Totals of up to 9 and up to 30 take one byte each: they share a segment.
    assert segments == (Segment(31, 3),)
    assert [vector.tolist() for vector in vectors] == [[0, 3, 7]]
    assert [values.tolist() for values in decode(asked, vectors, 3)] == [[15, 18], [7]]
