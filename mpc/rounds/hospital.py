"""A round as the hospital sees it.

    new --open--> inviting --enough Consents--> sharing --all Ready--> collecting --all PartialSums--> released
                     `------------- Abort, deadline, too few, a mismatch -----------------------------> aborted

The hospital sees consents, proofs of readiness and partial sums; it adds each partial sum to one running total as it comes,
so that its memory grows with the length of a vector and not with the number of members.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar

from mpc.credentials import Credentials
from mpc.disclosure import ENCODING
from mpc.envelope import Place, Recipient, write_unsealed
from mpc.errors import Answer, MessageRefused, few
from mpc.identity import Credential, Identity
from mpc.keys import Keyring, WrappingKey
from mpc.messages import (
    NEWEST_VERSION,
    OLDEST_VERSION,
    READY_STATEMENT,
    Abort,
    AbortCode,
    Collect,
    Declined,
    Invitation,
    Kind,
    PartialSum,
    Ready,
    Receipt,
    SegmentShape,
)
from mpc.result import COMMITMENT_KEY_BYTES, commitment, make_result
from mpc.ring import RunningSum
from mpc.rounds.admission import Admitted
from mpc.rounds.events import (
    ABORTED,
    RELEASED,
    Answered,
    CancelRound,
    Effect,
    Ended,
    KeyPublished,
    OpenRound,
    PeersRevoked,
    Progressed,
    Released,
    Send,
    StopSending,
    Tick,
    Undeliverable,
    WakeAt,
)
from mpc.rounds.machine import Machine, Received, Transitions, explain, is_heavy
from mpc.rounds.patient import RECEIPT_GRACE
from mpc.rounds.roster import Participant, Question, context_of, read_consent, version_of, write_roster
from mpc.secret import Entropy
from mpc.signature import sha256
from mpc.statement import Signed, read
from mpc.statistics import decode as decode_totals
from mpc.statistics import plan
from mpc.study import PUBLISH_MEMBERS, Study
from mpc.wire import Struct, encode


class HospitalState(StrEnum):
    """Where the round stands."""

    NEW = "new"
    INVITING = "inviting"
    SHARING = "sharing"
    COLLECTING = "collecting"
    RELEASED = "released"
    ABORTED = "aborted"


_COMPLAINTS = 5
"""Members whose shares are missed that the end of a round speaks of."""
_ENDED = frozenset({HospitalState.RELEASED, HospitalState.ABORTED})
_OPEN = (HospitalState.INVITING, HospitalState.SHARING, HospitalState.COLLECTING)


class HospitalRound(Machine):
    """One round at the hospital that opened it."""

    name = "hospital round"

    def __init__(
        self,
        round_id: bytes,
        keyring: Keyring,
        entropy: Entropy,
        *,
        credentials: Credentials,
        me: Credential,
        study: Study,
        sealed_for: Mapping[Identity, WrappingKey | None] = MappingProxyType({}),
    ) -> None:
        """`sealed_for`: patients behind a relay, whose Invitation is sealed with this key; None where none is known yet: the
        patient is invited when KeyPublished tells one. Raises StudyError when the study cannot be run.
        """
        super().__init__(round_id, keyring, entropy, HospitalState.NEW)
        self.credentials = credentials
        self.me = me
        self.study = study
        self.sealed_for = dict(sealed_for)
        self.segments = plan(study)
        self.question: Question | None = None
        self.participants: dict[Identity, Participant] = {}
        self.declined: set[Identity] = set()
        self.unreachable: set[Identity] = set()
        self.members: tuple[Participant, ...] = ()
        self._ready: dict[Identity, Signed] = {}
        self._claims: dict[Identity, frozenset[str]] = {}
        self._totals: tuple[RunningSum, ...] | None = None
        self._transcripts: dict[Identity, PartialSum] = {}
        """Of each member that submitted: the digests alone, the vectors are in the totals."""

    @property
    def ended(self) -> bool:
        """Whether nothing more can happen."""
        return self.state in _ENDED

    @property
    def heavy(self) -> bool:
        """See `Machine.heavy`."""
        return is_heavy(self.study, self.segments)

    @property
    def invited(self) -> tuple[Identity, ...]:
        """Everyone the study names, in order."""
        return tuple(Identity.parse(uri) for uri in self.study.members)

    @property
    def keyless(self) -> tuple[Identity, ...]:
        """Patients that wait for their Invitation, because no key to seal it with is known."""
        if self.state is not HospitalState.INVITING:
            return ()
        return tuple(patient for patient, key in self.sealed_for.items() if key is None)

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """Names of those whose next message the round needs."""
        if self.state is HospitalState.INVITING:
            answered = self.participants.keys() | self.declined | self.unreachable
            return tuple(identity.name for identity in self.invited if identity not in answered)
        if self.state is HospitalState.SHARING:
            return tuple(member.identity.name for member in self.members if member.identity not in self._ready)
        if self.state is HospitalState.COLLECTING:
            return tuple(member.identity.name for member in self.members if member.identity not in self._transcripts)
        return ()

    @property
    def parties(self) -> tuple[Credential, ...]:
        """See `Machine.parties`."""
        return tuple(participant.credential for participant in self.participants.values())

    def check_invariants(self) -> None:
        """See `Machine.check_invariants`."""
        assert set(self.participants).isdisjoint(self.declined), "a patient consents or declines"
        assert set(self.participants) | self.declined <= set(self.invited), "only the invited answer"
        assert set(self._ready) <= {member.identity for member in self.members}, "only members are ready"
        if self.state is HospitalState.COLLECTING:
            assert len(self._ready) == len(self.members) >= self.study.minimum, "nothing is collected before all are ready"
        else:
            assert not self._transcripts, "partial sums exist only while collecting"
        assert not (self.ended and self.round_key is not None), "an ended round has forgotten its key"

    # -- who may speak

    def _check_sender(self, message: Admitted) -> None:
        sender, kind = message.envelope.sender, message.envelope.kind
        if kind in (Kind.CONSENT, Kind.DECLINED):
            if sender.uri not in self.study.members:
                raise MessageRefused(Answer.REFUSED, "sender")
            return
        participant = self.participants.get(sender)
        if participant is None:
            raise MessageRefused(Answer.REFUSED, "sender")
        if message.envelope.header.round_key != participant.consent.round_key:
            raise MessageRefused(Answer.REFUSED, "round-key")

    def _equivocated(self, sender: Identity, now: float) -> list[Effect]:
        if self.ended:
            raise MessageRefused(Answer.GONE, "equivocation")
        return [Answered(Answer.REFUSED), *self._abort(AbortCode.EQUIVOCATION, (sender.name,))]

    # -- inviting

    def _open_round(self, event: OpenRound, now: float) -> list[Effect]:
        assert self.round_key is not None
        start = int(now)
        invitation = Invitation(
            version_min=OLDEST_VERSION,
            version_max=NEWEST_VERSION,
            round=self.round_id,
            nonce=self.entropy(32),
            hospital=self.keyring.identity.uri,
            study=encode(self.study),
            encoding=ENCODING,
            segments=tuple(SegmentShape(segment.modulus, segment.length) for segment in self.segments),
            floor=self.study.minimum,
            answer_by=start + self.study.answer_within,
            ready_by=start + self.study.ready_within,
            deadline=start + self.study.deadline,
            key_statement=self.keyring.encryption.statement,
            round_key=self.round_key.public,
        )
        payload = encode(invitation)
        self.invitation_digest = sha256(payload)
        self.question = Question(invitation, self.invitation_digest, self.study, self.me)
        self.state = HospitalState.INVITING
        keyless = frozenset(self.keyless)
        effects = [self._invite(patient, invitation) for patient in self.invited if patient not in keyless]
        return [*effects, self._progress(), WakeAt(float(invitation.answer_by))]

    def _key_published(self, event: KeyPublished, now: float) -> list[Effect]:
        assert self.question is not None
        if event.key.node not in self.keyless:
            return []
        self.sealed_for[event.key.node] = event.key
        return [self._invite(event.key.node, self.question.invitation)]

    def _invite(self, patient: Identity, invitation: Invitation) -> Send:
        assert self.round_key is not None
        until = float(invitation.answer_by)
        key = self.sealed_for.get(patient)
        if key is not None:
            return self._seal(Kind.INVITATION, invitation, Recipient(patient, key, b""), until)[0]
        place = Place(self.round_id, self.invitation_digest)
        envelope, _ = write_unsealed(
            Kind.INVITATION, encode(invitation), place, keyring=self.keyring, round_key=self.round_key, recipient=patient
        )
        return Send(patient, Kind.INVITATION, envelope, "", until)

    def _consented(self, received: Received, now: float) -> list[Effect]:
        assert self.question is not None and self.round_key is not None
        if received.sender in self.declined:
            raise MessageRefused(Answer.REFUSED, "declined-before")
        participant = read_consent(
            self.question,
            received.message.envelope.chain,
            received.payload,
            credentials=self.credentials,
            round_key=self.round_key,
            now=now,
        )
        if participant.consent.round_key != received.message.envelope.header.round_key:
            raise MessageRefused(Answer.REFUSED, "round-key")
        self.participants[received.sender] = participant
        return self._after_answer(now)

    def _has_declined(self, received: Received, now: float) -> list[Effect]:
        declined: Declined = received.payload
        if declined.invitation != self.invitation_digest or received.sender in self.participants:
            raise MessageRefused(Answer.REFUSED, "context")
        self.declined.add(received.sender)
        return self._after_answer(now)

    def _after_answer(self, now: float) -> list[Effect]:
        if self.waiting_for:
            return [self._progress()]
        return self._close_invitations(now)

    def _close_invitations(self, now: float) -> list[Effect]:
        assert self.question is not None
        if len(self.participants) < self.study.minimum:
            absent = tuple(identity.name for identity in self.invited if identity not in self.participants)
            return self._abort(AbortCode.TOO_FEW, absent)
        roster = write_roster(self.question, self.keyring.chain, self.participants.values())
        self.members = tuple(sorted(self.participants.values(), key=lambda member: member.identity.uri))
        self.context, self.version = context_of(encode(roster)), version_of(self.members)
        self.state = HospitalState.SHARING
        ready_by, deadline = self.question.invitation.ready_by, self.question.invitation.deadline
        # Members say by ready_by whom they lack; the hospital waits a little longer, for those words to arrive.
        patience = ready_by + (deadline - ready_by) / 2
        sends = self._to_all(Kind.ROSTER, roster, float(ready_by))
        return [StopSending(), *sends, self._progress(), WakeAt(patience)]

    # -- sharing

    def _is_ready(self, received: Received, now: float) -> list[Effect]:
        assert self.context is not None and self.question is not None
        member = self.participants[received.sender]
        ready = read(received.payload, READY_STATEMENT, Ready, member.credential.public_key)
        if ready is None or ready.context != self.context:
            raise MessageRefused(Answer.REFUSED, "ready")
        self._ready[received.sender] = received.payload
        if self.waiting_for:
            return [self._progress(), *self._end_if_all_have_spoken()]
        self.state = HospitalState.COLLECTING
        self._totals = tuple(RunningSum(segment.ring, segment.ring.zeros(segment.length)) for segment in self.segments)
        collect = Collect(tuple(self._ready[member.identity] for member in self.members))
        deadline = float(self.question.invitation.deadline)
        return [*self._to_all(Kind.COLLECT, collect, deadline), self._progress(), WakeAt(deadline)]

    def _end_if_all_have_spoken(self) -> list[Effect]:
        """Once somebody lacks a share, the round is over as soon as everybody is ready, has complained or is complained about."""
        missed = frozenset[str]().union(*self._claims.values())
        if not missed:
            return []
        silent = [
            member.identity.name
            for member in self.members
            if member.identity not in self._ready and member.identity not in self._claims
        ]
        if not set(silent) <= missed:
            return []
        return self._abort(AbortCode.MISSING, tuple(silent) or tuple(sorted(missed)))

    # -- collecting

    def _collected(self, received: Received, now: float) -> list[Effect]:
        partial: PartialSum = received.payload
        assert self._totals is not None
        others = len(self.members) - 1
        if len(partial.sent) != others or len(partial.received) != others or len(partial.segments) != len(self.segments):
            raise MessageRefused(Answer.UNOPENABLE, "payload")
        try:
            vectors = [
                segment.ring.unpack(packed, segment.length)
                for segment, packed in zip(self.segments, partial.segments, strict=True)
            ]
        except ValueError as error:
            raise MessageRefused(Answer.UNOPENABLE, "payload") from error
        for total, vector in zip(self._totals, vectors, strict=True):
            total.add(vector)
        self._transcripts[received.sender] = PartialSum((), partial.sent, partial.received)
        if self.waiting_for:
            return [self._progress()]
        return self._release()

    def _release(self) -> list[Effect]:
        assert self._totals is not None and self.context is not None and self.question is not None
        differing = self._differing_transcripts()
        if differing:
            return self._abort(AbortCode.TRANSCRIPT, differing)
        members = len(self.members)
        try:
            values = decode_totals(self.study, tuple(total.finish() for total in self._totals), members)
        except ValueError:
            return self._abort(AbortCode.OUT_OF_RANGE, ())
        result = make_result(self.study, self.context, members, values)
        key = self.entropy(COMMITMENT_KEY_BYTES)
        raw = encode(result)
        published = self.study.publish == PUBLISH_MEMBERS
        receipt = Receipt(self.context, commitment(key, raw), raw if published else b"", key if published else b"")
        sends = self._to_all(Kind.RECEIPT, receipt, self.question.invitation.deadline + RECEIPT_GRACE)
        self._end(HospitalState.RELEASED)
        return [Released(result, key), *sends, Ended(RELEASED)]

    def _differing_transcripts(self) -> tuple[str, ...]:
        """Names of the pairs whose sent and received digests differ: a node that was restored, or drew its seeds twice."""
        names = [member.identity for member in self.members]
        sent: dict[tuple[Identity, Identity], bytes] = {}
        received: dict[tuple[Identity, Identity], bytes] = {}
        for me in names:
            others = [other for other in names if other != me]
            transcript = self._transcripts[me]
            sent.update(((me, other), digest) for other, digest in zip(others, transcript.sent, strict=True))
            received.update(((other, me), digest) for other, digest in zip(others, transcript.received, strict=True))
        return tuple(sorted({name.name for pair in sent if sent[pair] != received[pair] for name in pair}))

    # -- the ends

    def _member_aborts(self, received: Received, now: float) -> list[Effect]:
        abort: Abort = received.payload
        if abort.context not in (b"", self.context):
            raise MessageRefused(Answer.REFUSED, "context")
        names = {identity.name for identity in self.invited}
        missing = tuple(name for name in abort.missing if name in names) or (received.sender.name,)
        if abort.code is AbortCode.MISSING and self.state is HospitalState.SHARING:
            self._claims[received.sender] = frozenset(missing)
            return self._end_if_all_have_spoken()
        return self._abort(abort.code, missing)

    def _late(self, event: Tick, now: float) -> list[Effect]:
        assert self.question is not None
        invitation = self.question.invitation
        if self.state is HospitalState.INVITING:
            return self._close_invitations(now) if now >= invitation.answer_by else [WakeAt(float(invitation.answer_by))]
        if self.state is HospitalState.SHARING:
            limit = invitation.ready_by + (invitation.deadline - invitation.ready_by) / 2
        else:
            limit = float(invitation.deadline)
        return self._abort(AbortCode.MISSING, self._silent()) if now >= limit else [WakeAt(limit)]

    def _silent(self) -> tuple[str, ...]:
        """Whom to name when time is up: those who said nothing, else those that others miss, else all that are waited for."""
        complained = {identity.name for identity in self._claims}
        silent = tuple(name for name in self.waiting_for if name not in complained)
        return silent or tuple(sorted(frozenset[str]().union(*self._claims.values()))) or self.waiting_for

    def _undeliverable(self, event: Undeliverable, now: float) -> list[Effect]:
        if event.kind is Kind.INVITATION:
            if self.state is not HospitalState.INVITING or event.recipient in self.participants:
                return []
            self.unreachable.add(event.recipient)
            return self._after_answer(now)
        # A member that answers `gone` has ended the round itself: its Abort, which says why, is on its way.
        if event.kind in (Kind.ROSTER, Kind.COLLECT) and event.answer is not Answer.GONE:
            return self._abort(AbortCode.UNDELIVERABLE, (event.recipient.name,))
        return []

    def _cancel(self, event: CancelRound, now: float) -> list[Effect]:
        return self._abort(AbortCode.CANCELLED, ())

    def _revoked(self, event: PeersRevoked, now: float) -> list[Effect]:
        for node in event.nodes:
            self.participants.pop(node, None)  # nothing more is said to whoever has that key now
        return self._abort(AbortCode.REVOKED, tuple(node.name for node in event.nodes))

    def _abort(self, code: AbortCode, missing: tuple[str, ...]) -> list[Effect]:
        assert self.question is not None
        phase = str(self.state)
        content = Abort(self.context or b"", code, phase, missing)
        until = self.question.invitation.deadline + RECEIPT_GRACE
        sends = [self._seal(Kind.ABORT, content, participant.recipient, until)[0] for participant in self.participants.values()]
        self._end(HospitalState.ABORTED)
        return [StopSending(), *sends, Ended(ABORTED, code, phase, missing, explain(code, missing, phase) + self._complaints())]

    def _complaints(self) -> str:
        """Whose share did not reach whom, by the words of those who lack it: two that cannot reach each other show here."""
        lacking: dict[str, list[str]] = {}
        for claimant, missed in self._claims.items():
            for name in missed - {claimant.name}:
                lacking.setdefault(name, []).append(claimant.name)
        return "".join(
            f"; the share of {name} did not reach {few(sorted(lacking[name]))}" for name in sorted(lacking)[:_COMPLAINTS]
        )

    def _end(self, state: HospitalState) -> None:
        self.state = state
        self.round_key = None
        self._totals = None
        self._transcripts.clear()

    def _to_all(self, kind: Kind, content: Struct, until: float) -> list[Send]:
        return [self._seal(kind, content, member.recipient, until)[0] for member in self.members]

    def _progress(self) -> Progressed:
        return Progressed(str(self.state), self.waiting_for)

    transitions: ClassVar[Transitions] = {
        (HospitalState.NEW, OpenRound): _open_round,
        (HospitalState.INVITING, Kind.CONSENT): _consented,
        (HospitalState.INVITING, Kind.DECLINED): _has_declined,
        (HospitalState.SHARING, Kind.READY): _is_ready,
        (HospitalState.COLLECTING, Kind.PARTIAL_SUM): _collected,
        **dict.fromkeys([(state, Kind.ABORT) for state in _OPEN], _member_aborts),
        **dict.fromkeys([(state, Tick) for state in _OPEN], _late),
        **dict.fromkeys([(state, CancelRound) for state in _OPEN], _cancel),
        **dict.fromkeys([(state, PeersRevoked) for state in _OPEN], _revoked),
        **dict.fromkeys([(state, Undeliverable) for state in _OPEN], _undeliverable),
        **dict.fromkeys([(state, KeyPublished) for state in _OPEN], _key_published),
    }
