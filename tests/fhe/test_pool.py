"""Workers: what they are given, what they may cost others when they die, and what they keep in memory."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fhe.envelope import open_payloads
from fhe.environment import Environment
from fhe.errors import Refused, Unavailable, Why, WorkerFailed
from fhe.job import run_job
from fhe.pipe import Infer
from fhe.pool import Key, Pool, Worker
from fhe.shelf import Limits, Shelf
from tests.fhe.house import Keyed, environment, samples

INPUTS = samples("logistic")["inputs"]
SECRET_NAME = "COHORTIUM_TEST_TOKEN"


@pytest.fixture
async def worker(logistic: Keyed) -> AsyncIterator[Worker]:
    async with Worker(environment(), logistic.cache) as started:
        yield started


@pytest.fixture
async def pool(logistic: Keyed) -> AsyncIterator[Pool]:
    async with Pool(environment(), logistic.cache, size=1, memory=10**9) as started:
        yield started


@pytest.fixture
def key(logistic: Keyed, tmp_path: Path) -> Key:
    """The evaluation key, as a service has it."""
    return Shelf(tmp_path / "shelf", Limits()).take(logistic.bundle, logistic.made.path)


async def encrypted(keyed: Keyed, count: int = 1) -> bytes:
    async with Worker(environment(), keyed.cache) as private:
        return await keyed.client(private).encrypt(samples(keyed.bundle.model.id)["inputs"][:count], keyed.made.id)


def pid_of(pool: Pool) -> int:
    """Of the pool's only worker."""
    (worker,) = pool.workers
    assert worker.pid is not None
    return worker.pid


def proc(pid: int | None, name: str) -> str:
    if not Path("/proc").exists():
        pytest.skip("there is no /proc here")
    return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")


async def test_a_worker_tells_the_versions_beside_it(worker: Worker) -> None:
    assert worker.versions["concrete-python"] == "2.10.0"
    assert worker.versions["numpy"].startswith("1.")


async def test_a_worker_dumps_no_core_and_is_told_nothing_of_ours(monkeypatch: pytest.MonkeyPatch, logistic: Keyed) -> None:
    monkeypatch.setenv(SECRET_NAME, "hunter2")
    async with Worker(environment(), logistic.cache) as one:
        limits = [line.split() for line in proc(one.pid, "limits").splitlines() if line.startswith("Max core file size")]
        assert limits[0][4:6] == ["0", "0"]
        assert SECRET_NAME not in proc(one.pid, "environ")
        assert "hunter2" not in proc(one.pid, "cmdline")


async def test_a_killed_worker_costs_one_job_and_the_next_finds_another(logistic: Keyed, pool: Pool, key: Key) -> None:
    data = await encrypted(logistic)
    await run_job(pool, logistic.bundle, key, data)
    first = pid_of(pool)
    os.kill(first, signal.SIGSTOP)  # as one that computes for ever
    job = asyncio.create_task(run_job(pool, logistic.bundle, key, data))
    await asyncio.sleep(0)
    os.kill(first, signal.SIGKILL)
    with pytest.raises(WorkerFailed):
        await job
    assert await run_job(pool, logistic.bundle, key, data)
    assert pid_of(pool) != first


async def test_a_job_that_takes_too_long_is_given_up_with_its_worker(logistic: Keyed, pool: Pool, key: Key) -> None:
    data = await encrypted(logistic)
    await run_job(pool, logistic.bundle, key, data)
    os.kill(pid_of(pool), signal.SIGSTOP)
    with pytest.raises(WorkerFailed, match="longer than"):
        await run_job(pool, logistic.bundle, key, data, patience=0.2)
    assert pool.workers == []
    assert await run_job(pool, logistic.bundle, key, data)


async def test_a_cancelled_job_ends_its_worker_and_gives_its_place_back(logistic: Keyed, pool: Pool, key: Key) -> None:
    data = await encrypted(logistic)
    await run_job(pool, logistic.bundle, key, data)
    os.kill(pid_of(pool), signal.SIGSTOP)
    job = asyncio.create_task(run_job(pool, logistic.bundle, key, data))
    await asyncio.sleep(0)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert pool.workers == []
    assert await run_job(pool, logistic.bundle, key, data)


