"""What a transport is: it carries sealed bytes to a node and tells what that node answered. It never looks inside."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from mpc.errors import Answer, TemporaryError
from mpc.identity import Identity

Receive = Callable[[bytes, Identity], Awaitable[Answer]]
"""Called for each message that arrives: its bytes, and who the transport proved the other end to be."""


class DeliveryError(TemporaryError):
    """The message did not arrive, or no answer came back. `reason` is a fixed slug for counters, the text is for people."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Transport(Protocol):
    """One node's way to the others."""

    async def start(self, receive: Receive) -> None:
        """Begins to accept messages and gives each to `receive`."""
        ...

    async def send(self, recipient: Identity, endpoint: str, envelope: bytes) -> Answer:
        """Carries one envelope to `recipient` at `endpoint` (an https URL) and returns its answer.

        Returning means that the other end proved to be `recipient`. Raises DeliveryError otherwise.
        """
        ...

    async def stop(self) -> None:
        """Stops accepting, lets requests under way finish, closes every connection."""
        ...
