"""A sealed envelope opens for one recipient, as it was sent, in its round, and not otherwise."""

from __future__ import annotations

import hmac
import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, x25519
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key
from hypothesis import given
from hypothesis import strategies as st

from mpc.credentials import Credentials
from mpc.envelope import OVERHEAD, Envelope, Place, Recipient, is_sealed, open_sealed, parse, seal, write_unsealed
from mpc.errors import Answer, MessageRefused
from mpc.identity import Identity
from mpc.keys import RoundKey, check_statement
from mpc.messages import RULES, Kind
from mpc.rounds.admission import admit
from mpc.signature import sha256, tagged_digest, verify_digest
from mpc.wire import decode_payload
from pki.trust import TrustStore
from tests.mpc.nodes import HOSPITAL, NOW, ROUND, credential, keyring, patient
from tests.mpc.parts import Parts, needs_openssl
from tests.mpc.properties import quick

ALICE, BOB, MALLORY = patient("alice"), patient("bob"), patient("mallory")
CONTEXT = bytes(range(32))
PLACE = Place(ROUND, CONTEXT)
MAX = 1 << 20
VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "envelope.json").read_text())


@cache
def round_key(identity: Identity) -> RoundKey:
    return RoundKey(os.urandom)


def recipient(identity: Identity) -> Recipient:
    wrapping_key = check_statement(keyring(identity).encryption.statement, credential(identity), NOW)
    return Recipient(identity, wrapping_key, round_key(identity).public)


def sealed(
    payload: bytes = b"a seed", kind: Kind = Kind.SHARE, *, sender: Identity = ALICE, to: Identity = BOB, place: Place = PLACE
) -> bytes:
    raw, digest = seal(
        kind,
        payload,
        place,
        keyring=keyring(sender),
        round_key=round_key(sender),
        recipient=recipient(to),
        secret=os.urandom(32),
    )
    assert parse(raw, MAX).digest == digest
    return raw


def opened(raw: bytes | Parts, by: Identity = BOB, key: RoundKey | None = None) -> bytes:
    envelope = parse(raw if isinstance(raw, bytes) else raw.join(), MAX)
    return open_sealed(envelope, keyring(by).encryption.private_key, key or round_key(by))


def assert_unopenable(raw: bytes | Parts, by: Identity = BOB, key: RoundKey | None = None) -> None:
    with pytest.raises(MessageRefused) as caught:
        opened(raw, by, key)
    assert (caught.value.answer, caught.value.reason) == (Answer.UNOPENABLE, "unopenable")
    assert str(caught.value) == "unopenable", "the same words whatever failed"


def assert_rejected(raw: bytes, reason: str = "encoding", max_size: int = MAX) -> None:
    with pytest.raises(MessageRefused) as caught:
        parse(raw, max_size)
    assert (caught.value.answer, caught.value.reason) == (Answer.REJECTED, reason)


def holds(raw: bytes, sender: Identity = ALICE) -> bool:
    """Whether the envelope parses and its sender's signature is over it."""
    try:
        envelope = parse(raw, MAX)
    except MessageRefused:
        return False
    return verify_digest(credential(sender).public_key, envelope.signature, envelope.digest)


GOOD = sealed()


@given(st.binary(max_size=300), st.sampled_from([kind for kind in Kind if RULES[kind].sealed]))
@quick
def test_what_is_sealed_opens_as_it_was(payload: bytes, kind: Kind) -> None:
    raw = sealed(payload, kind)
    envelope = parse(raw, MAX)

    assert opened(raw) == payload
    assert (envelope.kind, envelope.sender, envelope.recipient) == (kind, ALICE, BOB)
    assert (envelope.header.round, envelope.header.context) == (ROUND, CONTEXT)
    assert envelope.header.round_key == round_key(ALICE).public
    assert envelope.chain == (keyring(ALICE).chain if RULES[kind].introduces else ())
    assert verify_digest(credential(ALICE).public_key, envelope.signature, envelope.digest)
    assert payload not in raw or len(payload) < 4
    assert len(raw) - len(payload) <= OVERHEAD


