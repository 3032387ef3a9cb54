"""A hospital in a round with members that may say anything."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from mpc.errors import Answer, InvalidTransition, StudyError
from mpc.identity import Identity, Role
from mpc.keys import RoundKey
from mpc.messages import Abort, AbortCode, Collect, Consent, Declined, Kind, PartialSum, Ready, Receipt, Roster
from mpc.receipt import ReceiptStatement
from mpc.result import commitment
from mpc.ring import Ring
from mpc.rounds.events import CancelRound, Ended, OpenRound, PeersRevoked, Progressed, Send, Undeliverable, ValuesUnavailable
from mpc.rounds.hospital import HospitalRound, HospitalState
from mpc.signature import sign_digest, tagged_digest
from mpc.statement import Signed, sign
from mpc.wire import Struct, decode, encode
from tests.mpc.nodes import HOSPITAL, NOW, hospital_round, keyring, patient, policy, study
from tests.mpc.world import BASE, Letter, World, forget_encryption_key, powers, world

H = HOSPITAL.name
SUM = 1 + BASE + BASE**2
ALL = ("alice", "bob", "charlie")


def until(*kinds: Kind, names: tuple[str, ...] = ALL, minimum: int = 0, publish_to: str = "hospital") -> World:
    made = world(*names, minimum=minimum, publish_to=publish_to)
    made.run(hold=frozenset(kinds))
    return made


def refused(made: World, letter: Letter, *answers: Answer, reason: str = "") -> None:
    """The hospital answers so and is as it was; the round goes on."""
    machine = made.hospital
    before = (machine.state, dict(machine.seen), machine.waiting_for, list(machine.story), len(made.effects))
    assert made.deliver(letter) in (answers or (Answer.REFUSED,))
    assert made.reason == reason or not reason
    assert (machine.state, dict(machine.seen), machine.waiting_for, list(machine.story), len(made.effects)) == before


def finishes(made: World, total: int = SUM) -> None:
    made.run()
    assert made.total() == total


# -- inviting


def test_every_patient_gets_the_same_question() -> None:
    made = world()
    sent = [effect for _, effect in made.effects if isinstance(effect, Send)]

    assert [effect.recipient.name for effect in sent] == list(ALL)
    invitation = encode(made.invitation)
    assert all(invitation in effect.envelope for effect in sent)
    assert made.invitation.floor == 3
    assert (made.invitation.answer_by, made.invitation.ready_by, made.invitation.deadline) == tuple(
        int(NOW) + seconds for seconds in (20, 40, 60)
    )


def test_a_study_that_cannot_be_run_opens_no_round() -> None:
    with pytest.raises(StudyError, match="too few"):
        hospital_round(study("alice", "bob", minimum=2))


def test_progress_names_who_is_waited_for() -> None:
    made = world()
    for name in ALL:
        made.deliver(made.take(Kind.INVITATION, recipient=name))
    made.deliver(made.take(Kind.CONSENT, "bob"))

    progress = [effect for who, effect in made.effects if who == H and isinstance(effect, Progressed)]
    assert progress == [Progressed("inviting", ALL), Progressed("inviting", ("alice", "charlie"))]


def test_too_few_consents_end_the_round_with_the_names() -> None:
    made = world("alice", "bob", "charlie", "dora", minimum=3)
    made.patients["alice"].policy = policy(studies=())
    made.run_out(drop=lambda letter: letter.recipient == patient("dora"))
    ended = made.ending()

    assert (ended.code, ended.phase, ended.missing) == (AbortCode.TOO_FEW, "inviting", ("alice", "dora"))
    assert "too few patients consented in time; without an answer or declined: alice, dora" in ended.detail
    assert made.now == NOW + 20, "known when the answers are due, not later"
    assert all(machine.ended for name, machine in made.patients.items() if name != "dora")


def test_a_round_runs_without_those_who_decline_while_the_floor_holds() -> None:
    made = world("alice", "bob", "charlie", "dora", minimum=3)
    made.patients["bob"].policy = policy(studies=())
    made.run()

    assert made.total() == 1 + BASE**2 + BASE**3
    assert made.released[0].result.members == 3
    assert made.ending("bob").outcome == "declined"


def test_everybody_having_declined_ends_it_at_once() -> None:
    made = world()
    for machine in made.patients.values():
        machine.policy = policy(studies=())
    made.run()

    assert made.ending().code == AbortCode.TOO_FEW
    assert made.now == NOW


def test_who_finally_refuses_the_invitation_is_not_waited_for() -> None:
    made = world("alice", "bob", "charlie", "dora", minimum=3)
    made.patients["dora"].round_id = bytes(16)
    made.run()

    assert made.hospital.unreachable == {patient("dora")}
    assert made.total() == SUM


def consent_of(made: World, name: str) -> Consent:
    letter = made.pick(Kind.CONSENT, name)
    signed = made.opened(letter)
    assert isinstance(signed, Signed)
    return decode(signed.body, Consent)


def signed_by(name: str, purpose: str, content: Struct) -> Signed:
    return sign(keyring(patient(name)).signing_key, purpose, content)


def test_only_those_who_were_asked_consent() -> None:
    made = until(Kind.CONSENT)
    made.round_keys[patient("mallory")] = RoundKey(os.urandom)
    content = signed_by("mallory", "consent-statement", consent_of(made, "alice"))
    refused(made, made.forge(Kind.CONSENT, content, "mallory", H), reason="sender")
    finishes(made)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"invitation": bytes(32)}, "consent-invitation"),
        ({"hospital": "spiffe://demo/hospital/other"}, "consent-hospital"),
        ({"expires": int(NOW)}, "consent-expired"),
        ({"round_key": bytes(range(32))}, "round-key"),
        ({"key_statement": Signed(b"", b"")}, "key-statement"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_consent_to_something_else_is_refused_and_the_right_one_taken(changes: dict[str, Any], reason: str) -> None:
    made = until(Kind.CONSENT)
    wrong = signed_by("alice", "consent-statement", replace(consent_of(made, "alice"), **changes))
    refused(made, made.forge(Kind.CONSENT, wrong, "alice", H), reason=reason)
    finishes(made)


class SmallOrderKey(RoundKey):
    """Works as another key does, and gives itself out for a point with which nobody agrees."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(os.urandom)
        self.public = bytes(32)


