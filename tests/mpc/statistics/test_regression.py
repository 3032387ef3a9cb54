"""Regressions: what statsmodels says of the pooled records; what cannot be fitted says why."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

from mpc.errors import StudyError
from mpc.statistics.columns import steps
from mpc.statistics.newton import MOST_ROUNDS, Fit
from mpc.study import Statistic, Variable
from tests.mpc.properties import quick
from tests.mpc.statistics.pool import figures, question, rounds, totals, whole

Numbers = npt.NDArray[np.float64]


def column(found: Any, field: str) -> list[float]:
    return [getattr(one, field).value for one in found.coefficients]


def same(found: Any, fit: Any, relative: float) -> None:
    """Every number of a fit by statsmodels."""
    interval = np.asarray(fit.conf_int())
    statistics = fit.tvalues
    for field, expected in (
        ("estimate", fit.params),
        ("standard_error", fit.bse),
        ("statistic", statistics),
        ("p", fit.pvalues),
        ("low", interval[:, 0]),
        ("high", interval[:, 1]),
    ):
        assert column(found, field) == pytest.approx(list(np.asarray(expected)), rel=relative, abs=1e-300), field


def diabetes(names: list[str], scale: int) -> tuple[list[Variable], dict[str, npt.NDArray[np.int64]], Numbers, Numbers]:
    """Progression in whole numbers on measurements that are rounded to 1/scale."""
    raw = load_diabetes(scaled=False)
    x: Numbers = raw.data[:, [raw.feature_names.index(name) for name in names]]
    variables = [whole("progression", 0, 400)]
    variables += [Variable.number(name, "u", 0, 400 * scale, scale=scale) for name in names]
    data = {"progression": raw.target.astype(np.int64)}
    data |= {name: steps(variables[1 + at], x[:, at]) for at, name in enumerate(names)}
    return variables, data, x, raw.target


ALL = ["age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"]


def test_least_squares_of_measurements_that_rounding_keeps_is_statsmodels() -> None:
    variables, data, x, y = diabetes(ALL, 10_000)
    found = figures(question(variables, Statistic.of("linear-regression", "progression", *ALL), records=442), data)
    fit = sm.OLS(y, sm.add_constant(np.rint(x * 10_000) / 10_000)).fit()

    assert [one.term for one in found.coefficients] == ["constant", *ALL]
    assert found.coefficients[3].estimate.unit == "1/u"
    same(found, fit, 1e-8)
    for quantity, expected in (
        (found.r_squared, fit.rsquared),
        (found.adjusted_r_squared, fit.rsquared_adj),
        (found.residual_deviation, np.sqrt(fit.scale)),
        (found.f, fit.fvalue),
        (found.p, fit.f_pvalue),
    ):
        assert quantity.value == pytest.approx(expected, rel=1e-8)
    assert (found.n, found.degrees_of_freedom) == (442, 431)


def test_the_nearly_collinear_table_of_longley_is_solved_to_the_certified_digits() -> None:
    """NIST's StRD: what floats lose half their digits on is exact in whole numbers."""
    table = sm.datasets.longley.load_pandas().data
    names = ["GNPDEFL", "GNP", "UNEMP", "ARMED", "POP", "YEAR"]
    variables = [whole("TOTEMP", 0, 80_000), Variable.number("GNPDEFL", "", 800, 1200, scale=10)]
    variables += [whole(name, int(table[name].min()), int(table[name].max()) + 1) for name in names[1:]]
    data = {"TOTEMP": table.TOTEMP.to_numpy().astype(np.int64), "GNPDEFL": np.rint(table.GNPDEFL.to_numpy() * 10).astype(int)}
    data |= {name: table[name].to_numpy().astype(np.int64) for name in names[1:]}
    found = figures(question(variables, Statistic.of("linear-regression", "TOTEMP", *names), records=16), data)

    certified = [
        (-3482258.63459582, 890420.383607373),
        (15.0618722713733, 84.9149257747669),
        (-0.358191792925910e-01, 0.334910077722432e-01),
        (-2.02022980381683, 0.488399681651699),
        (-1.03322686717359, 0.214274163161675),
        (-0.511041056535807e-01, 0.226073200069370),
        (1829.15146461355, 455.478499142212),
    ]
    assert column(found, "estimate") == pytest.approx([estimate for estimate, _ in certified], rel=1e-13)
    assert column(found, "standard_error") == pytest.approx([deviation for _, deviation in certified], rel=1e-13)
    assert found.r_squared.value == pytest.approx(0.995479004577296, rel=1e-14)
    assert found.residual_deviation.value == pytest.approx(304.854073561965, rel=1e-13)


