"""Counts, means, histograms, quantiles, extremes, covariances: what numpy and scipy say of the pooled records."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

from mpc.statistics.columns import steps
from mpc.statistics.figures import Quantity
from mpc.study import Statistic, Variable
from tests.mpc.properties import quick
from tests.mpc.statistics.pool import figures, question, whole

Numbers = npt.NDArray[np.float64]
AGE = whole("age", 0, 120, "a")


def near(found: Quantity, expected: float, relative: float = 1e-12) -> bool:
    """Within the error that it states, and of the arithmetic."""
    assert found.value is not None, found.reason
    assert found.error is not None
    return abs(found.value - expected) <= found.error + relative * max(abs(expected), 1e-300)


def radius() -> tuple[Variable, Numbers]:
    """The mean radius of 569 tumours, in steps that are too coarse for it."""
    values: Numbers = load_breast_cancer().data[:, 0]
    return Variable.number("radius", "mm", 50, 300, scale=10), values


def ages() -> npt.NDArray[np.int64]:
    return np.random.default_rng(3).integers(0, 120, 1000, endpoint=True)


def test_mean_and_its_kin_of_whole_numbers_are_exact() -> None:
    values = ages()
    found = figures(question((AGE,), Statistic.of("mean", "age"), records=1000), {"age": values})
    interval = scipy.stats.t.interval(0.95, 999, values.mean(), scipy.stats.sem(values))

    assert (found.n, found.left_out, found.mean.unit, found.variance.unit) == (1000, 0, "a", "a^2")
    for quantity, expected in (
        (found.mean, values.mean()),
        (found.variance, values.var(ddof=1)),
        (found.standard_deviation, values.std(ddof=1)),
        (found.standard_error, scipy.stats.sem(values)),
        (found.low, interval[0]),
        (found.high, interval[1]),
    ):
        assert quantity.error == 0
        assert quantity.value == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99, 0.999])
def test_the_confidence_level_is_the_studys(level: float) -> None:
    values = ages()[:12]
    found = figures(question((AGE,), Statistic.of("mean", "age", level=round(level * 1e6)), members=12), {"age": values})
    expected = scipy.stats.t.interval(level, 11, values.mean(), scipy.stats.sem(values))
    assert [found.low.value, found.high.value] == pytest.approx(expected, rel=1e-10)
    assert found.level == level


def test_rounded_values_give_a_mean_within_the_error_that_is_stated() -> None:
    variable, values = radius()
    found = figures(question((variable,), Statistic.of("mean", "radius"), records=569), {"radius": steps(variable, values)})
    interval = scipy.stats.t.interval(0.95, 568, values.mean(), scipy.stats.sem(values))

    assert found.mean.error == 0.05
    assert near(found.mean, float(values.mean()))
    assert near(found.variance, float(values.var(ddof=1)))
    assert near(found.standard_deviation, float(values.std(ddof=1)))
    assert near(found.standard_error, float(scipy.stats.sem(values)))
    assert near(found.low, interval[0])
    assert near(found.high, interval[1])
    # And the arithmetic on what was rounded is exact.
    assert found.mean.value == pytest.approx((np.rint(values * 10) / 10).mean(), rel=1e-14)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30), st.sampled_from([1, 3, 10, 1000]))
@quick
def test_no_rounding_moves_a_number_beyond_its_error(numbers: list[float], scale: int) -> None:
    values = np.array(numbers)
    variable = Variable.number("x", "", -100 * scale, 100 * scale, scale=scale)
    found = figures(question((variable,), Statistic.of("mean", "x"), records=30), {"x": steps(variable, values)})

    assert near(found.mean, float(values.mean()), 1e-9)
    assert abs(found.standard_deviation.value - values.std(ddof=1)) <= found.standard_deviation.error + 1e-9
    assert abs(found.variance.value - values.var(ddof=1)) <= found.variance.error + 1e-6


def test_one_record_has_a_mean_and_no_spread() -> None:
    found = figures(question((AGE,), Statistic.of("mean", "age"), records=5), {"age": np.array([40])})
    assert (found.n, found.mean.value) == (1, 40)
    for quantity in (found.variance, found.standard_deviation, found.standard_error, found.low, found.high):
        assert quantity.value is None
        assert quantity.reason == "one record does not vary; it takes two"


def test_no_record_has_nothing() -> None:
    found = figures(question((AGE,), Statistic.of("mean", "age"), records=5), {"age": np.array([], dtype=int)})
    assert (found.n, found.mean.value, found.mean.reason) == (0, None, "there is no record")


def test_a_constant_column_does_not_vary() -> None:
    found = figures(question((AGE,), Statistic.of("mean", "age"), members=3), {"age": np.array([7, 7, 7])})
    assert [found.mean.value, found.variance.value, found.low.value, found.high.value] == [7, 0, 7, 7]


def test_a_sum_of_many_records_a_node_may_be_negative() -> None:
    variable = whole("balance", -5, 3, length=2)
    values = np.random.default_rng(1).integers(-5, 3, (200, 2), endpoint=True)
    found = figures(question((variable,), Statistic.of("sum", "balance"), records=60), {"balance": values})
    assert found.totals == tuple(values.sum(axis=0).tolist())
    assert (found.n, found.error) == (200, 0)


def test_a_sum_of_rounded_values_states_half_a_step_a_record() -> None:
    variable, values = radius()
    found = figures(question((variable,), Statistic.of("sum", "radius"), records=569), {"radius": steps(variable, values)})
    assert found.error == pytest.approx(569 * 0.05)
    assert abs(found.totals[0] - values.sum()) <= found.error


@pytest.mark.parametrize(
    "bins", [{"edges": (20, 40, 41, 80)}, {"edges": (0, 60, 120)}, {"bins": 10}, {"bins": 7}, {"bins": 500}, {}], ids=str
)
def test_a_histogram_is_numpys(bins: dict[str, Any]) -> None:
    values = ages()
    found = figures(question((AGE,), Statistic.of("histogram", "age", **bins), records=1000), {"age": values})
    assert found.counts == tuple(np.histogram(values, found.edges)[0].tolist())
    assert found.below == (values < found.edges[0]).sum()
    assert found.above == (values > found.edges[-1]).sum()
    assert found.below + sum(found.counts) + found.above == found.n == 1000
    if "edges" in bins:
        assert found.edges == bins["edges"]
    if bins == {"bins": 10}:
        assert found.edges == tuple(np.linspace(0, 120, 11))


def test_a_histogram_over_all_of_64_bits_has_a_place_for_every_value() -> None:
    ends = whole("x", -(2**63) + 1, 2**63 - 1)
    values = np.array([-(2**63) + 1, -(2**62) + 1, 0, 1, 2**63 - 1])  # bins begin at -2^63 + 1 and every 2^62 from there
    found = figures(question((ends,), Statistic.of("histogram", "x", bins=4), members=5), {"x": values})
    assert found.counts == (1, 2, 1, 1)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 997])
def test_quantiles_of_whole_numbers_are_numpys(size: int) -> None:
    values = ages()[:size]
    asked = Statistic.of("quantiles", "age", quantiles=(0, 25_000, 500_000, 333_333, 900_000, 1_000_000))
    found = figures(question((AGE,), asked, records=1000), {"age": values})
    for probability, quantile in zip(found.probabilities, found.values, strict=True):
        assert quantile.error == 0
        assert quantile.value == pytest.approx(np.quantile(values, probability), rel=1e-12)


def test_without_a_word_the_quantiles_are_the_quartiles() -> None:
    found = figures(question((AGE,), Statistic.of("quantiles", "age"), records=1000), {"age": ages()})
    assert found.probabilities == (0.25, 0.5, 0.75)


@given(st.lists(st.integers(0, 120), min_size=1, max_size=40), st.integers(1, 40), st.integers(0, 1_000_000))
@quick
def test_quantiles_from_wide_bins_are_within_the_error_that_is_stated(numbers: list[int], bins: int, probability: int) -> None:
    asked = Statistic.of("quantiles", "age", bins=bins, quantiles=(probability,))
    found = figures(question((AGE,), asked, records=40), {"age": np.array(numbers)})
    assert near(found.values[0], float(np.quantile(numbers, probability / 1e6)))
    assert found.values[0].error <= 120 / bins


def test_quantiles_beyond_the_edges_are_as_uncertain_as_the_rest_of_the_bounds() -> None:
    asked = Statistic.of("quantiles", "age", edges=(50, 60), quantiles=(0, 1_000_000))
    found = figures(question((AGE,), asked, members=3), {"age": np.array([3, 55, 119])})
    low, high = found.values
    assert (low.value, low.error) == (24.5, 24.5)
    assert (high.value, high.error) == (90.5, 29.5)


def test_extremes_are_exact_for_whole_numbers_and_bin_wide_otherwise() -> None:
    values = ages()
    exact, wide = figures(
        question((AGE,), Statistic.of("extremes", "age"), Statistic.of("extremes", "age", id="wide", bins=12), records=1000),
        {"age": np.clip(values, 17, 93)},
    )
    assert (exact.minimum.value, exact.maximum.value, exact.minimum.error) == (17, 93, 0)
    assert (wide.minimum.value, wide.minimum.error) == (14.5, 4.5)
    assert (wide.maximum.value, wide.maximum.error) == (94.5, 4.5)


def test_no_record_has_no_extremes() -> None:
    found = figures(question((AGE,), Statistic.of("extremes", "age"), records=5), {"age": np.array([], dtype=int)})
    assert found.minimum.reason == found.maximum.reason == "there is no record"


def test_covariances_and_correlations_of_rounded_measurements() -> None:
    iris = load_iris()
    names = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
    variables = [Variable.number(name, "cm", 0, 100, scale=10) for name in names]
    data = {v.name: steps(v, iris.data[:, place]) for place, v in enumerate(variables)}
    found = figures(question(variables, Statistic.of("covariance", *names), records=150), data)
    covariance, correlation = np.cov(iris.data.T), np.corrcoef(iris.data.T)

    assert found.variables == tuple(names)
    for i in range(4):
        for j in range(4):
            # The flowers were measured to the millimetre: rounding changes nothing.
            assert found.covariance[i][j].value == pytest.approx(covariance[i, j], rel=1e-12)
            assert found.covariance[i][j].unit == "cm^2"
            assert found.correlation[i][j].value == pytest.approx(correlation[i, j], rel=1e-12)
    assert found.correlation[2][2].value == 1


def test_covariances_are_within_the_error_that_is_stated() -> None:
    data: Numbers = load_breast_cancer().data[:, :3]
    variables = [Variable.number(f"x{place}", "", 0, 300, scale=1) for place in range(3)]
    rounded = {v.name: steps(v, data[:, place]) for place, v in enumerate(variables)}
    found = figures(question(variables, Statistic.of("covariance", "x0", "x1", "x2"), records=569), rounded)
    covariance, correlation = np.cov(data.T), np.asarray(np.corrcoef(data.T))
    for i in range(3):
        for j in range(3):
            assert near(found.covariance[i][j], float(covariance[i, j]))
            assert near(found.correlation[i][j], float(correlation[i, j]), 1e-9)


def test_a_constant_has_no_correlation_and_the_others_have() -> None:
    variables = (AGE, whole("one", 0, 5), whole("two", 0, 9))
    data = {"age": np.arange(6), "one": np.ones(6), "two": np.arange(6)[::-1]}
    found = figures(question(variables, Statistic.of("covariance", "age", "one", "two"), members=6), data)
    assert found.covariance[0][1].value == 0
    assert (found.correlation[0][1].value, found.correlation[0][1].reason) == (None, "one is constant")
    assert found.correlation[1][1].value is None
    assert found.correlation[0][2].value == -1


@pytest.mark.parametrize(("size", "reason"), [(0, "there is no record"), (1, "one record does not vary; it takes two")])
def test_too_few_records_have_no_covariance(size: int, reason: str) -> None:
    found = figures(
        question((AGE, whole("b", 0, 9)), Statistic.of("covariance", "age", "b"), records=3),
        {"age": np.arange(size), "b": np.arange(size)},
    )
    assert found.covariance[0][1].reason == found.correlation[0][1].reason == reason


def test_counting_counts_records() -> None:
    found = figures(question((AGE,), Statistic.of("count", "age"), records=1000), {"age": ages()})
    assert (found.n, found.left_out) == (1000, 0)


def test_a_missing_value_leaves_its_record_out_of_what_needs_it_alone() -> None:
    values: Numbers = load_diabetes(scaled=False).data[:, :2].copy()
    values[::7, 0] = np.nan
    values[::5, 1] = np.nan
    age = Variable.number("age", "a", 0, 120, scale=1, missing="omit")
    sex = Variable.number("sex", "", 0, 5, scale=1, missing="omit")
    data = {"age": steps(age, values[:, 0]), "sex": steps(sex, values[:, 1])}
    mean, both = figures(
        question((age, sex), Statistic.of("mean", "age"), Statistic.of("covariance", "age", "sex"), records=442), data
    )
    there = ~np.isnan(values[:, 0])
    pairs = there & ~np.isnan(values[:, 1])

    assert (mean.n, mean.left_out) == (there.sum(), (~there).sum())
    assert mean.mean.value == pytest.approx(values[there, 0].mean(), rel=1e-12)
    assert (both.n, both.left_out) == (pairs.sum(), (~pairs).sum())
    assert both.covariance[0][1].value == pytest.approx(np.cov(values[pairs].T)[0, 1], rel=1e-12)


def test_a_person_without_the_value_is_counted_as_left_out() -> None:
    age = whole("age", 0, 120, missing="omit")
    found = figures(question((age,), Statistic.of("mean", "age"), members=4), {"age": np.array([10, -(2**63), 20, 30])})
    assert (found.n, found.left_out, found.mean.value) == (3, 1, 20)


def test_several_statistics_come_out_of_one_round() -> None:
    values = ages()
    mean, histogram, median = figures(
        question(
            (AGE,),
            Statistic.of("mean", "age"),
            Statistic.of("histogram", "age", bins=3),
            Statistic.of("quantiles", "age", quantiles=(500_000,)),
            records=1000,
        ),
        {"age": values},
    )
    assert mean.mean.value == pytest.approx(values.mean(), rel=1e-14)
    assert sum(histogram.counts) == 1000
    assert median.values[0].value == np.median(values)


def test_a_weighted_mean_of_vectors_is_numpys_average() -> None:
    generator = np.random.default_rng(5)
    updates, sizes = generator.normal(0, 0.1, (10, 1000)), generator.integers(0, 5000, 10)
    update = Variable.number("update", "", -(2**20), 2**20, 1000, scale=2**20)
    study = question((update, whole("size", 0, 10_000)), Statistic.of("weighted-mean", "update", "size"))
    found = figures(study, {"update": steps(update, updates), "size": sizes})

    assert (found.weight, found.error, found.n) == (sizes.sum(), 2.0**-21, 10)
    assert np.abs(np.array(found.values) - np.average(updates, axis=0, weights=sizes)).max() <= found.error


def test_weights_of_zero_have_no_mean() -> None:
    study = question((whole("x", 0, 5), whole("size", 0, 9)), Statistic.of("weighted-mean", "x", "size"), members=3)
    found = figures(study, {"x": np.arange(3), "size": np.zeros(3)})
    assert (found.values, found.weight, found.reason) == ((), 0, "the weights add up to 0")


def test_a_node_of_many_records_weighs_each() -> None:
    study = question((whole("x", -5, 5), whole("w", 2, 9)), Statistic.of("weighted-mean", "x", "w"), members=3, records=30)
    x, w = np.random.default_rng(2).integers(-5, 5, 50), np.random.default_rng(3).integers(2, 9, 50)
    assert figures(study, {"x": x, "w": w}).values[0] == pytest.approx(np.average(x, weights=w), rel=1e-14)