def test_a_consent_with_a_key_that_agrees_with_nobody_stops_nothing() -> None:
    made = until(Kind.CONSENT)
    wrong = signed_by("alice", "consent-statement", replace(consent_of(made, "alice"), round_key=bytes(32)))

    # Under her real key the envelope opens, and the consent inside must be refused; under the other it does not open.
    refused(made, made.forge(Kind.CONSENT, wrong, "alice", H), reason="round-key")
    refused(made, made.forge(Kind.CONSENT, wrong, "alice", H, key=SmallOrderKey()), Answer.UNOPENABLE)
    finishes(made)


def test_another_members_consent_is_refused() -> None:
    made = until(Kind.CONSENT)
    bobs = made.opened(made.pick(Kind.CONSENT, "bob"))
    refused(made, made.forge(Kind.CONSENT, bobs, "alice", H), reason="consent-signature")
    finishes(made)


@pytest.mark.parametrize("content", [Ready(bytes(32)), Declined(bytes(32))], ids=repr)
def test_a_signed_body_of_another_shape_is_no_passing_fault(content: Struct) -> None:
    """`rejected` is an answer from before the signature; what is wrong inside is refused for good."""
    made = until(Kind.CONSENT)
    wrong = signed_by("alice", "consent-statement", content)
    refused(made, made.forge(Kind.CONSENT, wrong, "alice", H), Answer.REFUSED, Answer.UNOPENABLE)


def test_nobody_consents_and_declines() -> None:
    made = until(Kind.CONSENT)
    made.deliver(made.take(Kind.CONSENT, "alice"))
    declined = Declined(made.hospital.invitation_digest)
    refused(made, made.forge(Kind.DECLINED, declined, "alice", H), reason="context")
    made.deliver(made.forge(Kind.DECLINED, declined, "bob", H))
    refused(made, made.take(Kind.CONSENT, "bob"), reason="declined-before")
    assert made.hospital.declined == {patient("bob")}


def test_declining_another_question_is_refused() -> None:
    made = until(Kind.CONSENT)
    refused(made, made.forge(Kind.DECLINED, Declined(bytes(32)), "alice", H), reason="context")


