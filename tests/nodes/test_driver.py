"""The driver: real rounds over a network that a test breaks on purpose, and machines that misbehave."""

from __future__ import annotations

import asyncio
import errno
import gc
import io
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import structlog

from mpc.envelope import parse
from mpc.errors import Answer, InvalidTransition
from mpc.identity import Identity
from mpc.messages import AbortCode, Declined, Kind
from mpc.rounds.admission import Admitted
from mpc.rounds.events import (
    ABORTED,
    RELEASED,
    Answered,
    CancelRound,
    Decided,
    Effect,
    Ended,
    Event,
    OpenRound,
    Progressed,
    ReadValues,
    Released,
    Send,
    StopSending,
    Submitted,
    Tick,
    Undeliverable,
    ValuesRead,
    ValuesUnavailable,
    WakeAt,
)
from mpc.study import Study
from nodes import driver as driver_module
from nodes.log import configure, logger
from nodes.metrics import Counter as MetricCounter
from nodes.metrics import Gauge
from nodes.rounds import New
from nodes.store.base import StoreError
from nodes.transport.memory import MemoryNetwork, Parcel
from tests.mpc.nodes import HOSPITAL, NOW, ROUND, credential, keyring, patient, request, revoking, study
from tests.mpc.world import MAX_SIZE, World, powers
from tests.nodes.house import (
    Clock,
    Handle,
    Node,
    Scripted,
    Ward,
    begun,
    eventually,
    hospital_node,
    hospital_round,
    invitation,
    make_node,
    nothing_left_over,
    patient_node,
    running,
    soon,
    start,
    stop,
    ward,
)

