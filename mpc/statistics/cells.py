"""Counts of records that figures tell besides n: what a release rule looks at (`mpc.release`), and how cells become one.

An axis of such counts is a variable's categories or its bins, in their order. A coarser question has fewer of them, each a run of
neighbours: its totals are sums of the finer one's, so that a hospital can answer it from the same round.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from mpc.study import Variable

Counts = npt.NDArray[np.int64]

Runs = tuple[int, ...]
"""The places of an axis at which its runs begin: rising, the first is 0."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One dimension of counts."""

    variable: str
    """Everything that is counted along the same variable is merged alike."""
    merges: bool = True
    """Whether neighbours may become one; otherwise the figures need each place."""


@dataclass(frozen=True, slots=True, repr=False)
class Cells:
    """Counts along axes, one dimension each."""

    axes: tuple[Axis, ...]
    counts: Counts


def merge(counts: Counts, axis: int, runs: Runs) -> Counts:
    """The counts with each run of places along an axis added up."""
    merged: Counts = np.add.reduceat(counts, runs, axis=axis)
    return merged


def together(variable: Variable, runs: Runs) -> Variable:
    """A category variable whose categories are runs of the given one's: "b or c"."""
    ends = (*runs[1:], len(variable.categories))
    names = tuple(" or ".join(variable.categories[start:end]) for start, end in zip(runs, ends, strict=True))
    return replace(variable, categories=names, maximum=len(names) - 1)


def values_told(variable: Variable, n: int, total: int, squares: int | None = None) -> Iterable[Cells]:
    """How many records have each value, where n and the sum tell it (of two values), or those and the squares (of three).

    `total` and `squares` add up x - minimum.
    """
    steps = variable.maximum - variable.minimum
    if variable.length > 1 or steps > 2 or (steps == 2 and squares is None):
        return ()
    counts = [n - total, total]
    if steps == 2:
        assert squares is not None
        most = (squares - total) // 2
        counts = [n - (total - 2 * most) - most, total - 2 * most, most]
    return (fixed(variable.name, counts),)


def fixed(variable: str, counts: Sequence[int]) -> Cells:
    """Counts of a variable's values that cannot be told together."""
    return Cells((Axis(variable, merges=False),), np.array(counts, dtype=np.int64))
