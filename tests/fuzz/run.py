"""Runs mutated messages past a parser and watches it: what it raises, how long it takes, what it keeps."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.fuzz.mutate import Split, mutated

STALL_SECONDS = 0.05
"""Processor time that one message may take."""
_AGAIN = 5
"""Times that a slow message is measured again: a stall is slow each time, a busy machine is not."""
_BLOCKS = 0.25
"""Blocks of memory that a message may leave behind on the average. One that is kept leaves several."""
_SLACK = 200
"""Blocks that come and go with the interpreter's own caches."""
_RESIDENT = 16 << 20
"""Bytes by which the process may grow, whoever holds them, after the first half."""


def _nothing() -> None:
    """Nothing to make ready."""


def _as_it_is(content: bytes) -> bytes:
    return content


@dataclass(frozen=True)
class Target:
    """A parser. `take` raises for a bug and for nothing else; refusing a message is what it is for."""

    name: str
    originals: Sequence[bytes]
    """Valid input, to be changed."""
    take: Callable[[bytes], None]
    share: int
    """Of every hundred messages."""
    split: Split | None = None
    wrap: Callable[[bytes], bytes] = _as_it_is
    """Makes the message of what was changed: signs it, say. Not measured."""
    prepare: Callable[[], None] = _nothing
    """Before each message. Not measured."""
    stateless: bool = True
    """It keeps nothing from one message to the next."""


def fuzz(target: Target, count: int, seed: int) -> None:
    """Fails with the message, in hex, that the target does not stand."""
    random = Random(f"{target.name} {seed}")

    def some(number: int) -> None:
        for _ in range(number):
            target.prepare()
            _watch(target, target.wrap(mutated(random, target.originals, target.split)), seed)

    some(count // 2)
    blocks, resident = _held()
    some(count - count // 2)
    blocks, resident = (after - before for after, before in zip(_held(), (blocks, resident), strict=True))
    assert resident < _RESIDENT, f"{target.name}: the process grew by {resident} bytes (seed {seed})"
    if target.stateless:
        assert blocks < _SLACK + _BLOCKS * count / 2, f"{target.name}: {count // 2} messages left {blocks} blocks (seed {seed})"


def _held() -> tuple[int, int]:
    """(blocks that the interpreter has allocated, bytes of the process in memory)."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return sys.getallocatedblocks(), pages * os.sysconf("SC_PAGE_SIZE")


def _watch(target: Target, raw: bytes, seed: int) -> None:
    spent = _timed(target, raw, seed)
    if spent > STALL_SECONDS:
        spent = min(_timed(target, raw, seed) for _ in range(_AGAIN))
    assert spent <= STALL_SECONDS, f"{target.name}: {spent:.3f} s (seed {seed}) for {_shown(raw)}"


def _timed(target: Target, raw: bytes, seed: int) -> float:
    target.prepare()
    began = time.thread_time()
    try:
        target.take(raw)
    except Exception as error:
        raise AssertionError(f"{target.name}: {type(error).__name__}: {error} (seed {seed}) for {_shown(raw)}") from error
    return time.thread_time() - began


def _shown(raw: bytes) -> str:
    return raw.hex() if len(raw) <= 8192 else f"{raw[:8192].hex()}... ({len(raw)} bytes)"
