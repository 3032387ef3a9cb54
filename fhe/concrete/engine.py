"""The backend in a worker, by `concrete.compiler` alone: keys, encryption, computation, decryption.

A set of keys is generated as a whole, from randomness that the library takes from the operating system (which its seeds mean
when they are zero). The secret is then only the LWE secret keys; with parameters from which the evaluation keys are struck out,
the library makes a set of keys of them at once, where reading the whole set again would take tens of megabytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from concrete import compiler  # type: ignore[import-not-found,unused-ignore]

from fhe.backend import Values
from fhe.bundle import Bundle
from fhe.concrete.library import check_version, load_library
from fhe.concrete.options import PROGRAM
from fhe.errors import BundleError, InputError, Refused, Why

_LENGTH = struct.Struct(">I")
_EVALUATION = ("lweBootstrapKeys", "lweKeyswitchKeys", "packingKeyswitchKeys")


class ConcreteEngine:
    """See `fhe.backend.Engine`."""

    def __init__(self, program: bytes, shape: tuple[int, ...], library: Callable[[], Any]) -> None:
        """`program`: the part of that name; `shape`: of one result; `library` is asked for when something is to be computed.

        Raises BundleError for a program that is none.
        """
        self._shape = shape
        self._library = library
        try:
            whole = json.loads(program)
            self._program = compiler.ProgramInfo.deserialize(program)
            client = whole | {"keyset": whole["keyset"] | {kind: [] for kind in _EVALUATION}}
            self._client_program = compiler.ProgramInfo.deserialize(json.dumps(client).encode())
            (circuit,) = self._program.get_circuits()
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            raise BundleError(f"{PROGRAM} in the bundle cannot be read; its owner has to make the bundle anew") from error
        self._circuit = circuit.get_name()
        self._server: Any = None

    def keygen(self, key: Path) -> bytes:
        """See `Engine.keygen`."""
        keys = compiler.Keyset(self._program, None, 0, 0, 0, 0, None)
        key.write_bytes(keys.get_server_keys().serialize())
        parts = [one.serialize() for one in keys.get_client_keys().get_secret_keys()]
        return b"".join(_LENGTH.pack(len(part)) + part for part in parts)

    def encrypt(self, secret: bytes, values: Values) -> list[bytes]:
        """See `Engine.encrypt`."""
        if values.dtype.kind != "i":
            raise InputError("a circuit on integers encrypts integers")
        client = self._client(secret)
        # One sample is a batch of one: that is how circuits are compiled.
        return [client.prepare_input(compiler.Value(sample[np.newaxis]), 0).serialize() for sample in values]

    def decrypt(self, secret: bytes, payloads: list[bytes]) -> Values:
        """See `Engine.decrypt`. Exact, so that nothing is rounded."""
        client = self._client(secret)
        results = [client.process_output(self._value(payload), 0).to_py_val() for payload in payloads]
        try:
            return np.array(results, dtype=np.int64).reshape(len(payloads), *self._shape)
        except ValueError:
            raise BundleError("the results do not have the shape that the bundle declares") from None

    def expand(self, key: Path) -> object:
        """See `Engine.expand`. What can be told without computing; the rest happens in the first computation."""
        try:
            return compiler.ServerKeyset.deserialize(key.read_bytes())
        except RuntimeError:
            raise Refused(Why.DAMAGED, "the evaluation key cannot be read; make it and send it again") from None

    def infer(self, expanded: object, payload: bytes) -> bytes:
        """See `Engine.infer`."""
        if self._server is None:
            self._server = compiler.ServerProgram(self._library(), False).get_server_circuit(self._circuit)
        (result,) = self._server.call([self._value(payload)], expanded)
        out: bytes = result.serialize()
        return out

    def _client(self, secret: bytes) -> Any:
        keys, at = {}, 0
        for position, form in enumerate(self._program.get_keyset_info().secret_keys()):
            (length,) = _LENGTH.unpack(secret[at : at + _LENGTH.size])
            at += _LENGTH.size
            keys[position] = compiler.LweSecretKey.deserialize(secret[at : at + length], form)
            at += length
        keyset = compiler.Keyset(self._client_program, None, 0, 0, 0, 0, keys)
        return compiler.ClientProgram.create_encrypted(self._client_program, keyset).get_client_circuit(self._circuit)

    def _value(self, payload: bytes) -> Any:
        try:
            return compiler.TransportValue.deserialize(payload)
        except RuntimeError:
            raise Refused(Why.DAMAGED, "a ciphertext cannot be read; make it and send it again") from None


def open_engine(bundle: Bundle, cache: Path) -> ConcreteEngine:
    """See `fhe.backend.open_engine`."""
    check_version(bundle)
    return ConcreteEngine(bundle.part(PROGRAM), bundle.model.output.shape, lambda: load_library(bundle, cache))
