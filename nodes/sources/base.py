"""What a source is: a reader of a column, and what the patient declares about its values. No error here repeats a value.

A column has one entry a record; of a variable with a length, `length` entries a record, record after record.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mpc.disclosure import Bounds, Categories, refuse_variable
from mpc.errors import DataError
from mpc.statistics.columns import numbers, steps
from mpc.statistics.component import MISSING, Values
from mpc.study import CATEGORY, Study, Variable

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


class Reader(Protocol):
    """One kind of source, as it stands in the configuration."""

    @property
    def place(self) -> str:
        """Where its values stand, for errors: "column 'a' of data.csv"."""
        ...

    @classmethod
    def read(cls, asked: Sequence[tuple[Any, Wanted]]) -> list[Column]:
        """The columns of all readers of this kind that one round asks for: what lies in one file is read at one moment.

        Raises DataError when there are none such. The caller checks length, bounds and names.
        """
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """Where the values of one variable come from."""

    variable: str
    declared: Bounds | Categories
    reader: Reader = field(repr=False)


def read_study(study: Study, sources: Mapping[str, Source], records: int) -> dict[str, Values]:
    """The study's variables in its own steps, shape (records x length,) each. Blocking: call it off the event loop.

    `records` is the most that this node declares to hold. Raises DataError that names the variable, the record and the broken
    rule, and never a value.
    """
    most = records if study.records > 1 else 1
    asked = [(v, sources[v.name], Wanted(v.name, sources[v.name].declared, v.length, most)) for v in study.variables]
    for variable, source, _ in asked:
        # What was consented to may have been another configuration's.
        reason = refuse_variable(variable, source.declared)
        if reason:
            raise DataError(f"variable {variable.name}: {reason}; leave the study, or correct the source")
    columns: dict[str, Column] = {}
    for kind in dict.fromkeys(type(source.reader) for _, source, _ in asked):
        ours = [(source.reader, wanted) for _, source, wanted in asked if type(source.reader) is kind]
        columns |= zip((wanted.variable for _, wanted in ours), kind.read(ours), strict=True)
    return {
        variable.name: _in_steps(variable, columns[variable.name], wanted, source.reader.place, one=study.records == 1)
        for variable, source, wanted in asked
    }


def _in_steps(variable: Variable, column: Column, wanted: Wanted, place: str, *, one: bool) -> Values:
    what = f"variable {variable.name}: {place}"
    _check_size(what, len(column), wanted, one=one)
    absent = _check_entries(what, column, wanted, one=one)
    if absent is not None and not variable.omits:
        raise DataError(f"{what}: {_nth(wanted, absent, len(column), one=one)} is missing, which the study refuses; fill it in")
    if variable.type == CATEGORY:
        assert isinstance(column, list), "the source has categories, as `refuse_variable` says"
        return numbers(variable, column)
    assert not isinstance(column, list), "the source has numbers"
    return steps(variable, column)


def _check_size(what: str, found: int, wanted: Wanted, *, one: bool) -> None:
    if one and found != wanted.length:
        has = str(found) if found < wanted.length else "more"
        raise DataError(
            f"{what}: the study asks for {wanted.length} values, there are {has}; correct the source or leave the study"
        )
    if found > wanted.most:
        raise DataError(
            f"{what}: there are more than the {wanted.records} records that the policy declares; raise its 'records', "
            f"or correct the source"
        )
    if found % wanted.length:
        raise DataError(f"{what}: {found} values are no whole records of {wanted.length}; correct the source")


def _check_entries(what: str, column: Column, wanted: Wanted, *, one: bool) -> int | None:
    """Raises DataError for the first entry that is not as declared. Returns the place of the first that is missing."""
    declared = wanted.declared
    if isinstance(declared, Categories):
        assert isinstance(column, list), "a reader gives what is declared"
        if not declared.names.issuperset(set(column) - {""}):
            at = next(at for at, name in enumerate(column) if name and name not in declared.names)
            nth = _nth(wanted, at, len(column), one=one)
            raise DataError(f"{what}: {nth} is none of the declared categories; correct it or the categories")
        return column.index("") if "" in column else None
    assert not isinstance(column, list), "a reader gives what is declared"
    absent = column == MISSING if declared.whole else np.isnan(column)
    low, high = (int(end) if declared.whole else float(end) for end in (declared.minimum, declared.maximum))
    for beyond, rule in ((column < low, f"below its minimum {low}"), (column > high, f"above its bound {high}")):
        outside = beyond & ~absent
        if outside.any():
            nth = _nth(wanted, int(outside.argmax()), len(column), one=one)
            raise DataError(f"{what}: {nth} is {rule}; correct it or its bounds")
    return int(absent.argmax()) if absent.any() else None


def _nth(wanted: Wanted, at: int, size: int, *, one: bool) -> str:
    """An entry in words, counted from 1."""
    if one:
        return f"value {at + 1} of {size}"
    value = f"value {at % wanted.length + 1} of " if wanted.length > 1 else ""
    return f"{value}record {at // wanted.length + 1} of {size // wanted.length}"


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
