"""A blocking call on a thread of its own, which the end of the process does not wait for.

The event loop's own threads are few, and a process that stops waits for them: a source that hangs would take one of them for
ever, and a daemon would not stop while a long file is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
A = TypeVarTuple("A")


async def aside(function: Callable[[Unpack[A]], T], *arguments: *A) -> T:
    """What `function` returns, which must not raise. Cancelled, it is left to itself."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def finish(result: T) -> None:
        if not done.done():
            done.set_result(result)

    def run() -> None:
        result = function(*arguments)
        with contextlib.suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(finish, result)

    threading.Thread(target=run, name="source", daemon=True).start()
    return await done
