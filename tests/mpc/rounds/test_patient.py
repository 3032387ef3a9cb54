"""A patient in a round with a hospital and peers that may say anything."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from mpc.disclosure import Bounds
from mpc.envelope import open_sealed, parse
from mpc.errors import Answer, InvalidTransition
from mpc.identity import Identity, Role
from mpc.keys import RoundKey
from mpc.messages import (
    BURNT_STATEMENT,
    RECEIPT_STATEMENT,
    Abort,
    AbortCode,
    Burnt,
    Collect,
    Declined,
    Invitation,
    Kind,
    Member,
    Ready,
    Receipt,
    Roster,
    SegmentShape,
    Share,
)
from mpc.receipt import Terms, write_statement
from mpc.result import Result, commitment, make_result
from mpc.rounds.events import (
    Asked,
    Decided,
    Ended,
    Event,
    OpenRound,
    PeersRevoked,
    PersonDecided,
    ReadValues,
    Released,
    Send,
    Submitted,
    Tick,
    ValuesRead,
    ValuesUnavailable,
    Withdrawn,
)
from mpc.rounds.patient import NO_RECEIPT, PatientRound, PatientState
from mpc.rounds.roster import context_of
from mpc.signature import sha256
from mpc.statement import Signed, read, sign
from mpc.study import Privacy, Release
from mpc.wire import Struct, decode, encode
from tests.mpc.nodes import (
    HOSPITAL,
    NOW,
    certificate,
    credential,
    keyring,
    patient,
    patient_round,
    policy,
    request,
    revoking,
    study,
)
from tests.mpc.world import BASE, MAX_SIZE, World, array, forget_encryption_key, world

ALICE = patient("alice")
H = HOSPITAL.name
NOISE = Privacy(1_000_000, 1, "member", 1, 1)


def until(*kinds: Kind, publish_to: str = "hospital") -> World:
    """A round in which everything but messages of these kinds is delivered."""
    made = world(publish_to=publish_to)
    made.run(hold=frozenset(kinds))
    return made


def effects(made: World, kind: type[Any], name: str = "alice") -> list[Any]:
    return [effect for who, effect in made.effects if who == name and isinstance(effect, kind)]


def sent(made: World, kind: Kind, name: str = "alice") -> int:
    return sum(letter.kind is kind and letter.sender.name == name for letter in made.sent)


def assert_refused(made: World, letter: Any, answer: Answer, reason: str = "") -> None:
    """The letter is answered so, and the machine is as it was."""
    machine = made.machines[letter.recipient]
    before = state_of(machine)
    count = len(made.effects)

    assert made.deliver(letter) is answer
    assert made.reason == reason or not reason
    assert state_of(machine) == before
    assert len(made.effects) == count


def state_of(machine: Any) -> tuple[Any, ...]:
    return (machine.state, dict(machine.seen), list(machine.story), machine.context, machine.invitation_digest, machine.question)


# -- the invitation


def fresh() -> World:
    """Nobody has received the invitation yet."""
    return world()


def invitation(made: World, **changes: Any) -> Invitation:
    return replace(made.invitation, **changes)


def test_a_good_invitation_is_consented_to_and_the_ledger_told() -> None:
    made = fresh()
    made.deliver(made.take(Kind.INVITATION, recipient="alice"))

    assert made.patients["alice"].state is PatientState.CONSENTED
    assert effects(made, Decided) == [Decided(request(made.study), "")]
    assert sent(made, Kind.CONSENT) == 1
    assert not effects(made, ReadValues), "no value is read before there is a roster"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"round": bytes(16)}, "invitation"),
        ({"hospital": "spiffe://demo/hospital/other"}, "invitation"),
        ({"round_key": bytes(range(32))}, "context"),
        ({"key_statement": keyring(ALICE).encryption.statement}, "key-statement"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_invitation_that_contradicts_itself_is_refused(changes: dict[str, Any], reason: str) -> None:
    made = fresh()
    letter = made.forge(Kind.INVITATION, invitation(made, **changes), H, "alice")
    assert_refused(made, letter, Answer.REFUSED, reason)


def test_an_invitation_under_another_digest_is_refused() -> None:
    made = fresh()
    letter = made.forge(Kind.INVITATION, invitation(made), H, "alice", context=bytes(32))
    assert_refused(made, letter, Answer.REFUSED, "context")


def test_an_invitation_that_cannot_be_read_is_refused() -> None:
    made = fresh()
    assert_refused(made, made.forge(Kind.INVITATION, b"no invitation", H, "alice"), Answer.UNOPENABLE, "payload")
    unread = made.forge(Kind.INVITATION, invitation(made, study=b"no study"), H, "alice")
    assert_refused(made, unread, Answer.UNOPENABLE, "payload")
    surplus = made.forge(Kind.INVITATION, encode(invitation(made)) + b"\0", H, "alice")
    assert_refused(made, surplus, Answer.UNOPENABLE, "payload")


def test_an_invitation_with_a_key_that_agrees_with_nobody_is_refused() -> None:
    made = fresh()
    key = RoundKey(os.urandom)
    key.public = bytes(32)
    letter = made.forge(Kind.INVITATION, invitation(made, round_key=bytes(32)), H, "alice", key=key)

    assert made.deliver(letter) in (Answer.REFUSED, Answer.UNOPENABLE)
    assert made.patients["alice"].state is PatientState.NEW


def test_a_study_whose_members_are_no_identities_is_declined() -> None:
    made = fresh()
    wrong = replace(made.study, members=("nonsense", *made.study.members))
    made.deliver(made.forge(Kind.INVITATION, invitation(made, study=encode(wrong)), H, "alice"))

    assert made.patients["alice"].state is PatientState.DECLINED


def test_another_round_is_not_this_one() -> None:
    made = fresh()
    letter = made.forge(Kind.INVITATION, invitation(made), H, "alice", round_id=bytes(16))
    assert_refused(made, letter, Answer.REFUSED, "round")


def test_a_refusal_gives_no_reason_and_leaves_nothing_behind() -> None:
    made = fresh()
    machine = made.patients["alice"]
    machine.policy = policy(studies=("weight",))
    made.deliver(made.take(Kind.INVITATION, recipient="alice"))

    assert machine.state is PatientState.DECLINED
    assert effects(made, Decided) == [Decided(request(made.study), "the policy answers no study called pressure")]
    answer = made.pick(Kind.DECLINED, "alice")
    assert made.opened(answer) == Declined(made.hospital.invitation_digest), "one digest, the same whatever the reason"
    assert machine.round_key is None
    sizes = set()
    for rules in (policy(floor=9), policy(bound=2 * BASE**3), policy(max_length=0)):
        other = fresh()
        other.patients["alice"].policy = rules
        other.deliver(other.take(Kind.INVITATION, recipient="alice"))
        sizes.add(len(other.pick(Kind.DECLINED, "alice").raw))
    assert len(sizes) == 1, "the length tells nothing either"


def test_the_same_invitation_twice_is_one_consent() -> None:
    made = fresh()
    letter = made.pick(Kind.INVITATION, recipient="alice")

    assert [made.deliver(letter), made.deliver(letter)] == [Answer.ACCEPTED] * 2
    assert sent(made, Kind.CONSENT) == 1


@pytest.mark.parametrize(
    "changes",
    [{"nonce": bytes(32)}, {"segments": (SegmentShape(7, 1),)}, {"floor": 4}, {"study": b"another"}, {"deadline": 2**40}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_second_invitation_for_one_round_ends_it(changes: dict[str, Any]) -> None:
    made = until(Kind.ROSTER)
    answer = made.deliver(made.forge(Kind.INVITATION, invitation(made, **changes), H, "alice"))

    assert answer is Answer.REFUSED
    assert made.ending("alice").code == AbortCode.EQUIVOCATION
    assert made.ending("alice").missing == (H,)
    assert sent(made, Kind.SHARE) == 0


def test_another_hospital_has_no_say_in_the_round() -> None:
    made = until(Kind.ROSTER)
    other = Identity("demo", Role.HOSPITAL, "other")
    made.round_keys[other] = RoundKey(os.urandom)
    made.identity = lambda name: other if name == "other" else patient(name)  # type: ignore[method-assign]
    for kind, content in ((Kind.ROSTER, Roster(bytes(32), keyring(other).chain, (), ())), (Kind.ABORT, abort(made))):
        letter = made.forge(kind, content, "other", "alice")
        made.patients["alice"].credentials.learn(keyring(other).chain, NOW)
        assert_refused(made, letter, Answer.REFUSED, "sender")


def abort(made: World, context: bytes | None = None, code: AbortCode = AbortCode.CANCELLED, *missing: str) -> Abort:
    return Abort(made.hospital.context or b"" if context is None else context, code, "sharing", missing)


# -- the roster


def roster_of(made: World, **changes: Any) -> Roster:
    content = made.opened(made.pick(Kind.ROSTER, recipient="alice"))
    assert isinstance(content, Roster)
    return replace(content, **changes)


def consent_again(made: World, name: str, **changes: Any) -> Member:
    content = replace(made.hospital.participants[patient(name)].consent, **changes)
    signed = sign(keyring(patient(name)).signing_key, "consent-statement", content)
    return Member(keyring(patient(name)).chain, signed)


OTHER_HOSPITAL = Identity("demo", Role.HOSPITAL, "other")
WRONG_ROSTERS: dict[str, Callable[[World, Roster], Roster]] = {
    "empty": lambda made, good: replace(good, members=()),
    "a lone patient": lambda made, good: replace(good, members=good.members[:1]),
    "below the floor": lambda made, good: replace(good, members=good.members[:2]),
    "a repeat": lambda made, good: replace(good, members=(good.members[0], *good.members)),
    "repeats up to the floor": lambda made, good: replace(good, members=(good.members[0], good.members[1], good.members[1])),
    "without this patient": lambda made, good: replace(good, members=good.members[1:]),
    "unsorted": lambda made, good: replace(good, members=good.members[::-1]),
    "of another invitation": lambda made, good: replace(good, invitation=bytes(32)),
    "another hospital's chain": lambda made, good: replace(good, hospital_chain=keyring(OTHER_HOSPITAL).chain),
    "a renewed hospital's chain": lambda made, good: replace(
        good, hospital_chain=(certificate(HOSPITAL, keyring(HOSPITAL).signing_key.public_key()),)
    ),
    "this patient's consent changed": lambda made, good: replace(
        good, members=(consent_again(made, "alice", endpoint="https://elsewhere.example"), *good.members[1:])
    ),
    "another's consent expired": lambda made, good: replace(
        good, members=(good.members[0], consent_again(made, "bob", expires=int(NOW)), good.members[2])
    ),
    "another's consent to something else": lambda made, good: replace(
        good, members=(good.members[0], consent_again(made, "bob", invitation=bytes(32)), good.members[2])
    ),
    "another's consent forged": lambda made, good: replace(
        good, members=(good.members[0], Member(keyring(patient("bob")).chain, good.members[0].consent), good.members[2])
    ),
    "a stranger": lambda made, good: replace(
        good,
        members=(
            *good.members,
            Member(
                keyring(patient("dora")).chain,
                sign(
                    keyring(patient("dora")).signing_key,
                    "consent-statement",
                    replace(
                        made.hospital.participants[ALICE].consent,
                        key_statement=keyring(patient("dora")).encryption.statement,
                        round_key=RoundKey(os.urandom).public,
                        nonce=bytes(32),
                    ),
                ),
            ),
        ),
    ),
    "a key that agrees with nobody": lambda made, good: replace(
        good, members=(good.members[0], consent_again(made, "bob", round_key=bytes(32)), good.members[2])
    ),
}


@pytest.mark.parametrize("name", WRONG_ROSTERS)
def test_a_wrong_roster_gets_nothing(name: str) -> None:
    made = until(Kind.ROSTER)
    wrong = WRONG_ROSTERS[name](made, roster_of(made))
    made.take(Kind.ROSTER, recipient="alice")
    made.deliver(made.forge(Kind.ROSTER, wrong, H, "alice"))

    assert made.ending("alice").code == AbortCode.ROSTER
    assert made.ending("alice").detail, "the people at this node are told more"
    assert not effects(made, ReadValues)
    assert sent(made, Kind.SHARE) == 0
    content = made.opened(made.pick(Kind.ABORT, "alice"))
    assert isinstance(content, Abort)
    assert (content.code, content.missing) == (AbortCode.ROSTER, ("alice",))


def test_a_roster_of_invented_members_gets_nothing() -> None:
    """The hospital runs the authority, and fills the roster up with patients of its own making."""
    made = world("alice", "bob", "dora", "emil")
    pinned = frozenset({patient("alice"), patient("bob"), patient("charlie")})
    made.patients["alice"].policy = policy(BASE**4, vouched_authorities=frozenset(), vouched_members=pinned)
    made.run()

    assert made.ending("alice").code == AbortCode.ROSTER
    assert "2 of its 4 members are vouched for" in made.ending("alice").detail
    assert sent(made, Kind.SHARE) == 0
    assert made.ending().code == AbortCode.ROSTER
    assert "vouched" not in made.ending().detail, "the reason stays with the patient"


def test_two_rosters_for_one_round_end_it() -> None:
    made = until(Kind.SHARE)
    second = Roster(made.hospital.invitation_digest, keyring(HOSPITAL).chain, (), ())
    answer = made.deliver(made.forge(Kind.ROSTER, second, H, "alice"))

    assert answer is Answer.REFUSED
    assert made.ending("alice").code == AbortCode.EQUIVOCATION
    assert made.ending("alice").missing == (H,)


def test_members_that_were_shown_different_rosters_cannot_use_each_others_shares() -> None:
    """Four consent; the hospital shows Alice a roster without Dora, and the others one with her."""
    made = world("alice", "bob", "charlie", "dora", minimum=3)
    made.run(hold=frozenset({Kind.ROSTER}))
    smaller = roster_of(made)
    smaller = replace(smaller, members=smaller.members[:3])
    made.take(Kind.ROSTER, recipient="alice")
    made.deliver(made.forge(Kind.ROSTER, smaller, H, "alice"))
    made.run()

    assert made.patients["alice"].context == context_of(encode(smaller)) != made.hospital.context
    refused = [(letter.kind, reason) for letter, answer, reason in made.answers if answer is Answer.REFUSED]
    assert (Kind.SHARE, "context") in refused
    made.run_out()
    assert not made.released
    assert all(sent(made, Kind.PARTIAL_SUM, name) == 0 for name in made.values)


def test_patients_that_were_asked_different_things_share_nothing() -> None:
    """One round, two scales: each consent is bound to its own invitation, so no roster holds both."""
    made = fresh()
    other = replace(made.study, variables=(replace(made.study.variables[0], maximum=2 * BASE**3),))
    segments = (SegmentShape(6 * BASE**3 + 1, 1),)
    made.take(Kind.INVITATION, recipient="bob")
    made.deliver(made.forge(Kind.INVITATION, invitation(made, study=encode(other), segments=segments), H, "bob"))
    assert made.patients["bob"].state is PatientState.CONSENTED
    made.run(hold=frozenset({Kind.CONSENT}))
    consents = {name: made.opened(made.pick(Kind.CONSENT, name)) for name in made.values}
    members = tuple(Member(keyring(patient(name)).chain, signed) for name, signed in consents.items())  # type: ignore[arg-type]
    for name in made.values:
        digest = made.patients[name].invitation_digest
        made.deliver(made.forge(Kind.ROSTER, Roster(digest, keyring(HOSPITAL).chain, members, ()), H, name, context=digest))

    assert {made.ending(name).code for name in made.values} == {AbortCode.ROSTER}
    assert all(sent(made, Kind.SHARE, name) == 0 for name in made.values)


# -- values


def test_a_missing_value_is_unavailable_and_no_more_is_said() -> None:
    made = World(study("alice", "bob", "charlie"), {"alice": None, "bob": [2], "charlie": [3]})
    made.open()
    made.run()

    assert made.ending("alice").code == made.ending().code == AbortCode.UNAVAILABLE
    assert made.ending().missing == ("alice",)
    assert sent(made, Kind.SHARE) == 0
    assert all(machine.ended for machine in made.machines.values())


@pytest.mark.parametrize("values", [[1_000_001], [-1], [1, 2], []])
def test_a_value_that_the_study_cannot_take_is_unavailable_and_never_clipped(values: list[int]) -> None:
    made = World(study("alice", "bob", "charlie"), {"alice": values, "bob": [2], "charlie": [3]})
    made.open()
    made.run(hold=frozenset({Kind.ABORT}))
    content = made.opened(made.pick(Kind.ABORT, "alice"))

    assert isinstance(content, Abort)
    assert (content.code, content.missing) == (AbortCode.UNAVAILABLE, ("alice",))
    assert set(content.__struct_fields__) == {"context", "code", "phase", "missing"}, "there is no place for a reason"
    assert "1000001" not in made.ending("alice").detail
    made.run()
    assert made.ending().code == AbortCode.UNAVAILABLE
    assert not made.released


# -- shares


@pytest.mark.parametrize(
    ("known", "answer"),
    [(True, Answer.LATER), (False, Answer.REJECTED)],
    ids=["its sender's certificate is known", "its sender's certificate comes with the roster"],
)
def test_a_share_that_overtakes_the_roster_is_taken_when_it_comes_again(known: bool, answer: Answer) -> None:
    made = until(Kind.ROSTER)
    made.deliver(made.take(Kind.ROSTER, recipient="bob"))
    if known:
        made.patients["alice"].credentials.learn(keyring(patient("bob")).chain, NOW)
    early = made.pick(Kind.SHARE, "bob", "alice")

    assert_refused(made, early, answer)
    made.deliver(made.take(Kind.ROSTER, recipient="alice"))
    assert made.deliver(early) is Answer.ACCEPTED
    made.settle(early)
    made.run()
    assert made.total() == 1 + BASE + BASE**2


def test_a_share_of_another_context_is_refused() -> None:
    made = until(Kind.SHARE)
    assert_refused(made, made.forge(Kind.SHARE, Share(bytes(32)), "bob", "alice", context=bytes(32)), Answer.REFUSED, "context")


def test_a_share_of_a_stranger_is_refused() -> None:
    made = until(Kind.SHARE)
    stranger = patient("mallory")
    made.round_keys[stranger] = RoundKey(os.urandom)
    made.patients["alice"].credentials.learn(keyring(stranger).chain, NOW)
    assert_refused(made, made.forge(Kind.SHARE, Share(bytes(32)), "mallory", "alice"), Answer.REFUSED, "sender")


def test_a_share_under_another_round_key_than_its_senders_consent_is_refused() -> None:
    made = until(Kind.SHARE)
    letter = made.forge(Kind.SHARE, Share(bytes(32)), "bob", "alice", key=RoundKey(os.urandom))
    assert_refused(made, letter, Answer.REFUSED, "round-key")


def test_a_share_that_does_not_open_is_refused_and_the_right_one_still_taken() -> None:
    made = until(Kind.SHARE)
    for payload in (
        b"",
        b"no share",
        encode(Share(bytes(32))) + b"\0",
        b"\x91\xc4\x1f" + bytes(31),
        encode(Ready(bytes(32)))[:-1],
    ):
        assert_refused(made, made.forge(Kind.SHARE, payload, "bob", "alice"), Answer.UNOPENABLE, "payload")
    made.run()
    assert made.total() == 1 + BASE + BASE**2


def test_the_same_share_twice_is_one_share() -> None:
    made = until(Kind.SHARE)
    letter = made.pick(Kind.SHARE, "bob", "alice")
    assert made.deliver(letter) is Answer.ACCEPTED

    before = state_of(made.patients["alice"])
    assert made.deliver(letter) is Answer.ACCEPTED
    assert state_of(made.patients["alice"]) == before
    made.run()
    assert made.total() == 1 + BASE + BASE**2


@pytest.mark.parametrize("hold", [Kind.READY, Kind.COLLECT], ids=lambda kind: kind.name)
def test_a_share_sent_twice_with_other_content_ends_the_round(hold: Kind) -> None:
    made = until(hold)
    answer = made.deliver(made.forge(Kind.SHARE, Share(bytes(32)), "bob", "alice"))

    assert answer is Answer.REFUSED
    assert made.ending("alice").code == AbortCode.EQUIVOCATION
    assert made.ending("alice").missing == ("bob",)
    made.run()
    assert made.ending().code == AbortCode.EQUIVOCATION
    assert not made.released


def test_after_the_partial_sum_a_second_share_changes_nothing() -> None:
    made = until(Kind.PARTIAL_SUM)
    assert_refused(made, made.forge(Kind.SHARE, Share(bytes(32)), "bob", "alice"), Answer.REFUSED, "equivocation")


# -- order


def test_messages_that_come_before_their_time_are_refused() -> None:
    made = until(Kind.SHARE)
    early: list[tuple[Kind, Struct]] = [
        (Kind.COLLECT, Collect(())),
        (Kind.RECEIPT, Receipt(Signed(b"", bytes(64)), b"", b"")),
    ]
    for kind, content in early:
        assert_refused(made, made.forge(kind, content, H, "alice"), Answer.REFUSED, "unexpected")
    made.run()
    assert made.total() == 1 + BASE + BASE**2


def test_a_receipt_before_the_partial_sum_is_refused() -> None:
    made = until(Kind.COLLECT)
    receipt = Receipt(Signed(b"", bytes(64)), b"", b"")
    assert_refused(made, made.forge(Kind.RECEIPT, receipt, H, "alice"), Answer.REFUSED, "unexpected")


def test_before_the_roster_what_is_bound_to_it_has_to_wait() -> None:
    made = until(Kind.ROSTER)
    assert_refused(made, made.forge(Kind.COLLECT, Collect(()), H, "alice"), Answer.LATER)


def test_before_the_invitation_nobody_but_a_hospital_is_heard() -> None:
    made = fresh()
    made.patients["alice"].credentials.learn(keyring(patient("bob")).chain, NOW)
    letter = made.forge(Kind.ABORT, Abort(b"", AbortCode.CANCELLED, "", ()), "bob", "alice")
    assert_refused(made, letter, Answer.REFUSED, "sender")


def test_a_roster_before_the_invitation_is_refused() -> None:
    made = fresh()
    letter = made.forge(Kind.ROSTER, Roster(bytes(32), keyring(HOSPITAL).chain, (), ()), H, "alice")
    made.patients["alice"].credentials.learn(keyring(HOSPITAL).chain, NOW)
    assert_refused(made, letter, Answer.REFUSED)


@pytest.mark.parametrize(
    "kind", [Kind.INVITATION, Kind.ROSTER, Kind.SHARE, Kind.COLLECT, Kind.RECEIPT], ids=lambda kind: kind.name
)
def test_a_replayed_message_is_accepted_without_effect(kind: Kind) -> None:
    made = world()
    made.run()
    counted = len(made.effects)

    for letter in [letter for letter in made.sent if letter.kind is kind and letter.recipient == ALICE]:
        assert made.deliver(letter) is Answer.ACCEPTED
    assert len([effect for _, effect in made.effects[counted:] if type(effect).__name__ != "Answered"]) == 0
    assert sent(made, Kind.PARTIAL_SUM) == 1


def test_a_message_of_an_older_round_is_refused_in_the_next() -> None:
    old = world()
    old.run()
    new = until(Kind.SHARE)
    for letter in old.sent:
        if letter.recipient == ALICE and letter.kind is not Kind.INVITATION:
            assert_refused(new, letter, Answer.REFUSED)


# -- the proofs of readiness


@pytest.mark.parametrize("fault", ["none", "one missing", "forged", "another's", "other context", "unsorted"])
def test_without_every_proof_of_readiness_no_partial_sum_is_made(fault: str) -> None:
    made = until(Kind.COLLECT)
    content = made.opened(made.take(Kind.COLLECT, recipient="alice"))
    assert isinstance(content, Collect)
    alice, bob, charlie = content.ready
    proofs = {
        "none": (),
        "one missing": (alice, bob),
        "forged": (alice, replace(bob, signature=bytes(64)), charlie),
        "another's": (alice, charlie, charlie),
        "other context": (alice, sign(keyring(patient("bob")).signing_key, "ready-statement", Ready(bytes(32))), charlie),
        "unsorted": (bob, alice, charlie),
    }[fault]
    made.deliver(made.forge(Kind.COLLECT, Collect(proofs), H, "alice"))

    assert made.ending("alice").code == AbortCode.COLLECT
    assert sent(made, Kind.PARTIAL_SUM) == 0
    assert not effects(made, Submitted)
    made.run()
    assert made.ending().code == AbortCode.COLLECT
    assert not made.released


def test_the_round_counts_from_the_partial_sum_on() -> None:
    made = until(Kind.PARTIAL_SUM)
    submitted = [effect for who, effect in made.effects if who == "alice"]
    kinds = [type(effect).__name__ for effect in submitted]
    context = made.hospital.context or b""

    members = tuple(map(patient, ("alice", "bob", "charlie")))
    ends = {"value": NOW + policy().period}
    assert effects(made, Submitted) == [Submitted("pressure", context, members, frozenset(members), ends, 0)]
    assert kinds.index("Submitted") < len(kinds) - 1 - kinds[::-1].index("Send"), "committed before it is sent"


# -- the receipt


def published(made: World, total: int = 1 + BASE + BASE**2) -> tuple[bytes, bytes]:
    result = make_result(made.study, made.hospital.context or b"", 3, (array([total]),))
    return encode(result), bytes(range(32))


def receipt(made: World, raw: bytes, key: bytes, *, signer: str = H, **changes: Any) -> Receipt:
    """What the hospital says of a published result, but for these fields of what it signs."""
    question = made.hospital.question
    assert question is not None
    true = write_statement(question, 1, made.hospital.context or b"", commitment(key, raw), made.now)
    signing_key = keyring(made.identity(signer)).signing_key
    return Receipt(sign(signing_key, RECEIPT_STATEMENT, replace(true, **changes)), raw, key)


def test_a_receipt_ends_the_round() -> None:
    made = world()
    made.run()

    assert made.ending("alice") == Ended("released")
    assert not effects(made, Released), "the study publishes to the hospital alone"


def test_a_published_result_is_checked_against_its_commitment() -> None:
    made = world(publish_to="members")
    made.run()
    (released,) = effects(made, Released)

    assert isinstance(released.result, Result)
    assert released.result.plain() == {"value": {"sum": 1 + BASE + BASE**2}}


def refused_then_right(made: World, wrong: Receipt) -> None:
    assert_refused(made, made.forge(Kind.RECEIPT, wrong, H, "alice"), Answer.REFUSED, "receipt")
    made.run()
    assert made.patients["alice"].state is PatientState.FINISHED, "the right one is taken afterwards"


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": 2},
        {"round": bytes(16)},
        {"context": bytes(32)},
        {"study": bytes(32)},
        {"study_id": "another"},
        {"commitment": bytes(32)},
        {"opened": int(NOW) - 1},
        {"released": int(NOW) - 1},
        {"released": int(NOW) + 60 + 61},
        {"deadline": int(NOW) + 61},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_receipt_that_says_something_else_is_not_countersigned(wrong: dict[str, Any]) -> None:
    made = until(Kind.RECEIPT, publish_to="members")
    refused_then_right(made, receipt(made, *published(made), **wrong))


@pytest.mark.parametrize("wrong", [{"publish": "hospital"}, {"statistics": ()}, {"release": Release(5, 0)}, {"privacy": NOISE}])
def test_more_or_less_than_the_study_said_is_not_countersigned(wrong: dict[str, object]) -> None:
    made = until(Kind.RECEIPT, publish_to="members")
    refused_then_right(made, receipt(made, *published(made), terms=replace(Terms.of(made.study), **wrong)))


@pytest.mark.parametrize("fault", ["key", "result"])
def test_a_result_that_is_not_the_one_committed_to_is_refused(fault: str) -> None:
    made = until(Kind.RECEIPT, publish_to="members")
    right = receipt(made, *published(made))
    refused_then_right(made, replace(right, **{fault: bytes(32) if fault == "key" else published(made, 5)[0]}))


def test_a_member_that_was_promised_the_result_countersigns_nothing_without_it() -> None:
    made = until(Kind.RECEIPT, publish_to="members")
    right = receipt(made, *published(made))
    refused_then_right(made, Receipt(right.statement, b"", b""))


def test_a_result_for_the_hospital_alone_is_not_taken() -> None:
    made = until(Kind.RECEIPT)
    refused_then_right(made, receipt(made, *published(made)))


def test_a_receipt_that_another_signed_is_refused() -> None:
    made = until(Kind.RECEIPT, publish_to="members")
    refused_then_right(made, receipt(made, *published(made), signer="bob"))


def test_a_result_that_cannot_be_read_is_not_a_passing_fault() -> None:
    """`rejected` is an answer from before the signature: the sender would try again and again."""
    made = until(Kind.RECEIPT, publish_to="members")
    answer = made.deliver(made.forge(Kind.RECEIPT, receipt(made, b"no result", bytes(range(32))), H, "alice"))

    assert answer in (Answer.REFUSED, Answer.UNOPENABLE)
    assert made.patients["alice"].state is PatientState.SUBMITTED


def test_without_a_receipt_the_round_still_counts_as_answered() -> None:
    made = world()
    made.run_out(drop=lambda letter: letter.kind is Kind.RECEIPT)

    assert made.total() == 1 + BASE + BASE**2
    assert made.ending("alice").code == NO_RECEIPT
    assert made.now == NOW + 60 + 60


# -- aborts and ends


@pytest.mark.parametrize("hold", [Kind.ROSTER, Kind.SHARE, Kind.COLLECT, Kind.PARTIAL_SUM], ids=lambda kind: kind.name)
def test_the_hospitals_abort_ends_the_round_at_any_point(hold: Kind) -> None:
    made = until(hold)
    made.deliver(made.forge(Kind.ABORT, abort(made, None, AbortCode.MISSING, "bob"), H, "alice"))
    ended = made.ending("alice")

    assert (ended.outcome, ended.code, ended.missing) == ("aborted", AbortCode.MISSING, ("bob",))
    assert "bob went silent" in ended.detail


def test_an_abort_of_another_roster_is_refused() -> None:
    made = until(Kind.SHARE)
    assert_refused(made, made.forge(Kind.ABORT, abort(made, b"\1" * 32), H, "alice"), Answer.REFUSED, "context")


def test_a_member_cannot_end_the_round_for_another() -> None:
    made = until(Kind.SHARE)
    assert_refused(made, made.forge(Kind.ABORT, abort(made), "bob", "alice"), Answer.REFUSED, "sender")


def test_what_comes_after_the_end_is_gone() -> None:
    made = until(Kind.SHARE)
    share = made.take(Kind.SHARE, "bob", "alice")
    made.deliver(made.forge(Kind.ABORT, abort(made), H, "alice"))

    assert_refused(made, share, Answer.GONE)
    before = until(Kind.ROSTER)
    before.deliver(before.forge(Kind.ABORT, abort(before, b""), H, "alice"))
    before.patients["alice"].credentials.learn(keyring(patient("bob")).chain, NOW)
    assert_refused(before, before.forge(Kind.SHARE, Share(bytes(32)), "bob", "alice"), Answer.GONE)


@pytest.mark.parametrize(
    ("hold", "burnt"), [(Kind.ROSTER, 0), (Kind.SHARE, 0), (Kind.COLLECT, 1), (Kind.PARTIAL_SUM, 0)], ids=str
)
def test_who_was_ready_and_gives_nothing_signs_that_and_nobody_else_does(hold: Kind, burnt: int) -> None:
    made = until(hold)
    made.deliver(made.forge(Kind.ABORT, abort(made, None, AbortCode.MISSING, "bob"), H, "alice"))

    assert sent(made, Kind.BURNT) == burnt
    if burnt:
        envelope = parse(made.pick(Kind.BURNT, "alice").raw, MAX_SIZE)
        said = decode(open_sealed(envelope, keyring(HOSPITAL).encryption.private_key, None), Signed)
        content = read(said, BURNT_STATEMENT, Burnt, credential(ALICE).public_key)
        assert content == Burnt(made.hospital.context or b"")
        assert envelope.header.context == made.hospital.context


def test_a_burnt_is_signed_at_the_deadline_too_and_offered_for_a_day() -> None:
    made = until(Kind.COLLECT)
    made.letters.clear()
    made.advance(60)
    (letter,) = [effect for effect in effects(made, Send) if effect.kind is Kind.BURNT]
    assert (letter.recipient, letter.until) == (HOSPITAL, NOW + 60 + 24 * 3600)


def test_a_person_who_is_asked_decides_once() -> None:
    made = fresh()
    machine = made.patients["alice"]
    machine.policy = policy(ask=("press*",))
    made.deliver(made.take(Kind.INVITATION, recipient="alice"))
    assert (machine.state, effects(made, Decided)) == (PatientState.ASKED, [])
    assert effects(made, Asked) == [Asked(request(made.study), NOW + 20, NOW + 60)]
    assert not sent(made, Kind.CONSENT)
    made.give(ALICE, PersonDecided(approved=True))
    made.give(ALICE, PersonDecided(approved=False))
    assert effects(made, Decided) == [Decided(request(made.study), "", by_person=True)]
    assert sent(made, Kind.CONSENT) == 1
    made.run()
    assert made.patients["alice"].state is PatientState.FINISHED


def test_a_person_is_not_asked_about_what_a_rule_refuses() -> None:
    made = fresh()
    made.patients["alice"].policy = policy(ask=("*",), floor=9)
    made.deliver(made.take(Kind.INVITATION, recipient="alice"))
    assert made.patients["alice"].state is PatientState.DECLINED
    assert not effects(made, Asked)


@pytest.mark.parametrize(
    ("event", "reason", "told"),
    [
        (PersonDecided(approved=False), "a person has declined it", 1),
        (Withdrawn(), "a person has withdrawn from the study", 1),
        (Tick(), "nobody has decided in time", 0),
    ],
    ids=["declined", "withdrawn", "late"],
)
def test_without_an_approval_there_is_no_consent(event: Event, reason: str, told: int) -> None:
    made = fresh()
    machine = made.patients["alice"]
    machine.policy = policy(ask=("*",))
    made.deliver(made.take(Kind.INVITATION, recipient="alice"))
    made.give(ALICE, Tick())
    assert machine.state is PatientState.ASKED, "it is early"
    made.now += 20 if isinstance(event, Tick) else 0
    made.give(ALICE, event)
    assert effects(made, Decided) == [Decided(request(made.study), reason, by_person=True)]
    assert (machine.state, sent(made, Kind.DECLINED), sent(made, Kind.CONSENT)) == (PatientState.DECLINED, told, 0)
    assert machine.round_key is None


@pytest.mark.parametrize("hold", [Kind.ROSTER, Kind.SHARE, Kind.COLLECT], ids=lambda kind: kind.name)
def test_a_withdrawal_ends_the_round_and_the_hospital_hears_unavailable(hold: Kind) -> None:
    made = until(hold)
    made.give(ALICE, Withdrawn())
    ended = made.ending("alice")
    assert (ended.code, ended.detail) == (AbortCode.UNAVAILABLE, "a person has withdrawn from the study")
    content = made.opened(made.take(Kind.ABORT, "alice"))
    assert isinstance(content, Abort)
    assert content.code is AbortCode.UNAVAILABLE


def test_after_the_partial_sum_a_withdrawal_comes_too_late() -> None:
    made = until(Kind.RECEIPT)
    made.give(ALICE, Withdrawn())
    assert made.endings("alice") == []


@pytest.mark.parametrize("hold", [Kind.SHARE, Kind.COLLECT], ids=lambda kind: kind.name)
def test_a_revoked_peer_ends_the_round_and_the_hospital_is_told(hold: Kind) -> None:
    made = until(hold)
    assert [party.identity.name for party in made.patients["alice"].parties] == [H, "bob", "charlie"]
    made.give(ALICE, PeersRevoked((patient("bob"),)))

    assert (made.ending("alice").code, made.ending("alice").missing) == (AbortCode.REVOKED, ("bob",))
    made.deliver(made.take(Kind.ABORT, "alice"))
    assert (made.ending().code, made.ending().missing) == (AbortCode.REVOKED, ("bob",))


def test_a_revoked_hospital_hears_nothing_more() -> None:
    for hold in (Kind.ROSTER, Kind.SHARE, Kind.COLLECT):
        made = until(hold)
        before = len(made.sent)
        made.give(ALICE, PeersRevoked((HOSPITAL,)))

        ended = made.ending("alice")
        assert (ended.code, ended.missing, ended.detail) == (AbortCode.REVOKED, (H,), f"the certificate of {H} was revoked")
        assert len(made.sent) == before


def test_after_the_partial_sum_a_revoked_peer_changes_nothing() -> None:
    made = until(Kind.RECEIPT)
    made.give(ALICE, PeersRevoked((patient("bob"), HOSPITAL)))
    assert made.endings("alice") == []
    made.run()
    assert made.patients["alice"].state is PatientState.FINISHED


def test_a_roster_with_a_revoked_member_gets_nothing() -> None:
    """The hospital may not know yet, or not want to know."""
    made = until(Kind.ROSTER)
    made.patients["alice"].credentials.replace_trust(revoking(patient("bob")), frozenset({credential(ALICE).authority}))
    made.deliver(made.take(Kind.ROSTER, recipient="alice"))

    assert (made.ending("alice").code, made.ending("alice").missing) == (AbortCode.REVOKED, ("bob",))
    assert not effects(made, ReadValues)
    assert sent(made, Kind.SHARE) == 0


def test_a_share_that_a_member_finally_refuses_ends_the_round() -> None:
    made = until(Kind.SHARE)
    letter = made.pick(Kind.SHARE, "alice", "bob")
    forget_encryption_key(made, "bob")
    assert made.deliver(letter) is Answer.UNOPENABLE
    made.run()

    assert made.ending("alice").code == AbortCode.UNDELIVERABLE
    assert made.ending().code == AbortCode.UNDELIVERABLE
    assert made.ending().missing == ("bob",)


def test_an_event_that_the_table_does_not_have_is_told_with_the_story() -> None:
    made = until(Kind.COLLECT)
    machine = made.patients["alice"]
    for event in (OpenRound(), ValuesRead({"value": array([725_313])}), ValuesUnavailable()):
        before = state_of(machine)
        with pytest.raises(InvalidTransition) as caught:
            machine.handle(event, made.now)
        assert state_of(machine) == before
        assert (caught.value.machine, caught.value.state) == ("patient round", "ready")
        text = str(caught.value)
        assert f"patient round in state ready has no transition for {type(event).__name__}" in text
        for step in ("invitation from st-marys", "roster from st-marys", "ValuesRead", "share from bob", "share from charlie"):
            assert step in text
        assert "725313" not in text


def test_the_state_table_covers_every_state() -> None:
    states = {state for state, _ in PatientRound.transitions}
    ended = {PatientState.FINISHED, PatientState.ABORTED, PatientState.DECLINED}
    assert states == set(PatientState) - ended


def test_the_fixtures_are_what_they_say() -> None:
    assert sha256(keyring(HOSPITAL).chain[0]) == credential(HOSPITAL).digest
    assert policy().sources == {"value": Bounds(0, 1_000_000)}


def test_an_invitation_of_a_hospital_that_the_policy_does_not_name_is_refused_and_not_recorded() -> None:
    rules = policy(hospital=Identity("demo", Role.HOSPITAL, "other"))
    made = World(
        study("alice", "bob", "carol"), {"alice": [1], "bob": [2], "carol": [3]}, {"alice": patient_round("alice", rules)}
    )
    made.open()
    assert made.deliver(made.pick(Kind.INVITATION, recipient="alice")) is Answer.REFUSED
    assert not [effect for who, effect in made.effects if who == "alice"]