ALICE, BOB = patient("alice"), patient("bob")
OTHER_ROUND = bytes(range(100, 116))
VALUES = {"alice": [725], "bob": [310], "charlie": [540]}  # the example of the project: 1575 together
SECRET = "725 is the secret"


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Certificates and statements of the tests are of NOW, so that is what the driver's clock says."""
    clock = Clock()
    monkeypatch.setattr("nodes.driver.time", clock)
    monkeypatch.setattr("nodes.outbox.time", clock)
    return clock


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the driver does by and by, it does soon."""
    for name in ("_NOTE_SECONDS", "_FOLLOW_SECONDS", "_STORE_RETRY_SECONDS"):
        monkeypatch.setattr(driver_module, name, 0.005)


@pytest.fixture(autouse=True)
async def nothing_is_left_over() -> AsyncIterator[None]:
    async with nothing_left_over():
        yield
    gc.collect()  # a future whose exception nobody heard complains now, in its own test


def kind_of(parcel: Parcel) -> Kind:
    return parse(parcel.envelope, MAX_SIZE).kind


def round_of(parcel: Parcel) -> bytes:
    return parse(parcel.envelope, MAX_SIZE).header.round


async def open_round(made: Ward, round_id: bytes = ROUND, **changes: Any) -> None:
    new = hospital_round(made.hospital, study(*made.patients, **changes), round_id)
    await soon(made.hospital.driver.begin(new, OpenRound()))


async def all_ended(made: Ward, round_id: bytes = ROUND) -> None:
    nodes = [made.hospital, *made.patients.values()]
    await eventually(lambda: all(node.endings(round_id) for node in nodes))


def total(made: Ward, round_id: bytes = ROUND) -> Any:
    (released,) = [e for of, e in made.hospital.observed if of == round_id and isinstance(e, Released)]
    return released.result.plain()["value"]["sum"]


# -- whole rounds


async def test_a_round_gives_the_exact_sum_and_ends_everywhere() -> None:
    async with ward(VALUES) as made:
        await open_round(made)
        await all_ended(made)
        assert total(made) == 1575
        for node in [made.hospital, *made.patients.values()]:
            assert [ended.outcome for ended in node.endings(ROUND)] == [RELEASED]
            assert 'cohortium_rounds_total{outcome="released",code="none"} 1\n' in node.metrics.render()
            assert "cohortium_rounds_open 0\n" in node.metrics.render()
            assert not node.log("failed")
        for node in made.patients.values():
            assert [type(effect) for effect in [*node.seen(Decided), *node.seen(Submitted)]] == [Decided, Submitted]
        await eventually(lambda: made.hospital.driver.outbox.depth() == 0)


async def test_messages_are_counted_by_kind_and_outcome() -> None:
    async with ward(VALUES) as made:
        await open_round(made)
        await all_ended(made)
        await eventually(lambda: made.hospital.driver.outbox.depth() == 0)
        text = made.hospital.metrics.render()
        for kind in ("consent", "ready", "partial-sum"):
            assert f'cohortium_messages_received_total{{kind="{kind}",outcome="accepted"}} 3\n' in text
        for kind in ("invitation", "roster", "collect", "receipt"):
            assert f'cohortium_messages_sent_total{{kind="{kind}",outcome="accepted"}} 3\n' in text
        sent = 'cohortium_messages_sent_total{kind="share",outcome="accepted"} 2\n'
        await eventually(lambda: all(sent in node.metrics.render() for node in made.patients.values()))


@pytest.mark.parametrize("fate", ["drop", "lose_answer", "corrupt", "double"])
async def test_a_message_harmed_once_changes_nothing(fate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.outbox._FIRST_WAIT", 0.001)
    harmed: set[tuple[Identity, Identity, Kind]] = set()

    def once(parcel: Parcel) -> str:
        name = (parcel.sender, parcel.recipient, kind_of(parcel))
        if name in harmed:
            return "deliver"
        harmed.add(name)
        return fate

    async with ward(VALUES) as made:
        made.fate = once
        await open_round(made)
        await all_ended(made)
        assert total(made) == 1575
        nodes = [made.hospital, *made.patients.values()]
        await eventually(lambda: all(node.driver.outbox.depth() == 0 for node in nodes))
        kinds = Counter(kind for _, _, kind in harmed)
        # 3 patients; a share goes from each to each other
        never = (Kind.DECLINED, Kind.ABORT, Kind.BURNT)
        assert kinds == {**dict.fromkeys([kind for kind in Kind if kind not in never], 3), Kind.SHARE: 6}
        if fate == "corrupt":
            assert {answer for _, answer in made.answers} >= {Answer.ACCEPTED, Answer.REJECTED}
        else:
            assert {answer for _, answer in made.answers} == {Answer.ACCEPTED}


async def test_two_rounds_at_the_same_time_do_not_mix() -> None:
    async with ward(VALUES | {"dora": [1]}, period=0) as made:  # or a guard would mind that the rosters differ
        first, second = study("alice", "bob", "charlie"), study("bob", "charlie", "dora")
        collecting: set[bytes] = set()

        def until_both_collect(parcel: Parcel) -> bool:
            if kind_of(parcel) is Kind.COLLECT:
                collecting.add(round_of(parcel))
            return kind_of(parcel) is Kind.COLLECT and len(collecting) < 2

        made.keeps = until_both_collect
        driver = made.hospital.driver
        await asyncio.gather(
            driver.begin(hospital_round(made.hospital, first, ROUND), OpenRound()),
            driver.begin(hospital_round(made.hospital, second, OTHER_ROUND), OpenRound()),
        )
        await eventually(lambda: bool(made.hospital.endings(ROUND) and made.hospital.endings(OTHER_ROUND)))
        assert (total(made), total(made, OTHER_ROUND)) == (725 + 310 + 540, 310 + 540 + 1)
        assert not made.patients["alice"].endings(OTHER_ROUND)


async def test_a_vector_round_is_exact() -> None:
    values = {"alice": [1, 2, 3], "bob": [10, 20, 30], "charlie": [100, 200, 300]}
    async with ward(values) as made:
        await open_round(made, length=3)
        await all_ended(made)
        assert total(made) == [111, 222, 333]


async def test_a_cancelled_round_ends_for_all_and_the_next_one_works() -> None:
    async with ward(VALUES) as made:
        made.keeps = lambda parcel: kind_of(parcel) is Kind.READY
        await open_round(made)
        await eventually(lambda: len([p for p in made.network.waiting if kind_of(p) is Kind.READY]) == 3)
        made.hospital.driver.tell(ROUND, CancelRound())
        await all_ended(made)
        nodes = [made.hospital, *made.patients.values()]
        assert {node.endings(ROUND)[0].code for node in nodes} == {AbortCode.CANCELLED}
        made.keeps = lambda _: False
        await open_round(made, OTHER_ROUND)
        await all_ended(made, OTHER_ROUND)
        assert total(made, OTHER_ROUND) == 1575


async def test_a_final_refusal_of_an_invitation_is_told_to_its_round(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ward(VALUES) as made:

        async def refuse(_raw: bytes, _peer: Identity) -> Answer:
            return Answer.REFUSED

        await made.network.transport(ALICE).start(refuse)
        await open_round(made)
        await eventually(lambda: bool(made.hospital.endings(ROUND)))
        (ended,) = made.hospital.endings(ROUND)
        assert (ended.code, ended.missing) == (AbortCode.TOO_FEW, ("alice",))
        (refused,) = made.hospital.log("delivery-refused")
        assert (refused["recipient"], refused["kind"], refused["answer"]) == ("alice", "invitation", "refused")


# -- values are read off the loop


async def test_sources_are_read_on_neither_the_loop_nor_the_protocol_thread() -> None:
    threads: list[str] = []
    async with ward(VALUES, read=lambda: threads.append(threading.current_thread().name)) as made:
        await open_round(made)
        await all_ended(made)
    assert len(threads) == 3
    assert threading.main_thread().name not in threads
    assert not [name for name in threads if name.startswith("protocol")]


async def test_a_slow_source_holds_up_neither_the_loop_nor_other_rounds() -> None:
    go_on, reading = threading.Event(), threading.Event()

    def slow(event: Event, _now: float) -> list[Effect]:
        return [ReadValues(study("alice", "bob", "charlie"))] if isinstance(event, OpenRound) else [Ended(RELEASED)]

    def read(_study: Study) -> Event:
        reading.set()
        assert go_on.wait(5)
        return ValuesUnavailable()

    node = make_node(HOSPITAL, MemoryNetwork(), read_sources=read)
    async with running(node):
        await node.begin(Scripted(ROUND, slow), OpenRound())
        await eventually(reading.is_set)
        await node.begin(Scripted(OTHER_ROUND, lambda _e, _n: [Ended(RELEASED)]), OpenRound())
        assert node.endings(OTHER_ROUND)
        assert not node.endings(ROUND)
        go_on.set()
        await eventually(lambda: bool(node.endings(ROUND)))


async def test_values_for_a_round_that_ended_meanwhile_are_dropped() -> None:
    go_on = threading.Event()

    def read(_study: Study) -> Event:
        assert go_on.wait(5)
        return ValuesRead({})

    given: list[Event] = []

    def handle(event: Event, _now: float) -> list[Effect]:
        given.append(event)
        return [Ended(ABORTED)] if isinstance(event, CancelRound) else [ReadValues(study("alice", "bob", "charlie"))]

    node = make_node(HOSPITAL, MemoryNetwork(), read_sources=read)
    async with running(node):
        await node.begin(Scripted(ROUND, handle), OpenRound())
        node.driver.tell(ROUND, CancelRound())
        await eventually(lambda: bool(node.endings(ROUND)))
        go_on.set()
        # The values come as an event of their own; a later round shows that it has passed.
        await eventually(lambda: len(asyncio.all_tasks()) <= 2)
        await node.begin(Scripted(OTHER_ROUND, lambda _e, _n: []), OpenRound())
    assert [type(event) for event in given] == [OpenRound, CancelRound]
    assert not node.log("failed")


async def test_a_source_that_raises_ends_no_more_than_its_round() -> None:
    def read(_study: Study) -> Event:
        raise RuntimeError(SECRET)

    def handle(event: Event, _now: float) -> list[Effect]:
        return [Ended(ABORTED)] if isinstance(event, ValuesUnavailable) else [ReadValues(study("alice", "bob", "charlie"))]

    node = make_node(HOSPITAL, MemoryNetwork(), read_sources=read)
    async with running(node):
        await node.begin(Scripted(ROUND, handle), OpenRound())
        await eventually(lambda: bool(node.endings(ROUND)))
        assert SECRET not in str(node.logged)


# -- the loop is free


async def test_the_loop_answers_while_the_protocol_thread_works() -> None:
    go_on, working = threading.Event(), threading.Event()

    def work(_event: Event, _now: float) -> list[Effect]:
        working.set()
        assert go_on.wait(5)
        return [Ended(RELEASED)]

    node = make_node(HOSPITAL, MemoryNetwork())
    async with running(node):
        begun = asyncio.create_task(node.begin(Scripted(ROUND, work), OpenRound()))
        await eventually(working.is_set)  # which turns the loop
        assert not begun.done()
        go_on.set()
        await soon(begun)
    assert node.endings(ROUND)


@pytest.mark.parametrize("heavy", [False, True])
async def test_light_work_is_done_at_once_and_heavy_work_on_the_protocol_thread(heavy: bool) -> None:
    threads: list[str] = []

    def handle(_event: Event, _now: float) -> list[Effect]:
        threads.append(threading.current_thread().name)
        return []

    node = make_node(ALICE, MemoryNetwork())
    async with running(node):
        await node.begin(Scripted(ROUND, handle, ALICE, heavy=heavy), OpenRound())
        node.driver.tell(ROUND, Tick())
        await eventually(lambda: len(threads) == 2)
        assert await soon(node.driver.receive(invitation(ROUND, ALICE), HOSPITAL)) is Answer.ACCEPTED
    opened, *others = [name.startswith("protocol") for name in threads]
    assert opened  # new rounds draw keys and seal Invitations
    assert others == [heavy, heavy]
    assert heavy or set(threads[1:]) == {threading.main_thread().name}


async def test_values_that_are_at_hand_are_kept_with_the_event_that_asks_for_them() -> None:
    given: list[Event] = []

    def handle(event: Event, _now: float) -> list[Effect]:
        given.append(event)
        return [ReadValues(study("alice", "bob", "charlie"))] if isinstance(event, OpenRound) else [Ended(RELEASED)]

    node = make_node(HOSPITAL, MemoryNetwork(), at_hand=lambda _study: True, read_sources=lambda _study: ValuesRead({}))
    async with running(node):
        fault = node.disk.store.before = Fault(lambda: False)
        await node.begin(Scripted(ROUND, handle), OpenRound())
        assert node.endings(ROUND)
    assert given == [OpenRound(), ValuesRead({})]
    assert fault.commits == 1


async def test_transitions_never_overlap_and_have_a_thread_of_their_own() -> None:
    inside, threads = [0], set[str]()

    def handle(_event: Event, _now: float) -> list[Effect]:
        inside[0] += 1
        assert inside[0] == 1
        threads.add(threading.current_thread().name)
        time.sleep(0.001)
        inside[0] -= 1
        return []

    node = make_node(HOSPITAL, MemoryNetwork())
    async with running(node):
        machines = [Scripted(bytes([number]) * 16, handle) for number in range(20)]
        await soon(asyncio.gather(*(node.begin(machine, OpenRound()) for machine in machines)))
    assert not node.log("failed")
    assert len(threads) == 1
    assert threads.pop().startswith("protocol")


async def test_what_has_arrived_is_handed_over_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "_BATCH", 4)
    sizes: list[int] = []
    work = driver_module.Driver._work

    async def counted(self: driver_module.Driver, batch: Sequence[Any]) -> list[Any]:
        sizes.append(len(batch))
        return await work(self, batch)

    monkeypatch.setattr(driver_module.Driver, "_work", counted)
    node = make_node(HOSPITAL, MemoryNetwork())
    order: list[int] = []

    def opened(number: int) -> Handle:
        def handle(_event: Event, _now: float) -> list[Effect]:
            order.append(number)
            return [Ended(RELEASED)]

        return handle

    async with running(node):
        machines = [Scripted(bytes([number]) * 16, opened(number)) for number in range(10)]
        await soon(asyncio.gather(*(node.begin(machine, OpenRound()) for machine in machines)))
    assert sizes == [4, 4, 2]
    assert order == list(range(10))


# -- answers


async def hospital_in_world() -> tuple[Node, World]:
    """A hospital's driver around the machine of a world, so that the world can forge what its patients send."""
    made = World(study("alice", "bob", "charlie", bound=100**3), powers("alice", "bob", "charlie"), {})
    return make_node(HOSPITAL, MemoryNetwork(), credentials=made.hospital.credentials), made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "_HOLD_SECONDS", 0.01)


