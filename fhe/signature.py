"""Who answers for a model: an ECDSA signature over its manifest, by a key that whoever uses the model decides to trust.

What is signed is "cohortium/v1/bundle" ‖ 0x00 ‖ manifest.json, with P-256 and SHA-256, as DER (RFC 3279 section 2.2.3). Beside it
stand the public key and, where the owner has one, its certificate chain. Whether that key may offer models is not said here:
`fhe.bundle.Trust` decides, by the chain or by the key's fingerprint.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence

import msgspec

from fhe.errors import SignerError

_PURPOSE = b"cohortium/v1/bundle\0"


class Signature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `signature.json` says."""

    public_key: str
    """SubjectPublicKeyInfo (RFC 5280 section 4.1) of a P-256 key, DER in base64."""
    signature: str
    """DER in base64."""
    chain: tuple[str, ...] = ()
    """The owner's certificates, DER in base64, its own first, without the root."""

    @property
    def key(self) -> bytes:
        """The public key as DER. Raises SignerError."""
        return _bytes(self.public_key)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the public key's DER in lower-case hex: what a person compares or pins."""
        return hashlib.sha256(self.key).hexdigest()

    @property
    def certificates(self) -> tuple[bytes, ...]:
        """The chain as DER. Raises SignerError."""
        return tuple(map(_bytes, self.chain))


Signer = Callable[[bytes], Signature]
"""Signs a manifest."""


def make_signer(key: object, chain: Sequence[bytes] = ()) -> Signer:
    """Signs with `key`, an EllipticCurvePrivateKey on P-256; `chain` is DER, the leaf first."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise SignerError("bundles are signed with a P-256 key; make one with 'cohortium pki request'")
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def sign(manifest: bytes) -> Signature:
        return Signature(
            public_key=_text(public),
            signature=_text(key.sign(_PURPOSE + manifest, ec.ECDSA(hashes.SHA256()))),
            chain=tuple(map(_text, chain)),
        )

    return sign


def verify(signature: Signature, manifest: bytes) -> None:
    """Raises SignerError unless the signature is that of `manifest` by the key beside it. Says nothing about trust."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        key = load_der_public_key(signature.key)
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise SignerError("the bundle is not signed with a P-256 key")
        key.verify(_bytes(signature.signature), _PURPOSE + manifest, ec.ECDSA(hashes.SHA256()))
    except (ValueError, UnsupportedAlgorithm, InvalidSignature):
        raise SignerError("the bundle's signature does not hold: it was altered after its owner signed it") from None


def trust_fingerprints(*fingerprints: str) -> Callable[[Signature], None]:
    """Trusts the keys with these fingerprints (SHA-256 in hex) and no others."""
    trusted = {fingerprint.lower() for fingerprint in fingerprints}

    def trust(signature: Signature) -> None:
        if signature.fingerprint not in trusted:
            raise SignerError(
                f"the bundle is signed by the key {signature.fingerprint}, which is not trusted here; "
                f"compare it with the one that the model's owner tells you, and name it"
            )

    return trust


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise SignerError("the bundle's signature is not written as it must be; fetch the bundle again") from None
