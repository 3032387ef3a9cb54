"""What a SQL query gives that DuckDB runs over one file: CSV, Parquet or JSON, which is its table `data`, or a DuckDB database.

The query can read that file and nothing else on this machine or beyond it, and can write nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec

from nodes.extras import library
from nodes.fields import Text
from nodes.sources.base import Found, Wanted, refuse
from nodes.sources.files import reading, together
from nodes.sources.limit import TimeLimit
from nodes.sources.table import PIECE, Run, of_query
from nodes.yaml_struct import Problem, checked

Seconds = Annotated[int, msgspec.Meta(ge=1, le=3600)]
DATABASE = ".duckdb"
_READERS = {
    ".csv": "read_csv",
    ".parquet": "read_parquet",
    ".json": "read_json",
    ".jsonl": "read_json",
    ".ndjson": "read_json",
}
_RULES = (  # by the classes of DuckDB's errors, whose texts may hold values
    (("ParserException", "SyntaxException"), "is not SQL that DuckDB can read; correct it"),
    (("CatalogException", "BinderException"), "names a table or column that is not there, or mixes types; correct it"),
    (("ConversionException", "OutOfRangeException", "InvalidInputException"), "meets a value that it cannot convert; correct it"),
    (("PermissionException",), "reaches beyond its file; a query reads that alone"),
    (("OutOfMemoryException",), "takes more memory than there is; ask for less"),
)


def _known(path: Path) -> Iterator[Problem]:
    if path.suffix.lower() not in (*_READERS, DATABASE):
        yield Problem((), f"is no file that DuckDB reads here; name one that ends in {', '.join((*_READERS, DATABASE))}")


class DuckDbQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which column of what the query gives."""

    needs: ClassVar[tuple[str, ...]] = ("duckdb",)
    quick: ClassVar[bool] = False

    file: Annotated[Path, checked(_known)]
    query: Text
    """One SELECT. A file that is no database is the table data."""
    column: Text
    key: Text | None = None
    """The column that says whose value each row has."""
    timeout: Seconds = 30
    """Seconds that the query may take."""

    @property
    def place(self) -> str:
        """See `Reader.place`."""
        return f"column {self.column!r} of {self.where}"

    @property
    def where(self) -> str:
        """For errors."""
        return f"the query over {self.file}"

    @classmethod
    def read(cls, asked: Sequence[tuple[DuckDbQuery, Wanted]]) -> list[Found]:
        """The columns; variables of one query are of the same rows. Raises DataError that never repeats a value."""
        return together(asked, lambda source: (source.file, source.timeout), _read)


def _read(place: tuple[Path, int], asked: Sequence[tuple[DuckDbQuery, Wanted]]) -> list[Found]:
    (path, seconds), (first, wanted) = place, asked[0]
    with duckdb_rows(path, seconds, wanted.variable, first.where) as run:
        return together(asked, lambda source: source.query, lambda query, ours: of_query(run, query, first.where, ours))


@contextmanager
def duckdb_rows(path: Path, seconds: float, variable: str, where: str) -> Iterator[Run]:
    """Runs queries over the file, all of them within so many seconds. Raises DataError for what goes wrong in the `with`.

    `variable` is whom what goes wrong before the first query concerns.
    """
    duckdb = library("duckdb", "sources")

    def run(query: str, of: str) -> tuple[list[str], Iterator[list[Any]]]:
        nonlocal variable
        variable = of
        return _run(duckdb, connection, query, of, where)

    with reading(variable, path, "a file that DuckDB reads"):
        try:
            with _connect(duckdb, path) as connection, TimeLimit(seconds, connection.interrupt) as limit:
                try:
                    yield run
                except duckdb.Error:
                    if limit.over:
                        refuse(variable, where, f"takes longer than {seconds} s; ask for less, or raise its 'timeout'")
                    raise
        except duckdb.Error as error:
            kinds = {kind.__name__ for kind in type(error).__mro__}
            rule = next((rule for names, rule in _RULES if kinds & set(names)), "fails; see whether the file is whole")
            refuse(variable, where, rule)


def _connect(duckdb: Any, path: Path) -> Any:
    """Reads this file, and nothing else from now on."""
    alone = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false", "threads": "1"}
    if path.suffix.lower() == DATABASE:
        connection = duckdb.connect(str(path), read_only=True, config=alone)
    else:
        connection = duckdb.connect(":memory:", config=alone)
        file = str(path).replace("'", "''")
        connection.execute(f"SET allowed_paths = ['{file}']")
        connection.execute(f"CREATE VIEW data AS FROM {_READERS[path.suffix.lower()]}('{file}')")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _run(duckdb: Any, connection: Any, query: str, variable: str, where: str) -> tuple[list[str], Iterator[list[Any]]]:
    statements = duckdb.extract_statements(query)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        refuse(variable, where, "must be one SELECT; correct it")
    connection.execute(statements[0])
    return [column[0] for column in connection.description], iter(lambda: connection.fetchmany(PIECE), [])
