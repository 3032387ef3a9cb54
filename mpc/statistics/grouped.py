"""Any statistic by category: the figures of each group, and a test between the groups where the statistic has one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mpc.statistics.component import Asked, Family, Sums
from mpc.statistics.contingency import ContingencyFigures
from mpc.statistics.count import CountFigures
from mpc.statistics.covariance import CovarianceFigures
from mpc.statistics.extremes import ExtremesFigures
from mpc.statistics.figures import Comparison, Figures, Table
from mpc.statistics.histogram import HistogramFigures
from mpc.statistics.kaplan_meier import KaplanMeierFigures
from mpc.statistics.linear_regression import LinearRegressionFigures
from mpc.statistics.logistic_regression import LogisticRegressionFigures
from mpc.statistics.mean import MeanFigures
from mpc.statistics.quantiles import QuantilesFigures
from mpc.statistics.sum import SumFigures
from mpc.statistics.weighted_mean import WeightedMeanFigures

Ungrouped = (
    SumFigures
    | CountFigures
    | MeanFigures
    | HistogramFigures
    | QuantilesFigures
    | ExtremesFigures
    | ContingencyFigures
    | CovarianceFigures
    | LinearRegressionFigures
    | LogisticRegressionFigures
    | KaplanMeierFigures
    | WeightedMeanFigures
)


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """One category and its figures."""

    category: str
    figures: Ungrouped

    def __repr__(self) -> str:
        return "<Group>"


class GroupedFigures(Figures, frozen=True, kw_only=True, tag="grouped"):
    """A group for each category, empty ones too."""

    by: str
    groups: tuple[Group, ...]
    comparison: Comparison | None = None

    def tables(self) -> tuple[Table, ...]:
        """Those of the groups, one under the other, with the category in front."""
        tables: list[Table] = []
        for alike in zip(*(group.figures.tables() for group in self.groups), strict=True):
            rows = [(group.category, *row) for group, table in zip(self.groups, alike, strict=True) for row in table.rows]
            tables.append(Table(name=alike[0].name, columns=(self.by, *alike[0].columns), rows=tuple(rows)))
        if self.comparison is not None:
            tables.append(self.comparison.table())
        return tuple(tables)


AnyFigures = Ungrouped | GroupedFigures
"""What JSON is read as: `msgspec.json.decode(raw, type=AnyFigures)`."""


def figures(family: Family, asked: Asked, groups: Sequence[Sums]) -> Figures:
    """The figures of a statistic from the totals of its groups."""
    if asked.by is None:
        return family.figures(asked, groups[0])
    return GroupedFigures(
        id=asked.statistic.name,
        variable=asked.variables[0].name,
        n=sum(group.n for group in groups),
        left_out=groups[0].left_out,
        by=asked.by.name,
        groups=tuple(
            Group(category=category, figures=family.figures(asked, sums))  # type: ignore[arg-type]
            for category, sums in zip(asked.by.categories, groups, strict=True)
        ),
        comparison=family.compare(asked, groups),
    )
