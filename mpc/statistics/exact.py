"""Matrices of integers inverted without rounding, so that "collinear" is a fact and not a tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Inverse:
    """`numerators[i][j] / determinant` is the inverse; the determinant is positive."""

    numerators: tuple[tuple[int, ...], ...]
    determinant: int


@dataclass(frozen=True, slots=True)
class Dependent:
    """The first column that is a linear combination of those before it, and which of them it is made of."""

    column: int
    of: tuple[int, ...]


def invert(matrix: Sequence[Sequence[int]]) -> Inverse | Dependent | None:
    """The inverse of a positive semi-definite matrix, shape (p, p), if it is definite; None if it is not even semi-definite.

    Fraction-free Gauss-Jordan elimination: every division leaves no remainder (Bareiss 1968). Of a semi-definite matrix a pivot
    is zero only where its whole remaining row is, that is where the column depends on those before it; so none is exchanged.
    """
    size = len(matrix)
    rows = [[*row, *(int(i == j) for j in range(size))] for i, row in enumerate(matrix)]
    previous = 1
    for k in range(size):
        pivot_row = rows[k]
        pivot = pivot_row[k]
        if pivot < 0:
            return None
        if pivot == 0:
            return Dependent(k, tuple(i for i in range(k) if rows[i][k] != 0))
        for i in range(size):
            if i != k:
                factor = rows[i][k]
                rows[i] = [(pivot * x - factor * y) // previous for x, y in zip(rows[i], pivot_row, strict=True)]
        previous = pivot
    return Inverse(tuple(tuple(row[size:]) for row in rows), previous)
