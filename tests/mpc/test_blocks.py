"""Runs that hold enough, with edges from which nobody learns where in a run its records are."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpc.blocks import divide
from tests.mpc.properties import quick


def sums(counts: Any, begins: Sequence[int]) -> Any:
    return np.add.reduceat(counts, list(begins), axis=0)


@pytest.mark.parametrize(
    ("counts", "begins"),
    [
        ([9, 9, 9, 9], (0, 1, 2, 3)),
        ([9, 2, 9, 9], (0, 2, 3)),
        ([9, 0, 9, 9], (0, 2, 3)),
        ([9, 9, 2, 0], (0, 1)),
        ([4, 4, 4, 4], (0, 2)),
        ([0, 4, 0, 1, 9], (0, 4)),
        ([9, 9, 2], (0, 1)),
        ([0, 0, 0, 0], (0,)),
        ([1, 1, 1], (0,)),
        ([9], (0,)),
    ],
)
def test_a_place_with_few_records_or_none_joins_a_neighbour(counts: list[int], begins: tuple[int, ...]) -> None:
    assert divide(np.array(counts)[:, None], 5) == begins


def test_a_run_is_good_in_every_column() -> None:
    # The third has too few of the second kind, and so has what it makes with the last.
    assert divide(np.array([[9, 8], [9, 0], [9, 1], [9, 2]]), 5) == (0,)
    assert divide(np.array([[9, 8], [9, 6], [9, 1], [9, 2]]), 5) == (0, 1)
    assert divide(np.array([[9, 8], [9, 0], [9, 0], [0, 6]]), 5) == (0, 1, 2, 3)


def _compositions(cells: int, most: int) -> Iterator[tuple[int, ...]]:
    """All counts of so many cells that add up to `most` or less."""
    for bars in itertools.combinations(range(most + cells), cells):
        yield tuple(high - low - 1 for low, high in itertools.pairwise((-1, *bars)))


@pytest.mark.parametrize(("places", "columns", "most"), [(5, 1, 10), (7, 1, 7), (4, 2, 7), (3, 3, 7)])
def test_wherever_there_are_few_records_there_might_be_none(places: int, columns: int, most: int) -> None:
    """By enumeration: of all that is told in the same way, some has none there."""
    least = 3
    alike: dict[tuple[Any, ...], list[Any]] = defaultdict(list)
    for cells in _compositions(places * columns, most):
        counts = np.array(cells).reshape(places, columns)
        if not ((counts.sum(axis=0) > 0) & (counts.sum(axis=0) < least)).any():
            begins = divide(counts, least)
            alike[begins, tuple(sums(counts, begins).reshape(-1).tolist())].append(counts)
    assert max(map(len, alike.values())) > 10
    unions = [list(chosen) for size in range(1, places + 1) for chosen in itertools.combinations(range(places), size)]
    for group in alike.values():
        for union in unions:
            held = np.stack(group)[:, union].sum(axis=1)
            for column in held.T:
                if ((column > 0) & (column < least)).any():
                    assert (column == 0).any(), (group[0], union)


def test_no_edge_stands_where_one_record_does() -> None:
    """An edge at a value of one person would move with it."""
    counts = np.zeros((1024, 1), dtype=np.int64)
    counts[400:600] = 1
    edges = set()
    for place in range(380):
        one = counts.copy()
        one[place] += 1
        edges.add(divide(one, 5))
    assert len(edges) == 1


@quick
@given(
    st.integers(1, 3).flatmap(
        lambda width: st.lists(st.lists(st.sampled_from([0, 0, 0, 1, 2, 4, 6]), min_size=width, max_size=width), min_size=1)
    )
)
def test_all_records_of_each_run_could_be_in_one_place(rows: list[list[int]]) -> None:
    counts, least = np.array(rows), 4
    if ((counts.sum(axis=0) > 0) & (counts.sum(axis=0) < least)).any():
        return
    begins = divide(counts, least)
    ends = (*begins[1:], len(counts))
    told = sums(counts, begins)
    assert counts.sum() == 0 or told.any(axis=1).all()
    assert not ((told > 0) & (told < least)).any()
    moved = counts
    for at, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        for place in range(begin, end):
            one = moved.copy()
            one[begin:end] = 0
            one[place] = told[at]
            if divide(one, least) == begins:
                moved = one
                break
        else:
            pytest.fail(f"the records of run {at} cannot be in one place: {counts.tolist()}")


@quick
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=30))
def test_more_columns_leave_fewer_edges_and_no_new_one(rows: list[tuple[int, int]]) -> None:
    counts = np.array(rows)
    counts[counts[:, 0] == 0] = 0
    assert set(divide(counts, 4)) <= set(divide(counts[:, :1], 4)) or 0 < counts[:, 0].sum() < 4 or not counts[:, 0].any()
