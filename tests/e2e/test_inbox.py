"""What a member with a good certificate may post to real inboxes, and what it gets for it.

Nothing of it stops a daemon or changes a sum: after each the same daemons give the exact sum of another round.
"""

from __future__ import annotations

import http.client
import os
import signal
import ssl
import struct
from collections.abc import Callable, Iterator

import msgspec
import numpy as np
import pytest

from mpc.envelope import Header, Place, Recipient, parse, seal, write_unsealed
from mpc.identity import Identity, Role
from mpc.keys import Keyring, RoundKey
from mpc.messages import Abort, AbortCode, Consent, Kind, PartialSum, Share
from mpc.signature import sign_digest, tagged_digest
from mpc.statement import sign
from mpc.wire import Struct, decode, encode
from scripts.deployment import HOSPITAL, STUDY
from tests.e2e.client import context, files_of, request
from tests.e2e.conftest import PATIENTS, SUM_OF_FOUR
from tests.e2e.harness import SECONDS, Cohort, total, wait_for
from tests.e2e.played import MAX_MESSAGE, Played

# The order of P-256, from SP 800-186 section 3.2.1.3.
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

REJECTED = (403, "rejected")
REFUSED = (409, "refused")
ACCEPTED = (202, "")


@pytest.fixture
def tls(cohort: Cohort) -> ssl.SSLContext:
    """Mallory's certificate, in a client that is not ours."""
    files = files_of(cohort, "mallory")
    return context(files.authority, files)


@pytest.fixture(autouse=True)
def _next_round_is_exact(cohort: Cohort, mallory: Played) -> Iterator[None]:
    pids = {name: cohort.process(name).pid for name in (HOSPITAL, *PATIENTS)}
    yield
    mallory.release_all()
    assert total(cohort.run(STUDY)) == SUM_OF_FOUR
    assert {name: cohort.process(name).pid for name in pids if cohort.is_running(name)} == pids


@pytest.fixture
def finished(cohort: Cohort, mallory: Played) -> str:
    """A round that is over, whose messages mallory has kept."""
    final = cohort.run(STUDY)
    assert total(final) == SUM_OF_FOUR
    # The hospital has the sum before its receipts have arrived.
    for name in PATIENTS:
        cohort.wait_for_log(name, "round-ended", round=final["round"], outcome="released")
    return str(final["round"])


# -- forging


def keyring(mallory: Played) -> Keyring:
    return mallory.daemon.keys.keyring


def sign_again(raw: bytes, mallory: Played, kind: Kind) -> bytes:
    """The same message, its last 64 bytes mallory's signature over whatever stands before them now."""
    return raw[:-64] + sign_digest(keyring(mallory).signing_key, tagged_digest(kind.purpose, raw[:-64]))


def with_header(raw: bytes, change: Callable[[list[object]], object]) -> bytes:
    """The message with another header; its signature no longer holds."""
    (size,) = struct.unpack(">H", raw[1:3])
    fields = msgspec.msgpack.decode(raw[3 : 3 + size])
    change(fields)
    header = msgspec.msgpack.encode(fields)
    return raw[:1] + struct.pack(">H", len(header)) + header + raw[3 + size :]


def field(name: str) -> int:
    return Header.__struct_fields__.index(name)


def set_field(name: str, value: object) -> Callable[[list[object]], object]:
    return lambda fields: fields.__setitem__(field(name), value)


def seal_as_mallory(
    mallory: Played,
    round_id: str,
    kind: Kind,
    content: Struct,
    recipient: Recipient,
    context: bytes,
    round_key: RoundKey | None = None,
) -> bytes:
    """What mallory can seal in an open round: anything, with her own keys."""
    machine = mallory.patient_round(round_id)
    own = round_key or machine.round_key
    assert own is not None
    place = Place(bytes.fromhex(round_id), context)
    envelope, _ = seal(
        kind, encode(content), place, keyring=keyring(mallory), round_key=own, recipient=recipient, secret=os.urandom(32)
    )
    return envelope


def peer(mallory: Played, round_id: str, name: str) -> Recipient:
    (found,) = [member.recipient for member in mallory.patient_round(round_id).peers if member.identity.name == name]
    return found


def roster_context(mallory: Played, round_id: str) -> bytes:
    context = mallory.patient_round(round_id).context
    assert context is not None
    return context


