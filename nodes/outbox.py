"""Delivery: each message is sent until its recipient answers for good, its time is up, or its round calls it back.

Waits grow exponentially with full jitter, so that many senders do not come back to a restarted node together.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mpc.errors import Answer
from mpc.identity import Identity
from mpc.messages import Kind
from nodes.log import Event, Logger, place
from nodes.metrics import Counter
from nodes.transport.base import DeliveryError, Transport

_FIRST_WAIT = 0.05
_LONGEST_WAIT = 5.0

FINAL = frozenset({Answer.ACCEPTED, Answer.GONE, Answer.REFUSED, Answer.UNOPENABLE})
"""Answers after which a message is not sent again. `later` passes; `rejected` may, when a certificate is renewed."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message to deliver."""

    round_id: bytes
    number: int
    """Of the round's messages; the store knows it by this."""
    recipient: Identity
    kind: Kind
    endpoint: str
    envelope: bytes = field(repr=False)
    until: float
    """Unix seconds."""
    message: str = ""
    """The first 8 hex digits of the envelope's digest, by which the logs of sender and receiver name it."""


Answered = Callable[[Delivery, Answer | None], None]
"""The final answer to a delivery; None when its time was up first."""


class Outbox:
    """Everything that is on its way from this node. `answered` hears each final answer."""

    def __init__(self, transport: Transport, answered: Answered, log: Logger, sent: Counter) -> None:
        self._transport = transport
        self._answered = answered
        self._log = log
        self._sent = sent
        self._tasks: dict[bytes, set[asyncio.Task[None]]] = {}
        self._posted: dict[asyncio.Task[None], float] = {}
        self._draining = False
        self._resting: set[asyncio.Task[None]] = set()
        """Deliveries that wait for their next attempt."""
        self.troubles: dict[Identity, str] = {}
        """By recipient: why the last attempt failed, until one succeeds."""

    def post(self, delivery: Delivery) -> None:
        """Begins to deliver."""
        tasks = self._tasks.setdefault(delivery.round_id, set())
        task = asyncio.create_task(self._deliver(delivery))
        tasks.add(task)
        self._posted[task] = time.monotonic()
        task.add_done_callback(lambda done: self._finished(delivery.round_id, done))

    def call_back(self, round_id: bytes) -> None:
        """Stops delivering whatever the round has posted so far."""
        for task in self._tasks.get(round_id, ()):
            task.cancel()

    async def drain(self, seconds: float) -> None:
        """Waits for attempts under way, at most that long, then stops; what waits for its next attempt stops at once."""
        self._draining = True
        tasks = {task for of_round in self._tasks.values() for task in of_round}
        for task in self._resting & tasks:
            task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def depth(self) -> int:
        """Messages on their way."""
        return sum(map(len, self._tasks.values()))

    def oldest_seconds(self) -> float:
        """How long the oldest of them has been; 0 with none."""
        return time.monotonic() - min(self._posted.values()) if self._posted else 0.0

    def _finished(self, round_id: bytes, task: asyncio.Task[None]) -> None:
        del self._posted[task]
        tasks = self._tasks[round_id]
        tasks.discard(task)
        if not tasks:
            del self._tasks[round_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error(Event.FAILED, round=round_id.hex(), error=type(error).__name__, place=place(error))

    async def _deliver(self, delivery: Delivery) -> None:
        attempts = 0
        while True:
            trouble, answer = await self._attempt(delivery)
            if answer in FINAL:
                self._log.debug(Event.MESSAGE_SENT, **_about(delivery), answer=str(answer))
                self._answered(delivery, answer)
                return
            if attempts == 0:
                self._log.info(Event.DELIVERY_DELAYED, **_about(delivery), reason=trouble)
            attempts += 1
            wait = random.uniform(0, min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(attempts, 10)))  # noqa: S311  (no secret)
            if self._draining:
                return
            left = delivery.until - time.time()
            if left <= 0:
                self._log.warning(Event.DELIVERY_ABANDONED, **_about(delivery), attempts=attempts, reason=trouble)
                self._answered(delivery, None)
                return
            await self._rest(min(wait, left))

    async def _rest(self, seconds: float) -> None:
        task = asyncio.current_task()
        assert task is not None, "a delivery is a task"
        self._resting.add(task)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._resting.discard(task)

    async def _attempt(self, delivery: Delivery) -> tuple[str, Answer | None]:
        try:
            async with asyncio.timeout(max(0.1, delivery.until - time.time())):
                answer = await self._transport.send(delivery.recipient, delivery.endpoint, delivery.envelope)
        except DeliveryError as error:
            outcome, trouble, answer = error.reason, str(error), None
        except TimeoutError:
            outcome, trouble, answer = "timeout", "its time was up before an answer came", None
        else:
            outcome, trouble = str(answer), "" if answer in FINAL else f"it answered {answer}"
        self._sent.inc(kind=delivery.kind.purpose, outcome=outcome)
        if trouble:
            self.troubles[delivery.recipient] = trouble
        else:
            self.troubles.pop(delivery.recipient, None)
        return trouble, answer


def _about(delivery: Delivery) -> dict[str, str]:
    return {
        "round": delivery.round_id.hex(),
        "kind": delivery.kind.purpose,
        "recipient": delivery.recipient.name,
        "message": delivery.message,
    }
