"""Contingency tables, survival curves and groups: what scipy and lifelines say of the pooled records."""

from __future__ import annotations

from typing import Any

import lifelines.datasets
import lifelines.statistics
import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter
from sklearn.datasets import load_breast_cancer, load_iris

from mpc.statistics.columns import steps
from mpc.study import Statistic, Variable
from tests.mpc.properties import quick
from tests.mpc.statistics.pool import figures, question, whole

Integers = npt.NDArray[np.int64]

SIDE = Variable.category("side", ("left", "right"))
GRADE = Variable.category("grade", ("none", "mild", "severe"))
TWO = (SIDE, Variable.category("outcome", ("well", "ill")))


def crossed(table: Any) -> tuple[Integers, Integers]:
    """Records with these counts."""
    places = [(row, column) for row, counts in enumerate(table) for column, count in enumerate(counts) for _ in range(count)]
    rows, columns = np.array(places, dtype=np.int64).reshape(-1, 2).T
    return rows, columns


def contingency(table: Any, variables: tuple[Variable, Variable] = TWO) -> Any:
    rows, columns = crossed(table)
    asked = Statistic.of("contingency", variables[0].name, variables[1].name)
    return figures(question(variables, asked, records=len(rows) + 2), {variables[0].name: rows, variables[1].name: columns})


@pytest.mark.parametrize("table", [[[10, 20, 30], [6, 9, 17]], [[1, 0, 5], [2, 7, 1]], [[100, 0, 3], [0, 50, 70]]])
def test_chi_squared_is_scipys(table: list[list[int]]) -> None:
    found = contingency(table, (SIDE, GRADE))
    expected = scipy.stats.chi2_contingency(table, correction=False)

    assert found.counts == tuple(map(tuple, table))
    assert (found.rows, found.columns) == (SIDE.categories, GRADE.categories)
    assert found.chi_squared.value == pytest.approx(expected.statistic, rel=1e-12)
    assert found.p.value == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.degrees_of_freedom == expected.dof
    assert found.least_expected.value == pytest.approx(expected.expected_freq.min())
    assert ("an expected count is below 5: the chi-squared test is rough" in found.notes) == (expected.expected_freq.min() < 5)
    assert "two by two" in found.fisher_p.reason


@given(st.lists(st.integers(0, 9), min_size=4, max_size=4))
@quick
def test_fishers_test_of_a_thin_table_is_scipys(cells: list[int]) -> None:
    table = np.array(cells).reshape(2, 2)
    found = contingency(table)
    if not (table.any(axis=0).all() and table.any(axis=1).all()):
        assert found.fisher_p.value is None
        assert "in one row or one column alone" in found.p.reason
    elif found.least_expected.value < 5:
        assert found.fisher_p.value == pytest.approx(scipy.stats.fisher_exact(table).pvalue, rel=1e-9)
    else:
        assert "the chi-squared test holds" in found.fisher_p.reason


def test_a_large_thin_table_is_counted_quickly() -> None:
    table = [[20_000, 3], [19_000, 1]]
    assert contingency(table).fisher_p.value == pytest.approx(scipy.stats.fisher_exact(table).pvalue, rel=1e-9)


def test_an_empty_category_is_left_out_of_the_test_and_said() -> None:
    found = contingency([[10, 0, 30], [6, 0, 17]], (SIDE, GRADE))
    assert found.p.value == pytest.approx(scipy.stats.chi2_contingency([[10, 30], [6, 17]], correction=False).pvalue, rel=1e-9)
    assert "rows or columns without a record are left out of the tests" in found.notes


@pytest.mark.parametrize("table", [[[0, 0], [0, 0]], [[5, 0], [0, 0]], [[5, 4], [0, 0]]])
def test_records_in_one_row_have_no_test(table: list[list[int]]) -> None:
    found = contingency(table)
    assert found.p.value is found.chi_squared.value is None
    assert "a test needs two of each" in found.chi_squared.reason


# -- survival


def survival(times: Integers, dead: Integers, **more: Any) -> Any:
    variables = (whole("t", 0, 100, "weeks"), whole("dead", 0, 1))
    asked = Statistic.of("kaplan-meier", "t", "dead", **more)
    return figures(question(variables, asked, records=len(times) + 1), {"t": times, "dead": dead})


def rossi() -> Any:
    """Weeks until an arrest, of 432 people; financial aid or none."""
    return lifelines.datasets.load_rossi()


