"""`cohortium patient preview`: a person sees the values that a study would get, and nobody else does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mpc.errors import ConfigError, DataError, UsageError
from nodes.commands.patient import patient

CONFIG = """consortium: demo
name: alice
identity: {key: a.key, certificate: a.crt, authorities: [ca.pem]}
listen: "127.0.0.1:7001"
admin: a.sock
trust: {authorities: ["sha256:0000000000000000000000000000000000000000000000000000000000000000"]}
hospital: {name: general, url: "https://127.0.0.1:7000"}
sources:
  pulse: {bounds: [0, 300], csv: {file: a.csv, column: pulse}}
  warmth: {bounds: [30.0, 45.0], csv: {file: a.csv, column: warmth}}
  ward: {categories: [north, south], csv: {file: a.csv, column: ward}}
  other: {bounds: [0, 9], prompt: Is not asked for another study}
policy: {records: 1000, vouched: {members: [bob, charlie]}}
"""
STUDY = """id: care
title: Care
purpose: test
records: 1000
variables:
  - {name: pulse, bounds: [0, 300]}
  - {name: warmth, type: fixed, scale: 10, bounds: [30, 45], missing: omit}
  - {name: ward, type: category, categories: [south, north], missing: omit}
statistics: [{kind: mean, variable: pulse, by: ward}, {kind: mean, variable: warmth}]
cohort: {members: [alice, bob, charlie]}
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "alice.yaml").write_text(CONFIG)
    (tmp_path / "care.yaml").write_text(STUDY)
    (tmp_path / "a.csv").write_text("pulse,warmth,ward\n72,36.64,north\n61,,south\n299,40,\n")
    return "preview", str(tmp_path / "care.yaml"), "--config", str(tmp_path / "alice.yaml")


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(patient, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_each_record_is_shown_as_the_study_would_round_it(files: tuple[str, ...], tmp_path: Path) -> None:
    result = invoke(*files)
    assert result.stdout.splitlines() == [
        "study    care",
        f"reads    pulse: column 'pulse' of {tmp_path}/a.csv",
        f"reads    warmth: column 'warmth' of {tmp_path}/a.csv",
        f"reads    ward: column 'ward' of {tmp_path}/a.csv",
        "records  3",
        "record  pulse  warmth   ward",
        "     1     72    36.6  north",
        "     2     61       -  south",
        "     3    299    40.0      -",
    ]
    assert result.stderr.startswith("cohortium: notice: what follows are the values themselves, shown because you ask;")


def test_a_program_gets_the_same_as_json(files: tuple[str, ...]) -> None:
    shown = json.loads(invoke(*files, "--json").stdout)
    assert (shown["study"], shown["records"]) == ("care", 3)
    assert shown["values"] == {
        "pulse": [[72], [61], [299]],
        "warmth": [[36.6], [None], [40.0]],
        "ward": [["north"], ["south"], [None]],
    }


def test_of_many_records_the_first_are_shown_unless_all_are_asked_for(files: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("pulse,warmth,ward\n" + "72,36.6,north\n" * 500)
    lines = invoke(*files).stdout.splitlines()
    assert (len(lines), lines[-1]) == (5 + 1 + 20 + 1, "... and 480 more; --all shows them")
    assert len(invoke(*files, "--all").stdout.splitlines()) == 5 + 1 + 500


def test_where_the_daemon_would_have_nothing_the_reason_is_told_without_a_value(files: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("pulse,warmth,ward\n73519,36.6,north\n")
    with pytest.raises(DataError, match="record 1 of 1 is above its bound 300") as refused:
        invoke(*files)
    assert "73519" not in str(refused.value)
    (tmp_path / "alice.yaml").write_text(CONFIG.replace("  pulse:", "  heartbeat:"))
    with pytest.raises(DataError, match=r"^variable pulse: there is no source for it; add one, or leave the study$"):
        invoke(*files)
    (tmp_path / "alice.yaml").write_text(CONFIG.replace("bounds: [0, 300]", "bounds: [0, 500]"))
    with pytest.raises(DataError, match=r"its bounds for pulse do not contain the declared \[0, 500\] of the source"):
        invoke(*files)
    (tmp_path / "care.yaml").write_text(STUDY.replace("kind: mean", "kind: mode"))
    with pytest.raises(ConfigError, match="there is no statistic 'mode'"):
        invoke(*files)


def test_options_of_the_daemon_are_no_options_of_a_question(files: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="options of 'patient' itself run a daemon; put those of 'preview' behind it"):
        invoke("--config", files[-1], *files)
    with pytest.raises(UsageError, match="say which patient: give --config FILE"):
        invoke()
