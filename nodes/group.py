"""Many callers, one call: what waits while a call is under way goes into the next one together (group commit, batch posts)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

Work = Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]]
"""Works on the items, and gives for each, in order, its result or the exception that its caller gets."""
Weigh = Callable[[Item], int]


class Group(Generic[Item, Result]):
    """Calls `work` with at most `most` items that weigh at most `heaviest` together; a heavier one goes alone.

    One call at a time, so items are worked on in the order of their submission. If `work` raises, every caller gets that.
    """

    def __init__(
        self, work: Work[Item, Result], *, most: int, heaviest: int | None = None, weigh: Weigh[Item] = lambda _: 0
    ) -> None:
        self._work = work
        self._most = most
        self._heaviest = heaviest
        self._weigh = weigh
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._stopped: Exception = RuntimeError("stopped")

    async def submit(self, item: Item) -> Result:
        """The item's result. A caller that is cancelled while the item waits takes it back."""
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await done

    async def stop(self, error: Exception) -> None:
        """Finishes the call under way; whoever still waits gets `error`."""
        self._stopped = error
        for _, done in self._waiting:
            if not done.done():
                done.set_exception(error)
        self._waiting.clear()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def cancel(self, error: Exception) -> None:
        """Breaks off the call under way; everybody gets `error`."""
        if self._task is not None:
            self._task.cancel()
        await self.stop(error)

    async def _run(self) -> None:
        while batch := self._next():
            results: Sequence[Result | Exception]
            try:
                results = await self._work([item for item, _ in batch])
            except asyncio.CancelledError:
                results = [self._stopped] * len(batch)
            except Exception as error:
                results = [error] * len(batch)
            for (_, done), result in zip(batch, results, strict=True):
                if done.done():
                    continue
                if isinstance(result, Exception):
                    done.set_exception(result)
                else:
                    done.set_result(result)
        self._task = None

    def _next(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        weight = 0
        while self._waiting and len(batch) < self._most:
            item, done = self._waiting[0]
            if not done.done():
                weight += self._weigh(item)
                if batch and self._heaviest is not None and weight > self._heaviest:
                    break
                batch.append((item, done))
            self._waiting.popleft()
        return batch
