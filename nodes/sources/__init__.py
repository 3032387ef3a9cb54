"""Where a patient's values come from. A new source is one file beside this one and one line in SourceConfig.

That file holds a class that `nodes.yaml_struct` can read and that has `read(wanted)`; see `nodes.sources.base.Reader`.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from nodes.fields import Int64
from nodes.sources.base import Reader, Source
from nodes.sources.csv_file import CsvFile
from nodes.sources.literal import LiteralValues
from nodes.sources.synthetic import SyntheticValues
from nodes.yaml_struct import Problem


class SourceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One variable in a patient's configuration: bounds, and one kind of source, whose key is its field's name."""

    bounds: tuple[Int64, Int64]
    """Smallest and largest value, declared by the patient. A study whose bounds do not contain these is declined."""

    literal: LiteralValues | None = None
    csv: CsvFile | None = None
    synthetic: SyntheticValues | None = None

    def _readers(self) -> dict[str, Reader | None]:
        return {field: getattr(self, field) for field in self.__struct_fields__ if field != "bounds"}

    def problems(self) -> Iterator[Problem]:
        """Rules between the fields."""
        if self.bounds[0] >= self.bounds[1]:
            yield Problem(("bounds",), "the first must be below the second; write [smallest, largest]")
        readers = self._readers()
        given = [kind for kind, reader in readers.items() if reader is not None]
        if len(given) != 1:
            has = f"has {' and '.join(given)}" if given else "has no source"
            yield Problem((), f"{has}; give exactly one of {', '.join(readers)}")

    def source(self, variable: str) -> Source:
        """The source of `variable`, ready to be read."""
        [reader] = [reader for reader in self._readers().values() if reader is not None]
        return Source(variable, self.bounds[0], self.bounds[1], reader)
