"""One deployment that most of the tests share: a hospital, three patients as processes, and a fourth that the tests play.

Every test leaves it able to run a round; `cohort` starts again whatever a failed test left dead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from scripts.deployment import HOSPITAL, VARIABLE
from tests.e2e.harness import Cohort
from tests.e2e.played import Loop, Played

BOUND = 10_000_000
PATIENTS = ("alice", "bob", "charlie")
VALUES = {"alice": 7254193, "bob": 3108467, "charlie": 5409731, "mallory": 6180355}
SUM_OF_THREE = 15772391
SUM_OF_FOUR = 21952746
STEPS = {"alice": [11, 0, 7, 9000], "bob": [3, 0, 1, 2500], "charlie": [400, 1, 50, 999]}
SUM_OF_STEPS = [414, 1, 58, 12499]
SEEDS = {"alice": 101, "bob": 102, "charlie": 103}
FAULTS: Mapping[str, tuple[dict[str, Any], str]] = {
    "negative": ({"literal": -5}, "value 1 of 1 is below its minimum 0"),
    "above": ({"literal": 101}, "value 1 of 1 is above its bound 100"),
    "vector": ({"literal": [1, 2]}, "its literal: the study asks for 1 values, there are more"),
    "nan": (
        {"csv": {"file": "faults.csv", "column": "reading", "row": 1}},
        "faults.csv:2: column 'reading' is not a whole number",
    ),
    "fraction": ({"csv": {"file": "faults.csv", "column": "fraction", "row": 1}}, "column 'fraction' is not a whole number"),
    "word": ({"csv": {"file": "faults.csv", "column": "word", "row": 1}}, "faults.csv:2: column 'word' is not a whole number"),
    "blank": ({"csv": {"file": "faults.csv", "column": "blank", "row": 1}}, "value 1 of 1 is missing, which the study refuses"),
    "column": ({"csv": {"file": "faults.csv", "column": "pulse", "row": 1}}, "faults.csv:1: there is no column 'pulse'"),
    "row": ({"csv": {"file": "faults.csv", "column": "word", "row": 3}}, "faults.csv: there is no row 3; it has 1 rows"),
    "file": ({"csv": {"file": "gone.csv", "column": "word", "row": 1}}, "gone.csv: there is no such file"),
}
"""By variable: what is wrong with charlie's source of it, and what charlie's log says."""


def _add_sources(cohort: Cohort, name: str) -> None:
    directory = cohort.directory / name
    (directory / "steps.csv").write_text("\n".join(["day,steps", *(f"{at},{n}" for at, n in enumerate(STEPS[name]))]) + "\n")
    sources: dict[str, Any] = {
        "steps": {"bounds": [0, 100_000], "csv": {"file": "steps.csv", "column": "steps"}},
        "load": {"bounds": [0, 1_000_000], "synthetic": {"seed": SEEDS[name]}},
    }
    if name == "charlie":
        (directory / "faults.csv").write_text("reading,fraction,word,blank\nNaN,7.5,seven,\n")
    for variable, (source, _) in FAULTS.items():
        sources[variable] = {"bounds": [0, 100], **(source if name == "charlie" else {"literal": 50})}

    def change(config: dict[str, Any]) -> None:
        config["sources"] |= sources
        config["policy"]["max_length"] = 2_000_000

    cohort.edit(name, change)


def _write_studies(cohort: Cohort) -> None:
    cohort.write_study("three", members=PATIENTS)
    cohort.write_study("published", members=PATIENTS, publish="members")
    cohort.write_study("steps", members=PATIENTS, variable="steps", bounds=(0, 100_000), length=4)
    cohort.write_study("load", members=PATIENTS, variable="load", bounds=(0, 1_000_000), length=10**6, deadline=60)
    cohort.write_study("three-soon", members=PATIENTS, deadline=5)
    cohort.write_study("four-soon", members=(*PATIENTS, "mallory"), deadline=5)
    for variable in FAULTS:
        cohort.write_study(f"fault-{variable}", members=PATIENTS, variable=variable, bounds=(0, 100))


@pytest.fixture(scope="session")
def _whole_cohort(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cohort]:
    sources = {name: {"literal": value} for name, value in VALUES.items()}
    with Cohort(tmp_path_factory.mktemp("cohort"), sources, bound=BOUND, deadline=90) as cohort:
        assert VARIABLE == "value"
        for name in PATIENTS:
            _add_sources(cohort, name)
        _write_studies(cohort)
        cohort.start(HOSPITAL, *PATIENTS)
        yield cohort


@pytest.fixture
def cohort(_whole_cohort: Cohort) -> Cohort:
    """Running daemons: the hospital, alice, bob and charlie. The study demo-sum is over mallory too, three is not."""
    dead = [name for name in (HOSPITAL, *PATIENTS) if not _whole_cohort.is_running(name)]
    _whole_cohort.start(*dead)
    return _whole_cohort


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    """Where nodes are played."""
    with Loop() as running:
        yield running


@pytest.fixture(scope="session")
def _whole_mallory(_whole_cohort: Cohort, loop: Loop) -> Iterator[Played]:
    with Played(_whole_cohort, "mallory", loop) as played:
        yield played


@pytest.fixture
def mallory(_whole_mallory: Played) -> Iterator[Played]:
    """The fourth patient, played here and honest until a test makes her something else."""
    yield _whole_mallory
    _whole_mallory.release_all()


@pytest.fixture
def pki_directory(tmp_path: Path) -> Path:
    """Where certificates that a test invents go."""
    made = tmp_path / "pki"
    made.mkdir(mode=0o700)
    return made
