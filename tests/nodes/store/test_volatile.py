"""The store in memory does what a simulation asks: it fails, it waits, and a copy is what a crash would leave."""

from __future__ import annotations

import asyncio

import pytest

from nodes.store.base import StoreError
from nodes.store.volatile import VolatileStore
from tests.nodes.store.steps import begin, event


async def opened() -> VolatileStore:
    store = VolatileStore()
    await store.open()
    await store.commit([begin()])
    return store


async def test_a_failure_before_changes_nothing() -> None:
    store = await opened()

    async def fail(method: str) -> None:
        raise StoreError("disk-full", f"{method} was told to fail")

    store.before = fail
    with pytest.raises(StoreError, match="commit was told to fail"):
        await store.commit([event()])
    with pytest.raises(StoreError):
        await store.open_rounds()
    after = store.copy()
    await after.open()
    assert await after.counter() == 1
    assert (await after.open_rounds())[0].events == ()


async def test_a_process_that_dies_after_its_commit_has_committed() -> None:
    class Died(Exception):
        pass

    store = await opened()

    async def die(_method: str) -> None:
        raise Died

    store.after = die
    with pytest.raises(Died):
        await store.commit([event()])
    after = store.copy()
    await after.open()
    assert await after.counter() == 2
    assert len((await after.open_rounds())[0].events) == 1


async def test_a_copy_and_its_original_go_their_own_ways() -> None:
    store = await opened()
    copy = store.copy()
    with pytest.raises(StoreError):
        await copy.counter()  # a copy is to be opened, as after a restart
    await copy.open()
    await store.commit([event(), begin(2)])
    await store.commit([event()])
    assert (await store.counter(), await copy.counter()) == (3, 1)
    assert len(await copy.open_rounds()) == 1
    await copy.commit([event(1, b"another")])
    assert [len(kept.events) for kept in await store.open_rounds()] == [2, 0]


async def test_a_slow_disk_makes_its_caller_wait() -> None:
    store = await opened()
    disk = asyncio.Event()

    async def wait(_method: str) -> None:
        await disk.wait()

    store.before = wait
    commit = asyncio.create_task(store.commit([event()]))
    await asyncio.sleep(0)
    assert not commit.done()
    disk.set()
    assert await commit == 2
