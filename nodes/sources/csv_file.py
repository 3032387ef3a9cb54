"""Values from a CSV file: a column (`column: systolic`), a row (`row: 3`), or the one cell where both meet.

The file is UTF-8 with commas, and its first line names the columns. Rows are counted from 1 and without that line; errors name
the line in the file. An empty cell is a missing value. All that one round asks of a file is read at once, so that its columns
have the same records, and in pieces: of a long file, 8 bytes a number stay in memory.
"""

from __future__ import annotations

import csv
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn, TextIO

import msgspec
import numpy as np

from mpc.disclosure import Categories
from mpc.errors import DataError
from mpc.statistics.component import MISSING, Values
from nodes.fields import Positive, Text
from nodes.sources.base import Column, Entry, Numbers, Wanted, column_of, entry
from nodes.yaml_struct import Problem

_PIECE = 4096
"""Rows that are read before their cells become numbers."""
_WHOLE = re.compile(r"[0-9+,-]*", re.ASCII)
_DECIMAL = re.compile(r"[0-9+,.eE-]*", re.ASCII)


class CsvFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which cells of which file."""

    file: Path
    column: Text | None = None
    row: Positive | None = None

    def problems(self) -> Iterator[Problem]:
        """A file alone does not say which of its cells are meant."""
        if self.column is None and self.row is None:
            yield Problem((), "says neither column nor row; give one of them, or both for one cell")

    @property
    def place(self) -> str:
        """See `Reader.place`."""
        what = f"column {self.column!r}" if self.column is not None else ""
        return " and ".join(filter(None, (what, f"row {self.row}" if self.row is not None else ""))) + f" of {self.file}"

    @classmethod
    def read(cls, asked: Sequence[tuple[CsvFile, Wanted]]) -> list[Column]:
        """The cells. Raises DataError that names file, line and rule, never a value."""
        columns: list[Column] = [[]] * len(asked)
        for path in dict.fromkeys(source.file for source, _ in asked):
            ours = [at for at, (source, _) in enumerate(asked) if source.file == path]
            for at, column in zip(ours, _read(path, [asked[at] for at in ours]), strict=True):
                columns[at] = column
        return columns


def _read(path: Path, asked: Sequence[tuple[CsvFile, Wanted]]) -> list[Column]:
    variable = asked[0][1].variable
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would block
            _refuse(variable, str(path), "is not a regular file; name a CSV file")
        with path.open(encoding="utf-8-sig", newline="") as text:
            return _Table(path, text, variable).read(asked)
    except FileNotFoundError:
        _refuse(variable, str(path), "there is no such file; check the path")
    except UnicodeDecodeError:
        _refuse(variable, f"{path}:{_undecodable_line(path)}", "is not UTF-8; save the file as UTF-8")
    except OSError as error:
        _refuse(variable, str(path), f"cannot be read ({error.strerror}); check path, owner and mode")


class _Rows(NamedTuple):
    """Rows that follow each other."""

    first: int
    """The number of the first of them, from 1."""
    cells: list[list[str]]
    lines: list[int]
    """Where each ends."""


class _Table:
    """An open file past its header."""

    def __init__(self, path: Path, text: TextIO, variable: str) -> None:
        self.path = path
        self.variable = variable
        """Whom an error concerns that concerns all."""
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

    def read(self, asked: Sequence[tuple[CsvFile, Wanted]]) -> list[Column]:
        """A column for each; a long one ends as soon as it has more than is of use."""
        for source, wanted in asked:
            if source.column is not None and source.column not in self.names:
                self.fail(f"there is no column {source.column!r}; it has {', '.join(map(_shown, self.names))}", wanted)
        pieces: list[list[Column]] = [[] for _ in asked]
        count = 0
        for rows in self._pieces():
            count += len(rows.cells)
            for (source, wanted), found in zip(asked, pieces, strict=True):
                found.extend(self._piece(source, wanted, rows))
            if all(self._enough(source, wanted, count) for source, wanted in asked):
                break
        for source, wanted in asked:
            if source.row is not None and source.row > count:
                text = f"there is no row {source.row}; it has {count} rows below the names of the columns"
                self.fail(text, wanted, line=False)
        return [_joined(wanted, found) for (_, wanted), found in zip(asked, pieces, strict=True)]

    @staticmethod
    def _enough(source: CsvFile, wanted: Wanted, count: int) -> bool:
        return count >= source.row if source.row is not None else count > wanted.most

    def _piece(self, source: CsvFile, wanted: Wanted, rows: _Rows) -> Iterator[Column]:
        """What these rows add to a column."""
        if source.row is None:
            at = self.names.index(source.column or "")
            yield self._parse(wanted, [cells[at] for cells in rows.cells], rows.lines, [at] * len(rows.cells))
        elif rows.first <= source.row < rows.first + len(rows.cells):
            place = source.row - rows.first
            chosen = range(len(self.names)) if source.column is None else [self.names.index(source.column)]
            lines = [rows.lines[place]] * len(chosen)
            yield self._parse(wanted, [rows.cells[place][at] for at in chosen], lines, chosen)

    def _parse(self, wanted: Wanted, cells: list[str], lines: Sequence[int], columns: Sequence[int]) -> Column:
        quick = _quick(wanted, cells)
        if quick is not None:
            return quick
        entries: list[Entry | None] = []
        for cell, line, at in zip(cells, lines, columns, strict=True):
            try:
                entries.append(entry(wanted.declared, cell))
            except ValueError as rule:
                broken = str(rule)
            else:
                continue
            self.fail(f"column {_shown(self.names[at])} {broken}; {_advice(wanted)}", wanted, at=line)
        return column_of(wanted.declared, entries)

    def _pieces(self) -> Iterator[_Rows]:
        first = 1
        cells: list[list[str]] = []
        lines: list[int] = []
        for row in self._rows():
            cells.append(row)
            lines.append(self.reader.line_num)
            if len(cells) == _PIECE:
                yield _Rows(first, cells, lines)
                first, cells, lines = first + _PIECE, [], []
        if cells:
            yield _Rows(first, cells, lines)

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

    def fail(self, text: str, wanted: Wanted | None = None, *, line: bool = True, at: int = 0) -> NoReturn:
        """Raises DataError for the line `at`, for the current one, or for the file."""
        place = f":{at or self.reader.line_num or 1}" if line else ""
        _refuse(wanted.variable if wanted is not None else self.variable, f"{self.path}{place}", text)


def _quick(wanted: Wanted, cells: list[str]) -> Column | None:
    """All cells at once, where there is nothing to say about any: plain numbers without blanks, none missing."""
    if isinstance(wanted.declared, Categories):
        return [cell.strip(" \t") for cell in cells]
    together, whole = ",".join(cells), wanted.declared.whole
    # int() and float() take more than we do (1_000, inf, digits of other scripts), but nothing of it in these letters.
    if (_WHOLE if whole else _DECIMAL).fullmatch(together) is None:
        return None
    try:
        if whole:
            column = np.array(list(map(int, cells)), dtype=np.int64)
            return None if (column == MISSING).any() else column
        numbers = np.array(list(map(float, cells)), dtype=np.float64)
    except (ValueError, OverflowError):
        return None
    return numbers if bool(np.isfinite(numbers).all()) else None


def _joined(wanted: Wanted, pieces: list[Column]) -> Column:
    if isinstance(wanted.declared, Categories):
        return [name for piece in pieces for name in piece]
    arrays = [piece for piece in pieces if not isinstance(piece, list)]
    joined: Values | Numbers = np.concatenate([column_of(wanted.declared, []), *arrays])
    return joined


def _advice(wanted: Wanted) -> str:
    """What to do about a cell that is no number."""
    if isinstance(wanted.declared, Categories) or not wanted.declared.whole:
        return "write digits with a point, or leave the cell empty where there is no value"
    return "write a whole number, or give bounds with a point ([0.0, 9.5]) where there are decimals"


def _refuse(variable: str, where: str, text: str) -> NoReturn:
    raise DataError(f"variable {variable}: {where}: {text}") from None


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
