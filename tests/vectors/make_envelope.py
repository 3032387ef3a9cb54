"""Makes envelope.json: envelopes to open, field by field, and altered ones with what they must be answered.

    python tests/vectors/make_envelope.py > tests/vectors/envelope.json

Run from the top of the checkout. Keys and drawn bytes come from the digest of a label, except the RSA keys, which no seed can
make; OAEP is random besides. So a second run gives other bytes of the same shape: the file is made once, and frozen.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

sys.path.insert(0, str(Path(__file__).parents[2]))

from mpc.envelope import Place, Recipient, seal, write_unsealed
from mpc.identity import Identity, Role
from mpc.keys import Keyring, RoundKey, check_statement, publish
from mpc.messages import Declined, Kind, Share
from mpc.wire import encode
from pki.profile import ListenerNames, leaf_certificate, root_certificate
from pki.trust import TrustStore
from tests.mpc.parts import ORDER, Parts

NOW = 1_700_000_000
ROUND, CONTEXT, SEED = bytes(range(16)), bytes(range(32, 64)), bytes(range(64, 96))


def drawn(label: str) -> Callable[[int], bytes]:
    numbers = itertools.count()
    return lambda size: hashlib.sha256(f"{label} {next(numbers)}".encode()).digest()[:size]


def signing_key(label: str) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(drawn(label)(32), "big") % (ORDER - 1) + 1, ec.SECP256R1())


ROOT_KEY = signing_key("root")
ROOT = root_certificate("demo", ROOT_KEY, NOW)


@dataclass(frozen=True)
class Node:
    """A node with all its keys."""

    keyring: Keyring
    round_secret: bytes

    @classmethod
    def make(cls, role: Role, name: str) -> Node:
        identity, key = Identity("demo", role, name), signing_key(name)
        names = ListenerNames.parse((), ("127.0.0.1",))
        leaf = leaf_certificate(identity, key.public_key(), names, ROOT, ROOT_KEY, NOW, 30)
        encryption = publish(identity, key, rsa.generate_private_key(65537, 2048), NOW)
        return cls(Keyring(identity, key, (leaf.public_bytes(Encoding.DER),), encryption), drawn(f"round key {name}")(32))

    @property
    def round_key(self) -> RoundKey:
        return RoundKey(lambda _: self.round_secret)

    @property
    def recipient(self) -> Recipient:
        credential = TrustStore([ROOT.public_bytes(Encoding.DER)]).verify(self.keyring.chain, NOW)
        wrapping_key = check_statement(self.keyring.encryption.statement, credential, NOW)
        return Recipient(self.keyring.identity, wrapping_key, self.round_key.public)

    def table(self) -> dict[str, str]:
        private = self.keyring.encryption.private_key
        return {
            "identity": self.keyring.identity.uri,
            "certificate": self.keyring.chain[0].hex(),
            "identity_key_pkcs8": _pkcs8(self.keyring.signing_key),
            "encryption_key_pkcs8": _pkcs8(private),
            "encryption_key_id": self.keyring.encryption.key_id.hex(),
            "round_key_private": self.round_secret.hex(),
            "round_key_public": self.round_key.public.hex(),
        }


def _pkcs8(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()).hex()


def sealed(kind: Kind, payload: bytes, sender: Node, recipient: Node) -> bytes:
    envelope, _ = seal(
        kind,
        payload,
        Place(ROUND, CONTEXT),
        keyring=sender.keyring,
        round_key=sender.round_key,
        recipient=recipient.recipient,
        secret=drawn("content secret")(32),
    )
    return envelope


def fields(raw: bytes) -> list[dict[str, str]]:
    parts = Parts.split(raw)
    named = [
        ("version", bytes([parts.version]), "1 byte"),
        ("header length", len(parts.header).to_bytes(2, "big"), "2 bytes, big-endian"),
        ("header", parts.header, "MessagePack array: kind, round, context, sender, recipient, key id, certificate, round key"),
        ("certificates", bytes([len(parts.chain)]), "how many follow; the sender's own first"),
        *((f"certificate {i}", len(c).to_bytes(2, "big") + c, "2 bytes of length, DER") for i, c in enumerate(parts.chain)),
        ("wrapped length", len(parts.wrapped).to_bytes(2, "big"), "2 bytes; 0 in a kind that is not sealed"),
        ("wrapped secret", parts.wrapped, "RSA-OAEP, SHA-256, MGF1-SHA-256, label = header"),
        ("ciphertext length", len(parts.ciphertext).to_bytes(4, "big"), "4 bytes"),
        ("ciphertext", parts.ciphertext, "AES-256-GCM and its 16-byte tag; the payload itself in a kind that is not sealed"),
        ("signature", parts.signature, "r and s, 32 bytes each, s in the lower half of the order"),
    ]
    return [{"field": name, "bytes": octets.hex(), "what": what} for name, octets, what in named]


def refused(name: str, envelope: bytes, answer: str, reason: str) -> dict[str, str]:
    return {"name": name, "envelope": envelope.hex(), "answer": answer, "reason": reason}


def main() -> None:
    """Prints the JSON."""
    alice, bob = Node.make(Role.PATIENT, "alice"), Node.make(Role.PATIENT, "bob")
    hospital = Node.make(Role.HOSPITAL, "st-marys")
    share = encode(Share(SEED))
    declined = encode(Declined(CONTEXT))
    good = sealed(Kind.SHARE, share, alice, bob)
    other = sealed(Kind.SHARE, encode(Share(bytes(32))), alice, bob)
    introduced = sealed(Kind.DECLINED, declined, alice, hospital)
    invitation, _ = write_unsealed(
        Kind.INVITATION,
        b"a question",
        Place(ROUND, hashlib.sha256(b"a question").digest()),
        keyring=hospital.keyring,
        round_key=hospital.round_key,
        recipient=bob.keyring.identity,
    )
    sealed_invitation, _ = seal(
        Kind.INVITATION,
        b"a question",
        Place(ROUND, hashlib.sha256(b"a question").digest()),
        keyring=hospital.keyring,
        round_key=hospital.round_key,
        recipient=replace(bob.recipient, round_key=b""),
        secret=drawn("content secret")(32),
    )
    parts, key = Parts.split(good), alice.keyring.signing_key
    purpose = Kind.SHARE.purpose
    high_s = ORDER - int.from_bytes(parts.signature[32:], "big")
    negative = [
        refused("another version", b"\2" + good[1:], "rejected", "version"),
        refused("a byte too many", good + b"\0", "rejected", "encoding"),
        refused("a byte too few", good[:-1], "rejected", "encoding"),
        refused(
            "the other half of the signature",
            parts.replace(signature=parts.signature[:32] + high_s.to_bytes(32, "big")).join(),
            "rejected",
            "signature",
        ),
        refused("a bit of the ciphertext", _flip(good, len(good) - 70), "rejected", "signature"),
        refused("another recipient", parts.with_header(recipient=hospital.keyring.identity.uri).join(), "rejected", "recipient"),
        refused("another sender", parts.with_header(sender=hospital.keyring.identity.uri).join(), "rejected", "certificate"),
        refused("another kind", parts.with_header(kind=int(Kind.ABORT)).join(), "rejected", "signature"),
        refused("another context", parts.with_header(context=bytes(32)).join(), "rejected", "signature"),
        refused(
            "the wrapped secret of another envelope, signed anew",
            parts.replace(wrapped=Parts.split(other).wrapped).signed(key, purpose).join(),
            "unopenable",
            "unopenable",
        ),
        refused(
            "another context in the header, signed anew",
            parts.with_header(context=bytes(32)).signed(key, purpose).join(),
            "unopenable",
            "unopenable",
        ),
        refused(
            "a bit of the ciphertext, signed anew",
            parts.replace(ciphertext=_flip(parts.ciphertext, 0)).signed(key, purpose).join(),
            "unopenable",
            "unopenable",
        ),
        refused(
            "another payload than a share's, of the right size",
            sealed(Kind.SHARE, b"\x91\xc4\x1f" + bytes(32), alice, bob),
            "unopenable",
            "payload",
        ),
        refused("no wrapped secret", parts.replace(wrapped=b"").signed(key, purpose).join(), "rejected", "encoding"),
        refused(
            "a certificate where none belongs",
            parts.replace(chain=alice.keyring.chain).signed(key, purpose).join(),
            "rejected",
            "encoding",
        ),
    ]
    vectors = {
        "what": "envelopes to open, made by make_envelope.py; all bytes in hexadecimal; the keys are for tests alone",
        "now": NOW,
        "root": ROOT.public_bytes(Encoding.DER).hex(),
        "nodes": {"alice": alice.table(), "bob": bob.table(), "st-marys": hospital.table()},
        "good": [
            {"name": "a share", "sender": "alice", "recipient": "bob", "payload": share.hex(), "fields": fields(good)},
            {
                "name": "a refusal, which carries its sender's certificate",
                "sender": "alice",
                "recipient": "st-marys",
                "payload": declined.hex(),
                "fields": fields(introduced),
            },
            {
                "name": "an invitation, which is signed and not sealed",
                "sender": "st-marys",
                "recipient": "bob",
                "payload": b"a question".hex(),
                "fields": fields(invitation),
            },
            {
                "name": "the same invitation, sealed for a relay to carry; no round key of bob's goes into its content key",
                "sender": "st-marys",
                "recipient": "bob",
                "payload": b"a question".hex(),
                "fields": fields(sealed_invitation),
            },
        ],
        "refused": {
            "what": "each is the share above with one change; alice carries it to bob, who knows alice's certificate",
            "sender": "alice",
            "recipient": "bob",
            "cases": negative,
        },
    }
    print(json.dumps(vectors, indent=1))


def _flip(octets: bytes, at: int) -> bytes:
    return octets[:at] + bytes([octets[at] ^ 1]) + octets[at + 1 :]


if __name__ == "__main__":
    main()
