"""Values from a CSV file: a column (`column: systolic`), a row (`row: 3`), or the one cell where both meet.

The file is UTF-8 with commas, and its first line names the columns. Rows are counted from 1 and without that line; errors name
the line in the file. An empty cell is a missing value. All that one round asks of a file is read at once, so that its columns
have the same records, and in pieces: of a long file, 8 bytes a number stay in memory, and its keys where it has any.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple, NoReturn, TextIO

import msgspec
import numpy as np

from mpc.disclosure import Categories
from mpc.statistics.component import MISSING
from nodes.fields import Positive, Text
from nodes.sources.base import Column, Entry, Found, Wanted, column_of, entry, key_of, refuse
from nodes.sources.files import reading, together
from nodes.sources.table import PIECE, is_number, joined, shown
from nodes.yaml_struct import Problem

_WHOLE = re.compile(r"[0-9+,-]*", re.ASCII)
_DECIMAL = re.compile(r"[0-9+,.eE-]*", re.ASCII)


class CsvFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which cells of which file."""

    needs: ClassVar[tuple[str, ...]] = ()
    quick: ClassVar[bool] = False

    file: Path
    column: Text | None = None
    row: Positive | None = None
    key: Text | None = None
    """The column that says whose value each row has, where a study asks for variables of several tables."""

    def problems(self) -> Iterator[Problem]:
        """A file alone does not say which of its cells are meant."""
        if self.column is None and self.row is None:
            yield Problem((), "says neither column nor row; give one of them, or both for one cell")
        if self.key is not None and self.row is not None:
            yield Problem(("key",), "says whose value each row has, and one row is named; remove one of the two")

    @property
    def place(self) -> str:
        """See `Reader.place`."""
        what = f"column {self.column!r}" if self.column is not None else ""
        return " and ".join(filter(None, (what, f"row {self.row}" if self.row is not None else ""))) + f" of {self.file}"

    @classmethod
    def read(cls, asked: Sequence[tuple[CsvFile, Wanted]]) -> list[Found]:
        """The cells. Raises DataError that names file, line and rule, never a value."""
        return together(asked, lambda source: source.file, _read)


def _read(path: Path, asked: Sequence[tuple[CsvFile, Wanted]]) -> list[Found]:
    variable = asked[0][1].variable
    with reading(variable, path, "a CSV file"):
        try:
            with path.open(encoding="utf-8-sig", newline="") as text:
                return _Table(path, text, variable).read(asked)
        except UnicodeDecodeError:
            refuse(variable, f"{path}:{_undecodable_line(path)}", "is not UTF-8; save the file as UTF-8")


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
        if all(is_number(name) for name in self.names):
            self.fail("the first line holds numbers only; add a line above it that names the columns")
        for name in self.names:
            if self.names.count(name) > 1:
                self.fail(f"two columns are called {shown(name)}; give each its own name")

    def read(self, asked: Sequence[tuple[CsvFile, Wanted]]) -> list[Found]:
        """What each has; a long one ends as soon as it has more than is of use."""
        for source, wanted in asked:
            for name in filter(None, (source.column, source.key)):
                if name not in self.names:
                    self.fail(f"there is no column {name!r}; it has {', '.join(map(shown, self.names))}", wanted)
        pieces: list[list[Column]] = [[] for _ in asked]
        keys: list[list[str]] = [[] for _ in asked]
        count = 0
        for rows in self._pieces():
            count += len(rows.cells)
            for (source, wanted), found, whose in zip(asked, pieces, keys, strict=True):
                found.extend(self._piece(source, wanted, rows))
                if source.key is not None:
                    whose.extend(self._keys(source.key, wanted, rows))
            if all(self._enough(source, wanted, count) for source, wanted in asked):
                break
        for source, wanted in asked:
            if source.row is not None and source.row > count:
                text = f"there is no row {source.row}; it has {count} rows below the names of the columns"
                self.fail(text, wanted, line=False)
        return [
            Found(joined(wanted.declared, found), str(self.path), None if source.key is None else whose)
            for (source, wanted), found, whose in zip(asked, pieces, keys, strict=True)
        ]

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

    def _keys(self, name: str, wanted: Wanted, rows: _Rows) -> Iterator[str]:
        at = self.names.index(name)
        for cells, line in zip(rows.cells, rows.lines, strict=True):
            try:
                yield key_of(cells[at])
            except ValueError as rule:
                broken = str(rule)
            else:
                continue
            self.fail(f"the key in column {name!r} {broken}; give every row its own", wanted, at=line)

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
            self.fail(f"column {shown(self.names[at])} {broken}; {_advice(wanted)}", wanted, at=line)
        return column_of(wanted.declared, entries)

    def _pieces(self) -> Iterator[_Rows]:
        first = 1
        cells: list[list[str]] = []
        lines: list[int] = []
        for row in self._rows():
            cells.append(row)
            lines.append(self.reader.line_num)
            if len(cells) == PIECE:
                yield _Rows(first, cells, lines)
                first, cells, lines = first + PIECE, [], []
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
        refuse(wanted.variable if wanted is not None else self.variable, f"{self.path}{place}", text)


def _quick(wanted: Wanted, cells: list[str]) -> Column | None:
    """All cells at once, where there is nothing to say about any: plain numbers without blanks, none missing."""
    if isinstance(wanted.declared, Categories):
        known = {name: name for name in wanted.declared.names}  # one text for all records that have it
        return [known.get(name, name) for name in (cell.strip(" \t") for cell in cells)]
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


def _advice(wanted: Wanted) -> str:
    """What to do about a cell that is no number."""
    if isinstance(wanted.declared, Categories) or not wanted.declared.whole:
        return "write digits with a point, or leave the cell empty where there is no value"
    return "write a whole number, or give bounds with a point ([0.0, 9.5]) where there are decimals"


def _undecodable_line(path: Path) -> int:
    """The first line that is not UTF-8; the decoder reads ahead and does not say."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1