def test_the_curve_is_lifelines() -> None:
    table = rossi()
    found = survival(table.week.to_numpy(), table.arrest.to_numpy())
    fitter = KaplanMeierFitter().fit(table.week, table.arrest)
    events = fitter.event_table.iloc[1:]
    interval = fitter.confidence_interval_survival_function_.iloc[1:]

    assert [row.time for row in found.curve] == list(events.index)
    assert [row.at_risk for row in found.curve] == list(events.at_risk)
    assert [row.events for row in found.curve] == list(events.observed)
    assert [row.censored for row in found.curve] == list(events.censored)
    assert [row.survival for row in found.curve] == pytest.approx(list(fitter.survival_function_.iloc[1:, 0]), rel=1e-12)
    assert [row.low for row in found.curve] == pytest.approx(list(interval.iloc[:, 0]), rel=1e-9)
    assert [row.high for row in found.curve] == pytest.approx(list(interval.iloc[:, 1]), rel=1e-9)
    assert (found.n, found.events, found.error, found.unit) == (432, table.arrest.sum(), 0, "weeks")
    assert found.median.reason == "the curve stays above one half"


def test_median_survival_is_lifelines() -> None:
    table = lifelines.datasets.load_waltons()
    found = survival(table["T"].to_numpy().astype(int), table["E"].to_numpy())
    assert found.median.value == KaplanMeierFitter().fit(table["T"], table["E"]).median_survival_time_
    assert found.median.error == 0