@pytest.mark.parametrize("scale", [1, 3, 10, 100])
def test_rounding_moves_coefficients_within_the_error_that_is_stated(scale: int) -> None:
    names = ["bmi", "bp", "s5"]
    variables, data, x, y = diabetes(names, scale)
    found = figures(question(variables, Statistic.of("linear-regression", "progression", *names), records=442), data)
    exact = sm.OLS(y, sm.add_constant(x)).fit()
    for one, expected in zip(found.coefficients, exact.params, strict=True):
        # To first order: a tenth on top for what is beyond.
        assert abs(one.estimate.value - expected) <= 1.1 * one.estimate.error


def test_a_category_enters_as_one_term_for_each_but_its_first() -> None:
    iris = load_iris()
    species = Variable.category("species", tuple(map(str, iris.target_names)))
    length, width = (Variable.number(name, "cm", 0, 100, scale=10) for name in ("length", "width"))
    data = {"length": steps(length, iris.data[:, 0]), "width": steps(width, iris.data[:, 1]), "species": iris.target}
    asked = Statistic.of("linear-regression", "length", "width", "species")
    found = figures(question((length, width, species), asked, records=150), data)
    design = np.column_stack([iris.data[:, 1], iris.target == 1, iris.target == 2]).astype(float)

    assert [one.term for one in found.coefficients] == ["constant", "width", "species=versicolor", "species=virginica"]
    assert [one.estimate.unit for one in found.coefficients] == ["cm", "", "cm", "cm"]
    same(found, sm.OLS(iris.data[:, 0], sm.add_constant(design)).fit(), 1e-9)


X, Y, Z = whole("x", 0, 50), whole("y", -200, 200), whole("z", 0, 200)


def linear(*others: str, **data: list[int]) -> Any:
    asked = Statistic.of("linear-regression", "y", *others)
    variables = (Y, *(variable for variable in (X, Z) if variable.name in others))
    return figures(question(variables, asked, records=20), {name: np.array(values) for name, values in data.items()})


def reason(found: Any) -> str:
    (why,) = {one.estimate.reason for one in found.coefficients}
    assert {one.estimate.value for one in found.coefficients} == {None}
    return str(why)


def test_collinear_regressors_are_named() -> None:
    found = linear("x", "z", y=[1, 5, 2, 8, 3], x=[1, 2, 3, 4, 9], z=[5, 8, 11, 14, 29])
    assert reason(found) == "z is a linear combination of constant, x; leave one of them out"
    assert found.r_squared.reason == found.p.reason == reason(found)


def test_a_constant_regressor_is_named() -> None:
    assert reason(linear("x", y=[1, 5, 2], x=[7, 7, 7])) == "x is constant; leave it out"


@pytest.mark.parametrize("size", [0, 1])
def test_too_few_records_determine_nothing(size: int) -> None:
    assert reason(linear("x", y=[3] * size, x=[1] * size)) == f"{size} records do not determine 2 coefficients"


