"""Values that no study can take, found by the patient's own daemon: its log says why, the wire says `unavailable`."""

from __future__ import annotations

import json

import pytest

from scripts.deployment import HOSPITAL, VARIABLE
from tests.e2e.conftest import FAULTS, PATIENTS, SUM_OF_THREE
from tests.e2e.harness import Cohort, cohortium, total

VALUES_IN_FAULTS = ("-5", "101", "7.5", "seven", "NaN")


def _ends_unavailable(cohort: Cohort, round_id: str) -> str:
    """Checks what others hear, and returns what charlie's own log says."""
    final = cohort.result(round_id)
    assert (final["outcome"], final["code"], final["missing"]) == ("aborted", "unavailable", ["charlie"])
    assert final["detail"] == "charlie has no value that fits the study"
    reason = str(cohort.wait_for_log("charlie", "source-failed", study=final["study"])["reason"])
    for name in (HOSPITAL, "alice", "bob"):
        assert reason not in json.dumps(cohort.log(name))
    assert not cohort.logged("charlie", "submitted", round=round_id)
    return reason


@pytest.mark.parametrize("variable", FAULTS)
def test_a_value_that_cannot_be_taken_ends_the_round_and_stays_at_home(cohort: Cohort, variable: str) -> None:
    reason = _ends_unavailable(cohort, cohort.open(f"fault-{variable}"))
    assert reason.startswith(f"variable {variable}: ")
    assert FAULTS[variable][1] in reason
    said = reason.replace(str(cohort.directory), "")
    assert not any(value in said for value in VALUES_IN_FAULTS)
    assert total(cohort.run("three")) == SUM_OF_THREE


@pytest.mark.parametrize(
    ("given", "rule"),
    [("-1", "value 1 of 1 is below its minimum 0"), ("10000001", "value 1 of 1 is above its bound 10000000")],
)
def test_a_value_from_the_command_line_is_held_to_its_bounds_too(cohort: Cohort, given: str, rule: str) -> None:
    assert cohort.stop("charlie") == 0
    study = cohort.write_study(f"given{given}", members=PATIENTS)
    cohort.start("charlie", words=["--value", f"{VARIABLE}={given}"])
    try:
        reason = _ends_unavailable(cohort, cohort.open(study))
        assert rule in reason
        assert given not in reason
        warnings = [entry["text"] for entry in cohort.log("charlie") if "text" in entry]
        assert any("--value stands in the process list" in warning for warning in warnings)
    finally:
        assert cohort.stop("charlie") == 0
        cohort.start("charlie")
    assert total(cohort.run("three")) == SUM_OF_THREE


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("value=nan", "--value: value: is not a whole number"),
        ("value=12.5", "--value: value: is not a whole number"),
        ("value=", "--value: value: is empty"),
        ("value=9223372036854775808", "--value: value: does not fit in 64 bits"),
        ("pulse=1", "--value: say VARIABLE=VALUE with one of the configured sources, "),
        ("1", "--value: say VARIABLE=VALUE with one of the configured sources, "),
    ],
)
def test_a_value_on_the_command_line_that_is_no_integer_is_a_mistake_of_usage(cohort: Cohort, given: str, complaint: str) -> None:
    done = cohortium("patient", "--config", cohort.config("alice"), "--value", given, "--check")
    assert done.returncode == 2, done.stderr
    *_, told = done.stderr.splitlines()
    assert told.startswith(f"cohortium: {complaint}")


def test_a_study_whose_bounds_do_not_hold_the_source_is_declined_without_a_reason(cohort: Cohort) -> None:
    # Otherwise ever narrower bounds would read a value by its refusals.
    study = cohort.write_study("narrow", members=PATIENTS, bounds=(0, 9_999_999))
    final = cohort.run(study)
    assert (final["outcome"], final["code"], final["missing"]) == ("aborted", "too-few-members", [*PATIENTS])
    told = cohort.wait_for_log("alice", "invitation-decided", round=final["round"])
    assert told["reason"] == "its bounds for value do not contain the declared [0, 10000000] of the source"
    assert "bounds" not in final["detail"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"members": PATIENTS[:2]}, "2 members"),
        ({"members": ("alice", "bob", "alice")}, "alice"),
        ({"members": (*PATIENTS, "zoe")}, "zoe has no address; add it under 'patients' in the hospital's configuration"),
        ({"range": 0}, "range"),
        ({"range": -1}, "range"),
        ({"range": 2**63}, "range"),
        ({"range": 29_999_999}, "3 members x 10000000 = 30000000 is above the range 29999999"),
        ({"bounds": (0, 2**62)}, "3 members x 4611686018427387904 = 13835058055282163712 is above 2^63 - 1"),
        ({"bounds": (5, 5)}, "bounds"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused_with_file_line_and_arithmetic(
    cohort: Cohort, change: dict[str, object], complaint: str
) -> None:
    path = cohort.directory / HOSPITAL / "studies" / "wrong.yaml"
    cohort.write_study("wrong", **({"members": PATIENTS} | change))  # type: ignore[arg-type]
    try:
        refused = cohort.hospital.post("/v1/rounds", {"study": "wrong"})
        assert (refused["outcome"], refused["code"]) == ("refused", "StudyError")
        assert f"{path}:" in refused["detail"]
        assert complaint in refused["detail"]
    finally:
        path.unlink()
    assert total(cohort.run("three")) == SUM_OF_THREE
