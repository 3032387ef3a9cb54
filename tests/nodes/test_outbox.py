"""Delivery: until the recipient answers for good, the message's time is up, or its round calls it back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from mpc.errors import Answer
from mpc.identity import Identity
from mpc.messages import Kind
from nodes.metrics import Counter
from nodes.outbox import Delivery, Outbox
from nodes.transport.base import DeliveryError, Receive
from tests.mpc.nodes import NOW, ROUND, patient
from tests.nodes.house import Clock, eventually, kept_log, soon

ALICE, BOB = patient("alice"), patient("bob")
OTHER_ROUND = bytes(16)
REFUSED = DeliveryError("refused", "nobody listens at https://127.0.0.1:1")

Fate = Answer | Exception


@dataclass
class Post:
    """A transport whose recipients answer what the test says; the last of a recipient's fates is repeated."""

    fates: dict[Identity, list[Fate]] = field(default_factory=dict)
    attempts: list[tuple[Identity, str, bytes]] = field(default_factory=list)
    hold: asyncio.Event | None = None
    up_at: tuple[Clock, float] | None = None

    async def start(self, receive: Receive) -> None:
        raise AssertionError("an outbox only sends")

    async def stop(self) -> None:
        raise AssertionError("an outbox only sends")

    async def send(self, recipient: Identity, endpoint: str, envelope: bytes) -> Answer:
        self.attempts.append((recipient, endpoint, envelope))
        if self.hold is not None:
            await self.hold.wait()
        if self.up_at is not None and self.up_at[0].now < self.up_at[1]:
            raise REFUSED
        fates = self.fates[recipient]
        fate = fates.pop(0) if len(fates) > 1 else fates[0]
        if isinstance(fate, Exception):
            raise fate
        return fate


