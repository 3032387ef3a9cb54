"""Every kind of statistic: a new one is one file beside this one and one line here."""

from __future__ import annotations

from collections.abc import Mapping

from mpc.statistics.component import Family
from mpc.statistics.contingency import Contingency
from mpc.statistics.count import Count
from mpc.statistics.covariance import Covariance
from mpc.statistics.extremes import Extremes
from mpc.statistics.histogram import Histogram
from mpc.statistics.kaplan_meier import KaplanMeier
from mpc.statistics.linear_regression import LinearRegression
from mpc.statistics.logistic_regression import LogisticRegression
from mpc.statistics.mean import Mean
from mpc.statistics.quantiles import Quantiles
from mpc.statistics.sum import Sum
from mpc.statistics.weighted_mean import WeightedMean

FAMILIES: Mapping[str, Family] = {
    family.kind: family
    for family in (
        Sum(),
        Count(),
        Mean(),
        Histogram(),
        Quantiles(),
        Extremes(),
        Contingency(),
        Covariance(),
        LinearRegression(),
        LogisticRegression(),
        KaplanMeier(),
        WeightedMean(),
    )
}
