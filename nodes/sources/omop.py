"""Measurements of an OMOP common data model (5.3, 5.4) by concept: the table `measurement` in SQLite, DuckDB or PostgreSQL.

Each has its person as key. Units are compared by concept and never converted; what only says that a value lies below or above
another (operator_concept_id) is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec

from mpc.disclosure import Categories
from nodes.fields import Positive
from nodes.sources.base import Entry, Found, Wanted, refuse, typed_entry
from nodes.sources.database import DatabaseAddress, database_rows
from nodes.sources.duckdb_query import DATABASE, duckdb_rows
from nodes.sources.files import together
from nodes.sources.people import Day, People, Take
from nodes.sources.table import Run

_EQUALS = 4172703
"""The concept "=", which is what no operator means, too."""
_NONE = (None, 0)
"""No concept."""


class OmopMeasurements(DatabaseAddress, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which measurements of whom."""

    schema: Annotated[str, msgspec.Meta(pattern="^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """Where the tables are, if not where the database looks by itself."""
    concept: Positive
    """measurement_concept_id."""
    unit: Positive | None = None
    """unit_concept_id that every one must have; without it, none may have a unit."""
    person: Positive | None = None
    """person_id; without it, everybody's."""
    take: Take = "latest"
    """Which of several measurements of one person."""
    since: Day | None = None
    """Earlier ones are left out."""

    @property
    def place(self) -> str:
        """See `Reader.place`."""
        return f"concept {self.concept} of {self.where}"

    @property
    def needs(self) -> tuple[str, ...]:
        """See `Reader.needs`."""
        return ("duckdb",) if self.in_duckdb else super().needs

    @property
    def in_duckdb(self) -> bool:
        """Whether the file is a DuckDB database and no SQLite one."""
        return self.file is not None and self.file.suffix.lower() == DATABASE

    @property
    def query(self) -> str:
        """All of it comes from the configuration, whose fields are numbers, a date and a plain name."""
        table = f"{self.schema}.measurement" if self.schema is not None else "measurement"
        rules = [f"measurement_concept_id = {self.concept}"]
        rules += [f"person_id = {self.person}"] if self.person is not None else []
        rules += [f"measurement_date >= '{self.since}'"] if self.since is not None else []
        return f"SELECT {', '.join(_Measurement._fields)} FROM {table} WHERE {' AND '.join(rules)}"  # noqa: S608 (see above)

    @classmethod
    def read(cls, asked: Sequence[tuple[OmopMeasurements, Wanted]]) -> list[Found]:
        """One record a person. Raises DataError that never repeats a value."""
        return together(asked, lambda source: source.database, _read)


class _Measurement(NamedTuple):
    """The columns that count."""

    person_id: Any
    measurement_id: Any
    measurement_date: Any
    measurement_datetime: Any
    operator_concept_id: Any
    value_as_number: Any
    value_as_concept_id: Any
    unit_concept_id: Any


def _read(_place: Any, asked: Sequence[tuple[OmopMeasurements, Wanted]]) -> list[Found]:
    first, wanted = asked[0]
    if first.in_duckdb and first.file is not None:
        rows = duckdb_rows(first.file, first.timeout, wanted.variable, first.where)
    else:
        rows = database_rows(first, wanted.variable)
    with rows as run:
        return [_found(source, wanted, run) for source, wanted in asked]


def _found(source: OmopMeasurements, wanted: Wanted, run: Run) -> Found:
    people = People(wanted, source.take)
    for measurement in _measurements(run(source.query, wanted.variable)[1]):
        value = _value(source, wanted, measurement)
        if value is not None:
            moment = f"{measurement.measurement_date} {measurement.measurement_datetime or ''}"
            people.add(str(measurement.person_id), moment, str(measurement.measurement_id).zfill(20), value)
    return people.found("measurement", source.place)


def _measurements(pieces: Any) -> Iterator[_Measurement]:
    for rows in pieces:
        yield from map(_Measurement._make, rows)


def _value(source: OmopMeasurements, wanted: Wanted, found: _Measurement) -> Entry | None:
    """What it says; None when it has no value."""
    named = isinstance(wanted.declared, Categories)
    given = found.value_as_concept_id if named else found.value_as_number
    if given is None or (named and given in _NONE):
        return None
    if not named:
        unit = None if found.unit_concept_id in _NONE else found.unit_concept_id
        if unit != source.unit:
            has = "a unit, and 'unit' says that none has" if source.unit is None else f"not the unit {source.unit}"
            refuse(wanted.variable, source.place, f"a measurement has {has}; correct 'unit', or the table")
        if found.operator_concept_id not in (*_NONE, _EQUALS):
            refuse(wanted.variable, source.place, "a measurement is a limit and no value (operator_concept_id); leave the study")
    try:
        return typed_entry(wanted.declared, str(given) if named else given)
    except ValueError as rule:
        refuse(wanted.variable, source.place, f"a measurement {rule}; correct it, or the declared bounds")
