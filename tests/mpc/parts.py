"""An envelope cut into its fields and put together again, for tests that change one of them.

Written from the layout in the documents, not from `mpc.envelope`, so that it would disagree if the code drifted.
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from mpc.signature import sign_digest, tagged_digest

HEADER_FIELDS = ("kind", "round", "context", "sender", "recipient", "key_id", "certificate", "round_key")

# Of P-256 (SP 800-186 section 3.2.1.3).
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl program is not installed")


@dataclass(frozen=True, repr=False)
class Parts:
    version: int
    header: bytes
    chain: tuple[bytes, ...]
    wrapped: bytes
    ciphertext: bytes
    signature: bytes

    @classmethod
    def split(cls, raw: bytes) -> Parts:
        at = 1

        def take(prefix: int) -> bytes:
            nonlocal at
            size = int.from_bytes(raw[at : at + prefix], "big")
            at += prefix + size
            return raw[at - size : at]

        header = take(2)
        count = raw[at]
        at += 1
        chain = tuple(take(2) for _ in range(count))
        wrapped = take(2)
        ciphertext = take(4)
        parts = cls(raw[0], header, chain, wrapped, ciphertext, raw[at:])
        assert parts.join() == raw
        return parts

    @property
    def signed_bytes(self) -> bytes:
        raw = bytes([self.version]) + len(self.header).to_bytes(2, "big") + self.header + bytes([len(self.chain)])
        for certificate in self.chain:
            raw += len(certificate).to_bytes(2, "big") + certificate
        raw += len(self.wrapped).to_bytes(2, "big") + self.wrapped
        return raw + len(self.ciphertext).to_bytes(4, "big") + self.ciphertext

    def join(self) -> bytes:
        return self.signed_bytes + self.signature

    def with_header(self, **changes: Any) -> Parts:
        fields: list[Any] = msgspec.msgpack.decode(self.header)
        for name, value in changes.items():
            fields[HEADER_FIELDS.index(name)] = value
        return self.replace(header=msgspec.msgpack.encode(fields))

    def replace(self, **changes: Any) -> Parts:
        return dataclasses.replace(self, **changes)

    def signed(self, key: ec.EllipticCurvePrivateKey, purpose: str) -> Parts:
        return self.replace(signature=sign_digest(key, tagged_digest(purpose, self.signed_bytes)))
