"""Tails and quantiles are scipy's, far out and for many degrees of freedom."""

from __future__ import annotations

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from mpc.statistics.distributions import chi_squared_tail, f_tail, normal_quantile, normal_tails, t_quantile, t_tails
from tests.mpc.properties import quick

FREEDOM = [1, 2, 3, 4.5, 10, 29, 100, 999, 1e4, 1e6]
freedom = st.floats(0.5, 1e6)
probability = st.floats(1e-12, 1 - 1e-6)


@pytest.mark.parametrize("df", FREEDOM)
@pytest.mark.parametrize("t", [0.0, 1e-6, 0.1, 0.5, 1, -1.96, 3, 5, 10])
def test_the_tails_of_student(t: float, df: float) -> None:
    assert t_tails(t, df) == pytest.approx(2 * scipy.stats.t.sf(abs(t), df), rel=1e-9)


@given(probability, freedom)
@quick
def test_the_tail_of_chi_squared(p: float, df: float) -> None:
    x = scipy.stats.chi2.isf(p, df)
    assert chi_squared_tail(x, df) == pytest.approx(scipy.stats.chi2.sf(x, df), rel=1e-9)


@given(probability, freedom, freedom)
@quick
def test_the_tail_of_f(p: float, df1: float, df2: float) -> None:
    x = scipy.stats.f.isf(p, df1, df2)
    assert f_tail(x, df1, df2) == pytest.approx(scipy.stats.f.sf(x, df1, df2), rel=1e-8)


@pytest.mark.parametrize("level", [0.001, 0.5, 0.8, 0.95, 0.99, 0.999999])
def test_the_quantiles_of_confidence_intervals(level: float) -> None:
    assert normal_quantile(level) == pytest.approx(scipy.stats.norm.isf((1 - level) / 2), rel=1e-9)
    for df in FREEDOM:
        assert t_quantile(level, df) == pytest.approx(scipy.stats.t.isf((1 - level) / 2, df), rel=1e-8)


@pytest.mark.parametrize("z", [0, 0.3, -1, 2.5, 8, 37])
def test_the_tails_of_the_normal(z: float) -> None:
    assert normal_tails(z) == pytest.approx(2 * scipy.stats.norm.sf(abs(z)), rel=1e-12)


def test_what_lies_beyond_all_is_sure_or_impossible() -> None:
    assert chi_squared_tail(0, 3) == f_tail(0, 2, 3) == t_tails(0, 4) == normal_tails(0) == 1
    assert chi_squared_tail(1e6, 3) == normal_tails(100) == 0
    assert f_tail(1e300, 2, 30) == pytest.approx(0, abs=1e-300)
