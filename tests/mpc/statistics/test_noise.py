"""Noise hides a record in every statistic, leaves the ring its room, and is told with every figure that has it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from scipy.optimize import minimize

from mpc.errors import DataError, StudyError
from mpc.privacy import RHO, rho_of
from mpc.ring import RunningSum
from mpc.statistics import decode, draws, encode, interpret, make_layout, plan
from mpc.statistics.columns import read
from mpc.statistics.component import MISSING, Values
from mpc.statistics.figures import Figures, tables_of
from mpc.statistics.grouped import GroupedFigures
from mpc.statistics.layout import add_up
from mpc.statistics.noise import LEAST_SHARE, MAX_DRAWN, Share
from mpc.statistics.tallies import nearest_tally
from mpc.study import MEMBER, MILLION, RECORD, TINY, Privacy, Statistic, Study, Variable
from tests.mpc.properties import quick
from tests.mpc.statistics.pool import question, totals, whole

PROMISE = Privacy(epsilon=MILLION, delta=10**9, per=RECORD, colluding=1, tail=1000)
HONEST = 2
"""Of the three members of the smallest round."""

SEX = Variable.category("sex", ("f", "m"))
WARD = Variable.category("ward", ("a", "b", "c"))
DOSE = whole("dose", -2, 3)
SCORE = whole("score", 4, 6)
EVENT = whole("event", 0, 1)
GONE = replace(DOSE, name="gone", missing="omit")
PAIR = whole("pair", -1, 2, length=2)
VARIABLES = {one.name: one for one in (SEX, WARD, DOSE, SCORE, EVENT, GONE, PAIR)}


def noisy(*statistics: Statistic, records: int = 1, privacy: Privacy = PROMISE, members: int = 5) -> Study:
    used = {name for one in statistics for name in (one.variable, *one.others, one.by)}
    variables = [variable for variable in VARIABLES.values() if variable.name in used]
    return replace(question(variables, *statistics, members=members, records=records), privacy=privacy)


def every_record(study: Study) -> list[dict[str, list[int]]]:
    def values(variable: Variable) -> Iterator[list[int]]:
        one = [*range(variable.minimum, variable.maximum + 1), *([MISSING] if variable.omits else [])]
        yield from map(list, itertools.product(one, repeat=variable.length))

    columns = [values(variable) for variable in study.variables]
    names = [variable.name for variable in study.variables]
    return [dict(zip(names, row, strict=True)) for row in itertools.product(*columns)]


def worst(study: Study, copies: int, *, absent: bool) -> float:
    """The most rho that any two inputs cost which differ in `copies` equal records, over what the honest members draw."""
    parts, large = make_layout(study).parts, replace(study, records=max(2, study.records))
    pieces = [piece for part in parts for piece in part.pieces]
    each = [piece.share.sigma / piece.share.steps if piece.share.sigma else math.inf for piece in pieces]
    deviations = np.repeat(each, [piece.length for piece in pieces])

    def vector(record: dict[str, list[int]] | None) -> npt.NDArray[np.float64]:
        size = copies if record is not None else 0
        values = {v.name: np.array(record[v.name] * size if record else [], dtype=np.int64) for v in study.variables}
        return np.concatenate([add_up(part, read(large, values)) for part in parts]).astype(float)

    inputs = np.array([vector(record) for record in every_record(study)] + ([vector(None)] if absent else []))
    scaled = inputs / deviations
    assert np.ptp(inputs[:, np.isinf(deviations)], axis=0).max(initial=0.0) == 0, "what differs has noise"
    squares = np.square(scaled[:, None, :] - scaled[None, :, :]).sum(axis=2)
    return float(squares.max()) / (2 * HONEST)


ONE_EACH = [
    (Statistic.of("sum", "dose"), 0.98),
    (Statistic.of("sum", "pair"), 0.98),
    (Statistic.of("mean", "dose"), 0.4),
    (Statistic.of("mean", "event"), 0.98),
    (Statistic.of("mean", "dose", by="sex"), 0.4),
    (Statistic.of("count", "gone"), 0.3),
    (Statistic.of("count", "dose", by="ward"), 0.98),
    (Statistic.of("histogram", "dose"), 0.98),
    (Statistic.of("histogram", "dose", edges=(0, 2), by="ward"), 0.98),
    (Statistic.of("quantiles", "gone", bins=2), 0.4),
    (Statistic.of("extremes", "dose", bins=3), 0.98),
    (Statistic.of("contingency", "sex", "ward"), 0.98),
    (Statistic.of("covariance", "dose", "score"), 0.4),
    (Statistic.of("covariance", "dose", "score", "event"), 0.4),
    (Statistic.of("linear-regression", "dose", "ward", "sex"), 0.4),
    (Statistic.of("kaplan-meier", "score", "event", by="sex"), 0.98),
    (Statistic.of("weighted-mean", "pair", "event"), 0.6),
    (Statistic.of("weighted-mean", "dose", "event", by="sex"), 0.3),
]


@pytest.mark.parametrize(("statistic", "tight"), ONE_EACH, ids=lambda one: getattr(one, "kind", ""))
def test_no_record_costs_more_than_the_promise(statistic: Statistic, tight: float) -> None:
    rho = rho_of(PROMISE.epsilon, PROMISE.delta) / RHO
    assert tight * rho <= worst(noisy(statistic), 1, absent=False) <= rho


@pytest.mark.parametrize(("statistic", "tight"), ONE_EACH, ids=lambda one: getattr(one, "kind", ""))
def test_a_record_that_is_there_or_not_costs_no_more(statistic: Statistic, tight: float) -> None:
    rho = rho_of(PROMISE.epsilon, PROMISE.delta) / RHO
    assert tight * rho / 4 <= worst(noisy(statistic, records=3), 1, absent=True) <= rho


@pytest.mark.parametrize(("statistic", "tight"), ONE_EACH, ids=lambda one: getattr(one, "kind", ""))
def test_all_records_of_a_member_cost_no_more_where_that_is_promised(statistic: Statistic, tight: float) -> None:
    rho = rho_of(PROMISE.epsilon, PROMISE.delta) / RHO
    study = noisy(statistic, records=3, privacy=replace(PROMISE, per=MEMBER))
    assert tight * rho / 4 <= worst(study, 3, absent=True) <= rho


def test_statistics_share_the_promise() -> None:
    both = noisy(Statistic.of("sum", "dose"), Statistic.of("histogram", "dose"))
    rho = rho_of(PROMISE.epsilon, PROMISE.delta) / RHO
    assert 0.98 * rho <= worst(both, 1, absent=False) <= rho
    (alone,), (shared, _) = draws(noisy(Statistic.of("sum", "dose"))), draws(both)
    steps = [part.pieces[0].share.steps for part in make_layout(both).parts]
    assert shared[0] / steps[0] == pytest.approx(math.sqrt(2) * alone[0] / steps[0], rel=0.05)


def discrete_gaussian(sigma: int) -> npt.NDArray[np.float64]:
    """The masses of N_Z(0, sigma^2) from -12 sigma to 12 sigma."""
    mass = np.exp(-np.square(np.arange(-12 * sigma, 12 * sigma + 1)) / (2 * sigma**2))
    return np.asarray(mass / mass.sum())


@pytest.mark.parametrize("epsilon", [MILLION, 8 * MILLION])
def test_the_honest_members_alone_keep_epsilon_and_delta(epsilon: int) -> None:
    # Worked out from the masses themselves, of totals that differ as far as two records make them.
    study = noisy(Statistic.of("sum", "event"), privacy=replace(PROMISE, epsilon=epsilon))
    ((sigma, _),), ((piece,),) = draws(study), (part.pieces for part in make_layout(study).parts)
    together = np.convolve(discrete_gaussian(sigma), discrete_gaussian(sigma))
    moved = np.concatenate([np.zeros(piece.share.steps), together[: -piece.share.steps]])
    delta = float(np.maximum(together - math.exp(epsilon / MILLION) * moved, 0).sum())
    assert 1e-2 * PROMISE.delta / TINY < delta <= PROMISE.delta / TINY


def test_a_share_has_the_least_noise_at_which_sums_of_shares_are_as_good() -> None:
    for statistic, _ in ONE_EACH:
        for sigma, _count in draws(noisy(statistic, privacy=replace(PROMISE, epsilon=50 * MILLION))):
            assert sigma >= LEAST_SHARE
    # What sums of shares lack, as a power of ten, at the largest number of members and elements: 2 x 8 h exp(-pi^2 v) sqrt(d).
    assert math.log10(16 * 1000 * math.sqrt(MAX_DRAWN)) - math.pi**2 * LEAST_SHARE**2 / math.log(10) < -70_000


# ---- rings


def test_the_ring_has_room_for_the_noise_of_all_members_on_both_sides() -> None:
    (part,) = make_layout(noisy(Statistic.of("sum", "dose"))).parts
    (segment,) = plan(noisy(Statistic.of("sum", "dose")))
    (piece,) = part.pieces
    # Five members, five steps of a dose; a normal variable leaves this many deviations with the stated probability.
    deviation = math.sqrt(5) * piece.share.sigma
    assert segment.modulus == 5 * 5 * piece.share.steps + 2 * piece.tail + 1
    assert 2 * math.exp(-(piece.tail**2) / (2 * deviation**2)) <= PROMISE.tail / TINY
    assert piece.tail < 8 * deviation


def test_totals_below_zero_and_above_the_largest_come_back() -> None:
    study = noisy(Statistic.of("sum", "dose"))
    (segment,), (part,) = plan(study), make_layout(study).parts
    (piece,) = part.pieces
    steps, tail, ring = piece.share.steps, piece.tail, segment.ring
    for lowest, noise in ((True, -tail), (False, tail), (True, tail), (False, -tail), (True, steps // 2), (True, -steps)):
        value = -2 if lowest else 3
        total = RunningSum(ring, ring.zeros(1))
        for member in range(5):
            (vector,) = encode(study, {"dose": np.array([value])}, [noise if member == 2 else 0])
            assert ring.contains(vector)
            total.add(vector)
        ((found,),) = decode(study, [total.finish()], 5)
        assert found == 5 * value + math.floor(noise / steps + 0.5)


def test_a_total_beyond_the_tail_is_refused() -> None:
    study = noisy(Statistic.of("sum", "dose"))
    (segment,), (part,) = plan(study), make_layout(study).parts
    beyond = 3 * 5 * part.pieces[0].share.steps + part.pieces[0].tail + 1
    assert beyond < segment.modulus - part.pieces[0].tail, "of three members, of the five that are asked"
    decode(study, [np.array([beyond - 1], dtype=np.uint64)], 3)
    with pytest.raises(ValueError, match="outside"):
        decode(study, [np.array([beyond], dtype=np.uint64)], 3)


@given(st.data())
@quick
def test_noise_comes_out_as_it_went_in(data: st.DataObject) -> None:
    study = noisy(
        Statistic.of("mean", "dose", by="sex"), Statistic.of("count", "dose"), Statistic.of("histogram", "dose"), records=4
    )
    drawn = [data.draw(st.lists(st.integers(-3 * s, 3 * s), min_size=n, max_size=n)) for s, n in draws(study)]
    flat = [number for numbers in drawn for number in numbers]
    values = {"dose": np.array([-2, 3, 3]), "sex": np.array([0, 1, 1])}
    exact = np.concatenate([add_up(part, read(study, values)) for part in make_layout(study).parts])
    totals = [RunningSum(segment.ring, segment.ring.zeros(segment.length)) for segment in plan(study)]
    for member in range(5):
        for total, vector in zip(totals, encode(study, values, flat if member == 4 else [0] * len(flat)), strict=True):
            total.add(vector)
    found = np.concatenate(decode(study, [total.finish() for total in totals], 5))
    pieces = [piece for part in make_layout(study).parts for piece in part.pieces]
    steps = np.repeat([piece.share.steps for piece in pieces], [piece.length for piece in pieces])
    expected = [5 * int(x) + math.floor(Fraction(e, int(s)) + Fraction(1, 2)) for x, e, s in zip(exact, flat, steps, strict=True)]
    assert found.tolist() == expected


@pytest.mark.parametrize("drawn", [(), (0, 0), (0,) * 5])
def test_a_value_is_not_shared_with_less_noise_or_more(drawn: Sequence[int]) -> None:
    study = noisy(Statistic.of("histogram", "event"), Statistic.of("sum", "dose"))
    assert sum(count for _, count in draws(study)) == 3
    with pytest.raises(DataError, match="not what the layout asks for"):
        encode(study, {"dose": np.array([1]), "event": np.array([1])}, drawn)


def test_a_study_without_noise_draws_none() -> None:
    assert draws(replace(noisy(Statistic.of("sum", "dose")), privacy=None)) == ()


# ---- what cannot be asked


@pytest.mark.parametrize(
    ("statistics", "records", "words"),
    [
        ([Statistic.of("logistic-regression", "event", "dose")], 5, "every round of its fit would cost the whole epsilon again"),
        ([Statistic.of("count", "dose")], 1, "does not depend on any record; remove 'privacy'"),
        ([Statistic.of("sum", "wide")], 1, "leave 64 bits|above 2\\^63|too large for totals"),
        ([Statistic.of("histogram", "fine")], 1, f"{MAX_DRAWN + 1} numbers need noise, and a node draws at most {MAX_DRAWN}"),
    ],
)
def test_what_noise_cannot_hide_is_refused(statistics: list[Statistic], records: int, words: str) -> None:
    more = (whole("wide", -(2**61), 2**61), whole("fine", 0, MAX_DRAWN))
    used = {name for one in statistics for name in (one.variable, *one.others)}
    study = question([v for v in (*VARIABLES.values(), *more) if v.name in used], *statistics, members=3, records=records)
    with pytest.raises(StudyError, match=words):
        plan(replace(study, privacy=PROMISE))


def test_an_epsilon_that_no_noise_keeps_is_refused() -> None:
    with pytest.raises(StudyError, match="privacy: no noise keeps an epsilon that small"):
        plan(noisy(Statistic.of("sum", "dose"), privacy=replace(PROMISE, epsilon=1, delta=1)))


def test_ten_thousand_numbers_are_not_too_many() -> None:
    study = question([whole("fine", 1, MAX_DRAWN)], Statistic.of("histogram", "fine"), members=3)
    assert sum(count for _, count in draws(replace(study, privacy=PROMISE))) == MAX_DRAWN


# ---- counts


@given(st.lists(st.integers(-40, 60), min_size=1, max_size=30), st.integers(0, 200))
@quick
def test_a_tally_is_whole_and_adds_up(counts: list[int], n: int) -> None:
    tally = nearest_tally(np.array(counts), n)
    assert tally.min() >= 0
    assert tally.sum() == n


def test_a_tally_that_can_be_stays_as_it_is() -> None:
    assert nearest_tally(np.array([3, 0, 9]), 12).tolist() == [3, 0, 9]
    assert nearest_tally(np.array([], dtype=np.int64), 0).tolist() == []
    assert nearest_tally(np.array([5, 1]), 0).tolist() == [0, 0]


def test_a_tally_is_the_nearest_there_is() -> None:
    counts, n = np.array([40, -7, 3, 12, -2, 0, 25]), 60
    nearest = minimize(
        lambda c: np.square(c - counts).sum(),
        np.full(7, n / 7),
        bounds=[(0, None)] * 7,
        constraints={"type": "eq", "fun": lambda c: c.sum() - n},
    ).x
    assert np.abs(nearest_tally(counts, n) - nearest).max() < 1


# ---- figures

AGE = Variable.number("age", "a", 200, 900, scale=10)
PRESSURE = whole("pressure", 60, 260, "mmHg")
DAYS = whole("days", 0, 60, "d")
SMOKES = Variable.category("smokes", ("no", "yes"))
COHORT = [AGE, PRESSURE, DAYS, SEX, EVENT, SMOKES]


def cohort(size: int = 6000) -> dict[str, Values]:
    rng = np.random.default_rng(5)
    age, sex = rng.integers(200, 901, size), rng.integers(0, 2, size)
    pressure = np.clip(60 + age // 6 + 10 * sex + rng.normal(0, 15, size).astype(np.int64), 60, 260)
    days = np.minimum(rng.exponential(30, size).astype(np.int64), 60)
    event, smokes = ((rng.random(size) < share).astype(np.int64) for share in (0.6, 0.2))
    return {"age": age, "sex": sex, "pressure": pressure, "days": days, "event": event, "smokes": smokes}


@cache
def repeated(statistic: Statistic, times: int = 200) -> tuple[Any, list[Any]]:
    """The exact figures, and those with noise of the stated size, which for this test may come from numpy."""
    used = {statistic.variable, *statistic.others, statistic.by}
    asked = question([one for one in COHORT if one.name in used], statistic, members=6, records=4000)
    study = replace(asked, privacy=replace(PROMISE, epsilon=4 * MILLION))
    data = {name: column for name, column in cohort().items() if name in used}
    (exact,), rng = totals(asked, data), np.random.default_rng(8)
    shares = [run for part in make_layout(study).parts if part.shares for run in part.shares.runs()]
    deviation = np.repeat([share.deviation(6) for share, _ in shares], [count for _, count in shares])
    noised = [np.rint(exact + rng.normal(0, deviation)).astype(np.int64) for _ in range(times)]
    return interpret(asked, [exact], 6)[0], [interpret(study, [one], 6)[0] for one in noised]


def told(figures: Figures, name: str) -> float:
    return next(one.standard_deviation for one in figures.noise if one.figure == name)


FIGURES: list[tuple[Statistic, str, Callable[[Any], float]]] = [
    (Statistic.of("count", "age"), "n", lambda one: one.n),
    (Statistic.of("sum", "age"), "sum", lambda one: one.totals[0]),
    (Statistic.of("mean", "age"), "mean", lambda one: one.mean.value),
    (Statistic.of("mean", "age"), "variance", lambda one: one.variance.value),
    (Statistic.of("mean", "age"), "standard_deviation", lambda one: one.standard_deviation.value),
    (Statistic.of("covariance", "age", "pressure"), "covariance of age, pressure", lambda one: one.covariance[0][1].value),
    (Statistic.of("covariance", "age", "pressure"), "correlation of age, pressure", lambda one: one.correlation[0][1].value),
    (Statistic.of("linear-regression", "pressure", "age", "sex"), "constant", lambda one: one.coefficients[0].estimate.value),
    (Statistic.of("linear-regression", "pressure", "age", "sex"), "age", lambda one: one.coefficients[1].estimate.value),
    (Statistic.of("linear-regression", "pressure", "age", "sex"), "sex=m", lambda one: one.coefficients[2].estimate.value),
    (Statistic.of("weighted-mean", "age", "days"), "mean", lambda one: one.values[0]),
    (Statistic.of("weighted-mean", "age", "days"), "weight", lambda one: one.weight),
    (Statistic.of("histogram", "pressure", bins=10), "count", lambda one: one.counts[4]),
    (Statistic.of("contingency", "sex", "smokes"), "count", lambda one: one.counts[1][1]),
]


@pytest.mark.parametrize(("statistic", "name", "figure"), FIGURES, ids=[f"{one.kind}-{name}" for one, name, _ in FIGURES])
def test_figures_say_how_far_noise_moves_them(statistic: Statistic, name: str, figure: Callable[[Any], float]) -> None:
    exact, noised = repeated(statistic)
    values = np.array([figure(one) for one in noised])
    deviation = np.mean([told(one, name) for one in noised])
    assert abs(values.mean() - figure(exact)) < 5 * deviation / math.sqrt(len(values))
    # A quarter to either side: four standard errors of 200 values are a fifth, and counts that add up to n vary less.
    assert 0.7 * deviation < values.std() < 1.25 * deviation


def test_a_quantile_of_sparse_cells_lies_about_as_far_off_as_it_says() -> None:
    exact, noised = repeated(Statistic.of("quantiles", "age"), 100)
    for place, name in enumerate(("0.25", "0.5", "0.75")):
        values = np.array([one.values[place].value for one in noised])
        deviation = np.mean([told(one, name) for one in noised])
        assert abs(values.mean() - exact.values[place].value) < 1.5 * deviation
        assert 0.5 * deviation < values.std() < 1.5 * deviation


def test_the_interval_of_a_mean_has_the_noise_in_it() -> None:
    exact, noised = repeated(Statistic.of("mean", "age"))
    for one in noised[:20]:
        inner = one.standard_deviation.value / math.sqrt(one.n)
        assert one.standard_error.value == pytest.approx(math.hypot(inner, told(one, "mean")), rel=1e-9)
        assert one.high.value - one.low.value == pytest.approx(2 * 1.96 * one.standard_error.value, rel=1e-3)
    # All members' records are the same each time, so the interval holds the exact mean more often than its level says.
    assert sum(one.low.value <= exact.mean.value <= one.high.value for one in noised) / len(noised) > 0.95


def test_the_interval_of_a_coefficient_has_the_noise_in_it() -> None:
    exact, noised = repeated(Statistic.of("linear-regression", "pressure", "age", "sex"), 30)
    for one in noised:
        for place, name in enumerate(("constant", "age", "sex=m")):
            coefficient = one.coefficients[place]
            assert coefficient.standard_error.value > told(one, name)
            assert coefficient.standard_error.value > exact.coefficients[place].standard_error.value
        assert "does not hold" in one.f.reason


def test_a_survival_curve_has_the_noise_in_its_standard_error() -> None:
    exact, noised = repeated(Statistic.of("kaplan-meier", "days", "event"))
    for place in (5, 25, 45):
        time = exact.curve[place].time
        rows = [[row for row in one.curve if row.time <= time][-1] for one in noised]
        both = np.mean([row.standard_error for row in rows])
        noise = math.sqrt(both**2 - exact.curve[place].standard_error ** 2)
        values = np.array([row.survival for row in rows])
        assert abs(values.mean() - exact.curve[place].survival) < 0.3 * noise
        # The number at risk is known at the start, which the last cells gain from: the error told is on the safe side.
        assert 0.5 * noise < values.std() < 1.25 * noise


def test_tests_between_groups_are_not_made_of_noise() -> None:
    _, curves = repeated(Statistic.of("kaplan-meier", "days", "event", by="sex"), 1)
    assert isinstance(curves[0], GroupedFigures)
    assert curves[0].comparison is not None
    assert "does not hold for counts with noise" in curves[0].comparison.p.reason
    _, tables = repeated(Statistic.of("contingency", "sex", "smokes"), 1)
    assert (tables[0].p.value, tables[0].fisher_p.value) == (None, None)


def test_what_has_noise_says_so_and_has_a_table_of_it() -> None:
    _, (one,) = repeated(Statistic.of("histogram", "pressure", bins=10), 1)
    assert one.notes[0].startswith("totals have noise of the members")
    assert one.notes[1].startswith("counts are the nearest")
    assert sum(one.counts) == one.n
    names = [table.name for table in tables_of(one)]
    assert names == ["histogram", "histogram-noise"]
    assert [row[0] for row in tables_of(one)[-1].rows] == ["n", "count"]
    _, (grouped,) = repeated(Statistic.of("mean", "age", by="sex"), 1)
    assert [table.name for table in tables_of(grouped)] == ["mean", "mean-noise"]
    assert len(grouped.notes) == 1


@pytest.mark.parametrize(
    "statistic",
    [
        Statistic.of("mean", "age"),
        Statistic.of("covariance", "age", "pressure"),
        Statistic.of("linear-regression", "pressure", "age"),
        Statistic.of("histogram", "pressure", bins=10),
        Statistic.of("quantiles", "pressure", bins=10),
        Statistic.of("extremes", "pressure", bins=10),
        Statistic.of("kaplan-meier", "days", "event", by="sex"),
        Statistic.of("contingency", "sex", "smokes"),
        Statistic.of("weighted-mean", "age", "days"),
        Statistic.of("mean", "age", by="sex"),
    ],
    ids=lambda one: one.kind,
)
def test_noise_that_drowns_everything_gives_reasons_and_no_nonsense(statistic: Statistic) -> None:
    used = {statistic.variable, *statistic.others, statistic.by}
    asked = question([one for one in COHORT if one.name in used], statistic, members=4, records=3)
    study = replace(asked, privacy=replace(PROMISE, epsilon=MILLION // 100))
    data = {name: column[:4] for name, column in cohort().items() if name in used}
    rng = np.random.default_rng(3)
    for _ in range(30):
        noised = totals(study, data, lambda sigma, count: rng.normal(0, sigma, count).astype(int).tolist())
        (figures,) = interpret(study, noised, 4)
        for table in tables_of(figures):
            for row in table.rows:
                assert not any(isinstance(cell, float) and not math.isfinite(cell) for cell in row)
                assert "a member has not added up" not in " ".join(str(cell) for cell in row)


def test_a_share_without_noise_has_no_tail() -> None:
    assert Share(0, 1).tail(10, 5, 1000) == 0
    assert Share(0, 1).deviation(10) == 0.0
