"""Unpredictable bytes from one 32-byte seed, and the same bytes again when a round is rebuilt from its journal.

The stream is the AES-256-CTR keystream under HKDF-SHA256(seed, info = "cohortium/v1/entropy"), first counter block zero. One
seed serves one round. Whoever has the seed has every secret that the round draws; it is kept under the round's own key and
forgotten with it.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SEED_BYTES = 32


class SeededEntropy:
    """An `mpc.secret.Entropy`. Raises ValueError for a seed that is not 32 bytes."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError("a seed has 32 bytes")
        key = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=b"cohortium/v1/entropy").derive(seed)
        self._stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    def __repr__(self) -> str:
        return "<entropy>"

    def __call__(self, size: int) -> bytes:
        """The next `size` bytes of the stream."""
        return self._stream.update(bytes(size))
