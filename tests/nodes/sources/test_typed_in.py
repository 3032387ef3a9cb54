"""Values from the environment and from a person at a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from select import select

import click
import pytest

from mpc.errors import ConfigError
from nodes.config import PatientConfig, check_patient
from nodes.config.answers import Answers
from nodes.sources.environment import EnvironmentVariable
from nodes.sources.prompt import Prompt
from tests.nodes.sources.ask import GONE, SEX, SMALL, TENTHS, Declared, read, refused
from tests.nodes.sources.conftest import ROOT, Write
from tests.services import DEADLINE

PATIENT = """consortium: demo
name: alice
identity: {key: a.key, certificate: a.crt, authorities: [ca.pem]}
listen: "127.0.0.1:7001"
admin: a.sock
trust: {authorities: ["sha256:0000000000000000000000000000000000000000000000000000000000000000"]}
hospital: {name: general, url: "https://127.0.0.1:7000"}
sources:
  pulse: {bounds: [0, 300], prompt: Your pulse}
policy: {vouched: {members: [bob, charlie]}}
"""


# -- environment variables


@pytest.mark.parametrize(
    ("text", "declared", "expected"),
    [
        ("120", SMALL, [120]),
        (" 36.6 ", TENTHS, [366]),
        ("male", SEX, [1]),
        ("120,,131", SMALL, [120, GONE, 131]),
        ("", SMALL, [GONE]),
    ],
)
def test_an_environment_variable_is_one_value_or_several(
    monkeypatch: pytest.MonkeyPatch, text: str, declared: Declared, expected: list[int]
) -> None:
    monkeypatch.setenv("MY_VALUE", text)
    assert read(EnvironmentVariable("MY_VALUE"), declared, missing="omit") == expected


def test_an_environment_variable_that_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    source = EnvironmentVariable("MY_VALUE")
    monkeypatch.delenv("MY_VALUE", raising=False)
    assert refused(source) == "environment variable MY_VALUE: is not set; set it where this daemon is started"
    monkeypatch.setenv("MY_VALUE", "73519x")
    assert refused(source) == "environment variable MY_VALUE: is not a whole number; correct it where this daemon is started"
    monkeypatch.setenv("MY_VALUE", "73519")
    assert refused(source) == "environment variable MY_VALUE: record 1 of 1 is above its bound 300; correct it or its bounds"
    assert "73519" not in f"{source!r}"


# -- a person


@pytest.fixture
def patient(write: Write) -> PatientConfig:
    return check_patient(write("alice.yaml", PATIENT))


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a person at a terminal is going to type, and then what is left of it."""
    answers: list[str] = []
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda _self: True})())
    monkeypatch.setattr(click, "prompt", lambda *_, **__: answers.pop(0))
    return answers


def value(config: PatientConfig) -> list[int]:
    return read(config.sources["pulse"].source("pulse").reader, records=1)


def test_a_person_is_asked_at_the_start_and_not_at_a_reload(patient: PatientConfig, typed: list[str]) -> None:
    answers = Answers()
    typed.append("72")
    assert value(answers.fill(patient)) == [72]
    assert value(answers.fill(patient)) == [72]
    assert "72" not in f"{answers!r} {answers.fill(patient).sources}"


def test_a_person_is_asked_until_it_is_a_value_that_is_declared(
    patient: PatientConfig, typed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    typed += ["73519x", "73519", " ", "72"]
    assert value(Answers().fill(patient)) == [72]
    said = capsys.readouterr().err
    assert said.splitlines() == [
        "that is not a whole number",
        "it must be a whole number within [0, 300]",
        "it must be a whole number within [0, 300]",
    ]


def test_a_reload_that_brings_a_new_question_or_another_type_is_refused(write: Write, typed: list[str]) -> None:
    answers, path = Answers(), write("alice.yaml", PATIENT)
    typed.append("72")
    answers.fill(check_patient(path))
    path.write_text(PATIENT.replace("Your pulse", "Your resting pulse"))
    with pytest.raises(ConfigError, match=r"^sources.pulse.prompt: is new, and a person is asked at the start only; restart"):
        answers.fill(check_patient(path))
    path.write_text(PATIENT.replace("bounds: [0, 300]", "categories: [low, high]"))
    with pytest.raises(ConfigError, match=r"^sources.pulse.prompt: what was typed is a number, and the source has categories"):
        answers.fill(check_patient(path))


def test_where_there_is_no_terminal_nobody_is_asked(patient: PatientConfig) -> None:
    with pytest.raises(ConfigError, match=r"^sources.pulse.prompt: asks a person, and this process has no terminal; start it on"):
        Answers().fill(patient)
    assert Answers(ask=False).fill(patient) == patient
    assert refused(Prompt("Your pulse")) == "its prompt: nobody was asked; start the daemon on a terminal"


def test_what_is_typed_on_a_real_terminal_is_not_shown(write: Write) -> None:
    """`preview` asks as the daemon does."""
    study = write(
        "pulse.yaml",
        "id: pulse\ntitle: Pulse\npurpose: test\nvariables: [{name: pulse, bounds: [0, 300]}]\n"
        "statistics: [{kind: sum, variable: pulse}]\ncohort: {members: [alice, bob, charlie]}\n",
    )
    command = [sys.executable, "-m", "nodes.cli", "patient", "preview", str(study), "--config", str(write("a.yaml", PATIENT))]
    terminal, other_end = pty.openpty()
    with subprocess.Popen(
        command, cwd=ROOT, stdin=other_end, stdout=subprocess.PIPE, stderr=other_end, text=True, start_new_session=True
    ) as process:
        os.close(other_end)
        seen = _until(terminal, "Your pulse: ")
        os.write(terminal, b"289\n")
        seen += _until(terminal, "Once more, to be sure: ")
        os.write(terminal, b"289\n")
        seen += _until(terminal, "without a look at them.")
        shown, _ = process.communicate(timeout=DEADLINE)
    os.close(terminal)
    assert "289" not in seen
    assert shown.splitlines()[-1].split() == ["1", "289"]


def _until(terminal: int, text: str) -> str:
    seen, end = "", time.monotonic() + DEADLINE
    while text not in seen:
        assert time.monotonic() < end, f"{text!r} is not in {seen!r}"
        if select([terminal], [], [], 1)[0]:
            seen += os.read(terminal, 4096).decode()
    return seen
