"""Many patients in a round, many rounds at once, many rounds one after the other: exact sums, and nothing that grows."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest

from nodes import daemon
from scripts.deployment import HOSPITAL
from tests.load.crowd import Crowd, crowd, settled, sums

MIB = 1 << 20


def relayed() -> bool:
    """Whether patients can be behind a relay yet."""
    return "node_transport" in inspect.getsource(daemon)


def one_round(directory: Path, patients: int, *, behind_relay: bool, processes: int = 2) -> None:
    with crowd(directory, patients, processes, relayed=behind_relay) as made:
        assert sums(made.rounds(1, 115)) == [made.total]


@pytest.mark.slow
def test_a_round_of_30_patients_who_reach_each_other_directly(tmp_path_factory: pytest.TempPathFactory) -> None:
    one_round(tmp_path_factory.mktemp("l"), 30, behind_relay=False)


@pytest.mark.slow
@pytest.mark.skipif(not relayed(), reason="no daemon takes its mail from a relay yet")
def test_a_round_of_100_patients_through_the_relay(tmp_path_factory: pytest.TempPathFactory) -> None:
    one_round(tmp_path_factory.mktemp("l"), 100, behind_relay=True)


@pytest.mark.soak
def test_a_round_of_100_patients_who_reach_each_other_directly(tmp_path_factory: pytest.TempPathFactory) -> None:
    one_round(tmp_path_factory.mktemp("l"), 100, behind_relay=False)


@pytest.mark.soak
@pytest.mark.skipif(not relayed(), reason="no daemon takes its mail from a relay yet")
def test_a_round_of_300_patients_through_the_relay(tmp_path_factory: pytest.TempPathFactory) -> None:
    one_round(tmp_path_factory.mktemp("l"), 300, behind_relay=True, processes=3)


def empty(made: Crowd) -> Callable[[], bool]:
    """Whether no node keeps anything of a round that is over but the round's own line."""
    return lambda: not any(made.rows(node)[table] for node in (HOSPITAL, "p000") for table in ("events", "outbox"))


@pytest.mark.slow
def test_200_concurrent_rounds(tmp_path_factory: pytest.TempPathFactory) -> None:
    with crowd(tmp_path_factory.mktemp("l"), 3) as made:
        assert sums(made.rounds(200, 115)) == [made.total] * 200
        assert settled(empty(made)), [made.rows(HOSPITAL), made.rows("p000")]


def consecutive(directory: Path, warm: int, count: int) -> None:
    """Rounds one after the other; after the first of them nothing grows but the line that each leaves."""
    with crowd(directory, 3) as made:
        for _ in range(warm):
            assert sums(made.rounds(1, 60)) == [made.total]
        assert settled(empty(made)), [made.rows(HOSPITAL), made.rows("p000")]
        memory, files, before = made.resident(), made.files(), {node: made.rows(node) for node in (HOSPITAL, "p000")}
        for _ in range(count):
            assert sums(made.rounds(1, 60)) == [made.total]
        assert settled(empty(made)), [made.rows(HOSPITAL), made.rows("p000")]
        for after, start in zip(made.resident(), memory, strict=True):
            assert after - start < 8 * MIB + count * 4096, f"memory grew from {start} to {after} bytes"
        # Connections come and go; a round that left one behind would show a hundred times.
        assert settled(lambda: all(after < start + 12 for after, start in zip(made.files(), files, strict=True))), [
            files,
            made.files(),
        ]
        for node, earlier in before.items():
            rows = made.rows(node)
            assert rows["rounds"] - earlier["rounds"] == count
            assert rows["audit"] - earlier["audit"] <= 3 * count
            assert rows["keys"] == earlier["keys"]


@pytest.mark.slow
def test_consecutive_rounds_leave_nothing_behind(tmp_path_factory: pytest.TempPathFactory) -> None:
    consecutive(tmp_path_factory.mktemp("l"), warm=30, count=60)


@pytest.mark.soak
def test_1000_consecutive_rounds_leave_nothing_behind(tmp_path_factory: pytest.TempPathFactory) -> None:
    consecutive(tmp_path_factory.mktemp("l"), warm=200, count=1000)
