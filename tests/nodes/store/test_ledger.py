"""What every store promises of the ledger: entries come with their commit, each under its name, and outlive what is erased."""

from __future__ import annotations

import math

import pytest

from nodes.store.base import LedgerEntry, Step, Store, StoreError
from tests.nodes.store.conftest import Place
from tests.nodes.store.steps import NOW, ONE, begin, close, event, line


def entry(key: str = "systolic", content: bytes = b"sealed", until: float = NOW + 60) -> LedgerEntry:
    return LedgerEntry("recorded", key, NOW, until, content)


async def test_entries_are_there_after_a_restart_in_their_order(place: Place) -> None:
    forever = LedgerEntry("withdrawal", "blood-*", NOW, math.inf, b"")
    async with place.opened() as store:
        assert await store.ledger() == []
        await store.commit([Step(b"", ledger=(entry(), forever), audit=(line(NOW),))])
        await store.commit([begin(1), Step(ONE, event=b"collect", ledger=(entry("weight"),))])
    async with place.opened() as store:
        assert await store.ledger() == [entry(), forever, entry("weight")]
        assert len(await store.open_rounds()) == 1


async def test_an_entry_takes_the_place_of_the_one_of_its_name(store: Store) -> None:
    await store.commit([Step(b"", ledger=(entry(), entry("weight"), LedgerEntry("freed", "systolic", NOW, math.inf, b"")))])
    await store.commit([Step(b"", ledger=(entry(content=b"other"),))])
    assert await store.ledger() == [
        entry(content=b"other"),
        entry("weight"),
        LedgerEntry("freed", "systolic", NOW, math.inf, b""),
    ]


async def test_an_entry_of_a_commit_that_fails_is_not_there(store: Store) -> None:
    with pytest.raises(StoreError):
        await store.commit([Step(b"", ledger=(entry(),)), event(1)])  # there is no such round
    assert await store.ledger() == []


async def test_what_may_be_forgotten_is_and_nothing_else(store: Store) -> None:
    await store.commit([Step(b"", ledger=(entry(), entry("weight", until=NOW + 61)))])
    await store.forget_ledger(NOW + 60)
    assert await store.ledger() == [entry("weight", until=NOW + 61)]


async def test_erasing_rounds_erases_no_entry(store: Store) -> None:
    await store.commit([begin(1), Step(ONE, ledger=(entry(),), audit=(line(NOW),)), close(1)])
    assert await store.erase_before(NOW + 1000) == 2
    assert await store.ledger() == [entry()]
