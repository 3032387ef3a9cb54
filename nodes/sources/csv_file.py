"""Values from a CSV file: a column (`column: systolic`), a row (`row: 3`), or the one cell where both meet.

The file is UTF-8 with commas, and its first line names the columns. Rows are counted from 1 and without that line;
errors name the line in the file. A long column is streamed: 8 bytes a value stay in memory.
"""

from __future__ import annotations

import csv
import stat
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, TextIO

import msgspec
import numpy as np

from mpc.errors import DataError
from mpc.statistics.component import Values
from nodes.fields import Positive, Text
from nodes.sources.base import Wanted, check_length, integer
from nodes.yaml_struct import Problem

_FAST_DIGITS = 18  # that many digits always fit in 64 bits


class CsvFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which cells of which file."""

    file: Path
    column: Text | None = None
    row: Positive | None = None

    def problems(self) -> Iterator[Problem]:
        """A file alone does not say which of its cells are meant."""
        if self.column is None and self.row is None:
            yield Problem((), "says neither column nor row; give one of them, or both for one cell")

    def read(self, wanted: Wanted) -> Values:
        """The cells as int64. Raises DataError that names file, line and rule, never a value."""
        try:
            if not stat.S_ISREG(self.file.stat().st_mode):  # a pipe would block
                _refuse(wanted, str(self.file), "is not a regular file; name a CSV file")
            with self.file.open(encoding="utf-8-sig", newline="") as text:
                return _Table(self, text, wanted).read()
        except FileNotFoundError:
            _refuse(wanted, str(self.file), "there is no such file; check the path")
        except UnicodeDecodeError:
            _refuse(wanted, f"{self.file}:{_undecodable_line(self.file)}", "is not UTF-8; save the file as UTF-8")
        except OSError as error:
            _refuse(wanted, str(self.file), f"cannot be read ({error.strerror}); check path, owner and mode")


class _Table:
    """An open file past its header."""

    def __init__(self, source: CsvFile, text: TextIO, wanted: Wanted) -> None:
        self.source = source
        self.wanted = wanted
        self.reader = csv.reader(text, strict=True)
        header = next(self._lines(), [])
        self.names = [name.strip() for name in header]
        if not any(self.names):
            self.fail("the first line must name the columns; add it")
        # A file without a header would lose its first row in silence, and its values would be printed as names.
        if all(_is_number(name) for name in self.names):
            self.fail("the first line holds numbers only; add a line above it that names the columns")
        for name in self.names:
            if self.names.count(name) > 1:
                self.fail(f"two columns are called {_shown(name)}; give each its own name")

    def read(self) -> Values:
        numbers = array("q")
        column, row = self.source.column, self.source.row
        if column is not None and column not in self.names:
            self.fail(f"there is no column {column!r}; it has {', '.join(map(_shown, self.names))}")
        if row is not None:
            cells = self._row(row)
            chosen = range(len(cells)) if column is None else [self.names.index(column)]
            numbers.extend(self._integer(cells[at], at) for at in chosen)
        elif column is not None:
            self._column(self.names.index(column), numbers)
        where = f"row {row}" if column is None else f"column {column!r}" if row is None else "one cell"
        check_length(len(numbers), self.wanted, f"{where} of {self.source.file}")
        return np.frombuffer(numbers, dtype=np.int64)

    def _column(self, at: int, numbers: array[int]) -> None:
        append = numbers.append
        for cells in self._rows():
            cell = cells[at]
            if len(cell) <= _FAST_DIGITS and cell.isascii() and cell.isdecimal():
                append(int(cell))
            else:
                append(self._integer(cell, at))

    def _row(self, row: int) -> list[str]:
        count = 0
        for cells in self._rows():
            count += 1
            if count == row:
                return cells
        return self.fail(f"there is no row {row}; it has {count} rows below the names of the columns", line=False)

    def _rows(self) -> Iterator[list[str]]:
        """The data rows, all as wide as the header. Blank lines pass at the end only: elsewhere a value is lost."""
        width, blank = len(self.names), 0
        for cells in self._lines():
            if not cells:
                blank = blank or self.reader.line_num
                continue
            if blank:
                self.fail("is blank; remove it or fill it in", at=blank)
            if len(cells) != width:
                self.fail(f"has {len(cells)} cells, the first line names {width} columns; correct the line")
            yield cells

    def _lines(self) -> Iterator[list[str]]:
        try:
            yield from self.reader
        except csv.Error as error:
            self.fail(f"is not CSV ({error}); check its quotes and line ends")

    def _integer(self, cell: str, at: int) -> int:
        try:
            return integer(cell)
        except ValueError as rule:
            broken = str(rule)
        return self.fail(f"column {_shown(self.names[at])} {broken}; write a whole number")

    def fail(self, text: str, *, line: bool = True, at: int = 0) -> NoReturn:
        """Raises DataError for the line `at`, for the current one, or for the file."""
        place = f":{at or self.reader.line_num or 1}" if line else ""
        _refuse(self.wanted, f"{self.source.file}{place}", text)


def _refuse(wanted: Wanted, where: str, text: str) -> NoReturn:
    raise DataError(f"variable {wanted.variable}: {where}: {text}") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _shown(name: str) -> str:
    """A column's name for an error; what might be a value that slipped into the first line is not printed."""
    return "<a number>" if _is_number(name) else repr(name)


def _undecodable_line(path: Path) -> int:
    """The first line that is not UTF-8; the decoder reads ahead and does not say."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1
