"""What a source is: a reader of values, and what the patient declares about them. No error here repeats a value."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Protocol

from mpc.errors import DataError
from mpc.statistics.component import Values

_INTEGER = re.compile(r"[-+]?[0-9]+", re.ASCII)
_MAX_DIGITS = 100  # far above 64 bits, far below what makes int() slow


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reader is asked for: `length` values of `variable`, declared to lie in [minimum, maximum]."""

    variable: str
    length: int
    minimum: int
    maximum: int


class Reader(Protocol):
    """One kind of source, as it stands in the configuration."""

    def read(self, wanted: Wanted) -> Values:
        """int64, shape (wanted.length,). Raises DataError when there are none such. The caller checks the bounds."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """Where the values of one variable come from."""

    variable: str
    minimum: int
    maximum: int
    reader: Reader = field(repr=False)

    def read(self, length: int) -> Values:
        """`length` values, int64, shape (length,), each in [minimum, maximum]. Blocking: call it off the event loop.

        Raises DataError that names the variable and the broken rule, and never a value.
        """
        values = self.reader.read(Wanted(self.variable, length, self.minimum, self.maximum))
        check_bounds(values, self.minimum, self.maximum, self.variable)
        return values


def check_bounds(values: Values, minimum: int, maximum: int, variable: str) -> None:
    """Raises DataError, with the position (from 1) of the first value outside [minimum, maximum]."""
    for outside, rule in (
        (values < minimum, f"below its minimum {minimum}"),
        (values > maximum, f"above its bound {maximum}"),
    ):
        if outside.any():
            at = int(outside.argmax()) + 1
            raise DataError(f"variable {variable}: value {at} of {values.size} is {rule}; correct it or its bounds")


def check_length(found: int, wanted: Wanted, where: str) -> None:
    """Raises DataError when `where` holds another number of values than the study asks for."""
    if found != wanted.length:
        raise DataError(
            f"variable {wanted.variable}: the study asks for {wanted.length} values, {where} has {found}; "
            f"correct the source or leave the study"
        )


def integer(text: str) -> int:
    """The integer that `text` spells: decimal digits, a sign and blanks around it at most; fits in 64 bits.

    Raises ValueError whose text is the broken rule alone ("is not a whole number").
    """
    digits = text.strip(" \t")
    if not digits:
        raise ValueError("is empty")
    if _INTEGER.fullmatch(digits) is None:
        raise ValueError("is not a whole number")
    if len(digits) > _MAX_DIGITS or not -(2**63) <= int(digits) < 2**63:
        raise ValueError("does not fit in 64 bits")
    return int(digits)
