"""Values from literals, CSV files and seeds; every refusal names variable, place and rule, and never a value."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpc.errors import DataError
from nodes.sources.base import Reader, Source, check_bounds, integer
from nodes.sources.csv_file import CsvFile
from nodes.sources.literal import LiteralValues
from nodes.sources.synthetic import SyntheticValues

LOW, HIGH = -(2**63), 2**63 - 1


def _source(reader: Reader) -> Source:
    return Source("systolic", LOW, HIGH, reader)


@pytest.fixture
def table(tmp_path: Path) -> Callable[[str | bytes], Path]:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "data.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


Table = Callable[[str | bytes], Path]
ABC = "a,b,c\n1,2,3\n4,5,6\n7,8,9\n"


@pytest.mark.parametrize(
    ("reader", "expected"),
    [(LiteralValues(725), [725]), (LiteralValues((1, -2)), [1, -2]), (LiteralValues((LOW, HIGH)), [LOW, HIGH])],
)
def test_a_literal_is_read_as_it_stands(reader: LiteralValues, expected: list[int]) -> None:
    values = _source(reader).read(len(expected))
    assert (values.dtype, values.shape, values.tolist()) == (np.dtype(np.int64), (len(expected),), expected)


def test_a_literal_of_another_length() -> None:
    with pytest.raises(DataError) as caught:
        _source(LiteralValues((1, 2))).read(3)
    assert str(caught.value) == (
        "variable systolic: the study asks for 3 values, its literal has 2; correct the source or leave the study"
    )


def test_a_literal_beyond_64_bits() -> None:
    with pytest.raises(DataError, match=r"^variable systolic: its literal does not fit in 64 bits; correct it$"):
        _source(LiteralValues(2**63)).read(1)


@pytest.mark.parametrize(
    ("column", "row", "expected"), [("b", None, [2, 5, 8]), (None, 2, [4, 5, 6]), ("c", 3, [9]), ("a", 1, [1])]
)
def test_a_column_a_row_and_a_cell(table: Table, column: str | None, row: int | None, expected: list[int]) -> None:
    values = _source(CsvFile(file=table(ABC), column=column, row=row)).read(len(expected))
    assert (values.dtype, values.shape, values.tolist()) == (np.dtype(np.int64), (len(expected),), expected)


@pytest.mark.parametrize(
    "content",
    [
        "a\n1\n2\n",
        "a\n1\n2",
        "a\n1\n2\n\n\n",
        "a\r\n1\r\n2\r\n",
        b"\xef\xbb\xbfa\n1\n2\n",
        '"a"\n"1"\n"2"\n',
        " a \n 1\n2\t\n",
        "a\n+1\n002\n",
        'a,note\n1,"two\nlines, and a comma"\n2,x\n',
    ],
)
def test_the_usual_shapes_of_csv_are_read(table: Table, content: str | bytes) -> None:
    assert _source(CsvFile(file=table(content), column="a")).read(2).tolist() == [1, 2]


def test_the_ends_of_64_bits_are_read(table: Table) -> None:
    path = table(f"a\n{LOW}\n{HIGH}\n")
    assert _source(CsvFile(file=path, column="a")).read(2).tolist() == [LOW, HIGH]


@pytest.mark.parametrize(
    ("cell", "rule"),
    [
        ("1.5", "is not a whole number"),
        ("725.0", "is not a whole number"),
        ("abc", "is not a whole number"),
        ("NaN", "is not a whole number"),
        ("inf", "is not a whole number"),
        ("1e3", "is not a whole number"),
        ("True", "is not a whole number"),
        ("1_000", "is not a whole number"),
        ("0x10", "is not a whole number"),
        ("--1", "is not a whole number"),
        ("1 2", "is not a whole number"),
        ("\u0661\u0662", "is not a whole number"),
        ("\u00b2", "is not a whole number"),
        ("'5'", "is not a whole number"),
        (" ", "is empty"),
        ('""', "is empty"),
        (str(2**63), "does not fit in 64 bits"),
        (str(-(2**63) - 1), "does not fit in 64 bits"),
        ("9" * 5000, "does not fit in 64 bits"),
    ],
)
def test_a_cell_that_is_no_integer(table: Table, cell: str, rule: str) -> None:
    path = table(f"b,a\n0,1\n0,{cell}\n")
    with pytest.raises(DataError) as caught:
        _source(CsvFile(file=path, column="a")).read(2)
    assert str(caught.value) == f"variable systolic: {path}:3: column 'a' {rule}; write a whole number"
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


REFUSED = [
    ("missing column", ABC, "d", None, ": there is no column 'd'; it has 'a', 'b', 'c'", ":1"),
    ("missing row", ABC, None, 4, ": there is no row 4; it has 3 rows below the names of the columns", ""),
    ("missing cell", ABC, "a", 4, ": there is no row 4; it has 3 rows below the names of the columns", ""),
    ("ragged", "a,b\n1,2\n3\n", "a", None, ": has 1 cells, the first line names 2 columns; correct the line", ":3"),
    ("wide", "a,b\n1,2,3\n", None, 1, ": has 3 cells, the first line names 2 columns; correct the line", ":2"),
    ("two of one name", "a,b,a\n1,2,3\n", "b", None, ": two columns are called 'a'; give each its own name", ":1"),
    ("blank line", "a\n1\n\n3\n", "a", None, ": is blank; remove it or fill it in", ":3"),
    ("empty", "", "a", None, ": the first line must name the columns; add it", ":1"),
    ("blank header", "\n1\n", "a", None, ": the first line must name the columns; add it", ":1"),
    ("open quote", 'a\n"1\n', "a", None, ": is not CSV (unexpected end of data); check its quotes and line ends", ":2"),
    ("not UTF-8", b"a\n1\n\xe9\n", "a", None, ": is not UTF-8; save the file as UTF-8", ":3"),
    ("UTF-16", "a\n1\n".encode("utf-16"), "a", None, ": is not UTF-8; save the file as UTF-8", ":1"),
]


@pytest.mark.parametrize(
    ("content", "column", "row", "expected", "line"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_a_file_that_does_not_serve(
    table: Table, content: str | bytes, column: str | None, row: int | None, expected: str, line: str
) -> None:
    path = table(content)
    with pytest.raises(DataError) as caught:
        _source(CsvFile(file=path, column=column, row=row)).read(1)
    assert str(caught.value) == f"variable systolic: {path}{line}{expected}"


def test_a_column_of_another_length(table: Table) -> None:
    path = table(ABC)
    with pytest.raises(DataError) as caught:
        _source(CsvFile(file=path, column="a")).read(1)
    assert str(caught.value) == (
        f"variable systolic: the study asks for 1 values, column 'a' of {path} has 3; correct the source or leave the study"
    )


def test_a_file_without_header_is_refused_and_its_first_row_not_shown(table: Table) -> None:
    path = table("73519,73520\n1,2\n")
    for column, row in (("a", None), (None, 1)):
        with pytest.raises(DataError, match="the first line holds numbers only; add a line above it") as caught:
            _source(CsvFile(file=path, column=column, row=row)).read(2)
        assert "735" not in str(caught.value)


def test_a_number_among_the_names_of_columns_is_not_shown(table: Table) -> None:
    path = table("x,73519,73519\n")
    with pytest.raises(DataError, match="two columns are called <a number>"):
        _source(CsvFile(file=path, column="a")).read(2)
    with pytest.raises(DataError, match=r"there is no column 'a'; it has 'x', <a number>$"):
        _source(CsvFile(file=table("x,73519\n"), column="a")).read(2)


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, expected in (
        ("none.csv", "there is no such file; check the path"),
        ("pipe", "is not a regular file; name a CSV file"),
        (".", "is not a regular file; name a CSV file"),
        ("a" * 300, "cannot be read (File name too long); check path, owner and mode"),
    ):
        with pytest.raises(DataError) as caught:
            _source(CsvFile(file=tmp_path / name, column="a")).read(1)
        assert str(caught.value) == f"variable systolic: {tmp_path / name}: {expected}"


def test_a_long_column_takes_little_more_than_its_integers(table: Table) -> None:
    expected = np.random.default_rng(1).integers(0, 10**6, size=100_000)
    path = table("a\n" + "\n".join(map(str, expected)) + "\n")
    tracemalloc.start()
    try:
        values = _source(CsvFile(file=path, column="a")).read(expected.size)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(values, expected)
    assert peak < 3 * expected.nbytes


def test_synthetic_values_are_those_of_numpy() -> None:
    values = Source("x", -5, 5, SyntheticValues(seed=7)).read(1000)
    assert np.array_equal(values, np.random.default_rng(7).integers(-5, 6, size=1000))
    assert (values.dtype, int(values.min()), int(values.max())) == (np.dtype(np.int64), -5, 5)


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ([0, 300, -1], "value 3 of 3 is below its minimum 0; correct it or its bounds"),
        ([0, 301, 999], "value 2 of 3 is above its bound 300; correct it or its bounds"),
        ([HIGH], "value 1 of 1 is above its bound 300; correct it or its bounds"),
    ],
)
def test_a_value_out_of_bounds_is_told_by_position_and_rule(values: list[int], rule: str) -> None:
    with pytest.raises(DataError) as caught:
        Source("systolic", 0, 300, LiteralValues(tuple(values))).read(len(values))
    assert str(caught.value) == f"variable systolic: {rule}"


def test_the_bounds_themselves_are_in_bounds() -> None:
    check_bounds(np.array([0, 300], dtype=np.int64), 0, 300, "systolic")
    check_bounds(np.array([LOW, HIGH], dtype=np.int64), LOW, HIGH, "systolic")


def test_no_reader_prints_its_values() -> None:
    source = Source("systolic", 0, 10**6, LiteralValues(73519))
    assert "73519" not in f"{source!r} {source} {source.reader!r} {SyntheticValues(seed=73519)!r}"


@given(number=st.integers(LOW, HIGH), before=st.sampled_from(["", " ", "\t"]), after=st.sampled_from(["", "  "]))
def test_every_integer_of_64_bits_is_read_back(number: int, before: str, after: str) -> None:
    assert integer(f"{before}{number}{after}") == number


@given(text=st.text(max_size=12))
def test_what_is_no_decimal_integer_is_refused_without_repeating_it(text: str) -> None:
    digits = text.strip(" \t")
    body = digits[1:] if digits[:1] in ("+", "-") else digits
    if body and all(char in "0123456789" for char in body):
        assert integer(text) == int(digits)
    else:
        with pytest.raises(ValueError, match=r"^(is empty|is not a whole number)$"):
            integer(text)