async def test_a_service_hears_how_far_a_job_is(logistic: Keyed, pool: Pool, key: Key) -> None:
    heard: list[tuple[int, int]] = []
    await run_job(pool, logistic.bundle, key, await encrypted(logistic, 3), progress=lambda *state: heard.append(state))
    assert heard == [(0, 3), (1, 3), (2, 3), (3, 3)]


async def test_a_job_under_another_key_is_a_mismatch(logistic: Keyed, pool: Pool, key: Key) -> None:
    other = Key("f" * 32, key.path, key.size)
    with pytest.raises(Refused) as caught:
        await run_job(pool, logistic.bundle, other, await encrypted(logistic))
    assert caught.value.why is Why.MISMATCH
    assert pool.workers == []  # nobody was bothered


async def test_keys_are_expanded_once_and_dropped_by_age_of_use_within_the_budget(logistic: Keyed, key: Key) -> None:
    header, payloads = open_payloads(await encrypted(logistic), logistic.bundle, "input")
    assert header.key == key.id
    keys = [Key(letter * 32, key.path, 100) for letter in "abc"]
    async with Pool(environment(), logistic.cache, size=1, memory=2 * 6 * 100) as pool:
        for one in (keys[0], keys[1], keys[0], keys[2]):  # the third pushes out the one not used for longest
            await pool.infer(logistic.bundle, one, payloads[0])
        (seat,) = pool._seats
        assert [identifier for _, identifier in seat.keys] == [keys[0].id, keys[2].id]
        # And truly so, in the worker: it computes with what it has, and knows nothing of what it dropped.
        assert seat.worker is not None
        await seat.worker.infer(logistic.bundle, keys[0].id, payloads[0])
        with pytest.raises(WorkerFailed):
            await seat.worker.infer(logistic.bundle, keys[1].id, payloads[0])


async def test_a_key_that_was_erased_is_forgotten_by_every_worker(logistic: Keyed, key: Key) -> None:
    _, payloads = open_payloads(await encrypted(logistic), logistic.bundle, "input")
    async with Pool(environment(), logistic.cache, size=2, memory=10**9) as pool:
        await asyncio.gather(*(pool.infer(logistic.bundle, key, payloads[0]) for _ in range(2)))
        await pool.forget(logistic.bundle.hash, key.id)
        for seat in pool._seats:
            assert not seat.keys
            if seat.worker is not None:
                with pytest.raises(WorkerFailed):
                    await seat.worker.infer(logistic.bundle, key.id, payloads[0])


async def test_a_request_that_makes_no_sense_is_answered_and_the_worker_lives(logistic: Keyed, worker: Worker) -> None:
    with pytest.raises(WorkerFailed):
        await worker.ask(Infer(model="0" * 64, id="x"), [b"nothing"])
    await worker.open(logistic.bundle)
    assert worker.alive


async def test_an_answer_of_a_failed_library_tells_nothing_that_it_was_given(logistic: Keyed, worker: Worker) -> None:
    await worker.open(logistic.bundle)
    with pytest.raises((WorkerFailed, Refused)) as caught:
        await worker.decrypt(logistic.bundle, b"a secret that is none", [b"a result that is none"])
    assert "none" not in str(caught.value)


async def test_a_python_that_is_no_workers_is_told_with_the_remedy(tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    with pytest.raises(Unavailable, match=r"make \.venv-fhe"):
        await Worker(Environment(fake), tmp_path).start()


def test_a_missing_environment_is_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no Python that can be started"):
        Environment.find(tmp_path / "python")


async def test_no_process_outlives_its_pool(logistic: Keyed, key: Key) -> None:
    data = await encrypted(logistic)
    async with Pool(environment(), logistic.cache, size=1, memory=0) as pool:
        await run_job(pool, logistic.bundle, key, data)
        pid = pid_of(pool)
    assert not Path(f"/proc/{pid}").exists()