def test_a_perfect_fit_has_coefficients_and_nothing_to_judge_them_by() -> None:
    found = linear("x", y=[1, 3, 5, 7], x=[0, 1, 2, 3])
    assert column(found, "estimate") == [1, 2]
    assert found.r_squared.value == 1
    assert found.coefficients[0].p.reason == found.f.reason == "the fit leaves no residual to judge it by"
    as_many_as_terms = linear("x", y=[1, 4], x=[0, 1])
    assert column(as_many_as_terms, "estimate") == [1, 3]
    assert as_many_as_terms.residual_deviation.value is as_many_as_terms.adjusted_r_squared.value is None


def test_a_constant_outcome_has_no_r_squared() -> None:
    found = linear("x", y=[4, 4, 4, 4], x=[0, 1, 2, 5])
    assert column(found, "estimate") == [4, 0]
    assert found.r_squared.reason == found.f.reason == "y is constant"


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 4), st.integers(0, 4)), max_size=9))
@quick
def test_no_records_make_least_squares_fail(rows: list[tuple[int, int, int]]) -> None:
    y, x, z = zip(*rows, strict=True) if rows else ((), (), ())
    found = linear("x", "z", y=list(y), x=list(x), z=list(z))
    for one in found.coefficients:
        for quantity in (one.estimate, one.standard_error, one.statistic, one.p):
            assert (quantity.value is None) == bool(quantity.reason)
            assert quantity.value is None or np.isfinite(quantity.value)
    if column(found, "estimate")[0] is not None:
        design = np.column_stack([np.ones(len(x)), x, z])
        assert column(found, "estimate") == pytest.approx(list(np.linalg.lstsq(design, np.array(y), rcond=None)[0]), abs=1e-9)


# -- logistic


def spector() -> tuple[list[Variable], dict[str, npt.NDArray[Any]], Any]:
    """Grades of 32 students."""
    table = sm.datasets.spector.load_pandas().data
    variables = [
        whole("GRADE", 0, 1),
        Variable.number("GPA", "", 0, 400, scale=100),
        whole("TUCE", 0, 40),
        whole("PSI", 0, 1),
    ]
    data = {variable.name: steps(variable, table[variable.name].to_numpy()) for variable in variables}
    return variables, data, table


def test_a_logistic_regression_comes_to_rest_at_statsmodels_fit() -> None:
    variables, data, table = spector()
    asked = Statistic.of("logistic-regression", "GRADE", "GPA", "TUCE", "PSI")
    found = rounds(question(variables, asked, records=32), data)
    fit = sm.Logit(table.GRADE, sm.add_constant(table[["GPA", "TUCE", "PSI"]])).fit(disp=0, tol=1e-12)

    assert found.converged
    assert found.rounds < 10
    same(found, fit, 1e-6)
    assert found.log_likelihood.value == pytest.approx(fit.llf, rel=1e-9)
    assert found.null_log_likelihood.value == pytest.approx(fit.llnull, rel=1e-12)
    assert found.pseudo_r_squared.value == pytest.approx(fit.prsquared, rel=1e-9)
    assert (found.n, found.events) == (32, table.GRADE.sum())


def test_tumours_over_ten_practices_give_what_they_give_together() -> None:
    cancer = load_breast_cancer()
    names = ["radius", "texture", "smoothness"]
    x: Numbers = cancer.data[:, [0, 1, 4]]
    variables = [Variable.category("benign", ("no", "yes"))]
    variables += [Variable.number(name, "", 0, 60 * 10**5, scale=10**5) for name in names]
    data = {"benign": cancer.target} | {name: steps(variables[1 + at], x[:, at]) for at, name in enumerate(names)}
    found = rounds(question(variables, Statistic.of("logistic-regression", "benign", *names), records=569), data)
    fit = sm.Logit(cancer.target, sm.add_constant(x)).fit(disp=0, tol=1e-12)

    same(found, fit, 1e-5)
    for one, expected in zip(found.coefficients, fit.params, strict=True):
        assert abs(one.estimate.value - expected) <= 1.1 * one.estimate.error
        assert one.estimate.error < 0.1 * one.standard_error.value


