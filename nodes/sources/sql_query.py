"""What a SQL query gives that a database runs: a SQLite file, or PostgreSQL. The query is the patient's; it may only read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nodes.fields import Text
from nodes.sources.base import Found, Wanted
from nodes.sources.database import DatabaseAddress, database_rows
from nodes.sources.files import together
from nodes.sources.table import of_query


class SqlQuery(DatabaseAddress, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which column of what the query gives."""

    query: Text
    """One SELECT."""
    column: Text
    key: Text | None = None
    """The column that says whose value each row has."""

    @property
    def place(self) -> str:
        """See `Reader.place`."""
        return f"column {self.column!r} of the query on {self.where}"

    @classmethod
    def read(cls, asked: Sequence[tuple[SqlQuery, Wanted]]) -> list[Found]:
        """The columns; variables of one query are of the same rows. Raises DataError that never repeats a value."""
        return together(asked, lambda source: source.database, _read)


def _read(_place: Any, asked: Sequence[tuple[SqlQuery, Wanted]]) -> list[Found]:
    first, wanted = asked[0]
    where = f"the query on {first.where}"
    with database_rows(first, wanted.variable) as run:
        return together(asked, lambda source: source.query, lambda query, ours: of_query(run, query, where, ours))
