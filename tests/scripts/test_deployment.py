"""The small functions of the throw-away deployment, and the files that it writes."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
import yaml

from nodes.config import check_hospital, check_patient
from scripts.daemons import DaemonFailure, Daemons
from scripts.deployment import Deployment, DeploymentError, Question, _yaml, check_name, parse_value, parse_values


def test_values_are_read_in_their_order() -> None:
    assert list(parse_values("carol=540, alice = 725,bob=+310".replace(" = ", "=")).items()) == [
        ("carol", 540),
        ("alice", 725),
        ("bob", 310),
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "part 1 of the values is not NAME=INTEGER"),
        ("a=1,,b=2", "part 2 of the values is not NAME=INTEGER"),
        ("a=1,=2", "part 2 of the values is not NAME=INTEGER"),
        ("a=1,a=2", "'a' is there twice; name each patient once"),
        ("a=1.5", "the value of 'a' is not an integer"),
    ],
)
def test_values_that_cannot_be_read_are_named_by_their_place(text: str, complaint: str) -> None:
    with pytest.raises(DeploymentError) as told:
        parse_values(text)
    assert str(told.value) == complaint


@pytest.mark.parametrize("number", ["", "x", "1.0", "1e3", "0x10", "1_000", "nan", "inf", "--1", "٣", "1" * 21, "1\n2"])
def test_what_is_no_integer_is_not_repeated(number: str) -> None:
    with pytest.raises(DeploymentError) as told:
        parse_value("alice", number)
    assert str(told.value) == "the value of 'alice' is not an integer"


@pytest.mark.parametrize(
    ("number", "value"), [("0", 0), (" 7 ", 7), ("-12", -12), ("+3", 3), ("99999999999999999999", 10**20 - 1)]
)
def test_integers_are_read_as_people_write_them(number: str, value: int) -> None:
    assert parse_value("alice", number) == value


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "A", "-a", "a-", "a b", "é", "a" * 64, "hospital", "ca"])
def test_a_name_that_could_not_have_its_own_directory_is_refused(name: str) -> None:
    with pytest.raises(DeploymentError, match=r"is not a name|cannot be called"):
        check_name(name)


@pytest.mark.parametrize("name", ["a", "patient-007", "dr.no", "a" * 63])
def test_good_names_pass(name: str) -> None:
    check_name(name)


def test_yaml_is_read_back_as_it_was_meant() -> None:
    content = {
        "yes": "no",
        "null": "12:30",
        "on": "https://127.0.0.1:7001",
        "7": ["true", "0x10", "a: b", "#"],
        "plain_key": {"deeper": {"number": 7, "flag": True, "nothing": None, "empty": {}}, "list": [1, 2]},
        'odd "key"': "ünïcode \\ \n line",
    }
    assert yaml.safe_load(_yaml(content, 0)) == content


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    made = Deployment(
        tmp_path_factory.mktemp("deployment"),
        {"no": {"literal": 725}, "bob": {"literal": [1, 2]}, "patient-3": {"synthetic": {"seed": 7}}},
        Question(100, length=2, range=250, assume_in_range=True, deadline=7, publish="members"),
        limits={"message_bytes": 1_000_000},
    )
    made.write()
    return made


def test_what_is_written_is_what_the_daemons_read(deployment: Deployment) -> None:
    hospital = check_hospital(deployment.hospital_config)
    assert list(hospital.patients) == ["no", "bob", "patient-3"]
    assert hospital.limits.message_bytes == 1_000_000
    for name in deployment.names:
        patient = check_patient(deployment.patient_config(name))
        assert patient.name == name
        assert patient.url == hospital.patients[name]
        assert patient.sources["value"].bounds == (0, 100)
        assert patient.admin == deployment.socket(name)
        assert f"https://{hospital.listen}" == patient.hospital.url


def test_the_study_says_what_was_asked(deployment: Deployment) -> None:
    study = yaml.safe_load((deployment.directory / "hospital" / "studies" / "demo-sum.yaml").read_text())
    assert study["variables"] == [{"name": "value", "bounds": [0, 100], "length": 2}]
    assert study["cohort"] == {"members": ["no", "bob", "patient-3"]}
    assert (study["range"], study["assume_in_range"], study["deadline"], study["publish"]) == (250, True, 7, "members")


def test_values_and_keys_are_for_their_owner_alone(deployment: Deployment) -> None:
    for name in deployment.names:
        assert stat.S_IMODE((deployment.directory / name).stat().st_mode) == 0o700
        for file in (deployment.patient_config(name), deployment.directory / name / f"{name}.key"):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_readme_names_a_command_for_every_daemon(deployment: Deployment) -> None:
    commands = [line.strip() for line in (deployment.directory / "README").read_text().splitlines() if line.startswith("    ")]
    assert commands == [
        "cohortium hospital --config hospital/hospital.yaml",
        "cohortium patient --config no/patient.yaml",
        "cohortium patient --config bob/patient.yaml",
        "cohortium patient --config patient-3/patient.yaml",
        "cohortium round open demo-sum --config hospital/hospital.yaml --watch",
    ]


def test_a_deployment_is_not_made_over_another(deployment: Deployment) -> None:
    with pytest.raises(DeploymentError, match=r"ca\.key|ca\.crt"):
        deployment.write()


def test_a_daemon_that_cannot_start_is_reported_with_what_it_said(deployment: Deployment, tmp_path: Path) -> None:
    broken = Deployment(tmp_path, {}, deployment.question)
    (tmp_path / "hospital").mkdir()
    broken.hospital_config.write_text(json.dumps({"colour": "red"}))
    with Daemons(broken) as daemons:
        with pytest.raises(DaemonFailure) as told:
            daemons.wait_until_ready()
        assert str(told.value).startswith("hospital ended with status 78; its last lines:\n  cohortium: ")
        assert "colour: is not a known key" in str(told.value)
