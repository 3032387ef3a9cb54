"""How many records there are that have the variable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mpc.statistics.component import Asked, Block, Family, Sums, Values
from mpc.statistics.figures import Figures


class CountFigures(Figures, frozen=True, kw_only=True, tag="count"):
    """n says it all."""


class Count(Family):
    """`count` in a study."""

    kind = "count"
    reveals = "the number of records"
    counted = True
    vectors = True

    def problems(self, asked: Asked) -> Iterator[str]:
        """Anything can be counted."""
        yield from ()

    def blocks(self, asked: Asked) -> Sequence[Block]:
        """Nothing but n, which every statistic may have."""
        return ()

    def totals(self, asked: Asked, columns: Sequence[Values]) -> Values:
        """Nothing."""
        return np.empty(0, dtype=np.int64)

    def figures(self, asked: Asked, sums: Sums) -> CountFigures:
        """n."""
        return CountFigures(id=asked.statistic.name, variable=asked.variables[0].name, n=sums.n, left_out=sums.left_out)
