"""Values from a column of a Parquet file. Read in pieces: of a long file, 8 bytes a number stay in memory, and its keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from nodes.extras import library
from nodes.fields import Text
from nodes.sources.base import Found, Wanted, refuse
from nodes.sources.files import reading, together
from nodes.sources.table import PIECE, Table


class ParquetFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which column of which file."""

    needs: ClassVar[tuple[str, ...]] = ("pyarrow",)
    quick: ClassVar[bool] = False

    file: Path
    column: Text
    key: Text | None = None
    """The column that says whose value each row has."""

    @property
    def place(self) -> str:
        """See `Reader.place`."""
        return f"column {self.column!r} of {self.file}"

    @classmethod
    def read(cls, asked: Sequence[tuple[ParquetFile, Wanted]]) -> list[Found]:
        """The columns. Raises DataError that names file, row and rule, never a value."""
        return together(asked, lambda source: source.file, _read)


def _read(path: Path, asked: Sequence[tuple[ParquetFile, Wanted]]) -> list[Found]:
    arrow, parquet = library("pyarrow", "sources"), library("pyarrow.parquet", "sources")
    variable = asked[0][1].variable
    with reading(variable, path, "a Parquet file"):
        try:
            with parquet.ParquetFile(path) as file:
                names = file.schema_arrow.names
                used = {name for source, _ in asked for name in (source.column, source.key)}
                return Table(str(path), names).read(asked, _pieces(file, [name if name in used else None for name in names]))
        except (arrow.ArrowException, OSError) as error:  # its text may hold values
            if getattr(error, "errno", None) is not None:
                raise
            refuse(variable, str(path), "is not a Parquet file, or a damaged one; write it again")


def _pieces(file: Any, names: Sequence[str | None]) -> Iterator[list[tuple[Any, ...]]]:
    """Rows of all columns; of those without a name here nothing is read."""
    for batch in file.iter_batches(batch_size=PIECE, columns=[name for name in names if name is not None]):
        nothing = [None] * batch.num_rows
        yield list(zip(*(nothing if name is None else batch.column(name).to_pylist() for name in names), strict=True))
