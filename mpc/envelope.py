"""Seal and open: RSA-OAEP wraps a fresh secret, AES-256-GCM seals the payload, the sender signs it all.

Layout, integers big-endian (docs/protocol.md has the vectors):

    1        version
    2, n     header: length, MessagePack
    1        number of certificates; each: 2, n   DER, the signer's own first
    2, n     wrapped secret: length, RSA-OAEP (SHA-256, MGF1-SHA-256, label = header); empty when the kind is not sealed
    4, n     ciphertext: length, AES-256-GCM with its 16-byte tag; the bare payload when the kind is not sealed
    64       signature over tag-of-kind ‖ 0 ‖ all of the above

    content key     = HKDF-SHA256(secret ‖ X25519(sender's round key, recipient's round key), info = header)
                      HKDF-SHA256(secret, info = header) for an Invitation: nobody knows the recipient's round key yet
    associated data = everything before the ciphertext's length

A content key seals once, so the nonce is zero; a retry resends the same bytes. Fixed lengths and one signature form leave a
third party nothing to alter: the digest of the signed bytes is the message's name.

An Invitation goes unsealed straight to its recipient, and sealed through a relay. That seal rests on the recipient's RSA key
alone: who records it and steals that key before it is erased reads the question. No answer is in it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mpc.errors import Answer, IdentityError, MessageRefused
from mpc.identity import Identity
from mpc.keys import Keyring, RoundKey, WrappingKey
from mpc.messages import NEWEST_VERSION, OLDEST_VERSION, RULES, Digest, Kind, RoundId
from mpc.messages import RoundKey as RoundKeyBytes
from mpc.signature import SIGNATURE_BYTES, sign_digest, tagged_digest
from mpc.wire import Struct, decode, encode

OVERHEAD = 4096 + 3 * 8192
"""Bytes that an envelope may add to its payload at the most: header, chain, wrapped secret, tag, signature."""
MAX_CHAIN = 3
_NONCE = bytes(12)
_TAG_BYTES = 16
SECRET_BYTES = 32


class Header(Struct, frozen=True):
    """What everyone who carries the envelope can read."""

    kind: Kind
    round: RoundId
    context: Digest
    sender: str
    recipient: str
    key_id: bytes
    """Of the recipient's encryption key; empty when the kind is not sealed."""
    certificate: Digest
    """SHA-256 of the signer's certificate."""
    round_key: RoundKeyBytes
    """The sender's."""


@dataclass(frozen=True, slots=True, repr=False)
class Envelope:
    """A received envelope, taken apart. Nothing about it is verified yet."""

    version: int
    header: Header
    sender: Identity
    recipient: Identity
    chain: tuple[bytes, ...]
    prefix: memoryview
    """Everything before the ciphertext's length: the associated data."""
    header_bytes: bytes
    wrapped: bytes
    ciphertext: memoryview
    signature: bytes
    digest: bytes
    """The tagged digest of the signed bytes: what the signature is over, and the message's name."""

    @property
    def kind(self) -> Kind:
        """What the message is."""
        return self.header.kind

    @property
    def sealed(self) -> bool:
        """Whether its payload is encrypted for the recipient, so that a relay may carry it."""
        return bool(self.wrapped)


@dataclass(frozen=True, slots=True, repr=False)
class Recipient:
    """Where a sealed message goes: who, the key that wraps, the round key that is mixed in."""

    identity: Identity
    wrapping_key: WrappingKey
    round_key: bytes
    """Empty for an Invitation, which comes before it."""


@dataclass(frozen=True, slots=True)
class Place:
    """What an envelope belongs to: a round, the context in it, and the protocol version that it speaks."""

    round: bytes
    context: bytes
    version: int = OLDEST_VERSION


def _oaep(header: bytes) -> padding.OAEP:
    return padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label=header)


def _content_key(secret: bytes, agreed: bytes, header: bytes) -> AESGCM:
    return AESGCM(HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=header).derive(secret + agreed))


def _prefix(version: int, header: bytes, chain: tuple[bytes, ...], wrapped: bytes) -> bytes:
    parts = [struct.pack(">BH", version, len(header)), header, struct.pack(">B", len(chain))]
    for certificate in chain:
        parts += [struct.pack(">H", len(certificate)), certificate]
    parts += [struct.pack(">H", len(wrapped)), wrapped]
    return b"".join(parts)


def seal(
    kind: Kind,
    payload: bytes,
    place: Place,
    *,
    keyring: Keyring,
    round_key: RoundKey,
    recipient: Recipient,
    secret: bytes,
) -> tuple[bytes, bytes]:
    """(the envelope, its digest). The payload is encrypted for `recipient` and signed by the keyring's owner.

    `secret` is 32 fresh unpredictable bytes: it makes the content key, which seals this once.
    """
    assert bool(recipient.round_key) == RULES[kind].sealed, "only an Invitation is sealed without the recipient's round key"
    key = recipient.wrapping_key
    header = _header(kind, place, keyring, round_key, recipient.identity, key.key_id)
    wrapped = key.public_key.encrypt(secret, _oaep(header))
    prefix = _prefix(place.version, header, keyring.chain if RULES[kind].introduces else (), wrapped)
    size = len(payload) + _TAG_BYTES
    envelope = bytearray(len(prefix) + 4 + size + SIGNATURE_BYTES)
    envelope[: len(prefix) + 4] = prefix + struct.pack(">I", size)
    agreed = round_key.agree(recipient.round_key) if recipient.round_key else b""
    content_key = _content_key(secret, agreed, header)
    content_key.encrypt_into(_NONCE, payload, prefix, memoryview(envelope)[len(prefix) + 4 : -SIGNATURE_BYTES])
    return _signed(kind, envelope, keyring)