def test_a_share_is_small() -> None:
    """1.2 kB a peer and round is what a patient may send (wrapped with RSA-2048 here, 128 bytes less than RSA-3072)."""
    assert len(sealed(bytes(35))) <= 1200 - 128 - 200


def test_a_kind_that_is_not_sealed_carries_its_payload_signed() -> None:
    raw, digest = write_unsealed(
        Kind.INVITATION, b"question", PLACE, keyring=keyring(HOSPITAL), round_key=round_key(HOSPITAL), recipient=BOB
    )
    envelope = parse(raw, MAX)

    assert (bytes(envelope.ciphertext), envelope.wrapped, envelope.header.key_id) == (b"question", b"", b"")
    assert envelope.digest == digest
    assert holds(raw, HOSPITAL)


def test_an_invitation_is_sealed_without_a_round_key_of_its_recipient() -> None:
    key = recipient(BOB).wrapping_key

    def invitation(round_key_of_bob: bytes, kind: Kind = Kind.INVITATION) -> bytes:
        return seal(
            kind,
            b"question",
            PLACE,
            keyring=keyring(HOSPITAL),
            round_key=round_key(HOSPITAL),
            recipient=Recipient(BOB, key, round_key_of_bob),
            secret=os.urandom(32),
        )[0]

    envelope = parse(raw := invitation(b""), MAX)
    assert envelope.sealed
    assert envelope.header.key_id == key.key_id
    assert b"question" not in raw
    assert open_sealed(envelope, keyring(BOB).encryption.private_key, None) == b"question"
    for arguments in ((round_key(BOB).public, Kind.INVITATION), (b"", Kind.ROSTER)):
        with pytest.raises(AssertionError):
            invitation(*arguments)


def test_two_envelopes_of_one_payload_share_nothing_secret() -> None:
    first, second = Parts.split(sealed()), Parts.split(sealed())

    assert first.header == second.header
    assert first.wrapped != second.wrapped
    assert first.ciphertext != second.ciphertext


def test_the_header_names_both_ends_the_keys_and_the_place() -> None:
    header = parse(GOOD, MAX).header

    assert (header.sender, header.recipient) == (ALICE.uri, BOB.uri)
    assert header.key_id == keyring(BOB).encryption.key_id
    assert header.certificate == sha256(keyring(ALICE).chain[0])
    assert len(header.round) == 16


# -- altered


def test_no_byte_of_an_envelope_can_change() -> None:
    """Every byte, one bit each: it is rejected, or the signature does not hold; and signed anew it does not open."""
    for at in range(len(GOOD)):
        altered = GOOD[:at] + bytes([GOOD[at] ^ 1 << at % 8]) + GOOD[at + 1 :]
        assert not holds(altered), at


@given(st.integers(0, len(GOOD) - 65), st.integers(1, 255))
@quick
def test_an_altered_envelope_that_its_own_sender_signs_does_not_open(at: int, change: int) -> None:
    """Whatever is authenticated is bound to the content key, so that no field is protected by the signature alone."""
    altered = GOOD[:at] + bytes([GOOD[at] ^ change]) + GOOD[at + 1 :]
    try:
        envelope = parse(altered, MAX)
    except MessageRefused:
        return
    with pytest.raises(MessageRefused, match="unopenable"):
        open_sealed(envelope, keyring(BOB).encryption.private_key, round_key(BOB))


def test_no_part_of_an_envelope_is_an_envelope() -> None:
    for size in range(len(GOOD)):
        assert_rejected(GOOD[:size], "encoding")


@pytest.mark.parametrize("at", [0, 1, 2, 3, 200, -65, -64, -1, len(GOOD)])
def test_a_byte_too_many_is_refused(at: int) -> None:
    at = at % (len(GOOD) + 1)
    assert not holds(GOOD[:at] + b"\1" + GOOD[at:])


def test_surplus_at_the_end_is_refused() -> None:
    assert_rejected(GOOD + b"\0")
    assert_rejected(GOOD + GOOD)


