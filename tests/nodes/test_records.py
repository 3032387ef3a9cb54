"""Rounds as people see them: news for all who watch, and results kept within bounds."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from mpc.result import Result, StatisticResult
from mpc.rounds.events import ABORTED, RELEASED, Decided, Ended, Progressed, Released
from nodes.records import Records, RoundRecord
from nodes.store.base import Begun, Closed, ClosedRound, OpenRound
from tests.mpc.nodes import HOSPITAL
from tests.nodes.house import soon


def name(number: int) -> bytes:
    return number.to_bytes(16, "big")


def opened(records: Records, number: int = 0) -> RoundRecord:
    record = RoundRecord(name(number), "pressure", 3_000_001, opened=1_700_000_000.0 + number)
    records.add(record)
    return record


def result(*values: int) -> Result:
    octets = b"".join(value.to_bytes(8, "little", signed=True) for value in values)
    return Result(bytes(32), 3, (StatisticResult("sum", "value", octets, ""),))


def release(records: Records, number: int, *values: int) -> None:
    records.note(name(number), Released(result(*values), bytes(32)))
    records.note(name(number), Ended(RELEASED))


async def watched(records: Records, number: int = 0) -> list[Any]:
    """Phase, those waited for, and outcome, each time that the watcher is told."""
    seen = []
    async for record in records.watch(name(number)):
        seen.append((record.phase, record.waiting_for, record.outcome))
    return seen


async def settled() -> None:
    """Lets the watchers have a look."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_record_tells_the_rounds_progress() -> None:
    records = Records()
    record = opened(records)
    assert record.summary() == {
        "round": "00" * 16,
        "study": "pressure",
        "opened": 1_700_000_000.0,
        "phase": "new",
        "outcome": "open",
        "attempt": 1,
        "modulus": 3_000_001,
        "waiting_for": [],
    }
    records.note(name(0), Progressed("inviting", ("alice", "bob")))
    assert (record.summary()["phase"], record.summary()["waiting_for"]) == ("inviting", ["alice", "bob"])
    assert not record.ended


def test_a_released_round_has_its_result_in_full_and_not_in_the_summary() -> None:
    records = Records()
    record = opened(records)
    release(records, 0, 1575)
    assert record.ended
    summary, full = record.summary(), record.full(record.result)
    seconds = summary.pop("seconds")
    assert isinstance(seconds, float)
    assert summary == {
        "round": "00" * 16,
        "study": "pressure",
        "opened": 1_700_000_000.0,
        "phase": "released",
        "outcome": "released",
        "attempt": 1,
        "modulus": 3_000_001,
    }
    assert full == summary | {
        "seconds": seconds,
        "patients": 3,
        "statistics": {"value": {"sum": 1575}},
    }
    assert "1575" not in repr(record)


def test_an_aborted_round_says_why_and_who() -> None:
    records = Records()
    record = opened(records)
    records.note(name(0), Progressed("sharing", ("bob",)))
    records.note(name(0), Ended(ABORTED, "member-missing", "sharing", ("bob",), "bob went silent while sharing"))
    full = record.full(None)
    assert "waiting_for" not in full
    assert "statistics" not in full
    assert (full["outcome"], full["code"], full["phase"]) == ("aborted", "member-missing", "sharing")
    assert (full["missing"], full["detail"]) == (["bob"], "bob went silent while sharing")


def test_news_of_a_round_that_is_not_known_is_dropped() -> None:
    records = Records()
    records.note(name(7), Ended(RELEASED))
    assert (records.all(), records.get(name(7))) == ([], None)


def test_records_come_in_the_order_of_opening() -> None:
    records = Records()
    made = [opened(records, number) for number in (3, 1, 2)]
    assert records.all() == made
    assert records.get(name(1)) is made[1]


# -- watching


