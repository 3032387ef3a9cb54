"""The only interpreter of effects: event -> transition -> commit -> answer and send.

Whatever has arrived is worked on in one batch, and the next batch waits for it, so no transition ever meets another. Long
vectors, large messages and large rosters go to a thread of their own, the protocol thread, where they do not hold up the event
loop; a batch of light work is done on the loop at once. What the batch changed is committed in one transaction, while the next
one is worked on; only then is anything answered or sent. What cannot be committed has not happened, nor what was worked out
after it: the rounds concerned are rebuilt from what was, senders are told `later`, and the node's own events are taken again.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar, TypeVarTuple, Unpack

from mpc.errors import Answer
from mpc.identity import Identity
from mpc.messages import Kind
from mpc.rounds.events import (
    ABORTED,
    Answered,
    Asked,
    CancelRound,
    Countersigned,
    Decided,
    Effect,
    Ended,
    KeyPublished,
    PersonDecided,
    Progressed,
    ReadValues,
    Receipted,
    Released,
    Send,
    StopSending,
    Submitted,
    Tick,
    Undeliverable,
    Unreleased,
    ValuesUnavailable,
    WakeAt,
    Withdrawn,
)
from mpc.rounds.events import Event as RoundEvent
from mpc.rounds.machine import Machine
from mpc.signature import SIGNATURE_BYTES, tagged_digest
from mpc.study import Study
from nodes.aside import aside
from nodes.journal import RoundLost
from nodes.log import Event, Logger, place
from nodes.metrics import Registry
from nodes.outbox import Delivery, Outbox
from nodes.rounds import LOST, STORE, Arrived, Happened, New, Outcome, Pending, Rounds, Said, closing_step
from nodes.store.audit import AuditEvent, audit_line
from nodes.store.base import ClosedRound, OpenRound, Posted, Step, Store, StoreError
from nodes.store.counter import BackupGuard
from nodes.store.round_keys import RoundKeys
from nodes.transport.base import Transport

_BATCH = 16
"""Events worked on at once: they are committed together, and their answers leave together."""
_HOLD_SECONDS = 2.0
"""How long a message that came before its round is held, before the sender is told `later`."""
_HOLD_BYTES = 16 * 1024
_HOLD_COUNT = 2048
_STORE_RETRY_SECONDS = 1.0
_NOTE_SECONDS = 0.5
_FOLLOW_SECONDS = 0.2
_REMEMBERED = 256
_FAULTS = frozenset({Answer.REJECTED, Answer.REFUSED, Answer.UNOPENABLE})
"""Answers to what should not have been sent; the others are for what came too early or too late."""

T = TypeVar("T")
A = TypeVarTuple("A")

ReadSources = Callable[[Study], RoundEvent]
"""Reads a study's variables; blocking. Returns ValuesRead or ValuesUnavailable."""
AtHand = Callable[[Study], bool]
"""Whether reading a study's variables takes no time, as it does from the configuration itself."""
Approved = Callable[[Asked], bool]
"""Whether a person has approved of this in advance."""
Observer = Callable[[bytes, Effect], None]
"""Hears what people want to know: Decided, Progressed, Submitted, Released, Receipted, Countersigned, Ended."""
Resumed = Callable[[OpenRound, Machine], None]
"""Hears of each kept round that goes on, before the observer hears of it."""
Audit = Callable[..., None]
"""Takes an event and its content into the audit log."""
Resolve = Callable[[Identity, str], str]
"""The https URL of a node: the one that configuration names, else the one that it announced."""


@dataclass(frozen=True, slots=True)
class _Job:
    what: Arrived | Happened | Said
    done: asyncio.Future[Outcome] | None

    def finish(self, outcome: Outcome) -> None:
        """Tells whoever waits."""
        if self.done is not None and not self.done.done():
            self.done.set_result(outcome)


_STOPPED = Outcome(b"", [], Answer.LATER, "stopping")
_NOT_KEPT = Outcome(b"", [], Answer.LATER, STORE)


