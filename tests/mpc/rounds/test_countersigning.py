"""Members countersign after the end of the round, in any order, again and again, before and after the hospital's death."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpc.errors import Answer
from mpc.keys import RoundKey
from mpc.messages import COUNTERSIGNATURE_STATEMENT, READY_STATEMENT, Countersignature, Kind, Ready
from mpc.receipt import COUNTERSIGN_SECONDS, check_receipt
from mpc.rounds.countersigning import Countersigning, CountersigningState
from mpc.rounds.events import Countersigned, Ended, Receipted, Send
from mpc.rounds.hospital import HospitalState
from mpc.rounds.patient import PatientState
from mpc.statement import Signed, sign
from tests.mpc.nodes import HOSPITAL, NOW, keyring, patient, trust
from tests.mpc.properties import slow
from tests.mpc.world import Letter, World, world

H = HOSPITAL.name
ALL = ("alice", "bob", "charlie")


def released(names: tuple[str, ...] = ALL) -> World:
    """A round that has its result, with every countersignature on its way."""
    made = world(*names)
    made.run(hold=frozenset({Kind.COUNTERSIGNATURE}))
    assert made.hospital.state is HospitalState.RELEASED
    return made


def signers(made: World) -> list[str]:
    """Who has countersigned what the hospital keeps; every signature in it is checked."""
    members = check_receipt(made.receipts[H], trust()).members
    return [member.credential.identity.name for member in members if member.countersigned]


def machine(made: World) -> Countersigning:
    assert made.countersigning is not None
    return made.countersigning


def restart(made: World) -> None:
    """The hospital dies and comes back with what it has kept: its receipt, and nothing in memory."""
    made.countersigning = Countersigning(keyring(HOSPITAL), made.receipts[H])


def content(made: World, name: str = "alice", receipt: bytes = b"") -> Signed:
    """What this member signs."""
    said = Countersignature(receipt or made.receipts[H].digest)
    return sign(keyring(patient(name)).signing_key, COUNTERSIGNATURE_STATEMENT, said)


def forge(made: World, statement: Signed, sender: str = "alice") -> Letter:
    return made.forge(Kind.COUNTERSIGNATURE, statement, sender, H)


def refused(made: World, letter: Letter, answer: Answer, reason: str) -> None:
    before = signers(made)
    assert (made.deliver(letter), made.reason) == (answer, reason)
    assert signers(made) == before


# -- all goes well


def test_the_round_ends_with_its_result_and_waits_for_nobody() -> None:
    made = released()
    assert made.ending() == Ended("released")
    assert made.hospital.round_key is None
    assert signers(made) == []
    assert [made.patients[name].state for name in ALL] == [PatientState.FINISHED] * 3


def test_the_receipt_is_kept_in_the_transition_of_the_result() -> None:
    made = released()
    kinds = [type(effect).__name__ for who, effect in made.effects if who == H]
    assert kinds[-6:] == ["Released", "Send", "Send", "Send", "Receipted", "Ended"]


def test_a_member_keeps_its_receipt_in_the_transition_that_countersigns_it() -> None:
    made = released()
    effects = [effect for who, effect in made.effects if who == "alice"][-4:]
    assert [type(effect).__name__ for effect in effects] == ["Answered", "Send", "Receipted", "Ended"]
    assert isinstance(effects[1], Send)
    assert effects[1].until == NOW + 60 + 24 * 3600
    assert isinstance(effects[2], Receipted)


def test_all_countersign_and_then_it_is_complete() -> None:
    made = released()
    made.run()
    assert signers(made) == list(ALL)
    assert machine(made).state is CountersigningState.COMPLETE
    places = [effect.place for _, effect in made.effects if isinstance(effect, Countersigned)]
    assert places == [0, 1, 2]


def test_every_member_keeps_what_the_hospital_signed() -> None:
    made = released()
    made.run()
    assert {one.digest for one in made.receipts.values()} == {made.receipts[H].digest}
    assert made.receipts["bob"].countersignatures == (b"", made.receipts[H].countersignatures[1], b"")


def test_one_lost_countersignature_is_all_that_is_lost() -> None:
    made = released()
    made.run(drop=lambda letter: letter.kind is Kind.COUNTERSIGNATURE and letter.sender.name == "bob")
    assert signers(made) == ["alice", "charlie"]
    assert machine(made).state is CountersigningState.OPEN
    assert made.ending() == Ended("released")


# -- every order, every death


@given(st.data())
@slow
def test_any_order_with_repeats_losses_and_deaths_counts_each_member_once(data: st.DataObject) -> None:
    names = ("alice", "bob", "charlie", "dora")
    made = released(names)
    letters = list(made.letters)
    arrived = set()
    for _ in range(data.draw(st.integers(0, 12), label="steps")):
        letter = data.draw(st.sampled_from(letters))
        assert made.deliver(letter) in (Answer.ACCEPTED, Answer.GONE)
        arrived.add(letter.sender.name)
        if data.draw(st.booleans(), label="dies"):
            restart(made)
        machine(made).check_invariants()
    assert signers(made) == sorted(arrived)
    taken = [effect.member.name for _, effect in made.effects if isinstance(effect, Countersigned)]
    assert sorted(taken) == sorted(arrived), "once each"
    for letter in letters:
        made.deliver(letter)
    assert signers(made) == list(names)


@pytest.mark.parametrize("deaths", [0, 1])
def test_a_countersignature_that_comes_twice_is_taken_once(deaths: int) -> None:
    made = released()
    letter = made.take(Kind.COUNTERSIGNATURE, "bob")
    assert made.deliver(letter) is Answer.ACCEPTED
    for _ in range(deaths):
        restart(made)
    assert made.deliver(letter) is Answer.ACCEPTED
    assert signers(made) == ["bob"]


def test_after_the_hospitals_death_it_needs_nothing_but_the_receipt() -> None:
    made = released()
    restart(made)
    made.run()
    assert signers(made) == list(ALL)


def test_a_receipt_that_all_have_countersigned_needs_no_more() -> None:
    made = released()
    made.run()
    restart(made)
    assert machine(made).ended


def test_what_comes_after_its_time_is_told_that_the_round_is_over() -> None:
    made = released()
    last = NOW + 60 + COUNTERSIGN_SECONDS
    first, late = made.take(Kind.COUNTERSIGNATURE, "alice"), made.take(Kind.COUNTERSIGNATURE, "bob")
    made.now = last
    assert made.deliver(first) is Answer.ACCEPTED
    made.now = last + 1
    refused(made, late, Answer.GONE, "round-ended")
    assert signers(made) == ["alice"]


def test_what_a_restored_member_seals_anew_changes_nothing() -> None:
    made = released()
    one, again = forge(made, content(made)), forge(made, content(made))
    assert made.deliver(one) is Answer.ACCEPTED
    restart(made)
    assert made.deliver(again) is Answer.ACCEPTED
    assert signers(made) == ["alice"]


# -- what is refused


def test_a_countersignature_of_another_receipt_is_refused() -> None:
    made = released()
    refused(made, forge(made, content(made, receipt=bytes(32))), Answer.REFUSED, "countersignature")


def test_a_signature_for_another_purpose_is_refused() -> None:
    made = released()
    key = keyring(patient("alice")).signing_key
    other = sign(key, READY_STATEMENT, Countersignature(made.receipts[H].digest))
    refused(made, forge(made, other), Answer.REFUSED, "countersignature")


def test_nobody_countersigns_for_another() -> None:
    made = released()
    refused(made, forge(made, content(made, "bob")), Answer.REFUSED, "countersignature")


def test_who_was_not_in_the_round_cannot_countersign() -> None:
    made = released()
    made.round_keys[patient("mallory")] = RoundKey(os.urandom)
    refused(made, forge(made, content(made, "mallory"), "mallory"), Answer.REFUSED, "sender")


def test_the_round_key_is_the_one_of_the_consent() -> None:
    made = released()
    letter = made.forge(Kind.COUNTERSIGNATURE, content(made), "alice", H, key=RoundKey(os.urandom))
    refused(made, letter, Answer.REFUSED, "round-key")


def test_another_context_is_refused() -> None:
    made = released()
    letter = made.forge(Kind.COUNTERSIGNATURE, content(made), "alice", H, context=bytes(32))
    refused(made, letter, Answer.REFUSED, "context")


def test_something_else_under_the_same_name_is_refused_and_changes_nothing() -> None:
    made = released()
    made.deliver(made.take(Kind.COUNTERSIGNATURE, "alice"))
    refused(made, forge(made, content(made)), Answer.REFUSED, "equivocation")
    assert signers(made) == ["alice"]


@pytest.mark.parametrize("payload", [b"", b"\x90", b"no statement"])
def test_what_cannot_be_read_is_no_passing_fault(payload: bytes) -> None:
    made = released()
    refused(made, made.forge(Kind.COUNTERSIGNATURE, payload, "alice", H), Answer.UNOPENABLE, "payload")


def test_a_statement_of_something_else_cannot_be_read() -> None:
    made = released()
    signed = sign(keyring(patient("alice")).signing_key, COUNTERSIGNATURE_STATEMENT, Ready(made.hospital.context or b""))
    # One field of 32 bytes, as in a Countersignature: it is read as one, of a receipt that is not there.
    refused(made, forge(made, signed), Answer.REFUSED, "countersignature")


def test_a_patient_takes_no_countersignature() -> None:
    made = released()
    letter = forge(made, content(made))
    stray = Letter(letter.sender, patient("bob"), letter.kind, letter.raw)
    assert made.deliver(stray) is Answer.REJECTED


def test_before_the_result_there_is_nothing_to_countersign() -> None:
    made = world()
    made.run(hold=frozenset({Kind.PARTIAL_SUM}))
    early = made.forge(Kind.COUNTERSIGNATURE, Signed(b"\x91\xc4\x20" + bytes(32), bytes(64)), "alice", H)
    assert (made.deliver(early), made.reason) == (Answer.REFUSED, "unexpected")
    made.run()
    assert signers(made) == list(ALL)


# -- at the patient


def test_the_same_receipt_again_is_countersigned_once() -> None:
    made = world()
    made.run(hold=frozenset({Kind.RECEIPT}))
    letter = made.pick(Kind.RECEIPT, H, "alice")
    assert [made.deliver(letter), made.deliver(letter)] == [Answer.ACCEPTED] * 2
    sent = [one for one in made.sent if one.kind is Kind.COUNTERSIGNATURE and one.sender.name == "alice"]
    assert len(sent) == 1
