"""What goes wrong in one run. Each run draws its own few kinds of faults, so that each kind is also seen without the others.

In a gentle run the faults stop long before the first deadline and no clock is wrong: the round must give the sum of everybody.
In a wild one anything may happen; then every round must end, with the exact sum of its roster or with nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

GENTLE_SECONDS = 8.0
WILD_SECONDS = 70.0


@dataclass(frozen=True)
class Temper:
    """Chances are of one message, one access to a store, one read; `every` is seconds between what happens to whole nodes."""

    gentle: bool
    until: float
    """When faults stop."""
    slowest: float
    """Seconds that a message travels at the most."""
    lose: float
    lose_answer: float
    double: float
    corrupt: float
    crash: float
    """At each of the points before and after a commit or a send, and between a commit and what follows it."""
    fail: float
    """The store cannot do it."""
    slow_disk: float
    away: float
    """Seconds that a crashed node is away at the most."""
    unavailable: float
    every: float
    happenings: tuple[str, ...]


_GENTLE = ("crash", "stop", "partition", "full disk")
_WILD = (*_GENTLE, "clock", "restore", "cancel")


def draw(chance: Random) -> Temper:
    """The faults of one run."""
    gentle = chance.random() < 0.6

    def sometimes(*chances: float) -> float:
        return chance.choice((0.0, 0.0, *chances))

    happenings = [name for name in (_GENTLE if gentle else _WILD) if chance.random() < 0.4]
    return Temper(
        gentle=gentle,
        until=GENTLE_SECONDS if gentle else chance.uniform(1, WILD_SECONDS),
        slowest=chance.choice((0.002, 0.05, 1.0, 3.0)),
        lose=sometimes(0.05, 0.3),
        lose_answer=sometimes(0.05, 0.3),
        double=sometimes(0.1, 0.5),
        corrupt=sometimes(0.05, 0.2),
        crash=sometimes(0.01, 0.05),
        fail=sometimes(0.02, 0.2),
        slow_disk=sometimes(0.02, 0.2),
        away=2.0 if gentle else chance.choice((2.0, 30.0)),
        unavailable=0.0 if gentle else sometimes(0.1),
        every=chance.choice((0.3, 1.0, 3.0)) if happenings else 1e9,
        happenings=tuple(happenings),
    )
