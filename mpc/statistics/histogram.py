"""How many values lie in each bin."""

from __future__ import annotations

from itertools import pairwise

from mpc.statistics.component import Asked, Sums
from mpc.statistics.figures import CONTRADICTION, Figures, Table, half_step
from mpc.statistics.grid import Binned, Grid


class HistogramFigures(Figures, frozen=True, kw_only=True, tag="histogram"):
    """Bins [edge, next edge), the last with its upper edge, as numpy.histogram has them."""

    edges: tuple[float, ...]
    """k + 1 of them, in the unit."""
    counts: tuple[int, ...]
    """k of them."""
    below: int
    above: int
    unit: str
    error: float
    """A value this near to an edge, in the unit, may be counted on its other side."""

    def tables(self) -> tuple[Table, ...]:
        """One row a bin; open ends where something lies outside the bins."""
        rows: list[tuple[float | None, float | None, int, str]] = []
        if self.below:
            rows.append((None, self.edges[0], self.below, self.unit))
        rows += [(low, high, count, self.unit) for (low, high), count in zip(pairwise(self.edges), self.counts, strict=True)]
        if self.above:
            rows.append((self.edges[-1], None, self.above, self.unit))
        return (Table(name=self.name, columns=("from", "to", "count", "unit"), rows=tuple(rows)),)


class Histogram(Binned):
    """`histogram` in a study."""

    kind = "histogram"

    def figures(self, asked: Asked, sums: Sums) -> HistogramFigures:
        """The counts with their edges."""
        cells, (variable,) = Grid.of(asked), asked.variables
        counts: list[int] = sums.totals.tolist()
        below, above = counts[0] if cells.below else 0, counts[-1] if cells.above else 0
        return HistogramFigures(
            id=asked.statistic.name,
            variable=variable.name,
            n=sums.n,
            left_out=sums.left_out,
            notes=() if sum(counts) == sums.n else (CONTRADICTION,),
            edges=tuple(edge / variable.scale for edge in cells.bin_edges()),
            counts=tuple(counts[int(cells.below) : len(counts) - int(cells.above)]),
            below=below,
            above=above,
            unit=variable.unit,
            error=float(half_step(variable)),
        )
