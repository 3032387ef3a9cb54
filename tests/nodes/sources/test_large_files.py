"""Files that are larger than memory: what stays of them is the numbers that are asked for, whatever else stands in them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.nodes.sources.conftest import ROOT

MIB = 1 << 20
READ = """
import resource, sys
from pathlib import Path
from mpc.disclosure import Bounds, Categories
from nodes.sources.base import Wanted
from nodes.sources.{module} import {kind}

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

sources = [
    ({kind}(file=Path(sys.argv[1]), {how}), Wanted("systolic", Bounds(0, 300), records=10**7)),
    ({kind}(file=Path(sys.argv[1]), {how_sex}), Wanted("sex", Categories(frozenset({{"male", "female"}})), records=10**7)),
]
{kind}.read([(source, Wanted(wanted.variable, wanted.declared, records=1)) for source, wanted in sources])  # what libraries take
before = peak()
systolic, sex = {kind}.read(sources)
print(len(systolic.column), int(systolic.column.sum()), sex.column.count("male"), peak() - before)
"""


def read(path: Path, module: str, kind: str, how: str, how_sex: str) -> list[int]:
    """Records, the sum of one column, a count of the other, and MiB that a process took for it."""
    program = READ.format(module=module, kind=kind, how=how, how_sex=how_sex)
    done = subprocess.run(
        [sys.executable, "-c", program, path], cwd=ROOT, capture_output=True, text=True, timeout=600, check=True
    )
    return [int(word) for word in done.stdout.split()]


@pytest.mark.parametrize(
    "size", [64 * MIB, pytest.param(5 * 1024 * MIB, marks=[pytest.mark.soak, pytest.mark.timeout(900)])], ids=["64 MiB", "5 GiB"]
)
def test_a_csv_file_streams(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.csv"
    thousand = "".join(f"{row},{row % 300},{('male', 'female')[row % 2]},{'x' * 4000}\n" for row in range(1000))
    times = size // len(thousand) + 1
    with path.open("w") as file:
        file.write("id,systolic,sex,note\n")
        for _ in range(times):
            file.write(thousand)
    assert path.stat().st_size >= size
    records, total, men, mebibytes = read(path, "csv_file", "CsvFile", "column='systolic'", "column='sex'")
    assert (records, total, men) == (1000 * times, times * sum(row % 300 for row in range(1000)), 500 * times)
    assert mebibytes < 30 + 64 * records / MIB
    path.unlink()


def test_an_ndjson_export_streams(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    code, note = '{"coding": [{"system": "http://loinc.org", "code": "8480-6"}]}', "x" * 50_000
    with path.open("w") as file:
        for row in range(1000):
            who = f'"subject": {{"reference": "Patient/{row % 100}"}}, "issued": "2026-01-01", "note": [{{"text": "{note}"}}]'
            value = f'"status": "final", "valueInteger": {row % 300}, "valueString": "{("male", "female")[row % 2]}"'
            file.write(f'{{"resourceType": "Observation", "id": "{row:04}", "code": {code}, {who}, {value}}}\n')
    records, total, men, mebibytes = read(path, "fhir", "FhirObservations", "code='8480-6'", "code='8480-6'")
    # Of one moment, the last by id counts: rows 900 to 999.
    assert (records, total, men) == (100, sum(row % 300 for row in range(900, 1000)), 50)
    assert mebibytes < 25
