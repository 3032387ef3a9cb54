"""Many callers, one call: who goes together, in which order, and what each hears."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from nodes.group import Group


class Work:
    """Doubles numbers, one call at a time, when the test lets it; 13 fails."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.go = asyncio.Event()

    async def __call__(self, items: list[int]) -> Sequence[int | Exception]:
        self.calls.append(items)
        await self.go.wait()
        if 666 in items:
            raise OSError("all of it")
        return [ValueError("unlucky") if item == 13 else 2 * item for item in items]


async def waiting(group: Group[int, int], *items: int) -> list[asyncio.Task[int]]:
    """Callers, each in its turn."""
    tasks = [asyncio.create_task(group.submit(item)) for item in items]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_what_waits_during_a_call_goes_into_the_next_one_together() -> None:
    work = Work()
    group: Group[int, int] = Group(work, most=3)
    first = await waiting(group, 1)
    rest = await waiting(group, 2, 3, 4, 5)
    work.go.set()

    assert await asyncio.gather(*first, *rest) == [2, 4, 6, 8, 10]
    assert work.calls == [[1], [2, 3, 4], [5]]


async def test_together_they_weigh_no_more_than_allowed_and_a_heavy_one_goes_alone() -> None:
    work = Work()
    work.go.set()
    group: Group[int, int] = Group(work, most=10, heaviest=10, weigh=lambda item: item)
    await asyncio.gather(*await waiting(group, 4, 6, 1, 50, 2))

    assert work.calls == [[4, 6], [1], [50], [2]]


async def test_each_hears_of_its_own_failure_and_all_of_a_common_one() -> None:
    work = Work()
    work.go.set()
    group: Group[int, int] = Group(work, most=10)
    one, unlucky, two = await asyncio.gather(*await waiting(group, 1, 13, 2), return_exceptions=True)
    together = await asyncio.gather(*await waiting(group, 666, 1), return_exceptions=True)

    assert (one, two) == (2, 4)
    assert isinstance(unlucky, ValueError)
    assert [type(error) for error in together] == [OSError, OSError]
    assert await group.submit(3) == 6


async def test_a_caller_that_gives_up_while_it_waits_takes_its_item_back() -> None:
    work = Work()
    group: Group[int, int] = Group(work, most=10)
    first = await waiting(group, 1)
    second, third = await waiting(group, 2, 3)
    second.cancel()
    work.go.set()
    await asyncio.gather(*first, third)

    assert work.calls == [[1], [3]]


@pytest.mark.parametrize("breaks_off", [False, True])
async def test_a_stop_tells_those_who_wait(breaks_off: bool) -> None:
    work = Work()
    group: Group[int, int] = Group(work, most=1)
    under_way, waits = await waiting(group, 1, 2)
    if not breaks_off:
        work.go.set()
    await (group.cancel if breaks_off else group.stop)(OSError("stopped"))
    results = await asyncio.gather(under_way, waits, return_exceptions=True)

    assert [type(result) for result in results] == [OSError if breaks_off else int, OSError]
    assert work.calls == [[1]]
