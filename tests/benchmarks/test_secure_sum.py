"""The benchmark of whole rounds: what it asks for, what it prints, and that it measures a real round."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import probe, secure_sum
from benchmarks.secure_sum import Case, Round

ROOT = Path(__file__).resolve().parents[2]


def test_the_range_is_shared_out_over_the_patients() -> None:
    case = Case(patients=7, length=1, largest_sum=100, rounds=1, seed=0)
    assert case.bound == 14  # 7 x 14 = 98, 7 x 15 = 105


def test_a_patient_may_send_its_vector_and_a_little() -> None:
    # R = 3,000,000 has 22 bits, so 3 bytes an element.
    case = Case(patients=3, length=10**6, largest_sum=3 * 10**6, rounds=1, seed=0)
    assert case.patient_bytes_allowed == 3 * 10**6 + 1200 * 3 + 8000


def test_what_cannot_be_measured_is_refused_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--patients", "2"], ["--rounds", "0"], ["--range", "2"], ["--length", "0"], ["--seed", "-1"]):
        with pytest.raises(SystemExit):
            secure_sum.main(words)
        assert "at least 3 patients" in capsys.readouterr().err


def test_bytes_that_cannot_be_counted_are_said_to_be_unknown() -> None:
    case = Case(patients=3, length=1, largest_sum=300, rounds=1, seed=0)
    uncounted = Round(0.02, 0.01, None, None, 60 * 10**6, 61 * 10**6, vanished=0)
    told = secure_sum.summary(case, 50 * 10**6, uncounted, [uncounted], "no pidfd_getfd")
    assert told["patient_bytes_sent"] is None
    assert "bytes are not counted: no pidfd_getfd" in secure_sum.report(case, told)


@pytest.mark.slow
def test_a_small_round_between_real_daemons_is_measured() -> None:
    words = ["--patients", "3", "--length", "5", "--range", "3000", "--rounds", "2", "--json"]
    with subprocess.Popen(
        [sys.executable, "benchmarks/secure_sum.py", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        try:
            output, errors = process.communicate(timeout=90)
        finally:
            process.terminate()  # asked and not killed, so that it ends its daemons
    assert process.returncode == 0, errors
    told = json.loads(output.splitlines()[-1])
    assert len(told["seconds"]) == 2
    assert 0 < told["seconds_p50"] < 10
    assert 0 < told["cpu_seconds"] < 10
    assert 20 < told["idle_mb"] <= told["hospital_peak_mb"] + 5
    if probe.unsupported() is None:
        # Consent, two shares, Ready, partial sum, each signed (64 bytes) and sealed (384-byte wrapped secret).
        assert 5 * 448 < told["patient_bytes_sent"] <= told["patient_bytes_allowed"]
        assert told["hospital_bytes_received"] > 3 * 3 * 448
