"""Makes receipt.json: a receipt that holds, part by part, what opens its commitment, and altered ones that must be refused.

    python tests/vectors/make_receipt.py > tests/vectors/receipt.json

Written from docs/protocol.md with MessagePack, SHA-256, HMAC and ECDSA alone, and not with `mpc`, so that it would disagree if
the code drifted. The keys and certificates are those of envelope.json and tests/docs/charlie.json. Nothing is drawn, so a second
run gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

_HERE = Path(__file__).parent
ENVELOPES = json.loads((_HERE / "envelope.json").read_text(encoding="utf-8"))
NODES = ENVELOPES["nodes"] | {"charlie": json.loads((_HERE.parent / "docs" / "charlie.json").read_text(encoding="utf-8"))}
NOW: int = ENVELOPES["now"]
MEMBERS = ("alice", "bob", "charlie")
HOSPITAL = "st-marys"
INVITATION, STUDY, ROUND = (hashlib.sha256(word).digest() for word in (b"invitation", b"study", b"round"))
KEY = hashlib.sha256(b"commitment key").digest()
PURPOSE = "A receipt to test with."
# SP 800-186 section 3.2.1.3: the order of P-256.
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

pack = msgspec.msgpack.encode


def signed(name: str, purpose: str, body: bytes) -> list[bytes]:
    """Signed: `body` and the node's signature of it, deterministic and with s in the lower half."""
    key = load_der_private_key(bytes.fromhex(NODES[name]["identity_key_pkcs8"]), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    digest = tagged(purpose, body)
    r, s = utils.decode_dss_signature(key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256()), deterministic_signing=True)))
    return [body, r.to_bytes(32, "big") + min(s, ORDER - s).to_bytes(32, "big")]


def tagged(purpose: str, body: bytes) -> bytes:
    return hashlib.sha256(f"cohortium/v1/{purpose}".encode() + b"\0" + body).digest()


def chain(name: str) -> list[bytes]:
    return [bytes.fromhex(NODES[name]["certificate"])]


def consent(name: str) -> bytes:
    """The body of a Consent."""
    private = load_der_private_key(bytes.fromhex(NODES[name]["encryption_key_pkcs8"]), None)
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    key_statement = pack([NODES[name]["identity"], hashlib.sha256(public).digest(), public, NOW - 300, NOW + 86_400])
    return pack(
        [
            INVITATION,
            NODES[HOSPITAL]["identity"],
            hashlib.sha256(f"nonce {name}".encode()).digest(),
            f"https://{name}.example:7001",
            1,
            signed(name, "key-statement", key_statement),
            bytes.fromhex(NODES[name]["round_key_public"]),
            NOW + 60,
            STUDY,
            PURPOSE,
        ]
    )


def roster() -> bytes:
    members = [[chain(name), signed(name, "consent-statement", consent(name))] for name in MEMBERS]
    return pack([INVITATION, chain(HOSPITAL), members, []])


def result() -> bytes:
    """1575 over three members."""
    return pack([context(roster()), 3, [["sum", "heart_rate", (1575).to_bytes(8, "little", signed=True), ""]]])


def context(of: bytes) -> bytes:
    return hashlib.sha256(b"cohortium/v1/context" + of).digest()


def statement(**changes: Any) -> bytes:
    """The body of a ReceiptStatement, in the order of its fields."""
    fields = {
        "version": 1,
        "round": ROUND[:16],
        "context": context(roster()),
        "study": STUDY,
        "study_id": "resting-heart-rate",
        "terms": ["members", [["sum", "heart_rate", [], "", ""]], [0, 0], None],
        "commitment": hmac.new(KEY, result(), "sha256").digest(),
        "opened": NOW,
        "released": NOW + 2,
        "deadline": NOW + 60,
    }
    return pack(list((fields | changes).values()))


def receipt(
    body: bytes | None = None,
    signatures: tuple[str, ...] = ("alice", "", "charlie"),
    signer: str = HOSPITAL,
    of: bytes | None = None,
) -> bytes:
    """A SignedReceipt over `of`, with countersignatures by these nodes in the places of the members."""
    body = statement() if body is None else body
    said = pack([tagged("receipt-statement", body)])
    places = [signed(name, "countersignature-statement", said)[1] if name else b"" for name in signatures]
    return pack([roster() if of is None else of, signed(signer, "receipt-statement", body), places])


def armoured(content: bytes, what: str = "RECEIPT", width: int = 64) -> str:
    text = base64.b64encode(content).decode()
    lines = [text[at : at + width] for at in range(0, len(text), width)]
    return "\n".join([f"-----BEGIN COHORTIUM {what}-----", *lines, f"-----END COHORTIUM {what}-----", ""])


def vectors() -> dict[str, Any]:
    """The content of the file."""
    good, body = receipt(), statement()
    first, *rest = msgspec.msgpack.decode(good)
    flipped = pack([first[:-1] + bytes([first[-1] ^ 1]), *rest])
    high = msgspec.msgpack.decode(good)
    (r, s) = high[1][1][:32], int.from_bytes(high[1][1][32:], "big")
    high[1][1] = r + (ORDER - s).to_bytes(32, "big")
    swapped = msgspec.msgpack.decode(roster())
    swapped[2] = swapped[2][::-1]
    unsorted = pack(swapped)
    bad = {
        "a bit of the roster": armoured(flipped),
        "the other half of the hospital's signature": armoured(pack(high)),
        "signed by a member instead of the hospital": armoured(receipt(signer="alice")),
        "a countersignature in another's place": armoured(receipt(signatures=("", "alice", ""))),
        "one place too few": armoured(receipt(signatures=("alice", ""))),
        "members out of order": armoured(receipt(statement(context=context(unsorted)), ("", "", ""), of=unsorted)),
        "another study than the members consented to": armoured(receipt(statement(study=bytes(32)))),
        "a version that the members did not agree on": armoured(receipt(statement(version=2))),
        "a result before the opening": armoured(receipt(statement(released=NOW - 1))),
        "a byte after the end": armoured(good + b"\0"),
        "a longer form of a number": armoured(good.replace(b"\x01\xc4\x10" + ROUND[:16], b"\xcc\x01\xc4\x10" + ROUND[:16])),
        "lines of another length": armoured(good, width=76),
        "line ends of another system": armoured(good).replace("\n", "\r\n"),
        "no line end at the end": armoured(good)[:-1],
    }
    return {
        "what": "a receipt and altered ones, made by make_receipt.py; bytes in hexadecimal; the keys are those of envelope.json",
        "root": ENVELOPES["root"],
        "receipt": armoured(good),
        "result": armoured(pack([result(), KEY]), "RESULT"),
        "digest": tagged("receipt-statement", body).hex(),
        "statement": body.hex(),
        "countersigned": {name: name != "bob" for name in MEMBERS},
        "total": 1575,
        "refused": [{"name": name, "receipt": text} for name, text in bad.items()],
    }


if __name__ == "__main__":
    print(json.dumps(vectors(), indent=1))
