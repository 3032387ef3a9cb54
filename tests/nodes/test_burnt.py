"""A member's Burnt at the hospital: what is kept of it, and what is not taken for one."""

from __future__ import annotations

import os

import pytest

from mpc.credentials import Credentials
from mpc.envelope import Place, Recipient, parse, seal, write_unsealed
from mpc.errors import Answer, MessageRefused
from mpc.identity import Identity
from mpc.keys import RoundKey, check_statement
from mpc.messages import BURNT_STATEMENT, READY_STATEMENT, Burnt, Kind
from mpc.rounds.admission import Admitted, admit
from mpc.rounds.events import Unreleased
from mpc.statement import Signed, sign
from mpc.wire import encode
from nodes.burnt import BurntInbox
from nodes.ledger import Ledger
from tests.mpc.nodes import HOSPITAL, NOW, ROUND, credential, keyring, patient, trust

ALICE = patient("alice")
CONTEXT = bytes(range(32))
MEMBERS = tuple(patient(name) for name in ("alice", "bob", "charlie", "dora"))


def statement(context: bytes = CONTEXT, purpose: str = BURNT_STATEMENT, signer: Identity = ALICE) -> Signed:
    return sign(keyring(signer).signing_key, purpose, Burnt(context))


def letter(said: Signed, *, sealed: bool = True, sender: Identity = ALICE) -> Admitted:
    place, key = Place(ROUND, CONTEXT), RoundKey(os.urandom)
    if sealed:
        wrapping = check_statement(keyring(HOSPITAL).encryption.statement, credential(HOSPITAL), NOW)
        to = Recipient(HOSPITAL, wrapping, b"")
        own = keyring(sender)
        raw, _ = seal(Kind.BURNT, encode(said), place, keyring=own, round_key=key, recipient=to, secret=os.urandom(32))
    else:
        raw, _ = write_unsealed(Kind.BURNT, encode(said), place, keyring=keyring(sender), round_key=key, recipient=HOSPITAL)
    return admit(parse(raw, 1 << 20), peer=sender, me=HOSPITAL, credentials=Credentials(trust()), now=NOW)


def inbox(ledger: Ledger, *, has_key: bool = True) -> BurntInbox:
    return BurntInbox(lambda _key_id: keyring(HOSPITAL) if has_key else None, ledger)


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "straight"])
def test_a_burnt_is_kept_and_explains_a_roster_without_its_signer(sealed: bool) -> None:
    ledger = Ledger()
    entries = ledger.not_released(Unreleased(CONTEXT, MEMBERS), NOW)
    entries += inbox(ledger).take(letter(statement(), sealed=sealed), False, NOW)
    again = Ledger()
    again.load(entries)
    for one in (ledger, again):
        (roster,) = one.unreleased()
        (burnt,) = roster.explaining({member.uri for member in MEMBERS[1:]})
        assert burnt.statement == statement()
        assert roster.explaining({member.uri for member in MEMBERS}) == [], "nobody is left out"
        assert roster.explaining({member.uri for member in MEMBERS[2:]}) == [], "bob has said nothing"
        assert roster.explaining({member.uri for member in (*MEMBERS[1:], patient("emil"))}) == [], "emil was not there"


def test_a_burnt_of_a_round_that_has_a_total_explains_nothing() -> None:
    ledger = Ledger()
    inbox(ledger).take(letter(statement()), True, NOW)
    assert ledger.unreleased() == ()
    ledger.not_released(Unreleased(CONTEXT, MEMBERS), NOW)
    assert len(ledger.unreleased()) == 1, "it ended otherwise after all"


def test_a_burnt_that_nobody_needs_is_not_kept() -> None:
    ledger = Ledger()
    ledger.not_released(Unreleased(CONTEXT, MEMBERS[1:]), NOW)
    ledger.not_released(Unreleased(bytes(32), MEMBERS), NOW)
    with pytest.raises(MessageRefused) as refused:
        inbox(ledger).take(letter(statement()), False, NOW)
    assert (refused.value.answer, refused.value.reason) == (Answer.GONE, "round-ended")


@pytest.mark.parametrize(
    ("said", "answer", "reason"),
    [
        (statement(bytes(32)), Answer.REFUSED, "burnt"),
        (statement(purpose=READY_STATEMENT), Answer.REFUSED, "burnt"),
        (statement(signer=patient("bob")), Answer.REFUSED, "burnt"),
        (Signed(b"", statement().signature), Answer.REFUSED, "burnt"),
    ],
    ids=["another context", "a proof of readiness", "another's", "another body"],
)
def test_what_is_no_burnt_of_its_sender_is_refused(said: Signed, answer: Answer, reason: str) -> None:
    ledger = Ledger()
    with pytest.raises(MessageRefused) as refused:
        inbox(ledger).take(letter(said), True, NOW)
    assert (refused.value.answer, refused.value.reason) == (answer, reason)
    assert ledger.unreleased() == ()


def test_a_burnt_that_was_sealed_with_a_key_that_is_gone_is_unopenable() -> None:
    with pytest.raises(MessageRefused) as refused:
        inbox(Ledger(), has_key=False).take(letter(statement()), True, NOW)
    assert (refused.value.answer, refused.value.reason) == (Answer.UNOPENABLE, "key-unknown")
