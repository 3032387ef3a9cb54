"""Sources in whole rounds: read beside the event loop; of what fails, the hospital hears `unavailable` and nothing more."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mpc.disclosure import Bounds
from mpc.messages import AbortCode
from nodes.aside import aside
from nodes.hospital import HospitalDaemon
from nodes.records import RoundRecord
from nodes.sources.base import Source
from nodes.sources.fhir import FhirObservations
from nodes.sources.omop import OmopMeasurements
from tests.nodes.house import Site, at_work, eventually, make_site, short_directory
from tests.nodes.sources.conftest import ROOT, Fhir
from tests.nodes.sources.test_databases import MMHG, OMOP_ROWS, PERSONS, SYSTOLIC, sqlite
from tests.nodes.sources.test_fhir import SYSTOLIC as LOINC_SYSTOLIC
from tests.nodes.sources.test_fhir import quantity, seen

BOUNDS = Bounds(0, 1_000_000)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.keys.DEFAULT_BITS", 2048)
    monkeypatch.setattr("nodes.service._settle", lambda: None)


@pytest.fixture
def site() -> Iterator[Site]:
    with short_directory() as directory:
        yield make_site(directory, {"alice": 725, "bob": 310, "charlie": 540})


@asynccontextmanager
async def round_with(site: Site, **sources: Source) -> AsyncIterator[tuple[HospitalDaemon, RoundRecord]]:
    """A round that is opened while these patients read elsewhere."""
    hospital, patients = site.daemons()
    for name, source in sources.items():
        patients[name].sources = {"value": source}
    async with at_work(hospital, *patients.values()):
        record = await hospital.open_round("pressure")
        yield hospital, record


def charlies(url: str) -> Source:
    return Source("value", BOUNDS, FhirObservations(url=url, code=LOINC_SYSTOLIC, unit="mm[Hg]", subject="Patient/c"))


async def test_a_round_over_a_literal_an_omop_table_and_a_fhir_server(site: Site, fhir: Fhir, tmp_path: Path) -> None:
    table = OmopMeasurements(file=sqlite(tmp_path / "omop.db", PERSONS, OMOP_ROWS), concept=SYSTOLIC, unit=MMHG, person=9)
    url = fhir.serve(seen("c", "2026-01-01", **quantity(120)), seen("d", "2026-02-01", **quantity(9)), page=1)
    async with round_with(site, bob=Source("value", BOUNDS, table), charlie=charlies(url)) as (_, record):
        await eventually(lambda: record.ended)
        assert record.full(record.result)["statistics"] == {"value": {"sum": 725 + 131 + 120}}


async def test_the_hospital_hears_unavailable_and_the_patient_why(site: Site, fhir: Fhir) -> None:
    url = fhir.serve(seen("c", "2026-01-01", **quantity(73519, "kPa")))
    with capture_logs() as logged:
        async with round_with(site, charlie=charlies(url)) as (hospital, record):
            await eventually(lambda: record.ended)
            assert (record.code, record.missing) == (AbortCode.UNAVAILABLE, ("charlie",))
            kept = [line.line.content for line in await hospital.store.audit(0, 1000)]
            told = f"{record.full(None)} {hospital.status()} {hospital.metrics.render()} {kept}"
            assert "UCUM" not in told
            assert url not in told
    (why,) = [line["reason"] for line in logged if line["event"] == "source-failed"]
    assert why.endswith("an Observation has not the UCUM unit mm[Hg]; correct the source, or leave the study")
    assert "73519" not in str(logged)


async def test_a_slow_source_holds_up_nothing_else(site: Site, fhir: Fhir) -> None:
    url = fhir.serve(seen("c", "2026-01-01", **quantity(120)), delay=1)
    async with round_with(site, charlie=charlies(url)) as (_, record):
        longest, before = 0.0, time.monotonic()
        while not record.ended:
            await asyncio.sleep(0.001)
            longest, before = max(longest, time.monotonic() - before), time.monotonic()
    assert record.full(record.result)["statistics"] == {"value": {"sum": 725 + 310 + 120}}
    assert longest < 0.9


async def test_a_call_that_is_given_up_is_left_to_itself() -> None:
    hangs, entered = threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        hangs.wait()

    task = asyncio.create_task(aside(hang))
    await eventually(entered.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    hangs.set()
    assert await aside(lambda number: number + 1, 1) == 2


def test_a_process_ends_while_a_source_hangs() -> None:
    program = (
        "import asyncio, threading\nfrom nodes.aside import aside\n"
        "async def main():\n    task = asyncio.create_task(aside(threading.Event().wait))\n    await asyncio.sleep(0.05)\n"
        "    task.cancel()\nasyncio.run(main())\nprint('ended')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "ended\n"
