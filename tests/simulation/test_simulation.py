"""Thousands of rounds of the real nodes in virtual time, with everything going wrong that can.

A failure prints its seed, its faults, the machines' stories, and the command that plays it again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from random import SystemRandom
from typing import Any
from unittest import mock

import pytest

from mpc.statistics import decode
from nodes.store.volatile import VolatileStore
from tests.simulation.disks import VolatileKeys
from tests.simulation.run import Broken, Report, play, play_rounds

SEEDS_APART = 1_000_000
PARTS, PART_ROUNDS = 16, 125
SOAK_PARTS, SOAK_ROUNDS = 100, 1000
FIRST_SOAK_SEED = SystemRandom().randrange(10**6) * 10**9
"""Every soak is another one."""

KINDS = {
    "lose",
    "lose answer",
    "double",
    "corrupt",
    "ghost",
    "partition",
    "stop",
    "full disk",
    "clock",
    "restore",
    "cancel",
    "commit fails",
    "key fails",
    "destroy fails",
    "counter fails",
    "delivered fails",
    *(
        f"crash {when} {what}"
        for when in ("before", "after")
        for what in ("commit", "send", "key", "destroy", "counter", "delivered")
    ),
}


@pytest.fixture(scope="module")
def processors() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        yield pool


def on_all(pool: ProcessPoolExecutor, first: int, rounds: int) -> Report:
    """So many rounds, shared out."""
    shares = os.cpu_count() or 1
    futures = [pool.submit(play_rounds, first + share * SEEDS_APART, -(-rounds // shares)) for share in range(shares)]
    total = Report()
    for future in futures:
        total.add(future.result())
    return total


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_every_round_ends_in_the_exact_sum_or_in_nothing(part: int, processors: ProcessPoolExecutor) -> None:
    total = on_all(processors, part * 1000, PART_ROUNDS)
    assert total.rounds >= PART_ROUNDS
    assert total.rounds // 2 < total.released < total.rounds
    assert len(KINDS - total.faults.keys()) <= 3, "few kinds of faults are absent from so many rounds"


@pytest.mark.soak
@pytest.mark.parametrize("part", range(SOAK_PARTS))
def test_a_hundred_thousand_rounds(part: int, processors: ProcessPoolExecutor) -> None:
    on_all(processors, FIRST_SOAK_SEED + part * 1000, SOAK_ROUNDS)


@pytest.mark.parametrize("seed", [1, 2, 3, 17, 2015])
def test_a_seed_is_always_the_same_run(seed: int) -> None:
    assert play(seed).story == play(seed).story


# ---- the simulation notices


def plays_wrongly(words: str) -> None:
    with pytest.raises(Broken, match=words):
        play_rounds(0, 30)


def test_a_wrong_sum_is_noticed() -> None:
    def one_more(*parts: Any) -> tuple[Any, ...]:
        return tuple(array + 1 for array in decode(*parts))

    with mock.patch("mpc.rounds.hospital.decode_totals", one_more):
        plays_wrongly(r"the sum is not that of the roster(.|\n)*python -m tests.simulation \d+$")


def test_a_store_that_keeps_nothing_is_noticed() -> None:
    async def forget(store: VolatileStore, _steps: object) -> int:
        return await store.counter() + 1

    with mock.patch.object(VolatileStore, "commit", forget):
        plays_wrongly("has no end at the hospital|two different messages")


def test_a_receipt_that_a_restart_forgets_is_noticed() -> None:
    with mock.patch("nodes.receipts.OpenReceipts.resume"):
        plays_wrongly("a countersignature is missing")


def test_a_ledger_that_forgets_is_noticed() -> None:
    with mock.patch("nodes.ledger.Ledger.submitted", return_value=()):
        plays_wrongly("gave what its ledger does not have")


def test_a_receipt_that_is_kept_after_the_result_is_noticed() -> None:
    with mock.patch("nodes.receipts.OpenReceipts.open", return_value=None):
        plays_wrongly("not kept together|the program failed")


def test_a_key_that_outlives_its_round_is_noticed() -> None:
    with mock.patch.object(VolatileKeys, "destroy"):
        plays_wrongly("has a key of")
