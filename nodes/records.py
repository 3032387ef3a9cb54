"""The rounds that a hospital has opened, as people see them: where each stands, whom it waits for, what came out."""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from mpc.result import Result
from mpc.rounds.events import RELEASED, Effect, Ended, Progressed, Released
from mpc.rounds.hospital import HospitalState
from nodes.store.base import ClosedRound, OpenRound

ERASED = "the values of this result have been erased"
KEPT_RECORDS = 1000
"""Rounds remembered, the oldest ended ones forgotten first."""
_KEPT_RESULT_BYTES = 32 * 1024 * 1024
"""Values of all results kept; beyond this the oldest lose theirs. The newest always stays."""


@dataclass(slots=True)
class RoundRecord:
    """One round. Times are Unix seconds."""

    round_id: bytes
    study: str
    """Its id."""
    modulus: int
    opened: float
    attempt: int = 1
    """2 for the first round that follows a failed one by itself, and so on."""
    follows: str = ""
    """The id of that failed round, in hex."""
    started: float = field(default_factory=time.perf_counter)
    """`opened` on the clock that nobody sets."""
    phase: str = "new"
    waiting_for: tuple[str, ...] = ()
    outcome: str = "open"
    code: str = ""
    detail: str = ""
    missing: tuple[str, ...] = ()
    seconds: float | None = None
    """From opening to the result or the end."""
    followed_by: str = ""
    """The round that was opened in its place, or goes on with its fit."""
    asked: int = 0
    """Patients that were invited."""
    members: tuple[str, ...] = ()
    """Names of those over whom it runs; the others have declined or not answered."""
    fit: int = 0
    """Which round of a fit it is, from 1; 0 where there is none."""
    rules: str = ""
    """The study's release rules in words: with any, the exact totals are for nobody to see."""
    result: Result | None = field(default=None, repr=False)

    @classmethod
    def kept_open(cls, kept: OpenRound) -> RoundRecord:
        """A round that an earlier life of this daemon opened. What its journal says is still to be filled in."""
        begun = kept.begun
        return cls(kept.round_id, begun.study, 0, begun.opened, started=time.perf_counter() - (time.time() - begun.opened))

    @classmethod
    def kept_closed(cls, kept: ClosedRound) -> RoundRecord:
        """A round that ended in an earlier life of this daemon. Its result is in the store.

        One that was given up because of a fault has no summary.
        """
        closed = kept.closed
        summary = json.loads(closed.summary or b"{}")
        return cls(
            round_id=kept.round_id,
            study=kept.study,
            modulus=summary.get("modulus", 0),
            opened=summary.get("opened", kept.opened),
            attempt=summary.get("attempt", 1),
            follows=summary.get("follows", ""),
            phase=summary.get("phase", closed.outcome),
            outcome=closed.outcome,
            code=closed.code,
            detail=summary.get("detail", ""),
            missing=tuple(summary.get("missing", ())),
            seconds=summary.get("seconds", closed.at - kept.opened),
            asked=summary.get("asked", 0),
            members=tuple(summary.get("members", ())),
            fit=summary.get("fit", 0),
            rules=summary.get("rules", ""),
        )

    @property
    def ended(self) -> bool:
        """Whether it has a result or was aborted."""
        return self.outcome != "open"

    def end(self, ended: Ended) -> None:
        """It has a result or was aborted, now."""
        self.outcome, self.code, self.detail = ended.outcome, ended.code, ended.detail
        self.missing, self.waiting_for = ended.missing, ()
        self.phase = ended.phase or ended.outcome
        if self.seconds is None:
            self.seconds = time.perf_counter() - self.started

    def summary(self) -> dict[str, object]:
        """For people and scripts; without the statistics."""
        summary: dict[str, object] = {
            "round": self.round_id.hex(),
            "study": self.study,
            "opened": self.opened,
            "phase": self.phase,
            "outcome": self.outcome,
            "attempt": self.attempt,
        }
        if self.modulus:
            summary["modulus"] = self.modulus
        if self.asked:
            summary |= {"asked": self.asked, "members": list(self.members)}
        if self.fit:
            summary["fit"] = self.fit
        if self.rules:
            summary["rules"] = self.rules
        if self.follows:
            summary["follows"] = self.follows
        if self.followed_by:
            summary["followed_by"] = self.followed_by
        if not self.ended:
            summary["waiting_for"] = list(self.waiting_for)
        elif self.outcome != RELEASED:
            summary |= {"code": self.code, "detail": self.detail, "missing": list(self.missing)}
        if self.seconds is not None:
            summary["seconds"] = round(self.seconds, 4)
        return summary

    def full(self, result: Result | None) -> dict[str, object]:
        """The summary and, once released, the result: `{"outcome", "patients", "modulus", "statistics", ...}`."""
        full = self.summary()
        if self.outcome == RELEASED:
            if result is None:
                full["detail"] = ERASED
                return full
            full["patients"] = result.members
            if self.rules:
                full["detail"] = "its totals are told by the study's release rules alone: see 'results show'"
            else:
                full["statistics"] = result.plain()
        return full


