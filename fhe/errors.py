"""Every error of the library.

    FheError
    |-- InputError         what a person gave: a value out of its range, a file that is missing or of another kind
    |-- UnsupportedModel   a model that no circuit can be made of: names the node, the operator, and what would do
    |-- BundleError        a bundle that is damaged, or made for other versions
    |-- SignerError        a bundle that nobody who is trusted has signed
    |-- Refused            a key or ciphertext that does not fit, with the code that its sender gets
    |-- Unavailable        the worker's environment is missing or not what its lock says
    |-- WorkerFailed       a job that could not be done; the worker lives on, or is started anew

No text carries a value, a prediction, a key or a ciphertext. A value that is out of its range is told by its feature's name.
"""

from __future__ import annotations

from enum import StrEnum


class FheError(Exception):
    """Root of the tree."""


class InputError(FheError):
    """What a person gave cannot be used. The text says what is wrong, where, and what to do."""


class UnsupportedModel(FheError):
    """A model that cannot be converted. The text names the node and its operator, and what would work."""


class BundleError(FheError):
    """A bundle that is damaged, incomplete, or of versions that do not run here."""


class SignerError(FheError):
    """A bundle without a signature by somebody who is trusted."""


class Why(StrEnum):
    """Why a key or a ciphertext is refused; a service answers with the HTTP status in `STATUS`."""

    NO_KEY = "no-key"
    """The key that the ciphertext names is not here."""
    MISMATCH = "mismatch"
    """Made for another model, under another key, or by another backend."""
    STALE = "stale"
    """The model or the key has been replaced or erased."""
    TOO_LARGE = "too-large"
    DAMAGED = "damaged"
    """Truncated, altered, or not what it says it is."""


STATUS = {Why.NO_KEY: 404, Why.MISMATCH: 409, Why.STALE: 410, Why.TOO_LARGE: 413, Why.DAMAGED: 422}
"""HTTP statuses (RFC 9110 section 15.5)."""


class Refused(FheError):
    """A key or a ciphertext that does not fit, or is damaged."""

    def __init__(self, why: Why, text: str) -> None:
        super().__init__(text)
        self.why = why


class Unavailable(FheError):
    """What the work needs is not installed. The text says how it is installed, or that it does not exist for this machine."""


class WorkerFailed(FheError):
    """A job ended without its result: the library failed, the worker died or took too long. Nothing is known of why."""
