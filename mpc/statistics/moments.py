"""First and second moments of several variables: what means, covariances and linear regressions are made of.

A record with values x becomes u = x - shift, where the shift, the middle of the variable's bounds, is public: it halves the
integers whose squares must fit. The elements are the sums of each u, then the sums of the products of each pair, in the order of
an upper triangle. `Moments` takes the shift back, in exact integers.

A category of k enters as k - 1 terms, each 1 where the record has that category and 0 elsewhere; the first is the reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

import numpy as np
import numpy.typing as npt

from mpc.statistics.cells import Axis, Cells, array, bounds, fixed, values_told
from mpc.statistics.component import Asked, Block, Family, Reach, Sums, Values
from mpc.statistics.figures import half_step
from mpc.study import CATEGORY, Variable

MAX_TERMS = 200
_EXACT_FLOAT = 2**53


@dataclass(frozen=True, slots=True)
class Term:
    """One column of numbers."""

    column: int
    """Place of its variable."""
    category: int | None
    """Of which it says whether a record has it; None for a number."""
    name: str
    unit: str
    scale: int
    shift: int
    low: int
    """Of u, as is `high`."""
    high: int
    half: Fraction
    """Half a step, in the unit."""


def terms(variables: Sequence[Variable]) -> tuple[Term, ...]:
    """The terms of these variables, in their order."""
    found: list[Term] = []
    for column, variable in enumerate(variables):
        if variable.type == CATEGORY:
            found += [
                Term(column, place, f"{variable.name}={name}", "", 1, 0, 0, 1, Fraction(0))
                for place, name in enumerate(variable.categories)
                if place > 0
            ]
        else:
            shift = (variable.minimum + variable.maximum) // 2
            found.append(
                Term(
                    column,
                    None,
                    variable.name,
                    variable.unit,
                    variable.scale,
                    shift,
                    variable.minimum - shift,
                    variable.maximum - shift,
                    half_step(variable),
                )
            )
    return tuple(found)


def count_terms(variables: Sequence[Variable]) -> int:
    """How many terms there would be."""
    return sum(len(variable.categories) - 1 if variable.type == CATEGORY else 1 for variable in variables)


def design(of: Sequence[Term], columns: Sequence[Values]) -> Values:
    """The u of each term and record, shape (terms, records)."""
    matrix = np.empty((len(of), len(columns[0])), dtype=np.int64)
    for at, term in enumerate(of):
        column = columns[term.column]
        matrix[at] = column - term.shift if term.category is None else column == term.category
    return matrix


def _gram(matrix: Values, largest: int) -> Values:
    """The products of all pairs of rows, exact."""
    if matrix.shape[1] * largest * largest < _EXACT_FLOAT:
        # Every partial sum is an integer that a float holds, and floats are multiplied by a library made for it.
        numbers: npt.NDArray[np.float64] = matrix.astype(np.float64)
        return (numbers @ numbers.T).astype(np.int64)
    return matrix @ matrix.T


class OfMoments(Family):
    """A family whose elements are the first and second moments of its variables."""

    adds = True

    def blocks(self, asked: Asked) -> Sequence[Block]:
        """u of each term, then the products."""
        of = terms(asked.variables)
        found = [Block(term.low, term.high) for term in of]
        for i, first in enumerate(of):
            for second in of[i:]:
                corners = [a * b for a in (first.low, first.high) for b in (second.low, second.high)]
                low, label = (0, "squares") if first is second else (min(corners), "products of two variables")
                found.append(Block(low, max(corners), label=label))
        return found

    def reaches(self, asked: Asked) -> Sequence[Reach]:
        """The sums, then the products, each weighted with what it can be at most: u / a, with |u| <= a, lies within [-1, 1].

        The products of two vectors v and w of such numbers lie apart by a square of

            sum over i <= j of (v_i v_j - w_i w_j)^2 = (|v|^4 + |w|^4 - 2 (v w)^2 + sum over i of (v_i^2 - w_i^2)^2) / 2

        That is convex in all v_i^2 and w_i^2 but for -(v w)^2, which is 0 at best, and so greatest where each of them is 0 or 1;
        of those, where all are 1. A variable has 1 in |v|^2 then, as a number or as one of its categories, and two different ones
        of these, which are no reference, add 1. Where bounds are few steps, what each product can differ by alone is less.
        """
        of, variables = terms(asked.variables), len(asked.variables)
        most = [max(-term.low, term.high) for term in of]
        moved = [Fraction(term.high - term.low, a) ** 2 for term, a in zip(of, most, strict=True)]
        apart, weights, by_element = Fraction(0), list[tuple[int, int]](), Fraction(0)
        for column, variable in enumerate(asked.variables):
            mine = [square for term, square in zip(of, moved, strict=True) if term.column == column]
            apart += min(sum(mine), Fraction(2)) if variable.type == CATEGORY else sum(mine)
        for i, first in enumerate(of):
            for j, second in enumerate(of[i:], i):
                weights.append((most[i] * most[j], 1))
                corners = [Fraction(a * b, most[i] * most[j]) for a in (first.low, first.high) for b in (second.low, second.high)]
                low = min(corners) if i != j else 0
                by_element += (max(corners) - low) ** 2
        other = sum(variable.type == CATEGORY and len(variable.categories) > 2 for variable in asked.variables)
        together = Fraction(variables**2 + other)
        return (
            Reach(tuple((a, 1) for a in most), apart, Fraction(variables), "sums"),
            Reach(tuple(weights), min(by_element, together), Fraction(variables * (variables + 1), 2), "products"),
        )

    def totals(self, asked: Asked, columns: Sequence[Values]) -> Values:
        """Their sums over these records."""
        of = terms(asked.variables)
        matrix = design(of, columns)
        gram = _gram(matrix, max(max(-term.low, term.high) for term in of))
        return np.concatenate([matrix.sum(axis=1, dtype=np.int64), gram[np.triu_indices(len(of))]])

    def cells(self, asked: Asked, sums: Sums) -> Iterator[Cells]:
        """What the moments count."""
        return counted(asked.variables, Moments.of(terms(asked.variables), sums.n, sums.totals))


@dataclass(frozen=True, slots=True, repr=False)
class Moments:
    """Totals over n records, as exact integers in steps of the variables."""

    n: int
    sums: tuple[int, ...]
    """Of each x."""
    products: tuple[tuple[int, ...], ...]
    """Of each pair of x, symmetric."""

    @classmethod
    def of(cls, given: Sequence[Term], n: int, elements: Values) -> Moments:
        """Undoes the shifts."""
        size = len(given)
        numbers: list[int] = elements.tolist()
        u, pairs = numbers[:size], iter(numbers[size:])
        products = [[0] * size for _ in range(size)]
        for i, first in enumerate(given):
            for j in range(i, size):
                second = given[j]
                total = next(pairs) + first.shift * u[j] + second.shift * u[i] + n * first.shift * second.shift
                products[i][j] = products[j][i] = total
        sums = tuple(total + n * term.shift for total, term in zip(u, given, strict=True))
        return cls(n, sums, tuple(map(tuple, products)))

    @property
    def contradictory(self) -> bool:
        """Whether there is an x whose squares add up to less than the mean makes them at least."""
        return any(self.n * self.products[i][i] < total**2 for i, total in enumerate(self.sums))

    def centred(self, i: int, j: int) -> Fraction:
        """The sum of (x_i - its mean)(x_j - its mean), for n > 0."""
        return Fraction(self.n * self.products[i][j] - self.sums[i] * self.sums[j], self.n)


def counted(variables: Sequence[Variable], moment: Moments) -> Iterator[Cells]:
    """How many records have which value of each variable, and of each two at once; of a number, what bounds that.

    A record adds to the distances of a number from its minimum and from its maximum integers of at least 0: 0 and 1 if those are
    the only values. So the sum of their products is the number of records that differ from two bounds at once, or more.
    """
    of = terms(variables)
    counts = [_Counted.of(variable, column, of, moment) for column, variable in enumerate(variables)]
    for variable, mine in zip(variables, counts, strict=True):
        if variable.type == CATEGORY:
            yield fixed(variable.name, mine.values)
        else:
            (place,) = mine.places
            squares = moment.products[place][place] - 2 * mine.low * moment.sums[place] + mine.low**2 * moment.n
            yield bounds(variable.name, values_told(variable, moment.n, mine.values[1], squares))
    for (first, mine), (second, other) in combinations(zip(variables, counts, strict=True), 2):
        axes = tuple(Axis(one.name, merges=False, exact=one.type == CATEGORY) for one in (first, second))
        yield Cells(axes, array(mine.cross(other, moment)))


@dataclass(frozen=True, slots=True, repr=False)
class _Counted:
    """How many records a category has; or of a number, its distances from its maximum and its minimum."""

    places: tuple[int, ...]
    """Of its terms."""
    low: int
    """x - low is what a term counts."""
    whole: int
    """What all values of a record add up to: 1, or the steps between the bounds."""
    values: tuple[int, ...]
    """The reference, or the distance from the maximum; then what the terms count."""

    @classmethod
    def of(cls, variable: Variable, column: int, given: Sequence[Term], moment: Moments) -> _Counted:
        places = tuple(place for place, term in enumerate(given) if term.column == column)
        low, whole = (0, 1) if variable.type == CATEGORY else (variable.minimum, variable.maximum - variable.minimum)
        values = [moment.sums[place] - low * moment.n for place in places]
        return cls(places, low, whole, (whole * moment.n - sum(values), *values))

    def cross(self, other: _Counted, moment: Moments) -> list[list[int]]:
        """Both together, shape (values, values)."""
        table = []
        for i in self.places:
            row = [
                moment.products[i][j] - self.low * moment.sums[j] - other.low * moment.sums[i] + self.low * other.low * moment.n
                for j in other.places
            ]
            table.append([other.whole * (moment.sums[i] - self.low * moment.n) - sum(row), *row])
        first = [self.whole * value - sum(column) for value, *column in zip(other.values, *table, strict=True)]
        return [first, *table]
