"""`cohortium results` as a person and a script use it, against the admin socket of a hospital that a test plays."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mpc.errors import UsageError
from mpc.rounds.events import RELEASED
from mpc.study import Statistic
from nodes.commands.results import results as results_group
from nodes.records import RoundRecord
from nodes.results import StudyResult
from tests.nodes.commands.play import ROUNDS, Play
from tests.nodes.findings import HOSTILE, found


@pytest.fixture
def hospital() -> Iterator[Play]:
    with tempfile.TemporaryDirectory(prefix="co") as directory, Play(Path(directory) / "admin.sock") as play:
        for number, round_id in enumerate(ROUNDS[:3]):
            record = RoundRecord(round_id, "question", 7, opened=1_700_000_000.0 + 3600 * number, outcome=RELEASED)
            play.records.add(record)
        play.records.add(RoundRecord(ROUNDS[3], "question", 7, opened=1_700_000_000.0))
        play.answers[ROUNDS[2]] = found(
            Statistic.of("mean", "age"), Statistic.of("contingency", "arm", "event"), Statistic.of("mean", "smokes")
        )
        yield play


def invoke(hospital: Play, *arguments: str) -> Result:
    result = CliRunner().invoke(results_group, [*arguments, "--socket", str(hospital.path)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_list_has_what_is_released(hospital: Play) -> None:
    lines = invoke(hospital, "list").stdout.splitlines()
    assert lines[0] == f"{ROUNDS[0].hex()[:12]}  2023-11-14 22:13 UTC  question"
    assert len(lines) == 3
    listed = json.loads(invoke(hospital, "list", "--json").stdout)
    assert listed[2] == {"round": ROUNDS[2].hex(), "study": "question", "opened": 1_700_007_200.0}


def test_a_result_is_shown_with_units_n_error_and_rules(hospital: Play) -> None:
    lines = invoke(hospital, "show", "question").stdout.splitlines()
    assert lines[:4] == [
        f"study    question: Ages {HOSTILE}",
        "round    000102030405060708090a0b0c0d0e0f, opened 2023-11-14 22:13 UTC",
        "members  4",
        "rules    nothing is told of fewer than 5 records",
    ]
    text = "\n".join(lines)
    assert "mean-age: n = 233" in lines
    assert "mean-smokes: withheld, because it would tell of fewer than 5 records with one value of smokes" in lines
    assert "  note: arm: neighbouring categories are told as one" in text
    header = next(line for line in lines if line.startswith("  quantity"))
    assert header.split() == ["quantity", "value", "unit", "error"]
    mean = next(line for line in lines if line.startswith("  mean "))
    assert mean.split()[2:] == ["a", "0.05"]
    assert len(mean) == len(header), "numbers end where their column ends"


def test_json_is_the_object_of_the_client(hospital: Play) -> None:
    printed = invoke(hospital, "show", ROUNDS[2].hex()[:6], "--json").stdout
    assert StudyResult.from_json(printed.encode()) == hospital.answers[ROUNDS[2]]


def test_an_export_names_its_files(hospital: Play, tmp_path: Path) -> None:
    printed = invoke(hospital, "export", "question", "--format", "csv", "--to", str(tmp_path / "out")).stdout
    assert sorted(map(Path, printed.splitlines())) == sorted((tmp_path / "out").iterdir())
    assert len(printed.splitlines()) == 4


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("weight", "no result of a study 'weight', or of a round that begins so; see 'results list'"),
        ("0", "more than one result of a study '0'"),
        (ROUNDS[0].hex(), "the values of this result have been erased: 'keep_days' is over"),
        (ROUNDS[3].hex(), "no result"),
    ],
)
def test_what_cannot_be_shown_is_said_with_what_to_do(hospital: Play, name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        invoke(hospital, "show", name)
