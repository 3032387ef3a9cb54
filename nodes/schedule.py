"""When a study is due: once, by a cron line, or every so often. All times are UTC, so that no hour comes twice or never.

A schedule knows no clock: `next_after(t)` is the first time above t, in Unix seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec

from nodes.fields import Text
from nodes.yaml_struct import Problem

_UNITS = {"m": 60, "h": 3600, "d": 86400}
_EVERY = re.compile(r"([1-9][0-9]{0,5}) ?([mhd])", re.ASCII)
_MONDAY = datetime(1970, 1, 5, tzinfo=UTC)
"""What `every` counts from: 7d is each Monday, 1d each midnight."""
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LEAP_DAYS = 8 * 366
"""Days after which every day of a year has come: 29 February skips a century's year."""


class Schedule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of the three."""

    once: Text | None = None
    """2026-03-02 06:00"""
    cron: Text | None = None
    """Minute, hour, day of the month, month, day of the week: 0 6 * * mon"""
    every: Text | None = None
    """30m, 12h or 7d, counted from a Monday's midnight."""

    def problems(self) -> Iterator[Problem]:
        """Exactly one, and one that comes."""
        given = [name for name in self.__struct_fields__ if getattr(self, name) is not None]
        if len(given) != 1:
            yield Problem((), f"has {' and '.join(given) or 'no time'}; give exactly one of {', '.join(self.__struct_fields__)}")
            return
        try:
            following = self.next_after(0.0)
        except ValueError as error:
            yield Problem((given[0],), str(error))
        else:
            if following is None:
                yield Problem((given[0],), "never comes; correct it")

    def next_after(self, moment: float) -> float | None:
        """The first time above `moment`; None when there is none. Raises ValueError for words that are no schedule."""
        if self.once is not None:
            at = _moment(self.once)
            return at if at > moment else None
        if self.every is not None:
            step, start = _seconds(self.every), _MONDAY.timestamp()
            return start + ((moment - start) // step + 1) * step
        return Cron.parse(self.cron or "").next_after(moment)

    def __str__(self) -> str:
        return next(f"{name} {value}" for name in self.__struct_fields__ if (value := getattr(self, name)) is not None)


def _moment(text: str) -> float:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("is no time; write 2026-03-02 06:00, which is UTC, or 2026-03-02T06:00+01:00") from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _seconds(text: str) -> int:
    match = _EVERY.fullmatch(text)
    if match is None:
        raise ValueError("is no time span; write a number and m, h or d: 30m, 12h, 7d")
    return int(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True, slots=True)
class Cron:
    """A crontab line (crontab(5)): when both days are given, either will do."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    """0 is Sunday."""
    either: bool

    @classmethod
    def parse(cls, text: str) -> Cron:
        """Raises ValueError that says which field is wrong."""
        fields = text.split()
        if len(fields) != 5:
            raise ValueError(f"has {len(fields)} fields; write minute, hour, day, month and weekday: 0 6 * * mon")
        minute, hour, day, month, weekday = fields
        weekdays = frozenset(found % 7 for found in _field("weekday", weekday, 0, 7, _DAYS))
        return cls(
            minutes=tuple(sorted(_field("minute", minute, 0, 59))),
            hours=tuple(sorted(_field("hour", hour, 0, 23))),
            days=_field("day", day, 1, 31),
            months=_field("month", month, 1, 12, _MONTHS, first=1),
            weekdays=weekdays,
            either=not day.startswith("*") and not weekday.startswith("*"),
        )

    def next_after(self, moment: float) -> float | None:
        """See `Schedule.next_after`."""
        start = datetime.fromtimestamp(moment, UTC)
        for ahead in range(_LEAP_DAYS):
            day = start.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=ahead)
            if not self._has(day):
                continue
            for hour in self.hours:
                for minute in self.minutes:
                    at = day.replace(hour=hour, minute=minute).timestamp()
                    if at > moment:
                        return at
        return None

    def _has(self, day: datetime) -> bool:
        in_month, in_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return day.month in self.months and ((in_month or in_week) if self.either else (in_month and in_week))


def _field(name: str, text: str, low: int, high: int, words: tuple[str, ...] = (), first: int = 0) -> frozenset[int]:
    found: set[int] = set()
    for part in text.lower().split(","):
        match = re.fullmatch(r"(?:\*|([0-9a-z]+)(?:-([0-9a-z]+))?)(?:/([0-9]{1,2}))?", part)
        if match is None or match[3] in ("0", "00"):
            raise ValueError(f"{name} {part!r} is neither *, a number, a range nor a step; write for instance 1-5 or */15")
        start = low if match[1] is None else _number(name, match[1], words, first)
        # A step after a single number runs from there to the end, as it does in cron.
        single = match[1] is not None and match[2] is None and match[3] is None
        end = start if single else high if match[2] is None else _number(name, match[2], words, first)
        if not low <= start <= end <= high:
            raise ValueError(f"{name} {part!r} must lie between {low} and {high}, and a range must rise")
        found.update(range(start, end + 1, int(match[3] or 1)))
    return frozenset(found)


def _number(name: str, text: str, words: tuple[str, ...], first: int) -> int:
    if text in words:
        return words.index(text) + first
    if not text.isdecimal() or len(text) > 2:
        known = f", or one of {', '.join(words)}" if words else ""
        raise ValueError(f"{name} {text!r} is not known; write a number{known}")
    return int(text)
