"""Columns of a table whose cells have types, whatever gives its rows: a Parquet file, a sheet, a query.

Rows come in pieces and leave 8 bytes a number, and keys where there are any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from mpc.disclosure import Bounds, Categories
from nodes.sources.base import Column, Found, Wanted, column_of, key_of, refuse, typed_entry

T = TypeVar("T")
PIECE = 4096
"""Rows that are read before their cells become numbers."""

Run = Callable[[str, str], tuple[list[str], Iterable[Sequence[Sequence[Any]]]]]
"""Runs a query for a variable: the names of the columns of what it gives, and its rows in pieces."""


class OfColumn(Protocol):
    """A source that is one column of a table."""

    @property
    def column(self) -> str:
        """Its name."""
        ...

    @property
    def key(self) -> str | None:
        """The name of the column that says whose value it is."""
        ...


class Table:
    """Where rows come from."""

    def __init__(self, where: str, names: Sequence[str], *, first: int = 1) -> None:
        """`where` is for errors and names the table, `names` are those of its columns, `first` is the number of its first row."""
        self.where, self.names, self.first = where, names, first

    def read(self, asked: Sequence[tuple[Any, Wanted]], pieces: Iterable[Sequence[Sequence[Any]]]) -> list[Found]:
        """What each (`OfColumn`, Wanted) is about, from rows in pieces; stops when there is more than is of use.

        Raises DataError for a column that is not there, or a cell that is no such value.
        """
        picked = [_Picked(self, source, wanted) for source, wanted in asked]
        count = 0
        for rows in pieces:
            for one in picked:
                one.take(rows, count)
            count += len(rows)
            if all(count > wanted.most for _, wanted in asked):
                break
        return [one.found() for one in picked]

    def place_of(self, name: str, wanted: Wanted) -> int:
        """Of a column. Raises DataError."""
        found = [at for at, other in enumerate(self.names) if other == name]
        if not found:
            refuse(wanted.variable, self.where, f"there is no column {name!r}; it has {', '.join(map(shown, self.names))}")
        if len(found) > 1:
            refuse(wanted.variable, self.where, f"two columns are called {shown(name)}; give each its own name")
        return found[0]


class _Picked:
    """One column as it fills."""

    def __init__(self, table: Table, source: OfColumn, wanted: Wanted) -> None:
        self.table, self.wanted, self.name, self.key = table, wanted, source.column, source.key
        self.at = table.place_of(source.column, wanted)
        self.key_at = table.place_of(source.key, wanted) if source.key is not None else None
        self.columns: list[Column] = []
        self.keys: list[str] | None = None if source.key is None else []

    def take(self, rows: Sequence[Sequence[Any]], before: int) -> None:
        """More rows, after so many."""
        declared, at = self.wanted.declared, self.at
        entries = self._each(self.name, [row[at] for row in rows], before, lambda cell: typed_entry(declared, cell))
        self.columns.append(column_of(declared, entries))
        if self.keys is not None and self.key_at is not None:
            self.keys += self._each(self.key or "", [row[self.key_at] for row in rows], before, key_of)

    def _each(self, name: str, cells: Sequence[Any], before: int, read: Callable[[Any], T]) -> list[T]:
        made: list[T] = []
        try:
            for cell in cells:
                made.append(read(cell))
        except ValueError as rule:
            row = self.table.first + before + len(made)
            refuse(self.wanted.variable, f"{self.table.where}: row {row}", f"column {name!r} {rule}; correct it")
        return made

    def found(self) -> Found:
        """All of it."""
        return Found(joined(self.wanted.declared, self.columns), self.table.where, self.keys)


def of_query(run: Run, query: str, where: str, asked: Sequence[tuple[Any, Wanted]]) -> list[Found]:
    """What each (`OfColumn`, Wanted) is about in what one query gives: its rows are a table of their own. As `Table.read`."""
    names, pieces = run(query, asked[0][1].variable)
    return [Found(found.column, f"{where}: {query}", found.keys) for found in Table(where, names).read(asked, pieces)]


def joined(declared: Bounds | Categories, columns: Sequence[Column]) -> Column:
    """One after the other."""
    if isinstance(declared, Categories):
        return [name for column in columns for name in column]
    return np.concatenate([column_of(declared, []), *(column for column in columns if not isinstance(column, list))])


def shown(name: str) -> str:
    """A column's name for an error; what might be a value that slipped into the first line is not printed."""
    return "<a number>" if is_number(name) else repr(name)


def is_number(text: str) -> bool:
    """Whether a name looks like a value."""
    try:
        float(text)
    except ValueError:
        return False
    return True
