"""The watch over parsers sees what it is there for: an unforeseen error, a stall, and memory that is kept."""

from __future__ import annotations

import time
from random import Random

import pytest

from tests.fuzz.mutate import mutated
from tests.fuzz.run import STALL_SECONDS, Target, fuzz

ORIGINALS = [b"a message of some length", b"and another one"]


def test_an_unforeseen_error_is_told_with_the_message() -> None:
    def take(raw: bytes) -> None:
        raise KeyError("unforeseen")

    with pytest.raises(AssertionError, match=r"KeyError.*for [0-9a-f]+"):
        fuzz(Target("bug", ORIGINALS, take, 1), 10, 1)


def test_a_stall_is_told() -> None:
    def take(raw: bytes) -> None:
        began = time.thread_time()
        while time.thread_time() - began < 1.2 * STALL_SECONDS:
            pass

    with pytest.raises(AssertionError, match="stall: 0"):
        fuzz(Target("stall", ORIGINALS, take, 1), 1, 1)


def test_messages_that_stay_in_memory_are_told() -> None:
    kept: list[bytes] = []
    with pytest.raises(AssertionError, match=r"left .* blocks"):
        fuzz(Target("leak", ORIGINALS, lambda raw: kept.append(raw + b"!"), 1), 2000, 1)


def test_a_seed_gives_the_same_messages_again() -> None:
    once, again = Random(7), Random(7)
    first = [mutated(once, ORIGINALS) for _ in range(200)]
    assert first == [mutated(again, ORIGINALS) for _ in range(200)]
    assert len(set(first)) > 150
