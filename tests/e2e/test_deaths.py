"""A node that dies in the middle of a round: it goes on when it is back; else a clear end with its name, and the next works."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from mpc.messages import Kind
from scripts.deployment import HOSPITAL, STUDY
from tests.e2e.conftest import SUM_OF_FOUR, SUM_OF_THREE
from tests.e2e.harness import Cohort, total
from tests.e2e.played import Played

SURVIVORS = (HOSPITAL, "alice", "bob")


def _ends_with_charlies_name(cohort: Cohort, round_id: str, phase: str) -> None:
    final = cohort.result(round_id)
    assert (final["outcome"], final["code"], final["missing"]) == ("aborted", "member-missing", ["charlie"])
    assert final["detail"].split(";")[0] == f"charlie went silent while {phase}"
    assert "statistics" not in final
    for name in ("alice", "bob"):
        told = cohort.wait_for_log(name, "round-ended", round=round_id)
        assert (told["outcome"], told["code"]) == ("aborted", "member-missing")
    assert cohort.hospital.get("/v1/status")["unreachable"]["charlie"].startswith("nothing listens for ")


@pytest.fixture
def survivors(cohort: Cohort) -> Any:
    """Checks that nobody else died, and that charlie, started again, takes part in the next round."""
    pids = {name: cohort.process(name).pid for name in SURVIVORS}
    yield
    assert {name: cohort.process(name).pid for name in SURVIVORS if cohort.is_running(name)} == pids
    cohort.start("charlie")
    assert total(cohort.run("three")) == SUM_OF_THREE
    assert cohort.hospital.get("/v1/status")["unreachable"].get("charlie") is None


@pytest.mark.usefixtures("survivors")
def test_a_patient_killed_after_consenting_is_named_at_the_deadline(cohort: Cohort) -> None:
    cohort.signal("bob", signal.SIGSTOP)  # the roster waits for bob's consent
    try:
        round_id = cohort.open("three-soon")
        cohort.wait_until_waiting_for(round_id, "inviting", "bob")
        cohort.kill("charlie")
    finally:
        cohort.signal("bob", signal.SIGCONT)
    _ends_with_charlies_name(cohort, round_id, "sharing")
    assert cohort.result(round_id)["detail"].endswith("; the share of charlie did not reach alice, bob")
    for name in ("alice", "bob"):
        assert not cohort.logged(name, "submitted", round=round_id)


@pytest.mark.usefixtures("survivors")
def test_a_patient_killed_after_the_shares_is_named_at_the_deadline(cohort: Cohort, mallory: Played) -> None:
    round_id = mallory.hold_ready("four-soon")  # charlie's shares and Ready are out
    cohort.kill("charlie")
    mallory.release(Kind.READY)
    _ends_with_charlies_name(cohort, round_id, "collecting")


def test_a_patient_killed_after_the_shares_and_started_again_goes_on_with_its_round(cohort: Cohort, mallory: Played) -> None:
    round_id = mallory.hold_ready(STUDY)
    cohort.kill("charlie")
    cohort.start("charlie")
    mallory.release(Kind.READY)
    assert total(cohort.result(round_id)) == SUM_OF_FOUR
    cohort.wait_for_log("charlie", "round-resumed", round=round_id)
    assert len(cohort.logged("charlie", "submitted", round=round_id)) == 1


def test_a_patient_restarted_between_two_rounds_takes_part_with_the_key_that_it_kept(cohort: Cohort, mallory: Played) -> None:
    assert total(cohort.run(STUDY)) == SUM_OF_FOUR
    made = len(cohort.logged("charlie", "key-rotated"))
    cohort.kill("charlie")
    cohort.start("charlie")
    assert total(cohort.run(STUDY)) == SUM_OF_FOUR
    assert len(cohort.logged("charlie", "key-rotated")) == made


def test_a_hospital_killed_in_a_round_and_started_again_ends_it_with_the_exact_sum(cohort: Cohort, mallory: Played) -> None:
    round_id = mallory.hold_ready(STUDY)
    cohort.kill(HOSPITAL)
    mallory.release(Kind.READY)
    cohort.start(HOSPITAL)
    assert total(cohort.result(round_id)) == SUM_OF_FOUR
    assert total(cohort.run("three")) == SUM_OF_THREE
    for name in ("alice", "bob", "charlie"):
        cohort.wait_for_log(name, "round-ended", round=round_id, outcome="released")
        assert len(cohort.logged(name, "submitted", round=round_id)) == 1


def test_a_result_outlives_the_daemon_that_made_it(cohort: Cohort) -> None:
    final = cohort.run("three")
    cohort.kill(HOSPITAL)
    cohort.start(HOSPITAL)
    again = cohort.hospital.get(f"/v1/rounds/{final['round']}")
    assert total(again) == SUM_OF_THREE
    # The clock was read twice at the end of the round, before the commit and after it.
    assert {**again, "seconds": 0} == {**final, "seconds": 0}
