"""Mean, variance, standard deviation, standard error and confidence interval."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

from mpc.statistics import moments
from mpc.statistics.component import Asked, Sums, must_be_numbers
from mpc.statistics.distributions import t_quantile
from mpc.statistics.figures import Figures, Quantity, absent, half_step, name_of, quantity, spreads, squared
from mpc.study import MILLION

ONE_RECORD = "one record does not vary; it takes two"


class MeanFigures(Figures, frozen=True, kw_only=True, tag="mean"):
    """Variance with the divisor n - 1; the interval is Student's. Standard error and interval have the study's noise in them."""

    mean: Quantity
    variance: Quantity
    standard_deviation: Quantity
    standard_error: Quantity
    low: Quantity
    """Of the confidence interval."""
    high: Quantity
    level: float


class Mean(moments.OfMoments):
    """`mean` in a study."""

    kind = "mean"
    reveals = "the sum and the sum of squares"
    takes = frozenset({"level"})

    def problems(self, asked: Asked) -> Iterator[str]:
        """Only numbers have a mean."""
        return must_be_numbers(asked.variables)

    def figures(self, asked: Asked, sums: Sums) -> MeanFigures:
        """All of them; a single record has a mean and no more."""
        (variable,) = asked.variables
        level, unit, scale = asked.statistic.level / MILLION, variable.unit, variable.scale
        root = 0.0
        none = absent(sums.empty, unit)
        mean = variance = deviation = error = low = high = none
        moment = moments.Moments.of(moments.terms(asked.variables), sums.n, sums.totals)
        noise = _noise(sums) if sums.noise and sums.n > 1 else (0.0, 0.0)
        if moment.contradictory and (sums.noise is None or sums.n == 0):
            none = mean = variance = deviation = error = low = high = absent(sums.contradiction, unit)
        elif sums.n > 0:
            centre, half = Fraction(moment.sums[0], sums.n * scale), half_step(variable)
            mean = quantity(centre, unit, half)
            reason = sums.contradiction if moment.contradictory else ONE_RECORD
            none = absent(reason, unit)
            variance, deviation, error, low, high = absent(reason, squared(unit)), none, none, none, none
        if sums.n > 1 and not moment.contradictory:
            exact = moment.centred(0, 0) / ((sums.n - 1) * scale * scale)
            root = math.sqrt(exact)
            # The triangle inequality for centred vectors: rounding moves the standard deviation by no more than this.
            moved = float(half) * math.sqrt(sums.n / (sums.n - 1))
            variance = quantity(exact, squared(unit), moved * (2 * root + moved))
            deviation = quantity(root, unit, moved)
            each, width = 1 / math.sqrt(sums.n), t_quantile(level, sums.n - 1)
            off = math.hypot(root * each, noise[0] / scale)
            error = quantity(off, unit, moved * each)
            low, high = (
                quantity(float(centre) + side * off * width, unit, float(half) + moved * each * width) for side in (-1, 1)
            )
        return MeanFigures(
            id=name_of(asked.statistic),
            variable=variable.name,
            n=sums.n,
            left_out=sums.left_out,
            mean=mean,
            variance=variance,
            standard_deviation=deviation,
            standard_error=error,
            low=low,
            high=high,
            level=level,
            noise=spreads(
                ("mean", noise[0] / scale, unit),
                ("variance", noise[1] / scale**2, squared(unit)),
                ("standard_deviation", noise[1] / scale**2 / (2 * root) if root else 0.0, unit),
            ),
        )


def _noise(sums: Sums) -> tuple[float, float]:
    """What noise adds to mean and variance, in steps: standard deviations, to first order."""
    assert sums.noise is not None, "as its caller has seen"
    of_sum, of_squares = sums.noise.totals
    mean, square = (total / sums.n for total in sums.totals.tolist())
    of_mean = math.hypot(of_sum, mean * sums.noise.n) / sums.n
    turn = 2 * mean**2 - square
    return of_mean, math.hypot(of_squares, 2 * mean * of_sum, turn * sums.noise.n) / (sums.n - 1)
