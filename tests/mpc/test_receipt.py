"""A receipt holds for whoever has the authority's certificate, fails after any change, and tells nothing of the result."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import runpy
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec.structs import replace

from mpc.entropy import SeededEntropy
from mpc.messages import CONSENT_STATEMENT, COUNTERSIGNATURE_STATEMENT, RECEIPT_STATEMENT, Consent, Countersignature, Roster
from mpc.receipt import (
    CheckedReceipt,
    DisclosedResult,
    ReceiptRefused,
    ReceiptStatement,
    SignedReceipt,
    check_receipt,
    check_result,
    read_receipt,
    read_result,
    write_receipt,
    write_result,
)
from mpc.result import make_result
from mpc.rounds.roster import context_of
from mpc.statement import Signed, sign
from mpc.wire import decode, encode
from pki.trust import TrustStore
from tests.mpc.nodes import CONSORTIUM, HOSPITAL, NOW, authority, certificate, keyring, patient, study, trust
from tests.mpc.world import World, world

ROOT = Path(__file__).parents[2]
ALL = ("alice", "bob", "charlie")
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


@cache
def finished() -> World:
    made = world(*ALL)
    made.run()
    return made


def receipt() -> SignedReceipt:
    """The hospital's, countersigned by all."""
    return finished().receipts[HOSPITAL.name]


def disclosed() -> DisclosedResult:
    (released,) = finished().released
    return DisclosedResult(encode(released.result), released.key)


def statement_of(one: SignedReceipt) -> ReceiptStatement:
    return decode(one.statement.body, ReceiptStatement)


def stated(one: SignedReceipt, **changes: object) -> SignedReceipt:
    """What a hospital signs that says something else, and all its members countersign."""
    statement = sign(keyring(HOSPITAL).signing_key, RECEIPT_STATEMENT, replace(statement_of(one), **changes))
    other = SignedReceipt(one.roster, statement, ())
    content = Countersignature(other.digest)
    signatures = tuple(sign(keyring(patient(name)).signing_key, COUNTERSIGNATURE_STATEMENT, content).signature for name in ALL)
    return SignedReceipt(one.roster, statement, signatures)


def rostered(one: SignedReceipt, roster: Roster) -> SignedReceipt:
    """The same with another roster, to which the hospital and all members put their names."""
    raw = encode(roster)
    return stated(SignedReceipt(raw, one.statement, one.countersignatures), context=context_of(raw))


def consenting(one: SignedReceipt, name: str, **changes: object) -> SignedReceipt:
    """The same with another Consent of this member."""
    roster, key = decode(one.roster, Roster), keyring(patient(name)).signing_key
    members = list(roster.members)
    place = ALL.index(name)
    consent = replace(decode(members[place].consent.body, Consent), **changes)
    members[place] = replace(members[place], consent=sign(key, CONSENT_STATEMENT, consent))
    return rostered(one, replace(roster, members=tuple(members)))


def refused(one: SignedReceipt, words: str, store: TrustStore | None = None) -> None:
    with pytest.raises(ReceiptRefused, match=words):
        check_receipt(one, store or trust())


# -- what holds


def test_a_receipt_holds_for_whoever_has_the_authoritys_certificate() -> None:
    checked = check_receipt(read_receipt(write_receipt(receipt())), trust())

    assert checked.hospital.identity == HOSPITAL
    assert [member.credential.identity for member in checked.members] == [patient(name) for name in ALL]
    assert [member.countersigned for member in checked.members] == [True] * 3
    assert checked.statement.context == finished().hospital.context
    assert checked.statement.study == hashlib.sha256(finished().invitation.study).digest()
    assert (checked.statement.opened, checked.statement.deadline) == (NOW, NOW + 60)
    assert checked.statement.released == NOW
    assert (checked.statement.terms.publish, checked.statement.terms.privacy) == ("hospital", None)
    assert [(one.kind, one.variable) for one in checked.statement.terms.statistics] == [("sum", "value")]
    assert checked.purpose == "test"


def test_what_is_signed_are_the_bytes_that_the_document_says() -> None:
    one = receipt()
    body = one.statement.body
    digest = hashlib.sha256(b"cohortium/v1/receipt-statement\0" + body).digest()
    fields = msgspec.msgpack.decode(body)

    assert one.digest == digest
    assert fields[2] == hashlib.sha256(b"cohortium/v1/context" + one.roster).digest()
    (released,) = finished().released
    assert fields[6] == hmac.new(released.key, encode(released.result), "sha256").digest()


