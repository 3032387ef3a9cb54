"""SEAL's objects, made from our parameters and from bytes. The only module that knows TenSEAL.

TenSEAL's vectors would draw keys for all turns and multiply by diagonals of their own choice; `tenseal.sealapi` is SEAL itself.
SEAL reads and writes files only, so that bytes pass through a file in memory. What comes from outside is checked by SEAL
against the parameters as it is read (metadata, sizes and that each coefficient is below its prime); it is no proof that a key
is an honest one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from fhe.ckks.plan import Parameters
from fhe.errors import Refused, Unavailable, Why

try:
    from tenseal import sealapi
except ImportError as error:
    raise Unavailable("the ckks backend needs TenSEAL, which is in the worker's environment: run 'make .venv-fhe'") from error

_HEADER = 16
_MAGIC = b"\x5e\xa1\x10"  # SEALHeader: 0xA15E, and its own size


class Scheme:
    """SEAL's context for some parameters, and what hangs on it."""

    def __init__(self, parameters: Parameters) -> None:
        raw = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
        raw.set_poly_modulus_degree(parameters.degree)
        raw.set_coeff_modulus(sealapi.CoeffModulus.Create(parameters.degree, list(parameters.bits)))
        # SEAL refuses parameters of less than 128 bits itself: the third argument.
        self.context = sealapi.SEALContext(raw, True, sealapi.SEC_LEVEL_TYPE.TC128)
        if not self.context.parameters_set():
            raise Unavailable("SEAL does not take the parameters of this model; it was made with another version")
        self.parameters = parameters
        self.encoder = sealapi.CKKSEncoder(self.context)
        self.evaluator = sealapi.Evaluator(self.context)
        self.chain: list[Any] = []
        """For each level, the highest first: the id of its parameters."""
        self.primes: list[int] = []
        """For each level the prime that a rescaling at it takes away."""
        data = self.context.first_context_data()
        while data is not None:
            self.chain.append(data.parms_id())
            self.primes.append(data.parms().coeff_modulus()[-1].value())
            data = data.next_context_data()

    def plaintext(self, values: list[float], level: int, scale: float) -> Any:
        """Numbers in the slots of a plaintext at a level."""
        plain = sealapi.Plaintext()
        self.encoder.encode(values, self.chain[level], scale, plain)
        return plain

    def draw(self) -> Any:
        """New keys from the operating system's randomness."""
        return sealapi.KeyGenerator(self.context)

    def galois(self, keys: Any, turns: Iterable[int]) -> Any:
        """Keys for turning by so many slots, and by no other number."""
        made = sealapi.GaloisKeys()
        keys.create_galois_keys([self._element(turn) for turn in turns], made)
        return made

    def turns_by(self, keys: Any, turns: Iterable[int]) -> bool:
        """Whether there are keys for each of these."""
        return all(keys.has_key(self._element(turn)) for turn in turns)

    def _element(self, turn: int) -> int:
        """Of the Galois group: turning by one slot is X -> X^3."""
        return pow(3, turn, 2 * self.parameters.degree)

    def relin(self, keys: Any) -> Any:
        """Keys for products."""
        made = sealapi.RelinKeys()
        keys.create_relin_keys(made)
        return made

    def encrypt(self, secret: Any, plain: Any) -> Any:
        """A ciphertext under the secret key itself, which adds less noise than under a public one."""
        made = sealapi.Ciphertext()
        sealapi.Encryptor(self.context, secret).encrypt_symmetric(plain, made)
        return made

    def decrypt(self, secret: Any, ciphertext: Any) -> list[float]:
        """The numbers in all slots, with their noise: for nobody's eyes but `Layout.collect`."""
        plain = sealapi.Plaintext()
        sealapi.Decryptor(self.context, secret).decrypt(ciphertext, plain)
        numbers: list[float] = self.encoder.decode_double(plain)
        return numbers

    def turn(self, x: Any, turn: int, keys: Any) -> Any:
        """`x` with each number moved `turn` slots down, the first ones to the end."""
        made = sealapi.Ciphertext()
        self.evaluator.rotate_vector(x, turn, keys, made)
        return made

    def times(self, x: Any, plain: Any) -> Any:
        """Number by number, at the scale of both together: rescaling is left to the caller."""
        made = sealapi.Ciphertext()
        self.evaluator.multiply_plain(x, plain, made)
        return made

    def product(self, x: Any, y: Any, keys: Any) -> Any:
        """Number by number, rescaled."""
        made = sealapi.Ciphertext()
        if x is y:
            self.evaluator.square(x, made)
        else:
            self.evaluator.multiply(x, y, made)
        self.evaluator.relinearize_inplace(made, keys)
        self.evaluator.rescale_to_next_inplace(made)
        return made

    def load(self, kind: str, data: bytes) -> Any:
        """The Ciphertext, SecretKey, GaloisKeys or RelinKeys in `data`. Raises Refused for anything else."""
        length = stream_length(data)
        if length != len(data):
            raise Refused(Why.DAMAGED, f"{_NAMES[kind]} is not of the length that it says")
        made = getattr(sealapi, kind)()
        file = os.memfd_create("cohortium", os.MFD_CLOEXEC)
        try:
            with open(file, "wb", closefd=False) as out:
                out.write(data)
            made.load(self.context, f"/proc/self/fd/{file}")
        except (ValueError, RuntimeError, IndexError, OverflowError, MemoryError) as error:
            raise Refused(Why.DAMAGED, f"{_NAMES[kind]} is damaged, or was made for other parameters") from error
        finally:
            os.close(file)
        return made


_NAMES = {
    "Ciphertext": "the ciphertext",
    "SecretKey": "the secret key",
    "GaloisKeys": "the evaluation key",
    "RelinKeys": "the evaluation key",
}


def stream_length(data: bytes) -> int | None:
    """How long SEAL's stream at the start of `data` says it is; None when there is none."""
    if len(data) < _HEADER or data[:3] != _MAGIC:
        return None
    return int.from_bytes(data[8:_HEADER], "little")


def dump(thing: Any) -> bytes:
    """The bytes of one of SEAL's objects."""
    file = os.memfd_create("cohortium", os.MFD_CLOEXEC)
    try:
        thing.save(f"/proc/self/fd/{file}")
        with open(file, "rb", closefd=False) as read:
            return read.read()
    finally:
        os.close(file)
