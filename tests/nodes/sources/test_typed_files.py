"""Parquet, JSON and XLSX files, and DuckDB over files: cells with types become values, or an error that repeats none of them."""

from __future__ import annotations

import datetime
import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import openpyxl
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from mpc.statistics.component import MISSING
from nodes.sources.base import key_of, typed_entry
from nodes.sources.duckdb_query import DuckDbQuery
from nodes.sources.json_file import JsonFile
from nodes.sources.parquet_file import ParquetFile
from nodes.sources.xlsx_file import XlsxFile
from tests.nodes.sources.ask import GONE, SEX, SMALL, TENTHS, Declared, Readers, ask, read, refused
from tests.nodes.sources.conftest import Write

SECRET = 73519


# -- what a value with a type stands for


@pytest.mark.parametrize(
    ("declared", "value", "expected"),
    [
        (SMALL, 120, 120),
        (SMALL, 120.0, 120),
        (SMALL, Decimal("120.00"), 120),
        (SMALL, None, None),
        (SMALL, math.nan, None),
        (SMALL, Decimal("NaN"), None),
        (SMALL, " ", None),
        (TENTHS, 120, 120.0),
        (TENTHS, Decimal("36.6"), 36.6),
        (SEX, " male ", "male"),
        (SEX, "", None),
    ],
)
def test_a_typed_value_is_an_entry(declared: Declared, value: object, expected: object) -> None:
    assert typed_entry(declared, value) == expected


@pytest.mark.parametrize(
    ("declared", "value", "rule"),
    [
        (SMALL, True, "is no number"),
        (SMALL, "120", "is text where a number should be"),
        (SMALL, datetime.date(2026, 1, 31), "is no number"),
        (SMALL, 36.6, "is not a whole number"),
        (SMALL, Decimal("36.6"), "is not a whole number"),
        (SMALL, 2**63, "does not fit in 64 bits"),
        (SMALL, MISSING, "does not fit in 64 bits"),
        (SMALL, math.inf, "is too large for a number"),
        (TENTHS, -math.inf, "is too large for a number"),
        (TENTHS, 10**400, "is too large for a number"),
        (SEX, 1, "is no text, and the source has categories"),
    ],
)
def test_a_value_of_another_type_is_refused_by_its_rule(declared: Declared, value: object, rule: str) -> None:
    with pytest.raises(ValueError, match=f"^{rule}$"):
        typed_entry(declared, value)


@given(value=st.integers(MISSING + 1, 2**63 - 1))
def test_every_whole_number_of_64_bits_is_kept_exactly(value: int) -> None:
    assert typed_entry(SMALL, value) == value
    assert typed_entry(SMALL, Decimal(value)) == value


@given(key=st.integers())
def test_a_key_is_the_same_as_number_and_as_text(key: int) -> None:
    assert key_of(key) == key_of(f" {key}") == key_of(Decimal(key)) == str(key)


@pytest.mark.parametrize(
    ("value", "rule"),
    [(None, "is missing"), ("  ", "is missing"), (math.nan, "is missing"), (1.5, "is no text and no whole number")]
    + [(other, "is no text and no whole number") for other in (True, math.inf, datetime.date(2026, 1, 31))],
)
def test_what_is_no_key_is_refused(value: object, rule: str) -> None:
    with pytest.raises(ValueError, match=f"^{rule}$"):
        key_of(value)


# -- Parquet


def written(path: Path, **columns: Any) -> Path:
    parquet.write_table(pyarrow.table(columns), path)
    return path


