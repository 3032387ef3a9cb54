"""ECDSA over P-256 with a tag for each purpose, in the one form that cannot be altered by others.

A signature is r ‖ s, 32 bytes each, big-endian, with s in the lower half of the group order: for every (r, s) that verifies,
(r, n - s) would too, and a relay could make a second message out of the first. Signing is deterministic (RFC 6979). What is
signed is `tag ‖ 0x00 ‖ data`; a tag is "cohortium/v1/" and the purpose, which no TLS handshake ever signs (those begin with
64 spaces, RFC 8446 section 4.4.3).
"""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

SIGNATURE_BYTES = 64

# The order of P-256 (FIPS 186-5 / SP 800-186 section 3.2.1.3).
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_SIGN = ec.ECDSA(utils.Prehashed(hashes.SHA256()), deterministic_signing=True)
_VERIFY = ec.ECDSA(utils.Prehashed(hashes.SHA256()))


def sha256(data: bytes | memoryview) -> bytes:
    """SHA-256 of `data` (FIPS 180-4)."""
    return hashlib.sha256(data).digest()


def tagged_digest(purpose: str, data: bytes | memoryview) -> bytes:
    """SHA-256 of tag ‖ 0x00 ‖ data: what is signed, and the name by which others refer to what was signed."""
    digest = hashlib.sha256(f"cohortium/v1/{purpose}".encode() + b"\0")
    digest.update(data)
    return digest.digest()


def sign_digest(key: ec.EllipticCurvePrivateKey, digest: bytes) -> bytes:
    """64 bytes over a digest that `tagged_digest` made."""
    r, s = utils.decode_dss_signature(key.sign(digest, _SIGN))
    return r.to_bytes(32, "big") + min(s, _ORDER - s).to_bytes(32, "big")


def verify_digest(key: ec.EllipticCurvePublicKey, signature: bytes, digest: bytes) -> bool:
    """Whether `signature` is the signature of `digest` by `key`, in its one form."""
    if len(signature) != SIGNATURE_BYTES:
        return False
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if not (0 < r < _ORDER and 0 < s <= _ORDER // 2):
        return False
    try:
        key.verify(utils.encode_dss_signature(r, s), digest, _VERIFY)
    except InvalidSignature:
        return False
    return True
