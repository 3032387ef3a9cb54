"""Where a patient's values come from. A new source is one file beside this one and one line in SourceConfig.

That file holds a class that `nodes.yaml_struct` can read and that is a `nodes.sources.base.Reader`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction

import msgspec

from mpc.disclosure import Bounds, Categories
from nodes.extras import check_libraries
from nodes.fields import Int64, Text
from nodes.sources.base import Reader, Source
from nodes.sources.csv_file import CsvFile
from nodes.sources.duckdb_query import DuckDbQuery
from nodes.sources.environment import EnvironmentVariable
from nodes.sources.fhir import FhirObservations
from nodes.sources.json_file import JsonFile
from nodes.sources.literal import LiteralValues
from nodes.sources.omop import OmopMeasurements
from nodes.sources.parquet_file import ParquetFile
from nodes.sources.prompt import Prompt
from nodes.sources.sql_query import SqlQuery
from nodes.sources.synthetic import SyntheticValues
from nodes.sources.xlsx_file import XlsxFile
from nodes.yaml_struct import Problem

_DECLARED = ("bounds", "categories", "field")


class SourceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One variable in a patient's configuration: what it may be, and one kind of source, whose key is its field's name.

    A study whose words for the variable do not cover all that is declared here is declined.
    """

    bounds: tuple[Int64 | float, Int64 | float] | None = None
    """Smallest and largest value of a number. One written with a point ([0.0, 300.0]) says that there are decimals."""
    categories: tuple[Text, ...] = ()
    """Of a category: all that it may be."""
    field: Text | None = None
    """What it is, by whatever names studies have for it: guards take variables of one field for one source. The variable's own
    name if not given, or that of an earlier variable with the very same reader."""

    literal: LiteralValues | None = None
    environment: EnvironmentVariable | None = None
    prompt: Prompt | None = None
    csv: CsvFile | None = None
    parquet: ParquetFile | None = None
    json: JsonFile | None = None
    xlsx: XlsxFile | None = None
    duckdb: DuckDbQuery | None = None
    sql: SqlQuery | None = None
    fhir: FhirObservations | None = None
    omop: OmopMeasurements | None = None
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

    @property
    def quick(self) -> bool:
        """Whether reading it takes no time."""
        return all(reader is None or reader.quick for reader in self._readers().values())

    def source(self, variable: str) -> Source:
        """The source of `variable`, ready to be read. Raises ConfigError when a library that it takes is not installed."""
        [reader] = [reader for reader in self._readers().values() if reader is not None]
        check_libraries(reader.needs, "sources", f"sources.{variable}")
        return Source(variable, self.declared, reader)

    def is_read_like(self, other: SourceConfig) -> bool:
        """Whether both read the same. Values that stand in the configuration are not compared: they must decide nothing."""
        return not self.quick and self._readers() == other._readers()

    def holding(self, literal: LiteralValues) -> SourceConfig:
        """The same with a literal for its source."""
        return msgspec.structs.replace(self, **(dict.fromkeys(self._readers()) | {"literal": literal}))


def fields(sources: Mapping[str, SourceConfig]) -> dict[str, str]:
    """By variable: the name of its field."""
    found: dict[str, str] = {}
    for variable, source in sources.items():
        earlier = (found[name] for name in found if sources[name].is_read_like(source))
        found[variable] = source.field or next(earlier, variable)
    return found
