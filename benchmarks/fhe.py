"""Models of breast cancer under encryption: keys, sizes, seconds and memory, with Concrete ML's own calls timed in the same run.

    fhe.py [--samples N] [--json]

    logistic    logistic regression, 8 bit        xgboost    ten boosted trees of depth 3, 3 bit

Ours: a worker that encrypts and decrypts, a pool of one worker a core that computes, everything over their pipes, as the service
does it. Theirs: the same kind of model, trained and compiled by Concrete ML with the same options and errors, in its environment
(.venv-train; left out where it is not), called in one process with as many threads. Both get the same held-out rows. `first` is
the first inference under a new key, which expands it; `warm` is the median after that. `overhead` is what a job of one sample
takes beyond what the worker says that its library call took. Every result is compared with the quantised model's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fhe.bundle import Bundle
from fhe.client import Client
from fhe.envelope import open_payloads, seal_payloads
from fhe.environment import Environment
from fhe.errors import Unavailable
from fhe.job import run_job
from fhe.keys import SecretKeys
from fhe.pool import Key, Pool, Worker
from fhe.shelf import Limits, Shelf
from nodes.store.sealing import KEY_BYTES, StorageKey

MODELS = ("logistic", "xgboost")
DATA = Path(__file__).resolve().parent.parent / "tests" / "fhe" / "data"
THREADS = os.cpu_count() or 1
_MANY = 200
"""Jobs of one sample, where each takes milliseconds."""

# Concrete ML as its documents show it. Its own encryption, keys and serialisation, in one process.
_THEIRS = """
import json, statistics, sys, time
import numpy as np
from concrete.fhe import Configuration
from concrete.ml.sklearn import LogisticRegression, XGBClassifier
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import MinMaxScaler
kind, count = sys.argv[1], int(sys.argv[2])
rows, target = load_breast_cancer(return_X_y=True)
a, b, ya, yb = train_test_split(rows, target, test_size=0.25, random_state=42, stratify=target)
scaler = MinMaxScaler((-1, 1)).fit(rows)
a, b = scaler.transform(a), scaler.transform(b)
model = LogisticRegression(n_bits=8) if kind == "logistic" else XGBClassifier(n_bits=3, n_estimators=10, max_depth=3)
model._fhe_ensembling = True
model.fit(a, ya)
options = Configuration(compress_evaluation_keys=True, compress_input_ciphertexts=True)
circuit = model.compile(a, configuration=options, p_error=2**-40)
began = time.perf_counter()
circuit.keygen(force=True)
keygen = time.perf_counter() - began
server, keys, spent, right = circuit.server, circuit.client.evaluation_keys, [], 0
for row in b[:count + 1]:
    q = model.quantize_input(row[None])
    sent = circuit.encrypt(q)
    began = time.perf_counter()
    got = server.run(sent, evaluation_keys=keys)
    spent.append(time.perf_counter() - began)
    expected = model._inference(q)
    right += bool(np.array_equal(circuit.decrypt(got), expected))
