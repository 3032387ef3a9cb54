"""What tests of encrypted models share: the committed bundles, a worker's environment, and keys that are made once."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fhe.bundle import (
    Audience,
    Bundle,
    Description,
    Feature,
    Input,
    Output,
    Seconds,
    Security,
    Sizes,
    Span,
    make_bundle,
)
from fhe.client import Client, NewKeys
from fhe.environment import Environment
from fhe.errors import Unavailable
from fhe.keys import SecretKeys
from fhe.pool import Worker
from fhe.signature import make_signer, trust_fingerprints
from nodes.store.sealing import StorageKey

DATA = Path(__file__).parent / "data"
SIGNER = (DATA / "signer.txt").read_text(encoding="ascii").strip()
STORAGE_KEY = bytes(range(32))

KEY = ec.generate_private_key(ec.SECP256R1())
SIGN = make_signer(KEY)
TRUST = trust_fingerprints(SIGN(b"").fingerprint)

DESCRIPTION = Description(
    id="made-up",
    title="A model that is not there",
    kind="linear-regression",
    backend="concrete",
    created="2026-01-01T00:00:00Z",
    input=Input(shape=(2,), features=(Feature(name="age", unit="years", low=0, high=100), Feature(name="dose", low=0, high=10))),
    output=Output(shape=(1,), labels=("no", "yes"), link="sigmoid"),
    security=Security(bits=128, p_error_log2=-40),
    sizes=Sizes(key=1000, input=Span(least=10, most=10), output=Span(least=20, most=20)),
    seconds=Seconds(keygen=1, encrypt=1, infer=1, decrypt=1),
    versions={"concrete-python": "2.10.0"},
    linear=True,
)
QUANTISER = json.dumps(
    {
        "type": "integers",
        "domain": "unit",
        "scale": 0.5,
        "zero_point": 0,
        "low": -2,
        "high": 2,
        "result_scale": [0.25],
        "result_zero_point": [4],
    }
).encode()


def make_up(description: Description = DESCRIPTION, **parts: tuple[Audience, bytes]) -> bytes:
    """The file of a bundle that no worker opens, signed with `SIGN`."""
    named = {name.replace("_", "."): part for name, part in parts.items()}
    return make_bundle(description, {"quantiser.json": (Audience.CLIENT, QUANTISER)} | named, SIGN)


@cache
def bundle(name: str) -> Bundle:
    """A committed one."""
    return Bundle.open(DATA / f"{name}.bundle", trust_fingerprints(SIGNER))


def samples(name: str) -> Any:
    """The held-out rows beside it: inputs, labels, results of the quantised model, scores in clear."""
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


def environment(threads: int = 1) -> Environment:
    """The worker's. Skips the test where there is none."""
    try:
        return Environment.find(threads=threads)
    except Unavailable as error:
        pytest.skip(str(error))


def secret_keys(directory: Path) -> SecretKeys:
    return SecretKeys(directory, StorageKey(STORAGE_KEY))


@dataclass(frozen=True)
class Keyed:
    """A bundle and a set of keys for it."""

    bundle: Bundle
    keys: SecretKeys
    made: NewKeys
    cache: Path
    """Where workers keep the compiled circuit."""

    def client(self, worker: Worker) -> Client:
        return Client(self.bundle, self.keys, worker)


def make_keys(name: str, directory: Path) -> Keyed:
    """A new set, by a worker that is gone again."""
    place, keys, found = environment(os.cpu_count() or 1), secret_keys(directory / "keys"), bundle(name)

    async def run() -> NewKeys:
        async with Worker(place, directory / "cache") as worker:
            return await Client(found, keys, worker).keygen()

    return Keyed(found, keys, asyncio.run(run()), directory / "cache")
