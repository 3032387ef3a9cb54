"""The sum of a scalar or, element by element, of a vector.

A value v in [minimum, maximum] is encoded as v - minimum, so that what is added is never negative; the decoder adds
members x minimum back.
"""

from __future__ import annotations

import numpy as np

from mpc.errors import DataError
from mpc.ring import Vector
from mpc.statistics.component import Component, Values
from mpc.study import Variable


class Sum:
    """`sum` in a study."""

    def component(self, variable: Variable, members: int) -> Component:
        """`length` integers in [0, maximum - minimum]."""
        return Component(variable.maximum - variable.minimum, variable.length, offset=members * variable.minimum)

    def encode(self, variable: Variable, values: Values) -> Vector:
        """Raises DataError when the values have another shape or lie outside the variable's bounds."""
        if values.shape != (variable.length,):
            raise DataError(f"variable {variable.name}: {values.size} values where the study asks for {variable.length}")
        if values.size and int(values.min()) < variable.minimum:
            raise DataError(f"variable {variable.name}: a value is below the minimum {variable.minimum}")
        if values.size and int(values.max()) > variable.maximum:
            raise DataError(f"variable {variable.name}: a value is above the bound {variable.maximum}")
        # Two's complement subtraction modulo 2^64 is exact here: the difference lies in [0, 2^63 - 1].
        return values.astype(np.uint64) - np.uint64(variable.minimum % 2**64)

    def decode(self, variable: Variable, total: Vector, members: int) -> Values:
        """total + members x minimum, which `plan` has proved to fit 64 bits."""
        return (total + np.uint64(members * variable.minimum % 2**64)).view(np.int64)
