"""Opens the rounds of studies with a schedule, as a person would.

Of each study a small file keeps up to when its schedule has been looked after. What fell due while the hospital was away is one
round, however often it was due; what is due while a round of the study is open waits for its end; and a round that somebody has
opened since is the one that was due. A study that is new is due from now on. Patients that do not take part are counted in the
round's record, and asked again when the next one is due.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from mpc.errors import CohortiumError
from nodes.log import Event, Logger
from nodes.records import Records, RoundRecord
from nodes.schedule import Schedule
from nodes.studies import Planned
from pki.files import write_file

FILE = "schedule.json"
"""In the state directory."""
_LONGEST_PAUSE = 30.0
"""Seconds after which the clock and the studies are looked at again: either may have been changed."""
_SHORTEST_PAUSE = 1.0


class Hospital(Protocol):
    """The hospital, as far as the scheduler knows it."""

    records: Records

    def studies(self) -> Mapping[str, Planned]:
        """By id. Raises StudyError."""
        ...

    async def open_round(self, study_id: str) -> RoundRecord:
        """Opens a round."""
        ...


class Scheduler:
    """One hospital's. Times are Unix seconds."""

    def __init__(self, hospital: Hospital, directory: Path, log: Logger, clock: Callable[[], float] = time.time) -> None:
        self._hospital = hospital
        self._path = directory / FILE
        self._log = log
        self._clock = clock
        self._seen: dict[str, float] = {}
        self._trouble = ""

    async def run(self) -> None:
        """For ever."""
        self._seen, pause = self._read(), 0.0
        while True:
            await asyncio.sleep(pause)
            pause = await self.look()

    async def look(self) -> float:
        """Opens what is due. Returns the seconds until it should be asked again."""
        try:
            scheduled = self._scheduled()
            now = self._clock()
            self._keep({study: self._seen.get(study, now) for study in scheduled})
            for study, schedule in scheduled.items():
                await self._look_at(study, schedule, now)
            self._trouble = ""
        except CohortiumError as error:  # studies that cannot be read, a round that cannot be kept: it may pass
            if str(error) != self._trouble:
                self._log.error(Event.SCHEDULE_FAILED, error=str(error))
            self._trouble = str(error)
            return _LONGEST_PAUSE
        times = [plan for study, schedule in scheduled.items() if (plan := schedule.next_after(self._seen[study])) is not None]
        return min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, min(times, default=now + _LONGEST_PAUSE) - now))

    async def _look_at(self, study: str, schedule: Schedule, now: float) -> None:
        due = schedule.next_after(self._seen[study])
        last = self._last(study)
        if due is None or due > now or (last is not None and not last.ended):
            return
        if last is None or last.opened < due:
            record = await self._hospital.open_round(study)
            self._log.info(Event.SCHEDULED, study=study, round=record.round_id.hex(), due=due)
        self._keep(self._seen | {study: now})  # after the round is kept: a crash in between finds it

    def plans(self) -> list[dict[str, object]]:
        """For people: each study with a schedule, when it is due next, and the round that was opened last. Raises StudyError."""
        found = []
        for study, schedule in self._scheduled().items():
            last = self._last(study)
            seen = self._seen.get(study, self._clock())
            entry: dict[str, object] = {"study": study, "schedule": str(schedule), "next": schedule.next_after(seen)}
            if last is not None:
                entry["last"] = last.summary()
            found.append(entry)
        return found

    def _scheduled(self) -> dict[str, Schedule]:
        planned = self._hospital.studies()
        return {name: one.file.schedule for name, one in sorted(planned.items()) if one.file.schedule is not None}

    def _last(self, study: str) -> RoundRecord | None:
        ours = [record for record in self._hospital.records.all() if record.study == study]
        return max(ours, key=lambda record: record.opened, default=None)

    def _read(self) -> dict[str, float]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, float])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            text = f"{self._path} cannot be read ({type(error).__name__}); all schedules count from now on"
            self._log.error(Event.SCHEDULE_FAILED, error=text)
            return {}

    def _keep(self, seen: dict[str, float]) -> None:
        if seen != self._seen:
            write_file(self._path, msgspec.json.encode(seen), mode=0o600, force=True)
            self._seen = seen
