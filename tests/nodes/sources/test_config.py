"""What a patient may write under `sources`: one kind each, its mistakes with their lines, secrets nowhere in it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import msgspec
import pytest

from mpc.errors import ConfigError
from nodes.sources import SourceConfig
from nodes.sources.csv_file import CsvFile
from nodes.sources.duckdb_query import DuckDbQuery
from nodes.sources.fhir import FhirObservations
from nodes.sources.json_file import JsonFile
from nodes.sources.omop import OmopMeasurements
from nodes.sources.parquet_file import ParquetFile
from nodes.sources.secret import Secret
from nodes.sources.sql_query import SqlQuery
from nodes.sources.xlsx_file import XlsxFile
from nodes.yaml_struct import examine
from tests.nodes.sources.conftest import Write


class Sources(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sources: dict[str, SourceConfig]


def problems(path: Path) -> list[str]:
    return [problem.removeprefix(f"{path}:") for problem in examine(path, Sources).problems]


def test_every_kind_of_source_is_read_with_paths_beside_the_file(write: Write, tmp_path: Path) -> None:
    path = write(
        "a.yaml",
        """sources:
  a: {bounds: [0, 300], environment: MY_SYSTOLIC}
  b: {bounds: [0, 300], prompt: Your systolic pressure}
  c: {bounds: [0, 300], csv: {file: a.csv, column: sys, key: id}}
  d: {bounds: [0, 300], parquet: {file: a.parquet, column: sys}}
  e: {bounds: [0, 300], json: {file: a.json, array: /data, value: /sys}}
  f: {bounds: [0, 300], xlsx: {file: a.xlsx, sheet: Readings, column: sys}}
  g: {bounds: [0, 300], duckdb: {file: a.parquet, query: SELECT sys FROM data, column: sys}}
  h: {bounds: [0, 300], sql: {file: a.db, query: SELECT sys FROM readings, column: sys}}
  i: {bounds: [0, 300], fhir: {url: "https://fhir.example/r4", code: 8480-6, unit: "mm[Hg]", token: {credential: fhir}}}
  j: {bounds: [0, 300], omop: {url: "postgresql://me@db/c", password: {file: pw}, concept: 3004249, unit: 8, since: "2026-01-01"}}
