"""The one-command demonstration, run as a person runs it: what it prints, what it refuses, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scripts.deployment import COHORTIUM, HOSPITAL
from tests.e2e.harness import PYTHON, ROOT, SECONDS, Admin, wait_for

DAEMONS = 4


@dataclass
class Run:
    """A run of the script, under way; its temporary files go to `scratch`."""

    process: subprocess.Popen[str]
    scratch: Path

    def end(self, given: str | None = None) -> tuple[int, str, str]:
        """Status, stdout and stderr, once it has ended."""
        output, errors = self.process.communicate(given, timeout=2 * SECONDS)
        return self.process.returncode, output, errors


@contextmanager
def run_all(scratch: Path, *words: str | Path) -> Iterator[Run]:
    """Starts the script; whatever happens, it is told to stop afterwards."""
    # Tests that run in the background of a shell ignore SIGINT, and so would all that they start.
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [PYTHON, "scripts/run_all.py", *map(str, words)],
            cwd=ROOT,
            env={"PATH": "/usr/bin:/bin", "TMPDIR": str(scratch), "COLUMNS": "100"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, former)
    with process:
        try:
            yield Run(process, scratch)
        finally:
            process.terminate()


def ended(scratch: Path, *words: str | Path, given: str | None = None) -> tuple[int, str, str]:
    with run_all(scratch, *words) as run:
        return run.end(given)


@pytest.fixture
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short: a Unix socket's path has at most 107 bytes."""
    return tmp_path_factory.mktemp("run")


def test_the_default_prints_the_sum_of_three_and_leaves_nothing(scratch: Path) -> None:
    status, output, errors = ended(scratch)
    assert status == 0, errors
    assert output.splitlines()[0] == "sum of 3 private values: 1575"
    assert "modulo R+1 = 3000001" in output
    assert "assumption" not in output
    assert list(scratch.iterdir()) == []


def test_json_is_the_last_line_and_has_exactly_the_promised_keys(scratch: Path) -> None:
    status, output, errors = ended(scratch, "--json", "--values", "dora=7254193,emil=0,fay=10000000,gus=1", "--bound", "10000000")
    assert status == 0, errors
    final = json.loads(output.splitlines()[-1])
    assert list(final) == ["outcome", "patients", "modulus", "statistics", "seconds", "round"]
    assert (final["outcome"], final["patients"], final["modulus"]) == ("released", 4, 40_000_001)
    assert final["statistics"] == {"value": {"sum": 17_254_194}}
    assert 0 < final["seconds"] < SECONDS
    assert re.fullmatch(r"[0-9a-f]{32}", final["round"])
    assert "--values stand in the process list" in errors
    assert "7254193" not in errors


def test_values_can_be_asked_for_and_the_largest_range_assumed(scratch: Path) -> None:
    # A value that is none and a name that is there already are asked for again.
    given = "yes\nlots\nyes\n9223372036854775800\nyes\nno\n4\nnull\n3\n\n"
    status, output, errors = ended(scratch, "--ask", "--range", "9223372036854775807", given=given)
    assert status == 0, errors
    first, second, third = output.splitlines()
    assert first == "sum of 3 private values: 9223372036854775807"
    assert second.startswith("  modulo R+1 = 9223372036854775808, in ")
    assert third == "  by your own assumption, unproved, that every value and the sum lie in [0, 9223372036854775807]"
    assert "the value of 'yes' is not an integer" in errors
    assert "yes is there already" in errors


