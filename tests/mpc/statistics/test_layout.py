"""Every element has a place in a ring that holds its total; what cannot fit is refused with the arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mpc.errors import StudyError
from mpc.ring import MAX_MODULUS
from mpc.statistics import FAMILIES, Segment, make_layout, plan
from mpc.statistics.columns import Records, read
from mpc.statistics.component import MISSING, Values
from mpc.statistics.layout import Layout, add_up, write
from mpc.study import Statistic, Study, Variable
from tests.mpc.properties import quick
from tests.mpc.statistics.pool import question, whole

SEX = Variable.category("sex", ("female", "male"), missing="omit")
DOSE = whole("dose", -3, 12, missing="omit")
WEIGHT = Variable.number("weight", "kg", 0, 300, scale=10)
DEAD = whole("dead", 0, 1)
STEPS = Variable.number("steps", "", -5, 5, 3)
EVERYTHING = question(
    (SEX, DOSE, WEIGHT, DEAD, STEPS, Variable.category("ward", ("a", "b", "c"))),
    Statistic.of("sum", "steps", by="sex"),
    Statistic.of("count", "dose"),
    Statistic.of("mean", "weight", by="ward"),
    Statistic.of("histogram", "weight", edges=(10, 100, 250)),
    Statistic.of("quantiles", "dose", bins=4),
    Statistic.of("extremes", "weight", by="sex", bins=7),
    Statistic.of("contingency", "sex", "ward"),
    Statistic.of("covariance", "dose", "weight", "dead"),
    Statistic.of("linear-regression", "weight", "dose", "sex", "ward"),
    Statistic.of("logistic-regression", "dead", "weight", "ward"),
    Statistic.of("kaplan-meier", "weight", "dead", by="ward", bins=20),
    Statistic.of("weighted-mean", "steps", "dead"),
    records=20,
)


def columns(draw: st.DrawFn, study: Study, size: int) -> dict[str, Values]:
    def column(variable: Variable) -> Values:
        value = st.integers(variable.minimum, variable.maximum) | st.sampled_from((variable.minimum, variable.maximum))
        value = value | st.just(MISSING) if variable.omits else value
        count = size * variable.length
        return np.array(draw(st.lists(value, min_size=count, max_size=count)), dtype=np.int64)

    return {variable.name: column(variable) for variable in study.variables}


def records(values: dict[str, Values], study: Study) -> Records:
    return read(replace(study, records=1000), values)


def test_every_kind_is_in_the_properties_below() -> None:
    assert {statistic.kind for statistic in EVERYTHING.statistics} == set(FAMILIES)


@given(st.data())
@quick
def test_any_records_within_bounds_are_encoded_within_the_planned_bounds(data: st.DataObject) -> None:
    """So nothing that a study may ask depends on values, and no total can leave its ring."""
    one_each = data.draw(st.booleans())
    study = replace(EVERYTHING, records=1) if one_each else EVERYTHING
    layout = make_layout(study)
    values = data.draw(st.composite(columns)(study, 1 if one_each else data.draw(st.integers(0, 20))))
    vectors = [add_up(part, read(study, values)) for part in layout.parts]

    for part, vector in zip(layout.parts, vectors, strict=True):
        assert vector.shape == (part.length,)
        for piece in part.pieces:
            elements = vector[piece.start : piece.start + piece.length]
            assert piece.low <= elements.min()
            assert elements.max() <= piece.low + piece.width
    for segment, written in zip(layout.segments, write(layout, vectors), strict=True):
        assert segment.ring.contains(written)


@given(st.data())
@quick
def test_records_that_are_split_add_up_to_the_same_as_together(data: st.DataObject) -> None:
    size = data.draw(st.integers(0, 12))
    values = data.draw(st.composite(columns)(EVERYTHING, size))
    cut = data.draw(st.integers(0, size))

    def piece(start: int, stop: int) -> dict[str, Values]:
        return {
            variable.name: values[variable.name][start * variable.length : stop * variable.length]
            for variable in EVERYTHING.variables
        }

    for part in make_layout(EVERYTHING).parts:
        together = add_up(part, records(values, EVERYTHING))
        apart = add_up(part, records(piece(0, cut), EVERYTHING)) + add_up(part, records(piece(cut, size), EVERYTHING))
        # The sums of a logistic regression are real numbers, rounded by each node.
        assert np.abs(together - apart).max(initial=0) <= (2 if part.family.kind == "logistic-regression" else 0)


def everything(layout: Layout) -> list[tuple[int, int, int]]:
    """(segment, first, behind the last) of each piece, in order of place."""
    return sorted((piece.segment, piece.at, piece.at + piece.length) for part in layout.parts for piece in part.pieces)


def test_pieces_fill_the_segments_without_gap_or_overlap() -> None:
    layout = make_layout(EVERYTHING)
    for index, segment in enumerate(layout.segments):
        mine = [(first, last) for at, first, last in everything(layout) if at == index]
        assert [first for first, _ in mine] == [0, *(last for _, last in mine[:-1])]
        assert mine[-1][1] == segment.length


def test_elements_share_a_segment_with_those_of_the_same_size_only() -> None:
    layout = make_layout(EVERYTHING)
    assert len(layout.segments) <= 8
    assert [segment.ring.width for segment in layout.segments] == sorted({s.ring.width for s in layout.segments})
    for part in layout.parts:
        for piece in part.pieces:
            total = len(EVERYTHING.members) * piece.width
            ring = layout.segments[piece.segment].ring
            assert total < ring.modulus <= MAX_MODULUS
            assert (total.bit_length() + 7) // 8 == ring.width


def test_a_histogram_does_not_pay_for_a_sum_of_squares() -> None:
    age = whole("age", 0, 120)
    asked = question((age,), Statistic.of("histogram", "age", bins=60), Statistic.of("mean", "age"), members=100, records=50)
    # n of both, 60 bins of 2 years, at most 100 x 50 each; the sum of age - 60; and of its squares up to 3600.
    assert plan(asked) == (Segment(5001, 62), Segment(100 * 50 * 120 + 1, 1), Segment(100 * 50 * 3600 + 1, 1))
    assert make_layout(asked).octets == 62 * 2 + 3 + 4


def test_one_record_a_member_needs_no_count() -> None:
    age = whole("age", 0, 120)
    assert make_layout(question((age,), Statistic.of("mean", "age"))).length == 2
    assert make_layout(question((age,), Statistic.of("mean", "age"), records=2)).length == 3
    assert make_layout(question((replace(age, missing="omit"),), Statistic.of("mean", "age"))).length == 4
    assert make_layout(question((age, SEX), Statistic.of("mean", "age", by="sex"))).length == 1 + 2 * 3
    assert make_layout(question((age,), Statistic.of("count", "age"))).length == 1


@pytest.mark.parametrize(
    ("study", "text"),
    [
        (
            question((whole("salary", 0, 2 * 10**9),), Statistic.of("mean", "salary")),
            "mean of salary: squares: 10 members x 1000000000000000000 = 10000000000000000000 is above 2^63 - 1; narrow",
        ),
        (
            question((Variable.number("area", "mm2", 0, 10**8, scale=1000),), Statistic.of("mean", "area"), records=1000),
            "squares: 10 members x 1000 records x 2500000000000000 = 25000000000000000000 is above 2^63 - 1; narrow the bounds, "
            "or ask for fewer 'records', or lower the 'scale'",
        ),
        (
            question((whole("a", 0, 2**40), whole("b", 0, 2**30)), Statistic.of("covariance", "a", "b")),
            "covariance of a: squares: 10 members x",
        ),
        (
            replace(question((whole("a", 0, 9),), Statistic.of("mean", "a")), range=90),
            "range 90: only sums have one; remove 'range'",
        ),
        (
            question(
                (whole("a", 0, 9), Variable.category("b", [str(name) for name in range(1000)])),
                *(Statistic.of("mean", "a", by="b", id=f"m{number}") for number in range(40)),
            ),
            "it adds up too many different numbers",
        ),
    ],
    ids=["squares", "records", "products", "range", "pieces"],
)
def test_what_does_not_fit_is_refused_with_the_arithmetic(study: Study, text: str) -> None:
    with pytest.raises(StudyError) as caught:
        plan(study)
    assert text in str(caught.value)


CAT = Variable.category("cat", ("x", "y"))
A, B = whole("a", 0, 9), whole("b", 0, 9)


@pytest.mark.parametrize(
    ("variables", "statistic", "text"),
    [
        ((CAT,), Statistic.of("sum", "cat"), "sum of cat: cat is a category, which has no size"),
        ((CAT,), Statistic.of("mean", "cat"), "cat is a category, which has no size"),
        ((CAT,), Statistic.of("histogram", "cat"), "cat is a category, which has no bins"),
        ((A, B), Statistic.of("mean", "a", "b"), "mean of a: it takes one variable"),
        ((A,), Statistic.of("covariance", "a"), "it needs a second variable beside a"),
        ((A,), Statistic.of("linear-regression", "a"), "it needs a regressor beside a"),
        ((A, B), Statistic.of("mean", "a", by="b"), "'by' b: a group is a category"),
        ((A,), Statistic.of("mean", "a", bins=3), "'bins' means nothing here; remove it"),
        ((A,), Statistic.of("sum", "a", level=900_000), "'level' means nothing here"),
        ((whole("a", 0, 9, length=2),), Statistic.of("mean", "a"), "a has 2 values a record; name a variable of length 1"),
        ((CAT, B), Statistic.of("contingency", "cat", "b"), "b is a number; name a category"),
        ((A,), Statistic.of("histogram", "a", bins=3, edges=(1, 2)), "both bins and edges; give one"),
        ((A,), Statistic.of("histogram", "a", edges=(4, 4)), "edges must be at least two, and rise"),
        ((A,), Statistic.of("histogram", "a", edges=(4, 10)), "edges 4 to 10 must lie within the bounds [0, 9] of a"),
        ((A,), Statistic.of("histogram", "a", bins=-1), "-1 bins are too few"),
        ((whole("a", 0, 10**9),), Statistic.of("quantiles", "a"), "1000000001 bins are too many; give at most 1000000"),
        ((A,), Statistic.of("quantiles", "a", quantiles=(1_000_001,)), "its quantiles must lie between 0 and 1"),
        ((CAT, B), Statistic.of("linear-regression", "cat", "b"), "cat is a category, which has no size"),
        ((A, B), Statistic.of("logistic-regression", "a", "b"), "a must be a category of two, the event last"),
        ((A, B), Statistic.of("kaplan-meier", "a", "b"), "b must be a category of two, the event last"),
        ((A, whole("b", -1, 9)), Statistic.of("weighted-mean", "a", "b"), "b is no weight"),
        ((CAT, B, SEX), Statistic.of("logistic-regression", "cat", "b", by="sex"), "cannot be computed 'by' a category"),
        (
            (CAT, B),
            replace(Statistic.of("logistic-regression", "cat", "b"), coefficients=(1,)),
            "it has 1 coefficients for 2 terms",
        ),
        (
            (CAT, B),
            replace(Statistic.of("logistic-regression", "cat", "b"), coefficients=(1, 2**62)),
            "its coefficients or its 'records' are too large",
        ),
        (
            (A, *(Variable.category(f"c{n}", [str(name) for name in range(101)]) for n in range(2))),
            Statistic.of("linear-regression", "a", "c0", "c1"),
            "make 201 terms; at most 200 fit",
        ),
    ],
)
def test_a_question_that_means_nothing_says_why(variables: tuple[Variable, ...], statistic: Statistic, text: str) -> None:
    with pytest.raises(StudyError) as caught:
        plan(question(variables, statistic))
    assert text in str(caught.value)


def test_all_problems_of_all_statistics_are_told_at_once() -> None:
    with pytest.raises(StudyError) as caught:
        plan(question((A, CAT), Statistic.of("mean", "cat"), Statistic.of("mean", "a", bins=2)))
    assert len(str(caught.value).splitlines()) == 2


def test_a_vast_question_is_measured_without_being_made() -> None:
    """A patient plans what any hospital asks before it looks at its own limits."""
    vast = question((whole("a", 0, 10, length=2**50),), Statistic.of("sum", "a"))
    assert plan(vast) == (Segment(101, 2**50),)