async def test_a_watcher_sees_every_change_until_the_end() -> None:
    records = Records()
    opened(records)
    watching = asyncio.create_task(watched(records))
    await settled()
    records.note(name(0), Progressed("inviting", ("alice",)))
    await settled()
    records.note(name(0), Progressed("sharing", ("bob",)))
    await settled()
    records.note(name(0), Ended(ABORTED, "cancelled", "sharing"))
    assert await soon(watching) == [
        ("new", (), "open"),
        ("inviting", ("alice",), "open"),
        ("sharing", ("bob",), "open"),
        ("sharing", (), "aborted"),
    ]


async def test_several_watchers_see_the_same() -> None:
    records = Records()
    opened(records)
    watching = [asyncio.create_task(watched(records)) for _ in range(3)]
    await settled()
    records.note(name(0), Progressed("inviting", ("alice",)))
    await settled()
    latecomer = asyncio.create_task(watched(records))
    await settled()
    release(records, 0, 1)
    end = ("released", (), "released")
    for seen in await soon(asyncio.gather(*watching)):
        assert seen == [("new", (), "open"), ("inviting", ("alice",), "open"), end]
    assert await soon(latecomer) == [("inviting", ("alice",), "open"), end]


async def test_a_slow_watcher_misses_steps_and_never_the_end() -> None:
    records = Records()
    opened(records)
    watching = records.watch(name(0))
    assert (await anext(watching)).phase == "new"
    records.note(name(0), Progressed("inviting", ("alice",)))
    records.note(name(0), Progressed("sharing", ("alice",)))
    release(records, 0, 1)
    assert (await soon(anext(watching))).outcome == "released"
    with pytest.raises(StopAsyncIteration):
        await soon(anext(watching))


async def test_watching_another_round_hears_nothing_of_this_one() -> None:
    records = Records()
    opened(records, 0)
    opened(records, 1)
    watching = asyncio.create_task(watched(records, 1))
    await settled()
    release(records, 0, 1)
    await settled()
    assert not watching.done()
    release(records, 1, 1)
    assert len(await soon(watching)) == 2


async def test_watching_an_ended_round_gives_its_end_and_leaves_nothing_behind() -> None:
    records = Records()
    opened(records)
    release(records, 0, 1)
    assert await soon(watched(records)) == [("released", (), "released")]
    assert await soon(watched(records, 99)) == []
    assert not records._news


async def test_an_effect_that_people_do_not_see_changes_nothing() -> None:
    records = Records()
    record = opened(records)
    before = record.summary()
    records.note(name(0), Decided("pressure", HOSPITAL, ""))
    assert record.summary() == before


async def test_a_watcher_may_go_away() -> None:
    records = Records()
    opened(records)
    watching = asyncio.create_task(watched(records))
    await settled()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    other = asyncio.create_task(watched(records))
    await settled()
    release(records, 0, 1)
    assert len(await soon(other)) == 2


# -- bounds


def test_a_thousand_rounds_are_remembered() -> None:
    records = Records()
    for number in range(1000):
        opened(records, number)
        records.note(name(number), Ended(RELEASED))
    assert [record.round_id for record in records.all()] == [name(number) for number in range(1000)]
    opened(records, 1000)
    assert [record.round_id for record in records.all()] == [name(number) for number in range(1, 1001)]


def test_an_open_round_is_never_forgotten() -> None:
    records = Records()
    for number in range(1005):
        opened(records, number)
    assert len(records.all()) == 1005
    records.note(name(1003), Ended(ABORTED))
    opened(records, 1005)
    assert records.get(name(1003)) is None
    assert records.get(name(0)) is not None


def test_older_results_make_room_for_newer_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.records._KEPT_RESULT_BYTES", 32)  # four values of eight bytes
    records = Records()
    made = [opened(records, number) for number in range(3)]
    for number in range(3):
        release(records, number, number, number)
    assert [record.result is not None for record in made] == [False, True, True]
    assert made[1].full(made[1].result)["statistics"] == {"value": {"sum": [1, 1]}}


