"""A signed statement: typed content that its author signed once and that others carry and check (key statement, consent, ready).

An envelope's signature proves who sent these bytes to whom; a statement's signature stands on its own, so that the hospital
can show it to every member.
"""

from __future__ import annotations

from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from mpc.signature import sign_digest, tagged_digest, verify_digest
from mpc.wire import Struct, decode_payload, encode

S = TypeVar("S", bound=Struct)


class Signed(Struct, frozen=True):
    """`body` is the encoded content; `signature` is over its tag and exactly these bytes."""

    body: bytes
    signature: bytes


def sign(key: ec.EllipticCurvePrivateKey, purpose: str, content: Struct) -> Signed:
    """`content` signed for `purpose`."""
    body = encode(content)
    return Signed(body, sign_digest(key, tagged_digest(purpose, body)))


def read(statement: Signed, purpose: str, kind: type[S], key: ec.EllipticCurvePublicKey) -> S | None:
    """The content if `key` signed it for `purpose`, else None.

    Raises MessageRefused ("payload") for signed content that is not `kind`.
    """
    if not verify_digest(key, statement.signature, tagged_digest(purpose, statement.body)):
        return None
    return decode_payload(statement.body, kind)