@pytest.mark.parametrize(("bins", "width"), [(100, 1), (20, 5), (5, 20)])
def test_on_a_grid_the_exact_curve_lies_between_the_two_that_are_given(bins: int, width: int) -> None:
    table = lifelines.datasets.load_waltons()
    found = survival(table["T"].to_numpy().astype(int), table["E"].to_numpy(), bins=bins)
    fitter = KaplanMeierFitter().fit(table["T"], table["E"])
    exact = fitter.survival_function_at_times([row.time for row in found.curve]).to_numpy()

    for row, value in zip(found.curve, exact, strict=True):
        assert row.least - 1e-12 <= value <= row.survival + 1e-12
        assert row.survival - value <= found.error + 1e-12
    assert abs(found.median.value - fitter.median_survival_time_) <= found.median.error
    assert found.median.error <= 2 * width
    # And it is the exact curve of times that are taken to the end of their bins.
    ends = np.minimum(table["T"] // width * width + width - 1, 100)
    again = KaplanMeierFitter().fit(ends, table["E"])
    assert [row.survival for row in found.curve] == pytest.approx(list(again.survival_function_.iloc[1:, 0]), rel=1e-9)


def test_the_log_rank_test_between_groups_is_lifelines() -> None:
    table = rossi()
    group = Variable.category("aid", ("none", "some"))
    variables = (whole("week", 0, 52), whole("arrest", 0, 1), group)
    asked = Statistic.of("kaplan-meier", "week", "arrest", by="aid")
    data = {"week": table.week.to_numpy(), "arrest": table.arrest.to_numpy(), "aid": table.fin.to_numpy()}
    found = figures(question(variables, asked, records=432), data)
    expected = lifelines.statistics.multivariate_logrank_test(table.week, table.fin, table.arrest)

    assert [one.figures.n for one in found.groups] == [(table.fin == 0).sum(), (table.fin == 1).sum()]
    assert found.comparison.test == "log-rank"
    assert found.comparison.statistic.value == pytest.approx(expected.test_statistic, rel=1e-9)
    assert found.comparison.p.value == pytest.approx(expected.p_value, rel=1e-9)
    assert found.comparison.degrees_of_freedom == 1


def test_the_log_rank_test_takes_more_than_two_groups_and_leaves_empty_ones_out() -> None:
    table = lifelines.datasets.load_dd()
    names = sorted(table.un_continent_name.unique())
    group = Variable.category("continent", (*names, "Antarctica"))
    variables = (whole("years", 0, 60), whole("ended", 0, 1), group)
    data = {
        "years": table.duration.to_numpy(),
        "ended": table.observed.to_numpy(),
        "continent": table.un_continent_name.map(names.index).to_numpy(),
    }
    asked = Statistic.of("kaplan-meier", "years", "ended", by="continent")
    found = figures(question(variables, asked, records=2000), data)
    expected = lifelines.statistics.multivariate_logrank_test(table.duration, table.un_continent_name, table.observed)

    assert found.comparison.statistic.value == pytest.approx(expected.test_statistic, rel=1e-9)
    assert found.comparison.p.value == pytest.approx(expected.p_value, rel=1e-7)
    assert found.comparison.degrees_of_freedom == len(names) - 1
    assert "are left out of the test" in found.comparison.notes[0]
    assert found.groups[-1].figures.median.reason == "there is no record"


def test_without_an_event_there_is_no_median_and_no_test() -> None:
    variables = (whole("t", 0, 9), whole("dead", 0, 1), SIDE)
    data = {"t": np.array([3, 4, 9, 9]), "dead": np.zeros(4), "side": np.array([0, 1, 0, 1])}
    found = figures(question(variables, Statistic.of("kaplan-meier", "t", "dead", by="side"), members=4), data)
    assert found.comparison.p.value is None
    assert found.comparison.p.reason == found.groups[0].figures.median.reason == "there is no event"
    assert [row.survival for row in found.groups[0].figures.curve] == [1, 1]


def test_events_in_one_group_after_the_other_is_gone_have_no_test() -> None:
    variables = (whole("t", 0, 9), whole("dead", 0, 1), SIDE)
    data = {"t": np.array([1, 2, 8, 9]), "dead": np.array([0, 0, 1, 1]), "side": np.array([0, 0, 1, 1])}
    found = figures(question(variables, Statistic.of("kaplan-meier", "t", "dead", by="side"), members=4), data)
    assert "one group alone is at risk" in found.comparison.p.reason


@given(
    st.lists(st.tuples(st.integers(0, 30), st.booleans(), st.integers(0, 2)), min_size=1, max_size=30),
    st.integers(0, 12),
)
@quick
def test_no_records_make_a_survival_curve_fail(rows: list[tuple[int, bool, int]], bins: int) -> None:
    variables = (whole("t", 0, 30), whole("dead", 0, 1), GRADE)
    times, dead, grade = np.array(rows, dtype=np.int64).T
    asked = Statistic.of("kaplan-meier", "t", "dead", by="grade", bins=bins)
    found = figures(question(variables, asked, records=30), {"t": times, "dead": dead, "grade": grade})
    p = found.comparison.p
    assert (p.value is None) == bool(p.reason)
    assert p.value is None or 0 <= p.value <= 1
    for group in found.groups:
        for row in group.figures.curve:
            assert 0 <= row.least <= row.survival <= 1


# -- groups


def test_any_statistic_by_category_is_that_of_each_group() -> None:
    iris = load_iris()
    species = Variable.category("species", tuple(map(str, iris.target_names)))
    length, width = (Variable.number(name, "cm", 0, 100, scale=10) for name in ("length", "width"))
    data = {"length": steps(length, iris.data[:, 0]), "width": steps(width, iris.data[:, 1]), "species": iris.target}
    mean, histogram, covariance, fit = figures(
        question(
            (length, width, species),
            Statistic.of("mean", "length", by="species"),
            Statistic.of("histogram", "length", by="species", bins=20),
            Statistic.of("covariance", "length", "width", by="species"),
            Statistic.of("linear-regression", "length", "width", by="species"),
            records=150,
        ),
        data,
    )
    assert (mean.by, mean.n) == ("species", 150)
    for place, name in enumerate(iris.target_names):
        mine = iris.data[iris.target == place]
        assert [group.groups[place].category for group in (mean, histogram, covariance, fit)] == [name] * 4
        assert mean.groups[place].figures.mean.value == pytest.approx(mine[:, 0].mean(), rel=1e-14)
        assert mean.groups[place].figures.variance.value == pytest.approx(mine[:, 0].var(ddof=1), rel=1e-12)
        counts = histogram.groups[place].figures
        assert counts.counts == tuple(np.histogram(np.rint(mine[:, 0] * 10), np.array(counts.edges) * 10)[0])
        assert covariance.groups[place].figures.covariance[0][1].value == pytest.approx(np.cov(mine[:, :2].T)[0, 1], rel=1e-12)
        slope = scipy.stats.linregress(mine[:, 1], mine[:, 0])
        assert fit.groups[place].figures.coefficients[1].estimate.value == pytest.approx(slope.slope, rel=1e-11)


def test_a_group_of_one_has_its_reasons_and_leaves_the_others_alone() -> None:
    found = figures(
        question((whole("x", 0, 9), GRADE), Statistic.of("mean", "x", by="grade"), members=5),
        {"x": np.array([1, 2, 3, 4, 9]), "grade": np.array([0, 0, 0, 0, 1])},
    )
    some, one, none = (group.figures for group in found.groups)
    assert some.variance.value == pytest.approx(np.var([1, 2, 3, 4], ddof=1))
    assert (one.n, one.mean.value, one.variance.reason) == (1, 9, "one record does not vary; it takes two")
    assert (none.n, none.mean.reason) == (0, "there is no record")


def test_a_record_without_its_group_is_left_out() -> None:
    grade = Variable.category("grade", GRADE.categories, missing="omit")
    found = figures(
        question((whole("x", 0, 9), grade), Statistic.of("count", "x", by="grade"), members=4),
        {"x": np.arange(4), "grade": np.array([0, 0, 2, -(2**63)])},
    )
    assert [group.figures.n for group in found.groups] == [2, 0, 1]
    assert (found.n, found.left_out) == (3, 1)


def test_a_thousand_practices_worth_of_real_data_cross_in_one_table() -> None:
    cancer = load_breast_cancer()
    large = (cancer.data[:, 0] > 14).astype(np.int64)
    variables = (Variable.category("large", ("no", "yes")), Variable.category("benign", ("no", "yes")))
    asked = Statistic.of("contingency", "large", "benign")
    found = figures(question(variables, asked, records=569), {"large": large, "benign": cancer.target})
    table = np.histogram2d(large, cancer.target, bins=2)[0]
    assert found.chi_squared.value == pytest.approx(scipy.stats.chi2_contingency(table, correction=False).statistic, rel=1e-12)
