"""Two categories crossed, with the chi-squared test, and Fisher's exact one where a table of two by two is thin."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mpc.statistics.cells import Axis, Cells, Runs, merge, together
from mpc.statistics.component import Asked, Block, Family, Sums, Values, must_be_categories
from mpc.statistics.distributions import chi_squared_tail
from mpc.statistics.figures import CONTRADICTION, Cell, Figures, Quantity, Table, absent, quantities_table, quantity

FEW = 5
"""Expected in a cell, below which the chi-squared distribution is a rough approximation (Cochran 1954)."""
MAX_FISHER = 100_000
"""Records, above which no table is thin enough to ask."""

_Counts = npt.NDArray[np.int64]


class ContingencyFigures(Figures, frozen=True, kw_only=True, tag="contingency"):
    """Counts, and tests of independence over the rows and columns that are not empty."""

    column_variable: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    """One tuple a row."""
    chi_squared: Quantity
    """Pearson's, without a correction for continuity."""
    degrees_of_freedom: int
    p: Quantity
    least_expected: Quantity
    fisher_p: Quantity
    """Two-sided: tables that are at most as probable as this one."""

    def tables(self) -> tuple[Table, ...]:
        """The counts as they stand, then the tests."""
        rows: list[tuple[Cell, ...]] = [(row, *counts) for row, counts in zip(self.rows, self.counts, strict=True)]
        return (
            Table(name=self.name, columns=(self.variable, *self.columns), rows=tuple(rows)),
            quantities_table(f"{self.name}-tests", self),
        )


class Contingency(Family):
    """`contingency` in a study: `variable` gives the rows, the other one the columns."""

    kind = "contingency"
    reveals = "the count in each cell of the table"
    others = "the category of the columns"
    least_others = most_others = 1

    def problems(self, asked: Asked) -> Iterator[str]:
        """Only categories can be crossed."""
        return must_be_categories(asked.variables)

    def blocks(self, asked: Asked) -> Sequence[Block]:
        """0 or 1 a cell, row after row."""
        rows, columns = asked.variables
        return (Block(0, 1, len(rows.categories) * len(columns.categories), label="records in a cell"),)

    def totals(self, asked: Asked, columns: Sequence[Values]) -> Values:
        """The counts."""
        height, width = (len(variable.categories) for variable in asked.variables)
        places = columns[0] * width + columns[1]
        return np.bincount(places, minlength=height * width).astype(np.int64, copy=False)

    def cells(self, asked: Asked, sums: Sums) -> Iterable[Cells]:
        """The table."""
        axes = tuple(Axis(variable.name) for variable in asked.variables)
        return (Cells(axes, sums.totals.reshape([len(variable.categories) for variable in asked.variables])),)

    def coarser(self, asked: Asked, sums: Sums, runs: Mapping[str, Runs]) -> tuple[Asked, Sums]:
        """The table with fewer rows or columns."""
        variables = list(asked.variables)
        table = sums.totals.reshape([len(variable.categories) for variable in variables])
        for axis, variable in enumerate(asked.variables):
            if variable.name in runs:
                variables[axis] = together(variable, runs[variable.name])
                table = merge(table, axis, runs[variable.name])
        return replace(asked, variables=tuple(variables)), replace(sums, totals=table.reshape(-1))

    def figures(self, asked: Asked, sums: Sums) -> ContingencyFigures:
        """The table and its tests."""
        rows, columns = asked.variables
        table = sums.totals.reshape(len(rows.categories), len(columns.categories))
        kept = table[table.any(axis=1)][:, table.any(axis=0)]
        notes = ["rows or columns without a record are left out of the tests"] if kept.shape != table.shape and kept.size else []
        if int(table.sum()) != sums.n:
            chi_squared = p = least = fisher = absent(CONTRADICTION)
            freedom = 0
        elif min(kept.shape) < 2:
            none = absent("the records lie in one row or one column alone; a test needs two of each")
            chi_squared = p = least = fisher = none
            freedom = 0
        else:
            chi_squared, freedom, p, least = _chi_squared(kept)
            fisher = _fisher(kept, least.value or 0.0)
            if (least.value or 0.0) < FEW:
                notes.append(f"an expected count is below {FEW}: the chi-squared test is rough")
        return ContingencyFigures(
            id=asked.statistic.name,
            variable=rows.name,
            n=sums.n,
            left_out=sums.left_out,
            notes=tuple(notes),
            column_variable=columns.name,
            rows=rows.categories,
            columns=columns.categories,
            counts=tuple(tuple(row) for row in table.tolist()),
            chi_squared=chi_squared,
            degrees_of_freedom=freedom,
            p=p,
            least_expected=least,
            fisher_p=fisher,
        )


def _chi_squared(table: _Counts) -> tuple[Quantity, int, Quantity, Quantity]:
    expected = np.outer(table.sum(axis=1).astype(float), table.sum(axis=0)) / table.sum()
    value = float(((table - expected) ** 2 / expected).sum())
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    return quantity(value), freedom, quantity(chi_squared_tail(value, freedom)), quantity(float(expected.min()))


def _fisher(table: _Counts, least: float) -> Quantity:
    """Over all tables with the same margins, in whole numbers."""
    if table.shape != (2, 2):
        return absent("Fisher's test is computed for two by two categories")
    if least >= FEW:
        return absent(f"no expected count is below {FEW}: the chi-squared test holds")
    (a, b), (c, d) = table.tolist()
    if a + b + c + d > MAX_FISHER:
        return absent(f"more than {MAX_FISHER} records are too many to count their tables")
    ways = [math.comb(a + b, x) * math.comb(c + d, a + c - x) for x in range(max(0, a - d), min(a + b, a + c) + 1)]
    seen = math.comb(a + b, a) * math.comb(c + d, c)
    return quantity(sum(way for way in ways if way <= seen) / sum(ways))
