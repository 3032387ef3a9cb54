"""A consent, a roster and a proof of readiness: what makes each of them hold, and the one reason that each fault has."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from msgspec.structs import replace

from mpc.credentials import Credentials
from mpc.errors import MessageRefused
from mpc.identity import Identity, Role
from mpc.keys import RoundKey, publish
from mpc.messages import Consent, Kind, Member, Ready, Roster
from mpc.rounds.roster import Participant, Question, check_ready, context_of, read_consent, read_roster, write_roster
from mpc.signature import sha256
from mpc.statement import Signed, sign
from tests.mpc.nodes import HOSPITAL, NOW, certificate, keyring, patient, trust
from tests.mpc.world import World, world

ALICE, BOB, CHARLIE = patient("alice"), patient("bob"), patient("charlie")


@cache
def consented() -> World:
    """A round in which all three have consented."""
    made = world()
    made.run(hold=frozenset({Kind.ROSTER}))
    assert len(made.hospital.members) == 3
    return made


def question() -> Question:
    asked = consented().hospital.question
    assert asked is not None
    return asked


def reader() -> RoundKey:
    return consented().round_keys[HOSPITAL]


def participant(name: str) -> Participant:
    return consented().hospital.participants[patient(name)]


def consent(name: str = "alice", **changes: Any) -> Signed:
    """The consent of this patient with these changes, really signed by it."""
    content = replace(participant(name).consent, **changes)
    return sign(keyring(patient(name)).signing_key, "consent-statement", content)


def member(name: str, **changes: Any) -> Member:
    return Member(keyring(patient(name)).chain, consent(name, **changes))


def roster(*members: Member) -> Roster:
    return Roster(question().digest, keyring(HOSPITAL).chain, members or tuple(map(member, ("alice", "bob", "charlie"))), ())


def consent_refusal(signed: Signed, chain: tuple[bytes, ...] = (), now: float = NOW) -> str:
    with pytest.raises(MessageRefused) as caught:
        read_consent(
            question(), chain or keyring(ALICE).chain, signed, credentials=Credentials(trust()), round_key=reader(), now=now
        )
    return caught.value.reason


def roster_refusal(wrong: Roster) -> str:
    with pytest.raises(MessageRefused) as caught:
        read_roster(question(), wrong, credentials=Credentials(trust()), round_key=reader(), now=NOW)
    return caught.value.reason


def test_a_good_consent_gives_a_participant() -> None:
    read = read_consent(
        question(), keyring(ALICE).chain, consent(), credentials=Credentials(trust()), round_key=reader(), now=NOW
    )

    assert (read.identity, read.consent) == (ALICE, participant("alice").consent)
    assert read.wrapping_key.key_id == keyring(ALICE).encryption.key_id


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"invitation": bytes(32)}, "consent-invitation"),
        ({"hospital": "spiffe://demo/hospital/other"}, "consent-hospital"),
        ({"expires": int(NOW) + 59}, "consent-expired"),
        ({"expires": 0}, "consent-expired"),
        ({"key_statement": keyring(BOB).encryption.statement}, "key-statement"),
        ({"key_statement": keyring(HOSPITAL).encryption.statement}, "key-statement"),
        ({"key_statement": Signed(b"", b"")}, "key-statement"),
    ],
    ids=str,
)
def test_a_consent_that_agrees_to_something_else_is_refused(changes: dict[str, Any], reason: str) -> None:
    assert consent_refusal(consent(**changes)) == reason


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31)], ids=["zero", "one"])
def test_a_round_key_with_which_nobody_can_agree_is_refused(point: bytes) -> None:
    """Sealing for it would fail in the middle of the round, at every other node."""
    assert consent_refusal(consent(round_key=point)) != ""


def test_a_consent_that_has_expired_is_refused() -> None:
    assert consent_refusal(consent(expires=int(NOW) + 100), now=NOW + 101) == "consent-expired"


def test_a_consent_by_another_signer_is_refused() -> None:
    assert consent_refusal(consent("bob")) == "consent-signature"
    assert consent_refusal(Signed(consent().body, bytes(64))) == "consent-signature"
    wrong_purpose = sign(keyring(ALICE).signing_key, "ready-statement", participant("alice").consent)
    assert consent_refusal(wrong_purpose) == "consent-signature"


def test_a_signed_body_that_is_no_consent_is_refused() -> None:
    assert consent_refusal(sign(keyring(ALICE).signing_key, "consent-statement", Ready(bytes(32)))) != ""


def test_only_patients_that_the_study_names_are_members() -> None:
    content = participant("alice").consent
    for stranger in (patient("mallory"), HOSPITAL, Identity("demo", Role.MODEL, "alice"), Identity("demo", Role.RELAY, "alice")):
        ring = keyring(stranger)
        assert consent_refusal(sign(ring.signing_key, "consent-statement", content), ring.chain) == "not-a-member"


def test_a_member_without_a_trusted_certificate_is_refused() -> None:
    stranger = keyring(ALICE, issuer="elsewhere")
    for chain in (stranger.chain, (b"no certificate",)):
        signed = sign(stranger.signing_key, "consent-statement", participant("alice").consent)
        assert consent_refusal(signed, chain) == "member-certificate"
    assert consent_refusal(consent(), now=NOW + 31 * 86_400) == "member-certificate"


# -- rosters


def test_the_hospitals_roster_is_read_in_its_order() -> None:
    members = read_roster(question(), roster(), credentials=Credentials(trust()), round_key=reader(), now=NOW)

    assert [one.identity for one in members] == [ALICE, BOB, CHARLIE]
    shuffled = [participant(name) for name in ("charlie", "alice", "bob")]
    assert write_roster(question(), keyring(HOSPITAL).chain, shuffled) == roster()


def same_identity_key() -> Member:
    """Bob's name with Alice's key: one person twice."""
    key = keyring(ALICE).signing_key
    statement = publish(BOB, key, rsa.generate_private_key(65537, 2048), NOW).statement
    content = replace(participant("bob").consent, key_statement=statement)
    return Member((certificate(BOB, key.public_key()),), sign(key, "consent-statement", content))


def same_encryption_key() -> Member:
    ring = keyring(BOB)
    statement = publish(BOB, ring.signing_key, keyring(ALICE).encryption.private_key, NOW).statement
    return member("bob", key_statement=statement)


@pytest.mark.parametrize(
    ("bob", "shared"),
    [
        (same_identity_key, "identity key"),
        (same_encryption_key, "encryption key"),
        (lambda: member("bob", round_key=participant("alice").consent.round_key), "round key"),
        (lambda: member("bob", nonce=participant("alice").consent.nonce), "nonce"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_two_members_share_nothing(bob: Callable[[], Member], shared: str) -> None:
    assert roster_refusal(roster(member("alice"), bob(), member("charlie"))) == "roster-keys", shared


def test_a_roster_out_of_order_or_with_repeats_is_refused() -> None:
    alice, bob, charlie = map(member, ("alice", "bob", "charlie"))
    for members in ((bob, alice, charlie), (alice, alice, bob, charlie), (alice, bob, charlie, charlie)):
        assert roster_refusal(roster(*members)) == "roster-order"


def test_a_second_certificate_does_not_make_a_second_member() -> None:
    ring = keyring(ALICE)
    again = Member((certificate(ALICE, ring.signing_key.public_key()),), consent())
    assert roster_refusal(roster(member("alice"), again, member("bob"))) == "roster-order"


def test_a_roster_of_another_invitation_or_hospital_is_refused() -> None:
    assert roster_refusal(replace(roster(), invitation=bytes(32))) == "roster-invitation"
    other = Identity("demo", Role.HOSPITAL, "other")
    assert roster_refusal(replace(roster(), hospital_chain=keyring(other).chain)) == "roster-hospital"
    renewed = certificate(HOSPITAL, keyring(HOSPITAL).signing_key.public_key())
    assert roster_refusal(replace(roster(), hospital_chain=(renewed,))) == "roster-hospital"


def test_one_bad_consent_spoils_the_roster() -> None:
    assert roster_refusal(roster(member("alice"), member("bob", expires=0), member("charlie"))) == "consent-expired"
    forged = Member(keyring(BOB).chain, consent("alice"))
    assert roster_refusal(roster(member("alice"), forged, member("charlie"))) == "consent-signature"


def test_the_context_is_of_the_rosters_bytes() -> None:
    assert context_of(b"roster") == sha256(b"cohortium/v1/contextroster")
    assert consented().hospital.context != context_of(b"")


# -- proofs of readiness

CONTEXT = bytes(range(32))


def proof(name: str, context: bytes = CONTEXT, purpose: str = "ready-statement") -> Signed:
    return sign(keyring(patient(name)).signing_key, purpose, Ready(context))


def ready_refusal(*proofs: Signed) -> str:
    with pytest.raises(MessageRefused) as caught:
        check_ready(consented().hospital.members, proofs, CONTEXT)
    return caught.value.reason


def test_every_member_in_order_is_ready() -> None:
    check_ready(consented().hospital.members, (proof("alice"), proof("bob"), proof("charlie")), CONTEXT)


def test_a_proof_that_is_missing_or_too_many_is_refused() -> None:
    alice, bob, charlie = map(proof, ("alice", "bob", "charlie"))
    for proofs in ((), (alice, bob), (alice, bob, charlie, charlie)):
        assert ready_refusal(*proofs) == "ready-count"


def test_a_proof_of_another_signer_purpose_or_context_is_refused() -> None:
    alice, bob, charlie = map(proof, ("alice", "bob", "charlie"))

    assert ready_refusal(alice, alice, charlie) == "ready-signature"
    assert ready_refusal(bob, alice, charlie) == "ready-signature"
    assert ready_refusal(alice, proof("mallory"), charlie) == "ready-signature"
    assert ready_refusal(alice, Signed(bob.body, bytes(64)), charlie) == "ready-signature"
    assert ready_refusal(alice, proof("bob", purpose="consent-statement"), charlie) == "ready-signature"
    assert ready_refusal(alice, proof("bob", bytes(32)), charlie) == "ready-context"


def test_nothing_of_a_participant_prints() -> None:
    shown = repr(participant("alice")) + repr(question()) + repr(Consent)
    assert "alice" not in shown
    assert str(NOW) not in shown