def test_vectors_from_a_file_and_a_deployment_kept_to_be_started_by_hand(scratch: Path, tmp_path: Path) -> None:
    table, kept = tmp_path / "steps.csv", tmp_path / "kept"
    table.write_text("anna,ben,cleo,dan\n1,10,100,1000\n2,0,0,7\n")
    status, output, errors = ended(scratch, "--vector-csv", table, "--keep", kept, "--json")
    assert status == 0, errors
    final = json.loads(output.splitlines()[-1])
    assert final["statistics"] == {"value": {"sum": [1111, 9]}}
    assert f"kept in {kept}; its README says how" in errors
    with by_hand(kept) as opening:
        done = subprocess.run(opening, cwd=kept, env=HAND, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert done.returncode == 0, done.stderr
        assert "sum      value = [1111, 9] (2 numbers; --json gives all)" in done.stdout


HAND = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "COLUMNS": "100"}


@contextmanager
def by_hand(kept: Path) -> Iterator[list[str]]:
    """Does what the README in a kept deployment says, in its directory; gives the last command, which opens a round."""
    commands = [line.split() for line in (kept / "README").read_text().splitlines() if line.startswith("    cohortium ")]
    *daemons, opening = [[*COHORTIUM, *words] for _, *words in commands]
    assert [words[len(COHORTIUM)] for words in daemons] == ["hospital"] + ["patient"] * (len(daemons) - 1)
    with (kept / "by-hand.log").open("ab") as log:
        processes = [subprocess.Popen(words, cwd=kept, env=HAND, stdout=log, stderr=log) for words in daemons]
        try:
            for path in [kept / name / "admin.sock" for name in (HOSPITAL, "anna", "ben", "cleo", "dan")]:
                wait_for(lambda path=path: Admin(path).answers, f"{path} answers")  # type: ignore[misc]
            yield opening
        finally:
            for process in processes:
                process.terminate()
            assert [process.wait(SECONDS) for process in processes] == [0] * len(processes)