@pytest.mark.parametrize("name", ALL)
def test_a_members_own_receipt_holds_with_its_own_name_alone(name: str) -> None:
    checked = check_receipt(finished().receipts[name], trust())
    assert [member.credential.identity.name for member in checked.members if member.countersigned] == [name]
    assert checked.digest == receipt().digest


def test_a_receipt_holds_that_nobody_has_countersigned() -> None:
    bare = replace(receipt(), countersignatures=(b"", b"", b""))
    assert not any(member.countersigned for member in check_receipt(bare, trust()).members)


def test_certificates_are_judged_at_the_rounds_time_whenever_that_was() -> None:
    """No clock is asked: the receipt of a round of 2023 holds now, though the certificates lived 30 days."""
    assert check_receipt(receipt(), trust()).hospital.not_after < 1_710_000_000


def test_receipts_do_not_print_what_they_hold() -> None:
    one = receipt()
    assert repr(one) == "<SignedReceipt>"
    assert repr(disclosed()) == "<DisclosedResult>"
    assert disclosed().key.hex() not in repr(check_receipt(one, trust()))


# -- what fails


def changed(raw: bytes, at: int) -> bytes:
    """Another byte there, of the same alphabet where there is one, so that as much as possible can still be read."""
    old = raw[at : at + 1]
    new = _ALPHABET[(_ALPHABET.index(old) + 1) % 64] if old in _ALPHABET else raw[at] ^ 1
    return raw[:at] + bytes([new]) + raw[at + 1 :]


def test_any_one_changed_byte_is_noticed() -> None:
    raw, store = write_receipt(receipt()), trust()
    survived = []
    for at in range(len(raw)):
        try:
            check_receipt(read_receipt(changed(raw, at)), store)
        except ReceiptRefused:
            continue
        survived.append(at)
    assert survived == []
    assert len(raw) > 4000


@pytest.mark.parametrize("bit", range(8))
def test_any_one_changed_bit_of_what_is_encoded_is_noticed(bit: int) -> None:
    """A sample of one byte in seven, another one for each bit."""
    content, store = encode(receipt()), trust()
    for at in range(bit, len(content), 7):
        other = content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
        with pytest.raises(ReceiptRefused):
            check_receipt(read_receipt(armoured(other)), store)


def armoured(content: bytes, width: int = 64, label: bytes = b"RECEIPT", end: bytes = b"\n") -> bytes:
    """The file's form, written down once more."""
    text = base64.b64encode(content)
    lines = [text[at : at + width] for at in range(0, len(text), width)]
    return end.join([b"-----BEGIN COHORTIUM " + label + b"-----", *lines, b"-----END COHORTIUM " + label + b"-----", b""])


def test_the_form_of_the_file_is_the_one_that_the_document_says() -> None:
    assert write_receipt(receipt()) == armoured(encode(receipt()))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\n",
        b"-----BEGIN COHORTIUM RECEIPT-----\n-----END COHORTIUM RECEIPT-----\n",
        b"-----BEGIN COHORTIUM RECEIPT-----\n\xff\xff\n-----END COHORTIUM RECEIPT-----\n",
    ],
)
def test_what_is_no_receipt_is_refused(raw: bytes) -> None:
    with pytest.raises(ReceiptRefused):
        read_receipt(raw)