@pytest.mark.parametrize("scale", [3, 10, 100])
def test_rounding_moves_a_logistic_fit_within_the_error_that_is_stated(scale: int) -> None:
    cancer = load_breast_cancer()
    x: Numbers = cancer.data[:, :2]
    variables = [whole("benign", 0, 1), *(Variable.number(name, "", 0, 60 * scale, scale=scale) for name in "ab")]
    data = {"benign": cancer.target, "a": steps(variables[1], x[:, 0]), "b": steps(variables[2], x[:, 1])}
    found = rounds(question(variables, Statistic.of("logistic-regression", "benign", "a", "b"), records=569), data)
    exact = sm.Logit(cancer.target, sm.add_constant(x)).fit(disp=0).params
    for one, expected in zip(found.coefficients, exact, strict=True):
        assert abs(one.estimate.value - expected) <= 1.1 * one.estimate.error


def test_one_round_alone_says_that_it_is_a_step() -> None:
    variables, data, _ = spector()
    asked = Statistic.of("logistic-regression", "GRADE", "GPA", "TUCE", "PSI")
    found = figures(question(variables, asked, records=32), data)
    assert not found.converged
    assert reason(found) == "this is one step of several, which have not come to rest"


def logistic(y: list[int], **x: list[int]) -> Any:
    variables = (whole("y", 0, 1), *(whole(name, 0, 100) for name in x))
    data = {name: np.array(values) for name, values in {"y": y, **x}.items()}
    return rounds(question(variables, Statistic.of("logistic-regression", "y", *x), records=200), data)


def test_records_that_a_term_separates_have_no_fit_and_say_so() -> None:
    found = logistic([0, 0, 0, 0, 1, 1, 1, 1], x=[1, 2, 3, 4, 6, 7, 8, 9])
    assert not found.converged
    assert reason(found).startswith("the terms separate the outcomes")
    assert found.rounds < MOST_ROUNDS


def test_a_group_without_an_event_separates_too() -> None:
    """Quasi-complete: only the one category goes to infinity."""
    generator = np.random.default_rng(4)
    x, exposed = generator.integers(0, 100, 200), generator.integers(0, 2, 200)
    y = np.where(exposed, generator.integers(0, 2, 200), 0)
    found = logistic(y.tolist(), x=x.tolist(), exposed=exposed.tolist())
    assert reason(found).startswith("the terms separate the outcomes")


def test_iris_species_that_one_measurement_tells_apart_are_separable() -> None:
    iris = load_iris()
    variables = (Variable.category("setosa", ("no", "yes")), Variable.number("petal", "cm", 0, 100, scale=10))
    data = {"setosa": (iris.target == 0).astype(int), "petal": steps(variables[1], iris.data[:, 2])}
    found = rounds(question(variables, Statistic.of("logistic-regression", "setosa", "petal"), records=150), data)
    assert reason(found).startswith("the terms separate the outcomes")


def test_records_that_are_nearly_separable_have_a_fit() -> None:
    x = list(range(1, 41))
    y = [int(value > 20) for value in x]
    y[18], y[21] = 1, 0
    found = logistic(y, x=x)
    fit = sm.Logit(y, sm.add_constant(np.array(x, dtype=float))).fit(disp=0, tol=1e-12)
    assert found.converged
    assert column(found, "estimate") == pytest.approx(list(fit.params), rel=1e-6)


def test_collinear_regressors_of_a_logistic_regression_are_named() -> None:
    y = [0, 1, 0, 1, 0, 1, 1, 0]
    x = [1, 2, 3, 4, 5, 6, 7, 8]
    found = logistic(y, x=x, z=[2 * value + 1 for value in x])
    assert reason(found) == "z is a linear combination of constant, x; leave one of them out"
    assert found.rounds == 1
    assert "constant; leave it out" in reason(logistic(y, x=[5] * 8))


