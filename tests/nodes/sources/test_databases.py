"""SQL over SQLite and a real PostgreSQL, and OMOP measurements in both and in DuckDB: read only, in time, and discreet."""

from __future__ import annotations

import gc
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from mpc.disclosure import Bounds, Categories
from nodes.sources.database import database_rows
from nodes.sources.omop import OmopMeasurements
from nodes.sources.secret import Secret
from nodes.sources.sql_query import SqlQuery
from scripts.postgres import Cluster
from tests.nodes.sources.ask import GONE, SEX, SMALL, TENTHS, Readers, ask, read, refused, why_not
from tests.nodes.sources.conftest import new_database
from tests.services import until

SECRET = 73519
READINGS = "CREATE TABLE readings (id INTEGER, systolic NUMERIC(5, 1), sex TEXT, note TEXT)"
ROWS = "INSERT INTO readings VALUES (3, 120.0, 'male', 'at 12:30'), (1, NULL, 'female', '100%'), (2, 131.0, ' male', NULL)"


def sqlite(path: Path, *statements: str) -> Path:
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()
    return path


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Where a database with readings is, as a source has it."""
    if request.param == "sqlite":
        return {"file": sqlite(tmp_path_factory.mktemp("sqlite") / "a b?c.db", READINGS, ROWS)}
    return {"url": new_database(request.getfixturevalue("cluster"), READINGS, ROWS)}


def query(place: dict[str, Any], sql: str, column: str = "systolic", **how: Any) -> SqlQuery:
    return SqlQuery(**place, query=sql, column=column, **how)


def where(place: dict[str, Any]) -> str:
    return query(place, "-").where


# -- SQL


def test_variables_of_one_query_are_of_the_same_rows(place: dict[str, Any]) -> None:
    sql = "SELECT * FROM readings ORDER BY id;\n"
    readers: Readers = {
        "systolic": (query(place, sql), SMALL),
        "warmth": (query(place, sql), TENTHS),
        "sex": (query(place, sql, "sex"), SEX),
    }
    assert ask(readers, missing="omit") == {"systolic": [GONE, 131, 120], "warmth": [GONE, 1310, 1200], "sex": [0, 1, 1]}


def test_variables_of_different_queries_are_joined_by_their_keys_or_refused(place: dict[str, Any]) -> None:
    first, second = "SELECT id, systolic FROM readings WHERE id > 1", "SELECT id, sex FROM readings WHERE id < 3"
    readers: Readers = {"systolic": (query(place, first, key="id"), SMALL), "sex": (query(place, second, "sex", key="id"), SEX)}
    assert ask(readers, missing="omit") == {"systolic": [GONE, 131, 120], "sex": [0, 1, GONE]}
    without: Readers = {"systolic": (query(place, first), SMALL), "sex": (query(place, second, "sex"), SEX)}
    assert "nothing says which values belong together" in why_not(without)


@pytest.mark.parametrize(
    ("condition", "expected"), [("note = 'at 12:30'", [120]), ("note LIKE '100%'", [GONE]), ("note LIKE '%:30'", [120])]
)
def test_colons_and_percent_signs_in_a_query_are_themselves(place: dict[str, Any], condition: str, expected: list[int]) -> None:
    sql = f"SELECT systolic FROM readings WHERE {condition}"  # noqa: S608 (a test's own words)
    assert read(query(place, sql), missing="omit") == expected


@pytest.mark.parametrize(
    ("sql", "codes"),
    [
        ("SELEC systolic FROM readings", ("SQLITE_ERROR", "42601")),
        ("SELECT systolic FROM patients", ("SQLITE_ERROR", "42P01")),
        ("DELETE FROM readings", ("SQLITE_READONLY", "42601")),
        ("INSERT INTO readings (id) VALUES (73519) RETURNING id AS systolic", ("SQLITE_READONLY", "42601")),
        ("CREATE TABLE systolic (id INTEGER)", ("SQLITE_READONLY", "42601")),
        ("SELECT 1; DELETE FROM readings", ("", "42601")),
    ],
)
def test_a_query_that_does_not_serve_changes_nothing_and_is_told_by_its_code(
    place: dict[str, Any], sql: str, codes: tuple[str, str]
) -> None:
    code = codes["url" in place]
    text = refused(query(place, sql))
    rule = (
        f"the database refuses the query ({code}); correct it, or what it may read" if code else "gives no rows; write one SELECT"
    )
    assert text == f"{where(place)}: {rule}"
    assert read(query(place, "SELECT count(*) AS systolic FROM readings")) == [3]


def test_a_value_that_cannot_be_converted_is_not_repeated(cluster: Cluster) -> None:
    place = {"url": cluster.url()}
    text = refused(query(place, f"SELECT 'x{SECRET}'::int AS systolic"))
    assert text == f"{where(place)}: the database refuses the query (22P02); correct it, or what it may read"


def test_a_query_of_postgresql_with_casts(cluster: Cluster) -> None:
    place = {"url": cluster.url()}
    assert read(query(place, "SELECT '120'::int AS systolic, $$a:b$$ AS x")) == [120]


def test_cells_of_another_type_are_told_by_row_and_rule(place: dict[str, Any]) -> None:
    text = refused(query(place, "SELECT note AS systolic FROM readings ORDER BY id"), missing="omit")
    assert text == f"the query on {where(place)}: row 1: column 'systolic' is text where a number should be; correct it"
    text = refused(query(place, "SELECT id FROM readings"))
    assert text == f"the query on {where(place)}: there is no column 'systolic'; it has 'id'"


def test_many_rows_are_read_in_pieces_and_no_more_than_the_policy_declares(place: dict[str, Any]) -> None:
    sql = "WITH RECURSIVE n(systolic) AS (SELECT 1 UNION ALL SELECT systolic + 1 FROM n WHERE systolic < 9000) SELECT * FROM n"
    assert read(query(place, sql), Bounds(0, 9000), records=20_000) == list(range(1, 9001))
    assert "more than the 9 records" in refused(query(place, sql), records=9)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_all_queries_of_a_round_see_one_moment(kind: str, tmp_path: Path, cluster: Cluster) -> None:
    """The first query is read, then somebody writes, and the second does not see it."""
    place: dict[str, Any] = {"file": sqlite(tmp_path / "a.db", READINGS, ROWS)}
    if kind == "postgres":
        place = {"url": new_database(cluster, READINGS, ROWS)}
    with database_rows(query(place, "-"), "systolic") as run:
        _, pieces = run("SELECT count(*) AS n FROM readings", "systolic")
        [[(before,)]] = list(pieces)
        if "file" in place:
            writer = sqlite3.connect(place["file"], timeout=0)
            with pytest.raises(sqlite3.OperationalError, match="locked"), writer:
                writer.execute(ROWS)
            writer.close()
        else:
            cluster.sql(ROWS, str(place["url"]).split("/")[3].split("?")[0])
        _, pieces = run("SELECT count(*) AS n FROM readings", "systolic")
        assert [list(piece) for piece in pieces] == [[(before,)]]


def test_a_query_that_takes_too_long_is_ended(place: dict[str, Any]) -> None:
    sql = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) AS systolic FROM n"
    sql = "SELECT count(*) AS systolic FROM pg_sleep(60)" if "url" in place else sql
    assert refused(query(place, sql, timeout=1)) == (
        f"{where(place)}: takes longer than 1 s; ask for less, or raise its 'timeout'"
    )


@pytest.mark.filterwarnings("ignore:.*ServerCursor:ResourceWarning")  # SQLAlchemy does not close what a lost connection had
def test_a_server_that_does_not_answer_any_more_is_left(cluster: Cluster) -> None:
    """Its process stands still, so that it ends no query by itself and hears no request to."""
    stopped: list[int] = []

    def stop() -> None:
        asked = "SELECT pid FROM pg_stat_activity WHERE application_name = 'cohortium' AND query LIKE 'FETCH%'"
        stopped.append(int(until(lambda: cluster.sql(asked), "the query")))
        os.kill(stopped[0], signal.SIGSTOP)

    helper = threading.Thread(target=stop)
    helper.start()
    try:
        text = refused(query({"url": cluster.url()}, "SELECT count(*) AS systolic FROM pg_sleep(2)", timeout=3))
        assert text.endswith("takes longer than 3 s; ask for less, or raise its 'timeout'")
    finally:
        helper.join()
        for process in stopped:
            os.kill(process, signal.SIGCONT)
        gc.collect()


def test_a_database_that_is_not_there(tmp_path: Path, cluster: Cluster, write: Any) -> None:
    missing = tmp_path / "none.db"
    assert refused(query({"file": missing}, "SELECT 1")) == f"{missing}: there is no such file; check the path"
    text = write("a.db", "id,systolic\n" * 100)
    assert refused(query({"file": text}, "SELECT 1 AS systolic FROM x")) == (
        f"{text}: the database refuses the query (SQLITE_NOTADB); correct it, or what it may read"
    )
    for place in ({"url": f"postgresql://u@/d?host={tmp_path}"}, {"url": cluster.url("nowhere")}):
        assert refused(query(place, "SELECT 1")).endswith(
            "cannot be reached, or refuses this user or password; check url and password"
        )


@pytest.fixture
def protected(cluster: Cluster) -> Iterator[str]:
    """The URL of a database whose user `reader` must show a password."""
    rules = cluster.directory / "data" / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text("local all reader scram-sha-256\n" + before)
    cluster.sql("SELECT pg_reload_conf()")
    cluster.sql("CREATE ROLE reader LOGIN PASSWORD 'Tr0ub4dor&3 ü'".replace(" ü", ""))
    yield cluster.url().replace("user=postgres", "user=reader")
    rules.write_text(before)
    cluster.sql("SELECT pg_reload_conf()")
    cluster.sql("DROP ROLE reader")


def test_a_password_comes_from_a_file_an_environment_variable_or_a_credential(
    protected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "db").write_text("Tr0ub4dor&3\n")
    (tmp_path / "db").chmod(0o600)
    monkeypatch.setenv("DB_PASSWORD", "Tr0ub4dor&3")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for secret in (Secret(file=tmp_path / "db"), Secret(environment="DB_PASSWORD"), Secret(credential="db")):
        source = query({"url": protected}, "SELECT 120 AS systolic", password=secret)
        assert read(source) == [120]
        assert "Tr0ub4" not in f"{source!r} {source.place}"


def test_a_password_that_is_wrong_missing_or_readable_by_others_is_not_repeated(
    protected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "open").write_text("Tr0ub4dor&3")
    (tmp_path / "open").chmod(0o644)
    (tmp_path / "two").write_text("Tr0ub4dor&3\nx\n")
    (tmp_path / "two").chmod(0o600)
    monkeypatch.setenv("WRONG", "73519")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    for secret, expected in (
        (Secret(environment="WRONG"), "cannot be reached, or refuses this user or password"),
        (Secret(environment="UNSET"), "environment variable UNSET holds none"),
        (Secret(file=tmp_path / "two"), f"{tmp_path / 'two'} holds none"),
        (Secret(file=tmp_path / "none"), "none"),
        (Secret(file=tmp_path / "open"), "open"),
        (Secret(credential="db"), "there is no $CREDENTIALS_DIRECTORY"),
    ):
        text = refused(query({"url": protected}, "SELECT 120 AS systolic", password=secret))
        assert expected in text
        assert "Tr0ub4" not in text
        assert "73519" not in text


# -- OMOP

PERSONS = """
CREATE TABLE measurement (
    measurement_id INTEGER, person_id INTEGER, measurement_concept_id INTEGER, measurement_date DATE,
    measurement_datetime TIMESTAMP, operator_concept_id INTEGER, value_as_number NUMERIC(10, 2), value_as_concept_id INTEGER,
    unit_concept_id INTEGER
)"""
SYSTOLIC, WEIGHT, SMOKING, MMHG, KG, LESS, EQUAL = 3004249, 3025315, 4275495, 8876, 9529, 4171756, 4172703
MEASUREMENTS = [
    # id, person, concept, date, datetime, operator, number, concept, unit
    (1, 9, SYSTOLIC, "2026-01-05", "2026-01-05 08:00:00", None, 120, None, MMHG),
    (2, 9, SYSTOLIC, "2026-01-05", "2026-01-05 20:00:00", 0, 131, None, MMHG),
    (3, 9, SYSTOLIC, "2025-12-31", None, EQUAL, 99, 0, MMHG),
    (4, 10, SYSTOLIC, "2026-02-01", None, None, 140, None, MMHG),
    (5, 10, SYSTOLIC, "2026-03-01", None, None, None, None, None),
    (6, 10, WEIGHT, "2026-03-01", None, None, 80.5, None, KG),
    (7, 11, WEIGHT, "2024-03-01", None, None, 60, None, KG),
    (8, 9, SMOKING, "2026-03-01", None, None, None, 4144272, None),
    (9, 10, SMOKING, "2026-03-01", None, None, None, 0, None),
    (10, 12, 5, "2026-01-01", None, None, 73519, None, MMHG),
    (11, 13, 6, "2026-01-01", None, LESS, 73, None, MMHG),
    (12, 14, 7, "2026-01-01", None, None, 73.5, None, MMHG),
    (13, 15, 8, "2026-01-01", None, None, 73, None, None),
]


def _row(values: tuple[Any, ...]) -> str:
    return "(" + ", ".join("NULL" if value is None else repr(value) for value in values) + ")"


OMOP_ROWS = "INSERT INTO measurement VALUES " + ", ".join(map(_row, MEASUREMENTS))  # noqa: S608 (a test's own words)


Omop = Callable[..., OmopMeasurements]


@pytest.fixture(scope="module", params=["sqlite", "duckdb", "postgres", "postgres in a schema"])
def omop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Omop:
    """Makes sources on a database of each kind."""
    directory = tmp_path_factory.mktemp("omop")
    if request.param == "sqlite":
        place: dict[str, Any] = {"file": sqlite(directory / "omop.db", PERSONS, OMOP_ROWS)}
    elif request.param == "duckdb":
        place = {"file": directory / "omop.duckdb"}
        with duckdb.connect(str(place["file"])) as connection:
            connection.execute(PERSONS)
            connection.execute(OMOP_ROWS)
    else:
        statements = [PERSONS, OMOP_ROWS]
        cluster: Cluster = request.getfixturevalue("cluster")
        if request.param == "postgres":
            place = {"url": new_database(cluster, *statements)}
        else:
            moved = [statement.replace(" measurement ", " cdm.measurement ") for statement in statements]
            place = {"url": new_database(cluster, "CREATE SCHEMA cdm", *moved), "schema": "cdm"}
    return lambda concept, **how: OmopMeasurements(**place, concept=concept, **how)


def test_the_latest_measurement_of_each_person_is_its_record(omop: Omop) -> None:
    assert read(omop(SYSTOLIC, unit=MMHG)) == [140, 131]  # persons 10 and 9: keys are text
    assert read(omop(SYSTOLIC, unit=MMHG, take="earliest")) == [140, 99]
    assert read(omop(SYSTOLIC, unit=MMHG, since="2026-01-06")) == [140]


def test_measurements_of_several_concepts_are_joined_by_person(omop: Omop) -> None:
    readers: Readers = {"systolic": (omop(SYSTOLIC, unit=MMHG), SMALL), "weight": (omop(WEIGHT, unit=KG), TENTHS)}
    assert ask(readers, missing="omit") == {"systolic": [140, GONE, 131], "weight": [805, 600, GONE]}  # 10, 11, 9


def test_a_person_has_one_record_and_several_values_where_the_study_asks_for_them(omop: Omop) -> None:
    assert read(omop(SYSTOLIC, unit=MMHG, person=9), records=1) == [131]
    assert read(omop(SYSTOLIC, unit=MMHG, person=9), records=1, length=3) == [99, 120, 131]
    assert read(omop(SYSTOLIC, unit=MMHG, person=9), records=1, length=2) == [120, 131]
    assert read(omop(SYSTOLIC, unit=MMHG, person=9, take="earliest"), records=1, length=2) == [99, 120]
    assert read(omop(SYSTOLIC, unit=MMHG, person=77), records=1, missing="omit") == [GONE]
    assert "somebody has 3 values, and a record of the study has 4" in refused(omop(SYSTOLIC, unit=MMHG, person=9), length=4)


def test_concepts_as_values_are_categories(omop: Omop) -> None:
    assert read(omop(SMOKING), Categories(frozenset({"4144272", "0"}))) == [1]


@pytest.mark.parametrize(
    ("concept", "unit", "rule"),
    [
        (5, KG, f"a measurement has not the unit {KG}; correct 'unit', or the table"),
        (8, MMHG, f"a measurement has not the unit {MMHG}; correct 'unit', or the table"),
        (5, None, "a measurement has a unit, and 'unit' says that none has; correct 'unit', or the table"),
        (6, MMHG, "a measurement is a limit and no value (operator_concept_id); leave the study"),
        (7, MMHG, "a measurement is not a whole number; correct it, or the declared bounds"),
        (5, MMHG, "record 1 of 1 is above its bound 300; correct it or its bounds"),
    ],
)
def test_a_measurement_that_does_not_serve_is_not_repeated(omop: Omop, concept: int, unit: int | None, rule: str) -> None:
    source = omop(concept, unit=unit)
    text = refused(source)
    assert text == f"{source.place}: {rule}"
    assert "735" not in text


def test_a_database_without_omop_tables(tmp_path: Path) -> None:
    empty = sqlite(tmp_path / "a.db", READINGS)
    with duckdb.connect(str(tmp_path / "a.duckdb")) as connection:
        connection.execute(READINGS)
    assert "SQLITE_ERROR" in refused(OmopMeasurements(file=empty, concept=1))
    assert "names a table or column that is not there" in refused(OmopMeasurements(file=tmp_path / "a.duckdb", concept=1))
