"""Of many measurements of each person, those that a record has: the latest, or the earliest, as many as the variable is long."""

from __future__ import annotations

import bisect
from typing import Annotated, Literal

import msgspec

from nodes.sources.base import Entry, Found, Wanted, column_of, refuse

Take = Literal["latest", "earliest"]
Day = Annotated[str, msgspec.Meta(pattern="^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$")]
"""A date: "2026-01-31"; in quotes, or YAML takes it for one."""


class People:
    """Measurements as they come, in any order; keeps no more than it needs. Prints nothing of them."""

    def __init__(self, wanted: Wanted, take: Take) -> None:
        self._wanted, self._take = wanted, take
        self._kept: dict[str, list[tuple[str, str, Entry]]] = {}

    def add(self, key: str, moment: str, tie: str, value: Entry) -> None:
        """A measurement of person `key`. Moments sort as text; in one moment `tie` decides, so that every read takes the same."""
        kept = self._kept.setdefault(key, [])
        if tie and any(one[:2] == (moment, tie) for one in kept):  # a server may have it on two pages
            return
        bisect.insort(kept, (moment, tie, value), key=lambda one: one[:2])
        if len(kept) > self._wanted.length:
            del kept[0 if self._take == "latest" else -1]

    def found(self, table: str, place: str) -> Found:
        """One record a person, in the order of the keys; within it, in order of time. Raises DataError where one has too few."""
        keys, entries = [], []
        for key in sorted(self._kept):
            kept = self._kept[key]
            if len(kept) < self._wanted.length:
                text = f"somebody has {len(kept)} values, and a record of the study has {self._wanted.length}; leave the study"
                refuse(self._wanted.variable, place, text)
            keys += [key] * len(kept)
            entries += [value for _, _, value in kept]
        return Found(column_of(self._wanted.declared, entries), table, keys)
