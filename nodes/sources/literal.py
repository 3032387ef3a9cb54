"""Values that stand in the configuration itself: `literal: 725` or `literal: [72, 81]`."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np

from mpc.errors import DataError
from mpc.statistics.component import Values
from nodes.fields import Int64
from nodes.sources.base import Wanted, check_length


class LiteralValues:
    """One integer or several. Prints nothing of them."""

    __slots__ = ("_values",)

    yaml_form: ClassVar[object] = Int64 | Annotated[tuple[Int64, ...], msgspec.Meta(min_length=1)]

    def __init__(self, values: int | tuple[int, ...]) -> None:
        self._values = values if isinstance(values, tuple) else (values,)

    def __repr__(self) -> str:
        return "<LiteralValues>"

    def read(self, wanted: Wanted) -> Values:
        """The values as they stand. Raises DataError for another length, or an integer beyond 64 bits."""
        check_length(len(self._values), wanted, "its literal")
        if not all(-(2**63) <= value < 2**63 for value in self._values):
            raise DataError(f"variable {wanted.variable}: its literal does not fit in 64 bits; correct it")
        return np.array(self._values, dtype=np.int64)
