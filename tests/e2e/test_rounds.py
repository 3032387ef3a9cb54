"""Rounds between real daemons: exact sums, of numbers and of vectors, one after another and at the same time."""

from __future__ import annotations

import json
import re
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mpc.messages import Kind
from scripts.deployment import HOSPITAL, STUDY
from tests.e2e.conftest import PATIENTS, SEEDS, SUM_OF_FOUR, SUM_OF_STEPS, SUM_OF_THREE, TRIO
from tests.e2e.harness import Cohort, cohortium, total
from tests.e2e.played import Played


def test_rounds_one_after_another_give_the_exact_sum_each_time(cohort: Cohort) -> None:
    finals = [cohort.run("three") for _ in range(4)]
    assert [total(final) for final in finals] == [SUM_OF_THREE] * 4
    assert len({final["round"] for final in finals}) == 4
    # R = 3 x 10,000,000, and the modulus is R + 1.
    assert {(final["patients"], final["modulus"]) for final in finals} == {(3, 30_000_001)}


def test_rounds_at_the_same_time_do_not_mix(cohort: Cohort, mallory: Played) -> None:
    studies = ["three", STUDY, "steps", "published", "three", STUDY]
    rounds = [cohort.open(study) for study in studies]
    with ThreadPoolExecutor(len(rounds)) as watching:
        finals = list(watching.map(cohort.result, rounds))
    sums = {"three": SUM_OF_THREE, STUDY: SUM_OF_FOUR, "published": SUM_OF_THREE}
    for study, final in zip(studies, finals, strict=True):
        if study == "steps":
            assert total(final, "steps") == SUM_OF_STEPS
        else:
            assert total(final) == sums[study]


def test_a_vector_is_summed_element_by_element(cohort: Cohort) -> None:
    assert total(cohort.run("steps"), "steps") == SUM_OF_STEPS


def test_every_patient_learns_that_the_round_was_released(cohort: Cohort) -> None:
    for study in ("three", "published"):
        final = cohort.run(study)
        assert total(final) == SUM_OF_THREE
        for name in PATIENTS:
            # With `publish: members` this is said only after the receipt's result matched its commitment.
            cohort.wait_for_log(name, "round-ended", round=final["round"], outcome="released", code="")


def test_health_answers_while_a_round_over_a_million_numbers_runs(cohort: Cohort) -> None:
    round_id = cohort.open("load")
    ended = threading.Event()

    def ask(name: str) -> int:
        answered = 0
        while not ended.is_set():
            answered += cohort.admin(name).answers
        return answered

    with ThreadPoolExecutor(4) as asking:
        answers = [asking.submit(ask, name) for name in (HOSPITAL, *PATIENTS)]
        try:
            final = cohort.result(round_id)
        finally:
            ended.set()
        counts = [answer.result() for answer in answers]
    # The patients make these values: uniform over the bounds, from their seeds, as numpy makes them.
    made = [np.random.default_rng(seed).integers(0, 1_000_000, endpoint=True, size=10**6) for seed in SEEDS.values()]
    assert total(final, "load") == np.sum(made, axis=0).tolist()
    assert all(counts), counts


# -- the command line over the admin socket


@pytest.fixture
def at_hospital(cohort: Cohort) -> tuple[str, str]:
    return "--config", str(cohort.config(HOSPITAL))


def test_a_round_opened_and_watched_prints_its_sum(at_hospital: tuple[str, str]) -> None:
    done = cohortium("round", "open", "three", *at_hospital, "--watch")
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^sum +{TRIO} = {SUM_OF_THREE}$", done.stdout, re.MULTILINE)
    assert re.search(r"^members +3$", done.stdout, re.MULTILINE)
    # One bar a phase, each full at the end and never more than full.
    assert re.findall(r"^(\w+) .* (\d+)/(\d+)", done.stderr, re.MULTILINE)[-3:] == [
        ("inviting", "3", "3"),
        ("sharing", "3", "3"),
        ("collecting", "3", "3"),
    ]


def test_a_round_opened_as_json_is_the_last_line(cohort: Cohort, at_hospital: tuple[str, str]) -> None:
    done = cohortium("round", "open", "three", *at_hospital, "--watch", "--json")
    assert done.returncode == 0, done.stderr
    final = json.loads(done.stdout.splitlines()[-1])
    assert (final["outcome"], final["patients"], final["modulus"]) == ("released", 3, 30_000_001)
    assert final["statistics"] == {TRIO: {"sum": SUM_OF_THREE}}
    assert final == cohort.hospital.get(f"/v1/rounds/{final['round']}")