def test_two_consents_of_one_patient_end_the_round() -> None:
    made = until(Kind.CONSENT)
    other = signed_by("alice", "consent-statement", replace(consent_of(made, "alice"), nonce=bytes(32)))
    made.deliver(made.take(Kind.CONSENT, "alice"))

    assert made.deliver(made.forge(Kind.CONSENT, other, "alice", H)) is Answer.REFUSED
    assert (made.ending().code, made.ending().missing) == (AbortCode.EQUIVOCATION, ("alice",))


def test_a_consent_that_comes_too_late_is_refused() -> None:
    made = world("alice", "bob", "charlie", "dora", minimum=3)
    made.run(hold=frozenset({Kind.CONSENT}))
    late = made.take(Kind.CONSENT, "dora")
    made.run()
    made.advance(20)
    made.letters.append(late)
    assert made.deliver(late) is Answer.REFUSED
    made.settle(late)
    finishes(made)
    assert made.ending("dora").outcome == "aborted"


def test_there_is_one_roster_a_round() -> None:
    made = world()
    made.run()
    rosters = {encode(made.opened(letter)) for letter in made.sent if letter.kind is Kind.ROSTER}

    assert len(rosters) == 1
    assert sum(letter.kind is Kind.ROSTER for letter in made.sent) == 3


# -- readiness


def test_a_proof_of_readiness_must_be_its_senders_and_of_this_roster() -> None:
    made = until(Kind.READY)
    context = made.hospital.context or b""
    for wrong in (
        signed_by("alice", "ready-statement", Ready(bytes(32))),
        signed_by("bob", "ready-statement", Ready(context)),
        signed_by("alice", "consent-statement", Ready(context)),
        Signed(encode(Ready(context)), bytes(64)),
    ):
        refused(made, made.forge(Kind.READY, wrong, "alice", H), reason="ready")
    finishes(made)


def test_a_proof_under_another_round_key_than_its_senders_consent_is_refused() -> None:
    made = until(Kind.READY)
    content = signed_by("alice", "ready-statement", Ready(made.hospital.context or b""))
    refused(made, made.forge(Kind.READY, content, "alice", H, key=RoundKey(os.urandom)), reason="round-key")
    finishes(made)


def test_a_signed_body_that_is_no_proof_is_no_passing_fault() -> None:
    made = until(Kind.READY)
    body = b"\x91\xc4\x20" + bytes(32) + b"\0"
    surplus = Signed(body, sign_digest(keyring(patient("alice")).signing_key, tagged_digest("ready-statement", body)))
    refused(made, made.forge(Kind.READY, surplus, "alice", H), Answer.REFUSED, Answer.UNOPENABLE)


def test_who_is_not_on_the_roster_is_not_heard() -> None:
    made = world("alice", "bob", "charlie", "dora", minimum=3)
    made.patients["dora"].policy = policy(studies=())
    made.run(hold=frozenset({Kind.READY}))
    context = made.hospital.context or b""
    for kind, content in (
        (Kind.READY, signed_by("dora", "ready-statement", Ready(context))),
        (Kind.ABORT, Abort(context, AbortCode.CANCELLED, "sharing", ())),
        (Kind.PARTIAL_SUM, PartialSum((), (), ())),
    ):
        refused(made, made.forge(kind, content, "dora", H), reason="sender")
    finishes(made)


def test_collect_carries_every_proof_in_roster_order() -> None:
    made = until(Kind.COLLECT)
    content = made.opened(made.pick(Kind.COLLECT, recipient="bob"))

    assert isinstance(content, Collect)
    assert content.ready == tuple(signed_by(name, "ready-statement", Ready(made.hospital.context or b"")) for name in ALL)


@pytest.mark.parametrize("kind", [Kind.ROSTER, Kind.COLLECT], ids=lambda kind: kind.name)
def test_a_message_that_a_member_finally_refuses_ends_the_round(kind: Kind) -> None:
    made = until(kind)
    forget_encryption_key(made, "bob")
    made.run()

    assert (made.ending().code, made.ending().missing) == (AbortCode.UNDELIVERABLE, ("bob",))
    assert made.ending().detail == "bob finally refused a message that the round needs"


def test_an_invitation_that_fails_after_its_consent_came_changes_nothing() -> None:
    made = until(Kind.CONSENT)
    made.deliver(made.take(Kind.CONSENT, "alice"))
    made.give(HOSPITAL, Undeliverable(patient("alice"), Kind.INVITATION, Answer.GONE))
    assert made.hospital.unreachable == set()
    finishes(made)


