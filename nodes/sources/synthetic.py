"""Made-up values for tests and benchmarks: `synthetic: {seed: 7}`. No real patient's configuration has this."""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np

from mpc.statistics.component import Values
from nodes.sources.base import Wanted


class SyntheticValues(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Uniform over the declared bounds, and the same for the same seed: `numpy.random.default_rng(seed).integers`."""

    seed: Annotated[int, msgspec.Meta(ge=0)]

    def __repr__(self) -> str:
        return "<SyntheticValues>"

    def read(self, wanted: Wanted) -> Values:
        """As many values as are asked for."""
        generator = np.random.default_rng(self.seed)
        return generator.integers(wanted.minimum, wanted.maximum, endpoint=True, size=wanted.length, dtype=np.int64)
