"""What a service does with a ciphertext: check it, compute one result a sample, seal the results for whoever holds the key."""

from __future__ import annotations

from collections.abc import Callable

from fhe.bundle import Bundle
from fhe.envelope import Header, open_payloads, seal_payloads
from fhe.errors import Refused, Why, WorkerFailed
from fhe.pool import PATIENCE, Key, Pool

Progress = Callable[[int, int], object]
"""Hears how many samples of how many are done."""


async def run_job(
    pool: Pool, bundle: Bundle, key: Key, data: bytes, *, progress: Progress | None = None, patience: float = PATIENCE
) -> bytes:
    """The encrypted results of the encrypted samples `data`, under the key that `data` names, which is `key`.

    `patience`: seconds for each sample. Raises Refused for data that does not fit, WorkerFailed when a worker died of it.
    """
    header, payloads = open_payloads(data, bundle, "input")
    check_key(header, key)
    results = []
    for done, payload in enumerate(payloads):
        if progress is not None:
            progress(done, len(payloads))
        result, _ = await pool.infer(bundle, key, payload, patience=patience)
        if not bundle.model.sizes.output.least <= len(result) <= bundle.model.sizes.output.most:
            raise WorkerFailed("the worker gave a result of another length than the model declares")
        results.append(result)
    if progress is not None:
        progress(len(payloads), len(payloads))
    return seal_payloads("output", bundle, header.key, results)


def check_key(header: Header, key: Key) -> None:
    """Raises Refused unless the ciphertext with this header is under `key`."""
    if header.key != key.id:
        raise Refused(Why.MISMATCH, f"the ciphertext is under the key {header.key[:12]}, not under {key.id[:12]}")
