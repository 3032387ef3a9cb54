"""Columns from literals, CSV files and seeds; every refusal names variable, place and rule, and never a value."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpc.disclosure import Bounds, Categories
from mpc.errors import DataError
from mpc.statistics.component import MISSING, Values
from mpc.study import Statistic, Variable
from nodes.sources.base import Reader, Source, decimal, integer, read_study
from nodes.sources.csv_file import CsvFile
from nodes.sources.literal import LiteralValues
from nodes.sources.synthetic import SyntheticValues
from tests.mpc.statistics.pool import question

LOW, HIGH = -(2**63) + 1, 2**63 - 1
ANY = Bounds(LOW, HIGH)
SMALL = Bounds(0, 300)
TEMPERATURE = Bounds(Fraction(30), Fraction(45), whole=False)
SEX = Categories(frozenset({"female", "male"}))


def asked_of(declared: Bounds | Categories, length: int = 1, missing: str = "refuse", name: str = "systolic") -> Variable:
    """A variable whose words cover the source."""
    if isinstance(declared, Categories):
        return Variable.category(name, ("male", "female", "unknown"), missing=missing)
    scale = None if declared.whole else 10
    low, high = (int(end * (scale or 1)) for end in (declared.minimum, declared.maximum))
    return Variable.number(name, "", low, high, length, scale=scale, missing=missing)


def read(
    reader: Reader,
    declared: Bounds | Categories = ANY,
    *,
    length: int = 1,
    records: int = 1,
    missing: str = "refuse",
) -> Values:
    """What a study of `records` records gets of one source, at a node that declares as many."""
    variable = asked_of(declared, length, missing)
    study = question((variable,), Statistic.of("count", "systolic"), records=records)
    return read_study(study, {"systolic": Source("systolic", declared, reader)}, records)["systolic"]


def refused(reader: Reader, declared: Bounds | Categories = ANY, **how: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(reader, declared, **how)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return str(caught.value)


@pytest.fixture
def table(tmp_path: Path) -> Callable[[str | bytes], Path]:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "data.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


Table = Callable[[str | bytes], Path]
ABC = "a,b,c\n1,2,3\n4,5,6\n7,8,9\n"


# -- literals


@pytest.mark.parametrize(
    ("reader", "declared", "expected"),
    [
        (LiteralValues(725), ANY, [725]),
        (LiteralValues((1, -2)), ANY, [1, -2]),
        (LiteralValues((LOW, HIGH)), ANY, [LOW, HIGH]),
        (LiteralValues(36.64), TEMPERATURE, [366]),
        (LiteralValues((36, 37.25)), TEMPERATURE, [360, 372]),  # half to even
        (LiteralValues("female"), SEX, [1]),
    ],
)
def test_a_literal_is_read_in_the_studys_steps(reader: LiteralValues, declared: Bounds | Categories, expected: list[int]) -> None:
    values = read(reader, declared, length=len(expected))
    assert (values.dtype, values.shape, values.tolist()) == (np.dtype(np.int64), (len(expected),), expected)


@pytest.mark.parametrize(
    ("reader", "declared", "expected"),
    [
        (LiteralValues((120, None, 130)), SMALL, [120, MISSING, 130]),
        (LiteralValues((36.6, None)), TEMPERATURE, [366, MISSING]),
        (LiteralValues(("male", None, "female")), SEX, [0, MISSING, 1]),
        (LiteralValues((None,)), SMALL, [MISSING]),
    ],
)
def test_null_is_a_missing_value_and_a_list_has_a_value_a_record(
    reader: LiteralValues, declared: Bounds | Categories, expected: list[int]
) -> None:
    assert read(reader, declared, records=5, missing="omit").tolist() == expected
    at = expected.index(MISSING) + 1
    assert refused(reader, declared, records=5) == (
        f"variable systolic: its literal: record {at} of {len(expected)} is missing, which the study refuses; fill it in"
    )


@pytest.mark.parametrize(("values", "has"), [((1,), "1"), ((1, 2, 3), "more")])
def test_a_person_has_one_record_of_the_length_that_the_study_asks_for(values: tuple[int, ...], has: str) -> None:
    assert refused(LiteralValues(values), length=2) == (
        f"variable systolic: its literal: the study asks for 2 values, there are {has}; correct the source or leave the study"
    )


def test_a_practice_holds_as_many_records_as_it_declares_and_whole_ones() -> None:
    assert read(LiteralValues((1, 2, 3, 4)), length=2, records=2).tolist() == [1, 2, 3, 4]
    assert refused(LiteralValues((1, 2, 3)), length=2, records=2) == (
        "variable systolic: its literal: 3 values are no whole records of 2; correct the source"
    )
    assert refused(LiteralValues((1, 2, 3)), records=2) == (
        "variable systolic: its literal: there are more than the 2 records that the policy declares; "
        "raise its 'records', or correct the source"
    )


def test_a_person_in_a_study_of_practices_has_one_record_or_none(table: Table) -> None:
    study = question((asked_of(SMALL),), Statistic.of("count", "systolic"), records=1000)
    for cells, expected in (("120\n", [120]), ("", [])):
        source = Source("systolic", SMALL, CsvFile(file=table("a\n" + cells), column="a"))
        assert read_study(study, {"systolic": source}, 1)["systolic"].tolist() == expected


# -- bounds and categories


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ([0, 300, -1], "record 3 of 3 is below its minimum 0; correct it or its bounds"),
        ([0, 301, 999], "record 2 of 3 is above its bound 300; correct it or its bounds"),
        ([HIGH], "record 1 of 1 is above its bound 300; correct it or its bounds"),
        ([0, 300, None], ""),
    ],
)
def test_a_value_out_of_bounds_is_told_by_record_and_rule(values: list[int | None], rule: str) -> None:
    reader = LiteralValues(tuple(values))
    if rule:
        assert refused(reader, SMALL, records=9) == f"variable systolic: its literal: {rule}"
        assert f"value {rule[7:]}" in refused(reader, SMALL, length=len(values))
    else:
        assert read(reader, SMALL, records=9, missing="omit").tolist() == [0, 300, MISSING]


def test_bounds_with_decimals_are_those_that_were_written() -> None:
    bounds = Bounds(Fraction("0.1"), Fraction("0.3"), whole=False)
    assert read(LiteralValues((0.1, 0.3)), bounds, records=2).tolist() == [1, 3]
    assert "record 1 of 1 is above its bound 0.3; correct" in refused(LiteralValues((0.30001,)), bounds, records=2)
    assert "record 2 of 2 is below its minimum 0.1; correct" in refused(LiteralValues((0.2, 0.09)), bounds, records=2)


def test_a_value_of_a_vector_is_told_by_its_place_in_the_record() -> None:
    text = refused(LiteralValues((1, 2, 3, 301)), SMALL, length=2, records=4)
    assert text == "variable systolic: its literal: value 2 of record 2 of 2 is above its bound 300; correct it or its bounds"


def test_a_category_that_is_not_declared_is_told_by_its_record() -> None:
    text = refused(LiteralValues(("male", "unknown")), SEX, records=4)
    assert (
        text == "variable systolic: its literal: record 2 of 2 is none of the declared categories; correct it or the categories"
    )


@pytest.mark.parametrize(
    ("variable", "declared", "reason"),
    [
        (asked_of(SEX), SMALL, "systolic is a category in the study, the source has numbers"),
        (asked_of(SMALL), SEX, "systolic is a number in the study, the source has categories"),
        (asked_of(SMALL), TEMPERATURE, "systolic is a whole number in the study, the source has fractions"),
        (asked_of(SMALL), Bounds(0, 301), "its bounds for systolic do not contain the declared [0, 301] of the source"),
        (
            asked_of(TEMPERATURE),
            Bounds(Fraction("29.5"), Fraction(40), whole=False),
            "its bounds for systolic do not contain the declared [29.5, 40] of the source",
        ),
    ],
)
def test_a_source_that_changed_since_the_consent_is_not_read(
    variable: Variable, declared: Bounds | Categories, reason: str
) -> None:
    study = question((variable,), Statistic.of("count", "systolic"))
    with pytest.raises(DataError) as caught:
        read_study(study, {"systolic": Source("systolic", declared, Never())}, 1)
    assert str(caught.value) == f"variable systolic: {reason}; leave the study, or correct the source"


class Never:
    """A reader that must not be asked."""

    place = "nowhere"

    @classmethod
    def read(cls, asked: Any) -> Any:
        raise AssertionError("it was read")


# -- CSV files


@pytest.mark.parametrize(
    ("column", "row", "expected"), [("b", None, [2, 5, 8]), (None, 2, [4, 5, 6]), ("c", 3, [9]), ("a", 1, [1])]
)
def test_a_column_a_row_and_a_cell(table: Table, column: str | None, row: int | None, expected: list[int]) -> None:
    values = read(CsvFile(file=table(ABC), column=column, row=row), length=len(expected))
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
    assert read(CsvFile(file=table(content), column="a"), length=2).tolist() == [1, 2]


def test_the_ends_of_64_bits_are_read(table: Table) -> None:
    path = table(f"a\n{LOW}\n{HIGH}\n")
    assert read(CsvFile(file=path, column="a"), length=2).tolist() == [LOW, HIGH]


@pytest.mark.parametrize(
    ("cells", "declared", "expected"),
    [
        (["120", "", " ", "0"], SMALL, [120, MISSING, MISSING, 0]),
        (["36.6", "", "37", ".4e2", "4.2E+1", "+36."], TEMPERATURE, [366, MISSING, 370, 400, 420, 360]),
        (["male", " female ", "", "male"], SEX, [0, 1, MISSING, 0]),
    ],
)
def test_a_column_of_records_of_every_type_with_gaps(
    table: Table, cells: list[str], declared: Bounds | Categories, expected: list[int]
) -> None:
    path = table("id,x\n" + "\n".join(f"{at},{cell}" for at, cell in enumerate(cells)) + "\n")
    assert read(CsvFile(file=path, column="x"), declared, records=99, missing="omit").tolist() == expected


def test_a_practice_without_a_record(table: Table) -> None:
    for declared in (SMALL, TEMPERATURE, SEX):
        values = read(CsvFile(file=table("x\n"), column="x"), declared, records=9)
        assert (values.dtype, values.shape) == (np.dtype(np.int64), (0,))


def test_all_that_a_round_asks_of_a_file_is_of_one_moment(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table("age,sex,weight\n40,male,80.5\n50,female,\n")
    opened: list[Path] = []
    genuine = Path.open

    def watched(self: Path, *arguments: Any, **named: Any) -> Any:
        opened.append(self)
        return genuine(self, *arguments, **named)

    monkeypatch.setattr(Path, "open", watched)
    variables = (asked_of(SMALL, name="age"), asked_of(SEX, name="sex"), asked_of(TEMPERATURE, name="other"))
    study = question(variables, *(Statistic.of("count", variable.name) for variable in variables), records=4)
    sources = {
        "age": Source("age", SMALL, CsvFile(file=path, column="age")),
        "sex": Source("sex", SEX, CsvFile(file=path, column="sex")),
        "other": Source("other", TEMPERATURE, LiteralValues((36.6, 37.0))),
    }
    columns = read_study(study, sources, 4)
    assert {name: values.tolist() for name, values in columns.items()} == {
        "age": [40, 50],
        "sex": [0, 1],
        "other": [366, 370],
    }
    assert opened == [path]


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
        ('"1,5"', "is not a whole number"),
        (str(2**63), "does not fit in 64 bits"),
        (str(-(2**63)), "does not fit in 64 bits"),  # stands for a missing value
        (str(-(2**63) - 1), "does not fit in 64 bits"),
        ("9" * 5000, "does not fit in 64 bits"),
    ],
)
def test_a_cell_that_is_no_whole_number(table: Table, cell: str, rule: str) -> None:
    path = table(f"b,a\n0,1\n0,{cell}\n")
    assert refused(CsvFile(file=path, column="a"), length=2) == (
        f"variable systolic: {path}:3: column 'a' {rule}; "
        f"write a whole number, or give bounds with a point ([0.0, 9.5]) where there are decimals"
    )


@pytest.mark.parametrize(
    ("cell", "rule"),
    [
        ("abc", "is not a decimal number"),
        ("NaN", "is not a decimal number"),
        ("-inf", "is not a decimal number"),
        ("1_0.0", "is not a decimal number"),
        ("1e", "is not a decimal number"),
        (".", "is not a decimal number"),
        ("1-2", "is not a decimal number"),
        ('"36,6"', "is not a decimal number"),
        ("1e999", "is too large for a number"),
        ("9" * 5000, "is not a decimal number"),
    ],
)
def test_a_cell_that_is_no_decimal_number(table: Table, cell: str, rule: str) -> None:
    path = table(f"b,a\n0,36.6\n0,{cell}\n")
    assert refused(CsvFile(file=path, column="a"), TEMPERATURE, records=9) == (
        f"variable systolic: {path}:3: column 'a' {rule}; write digits with a point, "
        f"or leave the cell empty where there is no value"
    )


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
    assert refused(CsvFile(file=path, column=column, row=row)) == f"variable systolic: {path}{line}{expected}"


def test_where_values_stand_is_told_with_what_is_wrong_with_them(table: Table) -> None:
    path = table(ABC)
    for column, row, place in (("a", None, "column 'a'"), (None, 2, "row 2"), ("a", 2, "column 'a' and row 2")):
        text = refused(CsvFile(file=path, column=column, row=row), Bounds(-9, 0), length=1 if row and column else 3)
        assert text.startswith(f"variable systolic: {place} of {path}: value 1 of ")


def test_a_file_without_header_is_refused_and_its_first_row_not_shown(table: Table) -> None:
    path = table("73519,73520\n1,2\n")
    for column, row in (("a", None), (None, 1)):
        text = refused(CsvFile(file=path, column=column, row=row), length=2)
        assert "the first line holds numbers only; add a line above it" in text
        assert "735" not in text


def test_a_number_among_the_names_of_columns_is_not_shown(table: Table) -> None:
    assert "two columns are called <a number>" in refused(CsvFile(file=table("x,73519,73519\n"), column="a"))
    text = refused(CsvFile(file=table("x,73519\n"), column="a"))
    assert text.endswith("there is no column 'a'; it has 'x', <a number>")


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, expected in (
        ("none.csv", "there is no such file; check the path"),
        ("pipe", "is not a regular file; name a CSV file"),
        (".", "is not a regular file; name a CSV file"),
        ("a" * 300, "cannot be read (File name too long); check path, owner and mode"),
    ):
        assert refused(CsvFile(file=tmp_path / name, column="a")) == f"variable systolic: {tmp_path / name}: {expected}"


def test_a_long_column_takes_little_more_than_its_integers(table: Table) -> None:
    expected = np.random.default_rng(1).integers(0, 10**6, size=100_000)
    path = table("a\n" + "\n".join(map(str, expected)) + "\n")
    tracemalloc.start()
    try:
        values = read(CsvFile(file=path, column="a"), records=expected.size)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(values, expected)
    assert peak < 6 * expected.nbytes


def test_a_file_with_more_records_than_declared_is_not_read_to_its_end(table: Table) -> None:
    path = table("a\n" + "1\n" * 10_000 + "no number\n")
    assert "more than the 3 records that the policy declares" in refused(CsvFile(file=path, column="a"), records=3)


# -- made-up values


def test_synthetic_numbers_are_those_of_numpy() -> None:
    values = read(SyntheticValues(seed=7), Bounds(-5, 5), length=1000)
    assert np.array_equal(values, np.random.default_rng(7).integers(-5, 6, size=1000))
    assert (values.dtype, int(values.min()), int(values.max())) == (np.dtype(np.int64), -5, 5)
    decimals = np.random.default_rng(7).uniform(30, 45, size=50)
    assert np.array_equal(read(SyntheticValues(seed=7, records=50), TEMPERATURE, records=50), np.rint(decimals * 10))


def test_synthetic_values_have_gaps_and_categories_if_asked_for() -> None:
    values = read(SyntheticValues(seed=3, records=1000, missing=0.2), SEX, records=1000, missing="omit")
    counts = {int(value): int(count) for value, count in zip(*np.unique(values, return_counts=True), strict=True)}
    assert set(counts) == {MISSING, 0, 1}
    assert 150 < counts[MISSING] < 250
    assert abs(counts[0] - counts[1]) < 150
    for declared in (SMALL, TEMPERATURE):
        whole = read(SyntheticValues(seed=3, records=100, missing=1.0), declared, records=100, missing="omit")
        assert set(whole.tolist()) == {MISSING}


def test_no_reader_prints_its_values() -> None:
    source = Source("systolic", ANY, LiteralValues(73519))
    assert "73519" not in f"{source!r} {source} {source.reader!r} {SyntheticValues(seed=73519)!r}"


# -- numbers in words


@given(number=st.integers(LOW, HIGH), before=st.sampled_from(["", " ", "\t"]), after=st.sampled_from(["", "  "]))
def test_every_integer_of_64_bits_is_read_back(number: int, before: str, after: str) -> None:
    assert integer(f"{before}{number}{after}") == number


@given(number=st.floats(allow_nan=False, allow_infinity=False))
def test_every_decimal_number_is_read_back(number: float) -> None:
    assert decimal(repr(number)) == number


@given(text=st.text(max_size=12))
def test_what_is_no_decimal_integer_is_refused_without_repeating_it(text: str) -> None:
    digits = text.strip(" \t")
    body = digits[1:] if digits[:1] in ("+", "-") else digits
    if body and all(char in "0123456789" for char in body):
        assert integer(text) == int(digits)
    else:
        with pytest.raises(ValueError, match=r"^(is empty|is not a whole number)$"):
            integer(text)
