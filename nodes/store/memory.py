"""A store that lasts as long as its process."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence

from mpc.rounds.events import Decided, Effect, Ended

_BURIED = 256
"""Ended rounds whose late messages are still told `accepted` or `gone`; those of older ones are told `later` and give up."""
_DECISIONS = 10_000


class MemoryStore:
    """Ledger and ended rounds, the oldest forgotten first."""

    def __init__(self) -> None:
        self._open: set[bytes] = set()
        self._decisions: deque[float] = deque(maxlen=_DECISIONS)
        self._buried: OrderedDict[bytes, frozenset[bytes]] = OrderedDict()

    def commit(self, round_id: bytes, effects: Sequence[Effect], now: float) -> None:
        """Keeps decisions, and which rounds are open."""
        for effect in effects:
            match effect:
                case Decided():
                    self._decisions.append(now)
                    self._open.add(round_id)
                case Ended():
                    self._open.discard(round_id)

    def took(self, round_id: bytes, digest: bytes) -> bool | None:
        """See `Store.took`."""
        taken = self._buried.get(round_id)
        return None if taken is None else digest in taken

    def bury(self, round_id: bytes, taken: frozenset[bytes]) -> None:
        """See `Store.bury`."""
        self._open.discard(round_id)
        self._buried[round_id] = taken
        if len(self._buried) > _BURIED:
            self._buried.popitem(last=False)

    def open_rounds(self) -> int:
        """Rounds that this patient takes part in now."""
        return len(self._open)

    def invitations_since(self, time: float) -> int:
        """Invitations decided on since `time` (Unix seconds), among the last 10,000."""
        return sum(decided >= time for decided in self._decisions)