def test_nothing_is_collected_before_all_are_ready() -> None:
    made = until(Kind.READY)
    made.deliver(made.take(Kind.READY, "alice"))
    made.deliver(made.take(Kind.READY, "bob"))

    assert not any(letter.kind is Kind.COLLECT for letter in made.sent)
    early = made.forge(Kind.PARTIAL_SUM, PartialSum((b"",), (bytes(32),) * 2, (bytes(32),) * 2), "alice", H)
    refused(made, early, reason="unexpected")
    finishes(made)


# -- partial sums


def partial_of(made: World, name: str) -> PartialSum:
    content = made.opened(made.pick(Kind.PARTIAL_SUM, name))
    assert isinstance(content, PartialSum)
    return content


def test_a_partial_sum_of_another_shape_does_not_open_and_the_right_one_is_taken() -> None:
    made = until(Kind.PARTIAL_SUM)
    good = partial_of(made, "alice")
    modulus = made.hospital.segments[0].modulus
    width = Ring(modulus).width
    digest = bytes(32)
    for changes in (
        {"segments": ()},
        {"segments": good.segments * 2},
        {"segments": (b"",)},
        {"segments": (good.segments[0][:-1],)},
        {"segments": (good.segments[0] + b"\0",)},
        {"segments": (good.segments[0] * 2,)},
        {"segments": (modulus.to_bytes(width, "little"),)},
        {"segments": (b"\xff" * width,)},
        {"sent": good.sent[:1]},
        {"sent": (*good.sent, digest)},
        {"received": ()},
        {"received": (*good.received, digest)},
    ):
        wrong = made.forge(Kind.PARTIAL_SUM, replace(good, **changes), "alice", H)
        refused(made, wrong, Answer.UNOPENABLE, reason="payload")
    finishes(made)


def test_a_second_partial_sum_ends_the_round() -> None:
    made = until(Kind.PARTIAL_SUM)
    good = partial_of(made, "alice")
    made.deliver(made.take(Kind.PARTIAL_SUM, "alice"))

    assert made.deliver(made.forge(Kind.PARTIAL_SUM, good, "alice", H)) is Answer.REFUSED, "even with the same content"
    assert made.ending().code == AbortCode.EQUIVOCATION
    assert made.ending().missing == ("alice",)
    made.run()
    assert not made.released


def test_the_same_partial_sum_twice_counts_once() -> None:
    made = until(Kind.PARTIAL_SUM)
    letter = made.pick(Kind.PARTIAL_SUM, "alice")

    assert [made.deliver(letter) for _ in range(3)] == [Answer.ACCEPTED] * 3
    finishes(made)


@pytest.mark.parametrize("field", ["sent", "received"])
def test_transcripts_that_differ_release_nothing(field: str) -> None:
    """A member that was restored, or drew its seeds twice: what it sent is not what the other holds."""
    made = until(Kind.PARTIAL_SUM)
    good = partial_of(made, "alice")
    made.take(Kind.PARTIAL_SUM, "alice")
    digests = getattr(good, field)
    made.deliver(made.forge(Kind.PARTIAL_SUM, replace(good, **{field: (digests[0], bytes(32))}), "alice", H))
    made.run()
    ended = made.ending()

    assert (ended.code, ended.missing) == (AbortCode.TRANSCRIPT, ("alice", "charlie"))
    assert not made.released
    assert not any(letter.kind is Kind.RECEIPT for letter in made.sent)
    assert "nothing is released" in ended.detail
    assert {made.ending(name).code for name in ALL} == {AbortCode.TRANSCRIPT}


def test_swapped_digests_are_no_transcript() -> None:
    made = until(Kind.PARTIAL_SUM)
    good = partial_of(made, "alice")
    made.take(Kind.PARTIAL_SUM, "alice")
    made.deliver(made.forge(Kind.PARTIAL_SUM, replace(good, sent=good.sent[::-1]), "alice", H))
    made.run()

    assert made.ending().code == AbortCode.TRANSCRIPT
    assert made.ending().missing == ALL