def test_another_version_is_refused() -> None:
    for version in (0, 2, 255):
        assert_rejected(bytes([version]) + GOOD[1:], "version")


def test_what_is_too_large_is_refused_before_anything_is_read() -> None:
    assert parse(GOOD, len(GOOD)).kind is Kind.SHARE
    assert_rejected(GOOD, "size", len(GOOD) - 1)
    assert_rejected(b"\xff" * 100, "size", 99)


PARTS = Parts.split(GOOD)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": 0},
        {"kind": 11},
        {"kind": "share"},
        {"round": bytes(15)},
        {"context": bytes(31)},
        {"sender": "alice"},
        {"recipient": "spiffe://demo/doctor/bob"},
        {"recipient": BOB.uri.upper()},
        {"key_id": b""},
        {"key_id": bytes(31)},
        {"certificate": bytes(33)},
        {"round_key": b""},
        {"sender": None},
    ],
    ids=str,
)
def test_an_impossible_header_is_refused(changes: dict[str, Any]) -> None:
    assert_rejected(PARTS.with_header(**changes).join())


def test_a_header_with_other_fields_is_refused() -> None:
    surplus = bytes([PARTS.header[0] + 1]) + PARTS.header[1:] + b"\0"
    for header in (surplus, PARTS.header + b"\0", b"", b"\x90", PARTS.header[:-1]):
        assert_rejected(PARTS.replace(header=header).join())


def test_the_wrapped_secret_is_there_exactly_when_the_kind_is_sealed() -> None:
    raw, _ = write_unsealed(
        Kind.INVITATION, b"question", PLACE, keyring=keyring(HOSPITAL), round_key=round_key(HOSPITAL), recipient=BOB
    )
    invitation = Parts.split(raw)

    assert_rejected(PARTS.replace(wrapped=b"").join())
    assert_rejected(PARTS.replace(wrapped=b"").with_header(key_id=b"").join())
    assert_rejected(invitation.replace(wrapped=b"w").join())
    assert_rejected(invitation.with_header(key_id=bytes(32)).join())
    assert parse(invitation.replace(wrapped=b"w").with_header(key_id=bytes(32)).join(), MAX).sealed, "an Invitation may be"


def test_whether_it_is_sealed_is_told_without_reading_it_all() -> None:
    bare, _ = write_unsealed(
        Kind.INVITATION, b"question", PLACE, keyring=keyring(HOSPITAL), round_key=round_key(HOSPITAL), recipient=BOB
    )

    assert not is_sealed(bare)
    assert is_sealed(GOOD)
    assert is_sealed(sealed(kind=Kind.CONSENT, to=HOSPITAL)), "which carries a chain"
    for size in (0, 1, 3, 40):
        with pytest.raises(MessageRefused):
            is_sealed(GOOD[:size])


def test_an_unsealed_kind_made_of_a_sealed_one_is_refused() -> None:
    """Kinds say whether they are sealed; an envelope does not choose."""
    assert_rejected(PARTS.with_header(kind=int(Kind.INVITATION)).join())
    bare, _ = write_unsealed(Kind.SHARE, b"a seed", PLACE, keyring=keyring(ALICE), round_key=round_key(ALICE), recipient=BOB)
    assert_rejected(bare)


def test_certificates_are_there_exactly_when_the_kind_introduces() -> None:
    consent = Parts.split(sealed(kind=Kind.CONSENT, to=HOSPITAL))

    assert_rejected(PARTS.replace(chain=keyring(ALICE).chain).join())
    assert_rejected(consent.replace(chain=()).join())
    assert_rejected(consent.replace(chain=keyring(ALICE).chain * 4).join())


# -- another lock


def test_nobody_else_opens_it() -> None:
    assert_unopenable(GOOD, MALLORY)
    assert_unopenable(GOOD, BOB, round_key(MALLORY))
    assert_unopenable(GOOD, MALLORY, round_key(BOB))


