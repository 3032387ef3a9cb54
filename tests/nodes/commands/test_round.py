"""`cohortium round` as a person and a script use it, against the admin socket of a hospital that a test plays."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mpc.errors import StudyError, TemporaryError, UsageError
from mpc.rounds.events import Progressed
from nodes.commands.round import round as round_group
from nodes.commands.status import status as status_command
from nodes.records import RoundRecord
from tests.nodes.commands.play import ROUNDS, Play


@pytest.fixture
def hospital() -> Iterator[Play]:
    with tempfile.TemporaryDirectory(prefix="co") as directory, Play(Path(directory) / "admin.sock") as play:
        yield play


def invoke(hospital: Play, *arguments: str) -> Result:
    result = CliRunner().invoke(round_group, [*arguments, "--socket", str(hospital.path)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_opening_without_watching_says_that_the_round_is_open(hospital: Play) -> None:
    result = invoke(hospital, "open", "pressure")
    assert result.exit_code == 0
    assert result.stdout == f"round    {ROUNDS[0].hex()}\nstudy    pressure\noutcome  open\n"


def test_watching_shows_phases_and_who_is_missing_then_the_result(hospital: Play) -> None:
    hospital.script = hospital.release
    result = invoke(hospital, "open", "pressure", "--watch")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[:5] == [
        f"round    {ROUNDS[0].hex()}",
        "study    pressure",
        "outcome  released",
        "members  3",
        "sum      value = 1575",
    ]
    assert lines[5].startswith("seconds  ")
    for phase in ("inviting", "sharing", "collecting"):
        assert phase in result.stderr
    assert "3/3" in result.stderr


def test_the_last_line_of_a_script_is_the_result(hospital: Play) -> None:
    hospital.script = hospital.release
    result = invoke(hospital, "open", "pressure", "--watch", "--json")
    answer = json.loads(result.stdout.splitlines()[-1])
    assert (answer["outcome"], answer["patients"], answer["modulus"]) == ("released", 3, 3_000_001)
    assert answer["statistics"] == {"value": {"sum": 1575}}
    assert answer["round"] == ROUNDS[0].hex()


def test_an_aborted_round_exits_with_1_and_says_why(hospital: Play) -> None:
    hospital.script = hospital.abort
    result = invoke(hospital, "open", "pressure", "--watch")
    assert result.exit_code == 1
    assert "outcome  aborted (member-missing)\nwhy      bob went silent while sharing\n" in result.stdout
    hospital.script = hospital.abort
    result = invoke(hospital, "open", "pressure", "--watch", "--json")
    answer = json.loads(result.stdout.splitlines()[-1])
    assert result.exit_code == 1
    assert (answer["outcome"], answer["code"], answer["missing"]) == ("aborted", "member-missing", ["bob"])


def test_an_aborted_round_does_not_show_a_full_bar(hospital: Play) -> None:
    hospital.script = hospital.abort
    stderr = invoke(hospital, "open", "pressure", "--watch").stderr
    sharing = [line for line in stderr.replace("\r", "\n").splitlines() if "sharing" in line]
    assert sharing
    assert "1/3" in sharing[-1]  # alice alone


def test_a_round_that_is_over_before_anybody_looks_has_its_result(hospital: Play) -> None:
    async def at_once(record: RoundRecord) -> None:
        await hospital.release(record)

    hospital.script = at_once
    opened = invoke(hospital, "open", "pressure", "--watch")
    assert "sum      value = 1575" in opened.stdout


def test_an_unknown_study_is_refused_also_in_json(hospital: Play) -> None:
    with pytest.raises(StudyError, match="there is no study 'weight'"):
        invoke(hospital, "open", "weight")
    result = CliRunner().invoke(round_group, ["open", "weight", "--json", "--socket", str(hospital.path)])
    assert isinstance(result.exception, StudyError)
    assert json.loads(result.stdout) == {
        "outcome": "refused",
        "code": "StudyError",
        "detail": "there is no study 'weight' in studies; there is pressure",
    }


def test_rounds_are_listed_and_shown_by_the_beginning_of_their_id(hospital: Play) -> None:
    invoke(hospital, "open", "pressure")
    hospital.script = hospital.abort
    invoke(hospital, "open", "pressure", "--watch")
    first, second = invoke(hospital, "list").stdout.splitlines()
    assert first.split() == ["010101010101", "pressure", "open"]
    assert second.split() == ["020202020202", "pressure", "aborted", "bob", "went", "silent", "while", "sharing"]
    assert [summary["outcome"] for summary in json.loads(invoke(hospital, "list", "--json").stdout)] == ["open", "aborted"]
    assert invoke(hospital, "show", "02").stdout.startswith(f"round    {ROUNDS[1].hex()}\n")
    assert json.loads(invoke(hospital, "show", "01", "--json").stdout)["round"] == ROUNDS[0].hex()
    with pytest.raises(UsageError, match="no round begins with '77'; see 'round list'"):
        invoke(hospital, "show", "77")


def test_a_round_that_waits_says_for_whom(hospital: Play) -> None:
    async def wait(record: RoundRecord) -> None:
        hospital.records.note(record.round_id, Progressed("inviting", ("bob", "charlie")))

    hospital.script = wait
    invoke(hospital, "open", "pressure")
    assert "waiting  bob, charlie\n" in invoke(hospital, "show", "01").stdout


def test_a_long_vector_is_shown_by_its_beginning_and_given_whole_in_json(hospital: Play) -> None:
    async def release(record: RoundRecord) -> None:
        await hospital.release(record, *range(100, 120))

    hospital.script = release
    shown = invoke(hospital, "open", "pressure", "--watch").stdout
    assert "sum      value = [100, 101, 102, 103, 104, 105, 106, 107, …] (20 numbers; --json gives all)" in shown
    answer = json.loads(invoke(hospital, "show", "01", "--json").stdout)
    assert answer["statistics"] == {"value": {"sum": list(range(100, 120))}}


def test_cancelling_ends_the_round(hospital: Play) -> None:
    invoke(hospital, "open", "pressure")
    assert invoke(hospital, "cancel", "01").exit_code == 0
    assert hospital.cancelled == [ROUNDS[0]]
    assert "aborted (cancelled)" in invoke(hospital, "show", "01").stdout
    with pytest.raises(UsageError, match="no round begins with '77'"):
        invoke(hospital, "cancel", "77")


def test_no_daemon_is_a_passing_fault(tmp_path: Path) -> None:
    for arguments in (["open", "pressure"], ["list"], ["show", "1"], ["cancel", "1"]):
        result = CliRunner().invoke(round_group, [*arguments, "--socket", str(tmp_path / "no.sock")])
        assert isinstance(result.exception, TemporaryError)


def test_status_is_printed_for_people_and_for_scripts(hospital: Play) -> None:
    arguments = ["--socket", str(hospital.path)]
    assert CliRunner().invoke(status_command, arguments).stdout == "identity: spiffe://demo/hospital/general\nunreachable: none\n"
    hospital.unreachable = {"bob": "nobody listens"}
    assert CliRunner().invoke(status_command, arguments).stdout.endswith("unreachable:\n  bob: nobody listens\n")
    answer = json.loads(CliRunner().invoke(status_command, [*arguments, "--json"]).stdout)
    assert answer == {"identity": "spiffe://demo/hospital/general", "unreachable": {"bob": "nobody listens"}}