def test_a_round_opened_without_watching_is_found_by_list_and_show(cohort: Cohort, at_hospital: tuple[str, str]) -> None:
    opened = cohortium("round", "open", "three", *at_hospital, "--json")
    assert opened.returncode == 0, opened.stderr
    round_id = json.loads(opened.stdout)["round"]
    cohort.result(round_id)

    listed = cohortium("round", "list", *at_hospital)
    assert re.search(rf"^{round_id[:12]}  three +released$", listed.stdout, re.MULTILINE)
    assert str(SUM_OF_THREE) not in listed.stdout
    as_json = json.loads(cohortium("round", "list", *at_hospital, "--json").stdout)
    (found,) = [summary for summary in as_json if summary["round"] == round_id]
    assert (found["study"], found["outcome"]) == ("three", "released")
    assert "statistics" not in found

    shown = cohortium("round", "show", round_id[:12], *at_hospital)
    assert f"sum      {TRIO} = {SUM_OF_THREE}" in shown.stdout
    as_object = json.loads(cohortium("round", "show", round_id, *at_hospital, "--json").stdout)
    assert as_object["statistics"] == {TRIO: {"sum": SUM_OF_THREE}}


def test_a_cancelled_round_releases_nothing_and_says_so(cohort: Cohort, mallory: Played, at_hospital: tuple[str, str]) -> None:
    mallory.hold(Kind.CONSENT)
    round_id = cohort.open(STUDY)
    cohort.wait_until_waiting_for(round_id, "inviting", "mallory")
    shown = cohortium("round", "show", round_id, *at_hospital)
    assert "waiting  mallory" in shown.stdout
    done = cohortium("round", "cancel", round_id[:10], *at_hospital)
    assert done.returncode == 0, done.stderr
    final = cohort.result(round_id)
    assert (final["outcome"], final["code"], final["detail"]) == ("aborted", "cancelled", "the hospital cancelled the round")
    assert "statistics" not in final
    for name in PATIENTS:
        cohort.wait_for_log(name, "round-ended", round=round_id, outcome="aborted", code="cancelled")


def test_a_round_or_study_that_is_not_there_is_told_with_what_is(cohort: Cohort, at_hospital: tuple[str, str]) -> None:
    done = cohortium("round", "open", "thirty", *at_hospital)
    assert done.returncode == 78
    assert re.fullmatch(r"cohortium: there is no study 'thirty' in \S+/studies; there is .*three.*\n", done.stderr)
    refused = cohortium("round", "open", "thirty", *at_hospital, "--watch", "--json")
    assert refused.returncode == 78
    assert json.loads(refused.stdout.splitlines()[-1])["outcome"] == "refused"
    done = cohortium("round", "show", "zzz", *at_hospital)
    assert done.returncode == 2
    assert done.stderr == "cohortium: no round begins with 'zzz'; see 'round list'\n"


def test_status_is_for_people_and_for_programs(cohort: Cohort, at_hospital: tuple[str, str]) -> None:
    cohort.run("three")
    human = cohortium("status", *at_hospital)
    assert human.returncode == 0, human.stderr
    assert "identity: spiffe://demo/hospital/hospital\n" in human.stdout
    status = json.loads(cohortium("status", *at_hospital, "--json").stdout)
    assert status["identity"] == "spiffe://demo/hospital/hospital"
    assert status["rounds"] >= 1
    # A patient's status says what its floor rests on.
    patient = json.loads(cohortium("status", "--config", cohort.config("alice"), "--json").stdout)
    assert patient["identity"] == "spiffe://demo/patient/alice"
    assert "if the hospital runs one of them, it can invent members" in patient["assumption"]


def test_no_daemon_at_the_socket_is_told_with_what_to_do(cohort: Cohort) -> None:
    nowhere = cohort.directory / "nowhere.sock"
    for words in (["status"], ["round", "list"], ["round", "open", "three", "--watch"], ["round", "show", "a"]):
        done = cohortium(*words, "--socket", nowhere)
        assert done.returncode == 75
        assert done.stderr == f"cohortium: no daemon answers at {nowhere}; is it running, and is this its 'admin' socket?\n"
    neither = cohortium("status")
    assert neither.returncode == 2
    assert neither.stderr == "cohortium: say which daemon: give --config FILE or --socket PATH\n"


def test_the_admin_socket_is_for_the_daemons_user_alone(cohort: Cohort) -> None:
    for name in (HOSPITAL, *PATIENTS):
        found = cohort.deployment.socket(name).stat().st_mode
        assert stat.S_ISSOCK(found)
        assert stat.S_IMODE(found) == 0o600
