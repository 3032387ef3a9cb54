"""Receipts through the driver: kept with the result, countersigned after it, whatever dies or fails in between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from mpc.envelope import parse
from mpc.errors import Answer
from mpc.messages import Kind
from mpc.receipt import COUNTERSIGN_SECONDS, CheckedReceipt, check_receipt
from mpc.rounds.events import Countersigned, OpenRound, Receipted
from nodes import driver as driver_module
from nodes.receipts import OpenReceipts, assembled
from nodes.store.audit import AuditEvent
from nodes.store.base import KeptReceipt, StoreError
from nodes.store.volatile import VolatileStore
from nodes.transport.memory import Parcel
from tests.mpc.nodes import HOSPITAL, NOW, ROUND, keyring, patient, study, trust
from tests.mpc.world import MAX_SIZE
from tests.nodes.house import (
    Clock,
    Node,
    Ward,
    eventually,
    hospital_node,
    hospital_round,
    nothing_left_over,
    soon,
    start,
    stop,
    ward,
)

VALUES = {"alice": [725], "bob": [310], "charlie": [540]}
UNTIL = NOW + 60 + COUNTERSIGN_SECONDS


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("nodes.driver.time", clock)
    monkeypatch.setattr("nodes.outbox.time", clock)
    return clock


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the driver does by and by, it does soon."""
    for name in ("_NOTE_SECONDS", "_FOLLOW_SECONDS", "_STORE_RETRY_SECONDS"):
        monkeypatch.setattr(driver_module, name, 0.005)
    monkeypatch.setattr("nodes.outbox._FIRST_WAIT", 0.001)


@pytest.fixture(autouse=True)
async def nothing_is_left_over() -> AsyncIterator[None]:
    async with nothing_left_over():
        yield


def of_kind(parcel: Parcel, kind: Kind) -> bool:
    return parse(parcel.envelope, MAX_SIZE).kind is kind


def held_back(made: Ward, count: int) -> bool:
    return sum(of_kind(parcel, Kind.COUNTERSIGNATURE) for parcel in made.network.waiting) == count


async def released(made: Ward) -> None:
    """The round has its result everywhere, and the countersignatures stay on their way."""
    made.keeps = lambda parcel: of_kind(parcel, Kind.COUNTERSIGNATURE)
    await soon(made.hospital.driver.begin(hospital_round(made.hospital, study(*made.patients), ROUND), OpenRound()))
    await eventually(lambda: all(node.endings(ROUND) for node in [made.hospital, *made.patients.values()]))
    await eventually(lambda: held_back(made, len(made.patients)))


async def checked(node: Node) -> CheckedReceipt:
    kept = await node.disk.store.find_receipt(ROUND)
    assert kept is not None
    return check_receipt(assembled(kept), trust())


async def signers(node: Node) -> list[str]:
    return [member.credential.identity.name for member in (await checked(node)).members if member.countersigned]


async def another_life(made: Ward) -> Node:
    """The hospital dies and comes back with its disk."""
    disk = made.hospital.disk
    await stop(made.hospital)
    disk.store, disk.keys = disk.store.copy(), disk.keys.next_life()
    made.hospital = hospital_node(made.network, disk)
    await start(made.hospital)
    return made.hospital


async def test_every_node_keeps_the_receipt_of_a_round() -> None:
    async with ward(VALUES) as made:
        await released(made)
        assert await signers(made.hospital) == []
        for name, node in made.patients.items():
            assert await signers(node) == [name]
        made.keeps = lambda _: False
        await eventually(lambda: len(made.hospital.seen(Countersigned)) == 3)
        assert await signers(made.hospital) == ["alice", "bob", "charlie"]
        assert len({(await checked(node)).digest for node in [made.hospital, *made.patients.values()]}) == 1


async def test_logs_and_audit_logs_name_the_receipt() -> None:
    async with ward(VALUES) as made:
        await released(made)
        digest = (await checked(made.hospital)).digest.hex()
        for node in [made.hospital, *made.patients.values()]:
            (line,) = await node.disk.store.audit(0, 100, event=AuditEvent.RECEIPTED)
            assert line.line.content == b'{"round":"%s","receipt":"%s"}' % (ROUND.hex().encode(), digest.encode())
            assert len(node.seen(Receipted)) == 1


async def test_the_hospital_dies_between_the_result_and_the_countersignatures() -> None:
    async with ward(VALUES) as made:
        await released(made)
        hospital = await another_life(made)
        made.keeps = lambda _: False
        await eventually(lambda: len(hospital.seen(Countersigned)) == 3)
        assert await signers(hospital) == ["alice", "bob", "charlie"]


async def test_the_hospital_dies_between_two_countersignatures_and_forgets_none() -> None:
    async with ward(VALUES) as made:
        await released(made)
        made.keeps = lambda parcel: of_kind(parcel, Kind.COUNTERSIGNATURE) and parcel.sender != patient("bob")
        await eventually(lambda: len(made.hospital.seen(Countersigned)) == 1)
        hospital = await another_life(made)
        assert await signers(hospital) == ["bob"]
        made.keeps = lambda _: False
        await eventually(lambda: len(hospital.seen(Countersigned)) == 2)
        assert await signers(hospital) == ["alice", "bob", "charlie"]


