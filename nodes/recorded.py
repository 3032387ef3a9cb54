"""The values that a source gave to a round, kept so that the rounds after it in the same period are given the same.

They are kept in the steps, or by the categories, of the study that was the first to ask, and given to others as a column of the
source: a later study may want finer steps, but learns nothing finer. They stand as they stood in the source, with its keys, or
as rows of the table that it was in that round: values of two rounds belong together by their keys or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from mpc.disclosure import Bounds, Categories, Policy
from mpc.errors import DataError
from mpc.rounds.events import ValuesRead
from mpc.statistics.component import MISSING, Values
from mpc.study import INTEGER, Study
from mpc.wire import Struct
from nodes.journal import Packed, pack, unpack
from nodes.sources.base import Column, Found
from nodes.sources.reading import in_steps


class Recorded(Struct, frozen=True):
    """The values of one source."""

    scale: int
    """Steps in one unit."""
    categories: tuple[str, ...]
    """Of a category, which the values are places in; empty for a number."""
    values: Packed
    table: str
    """As `Found` has it, and of which round."""
    keys: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Reading(ValuesRead):
    """The values of a round that has just read its sources, and what they were made of."""

    found: Mapping[str, Found] = field(default_factory=dict, repr=False)


def found_by(round_id: bytes, reading: Reading) -> dict[str, Found]:
    """What a round has found, told from what others find in the same table at another time."""
    return {name: replace(found, table=f"{found.table} in round {round_id.hex()}") for name, found in reading.found.items()}


def found_again(round_id: bytes, study: Study, event: ValuesRead) -> dict[str, Found]:
    """What a round had found that was rebuilt: its records are all that is known of it."""
    return {
        variable.name: Found(
            _column(variable.scale, variable.categories, event.values[variable.name], whole=variable.type == INTEGER),
            f"round {round_id.hex()}",
        )
        for variable in study.variables
    }


def record(study: Study, found: Mapping[str, Found], policy: Policy) -> dict[str, Recorded]:
    """What the study's variables were, by source."""
    made: dict[str, Recorded] = {}
    for variable in reversed(study.variables):  # of two that are one source, the first counts
        one = found[variable.name]
        values = pack("", in_steps(variable, one.column))
        keys = None if one.keys is None else tuple(one.keys)
        made[policy.field_of(variable.name)] = Recorded(variable.scale, variable.categories, values, one.table, keys)
    return made


def recall(recorded: Recorded, declared: Bounds | Categories) -> Found:
    """The values as a source with this declaration gives them. Raises DataError when it was declared otherwise then."""
    if isinstance(declared, Categories) != bool(recorded.categories):
        raise DataError("the values kept in this period are of another kind than the source now declares; release it")
    whole = isinstance(declared, Bounds) and declared.whole
    column = _column(recorded.scale, recorded.categories, unpack(recorded.values), whole=whole)
    return Found(column, recorded.table, recorded.keys)


def _column(scale: int, categories: tuple[str, ...], values: Values, *, whole: bool) -> Column:
    absent = values == MISSING
    if categories:
        names = np.array(["", *categories])
        return [str(name) for name in names[np.where(absent, 0, values + 1)]]
    if whole:
        return np.where(absent, MISSING, values // scale)
    return np.where(absent, np.nan, values / scale)
