"""Quantiles and the median, from counts in fine bins.

A quantile lies between two order statistics, as numpy.quantile interpolates them; each of the two is known up to its bin. With a
bin for each step, as there is unless the study says otherwise, whole numbers give exact quantiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from mpc.statistics.component import Asked, Sums
from mpc.statistics.figures import CONTRADICTION, Figures, Quantity, Table, absent, half_step, quantity
from mpc.statistics.grid import Binned, Counts, Grid
from mpc.study import MILLION, Variable

QUARTILES = (250_000, 500_000, 750_000)


class QuantilesFigures(Figures, frozen=True, kw_only=True, tag="quantiles"):
    """One value a probability."""

    probabilities: tuple[float, ...]
    values: tuple[Quantity, ...]

    def tables(self) -> tuple[Table, ...]:
        """One row a probability."""
        rows = tuple(
            (probability, value.value, value.unit, value.error, value.reason)
            for probability, value in zip(self.probabilities, self.values, strict=True)
        )
        return (Table(name=self.name, columns=("probability", "value", "unit", "error", "reason"), rows=rows),)


def quantile(cells: Grid, counts: Counts, n: int, probability: Fraction) -> Quantity:
    """The quantile of the n values behind the counts, linear between order statistics, with the most that bins leave open."""
    variable: Variable = cells.variable
    if n == 0 or int(counts.sum()) != n:
        return absent(CONTRADICTION if counts.any() else "there is no record", variable.unit)
    place = (n - 1) * probability
    rank = int(place)
    share = place - rank
    value, error = cells.ordered(counts, rank)
    if share:
        above, wider = cells.ordered(counts, rank + 1)
        value, error = value + share * (above - value), error + share * (wider - error)
    return quantity(value / variable.scale, variable.unit, error / variable.scale + half_step(variable))


class Quantiles(Binned):
    """`quantiles` in a study."""

    kind = "quantiles"
    takes = Binned.takes | {"quantiles"}

    def problems(self, asked: Asked) -> Iterator[str]:
        """The bins and the probabilities."""
        yield from super().problems(asked)
        if any(not 0 <= probability <= MILLION for probability in asked.statistic.quantiles):
            yield "its quantiles must lie between 0 and 1"

    def figures(self, asked: Asked, sums: Sums) -> QuantilesFigures:
        """In the order of the study; the quartiles where it names none."""
        cells, asked_for = Grid.of(asked), asked.statistic.quantiles or QUARTILES
        probabilities = [Fraction(probability, MILLION) for probability in asked_for]
        return QuantilesFigures(
            id=asked.statistic.name,
            variable=asked.variables[0].name,
            n=sums.n,
            left_out=sums.left_out,
            probabilities=tuple(map(float, probabilities)),
            values=tuple(quantile(cells, sums.totals, sums.n, probability) for probability in probabilities),
        )
