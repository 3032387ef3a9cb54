"""What a patient's decisions ask of the past, kept in memory: the store has the lines, this has the counts."""

from __future__ import annotations

from collections import deque

from mpc.disclosure import RATE_WINDOW

MOST_DECISIONS = 10_000
"""Decisions of the last minute that are counted."""


class Ledger:
    """An `mpc.disclosure.Ledger`. For the protocol thread."""

    def __init__(self) -> None:
        self._open: set[bytes] = set()
        self._decided: deque[float] = deque(maxlen=MOST_DECISIONS)

    def decided(self, at: float) -> None:
        """An invitation was decided on."""
        self._decided.append(at)
        while self._decided and self._decided[0] < at - RATE_WINDOW:
            self._decided.popleft()

    def opened(self, round_id: bytes) -> None:
        """This node takes part in the round."""
        self._open.add(round_id)

    def closed(self, round_id: bytes) -> None:
        """It does not any more."""
        self._open.discard(round_id)

    def open_rounds(self) -> int:
        """Rounds that this patient takes part in now."""
        return len(self._open)

    def invitations_since(self, time: float) -> int:
        """Invitations decided on since `time` (Unix seconds, at most a minute ago)."""
        return sum(decided >= time for decided in self._decided)


class OpenLedger:
    """For rebuilding a round: what was decided is decided."""

    def open_rounds(self) -> int:
        """None."""
        return 0

    def invitations_since(self, time: float) -> int:
        """None."""
        return 0
