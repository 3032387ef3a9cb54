"""Rounds whose members are behind a relay: the Invitation is sealed with a published key, and everything else is as always."""

from __future__ import annotations

import dataclasses
import os

import pytest

from mpc.envelope import open_sealed, parse
from mpc.errors import Answer, MessageRefused
from mpc.identity import Identity, Role
from mpc.keys import RoundKey, WrappingKey, check_statement
from mpc.messages import AbortCode, Kind
from mpc.rounds.events import ABORTED, RELEASED, KeyPublished
from mpc.rounds.patient import PatientState
from mpc.signature import sha256
from tests.mpc.nodes import CONSORTIUM, HOSPITAL, NOW, credential, keyring, patient, policy, study
from tests.mpc.world import BASE, MAX_SIZE, World, powers

NAMES = ("alice", "bob", "charlie")
ALICE, BOB = patient("alice"), patient("bob")
RELAY = Identity(CONSORTIUM, Role.RELAY, "post")
SUM = 1 + BASE + BASE**2


def wrapping_key(name: str) -> WrappingKey:
    identity = patient(name)
    return check_statement(keyring(identity).encryption.statement, credential(identity), NOW)


def world(*relayed: str, without_key: tuple[str, ...] = (), names: tuple[str, ...] = NAMES, minimum: int = 0) -> World:
    """An opened round; `relayed` are invited through a relay."""
    made = World(study(*names, bound=BASE ** len(names), minimum=minimum), powers(*names), {})
    for machine in made.patients.values():
        machine.policy = policy(BASE ** len(names))
    made.hospital.sealed_for = {patient(name): wrapping_key(name) for name in relayed} | {
        patient(name): None for name in without_key
    }
    made.open()
    return made


def run(made: World, *relayed: str) -> None:
    """Delivers everything; to and from these through the relay."""
    behind = {patient(name) for name in relayed}
    while made.letters:
        for letter in list(made.letters):
            peer = RELAY if {letter.sender, letter.recipient} & behind else letter.sender
            if letter in made.letters and made.deliver(letter, peer) not in (Answer.LATER, Answer.REJECTED):
                made.settle(letter)


def invitations(made: World) -> dict[str, bytes]:
    return {letter.recipient.name: letter.raw for letter in made.sent if letter.kind is Kind.INVITATION}


@pytest.mark.parametrize("relayed", [NAMES, ("alice", "bob"), ("charlie",)])
def test_a_round_through_the_relay_gives_the_exact_sum(relayed: tuple[str, ...]) -> None:
    made = world(*relayed)
    run(made, *relayed)

    assert made.ending().outcome == RELEASED
    assert made.total() == SUM
    assert all(machine.state is PatientState.FINISHED for machine in made.patients.values())
    assert all(made.receipts[HOSPITAL.name].countersignatures)


def test_direct_and_relayed_patients_are_asked_in_the_same_bytes() -> None:
    made = world("alice")
    sent = {name: parse(raw, MAX_SIZE) for name, raw in invitations(made).items()}
    opened = open_sealed(sent["alice"], keyring(ALICE).encryption.private_key, None)

    assert (sent["alice"].sealed, sent["bob"].sealed) == (True, False)
    assert opened == bytes(sent["bob"].ciphertext)
    assert {envelope.header.context for envelope in sent.values()} == {sha256(opened)}
    assert b"pressure" not in invitations(made)["alice"]
    assert b"pressure" in invitations(made)["bob"]


def test_a_bare_invitation_is_taken_from_the_hospital_itself_only() -> None:
    made = world("alice")
    bob = made.take(Kind.INVITATION, recipient="bob")

    assert made.deliver(bob, RELAY) is Answer.REFUSED
    assert made.answers[-1][2] == "carrier"
    assert made.deliver(bob) is Answer.ACCEPTED


def test_a_sealed_invitation_may_come_straight_too() -> None:
    made = world("alice")
    assert made.deliver(made.take(Kind.INVITATION, recipient="alice")) is Answer.ACCEPTED


def test_nobody_but_the_invited_opens_a_sealed_invitation() -> None:
    envelope = parse(invitations(world("alice"))["alice"], MAX_SIZE)
    for key in (keyring(BOB).encryption.private_key, keyring(HOSPITAL).encryption.private_key):
        with pytest.raises(MessageRefused, match="unopenable"):
            open_sealed(envelope, key, None)
    with pytest.raises(MessageRefused, match="unopenable"):
        open_sealed(envelope, keyring(ALICE).encryption.private_key, RoundKey(os.urandom))


def test_an_invitation_sealed_with_a_key_that_is_gone_does_not_open() -> None:
    made = world("alice")
    machine = made.patients["alice"]
    machine.keyring = dataclasses.replace(machine.keyring, encryption=keyring(patient("alice-before")).encryption)

    assert made.deliver(made.take(Kind.INVITATION, recipient="alice"), RELAY) is Answer.UNOPENABLE
    assert machine.state is PatientState.NEW


def test_who_publishes_a_key_later_is_invited_then() -> None:
    made = world("alice", without_key=("bob", "charlie"))
    run(made, "alice")
    assert set(made.hospital.waiting_for) == {"bob", "charlie"}
    assert set(invitations(made)) == {"alice"}

    for name in ("bob", "charlie"):
        made.give(HOSPITAL, KeyPublished(wrapping_key(name)))
        made.give(HOSPITAL, KeyPublished(wrapping_key(name)))
    assert len([letter for letter in made.sent if letter.kind is Kind.INVITATION]) == 3, "each is invited once"
    run(made, *NAMES)
    assert made.total() == SUM


def test_who_publishes_no_key_in_time_is_left_out_and_the_round_runs_without() -> None:
    names = (*NAMES, "dora")
    made = world("alice", without_key=("dora",), names=names, minimum=3)
    run(made, "alice")
    assert made.hospital.waiting_for == ("dora",)
    made.advance(made.invitation.answer_by - made.now)
    made.give(HOSPITAL, KeyPublished(wrapping_key("dora")))
    run(made, "alice")

    assert "dora" not in invitations(made)
    assert made.total() == SUM


def test_too_few_with_a_key_end_the_round_when_the_time_to_answer_is_over() -> None:
    made = world("alice", "charlie", without_key=("bob",))
    run(made, "alice", "charlie")
    made.advance(made.invitation.answer_by - made.now)
    ended = made.ending()

    assert (ended.outcome, ended.code, ended.missing) == (ABORTED, AbortCode.TOO_FEW, ("bob",))
