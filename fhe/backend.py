"""What a backend must do: the one interface between a library that encrypts and all the rest of the house.

A backend is one folder, `fhe/NAME/`. Its `engine` module is imported in a worker alone, in the worker's environment, and has a
function `open_engine(bundle, cache) -> Engine`. Everything that an engine gives out is bytes and arrays; nothing is pickled.
An engine need not be thread-safe, and may crash: it never runs in a daemon.

    values    float64 or int64, (samples, *input shape): what `fhe.quantiser` makes of the features, by the bundle's own numbers
    secret    bytes: all that encrypts and decrypts, as small as the library allows; the caller seals it
    key       a file: the evaluation key, which is public but large; `expand` loads it into the form that `infer` computes with
    payload   bytes: the ciphertext of one sample, or of its result, without our header (`fhe.envelope`)
"""

from __future__ import annotations

import importlib
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fhe.bundle import Bundle

Values = NDArray[np.float64] | NDArray[np.int64]
"""One row a sample: what goes into the encryption, or came out of the decryption."""


class Backend(StrEnum):
    """The backends, by the names of their folders."""

    CONCRETE = "concrete"
    """TFHE on integers: exact on the quantised model."""
    CKKS = "ckks"
    """CKKS on reals: approximate, for linear and polynomial networks."""


class Engine(Protocol):
    """A model opened in a worker. Methods block; they raise `fhe.errors.Refused` for bytes that are not what they should be."""

    def keygen(self, key: Path) -> bytes:
        """Draw new keys from the system's randomness; write the evaluation key to the new file `key`, and return the secret."""
        ...

    def encrypt(self, secret: bytes, values: Values) -> list[bytes]:
        """One payload a sample, under `secret`."""
        ...

    def decrypt(self, secret: bytes, payloads: list[bytes]) -> Values:
        """The results, (samples, *output shape), rounded as far as the scheme is exact, so that its noise is told to nobody."""
        ...

    def expand(self, key: Path) -> object:
        """The evaluation key in memory, ready to compute."""
        ...

    def infer(self, expanded: object, payload: bytes) -> bytes:
        """The payload of the result of one sample's payload."""
        ...


def open_engine(bundle: Bundle, cache: Path) -> Engine:
    """The engine of the bundle's backend, in a worker. `cache` is a private directory that outlives the worker.

    Raises BundleError for a model that does not run on the versions installed here, Unavailable where the library is missing.
    """
    module: Any = importlib.import_module(f"fhe.{bundle.manifest.backend}.engine")
    engine: Engine = module.open_engine(bundle, cache)
    return engine
