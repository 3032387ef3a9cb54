"""What a schedule opens, and when, at a hospital whose clock the test holds."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mpc.errors import StudyError
from mpc.rounds.events import ABORTED, RELEASED, Ended
from nodes.records import Records, RoundRecord
from nodes.scheduler import FILE, Scheduler
from nodes.store.base import StoreError
from nodes.studies import Planned, load_studies
from tests.nodes.house import Clock, kept_log

HOUR = 3600.0
START = 1_772_438_400.0  # Mon 2026-03-02 08:00 UTC
STUDY = """\
id: {name}
title: T
purpose: P
variables: [{{name: value, bounds: [0, 9]}}]
statistics: [{{kind: sum, variable: value}}]
cohort: {{members: [alice, bob, charlie]}}
"""


@dataclass
class House:
    """A hospital that opens rounds by writing them down."""

    directory: Path
    clock: Clock
    records: Records = field(default_factory=Records)
    fails: Exception | None = None

    def __post_init__(self) -> None:
        self.log, self.logged = kept_log()
        (self.directory / "studies").mkdir()

    def write(self, name: str, schedule: str = "") -> None:
        text = STUDY.format(name=name) + (f"schedule: {schedule}\n" if schedule else "")
        (self.directory / "studies" / f"{name}.yaml").write_text(text)

    def studies(self) -> dict[str, Planned]:
        return load_studies(self.directory / "studies", "demo")

    async def open_round(self, study_id: str) -> RoundRecord:
        if self.fails is not None:
            raise self.fails
        record = RoundRecord(len(self.records.all()).to_bytes(16, "big"), study_id, 2, self.clock.time())
        self.records.add(record)
        return record

    def end(self, outcome: str = RELEASED) -> None:
        """All open rounds."""
        for record in self.records.all():
            if not record.ended:
                self.records.note(record.round_id, Ended(outcome))

    def scheduler(self) -> Scheduler:
        """As at the start of a daemon."""
        made = Scheduler(self, self.directory, self.log, self.clock.time)
        made._seen = made._read()
        return made

    def opened(self) -> list[tuple[str, float]]:
        """Study, and hours from the start."""
        return [(record.study, (record.opened - START) / HOUR) for record in self.records.all()]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path, Clock(START))


async def pass_hours(house: House, scheduler: Scheduler, hours: float, step: float = 0.5) -> None:
    """Looks again and again, as `run` does."""
    for _ in range(int(hours / step)):
        house.clock.now += step * HOUR
        await scheduler.look()
        house.end()


async def test_a_round_opens_whenever_the_study_is_due_and_not_before(house: House) -> None:
    house.write("twice", "{cron: '0 9,11 * * *'}")
    house.write("never")
    scheduler = house.scheduler()
    await scheduler.look()
    assert house.opened() == []
    await pass_hours(house, scheduler, 26)
    assert house.opened() == [("twice", 1.0), ("twice", 3.0), ("twice", 25.0)]


async def test_a_study_that_is_new_is_due_from_now_on(house: House) -> None:
    scheduler = house.scheduler()
    await scheduler.look()
    house.clock.now += 5 * HOUR
    house.write("past", "{once: 2026-03-02 09:00}")
    house.write("hourly", "{every: 1h}")
    await scheduler.look()
    await pass_hours(house, scheduler, 2)
    assert house.opened() == [("hourly", 6.0), ("hourly", 7.0)]


async def test_once_is_once_whatever_restarts(house: House) -> None:
    house.write("single", "{once: 2026-03-02 09:00}")
    await house.scheduler().look()
    for _ in range(3):
        await pass_hours(house, house.scheduler(), 2)
    assert house.opened() == [("single", 1.0)]


async def test_what_fell_due_while_the_hospital_was_away_is_one_round(house: House) -> None:
    house.write("hourly", "{every: 1h}")
    await house.scheduler().look()
    house.clock.now += 7.25 * HOUR
    await pass_hours(house, house.scheduler(), 1)
    assert house.opened() == [("hourly", 7.75), ("hourly", 8.25)]


async def test_a_round_that_a_person_has_opened_since_is_the_one_that_was_due(house: House) -> None:
    house.write("daily", "{cron: 0 9 * * *}")
    await house.scheduler().look()
    house.clock.now += 2 * HOUR
    await house.open_round("daily")
    house.end()
    await pass_hours(house, house.scheduler(), 24)
    assert house.opened() == [("daily", 2.0), ("daily", 25.0)]


async def test_a_round_that_is_kept_but_not_noted_is_not_opened_twice(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.write("daily", "{cron: 0 9 * * *}")
    scheduler = house.scheduler()
    await scheduler.look()
    house.clock.now += 1.5 * HOUR

    def crash(*_arguments: object, **_named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(scheduler, "_log", replace_info(crash))
        with pytest.raises(KeyboardInterrupt):
            await scheduler.look()
    house.end()
    await house.scheduler().look()
    assert house.opened() == [("daily", 1.5)]


def replace_info(crash: Any) -> Any:
    """A log that ends the process when it is told of a round."""
    return type("Log", (), {"info": crash})()


async def test_what_is_due_while_a_round_is_open_waits_for_its_end(house: House) -> None:
    house.write("hourly", "{every: 1h}")
    scheduler = house.scheduler()
    await scheduler.look()
    house.clock.now += HOUR
    await scheduler.look()
    house.clock.now += 2.5 * HOUR
    await scheduler.look()
    assert house.opened() == [("hourly", 1.0)]
    house.end(ABORTED)
    await scheduler.look()
    assert house.opened() == [("hourly", 1.0), ("hourly", 3.5)]


@pytest.mark.parametrize("error", [StoreError("disk-full", "the disk is full"), StudyError("it cannot be run")])
async def test_what_cannot_be_opened_is_tried_again_and_logged_once(house: House, error: Exception) -> None:
    house.write("daily", "{cron: 0 9 * * *}")
    scheduler = house.scheduler()
    await scheduler.look()
    house.clock.now += HOUR
    house.fails = error
    for _ in range(3):
        assert await scheduler.look() == 30.0
    assert [entry["event"] for entry in house.logged] == ["schedule-failed"]
    house.fails = None
    await scheduler.look()
    assert house.opened() == [("daily", 1.0)]
    assert [entry["event"] for entry in house.logged] == ["schedule-failed", "scheduled"]


async def test_studies_that_cannot_be_read_stop_nothing_for_good(house: House) -> None:
    house.write("daily", "{cron: 0 9 * * *}")
    scheduler = house.scheduler()
    await scheduler.look()
    house.clock.now += HOUR
    (house.directory / "studies" / "wrong.yaml").write_text("id: 1\n")
    await scheduler.look()
    assert house.opened() == []
    (house.directory / "studies" / "wrong.yaml").unlink()
    await scheduler.look()
    assert house.opened() == [("daily", 1.0)]


async def test_it_looks_again_when_the_next_one_is_due_and_at_least_twice_a_minute(house: House) -> None:
    house.write("hourly", "{every: 1h}")
    scheduler = house.scheduler()
    assert await scheduler.look() == 30.0
    house.clock.now += HOUR - 12
    assert await scheduler.look() == 12.0
    house.clock.now += 11.9
    assert await scheduler.look() == 1.0


async def test_a_file_that_cannot_be_read_is_begun_anew(house: House) -> None:
    house.write("hourly", "{every: 1h}")
    (house.directory / FILE).write_bytes(b"{")
    await house.scheduler().look()
    assert json.loads((house.directory / FILE).read_bytes()) == {"hourly": START}
    assert [entry["event"] for entry in house.logged] == ["schedule-failed"]


async def test_plans_say_when_next_and_who_took_part_last(house: House) -> None:
    house.write("daily", "{cron: 0 9 * * *}")
    house.write("single", "{once: 2026-03-02 07:00}")
    scheduler = house.scheduler()
    await scheduler.look()
    assert scheduler.plans() == [
        {"study": "daily", "schedule": "cron 0 9 * * *", "next": START + HOUR},
        {"study": "single", "schedule": "once 2026-03-02 07:00", "next": None},
    ]
    house.clock.now += HOUR
    await scheduler.look()
    (record,) = house.records.all()
    record.asked, record.members = 3, ("alice", "bob")
    house.end()
    last: Any = scheduler.plans()[0]["last"]
    assert (last["asked"], last["members"], last["outcome"]) == (3, ["alice", "bob"], "released")
    assert scheduler.plans()[0]["next"] == START + 25 * HOUR
