"""The only interpreter of effects: event -> transition -> commit -> answer and send.

Whatever has arrived is worked on in one batch, and the next batch waits for it, so no transition ever meets another. Long
vectors, large messages and large rosters go to a thread of their own, the protocol thread, where they do not hold up the event
loop; a batch of light work is done on the loop at once. The effects are acted on in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from mpc.credentials import Credentials
from mpc.envelope import parse
from mpc.errors import Answer, InvalidTransition, MessageRefused
from mpc.identity import Identity
from mpc.messages import Kind
from mpc.rounds.admission import Admitted, admit
from mpc.rounds.events import (
    ABORTED,
    Answered,
    Decided,
    Effect,
    Ended,
    MessageReceived,
    Progressed,
    ReadValues,
    Released,
    Send,
    StopSending,
    Submitted,
    Tick,
    Undeliverable,
    ValuesUnavailable,
    WakeAt,
)
from mpc.rounds.events import Event as RoundEvent
from mpc.rounds.machine import Machine
from mpc.study import Study
from nodes.log import Event, Logger, place
from nodes.metrics import Registry
from nodes.outbox import Delivery, Outbox
from nodes.store.base import Store
from nodes.transport.base import Transport

_BATCH = 16
"""Events worked on at once: their answers leave together."""
_LIGHT_BYTES = 16 * 1024
_HOLD_SECONDS = 2.0
"""How long a message that came before its round is held, before the sender is told `later`."""
_HOLD_BYTES = 16 * 1024
_HOLD_COUNT = 2048
INTERNAL = "internal-error"

NewRound = Callable[[Admitted], Machine | None]
"""Makes the machine for a round that a valid message opens, or None when messages open no rounds here."""
ReadSources = Callable[[Study], RoundEvent]
"""Reads a study's variables; blocking. Returns ValuesRead or ValuesUnavailable."""
Observer = Callable[[bytes, Effect], None]
"""Hears what people want to know: Decided, Progressed, Submitted, Released, Ended."""
Resolve = Callable[[Identity, str], str]
"""The https URL of a node: the one that configuration names, else the one that it announced."""


@dataclass(frozen=True, slots=True)
class _Arrived:
    raw: bytes = field(repr=False)
    peer: Identity


