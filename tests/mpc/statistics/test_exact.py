"""Whole matrices are inverted without rounding, and a column that depends on others is found."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpc.statistics.exact import Dependent, Inverse, invert
from tests.mpc.properties import quick


@given(st.integers(1, 5).flatmap(lambda size: st.lists(st.lists(st.integers(-9, 9), min_size=size, max_size=size), max_size=7)))
@quick
def test_a_gram_matrix_is_inverted_or_is_singular(rows: list[list[int]]) -> None:
    size = len(rows[0]) if rows else 1
    gram = [[sum(row[i] * row[j] for row in rows) for j in range(size)] for i in range(size)]
    found = invert(gram)
    rank = int(np.linalg.matrix_rank(np.array(gram, dtype=float)))

    if isinstance(found, Dependent):
        assert rank < size
        return
    assert isinstance(found, Inverse)
    assert rank == size
    for i in range(size):
        for j in range(size):
            product = sum(Fraction(gram[i][k] * found.numerators[k][j], found.determinant) for k in range(size))
            assert product == int(i == j)


def test_digits_that_no_float_has_are_kept() -> None:
    huge = 10**40
    assert invert([[huge + 1, huge], [huge, huge]]) == Inverse(((huge, -huge), (-huge, huge + 1)), huge)


@pytest.mark.parametrize("matrix", [[[-1]], [[1, 2], [2, 1]], [[1, 0, 0], [0, 1, 3], [0, 3, 2]]])
def test_what_no_columns_have_for_their_products_is_not_inverted(matrix: list[list[int]]) -> None:
    assert invert(matrix) is None


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (([1, 1, 1], [2, 2, 2]), Dependent(1, (0,))),
        (([1, 1, 1], [1, 2, 3], [5, 7, 9]), Dependent(2, (0, 1))),
        (([1, 1, 1], [1, 2, 3], [2, 4, 6]), Dependent(2, (1,))),
        (([0, 0, 0],), Dependent(0, ())),
    ],
)
def test_the_first_dependent_column_is_named_with_those_it_is_made_of(columns: tuple[list[int], ...], found: Dependent) -> None:
    assert invert([[sum(a * b for a, b in zip(x, y, strict=True)) for y in columns] for x in columns]) == found
