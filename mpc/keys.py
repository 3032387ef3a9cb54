"""What a node signs and opens with.

Identity key: P-256, in the certificate, signs. Encryption key: RSA, short-lived, never the identity key; it is published as a
key statement that the identity key signed. Round key: X25519, one a node and round, mixed into every content key of the round
and forgotten with it, so that a stolen encryption key opens no finished round.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from mpc.errors import Answer, MessageRefused
from mpc.identity import Credential, Identity
from mpc.secret import Entropy
from mpc.signature import SIGNATURE_BYTES, sha256
from mpc.statement import Signed, read, sign
from mpc.wire import Struct

PURPOSE = "key-statement"
PUBLIC_EXPONENT = 65537
MIN_BITS = 2048
MAX_BITS = 4096
DEFAULT_BITS = 3072
DEFAULT_LIFETIME = 8 * 24 * 3600
"""Seconds that a key statement is valid for: a day in which rounds are promised the key, and a week in which they may end."""
MAX_LIFETIME = 31 * 24 * 3600
"""A statement that claims to live longer than this is refused: encryption keys are short-lived."""
_MAX_STATEMENT = 2048
_AGREED = 2048
"""Secrets that a round key remembers; each would take 0.03 ms to agree upon again."""
CLOCK_SKEW = 300
"""Seconds by which two honest clocks may differ."""


class KeyStatement(Struct, frozen=True):
    """`node` says: until `not_after`, wrap secrets for me with this key."""

    node: str
    key_id: bytes
    """SHA-256 of `public_key`."""
    public_key: bytes
    """RSA SubjectPublicKeyInfo, DER (RFC 8017 appendix A.1.1)."""
    not_before: int
    """Unix seconds."""
    not_after: int
    """Unix seconds; the last valid second."""


@dataclass(frozen=True, slots=True)
class WrappingKey:
    """A checked key statement: what a sender needs in order to wrap a secret for `node`."""

    node: Identity
    key_id: bytes
    public_key: rsa.RSAPublicKey
    not_before: int
    not_after: int


@dataclass(frozen=True, slots=True)
class EncryptionKey:
    """A node's own RSA key and the signed statement that publishes it."""

    private_key: rsa.RSAPrivateKey = field(repr=False)
    key_id: bytes
    statement: Signed
    not_after: int


@dataclass(frozen=True, slots=True)
class Keyring:
    """Everything a node signs and opens with at one moment. A round keeps the keyring that it began with."""

    identity: Identity
    signing_key: ec.EllipticCurvePrivateKey = field(repr=False)
    chain: tuple[bytes, ...] = field(repr=False)
    """DER certificates, the node's own first, without the root."""
    encryption: EncryptionKey

    @property
    def certificate_digest(self) -> bytes:
        """SHA-256 of the node's own certificate."""
        return sha256(self.chain[0])


class RoundKey:
    """A node's X25519 key for one round (RFC 7748). Forgetting the object forgets the key."""

    __slots__ = ("_agreed", "_private", "public")

    def __init__(self, entropy: Entropy) -> None:
        self._private = x25519.X25519PrivateKey.from_private_bytes(entropy(32))
        self.public = self._private.public_key().public_bytes_raw()
        self._agreed: dict[bytes, bytes] = {}

    def __repr__(self) -> str:
        return "<round key>"

    def agrees(self, peer: bytes) -> bool:
        """Whether `peer` is a public key that a secret can be shared with."""
        try:
            self.agree(peer)
        except ValueError:
            return False
        return True

    def agree(self, peer: bytes) -> bytes:
        """The secret shared with the holder of the public key `peer`, 32 bytes. Raises ValueError for a point of small order."""
        if peer not in self._agreed:
            if len(self._agreed) >= _AGREED:  # more than any roster has: somebody sends ever new keys
                self._agreed.clear()
            self._agreed[peer] = self._private.exchange(x25519.X25519PublicKey.from_public_bytes(peer))
        return self._agreed[peer]


def publish(
    identity: Identity,
    signing_key: ec.EllipticCurvePrivateKey,
    private_key: rsa.RSAPrivateKey,
    now: float,
    lifetime: int = DEFAULT_LIFETIME,
) -> EncryptionKey:
    """Makes the statement for an RSA key of 2048 to 4096 bits. `now` in Unix seconds, `lifetime` in seconds."""
    spki = private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    # Back-dated, so that a peer whose clock is a little slow can use it at once.
    not_before, not_after = int(now) - CLOCK_SKEW, int(now) + lifetime
    key_id = sha256(spki)
    statement = KeyStatement(identity.uri, key_id, spki, not_before, not_after)
    return EncryptionKey(private_key, key_id, sign(signing_key, PURPOSE, statement), not_after)


def check_statement(statement: Signed, credential: Credential, now: float) -> WrappingKey:
    """The key that `statement` publishes, if the holder of `credential` signed it and it is valid at `now`.

    Raises MessageRefused with the reason "key-statement" for anything else: another node's statement, a key that is not RSA
    of 2048 to 4096 bits with e = 65537 in its one DER form, a wrong key id, an over-long life or a time outside it.
    """
    # Before anything is remembered of it: a statement with a 4096-bit key and the longest name takes 900 bytes.
    small = len(statement.body) <= _MAX_STATEMENT and len(statement.signature) == SIGNATURE_BYTES
    key = _read_statement(statement, credential) if small else None
    if key is None or not key.not_before <= now <= key.not_after:
        raise MessageRefused(Answer.REFUSED, "key-statement")
    return key


@lru_cache(maxsize=1024)
def _read_statement(statement: Signed, credential: Credential) -> WrappingKey | None:
    # The same statement comes with every round of its day; everything but the time is checked once.
    try:
        content = read(statement, PURPOSE, KeyStatement, credential.public_key)
    except MessageRefused:
        return None
    if content is None or content.node != credential.identity.uri:
        return None
    if sha256(content.public_key) != content.key_id:
        return None
    if not 0 <= content.not_before < content.not_after <= content.not_before + MAX_LIFETIME:
        return None
    try:
        public_key = load_der_public_key(content.public_key)
    except (ValueError, UnsupportedAlgorithm):
        return None
    if not isinstance(public_key, rsa.RSAPublicKey) or not MIN_BITS <= public_key.key_size <= MAX_BITS:
        return None
    if public_key.public_numbers().e != PUBLIC_EXPONENT:
        return None
    if public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != content.public_key:
        return None
    try:  # OpenSSL loads moduli that it cannot compute with; better to know now than when a seed is to be wrapped
        public_key.encrypt(b"", padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label=None))
    except ValueError:
        return None
    return WrappingKey(credential.identity, content.key_id, public_key, content.not_before, content.not_after)
