"""When a study is due, against times that were looked up in a calendar, and each mistake in a schedule."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from nodes.schedule import Schedule


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def following(schedule: Schedule, moment: str, count: int = 1) -> list[str]:
    found, now = [], at(moment)
    for _ in range(count):
        now = schedule.next_after(now) or 0.0
        found.append(datetime.fromtimestamp(now, UTC).strftime("%a %Y-%m-%d %H:%M"))
    return found


@pytest.mark.parametrize(
    ("cron", "moment", "expected"),
    [
        ("* * * * *", "2026-02-28 23:59:30", ["Sun 2026-03-01 00:00", "Sun 2026-03-01 00:01"]),
        ("0 6 * * mon", "2026-03-01 12:00", ["Mon 2026-03-02 06:00", "Mon 2026-03-09 06:00"]),
        ("0 6 * * mon", "2026-03-02 06:00", ["Mon 2026-03-09 06:00"]),  # above, not at
        ("30 5,17 * * *", "2026-03-02 06:00", ["Mon 2026-03-02 17:30", "Tue 2026-03-03 05:30"]),
        ("*/20 9-10 * * 1-5", "2026-03-06 10:30", ["Fri 2026-03-06 10:40", "Mon 2026-03-09 09:00"]),
        ("5/25 0 1 1 *", "2026-06-01 00:00", ["Fri 2027-01-01 00:05", "Fri 2027-01-01 00:30", "Fri 2027-01-01 00:55"]),
        ("0 0 29 2 *", "2026-03-01 00:00", ["Tue 2028-02-29 00:00", "Sun 2032-02-29 00:00"]),
        ("0 0 29 2 *", "2096-03-01 00:00", ["Fri 2104-02-29 00:00"]),  # 2100 is no leap year
        ("0 0 31 * *", "2026-03-31 00:00", ["Sun 2026-05-31 00:00", "Fri 2026-07-31 00:00"]),
        ("0 0 13 * 5", "2026-03-02 00:00", ["Fri 2026-03-06 00:00", "Fri 2026-03-13 00:00"]),  # either day
        ("0 0 */13 * 5", "2026-03-02 00:00", ["Fri 2026-03-27 00:00"]),  # both: 1, 14, 27, and a Friday
        ("0 0 * jan,dec 7", "2026-02-01 00:00", ["Sun 2026-12-06 00:00"]),
        ("0 0 * * SUN", "2026-03-02 00:00", ["Sun 2026-03-08 00:00"]),
    ],
)
def test_a_cron_line_comes_when_the_calendar_says(cron: str, moment: str, expected: list[str]) -> None:
    assert following(Schedule(cron=cron), moment, len(expected)) == expected


@pytest.mark.parametrize(
    ("every", "moment", "expected"),
    [
        ("7d", "2026-03-04 10:00", ["Mon 2026-03-09 00:00", "Mon 2026-03-16 00:00"]),
        ("1d", "2026-03-04 00:00", ["Thu 2026-03-05 00:00"]),
        ("12h", "2026-03-04 00:01", ["Wed 2026-03-04 12:00"]),
        ("90 m", "2026-03-04 00:00", ["Wed 2026-03-04 01:30"]),
    ],
)
def test_a_time_span_is_counted_from_a_mondays_midnight(every: str, moment: str, expected: list[str]) -> None:
    assert following(Schedule(every=every), moment, len(expected)) == expected


def test_once_is_once() -> None:
    for text in ("2026-03-02 06:00", "2026-03-02T06:00Z", "2026-03-02T07:00+01:00"):
        schedule = Schedule(once=text)
        assert following(schedule, "2026-03-01 00:00") == ["Mon 2026-03-02 06:00"]
        assert schedule.next_after(at("2026-03-02 06:00")) is None
    assert following(Schedule(once="2026-03-02"), "2026-01-01 00:00") == ["Mon 2026-03-02 00:00"]


@pytest.mark.parametrize(
    ("schedule", "place", "text"),
    [
        (Schedule(), (), "has no time; give exactly one of once, cron, every"),
        (Schedule(once="2026-03-02", every="1d"), (), "has once and every; give exactly one"),
        (Schedule(once="tomorrow"), ("once",), "is no time; write 2026-03-02 06:00, which is UTC"),
        (Schedule(every="0h"), ("every",), "is no time span; write a number and m, h or d"),
        (Schedule(every="90 s"), ("every",), "is no time span"),
        (Schedule(cron="0 6 * *"), ("cron",), "has 4 fields; write minute, hour, day, month and weekday"),
        (Schedule(cron="60 * * * *"), ("cron",), "minute '60' must lie between 0 and 59"),
        (Schedule(cron="* * 0 * *"), ("cron",), "day '0' must lie between 1 and 31"),
        (Schedule(cron="* * * * 8"), ("cron",), "weekday '8' must lie between 0 and 7"),
        (Schedule(cron="* 5-3 * * *"), ("cron",), "hour '5-3' must lie between 0 and 23, and a range must rise"),
        (Schedule(cron="*/0 * * * *"), ("cron",), "minute '*/0' is neither *, a number, a range nor a step"),
        (Schedule(cron="* * * foo *"), ("cron",), "month 'foo' is not known; write a number, or one of jan, feb"),
        (Schedule(cron="a * * * *"), ("cron",), "minute 'a' is not known; write a number"),
        (Schedule(cron="0 0 30 2 *"), ("cron",), "never comes; correct it"),
    ],
)
def test_a_mistake_in_a_schedule_is_told(schedule: Schedule, place: tuple[str, ...], text: str) -> None:
    (problem,) = schedule.problems()
    assert problem.key == place
    assert problem.text.startswith(text)


def test_a_schedule_is_told_in_its_own_words() -> None:
    assert [str(one) for one in (Schedule(cron="0 6 * * mon"), Schedule(every="7d"))] == ["cron 0 6 * * mon", "every 7d"]
