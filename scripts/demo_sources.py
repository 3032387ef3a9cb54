"""Where the ten patients of demo_consent.py have their value: a literal, files, a FHIR server, OMOP databases."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from scripts.postgres import NotInstalled, running_cluster

CODE, UNIT = "8480-6", "mm[Hg]"
"""Systolic blood pressure, of LOINC and UCUM; and in OMOP's vocabulary:"""
_CONCEPT, _UNIT_CONCEPT = 3004249, 8876
_DATE = "2026-03-01"

VALUES: Mapping[str, int] = {
    "alice": 128,
    "bob": 135,
    "charlie": 142,
    "dora": 118,
    "emil": 151,
    "frieda": 122,
    "gustav": 139,
    "hanna": 147,
    "ivan": 131,
    "jana": 126,
}
"""Made up."""

Source = dict[str, Any]


@contextlib.contextmanager
def sources(directory: Path) -> Iterator[tuple[dict[str, Source], dict[str, str]]]:
    """Each patient's source as its YAML has it, and in words; servers run inside. Files lie in `directory`/NAME."""
    found: dict[str, Source] = {}
    words: dict[str, str] = {}
    with contextlib.ExitStack() as stack:

        def has(name: str, what: str, source: Source) -> None:
            found[name], words[name] = source, what

        for name in VALUES:
            (directory / name).mkdir(mode=0o700)
        has("alice", "a literal", {"literal": VALUES["alice"]})
        has("bob", "a CSV file", {"csv": {"file": _csv(directory / "bob"), "column": "systolic"}})
        url = stack.enter_context(_fhir_server(_observation("charlie")))
        has("charlie", "a FHIR server", {"fhir": {"url": url, "code": CODE, "unit": UNIT, "subject": "Patient/charlie"}})
        omop = {"concept": _CONCEPT, "unit": _UNIT_CONCEPT, "person": 1}
        place, what = stack.enter_context(_omop_server("dora", directory / "dora"))
        has("dora", what, {"omop": {**place, **omop}})
        has("emil", "an OMOP database in a file", {"omop": {"file": _omop_file(directory / "emil"), **omop}})
        has("frieda", "a FHIR bundle in a file", {"fhir": {"file": _bundle(directory / "frieda"), "code": CODE, "unit": UNIT}})
        has("gustav", "a JSON file", {"json": {"file": _json(directory / "gustav"), "value": "/pressure/systolic"}})
        has("hanna", "a CSV file, and she wants to be asked", {"csv": {"file": _csv(directory / "hanna"), "column": "systolic"}})
        has("ivan", "a literal, for research alone", {"literal": VALUES["ivan"]})
        has("jana", "a literal, behind noise alone", {"literal": VALUES["jana"]})
        yield found, words


def _csv(directory: Path) -> str:
    with (directory / "readings.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("day", "systolic"), (_DATE, VALUES[directory.name])])
    return "readings.csv"


def _json(directory: Path) -> str:
    (directory / "record.json").write_text(json.dumps({"pressure": {"systolic": VALUES[directory.name], "diastolic": 80}}))
    return "record.json"


# -- FHIR


def _observation(name: str) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": f"pressure-{name}",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": CODE}]},
        "subject": {"reference": f"Patient/{name}"},
        "effectiveDateTime": f"{_DATE}T08:00:00Z",
        "valueQuantity": {"value": VALUES[name], "unit": "mmHg", "system": "http://unitsofmeasure.org", "code": UNIT},
    }


def _bundle(directory: Path) -> str:
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": _observation(directory.name)}]}
    (directory / "bundle.json").write_text(json.dumps(bundle))
    return "bundle.json"


class _Fhir(BaseHTTPRequestHandler):
    """Answers every search with one page."""

    page: ClassVar[bytes]

    def do_GET(self) -> None:
        """Of Observations, as for everything else."""
        self.send_response(200)
        self.send_header("Content-Type", "application/fhir+json")
        self.send_header("Content-Length", str(len(self.page)))
        self.end_headers()
        self.wfile.write(self.page)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@contextlib.contextmanager
def _fhir_server(observation: dict[str, Any]) -> Iterator[str]:
    bundle = {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": observation, "search": {"mode": "match"}}]}
    handler = type("Handler", (_Fhir,), {"page": json.dumps(bundle).encode()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/r4"
        finally:
            server.shutdown()


# -- OMOP

_TABLE = """CREATE TABLE measurement (
    measurement_id INTEGER, person_id INTEGER, measurement_concept_id INTEGER, measurement_date DATE,
    measurement_datetime TIMESTAMP, operator_concept_id INTEGER, value_as_number NUMERIC, value_as_concept_id INTEGER,
    unit_concept_id INTEGER
)"""


def _row(name: str) -> str:
    values = f"1, 1, {_CONCEPT}, '{_DATE}', '{_DATE} 08:00:00', NULL, {VALUES[name]}, NULL, {_UNIT_CONCEPT}"
    return f"INSERT INTO measurement VALUES ({values})"  # noqa: S608 (made of constants)


def _omop_file(directory: Path) -> str:
    with contextlib.closing(sqlite3.connect(directory / "omop.db")) as database:
        database.execute(_TABLE)
        database.execute(_row(directory.name))
        database.commit()
    return "omop.db"


@contextlib.contextmanager
def _omop_server(name: str, directory: Path) -> Iterator[tuple[Source, str]]:
    """In PostgreSQL, or where there is none, in a file."""
    with contextlib.ExitStack() as stack:
        try:
            if importlib.util.find_spec("psycopg") is None:
                raise NotInstalled("psycopg is not installed")
            cluster = stack.enter_context(running_cluster())
        except NotInstalled as missing:
            yield {"file": _omop_file(directory)}, f"an OMOP database in a file ({missing})"
            return
        cluster.sql(f"{_TABLE}; {_row(name)}; CREATE ROLE reader LOGIN; GRANT SELECT ON measurement TO reader")
        yield {"url": cluster.url().replace("user=postgres", "user=reader")}, "an OMOP database in PostgreSQL"
