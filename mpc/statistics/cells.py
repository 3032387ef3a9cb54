"""Counts of records that figures tell besides n: what a release rule looks at (`mpc.release`), and how cells become one.

An axis of such counts is a variable's categories or its bins, in their order. A coarser question has fewer of them, each a run of
neighbours: its totals are sums of the finer one's, so that a hospital can answer it from the same round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from mpc.study import Variable

Counts = npt.NDArray[np.int64]

Runs = tuple[int, ...]
"""The places of an axis at which its runs begin: rising, the first is 0."""

PLENTY = 10**12
"""More records than any release rule asks for, of which a million counts can be added."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One dimension of counts."""

    variable: str
    """Everything that is counted along the same variable is merged alike."""
    merges: bool = True
    """Whether neighbours may become one; otherwise the figures need each place."""
    exact: bool = True
    """Whether its places are the variable's, each with its records; otherwise what is counted only bounds how many there are."""


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


def values_told(variable: Variable, n: int, total: int, squares: int | None = None) -> list[int]:
    """How many records have which value at most, as n, the sum and, where they are told, the squares bound it.

    `total` and `squares` add up x - minimum, an integer of at least 0. Of two values, and with squares of three, these are the
    exact numbers. Of more: how many differ from the minimum, and from the maximum; with squares, how many differ from the whole
    number nearest to the mean, and how many from both that the mean lies between. With weights, which are integers too, n is
    their sum: they count no record that weighs 0.
    """
    steps = variable.maximum - variable.minimum
    if squares is None:
        return [_differing(variable, total), _differing(variable, n * steps - total)]
    if steps == 2:
        most = (squares - total) // 2
        return [n - (total - 2 * most) - most, total - 2 * most, most]
    found = [
        _differing(variable, total, squares),
        _differing(variable, n * steps - total, n * steps**2 - 2 * steps * total + squares),
    ]
    below, near = total // max(n, 1), (2 * total + n) // max(2 * n, 1)
    around = squares - 2 * near * total + n * near**2
    outside = squares - (2 * below + 1) * total + n * below * (below + 1)
    return [*found, around, outside // 2]


def _differing(variable: Variable, total: int, squares: int | None = None) -> int:
    """How many distances from a bound can be above 0, at most, if they and their squares add up to these.

    Each is at least 1, so `total` of them, and with given squares the more the more uneven they are: one is L and the others 1,
    where L (L - 1) = squares - total. Fewer are as good as known where the totals are those of equal distances, or whole units.
    """
    if total <= 0:
        return 0
    found = [total] if total % variable.scale else [total // variable.scale]
    if squares is not None and squares >= total:
        largest = (1 + math.isqrt(1 + 4 * (squares - total))) // 2
        largest += largest * (largest - 1) < squares - total
        found.append(total + 1 - largest)
        if squares % total == 0 and total % (squares // total) == 0:
            found.append(total // (squares // total))
    return max(1, min(found))


def fixed(variable: str, counts: Sequence[int]) -> Cells:
    """Counts of a variable's values that cannot be told together."""
    return Cells((Axis(variable, merges=False),), array(counts))


def bounds(variable: str, counts: Sequence[int]) -> Cells:
    """Bounds of such counts."""
    return Cells((Axis(variable, merges=False, exact=False),), array(counts))


def array(counts: Sequence[int] | Sequence[Sequence[int]]) -> Counts:
    """Counts, or what bounds them, which may be more than 64 bits hold: then they are no less than any that matters."""
    bounded: Counts = np.clip(np.array(counts, dtype=object), -PLENTY, PLENTY).astype(np.int64)
    return bounded