@pytest.mark.parametrize(
    "form",
    [
        lambda raw: raw[:-1],
        lambda raw: raw + b"\n",
        lambda raw: b"\n" + raw,
        lambda raw: b"Dear auditor,\n" + raw,
        lambda raw: raw + raw,
        lambda raw: raw.replace(b"\n", b"\r\n"),
        lambda raw: raw.replace(b"\n", b" \n", 1),
        lambda raw: raw.replace(b"\n", b"\n\n", 1),
        lambda raw: raw.replace(b"RECEIPT", b"RESULT"),
        lambda raw: raw[: len(raw) // 2],
        lambda _: armoured(encode(receipt()), width=76),
        lambda _: armoured(encode(receipt()) + b"\0"),
        lambda _: armoured(encode(receipt())[:-1]),
        lambda _: armoured(encode(disclosed())),
        lambda _: encode(receipt()),
    ],
)
def test_a_receipt_has_one_form(form: object) -> None:
    assert callable(form)
    with pytest.raises(ReceiptRefused):
        read_receipt(form(write_receipt(receipt())))


def test_another_authority_is_not_believed() -> None:
    other = TrustStore([authority("other")[1].public_bytes(Encoding.DER)])
    refused(receipt(), "at the round's time .* not trusted here", other)


@pytest.mark.parametrize(
    ("released", "words"),
    [
        (int(NOW) - 1, "times contradict"),
        (int(NOW) + 60 + 61, "times contradict"),
    ],
)
def test_a_round_ends_between_its_beginning_and_its_deadline(released: int, words: str) -> None:
    refused(stated(receipt(), released=released), words)


def test_a_certificate_that_was_not_valid_then_does_not_count() -> None:
    year = 365 * 24 * 3600
    later = {"opened": int(NOW) + year, "released": int(NOW) + year, "deadline": int(NOW) + year}
    refused(stated(receipt(), **later), "at the round's time .* has expired")


def test_what_the_hospital_did_not_sign_does_not_hold() -> None:
    other = encode(replace(statement_of(receipt()), study_id="another"))
    refused(replace(receipt(), statement=Signed(other, receipt().statement.signature)), "st-marys did not sign it")


def test_a_signature_of_a_member_does_not_stand_for_the_hospitals() -> None:
    signed = sign(keyring(patient("alice")).signing_key, RECEIPT_STATEMENT, statement_of(receipt()))
    refused(replace(receipt(), statement=signed), "st-marys did not sign it")


def test_a_countersignature_counts_for_its_member_alone() -> None:
    first, second, third = receipt().countersignatures
    refused(replace(receipt(), countersignatures=(second, first, third)), "alice did not countersign it")


def test_a_countersignature_of_another_receipt_does_not_count() -> None:
    other = stated(receipt(), commitment=bytes(32))
    assert check_receipt(other, trust()).members[0].countersigned
    refused(replace(receipt(), countersignatures=other.countersignatures), "alice did not countersign it")


@pytest.mark.parametrize("count", [0, 2, 4])
def test_there_is_one_place_for_each_member(count: int) -> None:
    refused(replace(receipt(), countersignatures=(b"",) * count), "one place")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"study": bytes(32)}, "the consent of .*bob is to something else"),
        ({"hospital": "spiffe://demo/hospital/other"}, "the consent of .*bob is to something else"),
        ({"invitation": bytes(32)}, "the consent of .*bob is to something else"),
        ({"expires": int(NOW) + 59}, "the consent of .*bob had expired"),
        ({"purpose": "advertising"}, "different purposes"),
    ],
)
def test_a_consent_to_something_else_does_not_count(changes: dict[str, object], words: str) -> None:
    refused(consenting(receipt(), "bob", **changes), words)


def test_a_consent_that_its_member_did_not_sign_does_not_count() -> None:
    roster = decode(receipt().roster, Roster)
    alice, bob, charlie = roster.members
    swapped = replace(bob, consent=Signed(bob.consent.body, alice.consent.signature))
    refused(rostered(receipt(), replace(roster, members=(alice, swapped, charlie))), "bob did not sign the consent")


def test_a_version_that_the_members_did_not_agree_on_is_noticed() -> None:
    refused(stated(receipt(), version=2), "protocol version")


def test_members_stand_in_order_and_once() -> None:
    roster = decode(receipt().roster, Roster)
    first, second, third = roster.members
    one = rostered(receipt(), replace(roster, members=(second, first, third)))
    refused(replace(one, countersignatures=(b"", b"", b"")), "twice, or out of order")
    one = rostered(receipt(), replace(roster, members=(first, first, third)))
    refused(replace(one, countersignatures=(b"", b"", b"")), "twice, or out of order")


def test_a_hospital_is_no_member_and_a_member_no_hospital() -> None:
    roster = decode(receipt().roster, Roster)
    chain = keyring(patient("alice")).chain
    refused(rostered(receipt(), replace(roster, hospital_chain=chain)), "alice stands where a hospital must")
    first, second, third = roster.members
    intruder = replace(second, chain=keyring(HOSPITAL).chain)
    refused(rostered(receipt(), replace(roster, members=(first, intruder, third))), "st-marys stands where a patient must")


def test_what_cannot_be_read_is_named() -> None:
    refused(replace(receipt(), roster=b"\x90"), "its list of members cannot be read")
    refused(replace(receipt(), statement=Signed(b"\x90", bytes(64))), "what the hospital signed cannot be read")


# -- the result


def test_equal_results_have_different_commitments() -> None:
    worlds = [world(*ALL) for _ in range(8)]
    for made in worlds:
        made.run()
    assert len({made.total() for made in worlds}) == 1
    assert len({statement_of(made.receipts[HOSPITAL.name]).commitment for made in worlds}) == 8


