"""An event loop whose time is its own: with nothing left to do now, it jumps to what is due next. No threads, no sockets.

Whatever a node starts (a task, a timer) belongs to that node's life, so that a life can end in the middle of anything.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
A = TypeVarTuple("A")

EPOCH = 1_700_000_000.0
"""Unix seconds when a run begins."""


class Stuck(Exception):
    """Everybody waits for somebody else, and no timer is set."""


class Life:
    """Everything that runs on behalf of one node from a start to the next crash."""

    def __init__(self) -> None:
        self.alive = True
        self.offset = 0.0
        """Seconds by which this node's clock is wrong."""
        self.tasks: list[asyncio.Task[Any]] = []
        self.timers: list[asyncio.TimerHandle] = []
        self.context = copy_context()
        self.context.run(_LIFE.set, self)

    def end(self) -> None:
        """As by SIGKILL: nothing of it runs on, and `alive` is false for the code that unwinds."""
        self.alive = False
        for timer in self.timers:
            timer.cancel()
        for task in self.tasks:
            task.cancel()


_LIFE: ContextVar[Life | None] = ContextVar("life", default=None)


class _Jump(selectors.SelectSelector):
    """Asked to wait, it lets the time pass at once."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck("nothing will ever happen again")
        self.loop.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """`chance` says how long work on a thread takes."""

    def __init__(self, chance: Random) -> None:
        self.now = 0.0
        self.thread_seconds: Callable[[], float] = lambda: chance.random() * 0.002
        self._thread_free: dict[Any, float] = {}
        jump = _Jump()
        jump.loop = self
        super().__init__(jump)
        self.set_task_factory(_make_task)

    def time(self) -> float:
        return self.now

    def call_at(
        self, when: float, callback: Callable[[Unpack[A]], object], *args: *A, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = super().call_at(when, callback, *args, context=context)
        life = _LIFE.get() if context is None else context.get(_LIFE)
        if life is not None:
            life.timers.append(handle)
        return handle

    def run_in_executor(self, executor: Any, func: Callable[[Unpack[A]], T], *args: *A) -> asyncio.Future[T]:
        """`func` is called on the loop, after a while; one at a time for an executor of one thread."""
        done: asyncio.Future[T] = self.create_future()

        def work() -> None:
            if done.cancelled():
                return
            try:
                done.set_result(func(*args))
            except asyncio.CancelledError:  # the life ended in there
                done.cancel()
            except Exception as error:
                done.set_exception(error)

        begin = self.now if executor is None else max(self.now, self._thread_free.get(executor, 0.0))
        self._thread_free[executor] = begin + self.thread_seconds()
        self.call_at(self._thread_free[executor], work)
        return done


def _make_task(
    loop: asyncio.AbstractEventLoop,
    coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
    context: Context | None = None,
    **options: Any,
) -> asyncio.Task[T]:
    task: asyncio.Task[T] = asyncio.Task(coro, loop=loop, context=context, **options)
    life = _LIFE.get() if context is None else context.get(_LIFE)
    if life is not None:
        life.tasks.append(task)
    return task


def wait_here(future: Future[T]) -> asyncio.Future[T]:
    """Stands for `asyncio.wrap_future`: what another thread does takes no time, so that a run is the same every time."""
    done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    try:
        done.set_result(future.result(60))
    except Exception as error:
        done.set_exception(error)
    return done


class Clock:
    """Stands for the module `time` in nodes: the loop's time, wrong by what the node's clock is wrong."""

    @staticmethod
    def time() -> float:
        life = _LIFE.get()
        return EPOCH + asyncio.get_running_loop().time() + (life.offset if life else 0.0)

    @staticmethod
    def monotonic() -> float:
        return asyncio.get_running_loop().time()