def test_a_total_that_honest_members_cannot_make_is_not_released() -> None:
    """The range leaves room above members x bound; a malicious member moves the total into it."""
    asked = replace(study(*ALL, bound=100), range=1_000_000)
    made = World(asked, {"alice": [1], "bob": [2], "charlie": [3]})
    for machine in made.patients.values():
        machine.policy = policy(100)
    made.open()
    made.run(hold=frozenset({Kind.PARTIAL_SUM}))
    ring, good = Ring(1_000_001), partial_of(made, "alice")
    moved = ring.add(ring.unpack(good.segments[0], 1), np.array([500_000], dtype=np.uint64))
    made.take(Kind.PARTIAL_SUM, "alice")
    made.deliver(made.forge(Kind.PARTIAL_SUM, replace(good, segments=(ring.pack(moved),)), "alice", H))
    made.run()

    assert made.ending().code == AbortCode.OUT_OF_RANGE
    assert made.ending().missing == ()
    assert "500" not in made.ending().detail
    assert not made.released


# -- the result


def receipts(made: World) -> list[Receipt]:
    contents = [made.opened(letter) for letter in made.sent if letter.kind is Kind.RECEIPT]
    return [content for content in contents if isinstance(content, Receipt)]


def stated(receipt: Receipt) -> ReceiptStatement:
    return decode(receipt.statement.body, ReceiptStatement)


def test_receipts_commit_to_the_result_and_keep_it() -> None:
    made = world()
    made.run()
    (released,) = made.released
    got = receipts(made)

    assert len(got) == 3
    assert len(set(map(encode, got))) == 1
    assert (got[0].result, got[0].key) == (b"", b"")
    assert stated(got[0]).context == made.hospital.context == released.result.context
    assert stated(got[0]).commitment == commitment(released.key, encode(released.result))
    assert len(released.key) == 32


def test_a_member_cannot_guess_a_small_result_from_its_receipt() -> None:
    made = World(study(*ALL, bound=3), {"alice": [1], "bob": [0], "charlie": [3]})
    for machine in made.patients.values():
        machine.policy = policy(3)
    made.open()
    made.run()
    (released,) = made.released
    committed = stated(receipts(made)[0]).commitment
    template = released.result

    def guess(total: int, key: bytes) -> bytes:
        values = total.to_bytes(8, "little", signed=True)
        return commitment(key, encode(replace(template, statistics=(replace(template.statistics[0], values=values),))))

    public = (
        b"",
        bytes(32),
        template.context,
        made.hospital.invitation_digest,
        made.invitation.nonce,
        made.round_keys[HOSPITAL].public,
    )
    assert committed not in {guess(total, key) for total in range(10) for key in public}
    assert [total for total in range(10) if guess(total, released.key) == committed] == [4]


def test_members_get_the_result_where_the_study_publishes_it() -> None:
    made = world(publish_to="members")
    made.run()

    assert {receipt.result for receipt in receipts(made)} == {encode(made.released[0].result)}
    assert {receipt.key for receipt in receipts(made)} == {made.released[0].key}


# -- aborts


@pytest.mark.parametrize(
    "code", [AbortCode.UNAVAILABLE, AbortCode.ROSTER, AbortCode.COLLECT, AbortCode.EQUIVOCATION, AbortCode.UNDELIVERABLE]
)
@pytest.mark.parametrize("hold", [Kind.ROSTER, Kind.READY, Kind.PARTIAL_SUM], ids=lambda kind: kind.name)
def test_a_members_abort_ends_the_round_for_all(hold: Kind, code: AbortCode) -> None:
    made = until(hold)
    content = Abort(made.hospital.context or b"", code, "sharing", ("bob",))
    made.deliver(made.forge(Kind.ABORT, content, "alice", H))
    made.run()

    assert (made.ending().code, made.ending().missing) == (code, ("bob",))
    assert {made.ending(name).code for name in ALL} == {code}
    assert not made.released


def test_an_abort_without_names_names_its_sender() -> None:
    made = until(Kind.READY)
    made.deliver(made.forge(Kind.ABORT, Abort(b"", AbortCode.ROSTER, "sharing", ()), "alice", H))
    assert made.ending().missing == ("alice",)


