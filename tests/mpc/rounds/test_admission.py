"""What a message must pass before any round sees it, each check and their order."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from mpc.credentials import Credentials
from mpc.envelope import Place, Recipient, parse, seal, write_unsealed
from mpc.errors import Answer, MessageRefused
from mpc.identity import Identity, Role
from mpc.keys import Keyring, RoundKey, check_statement
from mpc.messages import Kind
from mpc.rounds.admission import Admitted, admit
from tests.mpc.nodes import CONSORTIUM, HOSPITAL, NOW, ROUND, certificate, credential, keyring, patient, revoking, trust
from tests.mpc.parts import ORDER, Parts

ALICE, BOB = patient("alice"), patient("bob")
RELAY = Identity(CONSORTIUM, Role.RELAY, "post")
MODEL = Identity(CONSORTIUM, Role.MODEL, "model")
FOREIGN_RELAY = Identity("other", Role.RELAY, "post")
KEYS = {identity: RoundKey(os.urandom) for identity in (ALICE, BOB, HOSPITAL, MODEL)}
DAY = 86_400


def envelope(kind: Kind, sender: Identity, to: Identity, ring: Keyring | None = None) -> Parts:
    ring, place = ring or keyring(sender), Place(ROUND, bytes(32))
    if kind is Kind.INVITATION:
        raw, _ = write_unsealed(kind, b"question", place, keyring=ring, round_key=KEYS[sender], recipient=to)
    else:
        wrapping_key = check_statement(keyring(to).encryption.statement, credential(to), NOW)
        target = Recipient(to, wrapping_key, KEYS[to].public)
        raw, _ = seal(kind, b"payload", place, keyring=ring, round_key=KEYS[sender], recipient=target, secret=os.urandom(32))
    return Parts.split(raw)


def knowing(*identities: Identity) -> Credentials:
    known = Credentials(trust())
    for identity in identities:
        known.learn(keyring(identity).chain, NOW)
    return known


def take(
    parts: Parts | bytes,
    me: Identity,
    peer: Identity,
    known: Credentials | None = None,
    now: float = NOW,
    max_size: int = 1 << 20,
) -> Admitted:
    raw = parts if isinstance(parts, bytes) else parts.join()
    return admit(parse(raw, max_size), peer=peer, me=me, credentials=known or knowing(ALICE, BOB, HOSPITAL), now=now)


def refusal(*arguments: Any, **keywords: Any) -> tuple[Answer, str]:
    with pytest.raises(MessageRefused) as caught:
        take(*arguments, **keywords)
    return caught.value.answer, caught.value.reason


SHARE = envelope(Kind.SHARE, ALICE, BOB)
CONSENT = envelope(Kind.CONSENT, ALICE, HOSPITAL)
INVITATION = envelope(Kind.INVITATION, HOSPITAL, BOB)


def test_a_good_message_is_admitted_with_its_signers_credential() -> None:
    admitted = take(SHARE, BOB, ALICE)

    assert admitted.credential == credential(ALICE)
    assert (admitted.envelope.kind, admitted.envelope.sender) == (Kind.SHARE, ALICE)
    assert repr(ALICE.uri) not in repr(admitted)


def test_an_introduction_is_admitted_from_a_node_not_known_yet() -> None:
    known = knowing()

    assert take(CONSENT, HOSPITAL, ALICE, known).credential == credential(ALICE)
    assert take(envelope(Kind.READY, ALICE, HOSPITAL), HOSPITAL, ALICE, known).credential == credential(ALICE)


def test_an_unknown_certificate_is_rejected() -> None:
    assert refusal(SHARE, BOB, ALICE, knowing()) == (Answer.REJECTED, "certificate-unknown")


def test_a_message_for_another_node_is_rejected() -> None:
    assert refusal(SHARE, patient("charlie"), ALICE) == (Answer.REJECTED, "recipient")
    assert refusal(SHARE, HOSPITAL, ALICE) == (Answer.REJECTED, "recipient")


@pytest.mark.parametrize("kind", [Kind.INVITATION, Kind.ROSTER, Kind.COLLECT, Kind.RECEIPT, Kind.SHARE])
def test_kinds_for_patients_are_rejected_at_a_hospital(kind: Kind) -> None:
    sender = ALICE if kind is Kind.SHARE else HOSPITAL
    assert refusal(envelope(kind, sender, HOSPITAL), HOSPITAL, sender) == (Answer.REJECTED, "recipient")


@pytest.mark.parametrize("kind", [Kind.CONSENT, Kind.DECLINED, Kind.READY, Kind.PARTIAL_SUM])
def test_kinds_for_hospitals_are_rejected_at_a_patient(kind: Kind) -> None:
    assert refusal(envelope(kind, ALICE, BOB), BOB, ALICE) == (Answer.REJECTED, "recipient")


@pytest.mark.parametrize("kind", [Kind.INVITATION, Kind.ROSTER, Kind.COLLECT, Kind.RECEIPT])
def test_a_patients_certificate_does_not_speak_as_a_hospital(kind: Kind) -> None:
    assert refusal(envelope(kind, ALICE, BOB), BOB, ALICE) == (Answer.REJECTED, "role")


@pytest.mark.parametrize("kind", [Kind.SHARE, Kind.ABORT])
def test_a_model_service_has_no_say(kind: Kind) -> None:
    assert refusal(envelope(kind, MODEL, BOB), BOB, MODEL, knowing(MODEL)) == (Answer.REJECTED, "role")


def test_a_hospital_sends_no_share() -> None:
    assert refusal(envelope(Kind.SHARE, HOSPITAL, BOB), BOB, HOSPITAL) == (Answer.REJECTED, "role")


def test_a_certificate_of_another_authority_is_rejected() -> None:
    stranger = envelope(Kind.CONSENT, ALICE, HOSPITAL, keyring(ALICE, issuer="elsewhere"))
    assert refusal(stranger, HOSPITAL, ALICE, knowing()) == (Answer.REJECTED, "certificate")


@pytest.mark.parametrize("chain", [(b"",), (b"no certificate",), (bytes(2000),) * 3])
def test_what_is_no_certificate_is_rejected(chain: tuple[bytes, ...]) -> None:
    assert refusal(CONSENT.replace(chain=chain), HOSPITAL, ALICE, knowing()) == (Answer.REJECTED, "certificate")


def test_an_expired_certificate_is_rejected_whether_it_came_along_or_is_remembered() -> None:
    late = NOW + 31 * DAY
    for known in (knowing(), knowing(ALICE)):
        assert refusal(CONSENT, HOSPITAL, ALICE, known, late) == (Answer.REJECTED, "certificate")
    assert refusal(SHARE, BOB, ALICE, knowing(ALICE), late) == (Answer.REJECTED, "certificate")
    assert refusal(CONSENT, HOSPITAL, ALICE, knowing(), NOW - 2 * DAY) == (Answer.REJECTED, "certificate")


def test_another_certificate_than_the_header_names_is_rejected() -> None:
    other = certificate(ALICE, keyring(ALICE).signing_key.public_key())
    swapped = CONSENT.replace(chain=(other,)).signed(keyring(ALICE).signing_key, "consent")

    assert refusal(swapped, HOSPITAL, ALICE, knowing()) == (Answer.REJECTED, "certificate")


def test_a_sender_that_the_certificate_does_not_name_is_rejected() -> None:
    """Bob signs correctly, with his own certificate, that he is Alice."""
    forged = envelope(Kind.CONSENT, BOB, HOSPITAL).with_header(sender=ALICE.uri)
    forged = forged.signed(keyring(BOB).signing_key, "consent")
    for peer in (ALICE, BOB):
        assert refusal(forged, HOSPITAL, peer, knowing()) == (Answer.REJECTED, "certificate")


@pytest.mark.parametrize(
    "forge",
    [
        lambda parts: parts.replace(signature=bytes(64)),
        lambda parts: parts.replace(ciphertext=parts.ciphertext[:-1] + bytes([parts.ciphertext[-1] ^ 1])),
        lambda parts: parts.replace(wrapped=parts.wrapped[:-1] + bytes([parts.wrapped[-1] ^ 1])),
        lambda parts: parts.with_header(context=b"\1" * 32),
        lambda parts: parts.with_header(round=b"\1" * 16),
        lambda parts: parts.with_header(round_key=b"\1" * 32),
        lambda parts: parts.with_header(kind=int(Kind.ABORT)),
        lambda parts: parts.signed(keyring(BOB).signing_key, "share"),
        lambda parts: parts.signed(keyring(ALICE).signing_key, "ready"),
        lambda parts: parts.replace(signature=parts.signature[:32] + high(parts.signature)),
    ],
    ids=["none", "ciphertext", "wrapped", "context", "round", "round key", "kind", "signer", "purpose", "malleated"],
)
def test_a_signature_that_does_not_hold_is_rejected(forge: Callable[[Parts], Parts]) -> None:
    assert refusal(forge(SHARE), BOB, ALICE) == (Answer.REJECTED, "signature")


def high(signature: bytes) -> bytes:
    return (ORDER - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")


def test_who_is_revoked_is_rejected_whether_known_before_or_not() -> None:
    revoked = revoking(ALICE)
    known = knowing(ALICE, HOSPITAL)
    known.replace_trust(revoked, frozenset({credential(ALICE).authority}))
    assert refusal(SHARE, BOB, ALICE, known) == (Answer.REJECTED, "certificate-revoked")
    assert refusal(CONSENT, HOSPITAL, ALICE, known) == (Answer.REJECTED, "certificate-revoked")
    assert refusal(CONSENT, HOSPITAL, ALICE, Credentials(revoked)) == (Answer.REJECTED, "certificate-revoked")
    assert take(INVITATION, BOB, HOSPITAL, known).credential == credential(HOSPITAL)


def test_a_message_comes_from_its_sender_or_a_relay() -> None:
    assert take(SHARE, BOB, RELAY).credential == credential(ALICE)
    for peer in (HOSPITAL, BOB, patient("mallory"), MODEL, FOREIGN_RELAY):
        assert refusal(SHARE, BOB, peer) == (Answer.REFUSED, "carrier")


def test_what_is_not_sealed_is_not_carried_by_a_relay() -> None:
    assert take(INVITATION, BOB, HOSPITAL).credential == credential(HOSPITAL)
    assert refusal(INVITATION, BOB, RELAY) == (Answer.REFUSED, "carrier")


def test_the_first_fault_is_the_one_that_counts() -> None:
    """One message that breaks every rule is mended rule by rule, in the documented order."""
    good = SHARE
    broken: list[tuple[str, dict[str, Any], bytes]] = [
        ("size", {"max_size": 10}, good.replace(version=9).join() + b"\0"),
        ("version", {}, good.replace(version=9).join() + b"\0"),
        ("encoding", {}, good.with_header(recipient=HOSPITAL.uri).join() + b"\0"),
        ("recipient", {"known": knowing()}, good.with_header(recipient=HOSPITAL.uri, certificate=bytes(32)).join()),
        ("certificate-unknown", {"known": knowing()}, good.with_header(sender=HOSPITAL.uri).join()),
        ("certificate", {}, good.with_header(sender=HOSPITAL.uri).join()),
        ("role", {"known": knowing(MODEL)}, envelope(Kind.SHARE, MODEL, BOB).replace(signature=bytes(64)).join()),
        ("signature", {}, good.replace(signature=bytes(64)).join()),
    ]
    for reason, keywords, raw in broken:
        assert refusal(raw, BOB, FOREIGN_RELAY, **keywords) == (Answer.REJECTED, reason)
    assert refusal(good, BOB, FOREIGN_RELAY) == (Answer.REFUSED, "carrier")


def test_a_refusal_says_nothing_but_its_reason() -> None:
    with pytest.raises(MessageRefused) as caught:
        take(SHARE.replace(signature=bytes(64)), BOB, ALICE)
    assert str(caught.value) == "signature"
