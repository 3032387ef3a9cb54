"""First and second moments of several variables: what means, covariances and linear regressions are made of.

A record with values x becomes u = x - shift, where the shift, the middle of the variable's bounds, is public: it halves the
integers whose squares must fit. The elements are the sums of each u, then the sums of the products of each pair, in the order of
an upper triangle. `Moments` takes the shift back, in exact integers.

A category of k enters as k - 1 terms, each 1 where the record has that category and 0 elsewhere; the first is the reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

import numpy as np
import numpy.typing as npt

from mpc.statistics.cells import Axis, Cells, fixed, values_told
from mpc.statistics.component import Asked, Block, Family, Sums, Values
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

    def totals(self, asked: Asked, columns: Sequence[Values]) -> Values:
        """Their sums over these records."""
        of = terms(asked.variables)
        matrix = design(of, columns)
        gram = _gram(matrix, max(max(-term.low, term.high) for term in of))
        return np.concatenate([matrix.sum(axis=1, dtype=np.int64), gram[np.triu_indices(len(of))]])

    def crossed(self, asked: Asked) -> Iterable[tuple[int, int]]:
        """The pairs of variables whose products the figures may tell, as places in `asked.variables`."""
        return combinations(range(len(asked.variables)), 2)

    def cells(self, asked: Asked, sums: Sums) -> Iterator[Cells]:
        """How many records have which value of a category or of a variable with two or three; both, where two are crossed."""
        of = terms(asked.variables)
        moment = Moments.of(of, sums.n, sums.totals)
        counts = [_Counted.of(variable, column, of, moment) for column, variable in enumerate(asked.variables)]
        for column, variable in enumerate(asked.variables):
            if variable.type == CATEGORY:
                yield fixed(variable.name, counts[column].values)
            else:
                place, low = counts[column].places[0], variable.minimum
                squares = moment.products[place][place] - 2 * low * moment.sums[place] + low**2 * sums.n
                yield from values_told(variable, sums.n, counts[column].values[-1], squares)
        for i, j in self.crossed(asked):
            first, second = counts[i], counts[j]
            if first.few and second.few:
                axes = (Axis(asked.variables[i].name, merges=False), Axis(asked.variables[j].name, merges=False))
                yield Cells(axes, first.cross(second, moment))


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


@dataclass(frozen=True, slots=True, repr=False)
class _Counted:
    """How many records have which value of a variable, if that is a category or has two values."""

    places: tuple[int, ...]
    """Of its terms."""
    low: int
    """What x - low says: 0 or 1."""
    few: bool
    values: tuple[int, ...]
    """The reference, then what the terms count."""

    @classmethod
    def of(cls, variable: Variable, column: int, given: Sequence[Term], moment: Moments) -> _Counted:
        places = tuple(place for place, term in enumerate(given) if term.column == column)
        low = 0 if variable.type == CATEGORY else variable.minimum
        counted = [moment.sums[place] - low * moment.n for place in places]
        few = variable.type == CATEGORY or variable.maximum - variable.minimum == 1
        return cls(places, low, few, (moment.n - sum(counted), *counted))

    def cross(self, other: _Counted, moment: Moments) -> Values:
        """Both together, shape (values, values)."""
        table = np.zeros((len(self.values), len(other.values)), dtype=np.int64)
        for row, i in enumerate(self.places, 1):
            for column, j in enumerate(other.places, 1):
                shifted = moment.products[i][j] - self.low * moment.sums[j] - other.low * moment.sums[i]
                table[row, column] = shifted + self.low * other.low * moment.n
        table[0] = np.array(other.values) - table.sum(axis=0)
        table[:, 0] = np.array(self.values) - table[:, 1:].sum(axis=1)
        return table