@pytest.mark.parametrize("code", [AbortCode.MISSING, AbortCode.UNAVAILABLE, AbortCode.EQUIVOCATION], ids=str)
def test_names_that_a_member_makes_up_are_not_repeated(code: AbortCode) -> None:
    """They would go into logs and onto screens of people who believe the hospital."""
    made = until(Kind.READY)
    made_up = ("\x1b[2Jsenator", "dora", "x" * 1000)
    for name in ALL:
        made.deliver(made.forge(Kind.ABORT, Abort(b"", code, "sharing", made_up), name, H))
        if made.hospital.ended:
            break
    made.run_out()

    assert set(made.ending().missing) <= set(ALL)
    assert not any(name in made.ending().detail for name in made_up)
    assert all(set(made.ending(name).missing) <= set(ALL) for name in ALL if made.endings(name))


def test_an_abort_of_another_roster_is_refused() -> None:
    made = until(Kind.READY)
    wrong = Abort(bytes(range(32)), AbortCode.ROSTER, "sharing", ())
    refused(made, made.forge(Kind.ABORT, wrong, "alice", H), reason="context")
    finishes(made)


def test_a_complaint_waits_for_the_others_and_then_names_who_is_missed() -> None:
    """Alice misses Bob's share; Charlie misses it, too. Bob has not said a word."""
    made = until(Kind.SHARE)
    context = made.hospital.context or b""
    claim = Abort(context, AbortCode.MISSING, "sharing", ("bob",))
    made.deliver(made.forge(Kind.ABORT, claim, "alice", H))
    assert made.hospital.state is HospitalState.SHARING
    made.deliver(made.forge(Kind.ABORT, claim, "charlie", H))

    assert (made.ending().code, made.ending().missing) == (AbortCode.MISSING, ("bob",))
    assert made.ending().detail == "bob went silent while sharing; the share of bob did not reach alice, charlie"


def test_of_two_that_cannot_reach_each_other_both_are_spoken_of() -> None:
    """Both say so at the same moment; whoever is heard first has not gone silent, and people still see between whom it is."""
    made = until(Kind.SHARE)
    context = made.hospital.context or b""
    made.deliver(made.forge(Kind.READY, signed_by("charlie", "ready-statement", Ready(context)), "charlie", H))
    made.deliver(made.forge(Kind.ABORT, Abort(context, AbortCode.MISSING, "sharing", ("bob",)), "alice", H))

    assert made.ending().missing == ("bob",)
    assert made.ending().detail == "bob went silent while sharing; the share of bob did not reach alice"


def test_two_that_miss_each_other_are_both_named() -> None:
    made = until(Kind.SHARE)
    context = made.hospital.context or b""
    for claimant, missed in (("alice", "bob"), ("bob", "alice")):
        made.deliver(made.forge(Kind.ABORT, Abort(context, AbortCode.MISSING, "sharing", (missed,)), claimant, H))
        if claimant == "alice":
            assert made.endings(H) == [], "Charlie has not spoken"
            made.hospital.check_invariants()
    made.deliver(made.forge(Kind.READY, signed_by("charlie", "ready-statement", Ready(context)), "charlie", H))

    assert made.ending().missing == ("alice", "bob")


def test_a_person_can_end_the_round_at_any_point() -> None:
    for hold in (Kind.INVITATION, Kind.CONSENT, Kind.ROSTER, Kind.READY, Kind.COLLECT, Kind.PARTIAL_SUM):
        made = until(hold)
        made.give(HOSPITAL, CancelRound())
        made.run()

        assert (made.ending().code, made.ending().detail) == (AbortCode.CANCELLED, "the hospital cancelled the round")
        for name in ALL:
            consented = patient(name) in made.hospital.participants
            assert made.patients[name].ended or not consented
        assert not made.released


@pytest.mark.parametrize("hold", [Kind.ROSTER, Kind.READY, Kind.COLLECT, Kind.PARTIAL_SUM], ids=lambda kind: kind.name)
def test_a_revoked_member_ends_the_round_and_hears_nothing_of_it(hold: Kind) -> None:
    made = until(hold)
    before = len(made.sent)
    made.give(HOSPITAL, PeersRevoked((patient("bob"),)))
    ended = made.ending()

    assert (ended.outcome, ended.code, ended.missing) == ("aborted", AbortCode.REVOKED, ("bob",))
    assert ended.detail == "the certificate of bob was revoked"
    assert {letter.recipient.name for letter in made.sent[before:]} == {"alice", "charlie"}
    made.run()
    assert made.ending("alice").code == AbortCode.REVOKED
    assert not made.released


