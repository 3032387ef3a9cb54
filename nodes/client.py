"""A running hospital for Python programs: open rounds, follow them, read results. It speaks with the admin socket.

result = await Hospital("admin.sock").run("blood-pressure")
result = BlockingHospital("admin.sock").run("blood-pressure")
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from mpc.errors import RoundAborted, TemporaryError
from mpc.rounds.events import RELEASED
from nodes.admin.client import AdminClient
from nodes.results import StudyResult

PATIENCE = 300.0
"""Seconds that a watcher waits for a daemon that was restarted."""
_PAUSE = 0.3

T = TypeVar("T")


class StudyLine(msgspec.Struct, frozen=True, kw_only=True):
    """A study in the hospital's directory."""

    id: str
    title: str
    patients: int
    """How many are asked."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Where a round stands."""

    round: str
    """Its id in hex."""
    study: str
    opened: float
    """Unix seconds."""
    phase: str
    outcome: str
    """"open", "released" or "aborted"."""
    waiting_for: tuple[str, ...] = ()
    """Names of the patients."""
    asked: int = 0
    """Patients that were invited."""
    fit: int = 0
    """Which round of a fit it is, from 1; 0 where there is none."""
    code: str = ""
    """Of a round that was aborted: why."""
    detail: str = ""
    missing: tuple[str, ...] = ()
    followed_by: str = ""
    """The round that was opened in its place, or goes on with its fit."""


Watcher = Callable[[Progress], object]


class Hospital:
    """A running hospital, by the path of its admin socket.

    Every method raises TemporaryError when nothing answers there, and the UserError that the hospital gives as its reason for a
    refusal.
    """

    def __init__(self, socket: Path | str) -> None:
        self._socket = Path(socket)

    def __repr__(self) -> str:
        return f"<Hospital at {self._socket}>"

    async def studies(self) -> list[StudyLine]:
        """The studies in its directory, as they are now."""
        return msgspec.convert(await self._get("/v1/studies"), list[StudyLine])

    async def results(self) -> list[Progress]:
        """The rounds that have results, oldest first."""
        return msgspec.convert(await self._get("/v1/results"), list[Progress])

    async def result(self, name: str) -> StudyResult:
        """The newest result of the study with the id `name`, or of the round whose id begins with it."""
        return msgspec.convert(await self._get(f"/v1/results/{quote(name, safe='')}"), StudyResult)

    async def run(self, study: str, progress: Watcher | None = None) -> StudyResult:
        """Opens a round of the study, waits for the result, and gives it; `progress` hears of each change until then.

        Rounds that follow by themselves count as one run. Raises RoundAborted when it ends without a result.
        """
        last = None
        async with aclosing(self.watch(await self.open(study))) as states:
            async for last in states:
                if progress is not None:
                    progress(last)
        assert last is not None, "a watched round is seen once at least"
        if last.outcome != RELEASED:
            raise RoundAborted(last.code, last.phase, last.missing, last.detail)
        return await self.result(last.round)

    async def open(self, study: str) -> str:
        """Opens a round of the study. Returns the round's id."""
        async with AdminClient(self._socket) as client:
            return str((await client.post("/v1/rounds", {"study": study}))["round"])

    async def watch(self, round_id: str) -> AsyncGenerator[Progress]:
        """Where the round stands, now and after each change, to its end and that of the rounds that follow by themselves.

        A daemon that goes away and comes back goes on with its rounds, and so does this.
        """
        gone_since: float | None = None
        while True:
            state: Progress | None = None
            try:
                async with AdminClient(self._socket) as client:
                    async for line in client.lines(f"/v1/rounds/{round_id}/watch"):
                        gone_since, state = None, msgspec.convert(line, Progress)
                        yield state
            except TemporaryError:
                now = time.monotonic()
                gone_since = gone_since or now
                if now - gone_since > PATIENCE:
                    raise
            if state is None or state.outcome == "open":  # the daemon is away, or about to go: its streams end, too
                await asyncio.sleep(_PAUSE)
            elif state.followed_by:
                round_id = state.followed_by
            else:
                return

    async def _get(self, path: str) -> Any:
        async with AdminClient(self._socket) as client:
            return await client.get(path)


class BlockingHospital:
    """`Hospital` for programs without an event loop, and for notebooks, which have one that is busy with the notebook."""

    def __init__(self, socket: Path | str) -> None:
        self._hospital = Hospital(socket)

    def studies(self) -> list[StudyLine]:
        """See `Hospital.studies`."""
        return _wait_for(self._hospital.studies())

    def results(self) -> list[Progress]:
        """See `Hospital.results`."""
        return _wait_for(self._hospital.results())

    def result(self, name: str) -> StudyResult:
        """See `Hospital.result`."""
        return _wait_for(self._hospital.result(name))

    def run(self, study: str, progress: Watcher | None = None) -> StudyResult:
        """See `Hospital.run`; `progress` is called on another thread."""
        return _wait_for(self._hospital.run(study, progress))


def _wait_for(call: Coroutine[Any, Any, T]) -> T:
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, call).result()
