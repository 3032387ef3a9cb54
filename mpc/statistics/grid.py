"""A variable's range cut into cells: what histograms, quantiles, extremes and survival curves count in.

Edges e_0 < ... < e_k make the bins [e_i, e_(i+1)), the last one with its upper edge, as numpy.histogram has them; what lies
below e_0 or above e_k has a cell of its own, so that every value within the bounds has a place. A number of bins instead of
edges divides the bounds by the same rule, into bins of a whole number of steps; with neither, every step is a cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

import msgspec
import numpy as np
import numpy.typing as npt

from mpc.statistics.cells import Axis, Cells, Runs, merge
from mpc.statistics.component import Asked, Block, Family, Sums, Values
from mpc.study import CATEGORY, Variable

MAX_CELLS = 1_000_000

Counts = npt.NDArray[np.int64]


def grid_problems(asked: Asked) -> Iterator[str]:
    """What is wrong with the bins of a question."""
    variable, bins, edges = asked.variables[0], asked.statistic.bins, asked.statistic.edges
    if variable.type == CATEGORY:
        yield f"{variable.name} is a category, which has no bins; count it with 'contingency' or 'by'"
    if bins and edges:
        yield "it has both bins and edges; give one"
    if bins < 0:
        yield f"{bins} bins are too few; give at least 1"
    if edges and (len(edges) < 2 or any(low >= high for low, high in pairwise(edges))):
        yield "its edges must be at least two, and rise"
    elif edges and not variable.minimum <= edges[0] < edges[-1] <= variable.maximum:
        yield (
            f"its edges {_shown(variable, edges[0])} to {_shown(variable, edges[-1])} must lie within the bounds "
            f"[{_shown(variable, variable.minimum)}, {_shown(variable, variable.maximum)}] of {variable.name}"
        )
    elif _count(asked) > MAX_CELLS:
        yield f"{_count(asked)} bins are too many; give at most {MAX_CELLS} 'bins', or 'edges'"


def _shown(variable: Variable, steps: int) -> str:
    return str(steps) if variable.scale == 1 else f"{steps / variable.scale:g}"


def _width(asked: Asked) -> int:
    """Steps in a bin, where there are no edges: as few as make at most so many bins."""
    variable, bins = asked.variables[0], asked.statistic.bins
    span = variable.maximum - variable.minimum
    return -(-span // bins) if bins and bins <= span else 1


def _count(asked: Asked) -> int:
    variable, edges = asked.variables[0], asked.statistic.edges
    if edges:
        return len(edges) - 1 + (edges[0] > variable.minimum) + (edges[-1] < variable.maximum)
    span = variable.maximum - variable.minimum
    return -(-span // _width(asked)) if 0 < asked.statistic.bins <= span else span + 1


@dataclass(frozen=True, slots=True)
class Grid:
    """The cells of a question, in rising order; the one below the edges and the one above are there if they hold anything."""

    variable: Variable
    edges: tuple[int, ...]
    """Given ones; empty for bins of one width."""
    starts: tuple[int, ...]
    """With edges, the first step of each cell."""
    width: int
    cells: int
    below: bool
    above: bool

    @classmethod
    def of(cls, asked: Asked) -> Grid:
        """The grid over the first variable."""
        variable, edges = asked.variables[0], asked.statistic.edges
        below, above = (edges[0] > variable.minimum, edges[-1] < variable.maximum) if edges else (False, False)
        starts = [*([variable.minimum] if below else []), *edges[:-1], *([edges[-1] + 1] if above else [])]
        return cls(variable, edges, tuple(starts), _width(asked), _count(asked), below, above)

    def counts(self, values: Values) -> Counts:
        """How many of the values lie in each cell, shape (cells,)."""
        return np.bincount(self.places(values), minlength=self.cells).astype(np.int64, copy=False)

    def places(self, values: Values) -> Counts:
        """The cell of each value."""
        if self.edges:
            return np.searchsorted(np.array(self.starts[1:], dtype=np.int64), values, side="right").astype(np.int64, copy=False)
        # Bounds may be up to 2^64 apart, which unsigned differences are exact for.
        steps = values.astype(np.uint64) - np.uint64(self.variable.minimum % 2**64)
        places: Counts = np.minimum(steps // np.uint64(self.width), np.uint64(self.cells - 1)).astype(np.int64)
        return places

    def span(self, cell: int) -> tuple[int, int]:
        """First and last step of a cell, both in it."""
        variable = self.variable
        if not self.edges:
            first = variable.minimum + cell * self.width
            return first, first + self.width - 1 if cell < self.cells - 1 else variable.maximum
        last = self.starts[cell + 1] - 1 if cell < self.cells - 1 else variable.maximum
        return self.starts[cell], last

    def bin_edges(self) -> tuple[int, ...]:
        """The edges of the bins alone, k + 1 of them."""
        if self.edges:
            return self.edges
        return tuple(self.variable.minimum + self.width * cell for cell in range(self.cells + 1))

    def merged_edges(self, runs: Runs) -> tuple[int, ...]:
        """The edges of bins that each are a run of these cells. They reach the bounds, so that nothing lies outside them."""
        last = self.variable.maximum + 1 if self.above else self.bin_edges()[-1]
        return (*(self.span(first)[0] for first in runs), last)

    def ordered(self, counts: Counts, rank: int) -> tuple[Fraction, Fraction]:
        """The value of that rank (0: the smallest) as middle of its cell and half the cell's width, in steps."""
        cell = int(np.searchsorted(np.cumsum(counts), rank, side="right"))
        first, last = self.span(cell)
        return Fraction(first + last, 2), Fraction(last - first, 2)


class Binned(Family):
    """A family whose elements are the counts of a grid over its first variable."""

    reveals = "the count in each bin"
    takes = frozenset({"bins", "edges"})

    def problems(self, asked: Asked) -> Iterator[str]:
        """What is wrong with the bins."""
        return grid_problems(asked)

    def blocks(self, asked: Asked) -> Sequence[Block]:
        """0 or 1 a cell."""
        return (Block(0, 1, Grid.of(asked).cells, label="records in a bin"),)

    def totals(self, asked: Asked, columns: Sequence[Values]) -> Values:
        """The counts."""
        return Grid.of(asked).counts(columns[0])

    def cells(self, asked: Asked, sums: Sums) -> Iterable[Cells]:
        """The counts."""
        return (Cells((Axis(asked.variables[0].name),), sums.totals),)

    def coarser(self, asked: Asked, sums: Sums, runs: Mapping[str, Runs]) -> tuple[Asked, Sums]:
        """Wider bins."""
        mine = runs.get(asked.variables[0].name)
        if mine is None:
            return asked, sums
        grid = Grid.of(asked)
        statistic = msgspec.structs.replace(asked.statistic, bins=0, edges=grid.merged_edges(mine))
        totals = merge(sums.totals.reshape(-1, grid.cells), 1, mine)
        return replace(asked, statistic=statistic), replace(sums, totals=totals.reshape(-1))