def test_a_directory_that_is_not_empty_is_left_alone(scratch: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    final, _ = refused(scratch, "--keep", str(tmp_path))
    assert final["detail"] == f"{tmp_path} is not empty; name a new directory"


# -- what it refuses


def refused(scratch: Path, *words: str) -> tuple[dict[str, Any], str]:
    """The one object on stdout, and stderr."""
    status, output, errors = ended(scratch, *words, "--json")
    assert status == 1, errors
    final: dict[str, Any] = json.loads(output.splitlines()[-1])
    assert list(final) == ["outcome", "code", "detail"]
    assert (final["outcome"], final["code"]) == ("refused", "refused")
    assert "Traceback" not in errors
    assert list(scratch.iterdir()) == []
    return final, errors


@pytest.mark.parametrize(
    ("words", "detail"),
    [
        (["--values", "a=-31415,b=1,c=1"], "the value of 'a' is negative; values lie in [0, 1000000]"),
        (["--values", "a=1000001,b=1,c=1"], "the value of 'a' is above the bound 1000000; give a larger --bound or --range"),
        (
            ["--values", "a=31415,b=1,c=1", "--bound", "9"],
            "the value of 'a' is above the bound 9; give a larger --bound or --range",
        ),
        (["--values", "a=nan,b=1,c=1"], "the value of 'a' is not an integer"),
        (["--values", "a=31.415,b=1,c=1"], "the value of 'a' is not an integer"),
        (["--values", "a=,b=1,c=1"], "the value of 'a' is not an integer"),
        (["--values", "a=31_415,b=1,c=1"], "the value of 'a' is not an integer"),
        (["--values", "a=1,b=1,c"], "part 3 of the values is not NAME=INTEGER"),
        (["--values", "a=1,b=1"], "2 patients are too few: with fewer than 3 the sum gives values away"),
        (["--patients", "1"], "1 patients are too few: with fewer than 3 the sum gives values away"),
        (["--values", "a=1,b=1,a=1"], "'a' is there twice; name each patient once"),
        (["--values", "ca=1,b=1,a=1"], "a patient cannot be called 'ca' here; choose another name"),
        (["--values", "hospital=1,b=1,a=1"], "a patient cannot be called 'hospital' here; choose another name"),
        (
            ["--values", "Bob=1,b=1,a=1"],
            "'Bob' is not a name: use lower-case letters, digits, '.', '-' and '_', at most 63 of them, "
            "a letter or digit first and last",
        ),
        (["--patients", "4", "--values", "a=1,b=1,c=1"], "--patients 4, but 3 values are given; leave --patients out"),
        (["--range", "0"], "--range must be positive and at most 2^63 - 1"),
        (["--range", "-3"], "--range must be positive and at most 2^63 - 1"),
        (["--range", "9223372036854775808"], "--range must be positive and at most 2^63 - 1"),
        (["--range", "1574"], "the sum is above 1574, so your assumption does not hold; give a larger --range"),
        (["--bound", "0"], "--bound must be positive"),
        (
            ["--bound", "4611686018427387904"],
            "3 patients x 4611686018427387904 = 13835058055282163712 is above 2^63 - 1; give a smaller --bound or --range",
        ),
        (["--vector-csv", "/nowhere/steps.csv"], "/nowhere/steps.csv: cannot be read as CSV (FileNotFoundError)"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_what_cannot_be_run_is_refused_at_once_with_what_to_do(scratch: Path, words: Sequence[str], detail: str) -> None:
    final, errors = refused(scratch, *words)
    assert final["detail"] == detail
    for value in ("31415", "31.415", "31_415"):
        assert value not in errors + final["detail"]


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ("", "is empty; give a header with a name for each patient, and a row for each element"),
        ("a,b,c\n1,2\n", "every row must have as many cells as the header, and every name must be there once"),
        ("a,b,a\n1,2,3\n", "every row must have as many cells as the header, and every name must be there once"),
        ("a,b\n1,2\n", "2 patients are too few"),
        ("a,b,../c\n1,2,3\n", "'../c' is not a name"),
        ("a,b,\xff\n1,2,3\n", "cannot be read as CSV (UnicodeDecodeError)"),
    ],
)
def test_a_table_that_holds_no_vectors_is_refused(scratch: Path, tmp_path: Path, table: str, complaint: str) -> None:
    path = tmp_path / "steps.csv"
    path.write_text(table, encoding="latin-1")
    final, _ = refused(scratch, "--vector-csv", str(path))
    assert complaint in final["detail"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("words", [["--patients", "many"], ["--bound", "1.5"], ["--values", "a=1", "--ask"], ["--colour"]])
def test_a_wrong_command_line_is_a_mistake_of_usage(scratch: Path, words: Sequence[str]) -> None:
    status, _, errors = ended(scratch, *words)
    assert status == 2
    assert errors.startswith("usage: run_all.py ")


def test_no_answers_at_all_are_too_few_patients(scratch: Path) -> None:
    for given in ("", "anna", "anna\n12"):
        status, output, errors = ended(scratch, "--ask", "--json", given=given)
        assert status == 1, errors
        assert json.loads(output)["outcome"] == "refused"
        assert "Traceback" not in errors


def test_a_cell_that_is_no_number_ends_the_round_with_the_patients_name(scratch: Path, tmp_path: Path) -> None:
    table = tmp_path / "steps.csv"
    table.write_text("anna,ben,cleo\n1,10,100\n2,NaN,300\n")
    status, output, errors = ended(scratch, "--vector-csv", table, "--json")
    assert status == 1, errors
    final = json.loads(output.splitlines()[-1])
    assert (final["outcome"], final["code"], final["detail"]) == (
        "aborted",
        "unavailable",
        "ben has no value that fits the study",
    )
    assert "statistics" not in final


# -- how it ends when it is ended


def _children(parent: int) -> dict[int, str]:
    """Command lines of the processes that `parent` has started, by process id."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):  # it may end while it is looked at
                status, line = (entry / "status").read_text(), (entry / "cmdline").read_bytes()
                if re.search(rf"^PPid:\s{parent}$", status, re.MULTILINE) and not re.search(r"^State:\sZ", status, re.MULTILINE):
                    found[int(entry.name)] = line.decode().replace("\0", " ")
    return found


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks for processes in /proc")


def _daemons(run: Run) -> dict[int, str]:
    return {
        process: line for process, line in _children(run.process.pid).items() if " --config " in line and " study " not in line
    }


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", ["starting", "in a round"])
def test_ctrl_c_stops_every_child_and_removes_every_file(scratch: Path, number: signal.Signals, when: str) -> None:
    with run_all(scratch) as run:

        def reached() -> dict[int, str]:
            assert run.process.poll() is None, run.end()
            children = _children(run.process.pid)
            opening = [line for line in children.values() if " study open " in line]
            there = len(_daemons(run)) == DAEMONS if when == "starting" else bool(opening)
            return children if there else {}

        children = wait_for(reached, f"the script is {when}")
        run.process.send_signal(number)
        status, output, errors = run.end()
    assert status == 130, errors
    assert output == ""
    assert errors.splitlines()[-1] == "stopped"
    assert "Traceback" not in errors
    assert not [line for process, line in children.items() if _is_running(process)]
    assert list(scratch.iterdir()) == []


@needs_proc
def test_a_daemon_that_ends_is_reported_with_its_last_words(scratch: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with run_all(scratch, "--keep", kept, "--json") as run:
        wait_for((kept / "charlie" / "admin.sock").exists, "charlie's daemon is there")
        (charlie,) = [process for process, line in _daemons(run).items() if "/charlie/" in line]
        children = list(_children(run.process.pid))
        os.kill(charlie, signal.SIGTERM)
        status, output, errors = run.end()
    assert status == 1, errors
    final = json.loads(output.splitlines()[-1])
    assert list(final) == ["outcome", "code", "detail"]
    assert (final["outcome"], final["code"]) == ("aborted", "daemon-failed")
    first, *lines = final["detail"].splitlines()
    assert first == "charlie ended with status 0; its last lines:"
    assert json.loads(lines[-1])["event"] == "stopped"
    assert not [process for process in children if _is_running(process)]


@needs_proc
@pytest.mark.slow
def test_whoever_is_killed_and_started_again_by_hand_half_way_costs_nothing(scratch: Path, tmp_path: Path) -> None:
    """The relay before the round; then a patient, which keeps it open, and meanwhile the hospital."""
    kept = tmp_path / "kept"
    with run_all(scratch, "--relay", "--patients", "10", "--keep", kept, "--json") as run, ExitStack() as by_hand:

        def kill(name: str) -> list[str]:
            wait_for((kept / name / "admin.sock").exists, f"{name} is there")
            (process,) = [process for process, line in _daemons(run).items() if f"/{name}/" in line]
            command = Path(f"/proc/{process}/cmdline").read_bytes().decode().split("\0")[:-1]
            os.kill(process, signal.SIGKILL)
            wait_for(lambda: not _is_running(process), f"{name} is gone")
            return command

        def start(command: list[str]) -> None:
            log = by_hand.enter_context((tmp_path / "by_hand.log").open("ab"))
            by_hand.callback(by_hand.enter_context(subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)).terminate)

        start(kill("relay"))
        patient = kill("patient-003")
        hospital = Admin(kept / HOSPITAL / "admin.sock")

        def waits_for_one() -> bool:
            with suppress(OSError):  # the hospital may not be there yet
                return any(len(kept["waiting_for"]) == 1 for kept in hospital.get("/v1/rounds"))
            return False

        wait_for(waits_for_one, "the round waits for the patient alone")
        start(kill(HOSPITAL))
        start(patient)
        status, output, errors = run.end()
    assert status == 0, errors
    final = json.loads(output.splitlines()[-1])
    assert (final["outcome"], final["statistics"]["value"]["sum"]) == ("released", sum(range(101, 111)))
    assert errors.count("start it again by hand, and the round goes on") == 3
