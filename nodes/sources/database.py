"""One database, read and never written, by way of SQLAlchemy: a SQLite file, or PostgreSQL.

All that a round asks of a database is read in one transaction, and ends within a time limit even when the server does not answer.
Errors tell what kind of thing went wrong and the database's own code for it, never its text: that may hold values.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

import msgspec

from nodes.extras import library
from nodes.sources.base import refuse
from nodes.sources.duckdb_query import Seconds
from nodes.sources.files import reading
from nodes.sources.limit import TimeLimit
from nodes.sources.secret import Secret
from nodes.sources.table import PIECE, Run
from nodes.yaml_struct import Problem, checked

_TOO_LONG = "57014"  # query_canceled, which statement_timeout ends with (PostgreSQL, appendix A)
_GRACE = 1.0
_COLON = re.compile(":")


def _database_url(text: str) -> Iterator[Problem]:
    try:
        parts = urlsplit(text)
        secret = parts.password is not None or any(name == "password" for name, _ in parse_qsl(parts.query))
        known = parts.scheme == "postgresql" and parts.port != 0 and len(parts.path) > 1
    except ValueError:
        secret = known = False
    if secret:  # not repeated
        yield Problem((), "holds a password; remove it, and say under 'password' where it is")
    elif not known:
        yield Problem((), "is no database that is known here; write postgresql://USER@HOST/DATABASE, or name a 'file'")


DatabaseUrl = Annotated[str, checked(_database_url, pattern="^postgresql://")]


class DatabaseAddress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a database is. Sources that read one have these fields, and their own."""

    quick: ClassVar[bool] = False

    file: Path | None = None
    """A SQLite file."""
    url: DatabaseUrl | None = None
    """postgresql://USER@HOST/DATABASE, and what libpq takes after a question mark (sslmode=verify-full). Without a password."""
    password: Secret | None = None
    timeout: Seconds = 30
    """Seconds that connecting may take, and then again all queries of a round together."""

    def problems(self) -> Iterator[Problem]:
        """One database."""
        if (self.file is None) == (self.url is None):
            yield Problem((), "give exactly one of file and url")
        if self.password is not None and self.url is None:
            yield Problem(("password",), "has no use for a file; remove it")

    @property
    def needs(self) -> tuple[str, ...]:
        """See `Reader.needs`."""
        return ("sqlalchemy",) if self.url is None else ("sqlalchemy", "psycopg")

    @property
    def database(self) -> tuple[Path | None, str | None, Secret | None, int]:
        """Equal for sources that can be read on one connection."""
        return self.file, self.url, self.password, self.timeout

    @property
    def where(self) -> str:
        """For errors: no user, no password."""
        if self.url is None:
            return str(self.file)
        parts = urlsplit(self.url)
        return f"database {parts.path[1:]} at {parts.hostname or 'this machine'}"


@contextmanager
def database_rows(address: DatabaseAddress, variable: str) -> Iterator[Run]:
    """Runs queries in one transaction that writes nothing. Raises DataError for what goes wrong in the `with`.

    `variable` is whom what goes wrong before the first query concerns.
    """
    sqlalchemy = library("sqlalchemy", "sources")

    def run(query: str, of: str) -> tuple[list[str], Iterator[list[Any]]]:
        nonlocal variable
        variable = of
        return _run(sqlalchemy, connection, query, results)

    with contextlib.nullcontext() if address.file is None else reading(variable, address.file, "a SQLite file"):
        try:
            with _engine(sqlalchemy, address, variable).connect() as connection, contextlib.ExitStack() as results:
                # A server has a moment more, to end a query by itself.
                seconds = address.timeout + (_GRACE if address.url is not None else 0)
                limit = TimeLimit(seconds, _stop(connection.connection.driver_connection))
                try:
                    with limit:
                        if address.file is not None:
                            connection.exec_driver_sql("BEGIN")  # or every query would be of a moment of its own
                        yield run
                except sqlalchemy.exc.SQLAlchemyError as error:
                    if limit.over or _code(error) == _TOO_LONG:
                        text = f"takes longer than {address.timeout} s; ask for less, or raise its 'timeout'"
                        refuse(variable, address.where, text)
                    raise
        except sqlalchemy.exc.SQLAlchemyError as error:
            refuse(variable, address.where, _reason(error))


def _engine(sqlalchemy: Any, address: DatabaseAddress, variable: str) -> Any:
    if address.file is not None:
        uri = f"{address.file.absolute().as_uri()}?mode=ro"
        return sqlalchemy.create_engine(
            "sqlite://",
            creator=lambda: sqlite3.connect(uri, uri=True, timeout=address.timeout, check_same_thread=False),
            poolclass=sqlalchemy.pool.NullPool,
        )
    url = sqlalchemy.make_url(address.url).set(drivername="postgresql+psycopg")
    if address.password is not None:
        url = url.set(password=address.password.read(variable, f"the password of {address.where}"))
    options = f"-c default_transaction_read_only=on -c statement_timeout={address.timeout * 1000}"
    return sqlalchemy.create_engine(
        url,
        connect_args={"connect_timeout": address.timeout, "options": options, "application_name": "cohortium"},
        # Every query of a round sees the same moment; and what reads may not write.
        execution_options={"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
        poolclass=sqlalchemy.pool.NullPool,
        hide_parameters=True,
    )


def _stop(connection: Any) -> Any:
    """What makes a call on this connection fail at once."""
    if isinstance(connection, sqlite3.Connection):
        return connection.interrupt

    def cut() -> None:
        # Not a request to cancel: a server that does not answer would not answer that either.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.pgconn.socket)) as its:
            its.shutdown(socket.SHUT_RDWR)

    return cut


def _run(sqlalchemy: Any, connection: Any, query: str, results: contextlib.ExitStack) -> tuple[list[str], Iterator[list[Any]]]:
    # A colon in the text is a colon, and no parameter.
    statement = sqlalchemy.text(_COLON.sub(r"\:", query.rstrip("; \t\r\n")))
    # On PostgreSQL a cursor of the server's, which takes one query and nothing else.
    result = connection.execution_options(stream_results=True, max_row_buffer=PIECE).execute(statement)
    results.callback(result.close)  # whoever has what it needs leaves the rest
    if not result.returns_rows:
        raise sqlalchemy.exc.InvalidRequestError
    return list(result.keys()), result.partitions(PIECE)


def _code(error: Any) -> str:
    """PostgreSQL's SQLSTATE or SQLite's name for what happened; empty when there is none."""
    cause = getattr(error, "orig", None)
    return getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None) or ""


def _reason(error: Any) -> str:
    code = _code(error)
    if code:
        return f"the database refuses the query ({code}); correct it, or what it may read"
    if type(error).__name__ == "OperationalError":
        return "cannot be reached, or refuses this user or password; check url and password"
    return "gives no rows; write one SELECT"