def test_rounds_that_ended_before_a_time_are_forgotten_with_their_results() -> None:
    records = Records()
    old, young, still_open = (opened(records, number) for number in range(3))
    for record, seconds in ((old, 50.0), (young, 70.0)):
        record.seconds = seconds
        release(records, record.round_id[-1], 1575)
    records.forget(1_700_000_060.0)
    assert records.all() == [young, still_open]
    assert young.result is not None
    release(records, 2, 1575)
    records.forget(time.time() + 60, "weight")
    assert len(records.all()) == 2
    records.forget(time.time() + 60, "pressure")
    assert records.all() == []


def test_a_result_that_has_been_erased_is_said_to_be() -> None:
    records = Records()
    record = opened(records)
    release(records, 0, 1575)
    full = record.full(None)
    assert (full["outcome"], full["detail"]) == ("released", "the values of this result have been erased")
    assert "statistics" not in full


# -- what a later life of the daemon knows


@pytest.mark.parametrize(
    "ended", [Ended(RELEASED), Ended(ABORTED, "member-missing", "sharing", ("bob",), "bob went silent while sharing")]
)
def test_a_kept_summary_gives_the_same_record(ended: Ended) -> None:
    records = Records()
    record = opened(records)
    record.attempt = 2
    records.note(name(0), ended)
    closed = Closed(record.opened + 7, ended.outcome, ended.code, b"", summary=json.dumps(record.summary()).encode())
    kept = RoundRecord.kept_closed(ClosedRound(name(0), record.opened, "pressure", closed))
    assert kept.summary() == record.summary()
    assert kept.ended


def test_a_round_that_was_given_up_is_known_by_what_the_store_has_of_it() -> None:
    closed = Closed(1_700_000_007.5, ABORTED, "lost", b"")
    summary = RoundRecord.kept_closed(ClosedRound(name(0), 1_700_000_000.0, "pressure", closed)).summary()
    assert (summary["round"], summary["study"], summary["opened"]) == ("00" * 16, "pressure", 1_700_000_000.0)
    assert (summary["outcome"], summary["code"], summary["seconds"]) == (ABORTED, "lost", 7.5)


def test_a_round_of_an_earlier_life_has_lasted_since_its_opening() -> None:
    records = Records()
    record = RoundRecord.kept_open(OpenRound(name(0), Begun(time.time() - 3600, "hospital", "pressure", b""), (), ()))
    records.add(record)
    records.note(name(0), Ended(RELEASED))
    assert record.seconds is not None
    assert 3600 <= record.seconds < 3660


def test_a_failed_round_names_the_one_in_its_place() -> None:
    records = Records()
    failed = opened(records)
    records.add(RoundRecord(name(1), "pressure", 3_000_001, 1_700_000_001.0, attempt=2, follows="00" * 16))
    assert failed.summary()["followed_by"] == name(1).hex()


async def test_who_watches_a_round_that_could_not_be_opened_waits_no_more() -> None:
    records = Records()
    opened(records)
    watching = asyncio.create_task(watched(records))
    await settled()
    records.discard(name(0))
    assert await soon(watching) == [("new", (), "open")]


def test_a_round_that_could_not_be_opened_is_unknown() -> None:
    records = Records()
    opened(records)
    records.discard(name(0))
    assert records.all() == []


def test_the_newest_result_stays_however_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.records._KEPT_RESULT_BYTES", 32)
    records = Records()
    made = [opened(records, number) for number in range(2)]
    release(records, 0, 1)
    release(records, 1, *range(100))
    assert [record.result is not None for record in made] == [False, True]


def test_the_newest_result_stays_when_its_round_was_opened_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever watches it has not seen it yet."""
    monkeypatch.setattr("nodes.records._KEPT_RESULT_BYTES", 32)
    records = Records()
    slow, quick = opened(records, 0), opened(records, 1)
    release(records, 1, 1, 2, 3)
    release(records, 0, 4, 5, 6)
    assert slow.result is not None
    assert quick.result is None
