"""The life of a daemon: any order of starting, waiting for who is absent, stopping on a signal at any time."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Iterator

import pytest

from scripts.deployment import HOSPITAL, STUDY
from tests.e2e.harness import SECONDS, Cohort, cohortium, total

PATIENTS = ("alice", "bob", "charlie")


@pytest.fixture(scope="module")
def _deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cohort]:
    sources = {"alice": {"literal": 725}, "bob": {"literal": 310}, "charlie": {"literal": 540}}
    with Cohort(tmp_path_factory.mktemp("lives"), sources, deadline=90) as made:
        yield made


@pytest.fixture
def cohort(_deployment: Cohort) -> Iterator[Cohort]:
    """A deployment of which nothing runs, and no node has lived before."""
    yield _deployment
    for name in list(_deployment.daemons.children):
        if _deployment.is_running(name):
            _deployment.kill(name)
    for name in _deployment.deployment.nodes:
        shutil.rmtree(_deployment.directory / name / "state", ignore_errors=True)


def test_the_hospital_waits_for_a_patient_that_starts_late(cohort: Cohort) -> None:
    cohort.start("bob")
    cohort.start(HOSPITAL)
    round_id = cohort.open(STUDY)
    cohort.wait_until_waiting_for(round_id, "inviting", "alice", "charlie")
    shown = cohortium("round", "show", round_id, "--config", cohort.config(HOSPITAL))
    assert re.search(r"^waiting +alice, charlie$", shown.stdout, re.MULTILINE)
    listed = json.loads(cohortium("round", "list", "--json", "--config", cohort.config(HOSPITAL)).stdout)
    assert listed[0]["waiting_for"] == ["alice", "charlie"]
    cohort.start("alice")
    cohort.wait_until_waiting_for(round_id, "inviting", "charlie")
    cohort.start("charlie")
    assert total(cohort.result(round_id)) == 1575


def test_a_patient_that_never_starts_is_named_at_the_deadline(cohort: Cohort) -> None:
    study = cohort.write_study("soon", members=PATIENTS, deadline=4)
    cohort.start(HOSPITAL, "alice", "bob")
    told = cohortium("round", "open", study, "--watch", "--config", cohort.config(HOSPITAL))
    assert told.returncode == 1
    why = "too few patients consented in time; without an answer or declined: charlie"
    assert re.search(r"^outcome +aborted \(too-few-members\)$", told.stdout, re.MULTILINE)
    assert re.search(rf"^why +{why}$", told.stdout, re.MULTILINE)
    assert "waiting for charlie" in told.stderr
    *_, final = cohort.hospital.get("/v1/rounds")
    assert (final["outcome"], final["code"], final["missing"]) == ("aborted", "too-few-members", ["charlie"])
    assert final["detail"] == why
    cohort.start("charlie")
    assert total(cohort.run(STUDY)) == 1575


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_daemon_in_order(cohort: Cohort, number: signal.Signals) -> None:
    names = (HOSPITAL, "alice")
    cohort.start(*names)
    for name in names:
        cohort.signal(name, number)
    for name in names:
        assert cohort.process(name).wait(SECONDS) == 0
        assert [entry["event"] for entry in cohort.log(name)][-2:] == ["stopping", "stopped"]
        assert not cohort.deployment.socket(name).exists()


def test_a_signal_ends_daemons_in_the_middle_of_a_round(cohort: Cohort) -> None:
    cohort.start(HOSPITAL, "alice", "bob")
    round_id = cohort.open(STUDY)
    cohort.wait_until_waiting_for(round_id, "inviting", "charlie")
    with cohort.hospital.ask("GET", f"/v1/rounds/{round_id}/watch") as news:
        assert json.loads(news.readline())["round"] == round_id
        for name in (HOSPITAL, "alice", "bob"):
            cohort.signal(name, signal.SIGTERM)
        while news.readline():  # whoever watches is told by the end of the stream
            pass
    for name in (HOSPITAL, "alice", "bob"):
        assert cohort.process(name).wait(SECONDS) == 0
        assert cohort.log(name)[-1]["event"] == "stopped"
        assert not cohort.logged(name, "failed")
