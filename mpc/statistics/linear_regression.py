"""Ordinary least squares with an intercept, from X'X and X'y, solved in whole numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from mpc.statistics import moments
from mpc.statistics.component import Asked, Sums, must_be_numbers
from mpc.statistics.distributions import f_tail, t_quantile, t_tails
from mpc.statistics.exact import Dependent, Inverse, invert
from mpc.statistics.figures import CONTRADICTION, Figures, Quantity, Table, absent, per, quantities_table, quantity
from mpc.statistics.moments import Moments, Term
from mpc.statistics.regression import CONSTANT, Coefficient, coefficients_table, collinear, unknown
from mpc.study import MILLION

PERFECT = "the fit leaves no residual to judge it by"


class LinearRegressionFigures(Figures, frozen=True, kw_only=True, tag="linear-regression"):
    """The intercept first, then the terms in the study's order. Errors of coefficients are to first order."""

    coefficients: tuple[Coefficient, ...]
    r_squared: Quantity
    adjusted_r_squared: Quantity
    residual_deviation: Quantity
    """The root of the residual sum of squares over its degrees of freedom."""
    f: Quantity
    p: Quantity
    """Of F: that no regressor tells anything."""
    degrees_of_freedom: int
    """Of the residuals."""
    level: float

    def tables(self) -> tuple[Table, ...]:
        """The coefficients, then the fit."""
        return coefficients_table(self.name, self.coefficients), quantities_table(f"{self.name}-fit", self)


class LinearRegression(moments.OfMoments):
    """`linear-regression` in a study: `variable` on the others; a category enters as one term for each but its first."""

    kind = "linear-regression"
    reveals = "the sum of each variable and of the product of each pair"
    others = "a regressor"
    least_others = 1
    most_others = moments.MAX_TERMS - 1
    takes = frozenset({"level"})

    def problems(self, asked: Asked) -> Iterator[str]:
        """The outcome is a number; there is an end to the terms."""
        yield from must_be_numbers(asked.variables[:1])
        if (count := moments.count_terms(asked.variables)) > moments.MAX_TERMS:
            yield f"its variables and categories make {count} terms; at most {moments.MAX_TERMS} fit"

    def figures(self, asked: Asked, sums: Sums) -> LinearRegressionFigures:
        """The fit, or why there is none."""
        terms, level = moments.terms(asked.variables), asked.statistic.level / MILLION
        fit = _fit(terms, Moments.of(terms, sums.n, sums.totals))
        if isinstance(fit, str):
            freedom, none = 0, absent(fit)
            coefficients = unknown(_names(terms), fit)
            r_squared = adjusted = f = p = none
            deviation = absent(fit, terms[0].unit)
        else:
            freedom, deviation = fit.freedom, fit.deviation()
            coefficients = fit.coefficients(level)
            r_squared, adjusted, f, p = fit.quality()
        return LinearRegressionFigures(
            id=asked.statistic.name,
            variable=terms[0].name,
            n=sums.n,
            left_out=sums.left_out,
            coefficients=coefficients,
            r_squared=r_squared,
            adjusted_r_squared=adjusted,
            residual_deviation=deviation,
            f=f,
            p=p,
            degrees_of_freedom=freedom,
            level=level,
        )