class Records:
    """All of them, by round id, and a way to wait for news of one."""

    def __init__(self) -> None:
        self._rounds: OrderedDict[bytes, RoundRecord] = OrderedDict()
        self._news: dict[bytes, asyncio.Event] = {}
        self._released: list[bytes] = []
        """Rounds whose results are kept, in the order of their release."""

    def add(self, record: RoundRecord) -> None:
        """A round that is about to open, or that an earlier life of this daemon opened."""
        self._rounds[record.round_id] = record
        failed = self._rounds.get(bytes.fromhex(record.follows))
        if failed is not None:
            failed.followed_by = record.round_id.hex()
        surplus = max(0, len(self._rounds) - KEPT_RECORDS)
        for round_id in [other.round_id for other in self._rounds.values() if other.ended][:surplus]:
            del self._rounds[round_id]

    def discard(self, round_id: bytes) -> None:
        """A round that could not be opened after all."""
        self._rounds.pop(round_id, None)
        self._tell(round_id)

    def forget(self, before: float, study: str | None = None) -> None:
        """Rounds that ended before then (Unix seconds), of one study if it is given, with their results."""
        for record in self.all():
            if record.ended and record.opened + (record.seconds or 0.0) < before and study in (None, record.study):
                del self._rounds[record.round_id]

    def get(self, round_id: bytes) -> RoundRecord | None:
        """The round, if it is remembered."""
        return self._rounds.get(round_id)

    def all(self) -> list[RoundRecord]:
        """Oldest first."""
        return list(self._rounds.values())

    def note(self, round_id: bytes, effect: Effect) -> None:
        """What happened in it."""
        record = self._rounds.get(round_id)
        if record is None:
            return
        match effect:
            case Progressed():
                if effect.phase == HospitalState.SHARING and not record.members:
                    record.members = effect.waiting_for  # at first, all of them
                record.phase, record.waiting_for = effect.phase, effect.waiting_for
            case Released():
                record.result = effect.result
                self._released.append(round_id)
                self._trim_results()
            case Ended():
                record.end(effect)
        self._tell(round_id)

    def _tell(self, round_id: bytes) -> None:
        news = self._news.pop(round_id, None)
        if news is not None:
            news.set()

    async def watch(self, round_id: bytes) -> AsyncIterator[RoundRecord]:
        """The record now, and again after each change, until it has ended."""
        while (record := self._rounds.get(round_id)) is not None:
            if record.ended:
                yield record
                return
            # Asked for before the record is given away: what happens while the watcher looks at it is news.
            news = self._news.setdefault(round_id, asyncio.Event())
            yield record
            await news.wait()

    def _trim_results(self) -> None:
        kept = 0
        for round_id in reversed(self._released[:]):
            record = self._rounds.get(round_id)
            size = _size(record.result) if record is not None and record.result is not None else 0
            if record is None or (kept and kept + size > _KEPT_RESULT_BYTES):
                self._released.remove(round_id)
                if record is not None:
                    record.result = None
            kept += size


def _size(result: Result) -> int:
    return sum(len(statistic.values) for statistic in result.statistics)