@pytest.mark.usefixtures("impatient")
async def test_each_situation_has_its_answer() -> None:
    node, made = await hospital_in_world()
    async with running(node):
        driver = node.driver
        audited: list[tuple[str, str]] = []
        driver._audit = lambda event, **content: audited.append((event, content["reason"]))
        await node.begin(made.hospital, OpenRound())
        digest = made.hospital.invitation_digest
        declined = made.forge(Kind.DECLINED, Declined(digest), "alice", HOSPITAL.name).raw
        damaged = declined[:-1] + bytes([declined[-1] ^ 1])
        assert await soon(driver.receive(b"", ALICE)) is Answer.REJECTED
        assert await soon(driver.receive(damaged, ALICE)) is Answer.REJECTED
        assert await soon(driver.receive(bytes((1 << 20) + 1), ALICE)) is Answer.REJECTED
        assert await soon(driver.receive(declined, BOB)) is Answer.REFUSED  # signed by alice, carried by bob
        other = made.forge(Kind.DECLINED, Declined(digest), "alice", HOSPITAL.name, context=bytes(32)).raw
        assert await soon(driver.receive(other, ALICE)) is Answer.REFUSED
        garbage = made.forge(Kind.DECLINED, b"\xc1", "bob", HOSPITAL.name).raw
        assert await soon(driver.receive(garbage, BOB)) is Answer.UNOPENABLE
        unknown = made.forge(Kind.DECLINED, Declined(digest), "alice", HOSPITAL.name, round_id=OTHER_ROUND).raw
        assert await soon(driver.receive(unknown, ALICE)) is Answer.LATER
        assert await soon(driver.receive(declined, ALICE)) is Answer.ACCEPTED
        # What came too early is no offence.
        assert {event for event, _ in audited} == {"refused"}
        assert len(audited) == 6
        assert await soon(driver.receive(declined, ALICE)) is Answer.ACCEPTED  # the same twice is one effect
        assert [effect.waiting_for for effect in node.seen(Progressed)] == [("alice", "bob", "charlie"), ("bob", "charlie")]
        driver.tell(ROUND, CancelRound())
        await eventually(lambda: bool(node.endings(ROUND)))
        late = made.forge(Kind.DECLINED, Declined(digest), "bob", HOSPITAL.name).raw
        assert await soon(driver.receive(declined, ALICE)) is Answer.ACCEPTED
        assert await soon(driver.receive(late, BOB)) is Answer.GONE
        text = node.metrics.render()
        for kind, outcome in [
            ("unknown", "encoding"),
            ("unknown", "size"),
            ("declined", "signature"),
            ("declined", "carrier"),
            ("declined", "context"),
            ("declined", "payload"),
            ("declined", "round-unknown"),
            ("declined", "round-ended"),
        ]:
            assert f'cohortium_messages_received_total{{kind="{kind}",outcome="{outcome}"}} 1\n' in text
        assert 'cohortium_messages_received_total{kind="declined",outcome="accepted"} 3\n' in text


async def test_a_hospital_is_invited_to_nothing(impatient: None) -> None:
    node = make_node(ALICE, MemoryNetwork(), new_round=lambda _: None)
    async with running(node):
        assert await soon(node.driver.receive(invitation(ROUND, ALICE), HOSPITAL)) is Answer.LATER


async def test_only_an_invitation_opens_a_round(impatient: None) -> None:
    made = World(study("alice", "bob", "charlie", bound=100**3), powers("alice", "bob", "charlie"), {})
    made.open()
    asked: list[Admitted] = []

    def new_round(message: Admitted) -> New:
        asked.append(message)
        return begun(Scripted(ROUND, lambda _e, _n: [Answered(Answer.ACCEPTED)], ALICE))

    node = make_node(ALICE, MemoryNetwork(), new_round=new_round)
    async with running(node):
        abort = made.forge(Kind.DECLINED, Declined(bytes(32)), "alice", HOSPITAL.name)
        assert await soon(node.driver.receive(abort.raw, ALICE)) is Answer.REJECTED
        share = made.forge(Kind.SHARE, b"\x91\xc4\x20" + bytes(32), "bob", "alice")
        assert await soon(node.driver.receive(share.raw, BOB)) in (Answer.REJECTED, Answer.LATER)
        assert not asked
        assert await soon(node.driver.receive(invitation(ROUND, ALICE), HOSPITAL)) is Answer.ACCEPTED
        assert len(asked) == 1


async def test_a_second_invitation_of_an_ended_round_is_gone_and_the_first_accepted() -> None:
    async with ward(VALUES) as made:
        await open_round(made)
        await all_ended(made)
        alice = made.patients["alice"].driver
        first = next(p for p, _ in made.answers if kind_of(p) is Kind.INVITATION and p.recipient == ALICE)
        assert await soon(alice.receive(first.envelope, HOSPITAL)) is Answer.ACCEPTED
        assert await soon(alice.receive(invitation(ROUND, ALICE), HOSPITAL)) is Answer.GONE
        assert len(made.patients["alice"].seen(Decided)) == 1


# -- ahead of its round


def to_alice(kind: Kind) -> Callable[[Parcel], bool]:
    return lambda parcel: parcel.recipient == ALICE and kind_of(parcel) is kind


def to_hospital(kind: Kind) -> Callable[[Parcel], bool]:
    return lambda parcel: parcel.recipient == HOSPITAL and kind_of(parcel) is kind


async def shares_before_the_roster(made: Ward) -> list[Parcel]:
    """A round up to where both shares for alice are on their way, and her roster too."""
    roster, share = to_alice(Kind.ROSTER), to_alice(Kind.SHARE)
    made.keeps = lambda parcel: roster(parcel) or share(parcel)
    await open_round(made)
    await eventually(lambda: len([parcel for parcel in made.network.waiting if share(parcel)]) == 2)
    return [parcel for parcel in made.network.waiting if share(parcel)]