@dataclass(frozen=True, slots=True)
class _Happened:
    round_id: bytes
    event: RoundEvent
    machine: Machine | None = None
    """Of a round that begins with this event."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    round_id: bytes
    effects: list[Effect]
    answer: Answer | None = None
    reason: str = ""
    kind: str = ""
    """Of the message that arrived, for the counter."""


@dataclass(frozen=True, slots=True)
class _Job:
    what: _Arrived | _Happened
    done: asyncio.Future[_Outcome] | None

    def finish(self, outcome: _Outcome) -> None:
        """Tells whoever waits."""
        if self.done is not None and not self.done.done():
            self.done.set_result(outcome)


_STOPPED = _Outcome(b"", [], Answer.LATER, "stopping")


class Driver:
    """Runs the rounds of one node."""

    def __init__(
        self,
        me: Identity,
        *,
        credentials: Credentials,
        store: Store,
        transport: Transport,
        resolve: Resolve,
        new_round: NewRound,
        read_sources: ReadSources,
        observe: Observer,
        max_message: int,
        metrics: Registry,
        log: Logger,
    ) -> None:
        self._me = me
        self._credentials = credentials
        self._store = store
        self._resolve = resolve
        self._new_round = new_round
        self._read_sources = read_sources
        self._observe = observe
        self._max_message = max_message
        self._log = log
        self._received = metrics.counter(
            "cohortium_messages_received_total", "Messages that arrived, by kind and outcome.", ("kind", "outcome")
        )
        sent = metrics.counter(
            "cohortium_messages_sent_total", "Attempts to deliver a message, by kind and outcome.", ("kind", "outcome")
        )
        self._ended = metrics.counter("cohortium_rounds_total", "Rounds that ended, by outcome and code.", ("outcome", "code"))
        self._open = metrics.gauge("cohortium_rounds_open", "Rounds under way.")
        self.outbox = Outbox(transport, self._delivered, log, sent)
        self._rounds: dict[bytes, Machine] = {}
        self._heavy: set[bytes] = set()
        """Open rounds with long vectors or many members."""
        self._jobs: list[_Job] = []
        self._arrived = asyncio.Event()
        self._timers: dict[bytes, asyncio.TimerHandle] = {}
        self._held: dict[bytes, list[asyncio.Future[None]]] = {}
        self._moved = 0
        """How often a round has moved on."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="protocol")
        self._pump_task: asyncio.Task[None] | None = None
        self._stopping = False

    def start(self) -> None:
        """Begins to work; needs the running event loop."""
        self._pump_task = asyncio.create_task(self._pump())

    async def stop(self, seconds: float) -> None:
        """Lets deliveries under way finish within `seconds`, then stops. Open rounds are given up.

        Whoever waits for an answer is told `later`, and so is whoever asks from now on.
        """
        self._stopping = True
        await self.outbox.drain(seconds)
        tasks = {*self._tasks, *([self._pump_task] if self._pump_task else [])}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
        for timer in self._timers.values():
            timer.cancel()
        await self.outbox.drain(0)  # what the last transitions posted
        for job in self._jobs:
            job.finish(_STOPPED)
        for round_id in list(self._held):
            self._release_held(round_id)

    # -- what the world tells the driver

    async def receive(self, raw: bytes, peer: Identity) -> Answer:
        """A message that `peer` carried here. A small one that is ahead of its round is held until the round catches up."""
        deadline = asyncio.get_running_loop().time() + _HOLD_SECONDS
        while True:
            moved = self._moved
            outcome = await self._submit(_Arrived(raw, peer))
            assert outcome.answer is not None
            early = outcome.answer is Answer.LATER or outcome.reason == "certificate-unknown"
            if not early or self._stopping or len(raw) > _HOLD_BYTES or not await self._hold(outcome.round_id, moved, deadline):
                return outcome.answer

    async def begin(self, machine: Machine, event: RoundEvent) -> None:
        """Opens a round that this node starts."""
        await self._submit(_Happened(machine.round_id, event, machine))

    def tell(self, round_id: bytes, event: RoundEvent) -> None:
        """Something happened to a round, if it is still open."""
        self._put(_Job(_Happened(round_id, event), None))

    def _delivered(self, delivery: Delivery, answer: Answer) -> None:
        if answer is not Answer.ACCEPTED:
            self._log.info(
                Event.DELIVERY_REFUSED,
                round=delivery.round_id.hex(),
                kind=delivery.kind.purpose,
                recipient=delivery.recipient.name,
                answer=str(answer),
            )
            self.tell(delivery.round_id, Undeliverable(delivery.recipient, delivery.kind, answer))

    # -- the pump

    def _put(self, job: _Job) -> None:
        self._jobs.append(job)
        self._arrived.set()

    async def _submit(self, what: _Arrived | _Happened) -> _Outcome:
        if self._stopping:
            return _STOPPED
        done: asyncio.Future[_Outcome] = asyncio.get_running_loop().create_future()
        self._put(_Job(what, done))
        return await done

    async def _pump(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            batch, self._jobs = self._jobs[:_BATCH], self._jobs[_BATCH:]
            if not self._jobs:
                self._arrived.clear()
            try:
                light = all(self._is_light(job.what) for job in batch)
                outcomes = self._work(batch) if light else await loop.run_in_executor(self._thread, self._work, batch)
                for job, outcome in zip(batch, outcomes, strict=True):
                    self._act(outcome)
                    job.finish(outcome)
            finally:
                for job in batch:  # those that a stop left in hand
                    job.finish(_STOPPED)

    def _is_light(self, what: _Arrived | _Happened) -> bool:
        """Whether it is a matter of a few milliseconds: then a change of threads would take longer than the work is worth."""
        if isinstance(what, _Arrived):
            # Whose message it is has not been looked at: while a heavy round is open, all messages wait their turn.
            return len(what.raw) <= _LIGHT_BYTES and not self._heavy
        return what.machine is None and what.round_id not in self._heavy

    # -- transitions: on the protocol thread, or on the loop while nothing is under way there

    def _work(self, batch: list[_Job]) -> list[_Outcome]:
        return [self._transition(job.what) for job in batch]

    def _transition(self, what: _Arrived | _Happened) -> _Outcome:
        now = time.time()
        try:
            return self._arrive(what, now) if isinstance(what, _Arrived) else self._happen(what, now)
        except Exception as error:  # a bug must end one round at the most, never the daemon
            return self._broken(what, error)

    def _arrive(self, arrived: _Arrived, now: float) -> _Outcome:
        round_id, kind = b"", "unknown"
        try:
            envelope = parse(arrived.raw, self._max_message)
            round_id, kind = envelope.header.round, envelope.kind.purpose
            message = admit(envelope, peer=arrived.peer, me=self._me, credentials=self._credentials, now=now)
            machine = self._rounds.get(round_id)
            if machine is None:
                machine = self._unknown(message)
            outcome = self._step(machine, MessageReceived(message), now) if machine else _Outcome(round_id, [])
            answer = next((e.answer for e in outcome.effects if isinstance(e, Answered)), Answer.ACCEPTED)
            return _Outcome(round_id, outcome.effects, answer, kind=kind)
        except MessageRefused as refused:
            return _Outcome(round_id, [], refused.answer, refused.reason, kind)

    def _unknown(self, message: Admitted) -> Machine | None:
        """The machine for a round not open here; None when the message was taken in a round that has ended."""
        envelope = message.envelope
        taken = self._store.took(envelope.header.round, envelope.digest)
        if taken is not None:
            if taken:
                return None
            raise MessageRefused(Answer.GONE, "round-ended")
        machine = self._new_round(message) if envelope.kind is Kind.INVITATION else None
        if machine is None:
            raise MessageRefused(Answer.LATER, "round-unknown")
        return machine

    def _happen(self, happened: _Happened, now: float) -> _Outcome:
        machine = happened.machine or self._rounds.get(happened.round_id)
        if machine is None:
            return _Outcome(happened.round_id, [])
        return self._step(machine, happened.event, now)

    def _step(self, machine: Machine, event: RoundEvent, now: float) -> _Outcome:
        effects = machine.handle(event, now)
        self._store.commit(machine.round_id, effects, now)
        if machine.ended:
            self._rounds.pop(machine.round_id, None)
            self._heavy.discard(machine.round_id)
            self._store.bury(machine.round_id, frozenset(machine.seen.values()))
        else:
            self._rounds[machine.round_id] = machine
            if machine.heavy:
                self._heavy.add(machine.round_id)
        return _Outcome(machine.round_id, effects)

    def _broken(self, what: _Arrived | _Happened, error: Exception) -> _Outcome:
        """A bug in a transition: the round that it hit is over. Nothing in here may raise."""
        round_id = what.round_id if isinstance(what, _Happened) else b""
        if isinstance(what, _Arrived):
            with contextlib.suppress(Exception):
                round_id = parse(what.raw, self._max_message).header.round
        machine = self._rounds.pop(round_id, None)
        self._heavy.discard(round_id)
        detail = str(error) if isinstance(error, InvalidTransition) else type(error).__name__
        self._log.error(Event.FAILED, round=round_id.hex(), error=detail, place=place(error))
        effects: list[Effect] = []
        if machine is not None or (isinstance(what, _Happened) and what.machine is not None):
            try:
                self._store.bury(round_id, frozenset())
            except Exception as second:
                self._log.error(Event.FAILED, round=round_id.hex(), error=type(second).__name__, place=place(second))
            effects = [StopSending(), Ended(ABORTED, INTERNAL, detail="this program failed; its log has the place")]
        return _Outcome(round_id, effects, Answer.GONE, INTERNAL)

    # -- effects

    def _act(self, outcome: _Outcome) -> None:
        for effect in outcome.effects:
            try:
                self._do(outcome.round_id, effect)
            except Exception as error:  # a bug must cost one effect at the most, never the pump
                self._log.error(Event.FAILED, round=outcome.round_id.hex(), error=type(error).__name__, place=place(error))
        if outcome.kind:
            self._received.inc(kind=outcome.kind, outcome=outcome.reason or str(outcome.answer))
        if outcome.reason:
            self._log.debug(Event.MESSAGE_REFUSED, round=outcome.round_id.hex(), reason=outcome.reason)
        self._open.set(len(self._rounds))

    def _do(self, round_id: bytes, effect: Effect) -> None:
        match effect:
            case Send():
                endpoint = self._resolve(effect.recipient, effect.endpoint)
                self.outbox.post(Delivery(round_id, effect.recipient, effect.kind, endpoint, effect.envelope, effect.until))
            case StopSending():
                self.outbox.call_back(round_id)
            case WakeAt():
                self._wake(round_id, effect.at)
            case ReadValues():
                self._release_held(round_id)  # the roster holds: shares that came before it can be taken
                self._read(round_id, effect.study)
            case Decided() | Progressed() | Submitted() | Released():
                self._observe(round_id, effect)
            case Ended():
                self._release_held(round_id)
                self._cancel_timer(round_id)
                self._ended.inc(outcome=effect.outcome, code=effect.code or "none")
                self._observe(round_id, effect)
            case Answered():
                pass  # who sent the message is answered by _pump

    def _wake(self, round_id: bytes, at: float) -> None:
        self._cancel_timer(round_id)
        delay = max(0.0, at - time.time())
        self._timers[round_id] = asyncio.get_running_loop().call_later(delay, self.tell, round_id, Tick())

    def _cancel_timer(self, round_id: bytes) -> None:
        timer = self._timers.pop(round_id, None)
        if timer is not None:
            timer.cancel()

    def _read(self, round_id: bytes, study: Study) -> None:
        async def read() -> None:
            try:
                event = await asyncio.to_thread(self._read_sources, study)
            except Exception as error:
                self._log.error(Event.FAILED, round=round_id.hex(), error=type(error).__name__, place=place(error))
                event = ValuesUnavailable()
            self.tell(round_id, event)

        task = asyncio.create_task(read())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- messages ahead of their round

    async def _hold(self, round_id: bytes, moved_before: int, deadline: float) -> bool:
        """Waits until the round has moved; False when there is no time or room left to wait.

        It may have moved since the message was looked at, by what was handled in the same batch: then there is no wait.
        """
        if self._moved != moved_before:
            return True
        if sum(map(len, self._held.values())) >= _HOLD_COUNT:
            return False
        moved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._held.setdefault(round_id, [])
        waiting.append(moved)
        try:
            async with asyncio.timeout_at(deadline):
                await moved
        except TimeoutError:
            return False
        finally:
            if moved in waiting:
                waiting.remove(moved)
            if not waiting and self._held.get(round_id) is waiting:
                del self._held[round_id]
        return True

    def _release_held(self, round_id: bytes) -> None:
        self._moved += 1
        for moved in self._held.pop(round_id, []):
            if not moved.done():
                moved.set_result(None)
