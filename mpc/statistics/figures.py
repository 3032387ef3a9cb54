"""What comes out: numbers with their unit, their error or the reason why there is none; ready for JSON and for tables.

Figures hold aggregates alone. They are plain structs with names, not messages: nothing here travels between nodes.
"""

from __future__ import annotations

import math
from fractions import Fraction

import msgspec

from mpc.study import Variable

CONTRADICTION = "the totals contradict each other: no records give them, so a member has not added up its own"
"""A sum cannot be checked member by member; what follows from one that no records can have is not made up."""

Cell = str | int | float | None


class _Struct(msgspec.Struct, frozen=True, kw_only=True):
    """Prints its type alone, as results do everywhere in this house."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class Quantity(_Struct, frozen=True, kw_only=True):
    """One number."""

    value: float | None
    """Finite; None when it cannot be computed."""
    unit: str = ""
    error: float | None = 0.0
    """How far it can lie from the number that unrounded values would give, for quantisation and bins; 0: exact up to floating
    point; None: exact for the values as they were rounded, and nothing is said about the others."""
    reason: str = ""
    """Why there is no value."""


def absent(reason: str, unit: str = "") -> Quantity:
    """A number that cannot be computed."""
    return Quantity(value=None, unit=unit, error=None, reason=reason)


def quantity(value: float | Fraction, unit: str = "", error: float | Fraction | None = 0.0) -> Quantity:
    """A number, unless it is too large for one."""
    number = float(value)
    if not math.isfinite(number):
        return absent("it is too large to be written", unit)
    return Quantity(value=number, unit=unit, error=None if error is None else float(error))


class Table(_Struct, frozen=True, kw_only=True):
    """Rows under named columns, for CSV files and data frames."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


class Figures(_Struct, frozen=True, kw_only=True, tag_field="kind"):
    """What one statistic says. Subclasses add their numbers."""

    id: str
    """The statistic's own, or KIND-VARIABLE."""
    variable: str
    n: int
    """Records in it."""
    left_out: int = 0
    """Records that a missing value kept out; in the groups of `by`, of all groups together."""
    notes: tuple[str, ...] = ()
    """What a reader must know: a test that is rough, a group that is empty."""

    @property
    def name(self) -> str:
        """The kind, as the study calls it."""
        return str(self.__struct_config__.tag)

    def tables(self) -> tuple[Table, ...]:
        """All numbers; without more to say, one row a Quantity."""
        return (quantities_table(self.name, self),)


QUANTITY_COLUMNS = ("quantity", "value", "unit", "error", "reason")


def quantities_table(name: str, figures: msgspec.Struct) -> Table:
    """The fields that are numbers, or Quantities."""
    rows: list[tuple[Cell, ...]] = []
    for field in figures.__struct_fields__:
        value = getattr(figures, field)
        if isinstance(value, Quantity):
            rows.append((field, value.value, value.unit, value.error, value.reason))
        elif isinstance(value, int | float):
            rows.append((field, value, "", 0.0, ""))
    return Table(name=name, columns=QUANTITY_COLUMNS, rows=tuple(rows))


class Comparison(_Struct, frozen=True, kw_only=True):
    """A test between groups."""

    test: str
    statistic: Quantity
    degrees_of_freedom: int
    p: Quantity
    notes: tuple[str, ...] = ()

    def table(self) -> Table:
        """One row a number."""
        return quantities_table(self.test, self)


def half_step(variable: Variable) -> Fraction:
    """How far a value in this variable's steps can lie from what was measured, in its unit: 0 for whole numbers."""
    return Fraction(1, 2 * variable.scale) if variable.rounded else Fraction(0)


def squared(unit: str) -> str:
    """The unit of a variance."""
    return times(unit, unit)


def times(first: str, second: str) -> str:
    """The unit of a product."""
    if first and first == second:
        return f"({first})^2" if any(sign in first for sign in "/*^ ") else f"{first}^2"
    return f"{first}*{second}" if first and second else first or second


def per(unit: str, divisor: str) -> str:
    """The unit of a quotient."""
    if unit == divisor:
        return ""
    if not divisor:
        return unit
    return f"{unit or '1'}/({divisor})" if any(sign in divisor for sign in "/*^ ") else f"{unit or '1'}/{divisor}"