async def test_a_share_ahead_of_the_roster_is_held_and_then_taken() -> None:
    async with ward(VALUES) as made:
        first, second = await shares_before_the_roster(made)
        early = asyncio.create_task(made.network.deliver(first)), asyncio.create_task(made.network.deliver(second))
        received = 'cohortium_messages_received_total{kind="share"'
        alice = made.patients["alice"]
        await eventually(lambda: received in alice.metrics.render())
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in early)
        made.keeps = lambda _: False
        assert await soon(asyncio.gather(*early)) == [Answer.ACCEPTED, Answer.ACCEPTED]
        await all_ended(made)
        assert total(made) == 1575
        # taken from the hand in which they were held: nobody was told to come back
        assert not made.patients["bob"].log("delivery-delayed")
        assert not made.patients["charlie"].log("delivery-delayed")


async def test_a_share_handled_together_with_the_roster_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "_HOLD_SECONDS", 1000.0)  # whoever is held in spite of the roster is held for good
    async with ward(VALUES) as made:
        shares = await shares_before_the_roster(made)
        roster = next(parcel for parcel in made.network.waiting if to_alice(Kind.ROSTER)(parcel))
        together = [asyncio.create_task(made.network.deliver(parcel)) for parcel in (*shares, roster)]
        assert await soon(asyncio.gather(*together)) == [Answer.ACCEPTED] * 3
        made.keeps = lambda _: False
        await all_ended(made)
        assert total(made) == 1575


@pytest.mark.parametrize(("acquainted", "answer"), [(True, Answer.LATER), (False, Answer.REJECTED)])
async def test_a_share_whose_roster_does_not_come_is_told_to_come_back(acquainted: bool, answer: Answer, impatient: None) -> None:
    """Neither answer is final. TLS makes nodes acquainted; through a relay only the roster does."""
    async with ward(VALUES) as made:
        for parcel in await shares_before_the_roster(made):
            if acquainted:
                made.patients["alice"].credentials.learn(keyring(parcel.sender).chain, NOW)
            assert await soon(made.network.double(parcel)) is answer
        made.keeps = lambda _: False
        await all_ended(made)
        assert total(made) == 1575


async def test_a_held_message_whose_round_ends_is_told_so() -> None:
    async with ward(VALUES) as made:
        first, _ = await shares_before_the_roster(made)
        alice = made.patients["alice"]
        alice.credentials.learn(keyring(first.sender).chain, NOW)
        early = asyncio.create_task(made.network.double(first))
        await eventually(lambda: 'kind="share"' in alice.metrics.render())
        made.hospital.driver.tell(ROUND, CancelRound())
        assert await soon(early) is Answer.GONE


async def test_only_so_many_messages_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "_HOLD_COUNT", 3)
    node = make_node(ALICE, MemoryNetwork())
    async with running(node):
        rounds = [bytes([number]) * 16 for number in range(4)]
        held = [asyncio.create_task(node.driver.receive(invitation(number, ALICE), HOSPITAL)) for number in rounds[:3]]
        await eventually(lambda: 'outcome="round-unknown"} 3\n' in node.metrics.render())
        assert await soon(node.driver.receive(invitation(rounds[3], ALICE), HOSPITAL)) is Answer.LATER
        assert not any(task.done() for task in held)
        for task in held:  # the senders go away
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        again = asyncio.create_task(node.driver.receive(invitation(rounds[3], ALICE), HOSPITAL))
        await eventually(lambda: 'outcome="round-unknown"} 5\n' in node.metrics.render())
        await asyncio.sleep(0.01)
        assert not again.done()  # there is room again
        again.cancel()
        await asyncio.gather(again, return_exceptions=True)


async def test_a_large_message_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    node = make_node(ALICE, MemoryNetwork())
    async with running(node):
        large = invitation(ROUND, ALICE, payload=bytes(16 * 1024))
        async with asyncio.timeout(1):  # a small one is held for two seconds
            assert await node.driver.receive(large, HOSPITAL) is Answer.LATER


# -- machines that misbehave


def raising(_event: Event, _now: float) -> list[Effect]:
    raise ValueError(SECRET)


def assert_logged_without_text(node: Node, error: str = "ValueError") -> None:
    (failed,) = node.log("failed")
    assert failed["error"].startswith(error)
    assert ".py:" in failed["error"] + failed.get("place", "")
    assert SECRET not in str(node.logged)


async def test_a_machine_that_raises_ends_its_round_alone() -> None:
    explode = threading.Event()

    def first(event: Event, now: float) -> list[Effect]:
        return raising(event, now) if explode.is_set() else []

    node = make_node(HOSPITAL, MemoryNetwork())
    async with running(node):
        await node.begin(Scripted(ROUND, first), OpenRound())
        await node.begin(Scripted(OTHER_ROUND, lambda _e, _n: []), OpenRound())
        explode.set()
        node.driver.tell(ROUND, Tick())
        await eventually(lambda: bool(node.endings(ROUND)))
        (ended,) = node.endings(ROUND)
        assert (ended.outcome, ended.code) == (ABORTED, "internal-error")
        assert not node.endings(OTHER_ROUND)
        assert "cohortium_rounds_open 1\n" in node.metrics.render()
        assert 'cohortium_rounds_total{outcome="aborted",code="internal-error"} 1\n' in node.metrics.render()
    assert_logged_without_text(node)


async def test_a_round_that_fails_on_opening_is_ended_for_those_who_watch() -> None:
    node = make_node(HOSPITAL, MemoryNetwork())
    async with running(node):
        await node.begin(Scripted(ROUND, raising), OpenRound())
        assert [ended.code for ended in node.endings(ROUND)] == ["internal-error"]
    assert_logged_without_text(node)


async def test_a_message_that_breaks_its_round_is_told_gone_and_so_are_later_ones() -> None:
    def handle(event: Event, now: float) -> list[Effect]:
        return [] if isinstance(event, OpenRound) else raising(event, now)

    node = make_node(ALICE, MemoryNetwork())
    async with running(node):
        await node.begin(Scripted(ROUND, handle, ALICE), OpenRound())
        assert await soon(node.driver.receive(invitation(ROUND, ALICE), HOSPITAL)) is Answer.GONE
        assert [ended.code for ended in node.endings(ROUND)] == ["internal-error"]
        assert await soon(node.driver.receive(invitation(ROUND, ALICE), HOSPITAL)) is Answer.GONE
    assert_logged_without_text(node)


async def test_a_round_that_cannot_be_made_is_told_gone() -> None:
    def new_round(_message: Admitted) -> New:
        raise ValueError(SECRET)

    node = make_node(ALICE, MemoryNetwork(), new_round=new_round)
    async with running(node):
        assert await soon(node.driver.receive(invitation(ROUND, ALICE), HOSPITAL)) is Answer.GONE
        assert not node.observed
    assert_logged_without_text(node)


async def test_an_invalid_transition_is_logged_with_the_rounds_story() -> None:
    def handle(event: Event, _now: float) -> list[Effect]:
        raise InvalidTransition("scripted round", "new", type(event).__name__, ("new: born",))

    node = make_node(HOSPITAL, MemoryNetwork())
    async with running(node):
        await node.begin(Scripted(ROUND, handle), Tick())
    (failed,) = node.log("failed")
    assert failed["error"].startswith("scripted round in state new has no transition for Tick; so far: new: born at ")


async def test_a_round_that_broke_sends_no_more() -> None:
    explode = threading.Event()

    def handle(event: Event, now: float) -> list[Effect]:
        if explode.is_set():
            return raising(event, now)
        return [Send(ALICE, Kind.ABORT, b"x", "", NOW + 1000)]

    node = make_node(HOSPITAL, MemoryNetwork())
    async with running(node):
        await node.begin(Scripted(ROUND, handle), OpenRound())
        await eventually(lambda: node.driver.outbox.depth() == 1)
        explode.set()
        node.driver.tell(ROUND, Tick())
        await eventually(lambda: node.driver.outbox.depth() == 0)


