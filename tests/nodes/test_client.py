"""The Python client against a hospital and its patients, all in this process, over real TLS; and against one that fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from cohortium import BlockingHospital, Hospital, Progress, RoundAborted, StudyResult, TemporaryError, UserError, Withheld
from mpc.statistics.mean import MeanFigures
from mpc.statistics.sum import SumFigures
from nodes.commands.results import results as results_group
from nodes.hospital import HospitalDaemon
from tests.nodes.house import Site, at_work, eventually, make_site, short_directory, soon

VALUES = {"alice": 725, "bob": 310, "charlie": 540}
STUDY = """\
id: pressure
title: Systolic pressure
purpose: test
variables: [{name: value, unit: mmHg, bounds: [0, 1000000]}]
statistics: [{kind: sum, variable: value}, {kind: mean, variable: value}]
cohort: {members: [alice, bob, charlie]}
deadline: 30
"""


@pytest.fixture
def site() -> Iterator[Site]:
    with short_directory() as directory:
        yield make_site(directory, VALUES, STUDY)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.keys.DEFAULT_BITS", 2048)
    monkeypatch.setattr("nodes.service._settle", lambda: None)


@pytest.fixture
async def daemon(site: Site) -> AsyncIterator[HospitalDaemon]:
    hospital, patients = site.daemons()
    async with at_work(hospital, *patients.values()):
        yield hospital


def add_study(site: Site, name: str, more: str) -> None:
    (site.directory / "studies" / f"{name}.yaml").write_text(STUDY.replace("id: pressure", f"id: {name}") + more)


async def test_a_run_gives_the_figures_and_hears_of_each_phase(daemon: HospitalDaemon) -> None:
    seen: list[Progress] = []
    result = await soon(Hospital(daemon.config.admin).run("pressure", seen.append))
    total, mean = result.statistics
    assert isinstance(total, SumFigures)
    assert isinstance(mean, MeanFigures)
    assert (total.totals, total.unit, mean.mean.value) == ((1575,), "mmHg", 525.0)
    assert (result.title, result.members, result.rules) == ("Systolic pressure", 3, "")
    assert seen[-1].outcome == "released"
    assert {one.round for one in seen} == {result.round}


async def test_the_command_line_prints_the_same_object(daemon: HospitalDaemon) -> None:
    result = await soon(Hospital(daemon.config.admin).run("pressure"))
    arguments = ["show", "pressure", "--json", "--socket", str(daemon.config.admin)]
    # The daemons' own log is on the same stdout here.
    printed = (await asyncio.to_thread(CliRunner().invoke, results_group, arguments)).stdout.splitlines()[-1]
    assert StudyResult.from_json(printed.encode()) == result
    assert json.loads(printed) == json.loads(result.json())


async def test_a_program_without_an_event_loop_gets_the_same(daemon: HospitalDaemon) -> None:
    hospital = BlockingHospital(daemon.config.admin)
    seen: list[str] = []
    result = await soon(asyncio.to_thread(hospital.run, "pressure", lambda state: seen.append(state.outcome)))
    assert seen[-1] == "released"
    assert await soon(asyncio.to_thread(hospital.result, result.round[:8])) == result
    assert [one.round for one in await soon(asyncio.to_thread(hospital.results))] == [result.round]
    assert [one.id for one in await soon(asyncio.to_thread(hospital.studies))] == ["pressure"]


async def test_release_rules_hold_for_all_that_the_hospital_shows(daemon: HospitalDaemon, site: Site) -> None:
    add_study(site, "ruled", "release: {minimum_cell: 4}\n")
    hospital = Hospital(daemon.config.admin)
    result = await soon(hospital.run("ruled"))
    assert {type(told) for told in result.statistics} == {Withheld}
    shown = await hospital._get(f"/v1/rounds/{result.round}")
    assert "statistics" not in shown
    assert shown["detail"] == "its totals are told by the study's release rules alone: see 'results show'"
    assert "1575" not in json.dumps(shown) + result.json().decode()


async def test_results_outlive_the_daemon(site: Site) -> None:
    hospital, patients = site.daemons()
    async with at_work(hospital, *patients.values()):
        first = await soon(Hospital(hospital.config.admin).run("pressure"))
    again, _ = site.daemons()
    async with at_work(again):
        assert await Hospital(again.config.admin).result("pressure") == first


async def test_the_newest_result_of_a_study_is_its_result(daemon: HospitalDaemon) -> None:
    hospital = Hospital(daemon.config.admin)
    first, second = [await soon(hospital.run("pressure")) for _ in range(2)]
    assert [one.round for one in await hospital.results()] == [first.round, second.round]
    assert await hospital.result("pressure") == second
    assert await hospital.result(first.round[:12]) == first


async def test_an_erased_result_is_said_to_be_erased(daemon: HospitalDaemon) -> None:
    hospital = Hospital(daemon.config.admin)
    result = await soon(hospital.run("pressure"))
    await daemon.store.erase_before(2e9)
    with pytest.raises(UserError, match="the values of this result have been erased"):
        await hospital.result(result.round)


@pytest.mark.parametrize("name", ["weight", "ffff", ""])
async def test_a_result_that_there_is_not_is_named(daemon: HospitalDaemon, name: str) -> None:
    with pytest.raises(UserError):
        await Hospital(daemon.config.admin).result(name)


async def test_an_unknown_study_is_refused_with_the_hospitals_reason(daemon: HospitalDaemon) -> None:
    with pytest.raises(UserError, match="there is no study 'weight'"):
        await Hospital(daemon.config.admin).run("weight")


async def test_a_run_without_a_result_says_why_and_who(site: Site) -> None:
    hospital, patients = site.daemons()
    patients.pop("charlie")
    async with at_work(hospital, *patients.values()):
        running = asyncio.create_task(Hospital(hospital.config.admin).run("pressure"))
        await eventually(lambda: bool(hospital.records.all()))
        (record,) = hospital.records.all()
        await eventually(lambda: record.waiting_for == ("charlie",))
        hospital.cancel_round(record.round_id)
        with pytest.raises(RoundAborted) as caught:
            await soon(running)
    assert (caught.value.code, caught.value.phase) == ("cancelled", "inviting")


async def test_a_watcher_waits_for_a_daemon_that_is_restarted(site: Site) -> None:
    hospital, patients = site.daemons()
    charlie = patients.pop("charlie")
    client = Hospital(hospital.config.admin)
    async with at_work(*patients.values()):
        async with at_work(hospital):
            running = asyncio.create_task(client.run("pressure"))
            await eventually(lambda: any(record.waiting_for == ("charlie",) for record in hospital.records.all()))
        assert not running.done()
        again, _ = site.daemons()
        async with at_work(again, charlie):
            result = await soon(running)
    assert result.members == 3


async def test_a_daemon_that_is_not_there_is_said_to_be_away(tmp_path: Path) -> None:
    with pytest.raises(TemporaryError, match="no daemon answers at"):
        await Hospital(tmp_path / "admin.sock").results()
