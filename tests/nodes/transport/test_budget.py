"""A byte budget is granted in order, never exceeded, and comes back however a claim ends."""

from __future__ import annotations

import asyncio

import pytest

from nodes.transport.budget import ByteBudget


class Claimant:
    """Claims bytes in a task of its own and holds them until told to go on."""

    def __init__(self, budget: ByteBudget, size: int) -> None:
        self.holds = False
        self._leave = asyncio.Event()
        self._task = asyncio.create_task(self._run(budget, size))

    async def _run(self, budget: ByteBudget, size: int) -> None:
        async with budget.hold(size):
            self.holds = True
            await self._leave.wait()
        self.holds = False

    async def leave(self) -> None:
        self._leave.set()
        await self._task

    async def cancel(self) -> None:
        self._task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self._task
        self.holds = False


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_claims_that_fit_are_held_together() -> None:
    budget = ByteBudget(10)
    claimants = [Claimant(budget, size) for size in (4, 6, 1)]
    await settle()
    assert [c.holds for c in claimants] == [True, True, False]
    await claimants[0].leave()
    await settle()
    assert [c.holds for c in claimants] == [False, True, True]
    for claimant in claimants[1:]:
        await claimant.leave()


async def test_a_small_claim_does_not_overtake_a_large_one() -> None:
    budget = ByteBudget(10)
    first, large, small = Claimant(budget, 5), Claimant(budget, 8), Claimant(budget, 1)
    await settle()
    assert (first.holds, large.holds, small.holds) == (True, False, False)
    await first.leave()
    await settle()
    assert (large.holds, small.holds) == (True, True)
    await large.leave()
    await small.leave()


async def test_a_claim_above_the_capacity_is_held_alone() -> None:
    budget = ByteBudget(10)
    huge, other = Claimant(budget, 1000), Claimant(budget, 1)
    await settle()
    assert (huge.holds, other.holds) == (True, False)
    await huge.leave()
    await settle()
    assert other.holds
    await other.leave()


@pytest.mark.parametrize("which", [0, 1], ids=["holder", "waiter"])
async def test_a_cancelled_claim_gives_way(which: int) -> None:
    budget = ByteBudget(10)
    claimants = [Claimant(budget, 10) for _ in range(3)]
    await settle()
    await claimants.pop(which).cancel()
    for claimant in claimants:
        await settle()
        assert claimant.holds
        await claimant.leave()


async def test_a_claim_cancelled_in_the_moment_it_is_granted_gives_back() -> None:
    budget = ByteBudget(10)
    first, second, third = (Claimant(budget, 10) for _ in range(3))
    await settle()
    await first.leave()  # grants the second, whose task has not run since
    await second.cancel()
    await settle()
    assert third.holds
    await third.leave()