def hold_shares(cohort: Cohort, mallory: Played) -> str:
    """A round in which everybody waits for mallory's shares, which she has made and holds; her Ready she would hold too."""
    mallory.hold(Kind.SHARE, Kind.READY)
    round_id = cohort.open(STUDY)
    cohort.wait_until_waiting_for(round_id, "sharing", *sorted((*PATIENTS, "mallory")))
    wait_for(lambda: len(mallory.sent(round_id, Kind.SHARE)) == len(PATIENTS), "mallory has made her shares")
    return round_id


# -- messages that are none


def _malleated(raw: bytes, mallory: Played) -> bytes:
    s = int.from_bytes(raw[-32:], "big")
    return raw[:-32] + (ORDER - s).to_bytes(32, "big")


FORGERIES: dict[str, Callable[[bytes, Played], bytes]] = {
    "nothing": lambda raw, mallory: b"",
    "garbage": lambda raw, mallory: bytes(range(256)),
    "garbage that begins well": lambda raw, mallory: b"\x01\xff\xff" + bytes(1000),
    "a header alone": lambda raw, mallory: raw[:60],
    "a byte too few": lambda raw, mallory: raw[:-1],
    "a byte too many": lambda raw, mallory: raw + b"\x00",
    "version 2": lambda raw, mallory: sign_again(b"\x02" + raw[1:], mallory, Kind.SHARE),
    "a field too many": lambda raw, mallory: sign_again(with_header(raw, lambda fields: fields.append(1)), mallory, Kind.SHARE),
    "a field too few": lambda raw, mallory: sign_again(with_header(raw, lambda fields: fields.pop()), mallory, Kind.SHARE),
    "an unknown kind": lambda raw, mallory: sign_again(with_header(raw, set_field("kind", 99)), mallory, Kind.SHARE),
    "a bad signature": lambda raw, mallory: raw[:-1] + bytes([raw[-1] ^ 1]),
    "a changed ciphertext": lambda raw, mallory: raw[:-70] + bytes([raw[-70] ^ 1]) + raw[-69:],
    "a malleated signature": _malleated,
    "another recipient": lambda raw, mallory: sign_again(
        with_header(raw, set_field("recipient", "spiffe://demo/patient/bob")), mallory, Kind.SHARE
    ),
    "another sender": lambda raw, mallory: sign_again(
        with_header(raw, set_field("sender", "spiffe://demo/patient/bob")), mallory, Kind.SHARE
    ),
    "a certificate that nobody knows": lambda raw, mallory: sign_again(
        with_header(raw, set_field("certificate", bytes(32))), mallory, Kind.SHARE
    ),
}


def test_what_is_no_message_is_rejected(cohort: Cohort, mallory: Played, tls: ssl.SSLContext, finished: str) -> None:
    real = mallory.sent(finished, Kind.SHARE)["alice"]
    refusals = {what: request(cohort.port("alice"), tls, forge(real, mallory)) for what, forge in FORGERIES.items()}
    # One answer for all, so that nobody can probe; an unknown certificate is waited for, and rejected when it does not come.
    assert refusals == dict.fromkeys(FORGERIES, REJECTED)
    assert cohort.admin("alice").metric("cohortium_messages_received_total", kind="share", outcome="signature") >= 3
    assert cohort.admin("alice").metric("cohortium_messages_received_total", kind="unknown", outcome="version") >= 1


def test_the_hospital_rejects_what_is_no_message(cohort: Cohort, mallory: Played, tls: ssl.SSLContext, finished: str) -> None:
    real = mallory.sent(finished, Kind.CONSENT)[HOSPITAL]
    for raw in (b"", bytes(100), real[:-1], real + b"\0", real[:-1] + bytes([real[-1] ^ 1]), _malleated(real, mallory)):
        assert request(cohort.port(HOSPITAL), tls, raw) == REJECTED


def test_a_message_for_somebody_else_is_rejected(cohort: Cohort, mallory: Played, tls: ssl.SSLContext, finished: str) -> None:
    # Her own for bob, alice's for her, and the hospital's for her: all real, none for alice.
    for raw in (
        mallory.sent(finished, Kind.SHARE)["bob"],
        mallory.received(finished, Kind.SHARE)["alice"],
        mallory.received(finished, Kind.ROSTER)[HOSPITAL],
    ):
        assert request(cohort.port("alice"), tls, raw) == REJECTED