@dataclass(frozen=True, slots=True, repr=False)
class _Fit:
    """The normal equations, solved: everything in steps, and exact."""

    terms: Sequence[Term]
    """The outcome, then the regressors."""
    moment: Moments
    inverse: Inverse
    """Of X'X, the intercept first."""
    numerators: tuple[int, ...]
    """Of the coefficients; the determinant of `inverse` is their divisor."""
    residual: int
    """Numerator of the sum of squares of the residuals."""

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the residuals."""
        return self.moment.n - len(self.terms)

    @property
    def exact(self) -> float | None:
        """The error of what is only computed, and not bounded, from rounded values."""
        return None if any(term.half for term in self.terms) else 0.0

    def coefficients(self, level: float) -> tuple[Coefficient, ...]:
        """In the units of outcome and term."""
        outcome, *regressors = self.terms
        divisor = self.inverse.determinant
        scales = [1, *(term.scale for term in regressors)]
        halves = [0.0, *(float(term.half) for term in regressors)]
        names, units = zip(*_names(self.terms), strict=True)
        size = range(len(scales))
        slopes = [_ratio(self.numerators[j] * scales[j], divisor * outcome.scale) for j in size]
        spread = [[_ratio(self.inverse.numerators[j][k] * scales[j] * scales[k], divisor) for k in size] for j in size]
        residual = _ratio(self.residual, divisor * outcome.scale**2)
        width = t_quantile(level, self.freedom) if self.freedom and self.residual else 0.0
        moved = float(outcome.half) + sum(abs(slopes[k]) * halves[k] for k in size)
        made = []
        for j in size:
            # By Cauchy's inequality, from X'X b = X'y with every number moved by at most half a step.
            error = math.sqrt(spread[j][j] * self.moment.n) * moved
            error += sum(abs(spread[j][k]) * halves[k] for k in size) * math.sqrt(self.moment.n * residual)
            estimate = quantity(slopes[j], units[j], error)
            if not width:
                (nothing,) = unknown([(names[j], units[j])], PERFECT)
                made.append(msgspec.structs.replace(nothing, estimate=estimate))
                continue
            deviation = math.sqrt(spread[j][j] * residual / self.freedom)
            t = slopes[j] / deviation
            made.append(
                Coefficient(
                    term=names[j],
                    estimate=estimate,
                    standard_error=quantity(deviation, units[j], self.exact),
                    statistic=quantity(t, "", self.exact),
                    p=quantity(t_tails(t, self.freedom), "", self.exact),
                    low=quantity(slopes[j] - width * deviation, units[j], self.exact),
                    high=quantity(slopes[j] + width * deviation, units[j], self.exact),
                )
            )
        return tuple(made)

    def deviation(self) -> Quantity:
        """Of the residuals."""
        outcome = self.terms[0]
        if not self.freedom:
            return absent(PERFECT, outcome.unit)
        variance = _ratio(self.residual, self.inverse.determinant * outcome.scale**2 * self.freedom)
        return quantity(math.sqrt(variance), outcome.unit, self.exact)

    def quality(self) -> tuple[Quantity, Quantity, Quantity, Quantity]:
        """R squared, adjusted R squared, F, and its p."""
        whole = self.moment.centred(0, 0) * self.inverse.determinant
        if not whole:
            none = absent(f"{self.terms[0].name} is constant")
            return none, none, none, none
        share = self.residual / whole
        r_squared = quantity(1 - share, "", self.exact)
        if not self.freedom or not self.residual:
            none = absent(PERFECT)
            return r_squared, none if not self.freedom else r_squared, none, none
        regressors = len(self.terms) - 1
        f = float((1 - share) * self.freedom / (share * regressors))
        return (
            r_squared,
            quantity(1 - share * (self.moment.n - 1) / self.freedom, "", self.exact),
            quantity(f, "", self.exact),
            quantity(f_tail(f, regressors, self.freedom), "", self.exact),
        )


def _names(terms: Sequence[Term]) -> list[tuple[str, str]]:
    """Each coefficient's term and unit."""
    outcome, *regressors = terms
    return [(CONSTANT, outcome.unit), *((term.name, per(outcome.unit, term.unit)) for term in regressors)]


def _fit(terms: Sequence[Term], moment: Moments) -> _Fit | str:
    """The solution, or why there is none."""
    names = [name for name, _ in _names(terms)]
    if moment.n < len(terms):
        return f"{moment.n} records do not determine {len(terms)} coefficients"
    matrix = [[moment.n, *moment.sums[1:]], *([moment.sums[j], *moment.products[j][1:]] for j in range(1, len(terms)))]
    inverse = invert(matrix)
    if inverse is None or moment.contradictory:
        return CONTRADICTION
    if isinstance(inverse, Dependent):
        return collinear(names[inverse.column], [names[place] for place in inverse.of])
    right = [moment.sums[0], *moment.products[0][1:]]
    numerators = tuple(sum(a * b for a, b in zip(row, right, strict=True)) for row in inverse.numerators)
    explained = sum(a * b for a, b in zip(numerators, right, strict=True))
    residual = moment.products[0][0] * inverse.determinant - explained
    return _Fit(terms, moment, inverse, numerators, residual) if residual >= 0 else CONTRADICTION


def _ratio(numerator: int, divisor: int) -> float:
    """As a float, rounded once; infinite where it is too large for one."""
    try:
        return numerator / divisor
    except OverflowError:
        return math.copysign(math.inf, numerator)