@dataclass
class Office:
    """An outbox, its transport, and what came of it."""

    outbox: Outbox
    post: Post
    answered: list[tuple[Delivery, Answer | None]]
    logged: list[Any]
    sent: Counter

    def log(self, event: str) -> list[Any]:
        return [entry for entry in self.logged if entry["event"] == event]


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    before = asyncio.all_tasks()
    post, answered = Post(), list[tuple[Delivery, Answer | None]]()
    log, logged = kept_log()
    sent = Counter("sent_total", "Attempts.", ("kind", "outcome"))
    made = Office(
        Outbox(post, lambda delivery, answer: answered.append((delivery, answer)), log, sent), post, answered, logged, sent
    )
    yield made
    await made.outbox.drain(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before | {task for task in [asyncio.current_task()] if task}


@dataclass
class Sleeps:
    """Waits that take no time of the test, and move the clock instead."""

    clock: Clock
    waits: list[float] = field(default_factory=list)
    chances: list[tuple[float, float]] = field(default_factory=list)
    luck: float = 1.0
    """What chance gives, as a part of the largest wait."""

    def uniform(self, low: float, high: float) -> float:
        self.chances.append((low, high))
        return low + self.luck * (high - low)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.clock.now += seconds
        await _sleep(0)


_sleep = asyncio.sleep


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("nodes.outbox.time", clock)
    return clock


@pytest.fixture
def sleeps(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Sleeps:
    sleeps = Sleeps(clock)
    monkeypatch.setattr("nodes.outbox.random.uniform", sleeps.uniform)
    monkeypatch.setattr("nodes.outbox.asyncio.sleep", sleeps.sleep)
    return sleeps


def delivery(
    to: Identity = ALICE, seconds: float = 1000, round_id: bytes = ROUND, envelope: bytes = b"sealed", kind: Kind = Kind.SHARE
) -> Delivery:
    return Delivery(round_id, 0, to, kind, f"https://{to.name}.example:8443", envelope, NOW + seconds)


async def delivered(office: Office) -> None:
    """Waits until nothing is on its way; with `sleeps` that is a matter of turns of the loop."""
    async with asyncio.timeout(5):
        while office.outbox.depth():
            await _sleep(0)


async def test_a_message_is_sent_again_until_it_is_accepted(office: Office, sleeps: Sleeps) -> None:
    office.post.fates[ALICE] = [REFUSED, Answer.LATER, Answer.REJECTED, DeliveryError("timeout", "silence"), Answer.ACCEPTED]
    sent = delivery()
    office.outbox.post(sent)
    assert office.outbox.depth() == 1
    await delivered(office)
    assert office.post.attempts == [(ALICE, "https://alice.example:8443", b"sealed")] * 5
    assert office.answered == [(sent, Answer.ACCEPTED)]
    outcomes = {
        outcome: office.sent.value(kind="share", outcome=outcome) for outcome in ("refused", "later", "rejected", "timeout")
    }
    assert outcomes == {"refused": 1, "later": 1, "rejected": 1, "timeout": 1}
    assert office.sent.value(kind="share", outcome="accepted") == 1
    (delayed,) = office.log("delivery-delayed")  # said once, not at every attempt
    assert (delayed["recipient"], delayed["kind"], delayed["reason"]) == ("alice", "share", str(REFUSED))


@pytest.mark.parametrize("answer", [Answer.ACCEPTED, Answer.GONE, Answer.REFUSED, Answer.UNOPENABLE])
async def test_a_final_answer_is_reported_once(answer: Answer, office: Office, sleeps: Sleeps) -> None:
    office.post.fates[ALICE] = [answer]
    sent = delivery()
    office.outbox.post(sent)
    await delivered(office)
    assert (office.answered, len(office.post.attempts), sleeps.waits) == ([(sent, answer)], 1, [])


@pytest.mark.parametrize("answer", [Answer.LATER, Answer.REJECTED])
async def test_an_answer_that_may_change_is_not_reported(answer: Answer, office: Office, sleeps: Sleeps) -> None:
    office.post.fates[ALICE] = [answer]
    sent = delivery(seconds=10)
    office.outbox.post(sent)
    await delivered(office)
    assert office.answered == [(sent, None)]  # its time was up
    assert len(office.post.attempts) > 1


async def test_waits_grow_to_five_seconds_and_are_drawn_by_chance(office: Office, sleeps: Sleeps) -> None:
    office.post.fates[ALICE] = [*[REFUSED] * 12, Answer.ACCEPTED]
    office.outbox.post(delivery())
    await delivered(office)
    # full jitter: each wait is drawn from nothing up to the bound, which doubles
    assert sleeps.chances == [(0, bound) for bound in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5, 5, 5, 5)]
    assert sleeps.waits == [bound for _, bound in sleeps.chances]


async def test_the_bound_does_not_grow_with_attempts_without_end(office: Office, sleeps: Sleeps) -> None:
    office.post.fates[ALICE] = [*[REFUSED] * 2000, Answer.ACCEPTED]
    sleeps.luck = 0.0
    office.outbox.post(delivery())
    await delivered(office)
    assert len(office.post.attempts) == 2001
    assert max(high for _, high in sleeps.chances) == 5


async def test_a_message_is_abandoned_when_its_time_is_up(office: Office, clock: Clock, sleeps: Sleeps) -> None:
    office.post.fates[ALICE] = [REFUSED]
    sent = delivery(seconds=60)
    office.outbox.post(sent)
    await delivered(office)
    assert office.answered == [(sent, None)]
    assert clock.now <= NOW + 60
    (abandoned,) = office.log("delivery-abandoned")
    assert abandoned["attempts"] == len(office.post.attempts)
    assert abandoned["reason"] == str(REFUSED)
    assert office.outbox.depth() == 0


async def test_a_recipient_that_comes_up_in_the_last_second_still_gets_it(office: Office, clock: Clock, sleeps: Sleeps) -> None:
    office.post.up_at = (clock, NOW + 59)
    office.post.fates[ALICE] = [Answer.ACCEPTED]
    office.outbox.post(delivery(seconds=60))
    await delivered(office)
    assert [answer for _, answer in office.answered] == [Answer.ACCEPTED]


async def test_an_attempt_does_not_outlive_the_message(office: Office, clock: Clock) -> None:
    office.post.fates[ALICE] = [Answer.ACCEPTED]
    office.post.hold = asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, setattr, clock, "now", NOW + 0.02)
    office.outbox.post(delivery(seconds=0.02))
    await eventually(lambda: office.outbox.depth() == 0)
    assert [answer for _, answer in office.answered] == [None]
    assert len(office.log("delivery-abandoned")) == 1
    assert office.sent.value(kind="share", outcome="timeout") == 1


async def test_calling_back_cancels_the_rounds_messages_and_no_others(office: Office) -> None:
    office.post.hold = asyncio.Event()
    office.post.fates = {ALICE: [Answer.ACCEPTED], BOB: [Answer.ACCEPTED]}
    kept = delivery(BOB, round_id=OTHER_ROUND)
    for sent in (delivery(), delivery(BOB), kept):
        office.outbox.post(sent)
    await eventually(lambda: len(office.post.attempts) == 3)
    office.outbox.call_back(ROUND)
    later = delivery(envelope=b"posted afterwards")
    office.outbox.post(later)
    office.post.hold.set()
    await eventually(lambda: office.outbox.depth() == 0)
    assert office.answered in (
        [(kept, Answer.ACCEPTED), (later, Answer.ACCEPTED)],
        [(later, Answer.ACCEPTED), (kept, Answer.ACCEPTED)],
    )
    assert {entry["event"] for entry in office.logged} == {"message-sent"}


