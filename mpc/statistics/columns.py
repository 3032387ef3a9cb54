"""Local data as columns of integers: rounded to steps, numbered by category, checked against the study.

A node gives one array a variable, all with the same records in the same order. Reading them is the node's; `steps` and `numbers`
make the integers of what it read, and `Records` holds what a study can take. No error repeats a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mpc.errors import DataError
from mpc.statistics.component import MISSING, Asked, Values
from mpc.study import Study, Variable


def steps(variable: Variable, values: npt.NDArray[np.float64] | Values) -> Values:
    """Numbers in the variable's unit, rounded to its nearest steps (half to even); NaN, or MISSING, is MISSING. The shape stays.

    Whole numbers are exact. Raises DataError for a number that leaves 64 bits; bounds are checked with the study.
    """
    whole = np.issubdtype(values.dtype, np.integer)
    absent = values == MISSING if whole else np.isnan(values)
    there = np.where(absent, 0, values)
    if whole:
        fits = max(abs(int(there.min(initial=0))), int(there.max(initial=0))) * variable.scale < 2**63
    else:
        there = np.rint(there * float(variable.scale))
        fits = bool((np.abs(there) < float(2**63)).all())
    if not fits:
        raise DataError(f"variable {variable.name}: a value leaves 64 bits in steps of 1/{variable.scale}; correct it")
    return np.where(absent, MISSING, there.astype(np.int64) * (variable.scale if whole else 1))


def numbers(variable: Variable, names: Sequence[str]) -> Values:
    """The place of each name in the variable's categories, shape (names,); an empty name is MISSING.

    Raises DataError for a name that is none of them.
    """
    places = {"": MISSING} | {name: place for place, name in enumerate(variable.categories)}
    try:
        return np.array([places[name] for name in names], dtype=np.int64)
    except KeyError:
        known = ", ".join(variable.categories)
    raise DataError(f"variable {variable.name}: a value is none of its categories, {known}; correct it")


@dataclass(frozen=True, slots=True, repr=False)
class Records:
    """A node's data as a study takes them. Prints nothing of them."""

    count: int
    columns: Mapping[str, Values]
    """Shape (count,), or (count, length) for a vector."""

    def present(self, asked: Asked) -> npt.NDArray[np.bool_] | None:
        """Which records have every value of a statistic; None: all of them."""
        kept: npt.NDArray[np.bool_] | None = None
        for variable in (*asked.variables, *([asked.by] if asked.by else [])):
            if variable.omits:
                there = self.columns[variable.name] != MISSING
                there = there.all(axis=1) if there.ndim > 1 else there
                kept = there if kept is None else kept & there
        return None if kept is None or kept.all() else kept


def read(study: Study, values: Mapping[str, Values]) -> Records:
    """The records in `values`: for each variable an array of records x length integers, record after record.

    Raises DataError, without a value in it, when the study cannot take them: a wrong number of values or of records, a value that
    is missing where the study refuses that, or one out of bounds.
    """
    columns: dict[str, Values] = {}
    count, first = -1, ""
    for variable in study.variables:
        column = values[variable.name].reshape(-1)
        _check(variable, column, study.records)
        size = column.size // variable.length
        if count not in (-1, size):
            raise DataError(f"variable {variable.name}: {size} records where {first} has {count}; give one value a record")
        count, first = size, first or variable.name
        columns[variable.name] = column.reshape(size, variable.length) if variable.length > 1 else column
    return Records(count, columns)


def _check(variable: Variable, column: Values, records: int) -> None:
    if records == 1 and column.size != variable.length:
        raise DataError(f"variable {variable.name}: {column.size} values where the study asks for {variable.length}")
    if column.size % variable.length:
        raise DataError(f"variable {variable.name}: {column.size} values are no whole records of {variable.length}")
    if column.size > records * variable.length:
        raise DataError(
            f"variable {variable.name}: {column.size // variable.length} records where the study takes at most {records}; "
            f"it must ask for more 'records'"
        )
    if column.size == 0:
        return
    lowest = int(column.min())
    if lowest == MISSING:
        if not variable.omits:
            raise DataError(f"variable {variable.name}: a value is missing, which the study refuses")
        there = column[column != MISSING]
        lowest = int(there.min()) if there.size else variable.minimum
    if lowest < variable.minimum:
        raise DataError(f"variable {variable.name}: a value is below the minimum {variable.minimum}")
    if int(column.max()) > variable.maximum:
        raise DataError(f"variable {variable.name}: a value is above the bound {variable.maximum}")
