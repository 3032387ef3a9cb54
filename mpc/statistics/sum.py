"""The sum of a scalar or, element by element, of a vector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mpc.statistics.cells import Cells, bounds, values_told
from mpc.statistics.component import Asked, Block, Family, Sums, Values, must_be_numbers
from mpc.statistics.figures import Figures, Table, half_step


class SumFigures(Figures, frozen=True, kw_only=True, tag="sum"):
    """The sums, one an element of the variable."""

    totals: tuple[int | float, ...]
    """Whole numbers as such; of a bounds-point variable, in its unit."""
    unit: str
    error: float
    """Of each: half a step a record."""

    def tables(self) -> tuple[Table, ...]:
        """One row an element."""
        rows = tuple((place, total, self.unit, self.error) for place, total in enumerate(self.totals))
        return (Table(name=self.name, columns=("element", "sum", "unit", "error"), rows=rows),)


class Sum(Family):
    """`sum` in a study."""

    kind = "sum"
    reveals = "the sum"
    vectors = True
    adds = True

    def problems(self, asked: Asked) -> Iterator[str]:
        """Only numbers can be added."""
        return must_be_numbers(asked.variables)

    def blocks(self, asked: Asked) -> Sequence[Block]:
        """The values themselves."""
        (variable,) = asked.variables
        return (Block(variable.minimum, variable.maximum, variable.length),)

    def totals(self, asked: Asked, columns: Sequence[Values]) -> Values:
        """Their sums."""
        (column,) = columns
        rows = column.reshape(-1, asked.variables[0].length)
        total: Values = rows[0] if len(rows) == 1 else rows.sum(axis=0, dtype=np.int64)
        return total

    def cells(self, asked: Asked, sums: Sums) -> Iterable[Cells]:
        """How many records differ from the bounds of the variable, in each element."""
        (variable,) = asked.variables
        low = sums.n * variable.minimum
        counts = [count for total in sums.totals.tolist() for count in values_told(variable, sums.n, total - low)]
        return (bounds(variable.name, counts),)

    def figures(self, asked: Asked, sums: Sums) -> SumFigures:
        """In the variable's unit."""
        (variable,) = asked.variables
        totals: list[int] = sums.totals.tolist()
        return SumFigures(
            id=asked.statistic.name,
            variable=variable.name,
            n=sums.n,
            left_out=sums.left_out,
            totals=tuple(total / variable.scale for total in totals) if variable.rounded else tuple(totals),
            unit=variable.unit,
            error=float(sums.n * half_step(variable)),
        )