async def test_a_message_that_waits_between_attempts_is_called_back_too(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.outbox.random.uniform", lambda _low, _high: 100.0)
    office.post.fates[ALICE] = [REFUSED]
    office.outbox.post(delivery())
    await eventually(lambda: bool(office.log("delivery-delayed")))
    office.outbox.call_back(ROUND)
    await eventually(lambda: office.outbox.depth() == 0)
    assert len(office.post.attempts) == 1


async def test_calling_back_a_round_that_posted_nothing_does_nothing(office: Office) -> None:
    office.outbox.call_back(ROUND)
    assert office.outbox.depth() == 0


async def test_troubles_say_who_cannot_be_reached_and_why(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = asyncio.Event()

    async def sleep(_seconds: float) -> None:
        await go_on.wait()

    monkeypatch.setattr("nodes.outbox.asyncio.sleep", sleep)
    office.post.fates = {ALICE: [REFUSED, Answer.ACCEPTED], BOB: [Answer.LATER, Answer.GONE]}
    for to in (ALICE, BOB):
        office.outbox.post(delivery(to))
    for _ in range(10):
        await _sleep(0)
    assert office.outbox.troubles == {ALICE: str(REFUSED), BOB: "it answered later"}
    go_on.set()
    await delivered(office)
    assert office.outbox.troubles == {}


async def test_an_unforeseen_error_is_logged_without_its_text_and_harms_no_other(office: Office, sleeps: Sleeps) -> None:
    office.post.fates = {ALICE: [ValueError("725 is the secret")], BOB: [REFUSED, Answer.ACCEPTED]}
    for to in (ALICE, BOB):
        office.outbox.post(delivery(to))
    await delivered(office)
    assert [(sent.recipient, answer) for sent, answer in office.answered] == [(BOB, Answer.ACCEPTED)]
    (failed,) = office.log("failed")
    assert (failed["error"], failed["round"]) == ("ValueError", ROUND.hex())
    assert "test_outbox.py:" in failed["place"]
    assert "725" not in str(office.logged)


async def test_draining_waits_for_what_is_under_way(office: Office) -> None:
    office.post.hold = asyncio.Event()
    office.post.fates[ALICE] = [Answer.ACCEPTED]
    office.outbox.post(delivery())
    draining = asyncio.create_task(office.outbox.drain(5))
    await eventually(lambda: len(office.post.attempts) == 1)
    assert not draining.done()
    office.post.hold.set()
    await soon(draining)
    assert [answer for _, answer in office.answered] == [Answer.ACCEPTED]


async def test_draining_gives_up_after_its_time(office: Office) -> None:
    office.post.hold = asyncio.Event()
    office.post.fates[ALICE] = [Answer.ACCEPTED]
    office.outbox.post(delivery())
    async with asyncio.timeout(2):
        await office.outbox.drain(0.01)
    assert office.outbox.depth() == 0
    assert office.answered == []


async def test_draining_does_not_wait_for_the_next_attempt(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.outbox.random.uniform", lambda _low, _high: 100.0)
    office.post.fates[ALICE] = [REFUSED]
    office.outbox.post(delivery())
    await eventually(lambda: bool(office.log("delivery-delayed")))
    async with asyncio.timeout(2):
        await office.outbox.drain(60)
    assert office.outbox.depth() == 0


async def test_an_attempt_that_fails_while_draining_is_the_last(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.outbox.random.uniform", lambda _low, _high: 100.0)
    office.post.fates[ALICE] = [REFUSED]
    office.post.hold = asyncio.Event()
    office.outbox.post(delivery())
    await eventually(lambda: len(office.post.attempts) == 1)
    draining = asyncio.create_task(office.outbox.drain(60))
    await asyncio.sleep(0)
    office.post.hold.set()
    done, _ = await asyncio.wait({draining}, timeout=1)
    draining.cancel()
    await asyncio.gather(draining, return_exceptions=True)
    assert done
    assert len(office.post.attempts) == 1


async def test_a_delivery_prints_no_envelope() -> None:
    assert "sealed" not in repr(delivery())
