"""The mean of vectors, each with a weight: federated averaging of model updates, with the size of a member's data as weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mpc.statistics.cells import Cells, bounds, values_told
from mpc.statistics.component import Asked, Block, Family, Sums, Values, must_be_numbers
from mpc.statistics.figures import Figures, Table, half_step


class WeightedMeanFigures(Figures, frozen=True, kw_only=True, tag="weighted-mean"):
    """The mean of each element of the vector."""

    values: tuple[float, ...]
    """Empty where there is none."""
    unit: str
    error: float
    """Of each element: half a step."""
    weight: int
    """Of all records together."""
    reason: str = ""
    """Why there is no mean."""

    def tables(self) -> tuple[Table, ...]:
        """One row an element."""
        rows = tuple((place, value, self.unit, self.error) for place, value in enumerate(self.values))
        return (Table(name=self.name, columns=("element", "mean", "unit", "error"), rows=rows),)


class WeightedMean(Family):
    """`weighted-mean` in a study: of `variable`, weighted with the other one."""

    kind = "weighted-mean"
    reveals = "the sum of the weights, and for each element the sum of weight x value"
    others = "the weight"
    least_others = most_others = 1
    vectors = True
    adds = True

    def problems(self, asked: Asked) -> Iterator[str]:
        """Numbers, and weights that are whole and not negative."""
        yield from must_be_numbers(asked.variables)
        weight = asked.variables[1]
        if weight.rounded or weight.minimum < 0:
            yield f"{weight.name} is no weight; name an integer with a minimum of at least 0"

    def blocks(self, asked: Asked) -> Sequence[Block]:
        """The weight, then weight x value of each element."""
        vector, weight = asked.variables
        corners = [value * times for value in (vector.minimum, vector.maximum) for times in (weight.minimum, weight.maximum)]
        return (
            Block(weight.minimum, weight.maximum, label="weight"),
            Block(min(corners), max(corners), vector.length, label="weight x value"),
        )

    def totals(self, asked: Asked, columns: Sequence[Values]) -> Values:
        """Their sums."""
        rows, weights = columns[0].reshape(-1, asked.variables[0].length), columns[1]
        weighted = rows[0] * weights[0] if len(rows) == 1 else weights @ rows
        return np.concatenate([weights.sum(keepdims=True, dtype=np.int64), weighted])

    def cells(self, asked: Asked, sums: Sums) -> Iterator[Cells]:
        """How many records differ from the bounds of the weight, and of those that weigh, from the variable's in each element."""
        vector, weight = asked.variables
        whole, *weighted = sums.totals.tolist()
        yield bounds(weight.name, values_told(weight, sums.n, whole - sums.n * weight.minimum))
        low = whole * vector.minimum
        yield bounds(vector.name, [count for total in weighted for count in values_told(vector, whole, total - low)])

    def figures(self, asked: Asked, sums: Sums) -> WeightedMeanFigures:
        """The quotients."""
        vector, weight = asked.variables[0], int(sums.totals[0])
        means = sums.totals[1:] / (float(weight) * vector.scale) if weight else np.empty(0)
        return WeightedMeanFigures(
            id=asked.statistic.name,
            variable=vector.name,
            n=sums.n,
            left_out=sums.left_out,
            values=tuple(means.tolist()),
            unit=vector.unit,
            error=float(half_step(vector)),
            weight=weight,
            reason="" if weight else "the weights add up to 0",
        )
