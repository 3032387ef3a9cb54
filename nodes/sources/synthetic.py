"""Made-up values for tests and benchmarks: `synthetic: {seed: 7, records: 1000}`. No real patient's configuration has this."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from mpc.disclosure import Categories
from mpc.statistics.component import MISSING
from nodes.fields import Positive
from nodes.sources.base import Column, Wanted


class SyntheticValues(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Uniform over what is declared, and the same for the same seed: `numpy.random.default_rng(seed)`."""

    place: ClassVar[str] = "its made-up values"

    seed: Annotated[int, msgspec.Meta(ge=0)]
    records: Positive = 1
    missing: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    """The share that has no value."""

    def __repr__(self) -> str:
        return "<SyntheticValues>"

    @classmethod
    def read(cls, asked: Sequence[tuple[SyntheticValues, Wanted]]) -> list[Column]:
        """One column each."""
        return [made._column(wanted) for made, wanted in asked]

    def _column(self, wanted: Wanted) -> Column:
        generator, size, declared = np.random.default_rng(self.seed), self.records * wanted.length, wanted.declared
        if isinstance(declared, Categories):
            names = np.array(sorted(declared.names))[generator.integers(len(declared.names), size=size)]
            return ["" if gone else str(name) for name, gone in zip(names, self._gone(generator, size), strict=True)]
        if declared.whole:
            low, high = int(declared.minimum), int(declared.maximum)
            whole = generator.integers(low, high, endpoint=True, size=size, dtype=np.int64)
            return np.where(self._gone(generator, size), MISSING, whole)
        numbers = generator.uniform(float(declared.minimum), float(declared.maximum), size=size)
        return np.where(self._gone(generator, size), math.nan, numbers)

    def _gone(self, generator: np.random.Generator, size: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return generator.random(size) < self.missing