def test_another_members_message_is_not_taken_from_mallory(
    cohort: Cohort, mallory: Played, tls: ssl.SSLContext, finished: str
) -> None:
    # A share of bob for mallory is nothing that mallory may carry, not even to herself.
    files = files_of(cohort, "alice")
    raw = mallory.received(finished, Kind.SHARE)["bob"]
    assert request(cohort.port("mallory"), context(files.authority, files), raw) == REFUSED


def test_a_message_above_the_limit_is_refused_before_its_body(cohort: Cohort, tls: ssl.SSLContext) -> None:
    connection = http.client.HTTPSConnection("127.0.0.1", cohort.port("alice"), timeout=SECONDS, context=tls)
    try:
        connection.putrequest("POST", "/v1/inbox")
        connection.putheader("Content-Type", "application/octet-stream")
        connection.putheader("Content-Length", str(32 * 1024 * 1024 + 1))
        connection.endheaders()
        assert connection.getresponse().status == 413
    finally:
        connection.close()
    assert cohort.admin("alice").metric("cohortium_connections_refused_total", reason="too-large") >= 1


def test_what_is_not_a_post_of_bytes_to_the_inbox_is_refused(cohort: Cohort, tls: ssl.SSLContext) -> None:
    port = cohort.port("alice")
    assert request(port, tls, method="GET")[0] == 405
    assert request(port, tls, path="/v1/rounds")[0] == 404
    assert request(port, tls, path="/v1/inbox/..")[0] == 404
    assert request(port, tls, headers={"Content-Type": "application/json"})[0] == 415


def test_a_patient_cannot_speak_as_a_hospital(cohort: Cohort, mallory: Played, tls: ssl.SSLContext, finished: str) -> None:
    real = parse(mallory.received(finished, Kind.INVITATION)[HOSPITAL], MAX_MESSAGE)
    forged, _ = write_unsealed(
        Kind.INVITATION,
        bytes(real.ciphertext),
        Place(os.urandom(16), real.header.context),
        keyring=keyring(mallory),
        round_key=RoundKey(os.urandom),
        recipient=Identity("demo", Role.PATIENT, "alice"),
    )
    before = cohort.admin("alice").metric("cohortium_messages_received_total", kind="invitation", outcome="role")
    assert request(cohort.port("alice"), tls, forged) == REJECTED
    assert cohort.admin("alice").metric("cohortium_messages_received_total", kind="invitation", outcome="role") == before + 1


# -- messages at the wrong time


def test_a_message_of_an_unknown_round_is_held_and_then_told_later(
    cohort: Cohort, mallory: Played, tls: ssl.SSLContext, finished: str
) -> None:
    real = mallory.sent(finished, Kind.SHARE)["alice"]
    unknown = sign_again(with_header(real, set_field("round", bytes(16))), mallory, Kind.SHARE)
    assert request(cohort.port("alice"), tls, unknown) == (503, "later")


def test_a_message_recorded_in_a_finished_round_is_accepted_again_without_effect(
    cohort: Cohort, mallory: Played, tls: ssl.SSLContext, finished: str
) -> None:
    lines = {name: len(cohort.logged(name, "round-ended")) for name in PATIENTS}
    for _ in range(3):
        assert request(cohort.port("alice"), tls, mallory.sent(finished, Kind.SHARE)["alice"]) == ACCEPTED
        for kind in (Kind.CONSENT, Kind.READY, Kind.PARTIAL_SUM):
            assert request(cohort.port(HOSPITAL), tls, mallory.sent(finished, kind)[HOSPITAL]) == ACCEPTED
    assert {name: len(cohort.logged(name, "round-ended")) for name in PATIENTS} == lines
    assert total(cohort.hospital.get(f"/v1/rounds/{finished}")) == SUM_OF_FOUR


def test_new_words_in_a_finished_round_are_too_late(cohort: Cohort, mallory: Played, tls: ssl.SSLContext, finished: str) -> None:
    real = mallory.sent(finished, Kind.SHARE)["alice"]
    other = sign_again(with_header(real, set_field("context", bytes(32))), mallory, Kind.SHARE)
    assert request(cohort.port("alice"), tls, other) == (410, "gone")


