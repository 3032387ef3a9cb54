"""A hospital that cheats, played by the test, and real patients that do not follow it: nobody gives it a partial sum."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import msgspec
import pytest

from mpc.envelope import Envelope, Place, Recipient, open_sealed, parse, seal, write_unsealed
from mpc.errors import Answer
from mpc.identity import Identity, Role
from mpc.keys import check_statement
from mpc.messages import Collect, Consent, Invitation, Kind, Member, Roster, SegmentShape
from mpc.rounds.hospital import HospitalRound
from mpc.rounds.roster import write_roster
from mpc.signature import sha256
from mpc.statement import Signed
from mpc.study import Study
from mpc.wire import Struct, decode, encode
from nodes.hospital import HospitalDaemon
from scripts.deployment import HOSPITAL, STUDY
from tests.e2e.harness import Cohort, total, wait_for
from tests.e2e.played import MAX_MESSAGE, Loop, Played

PATIENTS = ("alice", "bob", "charlie")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cohort]:
    sources = {"alice": {"literal": 725}, "bob": {"literal": 310}, "charlie": {"literal": 540}}
    with Cohort(tmp_path_factory.mktemp("cheated"), sources) as running:
        running.start(*PATIENTS)
        yield running


@pytest.fixture(scope="module")
def _hospital(cohort: Cohort, loop: Loop) -> Iterator[Played]:
    with Played(cohort, HOSPITAL, loop) as played:
        yield played


@pytest.fixture
def hospital(_hospital: Played) -> Iterator[Played]:
    """The cheat. Whatever it did, its patients give it the exact sum of an honest round afterwards."""
    yield _hospital
    _hospital.tap.swallows = False
    daemon = _hospital.daemon
    assert isinstance(daemon, HospitalDaemon)
    for record in daemon.records.all():
        if not record.ended:
            _hospital.loop.soon(lambda record=record: daemon.cancel_round(record.round_id))  # type: ignore[misc]
    wait_for(lambda: all(record.ended for record in daemon.records.all()), "its rounds have ended")
    _hospital.release_all()
    round_id = _open(_hospital)
    (honest,) = [record for record in daemon.records.all() if record.round_id.hex() == round_id]
    wait_for(lambda: honest.ended, "the honest round has ended")
    assert total(honest.full(honest.result)) == 1575


def _open(hospital: Played, study: str = STUDY) -> str:
    assert isinstance(hospital.daemon, HospitalDaemon)
    return hospital.loop.run(hospital.daemon.open_round(study)).round_id.hex()


def _consented(hospital: Played, round_id: str) -> HospitalRound:
    """The round, once the roster is made; it is held."""
    wait_for(lambda: len(hospital.sent(round_id, Kind.ROSTER)) == 3, "the hospital has made its roster")
    return hospital.hospital_round(round_id)


def _sealed(machine: HospitalRound, kind: Kind, content: Struct, name: str, context: bytes) -> bytes:
    """What the hospital can seal for a patient that has consented."""
    (participant,) = [found for found in machine.participants.values() if found.identity.name == name]
    return _seal_for(machine, kind, content, participant.recipient, context)


def _seal_for(machine: HospitalRound, kind: Kind, content: Struct, recipient: Recipient, context: bytes) -> bytes:
    assert machine.round_key is not None
    envelope, _ = seal(
        kind,
        encode(content),
        Place(machine.round_id, context),
        keyring=machine.keyring,
        round_key=machine.round_key,
        recipient=recipient,
        secret=os.urandom(32),
    )
    return envelope


def _gave_nothing(cohort: Cohort, round_id: str, code: str | None = None, names: tuple[str, ...] = PATIENTS) -> None:
    """Each of them ended the round without a partial sum."""
    for name in names:
        told = cohort.wait_for_log(name, "round-ended", round=round_id)
        assert told["outcome"] == "aborted"
        assert code in (None, told["code"])
        assert not cohort.logged(name, "submitted", round=round_id)


def test_two_rosters_for_one_round_end_it(cohort: Cohort, hospital: Played) -> None:
    hospital.hold(Kind.ROSTER)
    round_id = _open(hospital, cohort.write_study("soon", members=PATIENTS, deadline=4))
    machine = _consented(hospital, round_id)
    assert machine.question is not None
    first = write_roster(machine.question, machine.keyring.chain, machine.participants.values())
    second = msgspec.structs.replace(first, hospital_chain=(*first.hospital_chain, b"another"))
    for name, roster in {"alice": first, "bob": second, "charlie": second}.items():
        raw = _sealed(machine, Kind.ROSTER, roster, name, machine.invitation_digest)
        assert hospital.post(name, raw) is Answer.ACCEPTED
    # Alice's shares are bound to another context than bob's and charlie's: refused, or missing when the time is up.
    _gave_nothing(cohort, round_id)


def test_a_second_roster_for_the_same_patient_is_equivocation(cohort: Cohort, hospital: Played) -> None:
    hospital.hold(Kind.COLLECT)
    round_id = _open(hospital)
    wait_for(lambda: len(hospital.sent(round_id, Kind.COLLECT)) == 3, "everybody is ready")
    machine = hospital.hospital_round(round_id)
    assert machine.question is not None
    roster = write_roster(machine.question, machine.keyring.chain, machine.participants.values())
    raw = _sealed(machine, Kind.ROSTER, roster, "alice", machine.invitation_digest)
    assert hospital.post("alice", raw) is Answer.REFUSED
    _gave_nothing(cohort, round_id, "equivocation")


def test_a_collect_without_every_proof_of_readiness_is_refused(cohort: Cohort, hospital: Played) -> None:
    hospital.hold(Kind.COLLECT)
    round_id = _open(hospital)
    wait_for(lambda: len(hospital.sent(round_id, Kind.COLLECT)) == 3, "everybody is ready")
    machine = hospital.hospital_round(round_id)
    assert machine.context is not None
    proofs = [machine._ready[member.identity] for member in machine.members]
    incomplete = Collect((proofs[0], proofs[1], proofs[1]))
    assert hospital.post("alice", _sealed(machine, Kind.COLLECT, incomplete, "alice", machine.context)) is Answer.ACCEPTED
    _gave_nothing(cohort, round_id, "collect-refused")


def test_a_roster_of_two_is_refused(cohort: Cohort, hospital: Played) -> None:
    hospital.hold(Kind.ROSTER)
    round_id = _open(hospital)
    machine = _consented(hospital, round_id)
    assert machine.question is not None
    pair = [found for found in machine.participants.values() if found.identity.name != "charlie"]
    roster = write_roster(machine.question, machine.keyring.chain, pair)
    raw = _sealed(machine, Kind.ROSTER, roster, "alice", machine.invitation_digest)
    assert hospital.post("alice", raw) is Answer.ACCEPTED
    told = cohort.wait_for_log("alice", "round-ended", round=round_id)
    assert told["detail"] == "the roster is refused: 2 of its 2 members are vouched for, the policy's floor is 3"
    _gave_nothing(cohort, round_id, "roster-refused", ("alice",))


def _with_bound(invitation: Invitation, bound: int) -> Invitation:
    study = decode(invitation.study, Study)
    wider = msgspec.structs.replace(study, variables=(msgspec.structs.replace(study.variables[0], maximum=bound),))
    return msgspec.structs.replace(invitation, study=encode(wider), segments=(SegmentShape(3 * bound + 1, 1),))


def test_one_round_with_another_scale_for_one_patient_gets_no_roster_past_anybody(cohort: Cohort, hospital: Played) -> None:
    hospital.hold(Kind.INVITATION)
    hospital.tap.swallows = True
    round_id = _open(hospital)
    machine = hospital.hospital_round(round_id)
    assert machine.question is not None
    assert machine.round_key is not None
    invitation = machine.question.invitation
    shown = dict.fromkeys(PATIENTS, invitation) | {"alice": _with_bound(invitation, 2_000_000)}
    for name, asked in shown.items():
        payload = encode(asked)
        envelope, _ = write_unsealed(
            Kind.INVITATION,
            payload,
            Place(machine.round_id, sha256(payload)),
            keyring=machine.keyring,
            round_key=machine.round_key,
            recipient=Identity("demo", Role.PATIENT, name),
        )
        assert hospital.post(name, envelope) is Answer.ACCEPTED
    # Each scale contains the patients' bounds, so each consents to what it was shown.
    wait_for(lambda: len(hospital.received(round_id, Kind.CONSENT)) == 3, "everybody has consented")
    consents = {name: _opened(hospital, machine, name) for name in PATIENTS}
    members = tuple(Member(envelope.chain, signed) for envelope, signed in consents.values())
    roster = Roster(b"", machine.keyring.chain, members, ())
    for name, asked in shown.items():
        digest = sha256(encode(asked))
        own = msgspec.structs.replace(roster, invitation=digest)
        raw = _seal_for(machine, Kind.ROSTER, own, _recipient(machine, *consents[name]), digest)
        assert hospital.post(name, raw) is Answer.ACCEPTED
    _gave_nothing(cohort, round_id, "roster-refused")
    for name in PATIENTS:
        told = cohort.wait_for_log(name, "round-ended", round=round_id)
        assert told["detail"] == "the roster breaks a rule: consent-invitation"


def _opened(hospital: Played, machine: HospitalRound, name: str) -> tuple[Envelope, Signed]:
    """A consent as it came, whatever the rules for it say."""
    assert machine.round_key is not None
    envelope = parse(hospital.received(machine.round_id.hex(), Kind.CONSENT)[name], MAX_MESSAGE)
    return envelope, decode(open_sealed(envelope, machine.keyring.encryption.private_key, machine.round_key), Signed)


def _recipient(machine: HospitalRound, envelope: Envelope, signed: Signed) -> Recipient:
    consent, now = decode(signed.body, Consent), time.time()
    credential = machine.credentials.learn(envelope.chain, now)
    return Recipient(credential.identity, check_statement(consent.key_statement, credential, now), consent.round_key)
