"""What the comparison does around the other software: summing up, ending its processes, saying what is missing."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import peers
from benchmarks.peers import Case, Measured

ROOT = Path(__file__).resolve().parents[2]


def test_the_first_round_is_reported_apart_as_a_warm_up() -> None:
    measured = Measured.of("mpyc", "1", Case(3, 1), [9.0, 1.0, 3.0, 2.0], None, "")
    assert (measured.warm_up, measured.seconds, measured.p50) == (9.0, [1.0, 3.0, 2.0], 2.0)


def test_a_single_round_counts_itself() -> None:
    measured = Measured.of("mpyc", "1", Case(3, 1), [9.0], None, "")
    assert (measured.warm_up, measured.seconds, measured.p50) == (None, [9.0], 9.0)


def test_the_table_gives_the_ratio_to_our_own_time(capsys: pytest.CaptureFixture[str]) -> None:
    case = Case.parse("3x1000000")
    ours = Measured.of("cohortium", "", case, [0.25], 0.5, "")
    theirs = Measured.of("mpyc", "0.1", case, [4.0], 6.0, "")
    late = Measured("flower", "1", 3, 10**6, more_than=300.0)
    peers._print_table([theirs, late], {case: ours})
    _, own_line, mpyc_line, flower_line = capsys.readouterr().err.splitlines()
    assert own_line.split() == ["cohortium", "3", "x", "1000000", "0.2500", "0.500", "1"]
    assert mpyc_line.split() == ["mpyc", "0.1", "3", "x", "1000000", "4.0000", "6.000", "16"]
    assert flower_line.split() == ["flower", "1", "3", "x", "1000000", "more", "than", "300"]


def test_only_whole_lines_of_json_are_read(tmp_path: Path) -> None:
    output = tmp_path / "output"
    assert peers._json_lines(output) == []
    output.write_text('a word\n{"seconds": 1.5}\n{"seconds": 2')
    assert peers._json_lines(output) == [{"seconds": 1.5}]


@pytest.mark.skipif(importlib.util.find_spec("mpyc") is not None, reason="mpyc is installed here")
def test_a_peer_that_is_not_installed_is_said_and_is_no_failure() -> None:
    done = _python("-m", "benchmarks.peers", "--peer", "mpyc", "--case", "3x1")
    assert done.returncode == 0
    line = json.loads(done.stdout)
    assert line["p50"] is None
    assert line["note"].startswith("mpyc is not installed")


_STUBBORN = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
while True:
    signal.pause()
"""
_STARTER = """
import subprocess, sys
subprocess.Popen([sys.executable, "-I", "-c", sys.argv[1]])
"""
_CASE = """
import subprocess, sys
from benchmarks import peers
peers._adopt_orphans()
peers._GRACE_SECONDS = 0.1
with peers._all_ended():
    starter = subprocess.Popen([sys.executable, "-I", "-c", *sys.argv[1:]], stdout=subprocess.PIPE, text=True)
    print(starter.stdout.readline(), end="")
    starter.wait()
"""


def test_a_process_that_outlives_its_starter_and_will_not_end_is_ended() -> None:
    done = _python("-c", _CASE, _STARTER, _STUBBORN)
    assert done.returncode == 0, done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def _python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