def test_a_message_replayed_while_its_round_runs_counts_once(cohort: Cohort, mallory: Played, tls: ssl.SSLContext) -> None:
    round_id = mallory.hold_ready(STUDY)
    for name in PATIENTS:
        assert request(cohort.port(name), tls, mallory.sent(round_id, Kind.SHARE)[name]) == ACCEPTED
    ready = mallory.sent(round_id, Kind.READY)[HOSPITAL]
    for _ in range(2):
        assert request(cohort.port(HOSPITAL), tls, ready) == ACCEPTED
    mallory.release(Kind.READY)
    assert total(cohort.result(round_id)) == SUM_OF_FOUR


def test_a_message_before_its_turn_is_refused_and_the_round_goes_on(cohort: Cohort, mallory: Played, tls: ssl.SSLContext) -> None:
    round_id = hold_shares(cohort, mallory)
    hospital = mallory.patient_round(round_id).hospital
    assert hospital is not None
    early = PartialSum((bytes(4),), (bytes(32),) * 3, (bytes(32),) * 3)
    raw = seal_as_mallory(mallory, round_id, Kind.PARTIAL_SUM, early, hospital, roster_context(mallory, round_id))
    assert request(cohort.port(HOSPITAL), tls, raw) == REFUSED
    mallory.release_all()
    assert total(cohort.result(round_id)) == SUM_OF_FOUR


def test_a_share_ahead_of_its_roster_is_told_later(cohort: Cohort, mallory: Played, tls: ssl.SSLContext) -> None:
    finished = cohort.run(STUDY)["round"]
    real = mallory.sent(finished, Kind.SHARE)["alice"]
    mallory.hold(Kind.CONSENT)
    round_id = cohort.open(STUDY)
    cohort.wait_until_waiting_for(round_id, "inviting", "mallory")
    # Alice has consented and has no roster yet: a share of any context may still become good.
    early = sign_again(with_header(real, set_field("round", bytes.fromhex(round_id))), mallory, Kind.SHARE)
    assert request(cohort.port("alice"), tls, early) == (503, "later")
    mallory.release(Kind.CONSENT)
    assert total(cohort.result(round_id)) == SUM_OF_FOUR


# -- messages of a member that cheats


@pytest.fixture
def sharing(cohort: Cohort, mallory: Played) -> str:
    """See `hold_shares`."""
    return hold_shares(cohort, mallory)


def test_a_share_for_another_context_is_refused(cohort: Cohort, mallory: Played, tls: ssl.SSLContext, sharing: str) -> None:
    raw = seal_as_mallory(mallory, sharing, Kind.SHARE, Share(bytes(32)), peer(mallory, sharing, "alice"), bytes(32))
    assert request(cohort.port("alice"), tls, raw) == REFUSED
    mallory.release_all()
    assert total(cohort.result(sharing)) == SUM_OF_FOUR


def test_a_share_under_another_round_key_is_refused(cohort: Cohort, mallory: Played, tls: ssl.SSLContext, sharing: str) -> None:
    raw = seal_as_mallory(
        mallory,
        sharing,
        Kind.SHARE,
        Share(bytes(32)),
        peer(mallory, sharing, "alice"),
        roster_context(mallory, sharing),
        RoundKey(os.urandom),
    )
    assert request(cohort.port("alice"), tls, raw) == REFUSED
    mallory.release_all()
    assert total(cohort.result(sharing)) == SUM_OF_FOUR


def test_a_wrapped_key_moved_to_another_envelope_does_not_open(
    cohort: Cohort, mallory: Played, tls: ssl.SSLContext, sharing: str
) -> None:
    alice, place = peer(mallory, sharing, "alice"), roster_context(mallory, sharing)
    held = mallory.sent(sharing, Kind.SHARE)["alice"]
    other = seal_as_mallory(mallory, sharing, Kind.SHARE, Share(bytes(32)), alice, place)
    # Same length and header, so the wrapped key stands at the same place in both.
    moved = sign_again(held.replace(parse(held, MAX_MESSAGE).wrapped, parse(other, MAX_MESSAGE).wrapped), mallory, Kind.SHARE)
    assert moved != held
    assert request(cohort.port("alice"), tls, moved) == (422, "unopenable")
    # So does a payload that is no share, sealed as it should be: one answer for all that does not open.
    nonsense = seal_as_mallory(mallory, sharing, Kind.SHARE, Abort(b"", AbortCode.MISSING, "", ()), alice, place)
    assert request(cohort.port("alice"), tls, nonsense) == (422, "unopenable")
    mallory.release_all()
    assert total(cohort.result(sharing)) == SUM_OF_FOUR