def test_columns_of_a_parquet_file_are_one_table(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", note=["x", "y", "z"], sys=[120, None, 131], kg=[80.5, 70.0, math.nan], s=["male"] * 3)
    readers: Readers = {
        "systolic": (ParquetFile(file=path, column="sys"), SMALL),
        "weight": (ParquetFile(file=path, column="kg"), TENTHS),
        "sex": (ParquetFile(file=path, column="s"), SEX),
    }
    assert ask(readers, missing="omit") == {"systolic": [120, GONE, 131], "weight": [805, 700, GONE], "sex": [1, 1, 1]}


@pytest.mark.parametrize(
    "type",
    [
        pyarrow.uint8(),
        pyarrow.int64(),
        pyarrow.float32(),
        pyarrow.decimal128(12, 2),
        pyarrow.dictionary(pyarrow.int8(), pyarrow.int64()),
    ],
)
def test_whole_numbers_of_every_type_of_parquet(tmp_path: Path, type: pyarrow.DataType) -> None:
    plain = pyarrow.array([120, None, 131], pyarrow.int32())
    column = plain.dictionary_encode() if pyarrow.types.is_dictionary(type) else plain.cast(type)
    path = written(tmp_path / "a.parquet", sys=column, id=["b", "a", "c"])
    assert read(ParquetFile(file=path, column="sys", key="id"), missing="omit") == [GONE, 120, 131]


def test_a_parquet_file_of_many_pieces_and_one_with_too_many_records(tmp_path: Path) -> None:
    values = [at % 300 for at in range(10_001)]
    path = written(tmp_path / "a.parquet", sys=values)
    assert read(ParquetFile(file=path, column="sys"), records=20_000) == values
    assert "more than the 9 records that the policy declares" in refused(ParquetFile(file=path, column="sys"), records=9)


def test_a_parquet_file_that_does_not_serve(tmp_path: Path, write: Write) -> None:
    path = written(tmp_path / "a.parquet", sys=[1, 2], t=[str(SECRET), "x"])
    assert refused(ParquetFile(file=path, column="dia")) == f"{path}: there is no column 'dia'; it has 'sys', 't'"
    assert refused(ParquetFile(file=path, column="t")) == (
        f"{path}: row 1: column 't' is text where a number should be; correct it"
    )
    broken = write("b.parquet", b"PAR1" + path.read_bytes()[50:])
    for bad in (broken, write("c.parquet", "id,systolic\n")):
        assert refused(ParquetFile(file=bad, column="sys")) == f"{bad}: is not a Parquet file, or a damaged one; write it again"
    missing = tmp_path / "d.parquet"
    assert refused(ParquetFile(file=missing, column="sys")) == f"{missing}: there is no such file; check the path"
    assert refused(ParquetFile(file=tmp_path, column="sys")).endswith("is not a regular file; name a Parquet file")


# -- JSON


@pytest.mark.parametrize(
    ("document", "array", "value", "expected"),
    [
        ([{"sys": 120}, {"sys": None}, {}], "", "/sys", [120, GONE, GONE]),
        ({"data": {"rows": [{"v": {"sys": 120}}, {"v": {"sys": 131.0}}]}}, "/data/rows", "/v/sys", [120, 131]),
        ([120, 131], "", "", [120, 131]),
        ([[7, 120], [8, 131]], "", "/1", [120, 131]),
        ({"sys": 120}, "", "/sys", [120]),
        ([{"a/b": {"m~n": 120}}], "", "/a~1b/m~0n", [120]),
        ({"": [{"": 120}]}, "/", "/", [120]),
        ([], "", "/sys", []),
    ],
)
def test_a_json_pointer_says_where_records_and_values_are(
    write: Write, document: object, array: str, value: str, expected: list[int]
) -> None:
    path = write("a.json", json.dumps(document))
    assert read(JsonFile(file=path, array=array, value=value), missing="omit") == expected


def test_a_value_of_a_variable_with_a_length_is_an_array(write: Write) -> None:
    path = write("a.json", json.dumps([{"id": 2, "week": [1, 2, 3]}, {"id": 1, "week": [4, None, 6]}]))
    reader = JsonFile(file=path, value="/week", key="/id")
    assert read(reader, length=3, missing="omit") == [4, GONE, 6, 1, 2, 3]
    assert refused(reader, length=2) == f"{path}: record 1: '/week' is no array of 2 values; correct it"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[{"sys": 1},\n {"sys": }]', ":2: is not JSON; correct it"),
        ("", ":1: is not JSON; correct it"),
        ('[{"sys": NaN}]', ": has NaN or Infinity, which is not JSON; correct it"),
        ('[{"sys": 1, "sys": 73519}]', ": has an object with one name twice; correct it"),
        ("[" * 100_000, ": is nested too deeply; correct it"),
        (b'[{"sys": "\xff"}]', ": is not UTF-8; save the file as UTF-8"),
        ("73519", ": there are no records at ''; say with 'array' where they are"),
        ('[{"sys": 1}, {"sys": "73519"}]', ": record 2: '/sys' is text where a number should be; correct it"),
        ('[{"sys": true}]', ": record 1: '/sys' is no number; correct it"),
        ('[{"sys": 1e400}]', ": record 1: '/sys' is too large for a number; correct it"),
    ],
)
def test_a_json_file_that_does_not_serve(write: Write, content: str | bytes, expected: str) -> None:
    path = write("a.json", content)
    assert refused(JsonFile(file=path, value="/sys")) == f"{path}{expected}"


