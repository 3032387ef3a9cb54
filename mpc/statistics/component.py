"""What every statistics family speaks of: local values, and the integers that one member contributes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.int64]
"""Local values or results, shape (length,), in the variable's unit."""


@dataclass(frozen=True, slots=True)
class Component:
    """What one member contributes to one statistic: `length` integers, each in [0, maximum]."""

    maximum: int
    length: int
    offset: int
    """What the decoder adds to the total over all members."""