async def test_an_observer_that_raises_costs_one_effect() -> None:
    def observe(_round_id: bytes, effect: Effect) -> None:
        if isinstance(effect, Progressed):
            raise ValueError(SECRET)

    def handle(_event: Event, _now: float) -> list[Effect]:
        return [Progressed("sharing", ()), Send(ALICE, Kind.ABORT, b"x", "", NOW + 1000), Ended(RELEASED)]

    node = make_node(HOSPITAL, MemoryNetwork(), observe=observe)
    async with running(node):
        await node.begin(Scripted(ROUND, handle), OpenRound())
        assert_logged_without_text(node)
        await node.begin(Scripted(OTHER_ROUND, lambda _e, _n: [Ended(RELEASED)]), OpenRound())
        assert node.endings(OTHER_ROUND)  # the pump lives on
        assert node.endings(ROUND)
        assert node.driver.outbox.depth() == 1


async def test_a_resolve_that_raises_costs_one_message() -> None:
    def resolve(node: Identity, _announced: str) -> str:
        if node == ALICE:
            raise KeyError(SECRET)
        return "https://127.0.0.1:1"

    def handle(_event: Event, _now: float) -> list[Effect]:
        sends: list[Effect] = [Send(to, Kind.ABORT, b"x", "", NOW + 1000) for to in (ALICE, BOB)]
        return [*sends, Ended(ABORTED)]

    node = make_node(HOSPITAL, MemoryNetwork(), resolve=resolve)
    async with running(node):
        await node.begin(Scripted(ROUND, handle), OpenRound())
        assert_logged_without_text(node, "KeyError")
        assert node.endings(ROUND)
        parcel = await soon(node.network.arrival())
        assert (parcel.recipient, parcel.endpoint) == (BOB, "https://127.0.0.1:1")


@dataclass
class Fault:
    """A store whose commits fail as long as `down` is true; put it in as the hook `before`."""

    down: Callable[[], bool]
    commits: int = 0

    async def __call__(self, method: str) -> None:
        if method == "commit":
            self.commits += 1
            if self.down():
                raise StoreError("disk-full", "the disk is full")


async def test_nothing_that_was_not_committed_is_acted_upon() -> None:
    node = make_node(HOSPITAL, MemoryNetwork())
    async with running(node):
        node.disk.store.before = Fault(lambda: True)
        machine = Scripted(ROUND, lambda _e, _n: [Send(ALICE, Kind.ABORT, b"x", "", NOW + 1000), Progressed("sharing", ())])
        with pytest.raises(StoreError, match="the round could not be kept, so it was not opened"):
            await node.begin(machine, OpenRound())
        assert not node.observed
        assert node.driver.outbox.depth() == 0
        assert node.driver.store_trouble == "disk-full"
        assert 'cohortium_store_errors_total{reason="disk-full"} 1\n' in node.metrics.render()
        await eventually(lambda: not node.disk.keys.rounds())  # the round's key goes with it
    (failed,) = node.log("store-failed")
    assert (failed["reason"], failed["detail"]) == ("disk-full", "the disk is full")


async def test_a_store_that_fails_does_not_stop_the_pump() -> None:
    node = make_node(HOSPITAL, MemoryNetwork())
    async with running(node):
        fault = node.disk.store.before = Fault(lambda: True)
        with pytest.raises(StoreError):
            await node.begin(Scripted(ROUND, lambda _e, _n: []), OpenRound())
        fault.down = lambda: False
        await node.begin(Scripted(OTHER_ROUND, lambda _e, _n: [Ended(RELEASED)]), OpenRound())
        assert [ended.outcome for ended in node.endings(OTHER_ROUND)] == [RELEASED]
        assert node.driver.store_trouble == ""


async def test_a_bug_in_a_store_is_a_commit_that_failed_and_the_pump_lives_on() -> None:
    node = make_node(HOSPITAL, MemoryNetwork())
    async with running(node):

        async def broken(method: str) -> None:
            if method == "commit":
                raise MemoryError

        node.disk.store.before = broken
        with pytest.raises(StoreError, match="could not be kept"):
            await soon(node.begin(Scripted(ROUND, lambda _e, _n: []), OpenRound()))
        node.disk.store.before = Fault(lambda: False)
        await soon(node.begin(Scripted(OTHER_ROUND, lambda _e, _n: [Ended(RELEASED)]), OpenRound()))
        assert [ended.outcome for ended in node.endings(OTHER_ROUND)] == [RELEASED]
    assert [failed["reason"] for failed in node.log("store-failed")] == ["failed"]


async def test_a_message_that_cannot_be_kept_is_told_later_and_taken_when_it_comes_again() -> None:
    async with ward(VALUES) as made:
        made.keeps = to_hospital(Kind.CONSENT)
        await open_round(made)
        await eventually(lambda: len([p for p in made.network.waiting if kind_of(p) is Kind.CONSENT]) == 3)
        fault = made.hospital.disk.store.before = Fault(lambda: True)
        consent = next(parcel for parcel in made.network.waiting if kind_of(parcel) is Kind.CONSENT)
        assert await soon(made.network.double(consent)) is Answer.LATER
        assert len(made.hospital.seen(Progressed)) == 1  # that all are waited for
        fault.down = lambda: False
        assert await soon(made.network.double(consent)) is Answer.ACCEPTED
        assert await soon(made.network.double(consent)) is Answer.ACCEPTED
        assert len(made.hospital.seen(Progressed)) == 2
        made.keeps = lambda _: False
        await all_ended(made)
        assert total(made) == 1575