""",
    )
    found = examine(path, Sources)
    assert found.problems == ()
    assert found.value is not None
    sources = found.value.sources
    assert sources["a"].environment is not None
    assert sources["a"].environment.name == "MY_SYSTOLIC"
    assert sources["b"].prompt is not None
    assert sources["b"].prompt.text == "Your systolic pressure"
    assert sources["c"].csv == CsvFile(file=tmp_path / "a.csv", column="sys", key="id")
    assert sources["d"].parquet == ParquetFile(file=tmp_path / "a.parquet", column="sys")
    assert sources["e"].json == JsonFile(file=tmp_path / "a.json", array="/data", value="/sys")
    assert sources["f"].xlsx == XlsxFile(file=tmp_path / "a.xlsx", sheet="Readings", column="sys")
    assert sources["g"].duckdb == DuckDbQuery(file=tmp_path / "a.parquet", query="SELECT sys FROM data", column="sys")
    assert sources["h"].sql == SqlQuery(file=tmp_path / "a.db", query="SELECT sys FROM readings", column="sys")
    assert sources["i"].fhir == FhirObservations(
        url="https://fhir.example/r4", code="8480-6", unit="mm[Hg]", token=Secret(credential="fhir")
    )
    assert sources["j"].omop == OmopMeasurements(
        url="postgresql://me@db/c", password=Secret(file=tmp_path / "pw"), concept=3004249, unit=8, since="2026-01-01"
    )
    assert [name for name, source in sources.items() if source.quick] == ["a", "b"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "csv: {file: a, column: x, row: 1, key: id}",
            "1: sources.x.csv.key: says whose value each row has, and one row is named",
        ),
        ("json: {file: a, value: sys}", "1: sources.x.json.value: is not a JSON Pointer; write for instance /vitals/systolic"),
        ("json: {file: a, value: /a~2}", "1: sources.x.json.value: is not a JSON Pointer"),
        (
            "duckdb: {file: a.txt, query: q, column: x}",
            "1: sources.x.duckdb.file: is no file that DuckDB reads here; name one that",
        ),
        ("duckdb: {file: a.csv, query: q, column: x, timeout: 0}", "1: sources.x.duckdb.timeout: is too small; give 1 or more"),
        ("sql: {query: q, column: x}", "1: sources.x.sql: give exactly one of file and url"),
        ("sql: {file: a, url: 'postgresql://h/d', query: q, column: x}", "1: sources.x.sql: give exactly one of file and url"),
        (
            "sql: {file: a, password: {file: b}, query: q, column: x}",
            "1: sources.x.sql.password: has no use for a file; remove it",
        ),
        (
            "sql: {url: 'postgresql://me:s3cr3t@h/d', query: q, column: x}",
            "1: sources.x.sql.url: holds a password; remove it, and say",
        ),
        ("sql: {url: 'postgresql://h/d?password=s3cr3t', query: q, column: x}", "1: sources.x.sql.url: holds a password"),
        (
            "sql: {url: 'mysql://h/d', query: q, column: x}",
            "1: sources.x.sql.url: is no database that is known here; write postgresql:",
        ),
        ("sql: {url: 'postgresql://h', query: q, column: x}", "1: sources.x.sql.url: is no database that is known here"),
        ("sql: {url: 'postgresql://[h/d', query: q, column: x}", "1: sources.x.sql.url: is no database that is known here"),
        ("omop: {file: a.db, concept: 0}", "1: sources.x.omop.concept: is too small; give 1 or more"),
        ("omop: {file: a.db, concept: 1, schema: 'a; DROP'}", "1: sources.x.omop.schema: does not match the pattern"),
        ("omop: {file: a.db, concept: 1, since: '2026-1-1'}", "1: sources.x.omop.since: does not match the pattern"),
        ("fhir: {code: 8480-6}", "1: sources.x.fhir: give exactly one of file and url"),
        ("fhir: {file: a.json, code: systolic}", "1: sources.x.fhir.code: does not match the pattern"),
        ("fhir: {file: a.json, code: 8480-6, subject: '4711'}", "1: sources.x.fhir.subject: does not match the pattern"),
        ("fhir: {file: a.json, code: 8480-6, token: {file: t}}", "1: sources.x.fhir.token: has no use for a file; remove it"),
        (
            "fhir: {url: 'http://fhir.example/r4', code: 8480-6}",
            "1: sources.x.fhir.url: would send values over the network for all",
        ),
        (
            "fhir: {url: 'https://me:s3cr3t@h/r4', code: 8480-6}",
            "1: sources.x.fhir.url: has a user or password; remove it, and say",
        ),
        ("fhir: {url: 'https://h/r4?code=1', code: 8480-6}", "1: sources.x.fhir.url: is no base URL of a FHIR server; write"),
        ("fhir: {url: 'ftp://h/r4', code: 8480-6}", "1: sources.x.fhir.url: is no base URL of a FHIR server; write"),
        (
            "fhir: {url: 'https://h/r4', code: 8480-6, token: {}}",
            "1: sources.x.fhir.token: nothing is given; give exactly one of file",
        ),
        (
            "fhir: {url: 'https://h/r4', code: 8480-6, token: {credential: a/b}}",
            "1: sources.x.fhir.token.credential: is a path; write",
        ),
    ],
)
def test_a_mistake_is_told_by_its_place_and_repeats_no_secret(write: Write, source: str, expected: str) -> None:
    found = problems(write("a.yaml", f"sources: {{x: {{bounds: [0, 300], {source}}}}}\n"))
    assert len(found) == 1
    assert found[0].startswith(expected)
    assert "s3cr3t" not in found[0]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:8080"])
def test_a_server_of_this_machine_needs_no_tls(write: Write, host: str) -> None:
    assert (
        problems(write("a.yaml", f"sources: {{x: {{bounds: [0, 1], fhir: {{url: 'http://{host}/r4', code: 8480-6}}}}}}\n")) == []
    )


@pytest.mark.parametrize(
    ("source", "library"),
    [
        (SourceConfig(bounds=(0, 1), parquet=ParquetFile(file=Path("a"), column="x")), "pyarrow"),
        (SourceConfig(bounds=(0, 1), xlsx=XlsxFile(file=Path("a"), column="x")), "openpyxl"),
        (SourceConfig(bounds=(0, 1), duckdb=DuckDbQuery(file=Path("a.csv"), query="q", column="x")), "duckdb"),
        (SourceConfig(bounds=(0, 1), omop=OmopMeasurements(file=Path("a.duckdb"), concept=1)), "duckdb"),
        (SourceConfig(bounds=(0, 1), sql=SqlQuery(file=Path("a"), query="q", column="x")), "sqlalchemy"),
        (SourceConfig(bounds=(0, 1), sql=SqlQuery(url="postgresql://h/d", query="q", column="x")), "psycopg"),
    ],
)
def test_a_library_that_is_missing_is_named_before_any_round(
    source: SourceConfig, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == library else genuine(name))
    with pytest.raises(ConfigError) as caught:
        source.source("pulse")
    assert str(caught.value) == (f"sources.pulse: this needs {library}, which is not installed: pip install 'cohortium[sources]'")


def test_what_needs_no_library_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    for source in (
        SourceConfig(bounds=(0, 1), csv=CsvFile(file=Path("a"), column="x")),
        SourceConfig(bounds=(0, 1), json=JsonFile(file=Path("a"), value="/x")),
        SourceConfig(bounds=(0, 1), fhir=FhirObservations(file=Path("a"), code="8480-6")),
    ):
        assert source.source("pulse").variable == "pulse"
