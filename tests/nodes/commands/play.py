"""A hospital's admin socket that a test plays, for commands that speak to one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mpc.errors import StudyError
from mpc.result import Result as RoundResult
from mpc.result import StatisticResult
from mpc.rounds.events import ABORTED, RELEASED, Ended, Progressed, Released
from nodes.admin.api import AdminApi
from nodes.admin.results import add_result_routes
from nodes.admin.rounds import add_round_routes
from nodes.admin.studies import add_study_routes
from nodes.metrics import Registry
from nodes.records import Records, RoundRecord
from nodes.results import StudyResult
from nodes.studies import Planned, load_study
from tests.nodes.house import STUDY, eventually

ROUNDS = [bytes([number]) * 16 for number in range(1, 9)]
DEADLINE = 10


@contextmanager
def at_work(serve: Callable[[], Coroutine[Any, Any, AdminApi]]) -> Iterator[None]:
    """An admin socket on a thread of its own, which `serve` makes there and starts."""
    ready, loop = threading.Event(), asyncio.new_event_loop()

    def live() -> None:
        admin = loop.run_until_complete(serve())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(admin.stop())

    thread = threading.Thread(target=live)
    thread.start()
    assert ready.wait(DEADLINE)
    yield
    loop.call_soon_threadsafe(loop.stop)
    thread.join(DEADLINE)
    loop.close()


class Play:
    """A hospital in a thread of its own, which plays `script` whenever a round is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = Records()
        self.cancelled: list[bytes] = []
        self.script: Callable[[RoundRecord], Any] | None = None
        self.ids = list(ROUNDS)
        self.unreachable: dict[str, str] = {}
        self.plans: list[dict[str, object]] = []
        self.answers: dict[bytes, StudyResult] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._stop: asyncio.Future[None] = self._loop.create_future()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))

    def __enter__(self) -> Play:
        self._thread.start()
        assert self._ready.wait(DEADLINE)
        return self

    def __exit__(self, *_error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set_result, None)
        self._thread.join(DEADLINE)
        self._loop.close()

    async def _serve(self) -> None:
        admin = AdminApi(
            self.path, lambda: {"identity": "spiffe://demo/hospital/general", "unreachable": self.unreachable}, Registry()
        )
        add_study_routes(admin, self)
        add_round_routes(admin, self)
        add_result_routes(admin, self)
        await admin.start()
        self._ready.set()
        await self._stop
        await admin.stop()

    def studies(self) -> dict[str, Planned]:
        path = self.path.with_suffix(".yaml")
        path.write_text(STUDY)
        return {"pressure": load_study(path, "demo")}

    def study(self, study_id: str) -> Planned:
        if study_id != "pressure":
            raise StudyError(f"there is no study {study_id!r} in studies; there is pressure")
        return self.studies()["pressure"]

    def schedule(self) -> list[dict[str, object]]:
        return self.plans

    async def open_round(self, study_id: str) -> RoundRecord:
        record = RoundRecord(self.ids.pop(0), self.study(study_id).study.id, 3_000_001, opened=1_700_000_000.0)
        self.records.add(record)
        if self.script is not None:
            task = asyncio.create_task(self.script(record))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return record

    async def full(self, record: RoundRecord) -> dict[str, object]:
        return record.full(record.result)

    async def answer(self, record: RoundRecord) -> StudyResult | None:
        return self.answers.get(record.round_id)

    def cancel_round(self, round_id: bytes) -> None:
        self.cancelled.append(round_id)
        self.records.note(round_id, Ended(ABORTED, "cancelled", "inviting", (), "the hospital cancelled the round"))

    # -- scripts

    async def _watched(self, record: RoundRecord) -> None:
        """A watcher has seen how the round stands and waits for news, so that it misses no step."""
        await eventually(lambda: record.round_id in self.records._news)

    async def release(self, record: RoundRecord, *values: int) -> None:
        steps = [("inviting", ("alice", "bob", "charlie")), ("inviting", ("bob",)), ("sharing", ("alice",)), ("collecting", ())]
        for phase, waiting in steps:
            await self._watched(record)
            self.records.note(record.round_id, Progressed(phase, waiting))
        octets = b"".join(value.to_bytes(8, "little", signed=True) for value in values or (1575,))
        result = RoundResult(bytes(32), 3, (StatisticResult("sum", "value", octets, ""),))
        self.records.note(record.round_id, Released(result, bytes(32)))
        self.records.note(record.round_id, Ended(RELEASED))

    async def fit(self, record: RoundRecord) -> None:
        """Two rounds, as of a regression."""
        record.fit, record.asked = 1, 3
        follower = RoundRecord(self.ids.pop(0), record.study, 2, record.opened, follows=record.round_id.hex(), fit=2)
        self.records.add(follower)
        await self.release(record)
        await self.release(follower)

    async def abort(self, record: RoundRecord) -> None:
        await self._watched(record)
        self.records.note(record.round_id, Progressed("inviting", ("alice", "bob", "charlie")))
        await self._watched(record)
        self.records.note(record.round_id, Progressed("sharing", ("bob", "charlie")))
        await self._watched(record)
        self.records.note(record.round_id, Ended(ABORTED, "member-missing", "sharing", ("bob",), "bob went silent while sharing"))
