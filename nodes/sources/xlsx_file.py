"""Values from a column of a sheet of an XLSX file (Excel, LibreOffice). The first row names the columns.

The values are those that the spreadsheet program last worked out; a formula that it never did is refused and not taken for a
missing value. Rows are counted as the program shows them, the names of the columns in row 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from mpc.errors import DataError
from nodes.extras import library
from nodes.fields import Text
from nodes.sources.base import Found, Wanted, refuse
from nodes.sources.files import reading, together
from nodes.sources.table import PIECE, Table

_FORMULA = "f"


class XlsxFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which column of which sheet."""

    needs: ClassVar[tuple[str, ...]] = ("openpyxl",)
    quick: ClassVar[bool] = False

    file: Path
    sheet: Text | None = None
    """Not needed where there is only one."""
    column: Text
    key: Text | None = None
    """The column that says whose value each row has."""

    @property
    def place(self) -> str:
        """See `Reader.place`."""
        return f"column {self.column!r} of {self.where}"

    @property
    def where(self) -> str:
        """File and sheet."""
        return f"{self.file}" + (f", sheet {self.sheet!r}" if self.sheet is not None else "")

    @classmethod
    def read(cls, asked: Sequence[tuple[XlsxFile, Wanted]]) -> list[Found]:
        """The columns. Raises DataError that names file, row and rule, never a value."""
        return together(asked, lambda source: (source.file, source.sheet), _read)


def _read(place: tuple[Path, str | None], asked: Sequence[tuple[XlsxFile, Wanted]]) -> list[Found]:
    (path, name), (first, wanted) = place, asked[0]
    openpyxl = library("openpyxl", "sources")
    # What it warns of repeats cells. (Not undone: that would not be safe in a thread.)
    warnings.filterwarnings("ignore", module=r"openpyxl\.")
    with reading(wanted.variable, path, "an XLSX file"):
        try:
            with path.open("rb") as worked_out, path.open("rb") as formulas:
                sheets = [
                    _sheet(openpyxl.load_workbook(file, read_only=True, data_only=data_only), name, wanted.variable, first.where)
                    for file, data_only in ((worked_out, True), (formulas, False))
                ]
                rows = _rows(sheets[0], sheets[1], wanted.variable, first.where)
                names = [str(cell).strip() if cell is not None else "" for cell in next(rows, [])]
                return Table(first.where, names, first=2).read(asked, _pieces(rows, len(names), wanted.variable, first.where))
        except (DataError, OSError):
            raise
        except Exception:  # it fails in many ways for what is no such file, and its texts may hold cells
            refuse(wanted.variable, first.where, "is not an XLSX file, or a damaged one; save it again")


def _sheet(book: Any, name: str | None, variable: str, where: str) -> Any:
    names = book.sheetnames
    if name is None and len(names) > 1:
        refuse(variable, where, f"has {len(names)} sheets; say which with 'sheet': {', '.join(map(repr, names))}")
    if name is not None and name not in names:
        refuse(variable, where, f"there is no such sheet; it has {', '.join(map(repr, names))}")
    return book[names[0] if name is None else name]


def _rows(worked_out: Any, formulas: Any, variable: str, where: str) -> Iterator[list[Any]]:
    """The cells of each row."""
    both = zip(worked_out.iter_rows(), formulas.iter_rows(), strict=True)
    for number, (values, sources) in enumerate(both, start=1):
        for value, source in zip(values, sources, strict=True):
            if value.value is None and source.data_type == _FORMULA:
                text = "has a formula without a result; open the file in a spreadsheet program and save it"
                refuse(variable, f"{where}: row {number}", text)
        yield [value.value for value in values]


def _pieces(rows: Iterator[list[Any]], width: int, variable: str, where: str) -> Iterator[list[list[Any]]]:
    """Blank rows pass at the end only, where programs leave them: elsewhere a value is lost."""
    piece: list[list[Any]] = []
    blank = 0
    for number, cells in enumerate(rows, start=2):
        if all(cell is None for cell in cells):
            blank = blank or number
            continue
        if blank:
            refuse(variable, f"{where}: row {blank}", "is blank; remove it or fill it in")
        piece.append(cells + [None] * (width - len(cells)))
        if len(piece) == PIECE:
            yield piece
            piece = []
    yield piece
