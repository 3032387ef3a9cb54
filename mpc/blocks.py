"""Places along an axis as runs that hold enough, so that where a run ends says nothing of single records.

The places are halved, and their halves again, at fixed points: a tree of blocks that is the same whatever the records are. A
block is good if it is not empty and each of its counts is 0 or at least the smallest that may be told. From the top:

- where both halves are good, there is an edge between them, and each is divided in turn;
- where one is good, it alone is divided, and the other joins the run beside it, or as many as it takes to be good;
- where neither is, the block is one run.

So an empty place joins a neighbour as one with few records does, and every run is good.

Who sees the runs and their sums, and knows this rule, cannot tell where in a run its records are: **there is a place in it such
that the runs stay as they are if all of its records move there.** Of a block that is one run, that is every place. Where a half
was joined to runs of the other, it is such a place of that one of them which lies farthest from the half. For after the move

- a block with all of the run has the same counts, and one with the place is good, because its other runs are and this one is;
- the half that was joined is empty, and joins what lies beside it still; so do, half by half, the nearer ones of the runs that it
  was joined to, for they are empty now as well;
- nothing else has changed.

So places that are some of a run's, and together hold fewer records than may be told, could be empty as well, and so could such
places of several runs at once: nobody learns so much as that somebody is there. That holds for each column, and for all of them.
More columns, if they are empty wherever those before them are, leave fewer edges and never make a new one.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
import numpy.typing as npt


def divide(counts: npt.NDArray[np.int64], least: int) -> tuple[int, ...]:
    """Where the runs begin, of counts of shape (places, columns): rising, the first is 0. One run if all together is not good."""
    held = np.flatnonzero(counts.any(axis=1))
    # A column without a small count has none in any block. Lists of integers are faster than arrays, for one at a time.
    thin = ((counts > 0) & (counts < least)).any(axis=0)
    filled = held.tolist()
    before = [[0, *column] for column in counts[np.ix_(held, thin)].cumsum(axis=0).T.tolist()]

    def good(first: int, end: int) -> bool:
        first, end = bisect_left(filled, first), bisect_left(filled, end)
        return first < end and not any(0 < column[end] - column[first] < least for column in before)

    def runs(first: int, end: int) -> list[int]:
        """Of a good block."""
        middle = (first + end) // 2
        left, right = (good(first, middle), good(middle, end)) if end - first > 1 else (False, False)
        if left and right:
            return runs(first, middle) + runs(middle, end)
        if left:
            begins = runs(first, middle)
            while not good(begins[-1], end):
                begins.pop()
            return begins
        if right:
            begins = [*runs(middle, end), end]
            while not good(first, begins[1]):
                begins.pop(1)
            return [first, *begins[1:-1]]
        return [first]

    whole: int = 1 << (len(counts) - 1).bit_length()
    return tuple(runs(0, whole)) if good(0, whole) else (0,)
