"""What a client does with a bundle: make keys, encrypt samples, decrypt results. Nothing here is sent anywhere.

Features are checked against their declared ranges before they are encrypted, and a result is decrypted only under the very set of
keys that its header names. What is decrypted is the caller's; no part of it goes back to a service.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fhe.bundle import Bundle
from fhe.envelope import open_payloads, seal_payloads
from fhe.keys import SecretKeys, discard
from fhe.pool import PATIENCE, Worker
from fhe.quantiser import read_quantiser, to_predictions, to_values


@dataclass(frozen=True, slots=True)
class NewKeys:
    """A set of keys that was just made."""

    id: str
    path: Path
    """Of the file to be sent to the service."""


@dataclass(frozen=True, slots=True)
class Client:
    """One model, the caller's keys, and a worker of the caller's own, which has seen the secret keys."""

    bundle: Bundle
    keys: SecretKeys
    worker: Worker

    async def keygen(self, *, patience: float = PATIENCE) -> NewKeys:
        """Draw a new set of keys and keep it. Raises FheError."""
        identifier, evaluation = self.keys.new()
        try:
            secret = await self.worker.keygen(self.bundle, evaluation, patience=patience)
            return NewKeys(identifier, self.keys.add(self.bundle, identifier, secret, evaluation))
        finally:
            discard(evaluation)

    async def encrypt(self, samples: ArrayLike, key: str | None = None) -> bytes:
        """Samples, (samples, *shape) or one alone, in the model's units, under the set `key` or the newest one.

        Raises InputError for what is out of the declared ranges, Refused for a key that is not here; FheError.
        """
        identifier = key or self.keys.only(self.bundle)
        values = to_values(self.bundle.model.input, read_quantiser(self.bundle), samples)
        payloads = await self.worker.encrypt(self.bundle, self.keys.secret(self.bundle, identifier), values)
        return seal_payloads("input", self.bundle, identifier, payloads)

    async def decrypt(self, result: bytes) -> NDArray[np.float64]:
        """Predictions, one row a sample: see `fhe.quantiser`. Raises Refused for a result under an unknown key; FheError."""
        return to_predictions(self.bundle.model, read_quantiser(self.bundle), await self.decrypt_raw(result))

    async def decrypt_raw(self, result: bytes) -> NDArray[np.float64] | NDArray[np.int64]:
        """What the circuit itself gave, (samples, *output shape), before anything was made of it. Errors as for `decrypt`."""
        header, payloads = open_payloads(result, self.bundle, "output")
        return await self.worker.decrypt(self.bundle, self.keys.secret(self.bundle, header.key), payloads)
