"""What every store promises of receipts: they come with the end of their round, are added to, and go with it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodes.store.base import KeptReceipt, ReceiptLine, ReceiptPart, Step, Store, StoreError
from nodes.store.large import LARGE_BYTES
from tests.nodes.store.conftest import Place
from tests.nodes.store.steps import NOW, ONE, THREE, TWO, begin, close, closed_at, round_id

UNTIL = NOW + 3600
DIGEST = bytes(range(32))


def receipt(content: bytes = b"receipt", until: float = UNTIL) -> ReceiptPart:
    return ReceiptPart(0, content, DIGEST, until)


def ended(number: int = 1, part: ReceiptPart | None = None, at: float = NOW + 9) -> list[Step]:
    return [begin(number), replace(close(number, closed_at(at)), receipt=part or receipt())]


def added(place: int, content: bytes = b"signature", round_id: bytes = ONE) -> Step:
    return Step(round_id, receipt=ReceiptPart(place, content))


async def test_a_new_store_has_no_receipts(store: Store) -> None:
    assert await store.receipts(10) == []
    assert await store.find_receipt(ONE) is None
    assert await store.open_receipts(NOW) == []


async def test_a_receipt_is_kept_with_the_end_of_its_round_and_added_to(place: Place) -> None:
    async with place.opened() as store:
        await store.commit(ended())
    async with place.opened() as store:
        assert await store.find_receipt(ONE) == KeptReceipt(ONE, b"receipt", ())
        await store.commit([added(2, b"of bob"), added(1, b"of alice")])
        await store.commit([added(3, b"of charlie")])
    async with place.opened() as store:
        signed = ((1, b"of alice"), (2, b"of bob"), (3, b"of charlie"))
        assert await store.find_receipt(ONE) == KeptReceipt(ONE, b"receipt", signed)


async def test_what_cannot_be_committed_leaves_no_receipt(store: Store) -> None:
    with pytest.raises(StoreError):
        await store.commit([*ended(), close(9)])
    assert await store.find_receipt(ONE) is None


async def test_a_countersignature_counts_once_and_the_first_stays(store: Store) -> None:
    await store.commit(ended())
    await store.commit([added(1, b"first")])
    await store.commit([added(1, b"second")])
    assert await store.find_receipt(ONE) == KeptReceipt(ONE, b"receipt", ((1, b"first"),))


async def test_a_countersignature_of_a_round_that_was_erased_is_passed_over(store: Store) -> None:
    await store.commit(ended())
    await store.erase_before(NOW + 10)
    assert await store.commit([added(1), *ended(2)]) > 0
    assert await store.find_receipt(ONE) is None
    assert await store.find_receipt(TWO) is not None


async def test_receipts_go_with_their_rounds(store: Store) -> None:
    await store.commit([*ended(1), *ended(2, at=NOW + 100)])
    await store.commit([added(1)])
    await store.erase_before(NOW + 50)
    assert await store.find_receipt(ONE) is None
    assert [line.round_id for line in await store.receipts(10)] == [TWO]


async def test_the_list_is_of_receipts_alone_newest_first(store: Store) -> None:
    await store.commit([*ended(1, at=NOW + 5), begin(2), close(2), *ended(3, at=NOW + 1)])
    await store.commit([added(1)])
    newest = ReceiptLine(THREE, "study-3", NOW + 1, DIGEST)
    assert await store.receipts(10) == [newest, ReceiptLine(ONE, "study-1", NOW + 5, DIGEST)]
    assert await store.receipts(1) == [newest]


async def test_open_receipts_are_those_whose_time_is_not_over(store: Store) -> None:
    await store.commit([*ended(1), *ended(2, receipt(until=UNTIL + 10)), *ended(3, receipt(until=0.0))])
    await store.commit([added(1, round_id=TWO)])
    assert {kept.round_id for kept in await store.open_receipts(NOW)} == {ONE, TWO}
    assert await store.open_receipts(UNTIL) == [KeptReceipt(TWO, b"receipt", ((1, b"signature"),))]
    assert await store.open_receipts(UNTIL + 10) == []


async def test_a_receipt_of_a_thousand_members_is_kept_whole(place: Place) -> None:
    content = b"r" * (LARGE_BYTES + 1)
    async with place.opened() as store:
        await store.commit(ended(1, receipt(content)))
    async with place.opened() as store:  # what is named by nobody was removed in between
        found = await store.find_receipt(ONE)
        assert found is not None
        assert found.content == content
        assert await store.find_receipt(round_id(7)) is None
