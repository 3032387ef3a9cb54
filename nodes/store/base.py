"""What the driver asks of a store: one commit a transition, before anything of it is sent or answered.

The memory store is the only one yet. A durable one keeps, in the same transaction, the machine's state and the outbox.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mpc.disclosure import Ledger
from mpc.rounds.events import Effect


class Store(Ledger, Protocol):
    """Durable effects of transitions, and what was durable before. Called by one transition at a time, on any thread."""

    def commit(self, round_id: bytes, effects: Sequence[Effect], now: float) -> None:
        """Keeps what this transition changed. When it returns, the effects may be acted upon."""
        ...

    def took(self, round_id: bytes, digest: bytes) -> bool | None:
        """Of a round that has ended here: whether this message was taken in it. None for a round never known."""
        ...

    def bury(self, round_id: bytes, taken: frozenset[bytes]) -> None:
        """Remembers a round that has ended, with the digests of the messages that it took."""
        ...