def test_a_record_of_json_without_a_key_is_told_by_its_number(write: Write) -> None:
    path = write("a.json", '[{"sys": 120, "id": 1}, {"sys": 73519, "id": null}]')
    assert refused(JsonFile(file=path, value="/sys", key="/id")) == f"{path}: record 2: '/id' is missing; correct it"


# -- XLSX


def book(path: Path, *rows: list[Any], sheets: tuple[str, ...] = ("Sheet",)) -> Path:
    made = openpyxl.Workbook()
    made.active.title = sheets[0]
    for name in sheets[1:]:
        made.create_sheet(name)
    for row in rows:
        made[sheets[-1]].append(row)
    made.save(path)
    return path


def test_columns_of_a_sheet_are_one_table(tmp_path: Path) -> None:
    path = book(
        tmp_path / "a.xlsx", ["id", "sys", "kg", "s"], [7, 120, 80.5, "male"], [8, None, 70, "female"], [9, 131.0, "", None]
    )
    readers: Readers = {
        "systolic": (XlsxFile(file=path, column="sys"), SMALL),
        "weight": (XlsxFile(file=path, column="kg"), TENTHS),
        "sex": (XlsxFile(file=path, column="s"), SEX),
    }
    assert ask(readers, missing="omit") == {"systolic": [120, GONE, 131], "weight": [805, 700, GONE], "sex": [1, 0, GONE]}


def test_a_sheet_is_named_where_there_are_several(tmp_path: Path) -> None:
    path = book(tmp_path / "a.xlsx", ["sys"], [120], sheets=("notes", "readings"))
    assert read(XlsxFile(file=path, sheet="readings", column="sys")) == [120]
    assert refused(XlsxFile(file=path, column="sys")) == f"{path}: has 2 sheets; say which with 'sheet': 'notes', 'readings'"
    assert refused(XlsxFile(file=path, sheet="x", column="sys")) == (
        f"{path}, sheet 'x': there is no such sheet; it has 'notes', 'readings'"
    )


def test_blank_rows_pass_at_the_end_of_a_sheet_only(tmp_path: Path) -> None:
    assert read(XlsxFile(file=book(tmp_path / "a.xlsx", ["sys"], [120], [None], [None]), column="sys"), missing="omit") == [120]
    path = book(tmp_path / "b.xlsx", ["sys", "x"], [120, 1], [None, None], [131, 1])
    assert refused(XlsxFile(file=path, column="sys")) == f"{path}: row 3: is blank; remove it or fill it in"


def test_a_formula_that_was_never_worked_out_is_no_missing_value(tmp_path: Path) -> None:
    path = book(tmp_path / "a.xlsx", ["sys"], [120], ["=A2+1"])
    assert refused(XlsxFile(file=path, column="sys"), missing="omit") == (
        f"{path}: row 3: has a formula without a result; open the file in a spreadsheet program and save it"
    )


@pytest.mark.parametrize(
    ("cell", "rule"),
    [
        (str(SECRET), "is text where a number should be"),
        (True, "is no number"),
        (36.6, "is not a whole number"),
        (datetime.datetime(2026, 1, 31), "is no number"),  # noqa: DTZ001 (as a spreadsheet has it)
        ("#N/A", "is text where a number should be"),
    ],
)
def test_a_cell_of_another_type_is_told_by_the_row_that_the_program_shows(tmp_path: Path, cell: object, rule: str) -> None:
    path = book(tmp_path / "a.xlsx", ["sys"], [120], [cell])
    assert refused(XlsxFile(file=path, column="sys")) == f"{path}: row 3: column 'sys' {rule}; correct it"


def test_a_date_that_is_none_is_refused_without_a_warning_that_repeats_it(tmp_path: Path) -> None:
    made = openpyxl.Workbook()
    made.active.append(["sys"])
    made.active.append([-73519.5e9])
    made.active["A2"].number_format = "yyyy-mm-dd"
    made.save(tmp_path / "a.xlsx")
    assert "row 2: column 'sys' is text where a number should be" in refused(XlsxFile(file=tmp_path / "a.xlsx", column="sys"))


