"""Logistic regression by Newton's method, one step a round.

A round's question carries the public coefficients b that the rounds before it gave; each member computes, over its own records,
the gradient and the negative Hessian of the log-likelihood at b, and the log-likelihood itself. Their totals give the next b.

So that all of them lie between public bounds, every term is brought to [-1, 1] by its bounds, u = (x - middle) / half their
width (a category's terms stay 0 or 1), and b is for u. These are no integers: each member rounds its sums to 2^-bits, the finest
that 53 bits of a float and 62 of a ring allow; the log-likelihood, which has no small bound, has fewer bits than the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from mpc.statistics import moments
from mpc.statistics.cells import Cells, fixed
from mpc.statistics.component import Asked, Block, Family, Sums, Values, must_be_yes_or_no
from mpc.statistics.distributions import normal_quantile, normal_tails
from mpc.statistics.figures import CONTRADICTION, Figures, Quantity, Table, absent, per, quantities_table, quantity
from mpc.statistics.moments import Moments, Term
from mpc.statistics.regression import CONSTANT, Coefficient, coefficients_table, collinear, unknown
from mpc.study import MILLION

COEFFICIENT_SCALE = 2**40
"""Steps in a coefficient of 1, in a study's `coefficients`."""
MAX_COEFFICIENT = 2**22
"""Coefficients are below this, either sign: already e^20 is no odds ratio that records tell from infinity."""
MOST_BITS, LEAST_BITS = 44, 12
STEADY = 1e-5
"""A step below this, in the sum of all coefficients for u, is the last: the next would be its square."""
_SINGULAR = 1e-10

Numbers = npt.NDArray[np.float64]


class LogisticRegressionFigures(Figures, frozen=True, kw_only=True, tag="logistic-regression"):
    """The intercept first, then the terms; e to the power of a coefficient is an odds ratio. Errors are to first order."""

    coefficients: tuple[Coefficient, ...]
    log_likelihood: Quantity
    null_log_likelihood: Quantity
    """Of the intercept alone."""
    pseudo_r_squared: Quantity
    """McFadden's."""
    events: int
    """Records whose outcome is the second of the two."""
    converged: bool
    rounds: int
    level: float

    def tables(self) -> tuple[Table, ...]:
        """The coefficients, then the fit."""
        return coefficients_table(self.name, self.coefficients), quantities_table(f"{self.name}-fit", self)


