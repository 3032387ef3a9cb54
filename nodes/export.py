"""A result as files: CSV and Parquet one file a table, JSON and HTML one file for all.

Parquet and HTML need libraries that a daemon does not: the extra `results`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

from mpc.errors import UsageError
from mpc.statistics.figures import Table
from nodes.results import StudyResult, columns, library


def export(result: StudyResult, form: str, place: Path) -> list[Path]:
    """Writes the result to the file `place`, or where there is one file a table, to a directory of that name, new or empty.

    Returns the files. Raises UsageError for a place that is taken, ConfigError where a library is missing.
    """
    several = _SEVERAL.get(form)
    if several is None:
        content = _ONE[form](result)
        _write(place, content)
        return [place]
    suffix, write = several
    contents = {f"{name}.{suffix}": write(table) for name, table in result.tables()}
    try:
        place.mkdir(parents=True, exist_ok=True)
        if any(place.iterdir()):
            raise UsageError(f"{place} is not empty; name a new directory, so that no files of two results mix")
    except OSError as error:
        raise UsageError(f"{place} is no directory to write to ({error.strerror}); name a new one") from error
    for name, content in contents.items():
        _write(place / name, content)
    return [place / name for name in contents]


def _write(path: Path, content: bytes) -> None:
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError as error:
        raise UsageError(f"{path} is there already; name another file") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); name another place") from error


def _csv(table: Table) -> bytes:
    """RFC 4180, with full precision; nothing where there is no number."""
    from io import StringIO

    text = StringIO()
    csv.writer(text).writerows([table.columns, *table.rows])
    return text.getvalue().encode()


def _parquet(table: Table) -> bytes:
    arrow, parquet = library("pyarrow"), library("pyarrow.parquet")
    sink = arrow.BufferOutputStream()
    parquet.write_table(arrow.table(columns(table)), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _html(result: StudyResult) -> bytes:
    from nodes.report import report

    return report(result).encode()


_SEVERAL: Mapping[str, tuple[str, Callable[[Table], bytes]]] = {"csv": ("csv", _csv), "parquet": ("parquet", _parquet)}
_ONE: Mapping[str, Callable[[StudyResult], bytes]] = {"json": StudyResult.json, "html": _html}
FORMATS = ("csv", "json", "parquet", "html")