def test_another_round_key_of_the_same_node_does_not_open_it() -> None:
    assert_unopenable(GOOD, BOB, RoundKey(os.urandom))


def test_a_wrapped_secret_moved_to_another_envelope_does_not_open_it() -> None:
    other = Parts.split(sealed(b"other!"))
    elsewhere = Parts.split(sealed(place=Place(ROUND, bytes(32))))

    assert_unopenable(PARTS.replace(wrapped=other.wrapped))
    assert_unopenable(PARTS.replace(wrapped=elsewhere.wrapped))
    assert_unopenable(PARTS.replace(ciphertext=other.ciphertext))
    assert_unopenable(PARTS.replace(wrapped=other.wrapped, ciphertext=other.ciphertext, header=elsewhere.header))


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": int(Kind.PARTIAL_SUM)},
        {"round": bytes(16)},
        {"context": bytes(32)},
        {"sender": MALLORY.uri},
        {"recipient": MALLORY.uri},
        {"key_id": bytes(32)},
        {"certificate": bytes(32)},
        {"round_key": round_key(MALLORY).public},
        {"round_key": bytes(32)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_an_altered_header_does_not_open(changes: dict[str, Any]) -> None:
    assert_unopenable(PARTS.with_header(**changes))


def test_whatever_does_not_open_is_one_answer() -> None:
    """OAEP, the point of the round key, the tag and the length fail alike: no oracle."""
    for broken in (
        PARTS.replace(wrapped=os.urandom(256)),
        PARTS.replace(wrapped=os.urandom(255)),
        PARTS.replace(wrapped=b"\0"),
        PARTS.replace(wrapped=b"\xff" * 512),
        PARTS.with_header(round_key=bytes(32)),
        PARTS.replace(ciphertext=PARTS.ciphertext[:-1]),
        PARTS.replace(ciphertext=PARTS.ciphertext + b"\0"),
        PARTS.replace(ciphertext=PARTS.ciphertext[:16]),
        PARTS.replace(ciphertext=PARTS.ciphertext[:15]),
        PARTS.replace(ciphertext=b""),
    ):
        assert_unopenable(broken)


def test_every_failure_does_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """OAEP fails: the round keys still agree, the content key is still made and the tag still checked."""
    done: list[str] = []
    key = round_key(BOB)
    agree = RoundKey.agree

    def watched(self: RoundKey, peer: bytes) -> bytes:
        done.append("agree")
        return agree(self, peer)

    monkeypatch.setattr(RoundKey, "agree", watched)
    monkeypatch.setattr("mpc.envelope._content_key", lambda *arguments: _Watched(done))
    for broken in (PARTS.replace(wrapped=os.urandom(256)), PARTS):
        done.clear()
        with pytest.raises(MessageRefused):
            opened(broken, BOB, key)
        assert done == ["agree", "decrypt"]


class _Watched:
    """A content key that opens nothing and says that it was asked."""

    def __init__(self, done: list[str]) -> None:
        self._done = done

    def decrypt_into(self, *arguments: object) -> int:
        self._done.append("decrypt")
        raise ValueError


# -- opened by others than our own code


def hkdf(secret: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256, no salt, 32 bytes."""
    return hmac.digest(hmac.digest(bytes(32), secret, "sha256"), info + b"\1", "sha256")


def opened_by_hand(parts: Parts, secret: bytes, agreed: bytes) -> bytes:
    key = hkdf(secret + agreed, parts.header)
    at = len(parts.signed_bytes) - len(parts.ciphertext) - 4
    cipher = Cipher(algorithms.AES(key), modes.GCM(bytes(12), parts.ciphertext[-16:])).decryptor()
    cipher.authenticate_additional_data(parts.signed_bytes[:at])
    return cipher.update(parts.ciphertext[:-16]) + cipher.finalize()


@needs_openssl
def test_openssl_unwraps_what_we_wrap(tmp_path: Path) -> None:
    (tmp_path / "wrapped").write_bytes(PARTS.wrapped)
    private_key = keyring(BOB).encryption.private_key
    (tmp_path / "key.pem").write_bytes(private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def unwrap(label: bytes) -> subprocess.CompletedProcess[bytes]:
        options = ["rsa_padding_mode:oaep", "rsa_oaep_md:sha256", "rsa_mgf1_md:sha256", f"rsa_oaep_label:{label.hex()}"]
        command = ["openssl", "pkeyutl", "-decrypt", "-inkey", "key.pem", "-in", "wrapped"]
        command += [word for option in options for word in ("-pkeyopt", option)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=30)

    secret = unwrap(PARTS.header).stdout
    agreed = round_key(BOB).agree(round_key(ALICE).public)

    assert len(secret) == 32
    assert opened_by_hand(PARTS, secret, agreed) == b"a seed"
    assert unwrap(PARTS.header + b"\0").returncode != 0


# -- frozen vectors


@pytest.mark.parametrize("vector", VECTORS["good"], ids=lambda vector: vector["name"])
def test_frozen_envelopes_open(vector: dict[str, Any]) -> None:
    raw = bytes.fromhex("".join(field["bytes"] for field in vector["fields"]))
    sender, to = VECTORS["nodes"][vector["sender"]], VECTORS["nodes"][vector["recipient"]]
    envelope = admitted(raw, sender, to)
    payload = bytes.fromhex(vector["payload"])

    if not envelope.sealed:
        assert bytes(envelope.ciphertext) == payload
        return
    assert open_frozen(envelope, to) == payload
    parts = Parts.split(raw)
    secret = frozen_key(to).decrypt(parts.wrapped, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), parts.header))
    if not RULES[envelope.kind].sealed:
        assert opened_by_hand(parts, secret, b"") == payload
        return
    own = x25519.X25519PrivateKey.from_private_bytes(bytes.fromhex(to["round_key_private"]))
    agreed = own.exchange(x25519.X25519PublicKey.from_public_bytes(bytes.fromhex(sender["round_key_public"])))
    assert opened_by_hand(parts, secret, agreed) == payload


@pytest.mark.parametrize("case", VECTORS["refused"]["cases"], ids=lambda case: case["name"])
def test_frozen_alterations_are_refused(case: dict[str, Any]) -> None:
    sender, to = (VECTORS["nodes"][VECTORS["refused"][end]] for end in ("sender", "recipient"))

    def take() -> None:
        envelope = admitted(bytes.fromhex(case["envelope"]), sender, to)
        decode_payload(open_frozen(envelope, to), RULES[envelope.kind].payload)

    with pytest.raises(MessageRefused) as caught:
        take()
    assert (caught.value.answer, caught.value.reason) == (case["answer"], case["reason"])


def frozen_key(node: dict[str, str]) -> rsa.RSAPrivateKey:
    key = load_der_private_key(bytes.fromhex(node["encryption_key_pkcs8"]), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def open_frozen(envelope: Envelope, to: dict[str, str]) -> bytes:
    mixed_in = RoundKey(lambda _: bytes.fromhex(to["round_key_private"])) if RULES[envelope.kind].sealed else None
    return open_sealed(envelope, frozen_key(to), mixed_in)


def admitted(raw: bytes, sender: dict[str, str], to: dict[str, str]) -> Envelope:
    known = Credentials(TrustStore([bytes.fromhex(VECTORS["root"])]))
    known.learn((bytes.fromhex(sender["certificate"]),), VECTORS["now"])
    peer, me = Identity.parse(sender["identity"]), Identity.parse(to["identity"])
    return admit(parse(raw, MAX), peer=peer, me=me, credentials=known, now=VECTORS["now"]).envelope


def test_the_digest_is_over_the_tag_and_everything_before_the_signature() -> None:
    assert parse(GOOD, MAX).digest == tagged_digest("share", GOOD[:-64])


def test_envelopes_do_not_print() -> None:
    shown = repr(parse(GOOD, MAX)) + repr(recipient(BOB))
    assert len(shown) < 300
    assert "memory at" not in shown
    assert BOB.uri not in shown