class LogisticRegression(Family):
    """`logistic-regression` in a study: `variable` is yes or no; see `mpc.statistics.newton` for its rounds."""

    kind = "logistic-regression"
    reveals = "the number of events and, at the coefficients of the round, log-likelihood, gradient and Hessian"
    others = "a regressor"
    least_others = 1
    most_others = moments.MAX_TERMS - 1
    takes = frozenset({"level", "coefficients"})
    grouped = False
    adds = True

    def problems(self, asked: Asked) -> Iterator[str]:
        """The outcome is yes or no; there is an end to the terms; the coefficients are as many, and fit."""
        yield from must_be_yes_or_no(asked.variables[0])
        count = 1 + moments.count_terms(asked.variables[1:])
        if count > moments.MAX_TERMS:
            yield f"its variables and categories make {count} terms; at most {moments.MAX_TERMS} fit"
        given = asked.statistic.coefficients
        if given and len(given) != count:
            yield f"it has {len(given)} coefficients for {count} terms; leave them out, rounds fill them in"
        elif (
            any(abs(coefficient) >= MAX_COEFFICIENT * COEFFICIENT_SCALE for coefficient in given)
            or min(_bits(asked), _likelihood_bits(asked)) < LEAST_BITS
        ):
            yield "its coefficients or its 'records' are too large for totals of 64 bits; lower 'records'"

    def blocks(self, asked: Asked) -> Sequence[Block]:
        """Event; gradient; upper triangle of the negative Hessian; log-likelihood."""
        one, size = _one(_bits(asked)), 1 + moments.count_terms(asked.variables[1:])
        found = [Block(0, 1, label="events"), Block(-one, one, size, label="gradient")]
        for i in range(size):
            found.append(Block(0, one // 4, label="Hessian"))
            if i + 1 < size:
                found.append(Block(-one // 4, one // 4, size - i - 1, label="Hessian"))
        return [*found, Block(-_farthest(asked) * _one(_likelihood_bits(asked)), 0, label="log-likelihood")]

    def totals(self, asked: Asked, columns: Sequence[Values]) -> Values:
        """Over these records, rounded once."""
        outcome = columns[0]
        matrix, at = _design(asked, columns[1:]), _coefficients(asked)
        sign = 2.0 * outcome - 1
        odds = at @ matrix
        likely = 1 / (1 + np.exp(np.minimum(-odds, 700.0)))
        weights = likely * (1 - likely)
        real = np.concatenate(
            [
                matrix @ (outcome - likely),
                ((matrix * weights) @ matrix.T)[np.triu_indices(len(at))],
                [-np.logaddexp(0.0, -sign * odds).sum()],
            ]
        )
        rounded = np.rint(real * _units(asked, len(real))).astype(np.int64)
        # The last bit of a float may lie beyond a bound that the number itself keeps.
        spans = [(block.low, block.high, block.length) for block in self.blocks(asked)[1:]]
        low, high = (np.repeat([span[side] for span in spans], [span[2] for span in spans]) for side in (0, 1))
        rounded = np.clip(rounded, len(outcome) * low, len(outcome) * high)
        return np.concatenate([outcome.sum(keepdims=True, dtype=np.int64), rounded])

    def cells(self, asked: Asked, sums: Sums) -> Iterator[Cells]:
        """Events and others; and in the first round, where p is 1/2 for all, what the moments of all variables count.

        Standard errors are functions of the sums of p(1 - p) u u', which have the cross table of two regressors in them. The
        rounds of a fit are over the same records, so that what the first one counts holds for all.
        """
        events = int(sums.totals[0])
        yield fixed(asked.variables[0].name, [sums.n - events, events])
        if not any(asked.statistic.coefficients):
            yield from moments.counted(asked.variables, _moments(asked, sums))

    def figures(self, asked: Asked, sums: Sums) -> LogisticRegressionFigures:
        """The fit, if this round's step is so small that it is the last."""
        step = step_of(asked, sums)
        if isinstance(step, str):
            return without(asked, sums, step)
        if not step.steady:
            return without(asked, sums, "this is one step of several, which have not come to rest")
        return fitted(asked, sums, step)


def _terms(asked: Asked) -> tuple[Term, ...]:
    return moments.terms(asked.variables[1:])


def names(asked: Asked) -> list[tuple[str, str]]:
    """Each term and the unit of its coefficient."""
    return [(CONSTANT, ""), *((term.name, per("", term.unit)) for term in _terms(asked))]


def _coefficients(asked: Asked) -> Numbers:
    given = asked.statistic.coefficients or (0,) * (1 + len(_terms(asked)))
    return np.array([coefficient / COEFFICIENT_SCALE for coefficient in given])


def _farthest(asked: Asked) -> int:
    """A whole number above minus the log-likelihood of any record: log(1 + e^x) < x + 1 for the largest log-odds x."""
    return sum(abs(coefficient) for coefficient in asked.statistic.coefficients) // COEFFICIENT_SCALE + 2


def _bits(asked: Asked, largest: int = 1) -> int:
    """Binary places of sums to which a record adds no more than `largest`."""
    mine = asked.records * largest
    return min(MOST_BITS, 52 - mine.bit_length(), 61 - (asked.members * mine).bit_length())


def _likelihood_bits(asked: Asked) -> int:
    return _bits(asked, _farthest(asked))


def _one(bits: int) -> int:
    """1 in steps of 2^-bits; `problems` has a word for the questions in which that is no integer."""
    return 1 << max(bits, 0)


def _units(asked: Asked, size: int) -> Numbers:
    """1 in the steps of each real total: gradient, Hessian, log-likelihood."""
    units = np.full(size, float(_one(_bits(asked))))
    units[-1] = float(_one(_likelihood_bits(asked)))
    return units


def _scales(asked: Asked) -> tuple[Numbers, Numbers]:
    """Middle and half width of each regressor's bounds, in steps."""
    middles, halves = [], []
    for term in _terms(asked):
        low, high = term.low + term.shift, term.high + term.shift
        middles.append((low + high) / 2 if term.category is None else 0.0)
        halves.append((high - low) / 2 if term.category is None else 1.0)
    return np.array(middles), np.array(halves)


def _moments(asked: Asked, sums: Sums) -> Moments:
    """Those of outcome and regressors, from the totals at coefficients 0, where gradient and Hessian are sums of u (y - 1/2) and
    of u u' / 4; exact unless a step of a term is below what rounding of the totals left."""
    events, given = int(sums.totals[0]), _terms(asked)
    size, one = 1 + len(given), _one(_bits(asked))
    numbers = [Fraction(total, one) for total in sums.totals[1:-1].tolist()]
    gradient, pairs = numbers[:size], iter(numbers[size:])
    hessian = [[Fraction(0)] * size for _ in range(size)]
    for i in range(size):
        for j in range(i, size):
            hessian[i][j] = hessian[j][i] = 4 * next(pairs)
    hessian[0][0] = Fraction(sums.n)
    # x = (turn + span u) / 2
    turns = [0 if term.category is not None else term.low + term.high + 2 * term.shift for term in given]
    spans = [2 if term.category is not None else term.high - term.low for term in given]

    def brought(i: int, by: Fraction, times: Fraction) -> Fraction:
        return Fraction(turns[i] * by + spans[i] * times, 2)

    single = [brought(i, hessian[0][0], hessian[0][1 + i]) for i in range(len(given))]
    happened = [brought(i, Fraction(events), gradient[1 + i] + hessian[0][1 + i] / 2) for i in range(len(given))]
    rows = [[Fraction(events), *happened]]
    for i, mine in enumerate(happened):
        half = [brought(i, hessian[0][1 + j], hessian[1 + i][1 + j]) for j in range(len(given))]
        rows.append([mine, *(brought(j, single[i], half[j]) for j in range(len(given)))])
    products = tuple(tuple(round(number) for number in row) for row in rows)
    return Moments(sums.n, (events, *(round(number) for number in single)), products)


def _design(asked: Asked, columns: Sequence[Values]) -> Numbers:
    """A constant and u, shape (terms, records)."""
    terms = _terms(asked)
    middles, halves = _scales(asked)
    # The shift of a term leaves of its middle a half at most.
    rest = middles - np.array([term.shift for term in terms])
    matrix = np.ones((1 + len(terms), len(columns[0])))
    np.divide(moments.design(terms, columns) - rest[:, None], halves[:, None], out=matrix[1:])
    return matrix


@dataclass(frozen=True, slots=True, repr=False)
class Step:
    """What the totals at one set of coefficients give."""

    at: Numbers
    """The coefficients, for u."""
    by: Numbers
    """Newton's step from there."""
    likelihood: float
    """Its logarithm, at `at`."""
    decrement: float
    """gradient x step: twice what the logarithm of the likelihood will gain by it, to second order."""
    covariance: Numbers
    """The inverse of the negative Hessian."""
    weight: float
    """The sum of p(1 - p) over the records."""
    noise: float
    """How far gradient and Hessian may be off by rounding."""
    likelihood_noise: float

    @property
    def size(self) -> float:
        """The most that the step changes any log-odds."""
        return float(np.abs(self.by).sum())

    @property
    def steady(self) -> bool:
        """Whether it is the last, or rounding hides what another would change."""
        return self.size <= max(STEADY, 4 * self.noise * float(np.abs(self.covariance).sum()))


def step_of(asked: Asked, sums: Sums) -> Step | str:
    """The step, or why there is none."""
    if sums.n == 0:
        return "there is no record"
    events = int(sums.totals[0])
    if events in (0, sums.n):
        return f"every record has the same {asked.variables[0].name}; it takes both"
    real = sums.totals[1:] / _units(asked, sums.totals.size - 1)
    size = 1 + len(_terms(asked))
    if sums.n < size:
        return f"{sums.n} records do not determine {size} coefficients"
    gradient, likelihood = real[:size], float(real[-1])
    if events > sums.n or likelihood >= 0:
        return CONTRADICTION
    hessian = np.zeros((size, size))
    hessian[np.triu_indices(size)] = real[size:-1]
    hessian += np.triu(hessian, 1).T
    noise = sums.members / 2 / _one(_bits(asked))
    roots = np.sqrt(np.maximum(hessian.diagonal(), 0.0))
    if roots.min() ** 2 <= size * noise:
        return _flat(asked, (roots**2 <= size * noise).astype(float))
    # With ones on the diagonal, small eigenvalues speak of the terms' dependence and not of their units.
    values, vectors = np.linalg.eigh(hessian / np.outer(roots, roots))
    if values[0] <= max(_SINGULAR, size * noise / float(roots.min()) ** 2):
        return _flat(asked, vectors[:, 0])
    covariance = (vectors / values) @ vectors.T / np.outer(roots, roots)
    by = covariance @ gradient
    return Step(
        _coefficients(asked),
        by,
        likelihood,
        float(gradient @ by),
        covariance,
        float(hessian[0, 0]),
        noise,
        sums.members / 2 / _one(_likelihood_bits(asked)),
    )


def _flat(asked: Asked, direction: Numbers) -> str:
    """Why the likelihood has no single top: the terms in a direction in which it does not fall."""
    if any(asked.statistic.coefficients):
        return SEPARABLE
    involved = [name for (name, _), share in zip(names(asked), direction, strict=True) if abs(share) > 0.05]
    return collinear(involved[-1], involved[:-1] or [CONSTANT])


SEPARABLE = (
    "the terms separate the outcomes: the likelihood rises for ever as coefficients grow; leave out the term that tells the "
    "outcome, or ask for more records"
)


def without(asked: Asked, sums: Sums, reason: str, rounds: int = 1) -> LogisticRegressionFigures:
    """A fit that there is not."""
    none = absent(reason)
    return _figures(asked, sums, unknown(names(asked), reason), (none, none, none), converged=False, rounds=rounds)


def fitted(asked: Asked, sums: Sums, step: Step, rounds: int = 1) -> LogisticRegressionFigures:
    """The fit after the last step.

    Covariance and likelihood are those before it. No log-odds differ by more than d between there and the top, where d is the
    step's size and what it leaves. The derivative of the logarithm of p(1 - p) is 1 - 2p, so that every weight, the Hessian, and
    with it every variance lies within a factor of e^d of the one at the top, and a standard error within e^(d/2).
    """
    middles, halves = _scales(asked)
    scales = np.array([term.scale for term in _terms(asked)], dtype=float)
    size = len(step.at)
    # b = back x (coefficients for u): the slope of x is that of u / half width, and the constant pays for the middles.
    back = np.zeros((size, size))
    back[0, 0], back[0, 1:] = 1.0, -middles / halves
    back[range(1, size), range(1, size)] = scales / halves
    top = step.at + step.by
    estimates, spread = back @ top, back @ step.covariance @ back.T
    errors = _errors(asked, step, back, estimates, spread)
    rounded = any(term.half for term in _terms(asked))
    far = math.expm1(min((step.size + float(_left(step).sum())) / 2, 700.0))
    blur = np.square(np.abs(back @ step.covariance).sum(axis=1)) * step.noise  # of the variances, by the Hessian's noise
    width = normal_quantile(asked.statistic.level / MILLION)
    coefficients = []
    for (name, unit), estimate, variance, error, off in zip(
        names(asked), estimates.tolist(), spread.diagonal().tolist(), errors.tolist(), blur.tolist(), strict=True
    ):
        deviation = math.sqrt(variance)
        wrong = far * deviation + off / (2 * deviation)
        z = estimate / deviation
        shifted = (error + abs(z) * wrong) / deviation
        p = normal_tails(z)
        moved = (wrong, shifted, normal_tails(max(abs(z) - shifted, 0.0)) - p, error + width * wrong)
        of_deviation, of_z, of_p, of_end = (None,) * 4 if rounded else moved
        coefficients.append(
            Coefficient(
                term=name,
                estimate=quantity(estimate, unit, error),
                standard_error=quantity(deviation, unit, of_deviation),
                statistic=quantity(z, "", of_z),
                p=quantity(p, "", of_p),
                low=quantity(estimate - width * deviation, unit, of_end),
                high=quantity(estimate + width * deviation, unit, of_end),
            )
        )
    share = int(sums.totals[0]) / sums.n
    null = sums.n * (share * math.log(share) + (1 - share) * math.log(1 - share))
    # To second order, the step gains half its decrement.
    gained = None if rounded else step.likelihood_noise + step.decrement
    fit = (
        quantity(step.likelihood, "", gained),
        quantity(null),
        quantity(1 - step.likelihood / null, "", None if gained is None else gained / -null),
    )
    return _figures(asked, sums, tuple(coefficients), fit, converged=True, rounds=rounds)


def _errors(asked: Asked, step: Step, back: Numbers, estimates: Numbers, spread: Numbers) -> Numbers:
    """How far half a step of rounding in every term can move the estimates, to first order, with what totals and step leave.

    The score moves by the sum of (y - p) d, where |y - p| is at most minus the logarithm of the record's likelihood, and by that
    of p(1 - p) x (b d), which Cauchy's inequality bounds as in linear regression.
    """
    halves = np.append(0.0, [float(term.half) for term in _terms(asked)])
    direct = np.abs(spread) @ halves * -step.likelihood
    along = np.sqrt(spread.diagonal() * step.weight) * float(np.abs(estimates) @ halves)
    left = np.abs(back @ step.covariance).sum(axis=1) * step.noise + np.abs(back) @ np.abs(step.by) * step.size
    errors: Numbers = direct + along + left
    return errors


def _left(step: Step) -> Numbers:
    """How far each coefficient for u may be from the top after the step, to first order in the step and in rounding."""
    left: Numbers = np.abs(step.covariance).sum(axis=1) * step.noise + np.abs(step.by) * step.size
    return left


def _figures(
    asked: Asked,
    sums: Sums,
    coefficients: tuple[Coefficient, ...],
    fit: tuple[Quantity, Quantity, Quantity],
    *,
    converged: bool,
    rounds: int,
) -> LogisticRegressionFigures:
    return LogisticRegressionFigures(
        id=asked.statistic.name,
        variable=asked.variables[0].name,
        n=sums.n,
        left_out=sums.left_out,
        coefficients=coefficients,
        log_likelihood=fit[0],
        null_log_likelihood=fit[1],
        pseudo_r_squared=fit[2],
        events=int(sums.totals[0]),
        converged=converged,
        rounds=rounds,
        level=asked.statistic.level / MILLION,
    )
