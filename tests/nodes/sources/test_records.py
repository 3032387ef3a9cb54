"""Values of one person stand in one record: by row within a table, by key across tables, and else not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from nodes.sources.base import Found, Wanted, column_of
from nodes.sources.csv_file import CsvFile
from nodes.sources.literal import LiteralValues
from nodes.sources.records import Asked, aligned
from tests.nodes.sources.ask import GONE, SEX, SMALL, TENTHS, Declared, Readers, ask, read, refused, why_not
from tests.nodes.sources.conftest import Write


def pressures(path: Path, key: str | None = "id") -> tuple[CsvFile, Declared]:
    return CsvFile(file=path, column="systolic", key=key), SMALL


def weights(path: Path, key: str | None = "patient") -> tuple[CsvFile, Declared]:
    return CsvFile(file=path, column="kg", key=key), TENTHS


def test_records_of_two_tables_are_found_by_their_keys_in_whatever_rows_they_stand(write: Write) -> None:
    first = write("a.csv", "id,systolic\n9,120\n10,130\nx,140\n")
    second = write("b.csv", "patient,kg\nx,80.5\n 9 ,60\n10,70\n")
    assert ask({"systolic": pressures(first), "weight": weights(second)}) == {
        "systolic": [130, 120, 140],
        "weight": [700, 600, 805],
    }


def test_who_is_in_one_table_alone_has_a_missing_value(write: Write) -> None:
    first = write("a.csv", "id,systolic,sex\n1,120,male\n2,130,female\n")
    second = write("b.csv", "patient,kg\n2,70\n3,80\n")
    readers: Readers = {
        "systolic": pressures(first),
        "weight": weights(second),
        "sex": (CsvFile(file=first, column="sex", key="id"), SEX),
    }
    assert ask(readers, missing="omit") == {"systolic": [120, 130, GONE], "weight": [GONE, 700, 800], "sex": [1, 0, GONE]}
    assert "record 3 of 3 is missing, which the study refuses" in why_not(readers)


def test_two_tables_without_keys_are_refused(write: Write) -> None:
    first, second = write("a.csv", "id,systolic\n1,120\n"), write("b.csv", "patient,kg\n1,70\n")
    assert why_not({"systolic": pressures(first, None), "weight": weights(second, None)}) == (
        f"variable weight: column 'kg' of {second}: is not the table of systolic, so nothing says which values belong together; "
        f"give both a 'key'"
    )


def test_a_key_to_one_of_two_variables_is_not_enough(write: Write) -> None:
    first, second = write("a.csv", "id,systolic\n1,120\n"), write("b.csv", "patient,kg\n1,70\n")
    assert why_not({"systolic": pressures(first), "weight": weights(second, None)}) == (
        f"variable weight: column 'kg' of {second}: nothing says which of its values belong to which of systolic, which has a "
        f"key; give it a 'key', too"
    )


def test_a_list_in_the_configuration_is_no_table_of_a_file(write: Write) -> None:
    first = write("a.csv", "id,systolic\n1,120\n2,130\n")
    readers: Readers = {"systolic": pressures(first, None), "weight": (LiteralValues((60.5, 70.0)), TENTHS)}
    assert "is not the table of systolic" in why_not(readers)


def test_keys_that_have_nothing_in_common_are_refused(write: Write) -> None:
    first, second = write("a.csv", "id,systolic\nP-1,120\n"), write("b.csv", "patient,kg\n1,70\n")
    text = why_not({"systolic": pressures(first), "weight": weights(second)}, missing="omit")
    assert text.endswith("none of its keys is one of systolic; name columns with the same keys in both")


def test_a_key_of_two_rows_is_refused_and_not_repeated(write: Write) -> None:
    first = write("a.csv", "id,systolic\n4711,120\n5,99\n4711,130\n")
    text = refused(pressures(first)[0])
    assert text == f"column 'systolic' of {first}: one key has 2 values, and a record of the study has 1; correct the source"
    assert "4711" not in text


def test_a_row_without_a_key_is_told_by_its_line(write: Write) -> None:
    first = write("a.csv", "id,systolic\n1,120\n ,130\n")
    assert refused(pressures(first)[0]) == f"{first}:3: the key in column 'id' is missing; give every row its own"


def test_rows_of_one_key_are_one_record_of_a_variable_with_a_length(write: Write) -> None:
    first = write("a.csv", "id,systolic\nb,1\na,2\nb,3\na,4\n")
    assert read(pressures(first)[0], length=2) == [2, 4, 1, 3]
    assert "one key has 2 values, and a record of the study has 4" in refused(pressures(first)[0], length=4)


def test_a_person_is_one_record_whatever_the_tables_are(write: Write) -> None:
    first, second = write("a.csv", "id,systolic\n1,120\n"), write("b.csv", "patient,kg\n1,70\n")
    for key in ("id", None):
        readers: Readers = {
            "systolic": pressures(first, key),
            "weight": weights(second, None),
            "sex": (LiteralValues("male"), SEX),
        }
        assert ask(readers, records=1) == {"systolic": [120], "weight": [700], "sex": [1]}


def test_a_person_of_whom_a_source_with_keys_knows_nothing_has_a_missing_value(write: Write) -> None:
    first, second = write("a.csv", "id,systolic\n"), write("b.csv", "patient,kg\n1,70\n")
    readers: Readers = {"systolic": pressures(first), "weight": weights(second)}
    assert ask(readers, records=1, missing="omit") == {"systolic": [GONE], "weight": [700]}
    assert read(pressures(first)[0], records=1, missing="omit") == [GONE]
    assert read(pressures(first)[0], records=9) == []


def test_two_people_are_no_person(write: Write) -> None:
    first, second = write("a.csv", "id,systolic\n1,120\n"), write("b.csv", "patient,kg\n2,70\n")
    text = why_not({"systolic": pressures(first), "weight": weights(second)}, records=1, missing="omit")
    assert "the study asks for 1 values, there are more" in text


tables = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=2), st.integers(0, 300), max_size=12)


@given(first=tables, second=tables, order=st.randoms(use_true_random=False))
def test_any_two_tables_with_keys_are_joined_as_a_dictionary_would(
    first: Mapping[str, int], second: Mapping[str, int], order: st.DataObject
) -> None:
    asked = []
    for name, table in (("systolic", first), ("diastolic", second)):
        rows = list(table.items())
        order.shuffle(rows)  # type: ignore[attr-defined]
        wanted = Wanted(name, SMALL, records=1)
        column = column_of(SMALL, [value for _, value in rows])
        asked.append(Asked(wanted, name, Found(column, name, [key for key, _ in rows])))
    columns = aligned(asked, one=False)
    everybody = sorted({*first, *second})
    for name, table in (("systolic", first), ("diastolic", second)):
        assert list(columns[name]) == [table.get(key, GONE) for key in everybody]