@pytest.mark.parametrize(
    ("y", "why"),
    [
        ([], "there is no record"),
        ([0, 0, 0], "every record has the same y; it takes both"),
        ([1, 1, 1], "every record has the same y; it takes both"),
        ([0, 1], "2 records do not determine 3 coefficients"),
    ],
)
def test_outcomes_that_cannot_be_told_apart_say_so(y: list[int], why: str) -> None:
    assert reason(logistic(y, x=list(range(len(y))), z=[1] * len(y))) == why


@given(st.data())
@quick
def test_no_records_make_a_logistic_regression_fail(data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5), st.integers(0, 1)), max_size=25))
    y, x, z = (list(values) for values in zip(*rows, strict=True)) if rows else ([], [], [])
    found = logistic(y, x=x, z=z)
    assert found.converged != bool(found.coefficients[0].estimate.reason)
    assert 1 <= found.rounds <= MOST_ROUNDS
    if found.converged:
        design = np.column_stack([np.ones(len(x)), x, z])
        likely = 1 / (1 + np.exp(-design @ np.array(column(found, "estimate"))))
        assert np.abs(design.T @ (np.array(y) - likely)).max() < 1e-5, "the likelihood is at its top"


def test_later_rounds_ask_for_the_regression_alone_with_public_coefficients() -> None:
    variables, data, _ = spector()
    asked = Statistic.of("logistic-regression", "GRADE", "GPA", "PSI", id="fit")
    first = question(variables, asked, Statistic.of("mean", "TUCE"), records=32)
    begun = Fit.start(first)
    assert begun.study is first
    second = begun.advance(totals(first, data), 10)

    assert isinstance(second, Fit)
    (statistic,) = second.study.statistics
    assert (statistic.id, len(statistic.coefficients)) == ("fit", 3)
    assert [variable.name for variable in second.study.variables] == ["GRADE", "GPA", "PSI"]
    assert replace(second.study, statistics=first.statistics, variables=first.variables) == first


def test_a_step_that_goes_too_far_is_halved() -> None:
    variables, data, _ = spector()
    asked = Statistic.of("logistic-regression", "GRADE", "GPA", "PSI")
    begun = Fit.start(question([one for one in variables if one.name != "TUCE"], asked, records=32))
    second = begun.advance(totals(begun.study, data), 10)
    assert isinstance(second, Fit)
    # Far on the other side of the top, where the likelihood is lower than at the start.
    (statistic,) = second.study.statistics
    far = tuple(-30 * coefficient for coefficient in statistic.coefficients)
    strayed = Fit(replace(second.study, statistics=(replace(statistic, coefficients=far),)), 1, second.last)
    third = strayed.advance(totals(strayed.study, data), 10)

    assert isinstance(third, Fit)
    assert third.halvings == 1
    halves = [coefficient / 2 for coefficient in statistic.coefficients]
    assert list(third.study.statistics[0].coefficients) == pytest.approx(halves, abs=1)


def test_totals_that_no_records_give_end_the_rounds() -> None:
    """A gradient far beyond its Hessian, from a member that made its totals up."""
    variables, data, _ = spector()
    asked = Statistic.of("logistic-regression", "GRADE", "PSI")
    begun = Fit.start(question([one for one in variables if one.name in {"GRADE", "PSI"}], asked, records=32))
    (honest,) = totals(begun.study, {name: data[name] for name in ("GRADE", "PSI")})
    forged = honest.copy()
    forged[2:4] = 2**48
    forged[4:7] //= 2**23
    found = begun.advance((forged,), 10)
    assert not isinstance(found, Fit)
    assert reason(found) == "its coefficients leave all bounds after 1 rounds"


def test_a_study_has_one_logistic_regression_or_the_driver_does_not_start() -> None:
    with pytest.raises(StudyError, match="has 0 logistic regressions"):
        Fit.start(question((X,), Statistic.of("mean", "x")))