@pytest.mark.parametrize("fate", ["drop", "lose_answer", "corrupt", "double"])
async def test_a_countersignature_harmed_once_is_there_in_the_end(fate: str) -> None:
    harmed: set[Any] = set()

    def once(parcel: Parcel) -> str:
        if not of_kind(parcel, Kind.COUNTERSIGNATURE) or parcel.sender in harmed:
            return "deliver"
        harmed.add(parcel.sender)
        return fate

    async with ward(VALUES) as made:
        made.fate = once
        await released(made)
        made.keeps = lambda _: False
        await eventually(lambda: all(node.driver.outbox.depth() == 0 for node in made.patients.values()))
        assert len(harmed) == 3
        assert await signers(made.hospital) == ["alice", "bob", "charlie"]
        assert len(made.hospital.seen(Countersigned)) == 3
        finals = {answer for parcel, answer in made.answers if of_kind(parcel, Kind.COUNTERSIGNATURE)}
        assert finals <= {Answer.ACCEPTED, Answer.REJECTED}


async def test_one_that_comes_again_after_all_have_signed_is_told_that_it_was_taken() -> None:
    async with ward(VALUES) as made:
        await released(made)
        again = next(parcel for parcel in made.network.waiting if of_kind(parcel, Kind.COUNTERSIGNATURE))
        made.keeps = lambda _: False
        await eventually(lambda: len(made.hospital.seen(Countersigned)) == 3)
        assert await made.hospital.driver.receive(again.envelope, again.sender) is Answer.ACCEPTED
        hospital = await another_life(made)
        assert await hospital.driver.receive(again.envelope, again.sender) is Answer.GONE, "there is nothing to wait for"


async def test_a_countersignature_that_cannot_be_kept_is_not_counted() -> None:
    async with ward(VALUES) as made:
        await released(made)
        failed: list[str] = []

        async def fail(method: str) -> None:
            if method == "commit" and len(failed) < 2:
                failed.append(method)
                raise StoreError("disk-full", "the disk is full")

        made.hospital.disk.store.before = fail
        made.keeps = lambda _: False
        await eventually(lambda: len(made.hospital.seen(Countersigned)) == 3)
        assert len(failed) == 2
        assert await signers(made.hospital) == ["alice", "bob", "charlie"]
        assert not made.hospital.log("failed")


async def test_without_its_receipt_no_result_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """One commit has both, or neither."""
    commits: list[Any] = []
    commit = VolatileStore.commit

    async def watched(store: VolatileStore, steps: Any) -> int:
        commits.extend(step for step in steps if step.closed is not None)
        return await commit(store, steps)

    monkeypatch.setattr(VolatileStore, "commit", watched)
    async with ward(VALUES) as made:
        await released(made)
    ended = [step for step in commits if step.round_id == ROUND]
    assert len(ended) == 4
    assert all(step.receipt is not None and step.receipt.number == 0 for step in ended)
    assert sorted(step.receipt.until for step in ended) == [0.0, 0.0, 0.0, UNTIL]


async def test_past_its_time_nothing_is_added_before_or_after_a_restart(clock: Clock) -> None:
    async with ward(VALUES) as made:
        await released(made)
        late = next(parcel for parcel in made.network.waiting if of_kind(parcel, Kind.COUNTERSIGNATURE))
        clock.now = UNTIL + 1
        assert await made.hospital.driver.receive(late.envelope, late.sender) is Answer.GONE
        hospital = await another_life(made)
        assert await hospital.driver.receive(late.envelope, late.sender) is Answer.GONE
        assert await signers(hospital) == []
        assert hospital.driver.rounds.key_ids(clock.now) == frozenset()


async def test_the_encryption_key_stays_until_all_have_countersigned(clock: Clock) -> None:
    async with ward(VALUES) as made:
        await released(made)
        key = keyring(HOSPITAL).encryption.key_id
        assert made.hospital.driver.rounds.key_ids(clock.now) == {key}
        hospital = await another_life(made)
        assert hospital.driver.rounds.key_ids(clock.now) == {key}
        assert hospital.driver.rounds.key_ids(UNTIL) == {key}
        made.keeps = lambda _: False
        await eventually(lambda: len(hospital.seen(Countersigned)) == 3)
        assert hospital.driver.rounds.key_ids(clock.now) == frozenset()


async def test_a_countersignature_of_a_round_that_nobody_knows_is_not_waited_for() -> None:
    """The hospital was set up anew: what was signed to its predecessor finds nobody."""
    async with ward(VALUES) as made:
        await released(made)
        await stop(made.hospital)
        made.hospital = hospital_node(made.network)
        await start(made.hospital)
        made.keeps = lambda _: False
        await eventually(lambda: all(node.driver.outbox.depth() == 0 for node in made.patients.values()))
        assert {answer for parcel, answer in made.answers if of_kind(parcel, Kind.COUNTERSIGNATURE)} == {Answer.GONE}


async def test_a_receipt_that_was_damaged_in_the_store_keeps_no_daemon_from_starting() -> None:
    async with ward(VALUES) as made:
        await released(made)
        kept = await made.hospital.disk.store.find_receipt(ROUND)
    assert kept is not None
    for broken in (KeptReceipt(ROUND, b"", ()), KeptReceipt(ROUND, kept.content, ((4, bytes(64)),))):
        receipts = OpenReceipts(lambda _: keyring(HOSPITAL))
        receipts.resume(broken)
        assert receipts.find(ROUND) is None


async def test_without_its_key_a_receipt_is_not_added_to() -> None:
    async with ward(VALUES) as made:
        await released(made)
        kept = await made.hospital.disk.store.find_receipt(ROUND)
    assert kept is not None
    receipts = OpenReceipts(lambda _: None)
    receipts.resume(kept)
    assert receipts.find(ROUND) is None
