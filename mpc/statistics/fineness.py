"""How narrow a study's cells are: bins, categories, groups. In a cell that is narrow enough, one person is alone.

What is measured is a part of all records, the one that the narrowest cell would hold were values spread evenly over its
variable's bounds and categories. It follows from the question alone. Statistics that only add have one cell, which is the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from math import prod

from mpc.statistics.component import Asked
from mpc.statistics.contingency import Contingency
from mpc.statistics.figures import name_of
from mpc.statistics.grid import Binned, Grid
from mpc.statistics.layout import ask
from mpc.study import Study


def narrowest(study: Study) -> Iterator[tuple[str, Fraction]]:
    """Each statistic's name, and the part of the records in its narrowest cell, 0 < part <= 1. The study is well-formed."""
    for statistic in study.statistics:
        family, asked = ask(study, statistic)
        part = Fraction(1)
        if isinstance(family, Binned):
            part = _of_bins(asked)
        elif isinstance(family, Contingency):
            part = Fraction(1, prod(len(variable.categories) for variable in asked.variables))
        yield name_of(statistic), part / (len(asked.by.categories) if asked.by else 1)


def _of_bins(asked: Asked) -> Fraction:
    grid = Grid.of(asked)
    steps = grid.variable.maximum + 1 - grid.variable.minimum
    if grid.edges:
        narrow = min(next_start - start for start, next_start in pairwise((*grid.starts, grid.variable.maximum + 1)))
    else:
        first, last = grid.span(grid.cells - 1)
        narrow = min(grid.width, last + 1 - first)
    # Bins of one width are the same part each, though the steps may not divide evenly.
    return Fraction(narrow, steps) if narrow < steps // grid.cells else Fraction(1, grid.cells)
