"""`cohortium study` as a person and a script use it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mpc.errors import ConfigError, StudyError
from nodes.commands.study import study as study_group
from tests.nodes.commands.play import ROUNDS, Play
from tests.nodes.house import STUDY


@pytest.fixture
def hospital() -> Iterator[Play]:
    with tempfile.TemporaryDirectory(prefix="co") as directory, Play(Path(directory) / "admin.sock") as play:
        yield play


def invoke(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(study_group, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_file_is_checked_without_a_hospital(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(STUDY)
    lines = invoke("check", path).stdout.splitlines()
    assert lines[0] == "study              pressure: Mean systolic pressure"
    assert "                   - value: a whole number, 0 to 1,000,000; must not be missing" in lines
    told = json.loads(invoke("check", path, "--json").stdout)
    assert told["computes"] == ["sum-value: sum of value"]


def test_a_file_with_mistakes_is_refused_with_all_of_them(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(STUDY.replace("kind: sum", "kind: mode").replace("id: p", "id: P"))
    with pytest.raises(StudyError) as caught:
        invoke("check", path)
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [f"{path}:1", f"{path}:5"]


def test_with_a_hospitals_configuration_its_patients_must_be_known(tmp_path: Path) -> None:
    path, config = tmp_path / "a.yaml", tmp_path / "hospital.yaml"
    path.write_text(STUDY)
    (tmp_path / "studies").mkdir()
    config.write_text(
        "consortium: demo\nname: general\nidentity: {key: a.key, certificate: a.crt, authorities: [ca.crt]}\n"
        'listen: "127.0.0.1:7000"\nadmin: a.sock\nstudies: studies\n'
        "patients: {alice: 'https://127.0.0.1:7001', bob: relay}\nrelay: {name: post, url: 'https://127.0.0.1:7002'}\n"
    )
    with pytest.raises(ConfigError, match=r":6: charlie has no address; add it under 'patients'"):
        invoke("check", path, "--config", config)


def test_studies_of_a_hospital_are_listed_and_shown(hospital: Play) -> None:
    socket = ("--socket", hospital.path)
    assert invoke("list", *socket).stdout.split() == ["pressure", "3", "patients", "Mean", "systolic", "pressure"]
    assert json.loads(invoke("list", *socket, "--json").stdout) == [
        {"id": "pressure", "title": "Mean systolic pressure", "patients": 3}
    ]
    assert invoke("show", "pressure", *socket).stdout.startswith("study              pressure: Mean systolic pressure\n")
    with pytest.raises(StudyError, match="there is no study 'weight'"):
        invoke("show", "weight", *socket)


def test_a_study_is_opened_and_watched(hospital: Play) -> None:
    hospital.script = hospital.release
    result = invoke("open", "pressure", "--watch", "--socket", hospital.path)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"round    {ROUNDS[0].hex()}\nstudy    pressure\noutcome  released\n")


def test_a_fit_is_watched_to_its_end(hospital: Play) -> None:
    hospital.script = hospital.fit
    result = invoke("open", "pressure", "--watch", "--json", "--socket", hospital.path)
    assert json.loads(result.stdout.splitlines()[-1])["round"] == ROUNDS[1].hex()
    assert "step 1 of the fit is done; the next one follows" in result.stderr


def test_the_schedule_says_when_next_and_who_took_part(hospital: Play) -> None:
    hospital.plans = [
        {"study": "pressure", "schedule": "every 7d", "next": 1_772_438_400.0},
        {
            "study": "weight",
            "schedule": "once 2026-03-02",
            "next": None,
            "last": {"opened": 1_772_438_400.0, "outcome": "released", "asked": 10, "members": ["alice"] * 8},
        },
        {
            "study": "age",
            "schedule": "cron * * * * *",
            "next": 1_772_438_460.0,
            "last": {"opened": 1_772_438_400.0, "outcome": "aborted", "asked": 3, "members": []},
        },
    ]
    first, second, third = invoke("schedule", "--socket", hospital.path).stdout.splitlines()
    assert first.endswith("next 2026-03-02 08:00 UTC  not run yet")
    assert second.endswith("next never  last 2026-03-02 08:00 UTC: released, 8 of 10 took part")
    assert third.endswith("next 2026-03-02 08:01 UTC  last 2026-03-02 08:00 UTC: aborted")
    assert json.loads(invoke("schedule", "--json", "--socket", hospital.path).stdout) == hospital.plans