def test_a_second_share_with_other_content_ends_the_round_with_the_cheats_name(
    cohort: Cohort, mallory: Played, tls: ssl.SSLContext, sharing: str
) -> None:
    mallory.release(Kind.SHARE)  # and not her Ready
    cohort.wait_until_waiting_for(sharing, "sharing", "mallory")
    raw = seal_as_mallory(
        mallory, sharing, Kind.SHARE, Share(bytes(32)), peer(mallory, sharing, "alice"), roster_context(mallory, sharing)
    )
    assert request(cohort.port("alice"), tls, raw) == REFUSED
    final = cohort.result(sharing)
    assert (final["outcome"], final["code"], final["missing"]) == ("aborted", "equivocation", ["mallory"])
    assert final["detail"] == "mallory sent two different messages where there is one"
    for name in PATIENTS:
        cohort.wait_for_log(name, "round-ended", round=sharing, outcome="aborted", code="equivocation")
        assert not cohort.logged(name, "submitted", round=sharing)


@pytest.mark.parametrize("side", ["sent", "received"])
def test_a_transcript_that_does_not_match_releases_nothing(
    cohort: Cohort, mallory: Played, tls: ssl.SSLContext, side: str
) -> None:
    mallory.hold(Kind.PARTIAL_SUM)
    round_id = cohort.open(STUDY)
    cohort.wait_until_waiting_for(round_id, "collecting", "mallory")
    machine = mallory.patient_round(round_id)
    digests = {
        "sent": [letter_digest(mallory.sent(round_id, Kind.SHARE)[name]) for name in PATIENTS],
        "received": [letter_digest(mallory.received(round_id, Kind.SHARE)[name]) for name in PATIENTS],
    }
    digests[side][0] = bytes(32)
    ring = machine._segments[0].ring
    packed = ring.pack(np.zeros(1, dtype=np.uint64))
    content = PartialSum((bytes(packed),), tuple(digests["sent"]), tuple(digests["received"]))
    assert machine.hospital is not None
    raw = seal_as_mallory(mallory, round_id, Kind.PARTIAL_SUM, content, machine.hospital, roster_context(mallory, round_id))
    assert request(cohort.port(HOSPITAL), tls, raw) == ACCEPTED
    final = cohort.result(round_id)
    assert (final["outcome"], final["code"], final["missing"]) == ("aborted", "transcript-mismatch", ["alice", "mallory"])
    assert "statistics" not in final


def letter_digest(raw: bytes) -> bytes:
    return parse(raw, MAX_MESSAGE).digest


def test_a_partial_sum_of_another_length_does_not_open(cohort: Cohort, mallory: Played, tls: ssl.SSLContext) -> None:
    mallory.hold(Kind.PARTIAL_SUM)
    round_id = cohort.open(STUDY)
    cohort.wait_until_waiting_for(round_id, "collecting", "mallory")
    machine = mallory.patient_round(round_id)
    assert machine.hospital is not None
    content = PartialSum((bytes(5),), (bytes(32),) * 3, (bytes(32),) * 3)
    raw = seal_as_mallory(mallory, round_id, Kind.PARTIAL_SUM, content, machine.hospital, roster_context(mallory, round_id))
    assert request(cohort.port(HOSPITAL), tls, raw) == (422, "unopenable")
    mallory.release(Kind.PARTIAL_SUM)
    assert total(cohort.result(round_id)) == SUM_OF_FOUR


def test_two_consents_of_one_patient_end_the_round(cohort: Cohort, mallory: Played, tls: ssl.SSLContext) -> None:
    cohort.signal("bob", signal.SIGSTOP)  # so that the hospital is still inviting when the second one comes
    try:
        round_id = cohort.open(STUDY)
        cohort.wait_until_waiting_for(round_id, "inviting", "bob")
        machine = mallory.patient_round(round_id)
        assert machine.hospital is not None
        other = msgspec.structs.replace(decode(machine.consent, Consent), nonce=bytes(32))
        content = sign(keyring(mallory).signing_key, "consent", other)
        raw = seal_as_mallory(mallory, round_id, Kind.CONSENT, content, machine.hospital, machine.invitation_digest)
        assert request(cohort.port(HOSPITAL), tls, raw) == REFUSED
    finally:
        cohort.signal("bob", signal.SIGCONT)
    final = cohort.result(round_id)
    assert (final["outcome"], final["code"], final["missing"]) == ("aborted", "equivocation", ["mallory"])
