"""Covariances and correlations of several variables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from mpc.statistics import moments
from mpc.statistics.component import Asked, Sums, must_be_numbers
from mpc.statistics.figures import CONTRADICTION, Cell, Figures, Quantity, Table, absent, quantity, times
from mpc.statistics.mean import ONE_RECORD

Matrix = tuple[tuple[Quantity, ...], ...]


class CovarianceFigures(Figures, frozen=True, kw_only=True, tag="covariance"):
    """Symmetric matrices in the order of `variables`; covariances with the divisor n - 1."""

    variables: tuple[str, ...]
    covariance: Matrix
    correlation: Matrix
    """Pearson's."""

    def tables(self) -> tuple[Table, ...]:
        """One row a pair."""
        rows: list[tuple[Cell, ...]] = []
        for i, first in enumerate(self.variables):
            for j in range(i, len(self.variables)):
                covariance, correlation = self.covariance[i][j], self.correlation[i][j]
                rows.append(
                    (
                        first,
                        self.variables[j],
                        covariance.value,
                        covariance.unit,
                        covariance.error,
                        correlation.value,
                        correlation.error,
                        correlation.reason or covariance.reason,
                    )
                )
        columns = ("first", "second", "covariance", "unit", "error", "correlation", "correlation_error", "reason")
        return (Table(name=self.name, columns=columns, rows=tuple(rows)),)


class Covariance(moments.OfMoments):
    """`covariance` in a study."""

    kind = "covariance"
    reveals = "the sum of each variable and of the product of each pair"
    others = "a second variable"
    least_others = 1
    most_others = moments.MAX_TERMS - 1

    def problems(self, asked: Asked) -> Iterator[str]:
        """Only numbers vary together."""
        return must_be_numbers(asked.variables)

    def figures(self, asked: Asked, sums: Sums) -> CovarianceFigures:
        """Both matrices."""
        of = moments.terms(asked.variables)
        moment = moments.Moments.of(of, sums.n, sums.totals)
        if moment.contradictory:
            covariance, correlation = _absent(of, CONTRADICTION)
        elif sums.n > 1:
            covariance, correlation = _matrices(of, moment)
        else:
            covariance, correlation = _absent(of, ONE_RECORD if sums.n else "there is no record")
        return CovarianceFigures(
            id=asked.statistic.name,
            variable=of[0].name,
            n=sums.n,
            left_out=sums.left_out,
            variables=tuple(term.name for term in of),
            covariance=covariance,
            correlation=correlation,
        )


def _absent(of: Sequence[moments.Term], reason: str) -> tuple[Matrix, Matrix]:
    covariance = tuple(tuple(absent(reason, times(first.unit, second.unit)) for second in of) for first in of)
    return covariance, tuple(tuple(absent(reason) for _ in of) for _ in of)


def _matrices(of: Sequence[moments.Term], moment: moments.Moments) -> tuple[Matrix, Matrix]:
    """Errors by the triangle inequality for centred vectors: rounding moves one of them by at most half a step x sqrt(n)."""
    n, size = moment.n, len(of)
    exact = [[moment.centred(i, j) / ((n - 1) * of[i].scale * of[j].scale) for j in range(size)] for i in range(size)]
    deviation = [math.sqrt(exact[i][i]) for i in range(size)]
    moved = [float(term.half) * math.sqrt(n / (n - 1)) for term in of]

    def covariance(i: int, j: int) -> Quantity:
        error = deviation[i] * moved[j] + deviation[j] * moved[i] + moved[i] * moved[j]
        return quantity(exact[i][j], times(of[i].unit, of[j].unit), error)

    def correlation(i: int, j: int) -> Quantity:
        for place in (i, j):
            if not exact[place][place]:
                return absent(f"{of[place].name} is constant")
        # One square root of one product: exact where the two are proportional.
        value = float(exact[i][j]) / math.sqrt(exact[i][i] * exact[j][j])
        error = 0.0 if i == j else min(2.0, 2 * (moved[i] / deviation[i] + moved[j] / deviation[j]))
        return quantity(max(-1.0, min(1.0, value)), "", error)

    rows = range(size)
    return (
        tuple(tuple(covariance(i, j) for j in rows) for i in rows),
        tuple(tuple(correlation(i, j) for j in rows) for i in rows),
    )
