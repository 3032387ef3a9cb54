"""Which values belong to the same record. Of one table: those in the same row. Of several: those with the same key.

Nothing else says it, so a study of many records whose variables stand in different tables without keys is not answered: the
values of two people in one record would make every statistic of two variables wrong, and nobody would see it.

With keys, the records are those of every key that any of the variables has, in the order of the keys; a record without a value
of a variable has none there, and the study says what that means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nodes.sources.base import Column, Found, Wanted, column_of, refuse


@dataclass(frozen=True, slots=True)
class Asked:
    """One variable of a study, and what its reader has found."""

    wanted: Wanted
    place: str
    found: Found


def aligned(asked: Sequence[Asked], *, one: bool) -> dict[str, Column]:
    """The columns by variable, record by record. `one`: the study asks for exactly one record, even where nothing is known of it.

    Raises DataError that names two variables when nothing says which of their values belong together.
    """
    keyed = [each for each in asked if each.found.keys is not None]
    plain = [each for each in asked if each.found.keys is None]
    if any(each.wanted.records > 1 for each in asked):
        _refuse_unrelated(keyed, plain)
    columns = {each.wanted.variable: each.found.column for each in plain}
    names = sorted({key for each in keyed for key in each.found.keys or ()})
    # A person is one record: what one of its sources does not know is missing in it.
    count = len(names) or int(one or any(len(column) for column in columns.values()))
    places = {name: place for place, name in enumerate(names)}
    return columns | {each.wanted.variable: _placed(each, places, count) for each in keyed}


def _refuse_unrelated(keyed: Sequence[Asked], plain: Sequence[Asked]) -> None:
    """Raises DataError unless there is one table, or a key to all."""
    if keyed and plain:
        other = keyed[0].wanted.variable
        _refuse(plain[0], f"nothing says which of its values belong to which of {other}, which has a key; give it a 'key', too")
    for each in plain[1:]:
        if each.found.table != plain[0].found.table:
            other = plain[0].wanted.variable
            _refuse(each, f"is not the table of {other}, so nothing says which values belong together; give both a 'key'")
    for each in keyed[1:]:
        mine, theirs = set(each.found.keys or ()), set(keyed[0].found.keys or ())
        if mine and theirs and mine.isdisjoint(theirs):
            _refuse(each, f"none of its keys is one of {keyed[0].wanted.variable}; name columns with the same keys in both")


def _placed(each: Asked, places: dict[str, int], count: int) -> Column:
    """A column with keys as one of `count` records."""
    column, keys, length = each.found.column, each.found.keys or (), each.wanted.length
    records = np.fromiter((places[key] for key in keys), dtype=np.int64, count=len(keys))
    entries = np.bincount(records, minlength=count)
    wrong = entries[(entries != 0) & (entries != length)]
    if wrong.size:
        _refuse(each, f"one key has {int(wrong[0])} values, and a record of the study has {length}; correct the source")
    order = np.argsort(records, kind="stable")
    slots = (np.flatnonzero(entries)[:, None] * length + np.arange(length)).reshape(-1)
    placed = column_of(each.wanted.declared, [None] * (count * length))
    if isinstance(column, list) or isinstance(placed, list):
        names = dict(zip(slots.tolist(), (column[at] for at in order.tolist()), strict=True))
        return [str(names.get(slot, "")) for slot in range(count * length)]
    placed[slots] = column[order]
    return placed


def _refuse(each: Asked, text: str) -> None:
    refuse(each.wanted.variable, each.place, text)
