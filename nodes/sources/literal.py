"""Values that stand in the configuration itself: `literal: 725`, `literal: female`, `literal: [36.6, null, 37.2]`.

A list holds one value a record; null is a value that is missing, also of a person: `[null]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar

import msgspec

from mpc.disclosure import Bounds, Categories
from nodes.fields import Int64, Text
from nodes.sources.base import Column, Entry, Wanted, column_of
from nodes.yaml_struct import Problem

_Scalar = Int64 | float | Text


class LiteralValues:
    """One value or several. Prints nothing of them."""

    __slots__ = ("_entries", "_listed")

    yaml_form: ClassVar[object] = _Scalar | Annotated[tuple[_Scalar | None, ...], msgspec.Meta(min_length=1)]

    place: ClassVar[str] = "its literal"

    def __init__(self, values: Entry | tuple[Entry | None, ...]) -> None:
        self._listed = isinstance(values, tuple)
        self._entries: tuple[Entry | None, ...] = values if isinstance(values, tuple) else (values,)

    def __repr__(self) -> str:
        return "<LiteralValues>"

    def problems(self, declared: Bounds | Categories) -> Iterator[Problem]:
        """What does not go with what is declared of the source, but for the bounds: those are for the moment of reading."""
        for at, one in enumerate(self._entries):
            place = (at,) if self._listed else ()
            if isinstance(declared, Categories):
                if isinstance(one, int | float):
                    yield Problem(place, "is a number, and the source has categories; put quotes round it, or give bounds")
            elif isinstance(one, str):
                yield Problem(place, "is text, and the source has bounds; write a number, or give categories in place of bounds")
            elif isinstance(one, float) and declared.whole:
                yield Problem(place, "is no whole number; write one, or bounds with a point ([0.0, 9.5]) when there are decimals")
            elif one == -(2**63):
                yield Problem(place, f"is too small; give {-(2**63) + 1} or more")

    @classmethod
    def read(cls, asked: Sequence[tuple[LiteralValues, Wanted]]) -> list[Column]:
        """The values as they stand."""
        return [column_of(wanted.declared, literal._entries) for literal, wanted in asked]