def test_nothing_but_the_commitment_depends_on_the_result() -> None:
    """Two rounds that differ in nothing but a value: the same dice, the same keys, the same question."""
    receipts = []
    for value in (1, 999_999):
        made = _Fixed(study(*ALL), {"alice": [value], "bob": [5], "charlie": [6]})
        made.open()
        made.run()
        assert made.total() == value + 11
        receipts.append(made.receipts[HOSPITAL.name])
    low, high = receipts
    assert low.roster == high.roster
    assert replace(statement_of(low), commitment=b"") == replace(statement_of(high), commitment=b"")
    assert statement_of(low).commitment != statement_of(high).commitment


class _Fixed(World):
    def entropy(self, name: str) -> SeededEntropy:
        return SeededEntropy(hashlib.sha256(name.encode()).digest())


def test_the_disclosed_result_is_held_against_the_commitment() -> None:
    checked = check_receipt(receipt(), trust())
    result = check_result(checked, read_result(write_result(disclosed())))
    assert result.plain() == {"value": {"sum": finished().total()}}


@pytest.mark.parametrize(
    "other",
    [
        lambda right: replace(right, key=bytes(32)),
        lambda right: replace(right, result=right.result + b"\0"),
        lambda right: replace(right, result=other_result()),
    ],
)
def test_another_result_does_not_open_the_commitment(other: object) -> None:
    assert callable(other)
    checked = check_receipt(receipt(), trust())
    with pytest.raises(ReceiptRefused, match="not the one that the receipt commits"):
        check_result(checked, other(disclosed()))


def other_result() -> bytes:
    made = finished()
    return encode(make_result(made.study, made.hospital.context or b"", 3, (np.array([7]),)))


def test_a_commitment_to_the_result_of_another_round_is_noticed() -> None:
    made, key = finished(), bytes(range(32))
    raw = encode(make_result(made.study, bytes(32), 3, (np.array([7]),)))
    committed = stated(receipt(), commitment=hmac.new(key, raw, "sha256").digest())
    with pytest.raises(ReceiptRefused, match="not of this round"):
        check_result(check_receipt(committed, trust()), DisclosedResult(raw, key))


def test_a_disclosed_result_has_one_form_too() -> None:
    raw = write_result(disclosed())
    for at in range(len(raw)):
        with pytest.raises(ReceiptRefused):
            check_result(checked(), read_result(changed(raw, at)))


@cache
def checked() -> CheckedReceipt:
    return check_receipt(receipt(), trust())


def test_members_with_one_key_are_not_two() -> None:
    roster = decode(receipt().roster, Roster)
    first, second, third = roster.members
    alice = keyring(patient("alice"))
    chain = (certificate(patient("bob"), alice.signing_key.public_key(), CONSORTIUM),)
    consent = sign(alice.signing_key, CONSENT_STATEMENT, decode(second.consent.body, Consent))
    one = rostered(receipt(), replace(roster, members=(first, replace(second, chain=chain, consent=consent), third)))
    refused(replace(one, countersignatures=(b"", b"", b"")), "twice")


# -- frozen vectors

VECTORS = json.loads((ROOT / "tests" / "vectors" / "receipt.json").read_text(encoding="utf-8"))
FROZEN = TrustStore([bytes.fromhex(VECTORS["root"])])


def test_the_frozen_receipt_holds_and_its_result_opens_it() -> None:
    one = read_receipt(VECTORS["receipt"].encode())
    found = check_receipt(one, FROZEN)
    assert (one.digest.hex(), one.statement.body.hex()) == (VECTORS["digest"], VECTORS["statement"])
    assert {member.credential.identity.name: member.countersigned for member in found.members} == VECTORS["countersigned"]
    opened = check_result(found, read_result(VECTORS["result"].encode()))
    assert opened.plain() == {"heart_rate": {"sum": VECTORS["total"]}}


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda case: case["name"])
def test_frozen_alterations_of_a_receipt_are_refused(case: dict[str, str]) -> None:
    with pytest.raises(ReceiptRefused):
        check_receipt(read_receipt(case["receipt"].encode()), FROZEN)


def test_the_frozen_receipts_are_those_that_the_primitives_alone_make() -> None:
    assert runpy.run_path(str(ROOT / "tests" / "vectors" / "make_receipt.py"))["vectors"]() == VECTORS
