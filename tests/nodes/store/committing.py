"""A process that commits until it is killed, by others or by itself at a named point. Run by test_crash.

    python committing.py FILE POINT COMMITS

Each commit gives one event to each of two rounds. Once it is durable its counter is printed. The process kills itself in commit
number COMMITS, at POINT: "inside" its transaction or "after" it; at "outside" it goes on until it is killed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from nodes.store.base import Step
from nodes.store.sealing import StorageKey
from nodes.store.sqlite import SqliteStore
from tests.nodes.store.steps import NODE, begin, event

KEY = StorageKey(bytes(32))
EVENT_BYTES = 30_000


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


class Dying(SqliteStore):
    """Dies when its commit has changed everything and committed nothing."""

    def __init__(self, path: Path, at: int) -> None:
        super().__init__(path, NODE, KEY)
        self._at = at

    def _commit(self, connection: sqlite3.Connection, steps: Sequence[Step]) -> int:
        counter = super()._commit(connection, steps)
        if counter == self._at:
            die()
        return counter


async def main(path: Path, point: str, commits: int) -> None:
    store = Dying(path, commits if point == "inside" else -1)
    await store.open()
    await store.commit([begin(1), begin(2)])
    while True:
        counter = await store.commit([event(1, os.urandom(EVENT_BYTES)), event(2, os.urandom(EVENT_BYTES))])
        if point == "after" and counter == commits:
            die()
        sys.stdout.write(f"{counter}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
