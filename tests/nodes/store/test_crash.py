"""A process killed at any point leaves a commit whole or not at all, and none that it had told of is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from nodes.store.sqlite import SqliteStore
from tests.nodes.store import committing
from tests.nodes.store.committing import EVENT_BYTES, KEY
from tests.nodes.store.steps import NODE

ROOT = Path(committing.__file__).parents[3]


@contextmanager
def committing_process(path: Path, point: str, commits: int) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.nodes.store.committing", path, point, str(commits)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process:
        try:
            yield process, process.stdout
        finally:
            process.kill()


async def commits_kept(path: Path) -> int:
    """How many commits a new process finds, after looking at all that they hold."""
    store = SqliteStore(path, NODE, KEY)
    await store.open()
    counter = await store.counter()
    rounds = await store.open_rounds()
    assert [len(kept.events) for kept in rounds] == [counter - 1] * 2
    assert {len(event) for kept in rounds for event in kept.events} <= {EVENT_BYTES}
    await store.close()
    return counter


@pytest.mark.parametrize(("point", "kept"), [("inside", 4), ("after", 5)])
async def test_a_commit_is_kept_from_the_moment_it_returns_and_not_before(state: Path, point: str, kept: int) -> None:
    path = state / "store.db"
    with committing_process(path, point, 5) as (process, output):
        told = [int(line) for line in output]
        assert process.wait(30) == -signal.SIGKILL
    assert told == [2, 3, 4]
    assert await commits_kept(path) == kept


@pytest.mark.parametrize("told", [1, 7, 40, 150])
async def test_a_process_killed_in_the_middle_of_its_work_loses_nothing_that_it_told_of(state: Path, told: int) -> None:
    path = state / "store.db"
    with committing_process(path, "outside", 0) as (process, output):
        for _ in range(told):
            output.readline()
        os.kill(process.pid, signal.SIGKILL)
        last = max([1 + told, *(int(line) for line in output if line.endswith("\n"))])
    kept = await commits_kept(path)
    # One more may have been committed than it could tell of.
    assert last <= kept <= last + 1