def write_unsealed(
    kind: Kind, payload: bytes, place: Place, *, keyring: Keyring, round_key: RoundKey, recipient: Identity
) -> tuple[bytes, bytes]:
    """(the envelope, its digest) of a kind that is signed only. It must go straight to the recipient, over TLS."""
    header = _header(kind, place, keyring, round_key, recipient, b"")
    prefix = _prefix(place.version, header, keyring.chain if RULES[kind].introduces else (), b"")
    envelope = bytearray(prefix + struct.pack(">I", len(payload)) + payload + bytes(SIGNATURE_BYTES))
    return _signed(kind, envelope, keyring)


def _header(kind: Kind, place: Place, keyring: Keyring, round_key: RoundKey, recipient: Identity, key_id: bytes) -> bytes:
    return encode(
        Header(
            kind=kind,
            round=place.round,
            context=place.context,
            sender=keyring.identity.uri,
            recipient=recipient.uri,
            key_id=key_id,
            certificate=keyring.certificate_digest,
            round_key=round_key.public,
        )
    )


def _signed(kind: Kind, envelope: bytearray, keyring: Keyring) -> tuple[bytes, bytes]:
    digest = tagged_digest(kind.purpose, memoryview(envelope)[:-SIGNATURE_BYTES])
    envelope[-SIGNATURE_BYTES:] = sign_digest(keyring.signing_key, digest)
    return bytes(envelope), digest


class _Reader:
    """Takes fixed and length-prefixed fields off the front of a message."""

    __slots__ = ("at", "raw")

    def __init__(self, raw: memoryview) -> None:
        self.raw = raw
        self.at = 0

    def take(self, size: int) -> memoryview:
        if size > len(self.raw) - self.at:
            raise MessageRefused(Answer.REJECTED, "encoding")
        self.at += size
        return self.raw[self.at - size : self.at]

    def number(self) -> int:
        return self.take(1)[0]

    def field(self, size: int) -> memoryview:
        """What follows its own length, which takes `size` bytes."""
        start = self.at + size
        self.at = start + int.from_bytes(self.raw[self.at : start], "big")
        if self.at > len(self.raw):
            raise MessageRefused(Answer.REJECTED, "encoding")
        return self.raw[start : self.at]


def parse(raw: bytes, max_size: int) -> Envelope:
    """Takes an envelope apart. Raises MessageRefused unless it is exactly one envelope.

    The checks are "size", then "version" and "encoding" as the bytes come: a future version may lay out the rest otherwise.
    """
    if len(raw) > max_size:
        raise MessageRefused(Answer.REJECTED, "size")
    reader = _Reader(memoryview(raw))
    version = reader.number()
    if not OLDEST_VERSION <= version <= NEWEST_VERSION:
        raise MessageRefused(Answer.REJECTED, "version")
    header_bytes = bytes(reader.field(2))
    header = decode(header_bytes, Header)
    count = reader.number()
    if count > MAX_CHAIN:
        raise MessageRefused(Answer.REJECTED, "encoding")
    chain = tuple(bytes(reader.field(2)) for _ in range(count))
    wrapped = bytes(reader.field(2))
    prefix = reader.raw[: reader.at]
    ciphertext = reader.field(4)
    signed = reader.raw[: reader.at]
    signature = bytes(reader.take(SIGNATURE_BYTES))
    rule = RULES[header.kind]
    if reader.at != len(reader.raw) or bool(chain) != rule.introduces:
        raise MessageRefused(Answer.REJECTED, "encoding")
    if len(header.key_id) != (32 if wrapped else 0) or (rule.sealed and not wrapped):
        raise MessageRefused(Answer.REJECTED, "encoding")
    try:
        sender, recipient = Identity.parse(header.sender), Identity.parse(header.recipient)
    except IdentityError as error:
        raise MessageRefused(Answer.REJECTED, "encoding") from error
    digest = tagged_digest(header.kind.purpose, signed)
    return Envelope(version, header, sender, recipient, chain, prefix, header_bytes, wrapped, ciphertext, signature, digest)


def is_sealed(raw: bytes) -> bool:
    """Whether an envelope of one's own, which was written well, is encrypted for its recipient. Verifies nothing."""
    reader = _Reader(memoryview(raw))
    reader.take(1)
    reader.field(2)
    for _ in range(reader.number()):
        reader.field(2)
    return len(reader.field(2)) > 0


def open_sealed(envelope: Envelope, private_key: rsa.RSAPrivateKey, round_key: RoundKey | None) -> bytes:
    """The payload; `round_key` is the recipient's, None for an Invitation. Raises MessageRefused ("unopenable") whatever it is
    that fails, after the same work.
    """
    sound = True
    try:
        secret = private_key.decrypt(envelope.wrapped, _oaep(envelope.header_bytes))
    except ValueError:
        secret, sound = bytes(SECRET_BYTES), False
    if len(secret) != SECRET_BYTES:
        secret, sound = bytes(SECRET_BYTES), False
    try:
        agreed = round_key.agree(envelope.header.round_key) if round_key is not None else b""
    except ValueError:
        agreed, sound = bytes(32), False
    payload = bytearray(max(0, len(envelope.ciphertext) - _TAG_BYTES))
    try:
        content_key = _content_key(secret, agreed, envelope.header_bytes)
        content_key.decrypt_into(_NONCE, envelope.ciphertext, envelope.prefix, payload)
    except (InvalidTag, ValueError):
        sound = False
    if not sound:
        raise MessageRefused(Answer.UNOPENABLE, "unopenable")
    return bytes(payload)
