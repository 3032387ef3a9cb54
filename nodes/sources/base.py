"""What a source is: a reader of a column, and what the patient declares about its values. No error here repeats a value.

A column has one entry a record; of a variable with a length, `length` entries a record, record after record. What stands in the
rows of one table belongs together row by row; across tables, only what has keys does (`nodes.sources.records`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NoReturn, Protocol
from uuid import UUID

import numpy as np
import numpy.typing as npt

from mpc.disclosure import Bounds, Categories
from mpc.errors import DataError
from mpc.statistics.component import MISSING, Values

Numbers = npt.NDArray[np.float64]
Column = Values | Numbers | list[str]
"""Whole numbers, numbers with decimals, names of categories. No value: MISSING, NaN, the empty name."""
Entry = int | float | str
"""One of a column."""

_INTEGER = re.compile(r"[-+]?[0-9]+", re.ASCII)
_DECIMAL = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,4})?", re.ASCII)
_MAX_DIGITS = 100  # far above 64 bits, far below what makes int() slow
_BLANKS = " \t"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reader is asked for."""

    variable: str
    declared: Bounds | Categories
    length: int = 1
    """Entries of one record."""
    records: int = 1
    """The most that this node holds: 1 is a person, who has exactly one."""

    @property
    def most(self) -> int:
        """Entries that are of use; a reader may stop after one more."""
        return self.records * self.length


@dataclass(frozen=True, slots=True, repr=False)
class Found:
    """What a reader has found. Prints nothing of it."""

    column: Column
    table: str
    """In whose rows the entries stand: those of one table belong together row by row, unless they have keys."""
    keys: Sequence[str] | None = None
    """Whose entry each is, where the source says that: then records are found by these, in whatever row they stand."""


class Reader(Protocol):
    """One kind of source, as it stands in the configuration."""

    @property
    def quick(self) -> bool:
        """Whether reading takes no time, as of what stands in the configuration itself."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Libraries of the extra `sources` that reading takes."""
        ...

    @property
    def place(self) -> str:
        """Where its values stand, for errors: "column 'a' of data.csv"."""
        ...

    @classmethod
    def read(cls, asked: Sequence[tuple[Any, Wanted]]) -> list[Found]:
        """What all readers of this kind find that one round asks for: what lies in one file is read at one moment. Blocking.

        Raises DataError when there are none such. The caller checks length, bounds and names.
        """
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """Where the values of one variable come from."""

    variable: str
    declared: Bounds | Categories
    reader: Reader = field(repr=False)


def refuse(variable: str, where: str, text: str) -> NoReturn:
    """Raises DataError; what led to it may hold a value, and is left behind."""
    raise DataError(f"variable {variable}: {where}: {text}") from None


def entry(declared: Bounds | Categories, text: str) -> Entry | None:
    """What `text` spells, blanks around it aside, for such a source; None when there is nothing, which is a missing value.

    Raises ValueError whose text is the broken rule alone ("is not a whole number").
    """
    given = text.strip(_BLANKS)
    if not given:
        return None
    if isinstance(declared, Categories):
        return given
    return integer(given) if declared.whole else decimal(given)


def integer(text: str) -> int:
    """The integer that `text` spells: decimal digits, a sign and blanks around it at most; fits in 64 bits.

    Raises ValueError whose text is the broken rule alone.
    """
    digits = text.strip(_BLANKS)
    if not digits:
        raise ValueError("is empty")
    if _INTEGER.fullmatch(digits) is None:
        raise ValueError("is not a whole number")
    # -2^63 stands for a missing value.
    if len(digits) > _MAX_DIGITS or not MISSING < int(digits) < 2**63:
        raise ValueError("does not fit in 64 bits")
    return int(digits)


def decimal(text: str) -> float:
    """The number that `text` spells in decimal digits, with a point, a sign and an exponent at most; finite.

    Raises ValueError whose text is the broken rule alone.
    """
    if len(text) > _MAX_DIGITS or _DECIMAL.fullmatch(text) is None:
        raise ValueError("is not a decimal number")
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("is too large for a number")
    return number


def column_of(declared: Bounds | Categories, entries: Sequence[Entry | None]) -> Column:
    """Entries as a column; None is a missing value."""
    if isinstance(declared, Categories):
        return ["" if one is None else str(one) for one in entries]
    if declared.whole:
        return np.array([MISSING if one is None else one for one in entries], dtype=np.int64)
    return np.array([math.nan if one is None else one for one in entries], dtype=np.float64)


def typed_entry(declared: Bounds | Categories, value: object) -> Entry | None:
    """What a value stands for that came with a type, from a database, say; None, NaN and blank text are missing values.

    A whole number may come as 120.0, text is no number, and true and false are neither. Raises ValueError whose text is the
    broken rule alone.
    """
    if _absent(value):
        return None
    if isinstance(declared, Categories):
        if not isinstance(value, str):
            raise ValueError("is no text, and the source has categories")
        return value.strip(_BLANKS)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError("is text where a number should be" if isinstance(value, str) else "is no number")
    try:
        whole = int(value)
        number = float(value)
    except (OverflowError, ValueError):  # infinite, or an integer beyond every float
        raise ValueError("is too large for a number") from None
    if not declared.whole:
        return number
    if whole != value:
        raise ValueError("is not a whole number")
    if not MISSING < whole < 2**63:
        raise ValueError("does not fit in 64 bits")
    return whole


def key_of(value: object) -> str:
    """A key as text, so that 17 and "17" are one. Raises ValueError whose text is the broken rule alone."""
    if _absent(value):
        raise ValueError("is missing")
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str | UUID):
        raise ValueError("is no text and no whole number")
    return str(value).strip(_BLANKS)


def _absent(value: object) -> bool:
    match value:
        case None:
            return True
        case str():
            return not value.strip(_BLANKS)
        case float():
            return math.isnan(value)
        case Decimal():
            return value.is_nan()
        case _:
            return False
