"""The worked example from one command: real daemons, ten practices, and every figure that of the pooled records."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm

from tests.e2e.harness import PYTHON, ROOT, SECONDS

EXAMPLE = ROOT / "config" / "studies" / "breast-cancer.yaml"
DATA = ROOT / "config" / "studies" / "data" / "breast-cancer"
COLUMNS = ("radius", "texture", "area", "smoothness")

pytestmark = pytest.mark.slow


def run_all(directory: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PYTHON, ROOT / "scripts" / "run_all.py", *words],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(directory)},
        capture_output=True,
        text=True,
        check=False,
        timeout=4 * SECONDS,
    )


def pooled() -> tuple[Any, Any]:
    """All records together: numbers (records, columns), and whether each is malignant."""
    rows: list[dict[str, str]] = []
    for path in sorted(DATA.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows += csv.DictReader(file)
    numbers = np.array([[float(row[name]) for name in COLUMNS] for row in rows])
    return numbers, np.array([row["diagnosis"] == "malignant" for row in rows])


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Statistics of the example by their names, as `--json` prints them."""
    directory = tmp_path_factory.mktemp("run")
    done = run_all(directory, "--study", EXAMPLE, "--json", "--report", directory / "report.html")
    assert done.returncode == 0, done.stderr
    assert (directory / "report.html").stat().st_size > 10_000
    assert [path.name for path in directory.iterdir()] == ["report.html"], "nothing is left behind"
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["study"], found["members"]) == ("breast-cancer", 10)
    return {one["id"]: one for one in found["statistics"]}


@pytest.mark.parametrize("place", [0, 1])
def test_means_of_both_groups_are_those_of_the_pooled_records(told: dict[str, Any], place: int) -> None:
    numbers, malignant = pooled()
    groups = told[f"mean-{COLUMNS[place]}"]["groups"]
    for group, chosen in zip(groups, (~malignant, malignant), strict=True):
        values, figures = numbers[chosen, place], group["figures"]
        assert figures["n"] == len(values)
        for name, expected in (("mean", values.mean()), ("standard_deviation", values.std(ddof=1))):
            assert abs(figures[name]["value"] - expected) <= figures[name]["error"]


def test_both_regressions_are_those_of_the_pooled_records(told: dict[str, Any]) -> None:
    numbers, malignant = pooled()
    radius, texture, area, smoothness = numbers.T
    linear = sm.OLS(area, sm.add_constant(np.column_stack([radius, texture, smoothness]))).fit()
    logistic = sm.Logit(malignant, sm.add_constant(np.column_stack([texture, area, smoothness]))).fit(disp=False, tol=1e-12)
    assert told["logistic-regression-diagnosis"]["converged"]
    for name, fit in (("linear-regression-area", linear), ("logistic-regression-diagnosis", logistic)):
        for one, expected, spread in zip(told[name]["coefficients"], fit.params, fit.bse, strict=True):
            assert abs(one["estimate"]["value"] - expected) <= one["estimate"]["error"]
            assert one["standard_error"]["value"] == pytest.approx(spread, rel=1e-3)
    assert told["linear-regression-area"]["r_squared"]["value"] == pytest.approx(linear.rsquared, rel=1e-4)


def test_no_bin_of_the_histogram_holds_fewer_records_than_the_release_rule_allows(told: dict[str, Any]) -> None:
    groups = told["histogram-radius"]["groups"]
    counts = [count for group in groups for count in group["figures"]["counts"]]
    assert sum(counts) == len(pooled()[1])
    assert not {1, 2, 3, 4} & {*counts}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--study", "none.yaml"), "none.yaml: there is no such file; check the path"),
        (
            ("--study", EXAMPLE, "--data", ROOT),
            "practice-01.csv: No such file or directory; every member of breast-cancer needs its",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_starts(
    tmp_path: Path, words: tuple[str | Path, ...], complaint: str
) -> None:
    done = run_all(tmp_path, *words)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert list(tmp_path.iterdir()) == []