@pytest.mark.parametrize("every", [2, 3])
async def test_rounds_are_exact_on_disks_that_fail_now_and_then(every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is told `later`, and the rounds concerned are rebuilt from what was kept, again and again."""
    monkeypatch.setattr("nodes.outbox._FIRST_WAIT", 0.001)
    async with ward(VALUES, at_hand=every == 2) as made:
        await open_round(made)
        faults = []
        for node in (made.hospital, *made.patients.values()):
            fault = Fault(lambda: False)
            fault.down = lambda fault=fault: fault.commits % every == 1  # type: ignore[misc]
            node.disk.store.before = fault
            faults.append(fault)
        await all_ended(made)
        assert total(made) == 1575
        assert all(fault.commits > 1 for fault in faults)
        for node in (made.hospital, *made.patients.values()):
            assert node.log("store-failed")
            assert not node.log("failed")


async def test_a_cancellation_that_cannot_be_kept_is_tried_again() -> None:
    async with ward(VALUES) as made:
        made.keeps = lambda _: True
        await open_round(made)
        fault = made.hospital.disk.store.before = Fault(lambda: fault.commits < 3)
        made.hospital.driver.tell(ROUND, CancelRound())
        await eventually(lambda: bool(made.hospital.endings(ROUND)))
        assert [ended.code for ended in made.hospital.endings(ROUND)] == [AbortCode.CANCELLED]


async def test_the_key_of_a_round_is_destroyed_when_the_round_has_ended() -> None:
    async with ward(VALUES) as made:
        nodes = [made.hospital, *made.patients.values()]
        made.keeps = lambda parcel: kind_of(parcel) is Kind.READY
        await open_round(made)
        await eventually(lambda: len([p for p in made.network.waiting if kind_of(p) is Kind.READY]) == 3)
        assert [node.disk.keys.rounds() for node in nodes] == [[ROUND]] * 4
        made.keeps = lambda _: False
        await all_ended(made)
        await eventually(lambda: not any(node.disk.keys.rounds() for node in nodes))


# -- from one life to the next


def next_life(made: Ward, name: str) -> Node:
    """The node once more, on the disk of the one before, which is to be stopped."""
    if name == HOSPITAL.name:
        made.hospital = hospital_node(made.network, made.hospital.disk)
        return made.hospital
    made.patients[name] = patient_node(name, made.network, VALUES[name], disk=made.patients[name].disk)
    return made.patients[name]


@pytest.mark.parametrize(
    "kind", [Kind.INVITATION, Kind.CONSENT, Kind.ROSTER, Kind.SHARE, Kind.READY, Kind.COLLECT, Kind.PARTIAL_SUM]
)
@pytest.mark.parametrize("name", ["alice", HOSPITAL.name])
async def test_a_round_goes_on_where_it_was_when_a_node_is_started_again(kind: Kind, name: str) -> None:
    async with ward(VALUES) as made:
        made.keeps = lambda parcel: kind_of(parcel) is kind
        await open_round(made)
        expected = 6 if kind is Kind.SHARE else 3
        await eventually(lambda: len([parcel for parcel in made.network.waiting if kind_of(parcel) is kind]) == expected)
        await stop(made.hospital if name == HOSPITAL.name else made.patients[name])
        again = next_life(made, name)
        await start(again)
        assert again.resumed == ([] if (name, kind) == ("alice", Kind.INVITATION) else [ROUND])
        made.keeps = lambda _: False
        await all_ended(made)
        assert total(made) == 1575
        assert not again.log("failed")
        assert not again.log("round-lost")


def hears_of(node: Node, *revoked: Identity) -> None:
    """A list that names these comes to this node."""
    trust = revoking(*revoked)
    node.credentials.replace_trust(trust, frozenset({credential(HOSPITAL).authority}), trust.without_lists())


async def until_ready_is_on_its_way(made: Ward) -> None:
    made.keeps = lambda parcel: kind_of(parcel) is Kind.READY
    await open_round(made)
    await eventually(lambda: len([p for p in made.network.waiting if kind_of(p) is Kind.READY]) == 3)


@pytest.mark.parametrize("name", ["alice", HOSPITAL.name])
async def test_a_round_with_a_member_who_is_revoked_meanwhile_ends_for_all(name: str) -> None:
    async with ward(VALUES) as made:
        await until_ready_is_on_its_way(made)
        node = made.hospital if name == HOSPITAL.name else made.patients[name]
        hears_of(node, BOB)
        await node.driver.tell_revoked()
        await eventually(lambda: bool(node.endings(ROUND)))
        made.keeps = lambda _: False
        await eventually(lambda: all(one.endings(ROUND) for one in (made.hospital, made.patients["alice"])))
        for one in (made.hospital, made.patients["alice"]):
            [ended] = one.endings(ROUND)
            assert (ended.code, ended.missing) == ("member-revoked", ("bob",))
        assert not node.log("failed")


@pytest.mark.parametrize("name", ["alice", HOSPITAL.name])
async def test_a_round_is_rebuilt_before_it_ends_for_a_member_who_was_revoked_between_two_lives(name: str) -> None:
    """What was taken from him when he was believed is needed to end the round in order."""
    async with ward(VALUES) as made:
        await until_ready_is_on_its_way(made)
        await stop(made.hospital if name == HOSPITAL.name else made.patients[name])
        again = next_life(made, name)
        hears_of(again, BOB)
        await start(again)
        await eventually(lambda: bool(again.endings(ROUND)))
        [ended] = again.endings(ROUND)
        assert (ended.code, ended.missing) == ("member-revoked", ("bob",))
        assert again.resumed == [ROUND]
        assert not again.log("round-lost")


async def test_a_store_that_fails_when_a_member_is_revoked_only_puts_the_end_off() -> None:
    async with ward(VALUES) as made:
        await until_ready_is_on_its_way(made)
        hears_of(made.hospital, BOB)
        fault = made.hospital.disk.store.before = Fault(lambda: fault.commits < 3)
        await made.hospital.driver.tell_revoked()
        await eventually(lambda: bool(made.hospital.endings(ROUND)))
        assert [ended.code for ended in made.hospital.endings(ROUND)] == ["member-revoked"]


async def test_a_patient_that_has_submitted_waits_for_its_receipt_whoever_is_revoked() -> None:
    async with ward(VALUES) as made:
        made.keeps = lambda parcel: kind_of(parcel) is Kind.RECEIPT
        await open_round(made)
        await eventually(lambda: len([p for p in made.network.waiting if kind_of(p) is Kind.RECEIPT]) == 3)
        alice = made.patients["alice"]
        hears_of(alice, BOB)
        await alice.driver.tell_revoked()
        await stop(alice)
        again = next_life(made, "alice")
        hears_of(again, BOB)
        await start(again)
        made.keeps = lambda _: False
        await eventually(lambda: bool(again.endings(ROUND)))
        assert [ended.outcome for ended in again.endings(ROUND)] == [RELEASED]
        assert not again.log("round-lost")


async def test_a_round_that_has_ended_still_answers_in_the_next_life() -> None:
    async with ward(VALUES) as made:
        await open_round(made)
        await all_ended(made)
        first = next(p for p, _ in made.answers if kind_of(p) is Kind.INVITATION and p.recipient == ALICE)
        await stop(made.patients["alice"])
        again = next_life(made, "alice")
        await start(again)
        assert await soon(again.driver.receive(first.envelope, HOSPITAL)) is Answer.ACCEPTED
        assert await soon(again.driver.receive(invitation(ROUND, ALICE), HOSPITAL)) is Answer.GONE
        assert not again.observed


async def test_a_round_that_cannot_be_rebuilt_ends_as_lost() -> None:
    node = make_node(HOSPITAL, MemoryNetwork())
    async with running(node):
        await node.begin(Scripted(ROUND, lambda _e, _n: [Send(ALICE, Kind.ABORT, b"x", "", NOW + 1000)]), OpenRound())
    again = make_node(HOSPITAL, node.network, disk=node.disk)  # which rebuilds nothing
    async with running(again):
        assert [(ended.outcome, ended.code) for ended in again.endings(ROUND)] == [(ABORTED, "lost")]
        assert [lost["reason"] for lost in again.log("round-lost")] == ["this test rebuilds nothing"]
        assert again.driver.outbox.depth() == 0
        assert (await again.disk.store.open_rounds(), await again.disk.outbox()) == ([], [])
        await eventually(lambda: not again.disk.keys.rounds())


async def test_an_older_copy_of_a_store_burns_its_open_rounds() -> None:
    """Otherwise a node would answer the same round twice with different randomness."""
    async with ward(VALUES) as made:
        made.keeps = lambda parcel: kind_of(parcel) is Kind.READY
        await open_round(made)
        await eventually(lambda: len([p for p in made.network.waiting if kind_of(p) is Kind.READY]) == 3)
        older = made.patients["alice"].disk.store.copy()
        made.keeps = to_alice(Kind.RECEIPT)
        await eventually(lambda: bool(made.hospital.endings(ROUND)))
        await stop(made.patients["alice"])
        made.patients["alice"].disk.store = older
        again = next_life(made, "alice")
        await start(again)
        assert not again.resumed
        assert [(ended.outcome, ended.code) for ended in again.endings(ROUND)] == [(ABORTED, "lost")]
        assert [entry["rounds"] for entry in again.log("store-restored")] == [1]
        *_, restored, ended = await again.disk.store.audit(0, 100)
        assert (restored.line.event, json.loads(restored.line.content)) == ("restored", {"rounds": 1})
        assert (ended.line.event, json.loads(ended.line.content)["code"]) == ("ended", "lost")


async def test_a_message_leaves_the_store_some_time_after_it_was_accepted_and_no_sooner() -> None:
    node = make_node(HOSPITAL, MemoryNetwork())

    async def accept(_raw: bytes, _peer: Identity) -> Answer:
        return Answer.ACCEPTED

    noted: list[str] = []

    async def note(method: str) -> None:
        if method == "delivered":
            noted.append(method)

    await node.network.transport(ALICE).start(accept)
    async with running(node):
        sends: list[Effect] = [Send(to, Kind.ABORT, b"to " + to.name.encode(), "", NOW + 1000) for to in (ALICE, BOB)]
        await node.begin(Scripted(ROUND, lambda _e, _n: [*sends, Ended(ABORTED)]), OpenRound())
        assert [posted.envelope for posted in await node.disk.outbox()] == [b"to alice", b"to bob"]
        await eventually(lambda: len(node.network.waiting) == 2)
        node.disk.store.after = note
        await node.network.deliver(node.network.waiting[0])
        await eventually(lambda: noted == ["delivered"])
        assert [posted.envelope for posted in await node.disk.outbox()] == [b"to bob"]
    again = make_node(HOSPITAL, node.network, disk=node.disk)
    async with running(again):
        parcel = await soon(node.network.arrival())
        assert (parcel.recipient, parcel.envelope) == (BOB, b"to bob")
        assert len(node.network.waiting) == 1


async def test_a_store_that_cannot_note_a_delivery_delivers_again_in_the_next_life() -> None:
    node = make_node(HOSPITAL, MemoryNetwork())

    async def fail(method: str) -> None:
        if method == "delivered":
            raise StoreError("disk-full", "the disk is full")

    async with running(node):
        await node.begin(
            Scripted(ROUND, lambda _e, _n: [Send(ALICE, Kind.ABORT, b"x", "", NOW + 1000), Ended(ABORTED)]), OpenRound()
        )
        node.disk.store.before = fail
        parcel = await soon(node.network.arrival())
        node.network.waiting.remove(parcel)
        parcel.answer.set_result(Answer.ACCEPTED)
        await eventually(lambda: bool(node.log("store-failed")))
    assert [posted.envelope for posted in await node.disk.outbox()] == [b"x"]


async def test_a_log_that_cannot_be_written_does_not_stop_the_driver() -> None:
    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    structlog_before, handlers_before = structlog.get_config(), list(logging.getLogger().handlers)
    configure("debug", "json", Full())
    try:
        node = make_node(ALICE, MemoryNetwork(), log=logger(ALICE))
        async with running(node):
            async with asyncio.timeout(1):
                await node.begin(Scripted(ROUND, raising, ALICE), OpenRound())  # logs an error
            async with asyncio.timeout(1):
                await node.driver.receive(b"", HOSPITAL)  # logs at level debug
                await node.begin(Scripted(OTHER_ROUND, lambda _e, _n: [Ended(RELEASED)], ALICE), OpenRound())
            assert node.endings(OTHER_ROUND)
    finally:
        structlog.configure(**structlog_before)
        logging.getLogger().handlers[:] = handlers_before


async def test_metrics_are_counted_on_the_loop_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[str] = set()
    for kind in (MetricCounter, Gauge):
        key = kind._key

        def noted(self: Any, labels: dict[str, str], key: Any = key) -> tuple[str, ...]:
            threads.add(threading.current_thread().name)
            found: tuple[str, ...] = key(self, labels)
            return found

        monkeypatch.setattr(kind, "_key", noted)
    async with ward(VALUES) as made:
        await open_round(made)
        await all_ended(made)
    assert threads == {threading.main_thread().name}


# -- effects


async def test_effects_are_acted_upon_in_their_order() -> None:
    done: list[str] = []

    def resolve(node: Identity, announced: str) -> str:
        done.append(f"send to {node.name}")
        return announced

    def observe(_round_id: bytes, effect: Effect) -> None:
        done.append(type(effect).__name__)

    def handle(_event: Event, _now: float) -> list[Effect]:
        return [
            Decided(request(), ""),
            Send(ALICE, Kind.ABORT, b"x", "https://127.0.0.1:1", NOW + 1000),
            Progressed("sharing", ()),
            Send(BOB, Kind.ABORT, b"x", "https://127.0.0.1:2", NOW + 1000),
            Submitted("pressure", b"", (), frozenset(), {}, 0),
            Ended(RELEASED),
        ]

    node = make_node(HOSPITAL, MemoryNetwork(), resolve=resolve, observe=observe)
    async with running(node):
        await node.begin(Scripted(ROUND, handle), OpenRound())
    assert done == ["Decided", "send to alice", "Progressed", "send to bob", "Submitted", "Ended"]


async def test_stopping_to_send_recalls_earlier_messages_and_not_the_ones_after_it() -> None:
    def handle(event: Event, _now: float) -> list[Effect]:
        if isinstance(event, OpenRound):
            return [Send(ALICE, Kind.ROSTER, b"old", "", NOW + 1000), Send(BOB, Kind.ROSTER, b"old", "", NOW + 1000)]
        return [StopSending(), Send(ALICE, Kind.ABORT, b"new", "", NOW + 1000)]

    node = make_node(HOSPITAL, MemoryNetwork())
    async with running(node):
        await node.begin(Scripted(ROUND, handle), OpenRound())
        await eventually(lambda: len(node.network.waiting) == 2)
        node.driver.tell(ROUND, Tick())
        await eventually(lambda: [parcel.envelope for parcel in node.network.waiting] == [b"new"])


async def test_a_final_answer_other_than_accepted_is_told_to_the_round_once() -> None:
    given: list[Event] = []

    def handle(event: Event, _now: float) -> list[Effect]:
        given.append(event)
        if not isinstance(event, OpenRound):
            return []
        return [Send(to, Kind.SHARE, b"x", "", NOW + 1000) for to in (ALICE, BOB)]

    node = make_node(HOSPITAL, MemoryNetwork())
    answers = {ALICE: Answer.GONE, BOB: Answer.ACCEPTED}

    def answering(answer: Answer) -> Any:
        async def receive(_raw: bytes, _peer: Identity) -> Answer:
            return answer

        return receive

    async with running(node):
        for name, answer in answers.items():
            await node.network.transport(name).start(answering(answer))
        await node.begin(Scripted(ROUND, handle), OpenRound())
        await eventually(lambda: len(node.network.waiting) == 2)
        for parcel in list(node.network.waiting):
            await node.network.deliver(parcel)
        await eventually(lambda: len(given) == 2 and node.driver.outbox.depth() == 0)
    assert given == [OpenRound(), Undeliverable(ALICE, Kind.SHARE, Answer.GONE)]


async def test_news_of_a_round_that_is_not_open_is_dropped() -> None:
    node = make_node(HOSPITAL, MemoryNetwork())
    async with running(node):
        node.driver.tell(ROUND, Tick())
        await node.begin(Scripted(OTHER_ROUND, lambda _e, _n: []), OpenRound())
    assert not node.observed
    assert not node.log("failed")


# -- timers


def recorded(at: list[float], given: list[Event]) -> Handle:
    """Asks to be woken at each of `at` in turn, one an event, and keeps the events."""

    def handle(event: Event, _now: float) -> list[Effect]:
        given.append(event)
        if not at:
            return []
        wake = at.pop(0)
        return [Ended(RELEASED)] if wake < 0 else [WakeAt(wake)]

    return handle


async def test_a_round_is_woken_when_its_time_comes(clock: Clock) -> None:
    given: list[Event] = []
    node = make_node(HOSPITAL, MemoryNetwork())
    async with running(node):
        started = time.monotonic()
        await node.begin(Scripted(ROUND, recorded([NOW + 0.05], given)), OpenRound())
        assert given == [OpenRound()]
        await eventually(lambda: len(given) == 2)
        assert time.monotonic() - started >= 0.05
    assert given[1] == Tick()


async def test_a_time_that_is_over_wakes_at_once() -> None:
    given: list[Event] = []
    node = make_node(HOSPITAL, MemoryNetwork())
    async with running(node):
        await node.begin(Scripted(ROUND, recorded([NOW - 100], given)), OpenRound())
        await eventually(lambda: len(given) == 2)


async def test_a_later_alarm_replaces_an_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    timers = spied_timers(monkeypatch)
    given: list[Event] = []
    node = make_node(HOSPITAL, MemoryNetwork())
    async with running(node):
        await node.begin(Scripted(ROUND, recorded([NOW + 1000, NOW + 2000], given)), OpenRound())
        node.driver.tell(ROUND, Tick())
        await eventually(lambda: len(timers) == 2)
        assert [timer.cancelled() for timer in timers] == [True, False]
    assert timers[1].cancelled()  # stopping the driver stops its clocks


async def test_the_alarm_of_an_ended_round_is_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    timers = spied_timers(monkeypatch)
    given: list[Event] = []
    node = make_node(HOSPITAL, MemoryNetwork())
    async with running(node):
        await node.begin(Scripted(ROUND, recorded([NOW + 1000, -1], given)), OpenRound())
        node.driver.tell(ROUND, Tick())
        await eventually(lambda: bool(node.endings(ROUND)))
        assert [timer.cancelled() for timer in timers] == [True]


def spied_timers(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.TimerHandle]:
    """The alarms that drivers set, which are far away."""
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []
    call_later = loop.call_later

    def noted(delay: float, callback: Any, *arguments: Any, **context: Any) -> asyncio.TimerHandle:
        timer = call_later(delay, callback, *arguments, **context)
        if delay > 900:
            timers.append(timer)
        return timer

    monkeypatch.setattr(loop, "call_later", noted)
    return timers


async def test_a_silent_patient_ends_the_round_at_the_time_that_the_study_sets(clock: Clock) -> None:
    async with ward(VALUES) as made:
        made.keeps = to_alice(Kind.INVITATION)
        clock.now = NOW + 0.95  # of the second that answers are awaited for, this much is over already
        asked = msgspec.structs.replace(study(*VALUES), answer_within=1, ready_within=2, deadline=3)
        await soon(made.hospital.driver.begin(hospital_round(made.hospital, asked, ROUND), OpenRound()))
        await eventually(lambda: made.hospital.seen(Progressed)[-1].waiting_for == ("alice",))
        clock.now = NOW + 1
        await eventually(lambda: bool(made.hospital.endings(ROUND)))
        (ended,) = made.hospital.endings(ROUND)
        assert (ended.code, ended.missing) == (AbortCode.TOO_FEW, ("alice",))


# -- stopping


async def test_stopping_lets_a_delivery_finish() -> None:
    node = make_node(HOSPITAL, MemoryNetwork())
    taken: list[bytes] = []

    async def receive(raw: bytes, _peer: Identity) -> Answer:
        taken.append(raw)
        return Answer.ACCEPTED

    await node.network.transport(ALICE).start(receive)
    machine = Scripted(ROUND, lambda _e, _n: [Send(ALICE, Kind.ABORT, b"last words", "", NOW + 1000), Ended(ABORTED)])
    async with running(node):
        await node.begin(machine, OpenRound())
        parcel = await soon(node.network.arrival())
        stopping = asyncio.create_task(node.driver.stop(5))
        await asyncio.sleep(0.01)
        assert not stopping.done()
        await node.network.deliver(parcel)
        await soon(stopping)
    assert taken == [b"last words"]
    assert node.driver.outbox.depth() == 0


async def test_stopping_waits_no_longer_than_it_is_told() -> None:
    node = make_node(HOSPITAL, MemoryNetwork())
    machine = Scripted(ROUND, lambda _e, _n: [Send(ALICE, Kind.ABORT, b"x", "", NOW + 1000)])
    async with running(node):
        await node.begin(machine, OpenRound())
        await soon(node.network.arrival())
        async with asyncio.timeout(2):
            await node.driver.stop(0.02)
        assert node.driver.outbox.depth() == 0
        assert not node.network.waiting


async def test_what_is_posted_while_the_driver_stops_is_not_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round still moves while deliveries are let finish; the messages of that moment must not outlive the driver."""
    timers = spied_timers(monkeypatch)
    node = make_node(HOSPITAL, MemoryNetwork())
    machine = Scripted(ROUND, lambda _e, _n: [WakeAt(NOW + 5000), Send(ALICE, Kind.ABORT, b"x", "", NOW + 1000)])
    async with running(node):
        await node.begin(machine, OpenRound())
        await soon(node.network.arrival())
        stopping = asyncio.create_task(node.driver.stop(0.1))
        await asyncio.sleep(0)
        node.driver.tell(ROUND, Tick())
        await eventually(lambda: len(node.network.waiting) == 2)
        await soon(stopping)
        left = node.driver.outbox.depth()
        node.driver.outbox.call_back(ROUND)  # so that a failure here does not fail other tests
        assert left == 0
        assert len(timers) == 2
        assert all(timer.cancelled() for timer in timers)


async def test_a_driver_that_never_started_stops() -> None:
    await soon(make_node(HOSPITAL, MemoryNetwork()).driver.stop(0))


async def test_who_waits_while_the_driver_stops_is_told_later() -> None:
    go_on, working = threading.Event(), threading.Event()

    def work(_event: Event, _now: float) -> list[Effect]:
        working.set()
        assert go_on.wait(5)
        return []

    node = make_node(ALICE, MemoryNetwork())
    async with running(node):
        held = asyncio.create_task(node.driver.receive(invitation(OTHER_ROUND, ALICE), HOSPITAL))
        await eventually(lambda: 'outcome="round-unknown"} 1\n' in node.metrics.render())
        begun = asyncio.create_task(node.begin(Scripted(ROUND, work), OpenRound()))
        await eventually(working.is_set)
        queued = asyncio.create_task(node.driver.receive(invitation(ROUND, ALICE), HOSPITAL))
        await asyncio.sleep(0.01)
        asyncio.get_running_loop().call_later(0.05, go_on.set)
        stopping = asyncio.create_task(node.driver.stop(0))
        threading.Timer(0.05, go_on.set).start()  # stop() may wait for the thread
        await soon(stopping)
        done, late = await asyncio.wait({held, begun, queued}, timeout=1)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        assert not late
        assert done == {held, begun, queued}
        assert (held.result(), queued.result()) == (Answer.LATER, Answer.LATER)


async def test_a_message_after_the_stop_is_told_later() -> None:
    node = make_node(ALICE, MemoryNetwork())
    async with running(node):
        await node.driver.stop(0)
        async with asyncio.timeout(1):
            assert await node.driver.receive(invitation(ROUND, ALICE), HOSPITAL) is Answer.LATER


async def test_stopping_does_not_block_the_loop_while_a_transition_works() -> None:
    go_on, working = threading.Event(), threading.Event()

    def work(_event: Event, _now: float) -> list[Effect]:
        working.set()
        go_on.wait(1)
        return []

    node = make_node(HOSPITAL, MemoryNetwork())
    async with running(node):
        begun = asyncio.create_task(node.begin(Scripted(ROUND, work), OpenRound()))
        await eventually(working.is_set)
        asyncio.get_running_loop().call_later(0.01, go_on.set)  # comes only if the loop turns
        started = time.monotonic()
        await soon(node.driver.stop(0))
        took = time.monotonic() - started
        begun.cancel()
        await asyncio.gather(begun, return_exceptions=True)
        assert took < 0.5
