"""Mean, variance, standard deviation, standard error and confidence interval."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

from mpc.statistics import moments
from mpc.statistics.component import Asked, Sums, must_be_numbers
from mpc.statistics.distributions import t_quantile
from mpc.statistics.figures import CONTRADICTION, Figures, Quantity, absent, half_step, quantity, squared
from mpc.study import MILLION

ONE_RECORD = "one record does not vary; it takes two"


class MeanFigures(Figures, frozen=True, kw_only=True, tag="mean"):
    """Variance with the divisor n - 1; the interval is Student's."""

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
        none = absent("there is no record", unit)
        mean = variance = deviation = error = low = high = none
        moment = moments.Moments.of(moments.terms(asked.variables), sums.n, sums.totals)
        if moment.contradictory:
            none = mean = variance = deviation = error = low = high = absent(CONTRADICTION, unit)
        elif sums.n > 0:
            centre, half = Fraction(moment.sums[0], sums.n * scale), half_step(variable)
            mean = quantity(centre, unit, half)
            none = absent(ONE_RECORD, unit)
            variance, deviation, error, low, high = absent(ONE_RECORD, squared(unit)), none, none, none, none
        if sums.n > 1 and not moment.contradictory:
            exact = moment.centred(0, 0) / ((sums.n - 1) * scale * scale)
            root = math.sqrt(exact)
            # The triangle inequality for centred vectors: rounding moves the standard deviation by no more than this.
            moved = float(half) * math.sqrt(sums.n / (sums.n - 1))
            variance = quantity(exact, squared(unit), moved * (2 * root + moved))
            deviation = quantity(root, unit, moved)
            each, width = 1 / math.sqrt(sums.n), t_quantile(level, sums.n - 1) / math.sqrt(sums.n)
            error = quantity(root * each, unit, moved * each)
            low, high = (quantity(float(centre) + side * root * width, unit, float(half) + moved * width) for side in (-1, 1))
        return MeanFigures(
            id=asked.statistic.name,
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
        )