def test_what_is_no_spreadsheet(write: Write, tmp_path: Path) -> None:
    good = book(tmp_path / "good.xlsx", ["sys"], [SECRET]).read_bytes()
    for bad in (write("a.xlsx", "sys\n120\n"), write("b.xlsx", good[: len(good) // 2])):
        assert refused(XlsxFile(file=bad, column="sys")) == f"{bad}: is not an XLSX file, or a damaged one; save it again"
    assert "there is no column 'x'; it has 'sys'" in refused(XlsxFile(file=tmp_path / "good.xlsx", column="x"))
    empty = book(tmp_path / "empty.xlsx")
    assert refused(XlsxFile(file=empty, column="x")) == f"{empty}: there is no column 'x'; it has "


# -- DuckDB


def test_a_query_runs_over_a_file_of_each_kind(write: Write, tmp_path: Path) -> None:
    files = [
        write("a.csv", "id,sys\n1,120\n2,\n3,131\n"),
        write("a.json", '[{"id": 1, "sys": 120}, {"id": 2}, {"id": 3, "sys": 131}]'),
        write("a.ndjson", '{"id": 1, "sys": 120}\n{"id": 2}\n{"id": 3, "sys": 131}\n'),
        written(tmp_path / "it's.parquet", id=[1, 2, 3], sys=[120, None, 131]),
    ]
    for file in files:
        query = "SELECT id, sys + 1 AS pressure FROM data WHERE id > 1 ORDER BY id DESC"
        assert read(DuckDbQuery(file=file, query=query, column="pressure"), missing="omit") == [132, GONE]
        assert read(DuckDbQuery(file=file, query=query, column="pressure", key="id"), missing="omit") == [GONE, 132]


def test_a_database_of_duckdb_is_read_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE readings AS SELECT 1 AS id, 120 AS sys")
    before = path.read_bytes()
    assert read(DuckDbQuery(file=path, query="SELECT sys FROM readings", column="sys")) == [120]
    assert path.read_bytes() == before


def test_variables_of_one_query_are_of_the_same_rows(write: Write) -> None:
    path = write("a.csv", "sys,kg,s\n120,80.5,male\n131,70,female\n")
    readers: Readers = {
        name: (DuckDbQuery(file=path, query="SELECT * FROM data ORDER BY sys DESC", column=column), declared)
        for name, column, declared in (("systolic", "sys", SMALL), ("weight", "kg", TENTHS), ("sex", "s", SEX))
    }
    assert ask(readers) == {"systolic": [131, 120], "weight": [700, 805], "sex": [0, 1]}


@pytest.mark.parametrize(
    ("query", "rule"),
    [
        ("SELEC sys FROM data", "is not SQL that DuckDB can read; correct it"),
        ("SELECT dia FROM data", "names a table or column that is not there, or mixes types; correct it"),
        ("SELECT sys FROM patients", "names a table or column that is not there, or mixes types; correct it"),
        ("SELECT note::INT AS sys FROM data", "meets a value that it cannot convert; correct it"),
        ("SELECT * FROM read_csv('/etc/passwd')", "reaches beyond its file; a query reads that alone"),
        ("SELECT * FROM read_text('{other}')", "reaches beyond its file; a query reads that alone"),
        ("COPY data TO '{other}'", "must be one SELECT; correct it"),
        ("SELECT 1; SELECT 2", "must be one SELECT; correct it"),
        ("SET enable_external_access = true", "must be one SELECT; correct it"),
        ("", "must be one SELECT; correct it"),
    ],
)
def test_a_query_that_does_not_serve_is_told_in_our_words(write: Write, query: str, rule: str) -> None:
    path, other = write("a.csv", f"sys,note\n120,x{SECRET}\n"), write("b.csv", "secret\n")
    reader = DuckDbQuery(file=path, query=query.replace("{other}", str(other)), column="sys")
    assert refused(reader) == f"the query over {path}: {rule}"
    assert other.read_text() == "secret\n"


def test_a_query_that_takes_too_long_is_ended(write: Write) -> None:
    path = write("a.csv", "sys\n120\n")
    query = "SELECT sum(a.range * b.range) AS sys FROM range(100000000) a, range(100000000) b"
    assert refused(DuckDbQuery(file=path, query=query, column="sys", timeout=1)) == (
        f"the query over {path}: takes longer than 1 s; ask for less, or raise its 'timeout'"
    )
