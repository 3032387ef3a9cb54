"""Counts with noise, brought to the nearest ones that there can be: none below 0, and together as many as there are records.

That is for looks, and for what is computed of counts; noise has done its work, and whatever is made of it tells no more
(post-processing). Few records in many cells would otherwise drown: half of all empty cells have noise above 0.
"""

from __future__ import annotations

import numpy as np

from mpc.statistics.component import Values


def nearest_tally(counts: Values, n: int) -> Values:
    """Integers c >= 0 that add up to n, with the least sum of (c - counts)^2 before they are rounded; the shape stays.

    All counts above one level keep what they have above it, and the others are 0 (Held, Wolfe and Crowder 1974). What rounding
    down leaves goes to the largest remainders, of equal ones the first.
    """
    if not counts.size or n <= 0:
        return np.zeros_like(counts)
    falling = np.sort(counts.astype(np.float64))[::-1]
    levels = (falling.cumsum() - n) / np.arange(1, falling.size + 1)
    level = levels[np.flatnonzero(falling > levels)[-1]]
    kept = np.maximum(counts - level, 0.0)
    tally: Values = np.floor(kept).astype(np.int64)
    rest = n - int(tally.sum())
    tally[np.argsort(tally - kept, kind="stable")[:rest]] += 1
    return tally