print(json.dumps({"keygen": keygen, "key": len(keys.serialize()), "first": spent[0],
                  "warm": statistics.median(spent[1:]), "exact": right / len(spent)}), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured; seconds, and bytes."""

    name: str
    samples: int
    exact: float
    """Share of the samples whose result was the quantised model's."""
    keygen: float
    key: int
    encrypt: float
    input: int
    first: float
    warm: float
    decrypt: float
    overhead: float
    a_second: float
    """Jobs of one sample, by as many clients as there are workers."""
    idle_memory: int
    memory: int
    """Of a worker with the key expanded."""


async def measure(name: str, count: int) -> Row:
    """Raises Unavailable without the worker's environment."""
    bundle = Bundle.open(DATA / f"{name}.bundle", lambda _: None)
    rows = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    inputs, expected = rows["inputs"][:count], rows["results"][:count]
    with TemporaryDirectory() as name_of_scratch:
        scratch = Path(name_of_scratch)
        place = Environment.find(threads=THREADS)
        keys, cache = SecretKeys(scratch / "keys", StorageKey(os.urandom(KEY_BYTES))), scratch / "cache"
        async with Worker(place, cache) as private, Pool(place, cache, size=1, memory=2**30) as pool:
            await private.open(bundle)
            client = Client(bundle, keys, private)
            began = time.perf_counter()
            made = await client.keygen()
            keygen = time.perf_counter() - began
            key = Shelf(scratch / "shelf", Limits()).take(bundle, made.path)
            async with Worker(place, cache) as idle:
                await idle.open(bundle)
                idle_memory = _resident(idle.pid)
            sealed, encrypt = await _timed([client.encrypt(row, made.id) for row in inputs])
            results, spent = await _timed([run_job(pool, bundle, key, one) for one in sealed])
            if len(results) < _MANY and spent[-1] < 0.1:  # more of them, where each is short
                _, spent = await _timed([run_job(pool, bundle, key, sealed[at % len(sealed)]) for at in range(_MANY)])
                spent = [spent[0], *spent]
            (worker,) = pool.workers
            memory = _resident(worker.pid)
            overhead = await _overhead(pool, bundle, key, sealed[0])
            got, decrypt = await _timed([client.decrypt_raw(one) for one in results])
            right = sum(one.tolist() == [wanted] for one, wanted in zip(got, expected, strict=True))
        rate = await _rate(bundle, key, sealed, cache, len(spent))
    return Row(
        name=name,
        samples=len(inputs),
        exact=right / len(inputs),
        keygen=keygen,
        key=key.size,
        encrypt=statistics.median(encrypt),
        input=bundle.model.sizes.input.most,
        first=spent[0],
        warm=statistics.median(spent[1:]),
        decrypt=statistics.median(decrypt),
        overhead=overhead,
        a_second=rate,
        idle_memory=idle_memory,
        memory=memory,
    )


async def _timed(calls: list[Any]) -> tuple[list[Any], list[float]]:
    """What each call gave and how long it took, one after another."""
    given, spent = [], []
    for call in calls:
        began = time.perf_counter()
        given.append(await call)
        spent.append(time.perf_counter() - began)
    return given, spent


async def _overhead(pool: Pool, bundle: Bundle, key: Key, sealed: bytes) -> float:
    """Seconds of a job beyond its library call, the median of some: what `run_job` does, step by step."""
    beyond = []
    for _ in range(7):
        began = time.perf_counter()
        header, (payload,) = open_payloads(sealed, bundle, "input")
        result, inside = await pool.infer(bundle, key, payload)
        seal_payloads("output", bundle, header.key, [result])
        beyond.append(time.perf_counter() - began - inside)
    return statistics.median(beyond)


async def _rate(bundle: Bundle, key: Key, sealed: list[bytes], cache: Path, jobs: int) -> float:
    """Jobs a second, with a worker a core that has one thread each."""
    place = Environment.find(threads=1)
    async with Pool(place, cache, size=THREADS, memory=2**31) as pool:

        async def client(mine: Iterator[bytes]) -> None:
            for one in mine:
                await run_job(pool, bundle, key, one)

        await asyncio.gather(*(client(iter(sealed[:1])) for _ in range(THREADS)))  # which expands the key
        share = max(1, jobs // THREADS)
        began = time.perf_counter()
        await asyncio.gather(*(client(iter(sealed[at % len(sealed)] for at in range(share))) for _ in range(THREADS)))
        return THREADS * share / (time.perf_counter() - began)


def _resident(pid: int | None) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def theirs(name: str, count: int) -> dict[str, float] | None:
    """Concrete ML's own, if its environment is here."""
    try:
        place = Environment.find_training()
    except Unavailable as error:
        print(f"Concrete ML is left out: {error}", file=sys.stderr)
        return None
    command = [str(place.python), "-W", "ignore", "-c", _THEIRS, name, str(count)]
    done = subprocess.run(command, env=place.variables(), capture_output=True, text=True, check=True, timeout=900)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    measured = []
    for name in MODELS:
        row, other = asyncio.run(measure(name, asked.samples)), theirs(name, asked.samples)
        measured.append({"ours": asdict(row), "concrete-ml": other})
        if not asked.json:
            show(row, other)
    if asked.json:
        print(json.dumps(measured, indent=1))


def show(row: Row, other: dict[str, float] | None) -> None:
    """The figures as a person reads them, Concrete ML's in brackets."""

    def beside(what: str, scale: float = 1.0) -> str:
        return "" if other is None else f" ({other[what] / scale:.3g})"

    print(f"{row.name}, {row.samples} samples, exact {row.exact:.0%}{beside('exact')}")
    print(f"  key generation {row.keygen:.3g} s{beside('keygen')}, key {row.key / 1e6:.3g} MB{beside('key', 1e6)}")
    print(f"  encrypt {row.encrypt * 1e3:.3g} ms, {row.input} bytes; decrypt {row.decrypt * 1e3:.3g} ms")
    print(f"  first {row.first:.3g} s{beside('first')}, warm {row.warm:.3g} s{beside('warm')}, {row.a_second:.3g} a second")
    print(f"  overhead {row.overhead * 1e3:.3g} ms")
    print(f"  a worker {row.idle_memory / 1e6:.0f} MB idle, {row.memory / 1e6:.0f} MB with the key")


if __name__ == "__main__":
    main()
