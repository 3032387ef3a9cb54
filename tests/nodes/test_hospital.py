"""The hospital's daemon with its patients', all in this process, over real TLS on the loopback."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import msgspec
import pytest
from structlog.testing import capture_logs

from mpc.errors import Answer, MessageRefused, StudyError
from mpc.identity import Identity, Role
from mpc.messages import AbortCode
from mpc.rounds.admission import Admitted
from mpc.rounds.events import Effect, ValuesUnavailable
from mpc.rounds.events import Event as RoundEvent
from mpc.rounds.hospital import HospitalRound
from nodes.admin.client import AdminClient
from nodes.config import check_hospital, check_patient
from nodes.hospital import HospitalDaemon
from nodes.patient import PatientDaemon
from nodes.records import RoundRecord
from nodes.rounds import New
from nodes.store.base import Begun, Closed, Step, StoreError
from tests.mpc.nodes import HOSPITAL, credential, patient, study
from tests.nodes.house import STUDY, Site, at_work, eventually, make_site, short_directory

VALUES = {"alice": 725, "bob": 310, "charlie": 540}


@pytest.fixture
def site() -> Iterator[Site]:
    with short_directory() as directory:
        yield make_site(directory, VALUES)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.keys.DEFAULT_BITS", 2048)
    monkeypatch.setattr("nodes.service._settle", lambda: None)


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
        assert record.full(record.result)["statistics"] == {"value": {"sum": 1575}}
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
            assert again.full(again.result)["statistics"] == {"value": {"sum": 1575}}
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
    before = record.full(record.result)
    running.hospital.cancel_round(record.round_id)
    await running.hospital.open_round("pressure")  # behind it in the queue
    assert record.full(record.result) == before


async def test_a_record_is_kept_from_the_moment_of_opening(running: Running) -> None:
    record: RoundRecord = await running.hospital.open_round("pressure")
    assert running.hospital.records.get(record.round_id) is record
    assert record.phase in ("inviting", "sharing", "collecting", "released")
    await eventually(lambda: record.ended)


# -- rounds that fail, and rounds of earlier lives


def refuse(*_arguments: object) -> object:
    """Stands for the decoding of what another version has written."""
    raise MessageRefused(Answer.REJECTED, "encoding")


@pytest.fixture
def four() -> Iterator[Site]:
    """A site with a study of which three patients are enough."""
    study = STUDY.replace("[alice, bob, charlie]", "[alice, bob, charlie, dora], minimum: 3")
    with short_directory() as directory:
        yield make_site(directory, VALUES | {"dora": 1}, study)


async def test_a_round_that_failed_is_opened_again_without_those_who_failed_it(four: Site) -> None:
    hospital, patients = four.daemons()
    patients["dora"].sources = {}
    async with at_work(hospital, *patients.values()):
        failed = await hospital.open_round("pressure")
        await eventually(lambda: failed.ended)
        assert (failed.code, failed.missing, failed.attempt) == (AbortCode.UNAVAILABLE, ("dora",), 1)
        await eventually(lambda: [record.ended for record in hospital.records.all()] == [True, True])
        _, record = hospital.records.all()
        assert failed.full(None)["followed_by"] == record.round_id.hex()
        assert (record.outcome, record.attempt) == ("released", 2)
        full = record.full(record.result)
        assert (full["patients"], full["statistics"]) == (3, {"value": {"sum": 1575}})


async def test_a_round_is_tried_again_as_often_as_the_configuration_says_and_no_more(four: Site) -> None:
    hospital, patients = four.daemons()
    hospital.use(msgspec.structs.replace(hospital.config, retries=0))
    patients["dora"].sources = {}
    async with at_work(hospital, *patients.values()):
        failed = await hospital.open_round("pressure")
        await eventually(lambda: failed.ended)
        assert "followed_by" not in failed.full(None)
    assert hospital.records.all() == [failed]


async def test_a_round_without_enough_others_is_not_tried_again(site: Site) -> None:
    hospital, patients = site.daemons()
    patients["charlie"].sources = {}
    async with at_work(hospital, *patients.values()):
        failed = await hospital.open_round("pressure")
        await eventually(lambda: failed.ended)
    assert (failed.code, failed.followed_by) == (AbortCode.UNAVAILABLE, "")
    assert hospital.records.all() == [failed]


async def test_results_are_in_the_store_after_a_restart(site: Site) -> None:
    hospital, patients = site.daemons()
    async with at_work(hospital, *patients.values()):
        record = await hospital.open_round("pressure")
        await eventually(lambda: record.ended)
        full = await hospital.full(record)
    again = HospitalDaemon(check_hospital(site.hospital))
    async with at_work(again):
        (kept,) = again.records.all()
        assert kept.result is None
        assert await again.full(kept) == full
        assert full["statistics"] == {"value": {"sum": 1575}}
        await again.store.erase_before(time.time() + 1)
        assert (await again.full(kept))["detail"] == "the values of this result have been erased"


async def test_what_hospital_and_patient_keep_of_ended_rounds_can_be_erased(running: Running) -> None:
    hospital, alice = running.hospital, running.patients["alice"]
    record = await hospital.open_round("pressure")
    await eventually(lambda: record.ended and not hospital.driver.outbox.depth() and not alice.ledger.open_rounds())
    for daemon in (hospital, alice):
        async with AdminClient(daemon.config.admin) as client:
            assert await client.post("/v1/erase", {"older_than_days": 1}) == {"rows": 0}
            assert len(await daemon.store.closed_rounds(10)) == 1
            assert await client.post("/v1/erase", {"older_than_days": 0, "study": "weight"}) == {"rows": 0}
            assert (await client.post("/v1/erase", {"older_than_days": 0, "study": "pressure"}))["rows"] >= 2
        assert await daemon.store.closed_rounds(10) == []
        assert {kept.line.study for kept in await daemon.store.audit(0, 10)} == {""}
    assert hospital.records.all() == []


@pytest.mark.parametrize("role", ["hospital", "patient"])
async def test_what_is_older_than_keep_days_is_erased_by_itself(site: Site, role: str) -> None:
    path = site.hospital if role == "hospital" else site.patients["alice"]
    path.write_text(path.read_text() + "keep_days: 1\n")
    make = (lambda: HospitalDaemon(check_hospital(path))) if role == "hospital" else (lambda: PatientDaemon(check_patient(path)))
    store, young = make().store, os.urandom(16)
    await store.open()
    for round_id, days in ((os.urandom(16), 1.1), (young, 0.9)):
        ended = time.time() - days * 86400
        await store.commit([Step(round_id, Begun(ended - 5, role, "pressure", b""), closed=Closed(ended, "released", "", b""))])
    await store.close()
    daemon = make()
    with capture_logs() as logged:
        async with at_work(daemon):
            await eventually(lambda: "erased" in [entry["event"] for entry in logged])
            assert [kept.round_id for kept in await daemon.store.closed_rounds(10)] == [young]
            if isinstance(daemon, HospitalDaemon):
                assert [record.round_id for record in daemon.records.all()] == [young]


async def test_a_round_goes_on_after_a_restart_of_all(site: Site) -> None:
    hospital, patients = site.daemons()
    del patients["charlie"]
    async with at_work(hospital, *patients.values()):
        opened = await hospital.open_round("pressure")
        await eventually(lambda: opened.waiting_for == ("charlie",))
    again, everybody = site.daemons()
    async with at_work(again, *everybody.values()):
        (record,) = again.records.all()
        assert (record.round_id, record.modulus) == (opened.round_id, 3_000_001)
        assert abs(record.opened - opened.opened) < 1
        await eventually(lambda: record.ended)
        assert record.full(record.result)["statistics"] == {"value": {"sum": 1575}}


async def test_what_a_failed_round_tells_is_the_same_after_a_restart(four: Site) -> None:
    hospital, patients = four.daemons()
    patients["dora"].sources = {}
    async with at_work(hospital, *patients.values()):
        await hospital.open_round("pressure")
        await eventually(lambda: [record.ended for record in hospital.records.all()] == [True, True])
        told = [record.summary() for record in hospital.records.all()]
        assert (told[0]["followed_by"], told[1]["follows"]) == (told[1]["round"], told[0]["round"])
    again = HospitalDaemon(check_hospital(four.hospital))
    async with at_work(again):
        assert [record.summary() for record in again.records.all()] == told


async def test_a_round_that_fails_after_a_restart_is_opened_again_like_any_other(four: Site) -> None:
    hospital, patients = four.daemons()
    dora = patients.pop("dora")
    async with at_work(*patients.values()):
        async with at_work(hospital):
            opened = await hospital.open_round("pressure")
            await eventually(lambda: opened.waiting_for == ("dora",))
        dora.sources = {}
        again = HospitalDaemon(check_hospital(four.hospital))
        async with at_work(again, dora):
            await eventually(lambda: [record.ended for record in again.records.all()] == [True, True])
            failed, record = again.records.all()
            assert (failed.round_id, failed.code, failed.followed_by) == (opened.round_id, "unavailable", record.round_id.hex())
            assert (record.outcome, record.attempt) == ("released", 2)


async def test_a_restart_does_not_give_a_round_more_attempts(four: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    hospital, patients = four.daemons()
    patients["dora"].sources = {}
    charlie = patients["charlie"].driver.rounds
    invited, take = set[bytes](), charlie._new_round

    def once(message: Admitted) -> New | None:
        invited.add(message.envelope.header.round)
        return take(message) if len(invited) == 1 else None  # to the second round there is no answer

    async with at_work(*patients.values()):
        with monkeypatch.context() as patched:
            patched.setattr(charlie, "_new_round", once)
            async with at_work(hospital):
                failed = await hospital.open_round("pressure")
                await eventually(lambda: len(hospital.records.all()) == 2 and len(invited) == 2)
                _, follower = hospital.records.all()
                await eventually(lambda: follower.waiting_for == ("charlie",))
            patients["charlie"].sources = {}
        again = HospitalDaemon(check_hospital(four.hospital))
        async with at_work(again):
            before, record = again.records.all()
            assert (before.followed_by, record.follows) == (record.round_id.hex(), failed.round_id.hex())
            await eventually(lambda: record.ended)
            assert (record.code, record.attempt, record.followed_by) == ("unavailable", 2, "")
            assert len(again.records.all()) == 2


async def test_a_follower_that_cannot_be_opened_is_seen_with_the_reason(four: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    hospital, patients = four.daemons()
    patients["dora"].sources = {}
    async with at_work(hospital, *patients.values()):
        begin, begun = hospital.driver.begin, list[New]()

        async def once(new: New, event: RoundEvent) -> None:
            begun.append(new)
            if len(begun) > 1:
                raise StoreError("disk-full", "the disk is full")
            await begin(new, event)

        monkeypatch.setattr(hospital.driver, "begin", once)
        failed = await hospital.open_round("pressure")
        await eventually(lambda: [record.ended for record in hospital.records.all()] == [True, True])
        _, follower = hospital.records.all()
        assert failed.followed_by == follower.round_id.hex()
        assert (follower.code, follower.detail) == ("not-opened", "the disk is full")


async def test_a_round_that_this_version_cannot_read_is_given_up_and_the_daemon_starts(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital, _ = site.daemons()
    async with at_work(hospital):
        await hospital.open_round("pressure")
    monkeypatch.setattr("nodes.hospital.decode", refuse)
    again = HospitalDaemon(check_hospital(site.hospital))
    with capture_logs() as logged:
        async with at_work(again):
            (record,) = again.records.all()
            assert (record.outcome, record.code) == ("aborted", "lost")
    (lost,) = [entry["reason"] for entry in logged if entry["event"] == "round-lost"]
    assert lost == "another version of this program opened it, and this one would not: encoding"


async def test_a_bug_that_a_kept_round_hits_does_not_keep_the_daemon_from_starting(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital, _ = site.daemons()
    async with at_work(hospital):
        await hospital.open_round("pressure")

    def bug(_machine: object, _event: object, _now: float) -> list[Effect]:
        raise KeyError("725")

    monkeypatch.setattr(HospitalRound, "handle", bug)
    again = HospitalDaemon(check_hospital(site.hospital))
    with capture_logs() as logged:
        async with at_work(again):
            assert [record.code for record in again.records.all()] == ["lost"]
    (lost,) = [entry["reason"] for entry in logged if entry["event"] == "round-lost"]
    assert lost.startswith("this program fails at an event that it took: KeyError at ")
    assert "725" not in lost


async def test_rounds_that_a_restored_copy_gave_up_are_seen(site: Site) -> None:
    hospital, _ = site.daemons()
    async with at_work(hospital):
        opened = await hospital.open_round("pressure")
    (hospital.config.state / "commits").unlink()
    for life in ("in which it is given up", "after that"):
        again = HospitalDaemon(check_hospital(site.hospital))
        async with at_work(again):
            (record,) = again.records.all()
            assert (record.round_id, record.study, record.outcome, record.code) == (
                opened.round_id,
                "pressure",
                "aborted",
                "lost",
            ), life


async def test_a_round_that_cannot_be_kept_is_not_opened(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(_steps: object) -> int:
        raise StoreError("disk-full", "the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(running.hospital.store, "commit", full)
        with pytest.raises(StoreError, match="the round could not be kept"):
            await running.hospital.open_round("pressure")
        assert running.hospital.not_ready() == ["the store fails: disk-full"]
    assert running.hospital.records.all() == []
    record = await running.hospital.open_round("pressure")
    await eventually(lambda: record.ended)
    assert running.hospital.not_ready() == []