def test_a_round_that_waits_for_consents_ends_when_one_who_consented_is_revoked() -> None:
    made = world()
    made.deliver(made.take(Kind.INVITATION, recipient="bob"))
    made.deliver(made.take(Kind.CONSENT, "bob"))
    assert [party.identity.name for party in made.hospital.parties] == ["bob"]
    made.give(HOSPITAL, PeersRevoked((patient("bob"),)))

    assert (made.ending().code, made.ending().phase) == (AbortCode.REVOKED, "inviting")


def test_a_member_can_say_that_another_is_revoked() -> None:
    made = until(Kind.READY)
    made.deliver(made.forge(Kind.ABORT, Abort(made.hospital.context or b"", AbortCode.REVOKED, "sharing", ("bob",)), "alice", H))

    assert (made.ending().code, made.ending().missing) == (AbortCode.REVOKED, ("bob",))


def test_what_comes_after_the_end_is_gone() -> None:
    made = until(Kind.PARTIAL_SUM)
    made.give(HOSPITAL, CancelRound())
    late = made.forge(Kind.PARTIAL_SUM, PartialSum((b"",), (), ()), "alice", H)
    assert made.deliver(late) is Answer.GONE
    assert made.deliver(made.forge(Kind.ABORT, Abort(b"", AbortCode.ROSTER, "", ()), "alice", H)) is Answer.GONE
    assert len(made.endings(H)) == 1
    content = replace(made.hospital.participants[patient("alice")].consent, nonce=bytes(32))
    other = signed_by("alice", "consent-statement", content)
    assert made.deliver(made.forge(Kind.CONSENT, other, "alice", H)) is Answer.GONE


def test_the_machine_for_an_event_that_cannot_be_tells_its_story() -> None:
    made = until(Kind.PARTIAL_SUM)
    for event in (OpenRound(), ValuesUnavailable()):
        with pytest.raises(InvalidTransition) as caught:
            made.hospital.handle(event, made.now)
        text = str(caught.value)
        assert f"hospital round in state collecting has no transition for {type(event).__name__}" in text
        assert "new: OpenRound > inviting: consent from alice" in text
        assert "ready from charlie" in text


def test_a_message_before_the_round_is_open_is_refused() -> None:
    other = world()
    other.run(hold=frozenset({Kind.CONSENT}))
    made = World(other.study, powers(*ALL))
    letter = other.pick(Kind.CONSENT, "alice")
    made.deliver(letter)
    assert made.answers[-1][1] is not Answer.ACCEPTED
    assert made.hospital.state is HospitalState.NEW


def test_a_roster_is_not_for_a_hospital() -> None:
    made = until(Kind.READY)
    roster = Roster(made.hospital.invitation_digest, keyring(HOSPITAL).chain, (), ())
    letter = made.forge(Kind.ROSTER, roster, "alice", H)
    refused(made, letter, Answer.REJECTED, reason="recipient")


def test_the_state_table_covers_every_state() -> None:
    states = {state for state, _ in HospitalRound.transitions}
    assert states == set(HospitalState) - {HospitalState.RELEASED, HospitalState.ABORTED}


def test_the_hospital_keeps_no_vector_of_a_member() -> None:
    """One running total, whatever the number of members."""
    made = until(Kind.PARTIAL_SUM)
    made.deliver(made.take(Kind.PARTIAL_SUM, "alice"))
    made.deliver(made.take(Kind.PARTIAL_SUM, "bob"))

    transcripts = made.hospital._transcripts
    assert [transcript.segments for transcript in transcripts.values()] == [(), ()]
    finishes(made)


def test_an_ending_tells_when_all_went_well() -> None:
    made = world()
    made.run()
    assert made.ending() == Ended("released")
    assert made.hospital.waiting_for == ()
    assert made.hospital.invited == tuple(Identity("demo", Role.PATIENT, name) for name in ALL)


def test_only_rounds_of_few_short_vectors_are_light() -> None:
    assert not hospital_round(study("alice", "bob", "charlie", length=10_000)).heavy
    assert hospital_round(study("alice", "bob", "charlie", length=10_001)).heavy
    crowd = [f"p{number}" for number in range(65)]
    assert not hospital_round(study(*crowd[:64])).heavy
    assert hospital_round(study(*crowd)).heavy
