"""The hospital's daemon with its patients', all in this process, over real TLS on the loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from mpc.errors import StudyError
from mpc.identity import Identity, Role
from mpc.messages import AbortCode
from mpc.rounds.admission import Admitted
from mpc.rounds.events import ValuesUnavailable
from nodes.admin.client import AdminClient
from nodes.config import check_hospital
from nodes.hospital import HospitalDaemon
from nodes.patient import PatientDaemon
from nodes.records import RoundRecord
from tests.mpc.nodes import HOSPITAL, credential, patient, study
from tests.nodes.house import STUDY, Site, at_work, eventually, make_site, short_directory

VALUES = {"alice": 725, "bob": 310, "charlie": 540}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with short_directory() as directory:
        yield make_site(directory, VALUES)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.keys.DEFAULT_BITS", 2048)
    monkeypatch.setattr("nodes.daemon._settle", lambda: None)
    monkeypatch.setattr("nodes.daemon.STOP_SECONDS", 0.2)


@dataclass
class Running:
    hospital: HospitalDaemon
    patients: dict[str, PatientDaemon]


@pytest.fixture
async def running(site: Site) -> AsyncIterator[Running]:
    hospital, patients = site.daemons()
    async with at_work(hospital, *patients.values()):
        yield Running(hospital, patients)


@pytest.fixture
def idle(site: Site) -> HospitalDaemon:
    """A hospital that does not run."""
    return HospitalDaemon(check_hospital(site.hospital))


async def test_rounds_over_real_tls_are_exact_one_after_another_and_together(running: Running) -> None:
    hospital = running.hospital
    first = await hospital.open_round("pressure")
    await eventually(lambda: first.ended)
    together = await asyncio.gather(*(hospital.open_round("pressure") for _ in range(3)))
    await eventually(lambda: all(record.ended for record in together))
    for record in (first, *together):
        assert record.full()["statistics"] == {"value": {"sum": 1575}}
        assert record.modulus == 3_000_001
    assert len({record.round_id for record in hospital.records.all()}) == 4
    status = hospital.status()
    assert (status["rounds"], status["open"], status["unreachable"]) == (4, 0, {})


async def test_a_round_is_opened_and_watched_at_the_admin_socket(running: Running) -> None:
    async with AdminClient(running.hospital.config.admin) as client, asyncio.timeout(5):
        opened = await client.post("/v1/rounds", {"study": "pressure"})
        states = [state async for state in client.lines(f"/v1/rounds/{opened['round']}/watch")]
        shown = await client.get(f"/v1/rounds/{opened['round']}")
    assert opened["outcome"] == "open"
    assert states[-1]["outcome"] == "released"
    assert (shown["patients"], shown["modulus"], shown["statistics"]) == (3, 3_000_001, {"value": {"sum": 1575}})


async def test_no_value_is_in_what_a_daemon_shows(running: Running) -> None:
    record = await running.hospital.open_round("pressure")
    await eventually(lambda: record.ended)
    for daemon in (running.hospital, *running.patients.values()):
        shown = f"{daemon.status()} {daemon.metrics.render()}"
        for value in (*VALUES.values(), 1575):
            assert f" {value}" not in shown.replace(":", " ").replace("=", " ")


async def test_an_absent_patient_is_waited_for_and_named_and_the_next_round_works(site: Site) -> None:
    hospital, patients = site.daemons()
    charlie = patients.pop("charlie")
    async with at_work(hospital, *patients.values()):
        record = await hospital.open_round("pressure")
        await eventually(lambda: record.waiting_for == ("charlie",))
        await eventually(lambda: hospital.status()["unreachable"] != {})
        unreachable = hospital.status()["unreachable"]
        assert isinstance(unreachable, dict)
        assert list(unreachable) == ["charlie"]
        hospital.cancel_round(record.round_id)
        await eventually(lambda: record.ended)
        assert record.code == AbortCode.CANCELLED
        async with at_work(charlie):  # daemons start in any order
            again = await hospital.open_round("pressure")
            await eventually(lambda: again.ended)
            assert again.full()["statistics"] == {"value": {"sum": 1575}}
            assert hospital.status()["unreachable"] == {}


async def test_an_unknown_study_opens_nothing_and_lists_those_there_are(idle: HospitalDaemon) -> None:
    with pytest.raises(StudyError, match=r"^there is no study 'weight' in .*/studies; there is pressure$"):
        await idle.open_round("weight")
    assert idle.records.all() == []


async def test_studies_are_those_in_the_directory_now(idle: HospitalDaemon, site: Site) -> None:
    assert list(idle.studies()) == ["pressure"]
    added = site.directory / "studies" / "weight.yaml"
    added.write_text(STUDY.replace("pressure", "weight"))
    try:
        assert sorted(idle.studies()) == ["pressure", "weight"]
        added.write_text(STUDY.replace("charlie", "nobody"))
        with pytest.raises(StudyError, match="nobody has no address"):
            await idle.open_round("pressure")
    finally:
        added.unlink()
    assert idle.records.all() == []


def test_a_patient_is_reached_where_the_configuration_says(idle: HospitalDaemon) -> None:
    alice = Identity("demo", Role.PATIENT, "alice")
    assert idle.resolve(alice, "https://elsewhere:1") == idle.config.patients["alice"]
    assert idle.resolve(patient("dora"), "https://elsewhere:1") == "https://elsewhere:1"


def test_a_hospital_has_no_values_and_is_invited_to_nothing(idle: HospitalDaemon) -> None:
    assert idle.read_sources(study("alice", "bob", "charlie")) == ValuesUnavailable()
    message = Admitted(None, credential(HOSPITAL))  # type: ignore[arg-type]
    assert idle.new_round(message) is None


async def test_cancelling_a_round_that_ended_changes_nothing(running: Running) -> None:
    record = await running.hospital.open_round("pressure")
    await eventually(lambda: record.ended)
    before = record.full()
    running.hospital.cancel_round(record.round_id)
    await running.hospital.open_round("pressure")  # behind it in the queue
    assert record.full() == before


async def test_a_record_is_kept_from_the_moment_of_opening(running: Running) -> None:
    record: RoundRecord = await running.hospital.open_round("pressure")
    assert running.hospital.records.get(record.round_id) is record
    assert record.phase in ("inviting", "sharing", "collecting", "released")
    await eventually(lambda: record.ended)
