"""The smallest and the largest value, as far as the bins tell: the first and the last bin that are not empty.

A sum cannot take a minimum, so the hospital sees the count in every bin. Wide bins say less, of the extremes and of the rest.
"""

from __future__ import annotations

from fractions import Fraction

from mpc.statistics.component import Asked, Sums
from mpc.statistics.figures import Figures, Quantity
from mpc.statistics.grid import Binned, Grid
from mpc.statistics.quantiles import quantile


class ExtremesFigures(Figures, frozen=True, kw_only=True, tag="extremes"):
    """Both ends, each the middle of its bin with half the bin's width as its error."""

    minimum: Quantity
    maximum: Quantity


class Extremes(Binned):
    """`extremes` in a study."""

    kind = "extremes"

    def figures(self, asked: Asked, sums: Sums) -> ExtremesFigures:
        """The quantiles 0 and 1."""
        cells = Grid.of(asked)
        return ExtremesFigures(
            id=asked.statistic.name,
            variable=asked.variables[0].name,
            n=sums.n,
            left_out=sums.left_out,
            minimum=quantile(cells, sums.totals, sums.n, Fraction(0)),
            maximum=quantile(cells, sums.totals, sums.n, Fraction(1)),
        )
