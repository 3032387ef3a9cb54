"""What every command says about itself. After a wanted change: UPDATE_SNAPSHOTS=1 pytest tests/e2e/test_help.py, and read it."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.e2e.harness import PYTHON, ROOT, SECONDS

SNAPSHOTS = Path(__file__).parent / "snapshots"
COMMANDS = (
    "",
    "audit",
    "audit export",
    "audit show",
    "audit verify",
    "config",
    "config schema",
    "doctor",
    "enroll",
    "erase",
    "hospital",
    "init",
    "keys",
    "keys rotate",
    "log",
    "patient",
    "pki",
    "pki init",
    "pki issue",
    "pki show",
    "pki verify",
    "relay",
    "results",
    "results export",
    "results list",
    "results show",
    "round",
    "round cancel",
    "round list",
    "round open",
    "round show",
    "status",
    "study",
    "study check",
    "study list",
    "study open",
    "study schedule",
    "study show",
)


# As the installed script `cohortium` starts it, so that the help shows that name.
START = "import sys; sys.argv[0] = 'cohortium'; from nodes.cli import main; main()"


def cohortium(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PYTHON, "-c", START, *words],
        cwd=ROOT,
        env={"COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_is_the_one_that_was_read_by_a_person(command: str) -> None:
    done = cohortium(*command.split(), "--help")
    assert done.returncode == 0, done.stderr
    snapshot = SNAPSHOTS / f"{'-'.join(['cohortium', *command.split()])}.txt"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        snapshot.write_text(done.stdout, encoding="utf-8")
    assert done.stdout == snapshot.read_text(encoding="utf-8")


def test_every_snapshot_is_of_a_command() -> None:
    names = {f"{'-'.join(['cohortium', *command.split()])}.txt" for command in COMMANDS}
    assert {path.name for path in SNAPSHOTS.iterdir()} == names


def test_the_version_is_the_projects_where_it_is_installed() -> None:
    try:
        importlib.metadata.version("cohortium")
    except importlib.metadata.PackageNotFoundError:
        expected = "(not installed)"
    else:
        expected = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    done = cohortium("--version")
    assert (done.returncode, done.stdout) == (0, f"cohortium {expected}\n")


def test_a_command_that_is_none_is_told_with_the_way_to_help() -> None:
    done = cohortium("hospitals")
    assert done.returncode == 2
    assert "No such command 'hospitals'" in done.stderr