class Driver:
    """Runs the rounds of one node."""

    def __init__(
        self,
        rounds: Rounds,
        *,
        store: Store,
        keys: RoundKeys,
        guard: BackupGuard,
        transport: Transport,
        resolve: Resolve,
        read_sources: ReadSources,
        at_hand: AtHand = lambda _study: False,
        approved: Approved = lambda _asked: False,
        resumed: Resumed,
        observe: Observer,
        audit: Audit = lambda *_, **__: None,
        metrics: Registry,
        log: Logger,
    ) -> None:
        self.rounds = rounds
        self._store = store
        self._keys = keys
        self._guard = guard
        self._resolve = resolve
        self._read_sources = read_sources
        self._at_hand = at_hand
        self._approved = approved
        self._resumed = resumed
        self._observe = observe
        self._audit = audit
        self._log = log
        self._received = metrics.counter(
            "cohortium_messages_received_total", "Messages that arrived, by kind and outcome.", ("kind", "outcome")
        )
        sent = metrics.counter(
            "cohortium_messages_sent_total", "Attempts to deliver a message, by kind and outcome.", ("kind", "outcome")
        )
        self._ended = metrics.counter("cohortium_rounds_total", "Rounds that ended, by outcome and code.", ("outcome", "code"))
        self._open = metrics.gauge("cohortium_rounds_open", "Rounds under way.")
        self._store_errors = metrics.counter(
            "cohortium_store_errors_total", "What the store could not do, by reason.", ("reason",)
        )
        self.outbox = Outbox(transport, self._delivered, log, sent)
        self._jobs: list[_Job] = []
        self._arrived = asyncio.Event()
        self.store_trouble = ""
        """Why the last commit failed; empty when it succeeded."""
        self._counter = 0
        """Of the last commit."""
        self._answered: list[Delivery] = []
        """Deliveries that the store still has in its outbox."""
        self._stale: set[bytes] = set()
        """Rounds whose machines are to be rebuilt from the store before they take another event."""
        self._timers: dict[bytes, asyncio.TimerHandle] = {}
        self._held: dict[bytes, list[asyncio.Future[None]]] = {}
        self._moved = 0
        """How often a round has moved on."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = threading.Lock()
        """Whoever holds it may touch the rounds: the protocol thread, or the event loop for what is light."""
        self._to_destroy: set[bytes] = set()
        self._following = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="protocol")
        self._pump_task: asyncio.Task[None] | None = None
        self._settling: asyncio.Task[bool] | None = None
        """The commit under way, and what follows it."""
        self._stopping = False

    async def start(self) -> None:
        """Puts back what the store has, and begins to work. Raises StoreError or ConfigError when the store cannot be used."""
        self._counter = await self._store.counter()
        restored_from_copy = self._guard.check(self._counter) == "behind"
        self.rounds.load(await self._store.ledger())
        for closed in reversed(await self._store.closed_rounds(_REMEMBERED)):
            self._bury(closed)
        kept = await self._store.open_rounds()
        if restored_from_copy:
            line = audit_line(time.time(), AuditEvent.RESTORED, rounds=len(kept))
            self._counter = await self._store.commit([replace(self.rounds.restored(line.at), audit=(line,))])
        if restored_from_copy and kept:
            self._log.warning(Event.STORE_RESTORED, rounds=len(kept))
            await self._burn(kept, "this node was restored from an older copy of its store")
            kept = []
        # Only now: a crash before the rounds were burnt must not make the copy look like the original.
        self._guard.keep(self._counter, wait=True)
        lost: list[OpenRound] = []
        for one in kept:
            try:
                pending = await self.on_thread(self.rounds.rebuild, one)
            except RoundLost as error:
                self._log.warning(Event.ROUND_LOST, round=one.round_id.hex(), reason=str(error))
                lost.append(one)
                continue
            self._log.info(Event.ROUND_RESUMED, round=one.round_id.hex(), study=one.begun.study)
            self._resumed(one, pending.machine)
            for effect in pending.effects:
                if isinstance(effect, Decided | Progressed):
                    self._observe(one.round_id, effect)
            self._resume(pending)
            for posted in one.outbox:
                self._post(one.round_id, posted)
        await self.on_thread(self._keys.renew_others)  # a crash may have come between the end of a round and that of its key
        if lost:
            await self._burn(lost, "it could not be rebuilt from what was kept")
        for round_id, posted in await self._store.left_over():
            self._post(round_id, posted)
        for receipt in await self._store.open_receipts(time.time()):
            await self.on_thread(self.rounds.resume_receipt, receipt)
        self._open.set(len(self.rounds))
        await self.tell_revoked()
        self._pump_task = asyncio.create_task(self._pump())

    async def stop(self, seconds: float) -> None:
        """Lets deliveries under way finish within `seconds`, then stops. Open rounds go on when the node is started again.

        Whoever waits for an answer is told `later`, and so is whoever asks from now on.
        """
        self._stopping = True
        await self.outbox.drain(seconds)
        if self._pump_task is not None:
            self._pump_task.cancel()
            await asyncio.gather(self._pump_task, return_exceptions=True)
            await self._settled()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_NOTE_SECONDS + 1)  # what follows a commit, and what was answered
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
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
            outcome = await self._submit(Arrived(raw, peer))
            assert outcome.answer is not None
            early = outcome.reason in ("context-unknown", "round-unknown", "certificate-unknown")
            if not early or self._stopping or len(raw) > _HOLD_BYTES or not await self._hold(outcome.round_id, moved, deadline):
                return outcome.answer

    async def begin(self, new: New, event: RoundEvent) -> None:
        """Opens a round that this node starts. Raises StoreError when it cannot be kept."""
        outcome = await self._submit(Happened(new.machine.round_id, event, new))
        if outcome.answer is Answer.LATER:
            raise StoreError(outcome.reason, "the round could not be kept, so it was not opened; the log says why")

    async def say(self, said: Said) -> None:
        """A person said something for the ledger. Raises StoreError when it cannot be kept."""
        await self._keep(said)

    async def decide(self, round_id: bytes, event: PersonDecided | Withdrawn) -> None:
        """A person decided on a round, if it is still open. Raises StoreError when that cannot be kept."""
        await self._keep(Happened(round_id, event))

    async def _keep(self, what: Happened | Said) -> None:
        outcome = await self._submit(what)
        if outcome.answer is Answer.LATER:
            raise StoreError(outcome.reason, "it could not be kept, so nothing has changed; the log says why")

    def tell(self, round_id: bytes, event: RoundEvent) -> None:
        """Something happened to a round, if it is still open."""
        self._put(_Job(Happened(round_id, event), None))

    async def tell_revoked(self) -> None:
        """Others may be revoked by now: the rounds in which they take part hear of it."""
        for happened in await self.on_thread(self.rounds.revoked, time.time()):
            self._put(_Job(happened, None))

    def _delivered(self, delivery: Delivery, answer: Answer | None) -> None:
        if answer not in (Answer.ACCEPTED, None):
            self._log.info(
                Event.DELIVERY_REFUSED,
                round=delivery.round_id.hex(),
                kind=delivery.kind.purpose,
                recipient=delivery.recipient.name,
                answer=str(answer),
            )
            self.tell(delivery.round_id, Undeliverable(delivery.recipient, delivery.kind, answer))
        self._answered.append(delivery)
        if len(self._answered) == 1:
            self._spawn(self._note_answered())

    async def _note_answered(self) -> None:
        """By and by, together: what is not noted is delivered again after a restart, which its recipient does not mind."""
        await asyncio.sleep(_NOTE_SECONDS)
        answered, self._answered = self._answered, []
        try:
            await self._store.delivered([(one.round_id, one.number) for one in answered])
        except StoreError as error:
            self._store_failed(error)

    # -- the pump

    def _put(self, job: _Job) -> None:
        self._jobs.append(job)
        self._arrived.set()

    async def _submit(self, what: Arrived | Happened | Said) -> Outcome:
        if self._stopping:
            return _STOPPED
        done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._put(_Job(what, done))
        return await done

    async def _pump(self) -> None:
        """Works on a batch while the one before it is being committed: none is committed before that one was."""
        while True:
            await self._arrived.wait()
            batch, self._jobs = self._jobs[:_BATCH], self._jobs[_BATCH:]
            if not self._jobs:
                self._arrived.clear()
            outcomes: list[list[Outcome]] = []
            try:
                if self._stale:
                    await self._settled()
                    await self._rebuild_stale()
                outcomes = await self._work(batch)
                if await self._settled():
                    settling = asyncio.create_task(self._settle(batch, outcomes))
                    self._settling, batch = settling, []
                else:  # it was worked out from what was not kept
                    await self._undo(batch, outcomes)
            except Exception as error:
                self._store_failed(_as_store_error(error))
                await self._undo(batch, outcomes)
            finally:
                for job in batch:  # those that a stop left in hand
                    job.finish(_STOPPED)

    async def _settled(self) -> bool:
        """Waits for the commit under way. False when it failed."""
        settling, self._settling = self._settling, None
        return settling is None or await settling

    async def _settle(self, batch: Sequence[_Job], outcomes: Sequence[Sequence[Outcome]]) -> bool:
        """Commit, then effects. False when nothing of it was kept."""
        try:
            steps = _steps(outcomes)
            if steps:
                self._counter = await self._store.commit(steps)
                self._follow([step.round_id for step in steps if step.closed is not None])
                self.store_trouble = ""
            for job, of_job in zip(batch, outcomes, strict=True):
                for position, outcome in enumerate(of_job, 1):
                    self._act(outcome, last=position == len(of_job))
                job.finish(of_job[0])
            return True
        except Exception as error:
            self._store_failed(_as_store_error(error))
            await self._undo(batch, outcomes)
            return False
        finally:
            for job in batch:
                job.finish(_STOPPED)

    async def _undo(self, batch: Sequence[_Job], outcomes: Sequence[Sequence[Outcome]]) -> None:
        for step in _steps(outcomes):
            self._stale.add(step.round_id)
            await self.on_thread(self.rounds.forget, step.round_id)
        self._again(batch)

    def _follow(self, closed: Sequence[bytes]) -> None:
        self._to_destroy.update(closed)
        if not self._following:
            self._following = True
            self._spawn(self._follow_soon())

    async def _follow_soon(self) -> None:
        """What follows commits is done for several together, and nothing waits for it: a crash before it leaves the counter
        behind the store, which is told from a restored copy, and keys that the next start destroys.
        """
        await asyncio.sleep(_FOLLOW_SECONDS)
        self._following = False
        closed, self._to_destroy = self._to_destroy, set()
        try:
            await self.on_thread(self._kept, closed)
        except StoreError as error:
            self._store_failed(error)
            await asyncio.sleep(_STORE_RETRY_SECONDS)
            self._follow(list(closed))

    def _kept(self, closed: Iterable[bytes]) -> None:
        """What follows a commit on the disk: the end of the keys of rounds that have ended, and the counter beside the store."""
        for round_id in closed:
            self._keys.destroy(round_id)
        self._guard.keep(self._counter)

    async def _work(self, batch: Sequence[_Job]) -> list[list[Outcome]]:
        """Light work is done at once, as a change of threads would take longer than it does; the rest on the protocol thread."""
        whats = [job.what for job in batch]
        if self.rounds.light(whats) and self._turn.acquire(blocking=False):
            try:
                return self._transitions(whats)
            finally:
                self._turn.release()
        return await self.on_thread(self._transitions, whats)

    def _transitions(self, whats: Sequence[Arrived | Happened | Said]) -> list[list[Outcome]]:
        """For each event its outcome, and that of an answer at hand, values or a person's: both are kept in one commit."""
        return [self._with_answer(self.rounds.take(what, time.time())) for what in whats]

    def _with_answer(self, outcome: Outcome) -> list[Outcome]:
        asked = next((effect for effect in outcome.effects if isinstance(effect, Asked)), None)
        if asked is not None and self._approved(asked):
            return [outcome, self.rounds.take(Happened(outcome.round_id, PersonDecided(approved=True)), time.time())]
        wanted = next((effect for effect in outcome.effects if isinstance(effect, ReadValues)), None)
        if wanted is None or not self._at_hand(wanted.study):
            return [outcome]
        values = Happened(outcome.round_id, self._values(outcome.round_id, wanted.study))
        return [outcome, self.rounds.take(values, time.time())]

    def _values(self, round_id: bytes, study: Study) -> RoundEvent:
        """What the sources give. A bug in one costs the round its values, never the daemon."""
        try:
            return self._read_sources(study)
        except Exception as error:
            self._log.error(Event.FAILED, round=round_id.hex(), error=type(error).__name__, place=place(error))
            return ValuesUnavailable()

    def _again(self, batch: Sequence[_Job]) -> None:
        """Senders try again by themselves, a rebuilt round reads its values and wakes again; the rest is taken again by and by,
        what happened to other rounds included.
        """
        loop = asyncio.get_running_loop()
        for job in batch:
            if job.done is not None:
                job.finish(_NOT_KEPT)
            elif isinstance(job.what, Happened) and (
                job.what.round_id not in self._stale or isinstance(job.what.event, Undeliverable | CancelRound | KeyPublished)
            ):
                loop.call_later(_STORE_RETRY_SECONDS, self._put, job)
        if self._stale:
            loop.call_later(_STORE_RETRY_SECONDS, self._arrived.set)

    async def _rebuild_stale(self) -> None:
        if not self._stale:
            return
        await self.on_thread(self.rounds.load, await self._store.ledger())
        self._stale.discard(b"")  # what a person said is theirs to say again
        kept = {one.round_id: one for one in await self._store.open_rounds()}
        for round_id in list(self._stale):
            if round_id in kept:
                try:
                    self._resume(await self.on_thread(self.rounds.rebuild, kept[round_id]))
                except RoundLost as error:
                    self._log.warning(Event.ROUND_LOST, round=round_id.hex(), reason=str(error))
                    await self._burn([kept[round_id]], "it could not be rebuilt from what was kept")
            else:  # it was to begin with the event that could not be kept, or has ended and was to be countersigned
                try:
                    await self.on_thread(self._keys.destroy, round_id)
                except StoreError as error:  # nothing was sealed with it that is kept; the next start tries again
                    self._store_failed(error)
                ended, receipt = await self._store.find_closed(round_id), await self._store.find_receipt(round_id)
                if ended is not None:
                    await self.on_thread(self._bury, ended)
                if receipt is not None:
                    await self.on_thread(self.rounds.resume_receipt, receipt)
            self._stale.discard(round_id)
        await self.tell_revoked()

    def _bury(self, ended: ClosedRound) -> None:
        taken = ended.closed.taken
        self.rounds.bury(ended.round_id, frozenset(taken[at : at + 32] for at in range(0, len(taken), 32)))

    async def _burn(self, kept: Sequence[OpenRound], why: str) -> None:
        """Ends rounds without another message: their secrets are destroyed, the others notice at their deadlines."""
        now, ended = time.time(), Ended(ABORTED, LOST, detail=why)
        self._counter = await self._store.commit([closing_step(now, one.round_id, one.begun.study, ended) for one in kept])
        self._follow([one.round_id for one in kept])
        for one in kept:
            await self.on_thread(self.rounds.bury, one.round_id, frozenset())
            self._act(Outcome(one.round_id, [StopSending(), ended]))

    def _resume(self, pending: Pending) -> None:
        if pending.read is not None:
            self._read(pending.round_id, pending.read.study)
        if pending.wake is not None:
            self._wake(pending.round_id, pending.wake.at)

    async def on_thread(self, function: Callable[[Unpack[A]], T], *arguments: *A) -> T:
        """Calls `function` on the protocol thread, between two transitions."""

        def in_turn() -> T:
            with self._turn:
                return function(*arguments)

        return await asyncio.get_running_loop().run_in_executor(self._thread, in_turn)

    def _store_failed(self, error: StoreError) -> None:
        self.store_trouble = error.reason
        self._store_errors.inc(reason=error.reason)
        self._log.error(Event.STORE_FAILED, reason=error.reason, detail=str(error))

    # -- effects

    def _act(self, outcome: Outcome, *, last: bool = True) -> None:
        posted = iter(outcome.step.posted if outcome.step is not None else ())
        for effect in outcome.effects:
            try:
                self._do(outcome.round_id, effect, next(posted) if isinstance(effect, Send) else None, last=last)
            except Exception as error:  # a bug must cost one effect at the most, never the pump
                self._log.error(Event.FAILED, round=outcome.round_id.hex(), error=type(error).__name__, place=place(error))
        if outcome.kind:
            self._received.inc(kind=outcome.kind, outcome=outcome.reason or str(outcome.answer))
            if outcome.answer is Answer.ACCEPTED:
                self._log.debug(Event.MESSAGE_TAKEN, **_about(outcome))
        if outcome.failure:
            self._log.error(Event.FAILED, round=outcome.round_id.hex(), error=outcome.failure)
        elif outcome.reason:
            self._log.debug(Event.MESSAGE_REFUSED, **_about(outcome), reason=outcome.reason)
            if outcome.answer in _FAULTS:
                self._audit(AuditEvent.REFUSED, what="message", **_about(outcome), reason=outcome.reason)
        self._open.set(len(self.rounds))

    def _do(self, round_id: bytes, effect: Effect, posted: Posted | None, *, last: bool) -> None:
        match effect:
            case Send():
                assert posted is not None, "every message sent is kept first"
                self._post(round_id, posted)
            case StopSending():
                self.outbox.call_back(round_id)
            case WakeAt():
                self._wake(round_id, effect.at)
            case ReadValues():
                self._release_held(round_id)  # the roster holds: shares that came before it can be taken
                if last:  # otherwise the values have been taken already
                    self._read(round_id, effect.study)
            case Asked() | Decided() | Progressed() | Submitted() | Released() | Receipted() | Countersigned():
                self._observe(round_id, effect)
            case Ended():
                self._release_held(round_id)
                self._cancel_timer(round_id)
                self._ended.inc(outcome=effect.outcome, code=effect.code or "none")
                self._observe(round_id, effect)
            case Unreleased():
                pass  # for the ledger alone
            case Answered():
                pass  # who sent the message is answered by _settle

    def _post(self, round_id: bytes, posted: Posted) -> None:
        recipient = Identity.parse(posted.recipient)
        endpoint = self._resolve(recipient, posted.endpoint)
        kind = Kind(posted.kind)
        name = tagged_digest(kind.purpose, memoryview(posted.envelope)[:-SIGNATURE_BYTES]).hex()[:8]
        self.outbox.post(Delivery(round_id, posted.number, recipient, kind, endpoint, posted.envelope, posted.until, name))

    def _wake(self, round_id: bytes, at: float) -> None:
        self._cancel_timer(round_id)
        delay = max(_STORE_RETRY_SECONDS if self.store_trouble else 0.0, at - time.time())
        self._timers[round_id] = asyncio.get_running_loop().call_later(delay, self.tell, round_id, Tick())

    def _cancel_timer(self, round_id: bytes) -> None:
        timer = self._timers.pop(round_id, None)
        if timer is not None:
            timer.cancel()

    def _read(self, round_id: bytes, study: Study) -> None:
        async def read() -> None:
            self.tell(round_id, await aside(self._values, round_id, study))

        self._spawn(read())

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
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


def _as_store_error(error: Exception) -> StoreError:
    """Whatever a commit fails with, nothing of it counts as kept, and the pump lives on."""
    return error if isinstance(error, StoreError) else StoreError("failed", f"{type(error).__name__} at {place(error)}")


def _steps(outcomes: Sequence[Sequence[Outcome]]) -> list[Step]:
    return [outcome.step for of_job in outcomes for outcome in of_job if outcome.step is not None]


def _about(outcome: Outcome) -> dict[str, str]:
    return {
        "round": outcome.round_id.hex(),
        "kind": outcome.kind,
        "sender": outcome.sender,
        "message": outcome.message,
    }
