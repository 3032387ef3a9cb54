"""Values that were given in a period are given again, and stand beside later ones in the record of the same person or in none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from mpc.rounds.events import ValuesRead, ValuesUnavailable
from mpc.study import Statistic, Study
from nodes.config import check_patient
from nodes.patient import PatientDaemon
from nodes.sources import SourceConfig
from nodes.sources.csv_file import CsvFile
from tests.mpc.nodes import study
from tests.nodes.house import make_site, short_directory
from tests.nodes.sources.ask import GONE, SMALL, variable

RECORDS = 100


def asking(*names: str) -> Study:
    """A study of many records."""
    variables = tuple(variable(name, SMALL, missing="omit") for name in names)
    statistics = tuple(Statistic.of("count", name) for name in names)
    return msgspec.structs.replace(study("alice", "bob", "charlie"), variables=variables, statistics=statistics, records=RECORDS)


@pytest.fixture
def practice(tmp_path: Path) -> Iterator[Callable[[str | None], PatientDaemon]]:
    """A patient with many records in one file that may change, with a key or without."""
    with short_directory() as directory:
        config = check_patient(make_site(directory, {"alice": 1, "bob": 2, "charlie": 3}).patients["alice"])

        def made(key: str | None) -> PatientDaemon:
            sources = {
                name: SourceConfig(bounds=(0, 300), csv=CsvFile(file=tmp_path / "a.csv", column=name, key=key))
                for name in ("systolic", "pulse")
            }
            policy = msgspec.structs.replace(config.policy, records=RECORDS)
            return PatientDaemon(msgspec.structs.replace(config, sources=sources, policy=policy))

        yield made


def gives(daemon: PatientDaemon, number: int, *names: str) -> dict[str, list[int]] | str:
    """What round `number` takes of these variables, or why it takes nothing."""
    with capture_logs() as logged:
        read = daemon.read_sources(asking(*names))
        if isinstance(read, ValuesRead):
            read = daemon.settle_values(bytes([number] * 32), asking(*names), read, time.time())
    if isinstance(read, ValuesUnavailable):
        return str(logged[-1]["reason"])
    assert type(read) is ValuesRead, "what the round's machine and journal know"
    return {name: values.tolist() for name, values in read.values.items()}


def write(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text)


def test_values_that_are_kept_are_joined_with_later_ones_by_key(practice: Any, tmp_path: Path) -> None:
    daemon = practice("id")
    write(tmp_path, "id,systolic,pulse\nb,120,60\na,131,70\n")
    assert gives(daemon, 1, "systolic") == {"systolic": [131, 120]}
    write(tmp_path, "id,systolic,pulse\nc,99,80\nb,7,61\n")
    assert gives(daemon, 2, "systolic", "pulse") == {"systolic": [131, 120, GONE], "pulse": [GONE, 61, 80]}
    assert gives(daemon, 3, "systolic") == {"systolic": [131, 120]}


def test_values_that_are_kept_without_a_key_stand_beside_no_later_ones(practice: Any, tmp_path: Path) -> None:
    daemon = practice(None)
    write(tmp_path, "id,systolic,pulse\nb,120,60\na,131,70\n")
    assert gives(daemon, 1, "systolic") == {"systolic": [120, 131]}
    write(tmp_path, "id,systolic,pulse\na,131,70\nb,120,60\n")
    said = gives(daemon, 2, "systolic", "pulse")
    assert "so nothing says which values belong together; give both a 'key'" in said
    assert gives(daemon, 3, "systolic") == {"systolic": [120, 131]}
    assert gives(daemon, 4, "pulse") == {"pulse": [70, 60]}
    assert "nothing says which values belong together" in gives(daemon, 5, "systolic", "pulse"), "they are of two moments"


def test_values_of_one_round_belong_together_in_the_next(practice: Any, tmp_path: Path) -> None:
    daemon = practice(None)
    write(tmp_path, "id,systolic,pulse\nb,120,60\na,131,70\n")
    both = gives(daemon, 1, "systolic", "pulse")
    assert both == {"systolic": [120, 131], "pulse": [60, 70]}
    write(tmp_path, "id,systolic,pulse\na,1,2\n")
    assert gives(daemon, 2, "pulse", "systolic") == both


def test_a_round_that_was_rebuilt_gives_what_it_gave(practice: Any, tmp_path: Path) -> None:
    daemon = practice("id")
    write(tmp_path, "id,systolic,pulse\nb,120,60\na,131,\n")
    read = daemon.read_sources(asking("systolic", "pulse"))
    again = ValuesRead(read.values)  # as the journal has it
    assert daemon.settle_values(bytes(32), asking("systolic", "pulse"), again, time.time()) == again
    write(tmp_path, "id,systolic,pulse\nc,1,2\n")
    assert gives(daemon, 2, "pulse", "systolic") == {"systolic": [131, 120], "pulse": [GONE, 60]}
