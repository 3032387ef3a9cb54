"""The sum of a scalar or, element by element, of a vector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from msgspec.structs import replace

from mpc.statistics.cells import Cells, values_told
from mpc.statistics.component import Asked, Block, Family, Sums, Values, must_be_numbers
from mpc.statistics.figures import Figures, Table, half_step, name_of


class SumFigures(Figures, frozen=True, kw_only=True, tag="sum"):
    """The sums, one an element of the variable."""

    totals: tuple[int | float, ...]
    """Whole numbers as such; of a fixed-point variable, in its unit."""
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
        """Of a variable with two values, how many records have which."""
        (variable,) = asked.variables
        scalar = replace(variable, length=1)
        return (
            cells for total in sums.totals.tolist() for cells in values_told(scalar, sums.n, total - sums.n * variable.minimum)
        )

    def figures(self, asked: Asked, sums: Sums) -> SumFigures:
        """In the variable's unit."""
        (variable,) = asked.variables
        totals: list[int] = sums.totals.tolist()
        return SumFigures(
            id=name_of(asked.statistic),
            variable=variable.name,
            n=sums.n,
            left_out=sums.left_out,
            totals=tuple(total / variable.scale for total in totals) if variable.rounded else tuple(totals),
            unit=variable.unit,
            error=float(sums.n * half_step(variable)),
        )
