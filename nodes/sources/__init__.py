"""Where a patient's values come from. A new source is one file beside this one and one line in SourceConfig.

That file holds a class that `nodes.yaml_struct` can read and that is a `nodes.sources.base.Reader`.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import msgspec

from mpc.disclosure import Bounds, Categories
from nodes.fields import Int64, Text
from nodes.sources.base import Reader, Source
from nodes.sources.csv_file import CsvFile
from nodes.sources.literal import LiteralValues
from nodes.sources.synthetic import SyntheticValues
from nodes.yaml_struct import Problem

_DECLARED = ("bounds", "categories")


class SourceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One variable in a patient's configuration: what it may be, and one kind of source, whose key is its field's name.

    A study whose words for the variable do not cover all that is declared here is declined.
    """

    bounds: tuple[Int64 | float, Int64 | float] | None = None
    """Smallest and largest value of a number. One written with a point ([0.0, 300.0]) says that there are decimals."""
    categories: tuple[Text, ...] = ()
    """Of a category: all that it may be."""

    literal: LiteralValues | None = None
    csv: CsvFile | None = None
    synthetic: SyntheticValues | None = None

    def _readers(self) -> dict[str, Reader | None]:
        return {field: getattr(self, field) for field in self.__struct_fields__ if field not in _DECLARED}

    def problems(self) -> Iterator[Problem]:
        """Rules between the fields."""
        if (self.bounds is None) == (not self.categories):
            yield Problem((), "give bounds: [smallest, largest] of a number, or the categories of a category, and not both")
        elif self.bounds is not None and not Fraction(str(self.bounds[0])) < Fraction(str(self.bounds[1])):
            yield Problem(("bounds",), "the first must be below the second; write [smallest, largest]")
        elif len(set(self.categories)) < len(self.categories):
            yield Problem(("categories",), "names one twice; name each once")
        elif self.literal is not None:
            yield from (Problem(("literal", *one.key), one.text) for one in self.literal.problems(self.declared))
        readers = self._readers()
        given = [kind for kind, reader in readers.items() if reader is not None]
        if len(given) != 1:
            has = f"has {' and '.join(given)}" if given else "has no source"
            yield Problem((), f"{has}; give exactly one of {', '.join(readers)}")

    @property
    def declared(self) -> Bounds | Categories:
        """What a policy knows of it."""
        if self.bounds is None:
            return Categories(frozenset(self.categories))
        low, high = self.bounds
        if isinstance(low, int) and isinstance(high, int):
            return Bounds(low, high)
        # As a person wrote it: 0.1 is one tenth, not the nearest float.
        return Bounds(Fraction(str(low)), Fraction(str(high)), whole=False)

    def source(self, variable: str) -> Source:
        """The source of `variable`, ready to be read."""
        [reader] = [reader for reader in self._readers().values() if reader is not None]
        return Source(variable, self.declared, reader)
