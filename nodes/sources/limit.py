"""A time limit for a call that blocks and cannot be waited for in pieces: when it is over, another thread makes the call fail."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType


class TimeLimit:
    """`with TimeLimit(30, connection.interrupt) as limit: ...`; after a failure, `limit.over` says whether it was the reason."""

    def __init__(self, seconds: float, stop: Callable[[], None]) -> None:
        """`stop` is called from another thread, at most once."""
        self._stop = stop
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self.over = False

    def _end(self) -> None:
        self.over = True
        self._stop()

    def __enter__(self) -> TimeLimit:
        self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._timer.cancel()
