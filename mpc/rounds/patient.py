"""A round as a patient sees it.

    new --Invitation--> consented --Roster--> reading --values--> sharing --all Shares--> ready
     |`--> asked --a person--> consented
     `--> declined <--'
    ready --Collect--> submitted --Receipt--> finished
    any open state --Abort, deadline, refusal--> aborted

The patient's values enter once, after the roster held, and leave as seeds and one partial sum. Seeds and values are forgotten
with the PartialSum or when the round ends, whichever is first; the round key when it ends.
"""

from __future__ import annotations

import hmac
from dataclasses import replace
from enum import StrEnum
from typing import ClassVar

from mpc.credentials import Credentials
from mpc.disclosure import Ledger, Policy, refuse_invitation, refuse_roster
from mpc.envelope import Recipient
from mpc.errors import Answer, DataError, MessageRefused
from mpc.guards import Cohort, charge, period_end, refuse_contribution, refuse_early
from mpc.identity import Credential, Identity
from mpc.keys import Keyring, check_statement
from mpc.messages import (
    BURNT_STATEMENT,
    CONSENT_STATEMENT,
    COUNTERSIGNATURE_STATEMENT,
    NEWEST_VERSION,
    READY_STATEMENT,
    RECEIPT_STATEMENT,
    Abort,
    AbortCode,
    Burnt,
    Collect,
    Consent,
    Countersignature,
    Declined,
    Invitation,
    Kind,
    PartialSum,
    Ready,
    Receipt,
    Roster,
    Share,
)
from mpc.receipt import COUNTERSIGN_SECONDS, RECEIPT_GRACE, ReceiptStatement, SignedReceipt, is_true
from mpc.result import Result, commitment
from mpc.ring import Vector
from mpc.rounds.admission import Admitted
from mpc.rounds.events import (
    ABORTED,
    DECLINED,
    RELEASED,
    Answered,
    Asked,
    Decided,
    Effect,
    Ended,
    PeersRevoked,
    PersonDecided,
    Progressed,
    ReadValues,
    Receipted,
    Released,
    Request,
    StopSending,
    Submitted,
    Tick,
    Undeliverable,
    ValuesRead,
    ValuesUnavailable,
    WakeAt,
    Withdrawn,
)
from mpc.rounds.machine import Machine, Received, Transitions, explain, is_heavy
from mpc.rounds.roster import Participant, Question, burnt_by, check_ready, context_of, read_roster, revoked_members, version_of
from mpc.secret import Entropy, Secret
from mpc.sharing import draw_seeds, own_share, partial_sum
from mpc.signature import sha256
from mpc.statement import read, sign
from mpc.statistics import Segment
from mpc.statistics import encode as encode_values
from mpc.study import PUBLISH_MEMBERS, Study
from mpc.wire import decode_payload, encode

NO_RECEIPT = "no-receipt"
DECLINED_SECONDS = 60.0
"""How long a refusal is offered to a hospital that does not take it."""
BURNT_SECONDS = 24 * 3600.0
"""The same for a Burnt, from the deadline on: a hospital that is away needs it when it asks again."""


class PatientState(StrEnum):
    """Where the round stands."""

    NEW = "new"
    ASKED = "asked"
    CONSENTED = "consented"
    READING = "reading"
    SHARING = "sharing"
    READY = "ready"
    SUBMITTED = "submitted"
    FINISHED = "finished"
    ABORTED = "aborted"
    DECLINED = "declined"


_ENDED = frozenset({PatientState.FINISHED, PatientState.ABORTED, PatientState.DECLINED})
_OPEN = tuple(state for state in PatientState if state not in _ENDED and state is not PatientState.NEW)


class PatientRound(Machine):
    """One round at one patient."""

    name = "patient round"

    def __init__(
        self,
        round_id: bytes,
        keyring: Keyring,
        entropy: Entropy,
        *,
        credentials: Credentials,
        policy: Policy,
        ledger: Ledger,
        endpoint: str,
    ) -> None:
        """`endpoint` is the https URL under which the other members reach this node."""
        super().__init__(round_id, keyring, entropy, PatientState.NEW)
        self.credentials = credentials
        self.policy = policy
        self.ledger = ledger
        self.endpoint = endpoint
        self.question: Question | None = None
        self.hospital: Recipient | None = None
        self.consent = b""
        self.members: tuple[Participant, ...] = ()
        self._roster_bytes = b""
        self._peers: dict[Identity, Participant] = {}
        self._cohort: Cohort | None = None
        self._values: tuple[Vector, ...] | None = None
        self._sent: dict[Identity, Secret] = {}
        self._received: dict[Identity, Secret] = {}
        self._sent_digests: dict[Identity, bytes] = {}
        self._received_digests: dict[Identity, bytes] = {}

    @property
    def ended(self) -> bool:
        """Whether nothing more can happen."""
        return self.state in _ENDED

    @property
    def _asked(self) -> Question:
        assert self.question is not None, "set by the Invitation, which every other state follows"
        return self.question

    @property
    def study(self) -> Study:
        """What was asked."""
        return self._asked.study

    @property
    def peers(self) -> tuple[Participant, ...]:
        """The other members, in roster order."""
        return tuple(self._peers.values())

    @property
    def parties(self) -> tuple[Credential, ...]:
        """See `Machine.parties`."""
        return (self._asked.hospital, *(peer.credential for peer in self.peers)) if self.question is not None else ()

    @property
    def phase(self) -> str:
        """The round's phase in the words of an Abort."""
        if self.state in (PatientState.NEW, PatientState.ASKED, PatientState.CONSENTED):
            return "inviting"
        return "sharing" if self.state in (PatientState.READING, PatientState.SHARING) else "collecting"

    def missing_shares(self) -> tuple[str, ...]:
        """Names of the members whose Share is not here yet."""
        return tuple(identity.name for identity in self._peers if identity not in self._received)

    @property
    def heavy(self) -> bool:
        """See `Machine.heavy`."""
        return self.question is not None and is_heavy(self.study, self._segments)

    @property
    def unread(self) -> ReadValues | None:
        """See `Machine.unread`."""
        return ReadValues(self.study) if self.state is PatientState.READING else None

    def check_invariants(self) -> None:
        """See `Machine.check_invariants`."""
        holds_secrets = bool(self._values is not None or self._sent or self._received)
        assert not (self.ended and holds_secrets), "an ended round holds no secret"
        assert not (self.ended and self.round_key is not None), "an ended round has forgotten its key"
        assert not (self.state is PatientState.SUBMITTED and holds_secrets), "a submitted round holds no seed or value"
        assert set(self._received) <= {peer.identity for peer in self.peers}, "shares come from members only"
        if self.state is PatientState.READY:
            assert not self.missing_shares(), "ready means that every share is here"
            assert self._values is not None and len(self._sent) == len(self.peers), "ready means that every share was drawn"

    # -- who may speak

    def _check_sender(self, message: Admitted) -> None:
        sender, kind = message.envelope.sender, message.envelope.kind
        if self.question is None:
            # Not a decision, so nothing for the ledger: a stranger cannot use up what the own hospital may ask.
            if sender != self.policy.hospital:
                raise MessageRefused(Answer.REFUSED, "sender")
            return
        if kind is Kind.SHARE:
            peer = self._peers.get(sender)
            expected = peer.consent.round_key if peer else None
        else:
            expected = self.question.invitation.round_key if sender == self.question.hospital.identity else None
        if expected is None:
            raise MessageRefused(Answer.REFUSED, "sender")
        if message.envelope.header.round_key != expected:
            raise MessageRefused(Answer.REFUSED, "round-key")

    def _equivocated(self, sender: Identity, now: float) -> list[Effect]:
        if self.ended or self.state is PatientState.SUBMITTED:
            raise MessageRefused(Answer.REFUSED, "equivocation")
        return [Answered(Answer.REFUSED), *self._abort(AbortCode.EQUIVOCATION, (sender.name,))]

    # -- inviting

    def _invited(self, received: Received, now: float) -> list[Effect]:
        invitation: Invitation = received.payload
        envelope = received.message.envelope
        digest = sha256(encode(invitation))  # of the payload, which is the same whether it came sealed or not
        if (invitation.round, invitation.hospital) != (self.round_id, received.sender.uri):
            raise MessageRefused(Answer.REFUSED, "invitation")
        if (envelope.header.context, envelope.header.round_key) != (digest, invitation.round_key):
            raise MessageRefused(Answer.REFUSED, "context")
        hospital = received.message.credential
        assert self.round_key is not None
        if not self.round_key.agrees(invitation.round_key):
            raise MessageRefused(Answer.REFUSED, "round-key")
        wrapping_key = check_statement(invitation.key_statement, hospital, now)
        study = decode_payload(invitation.study, Study)
        reason = refuse_invitation(self.policy, self.ledger, self.keyring.identity, invitation, study, now)
        reason = reason or refuse_early(self.policy, self.ledger, study, now)
        self.question = Question(invitation, digest, study, hospital)
        self.hospital = Recipient(hospital.identity, wrapping_key, invitation.round_key)
        self.invitation_digest = digest
        if reason:
            return [Decided(self.request, reason), *self._decline(reason, now)]
        if self.policy.asks(study):
            self.state = PatientState.ASKED
            until = float(invitation.answer_by)
            return [Asked(self.request, until, float(invitation.deadline)), WakeAt(until)]
        return [Decided(self.request, ""), *self._consent()]

    @property
    def request(self) -> Request:
        """What was asked, for the patient's own ledger."""
        study, hospital = self.study, self._asked.hospital.identity
        questions = tuple(sorted(self.policy.questions_of(study)))
        return Request(study.id, hospital, sha256(self._asked.invitation.study), study.purpose, questions)

    def _person_decided(self, event: PersonDecided, now: float) -> list[Effect]:
        if event.approved:
            return [Decided(self.request, "", by_person=True), *self._consent()]
        reason = "a person has declined it"
        return [Decided(self.request, reason, by_person=True), *self._decline(reason, now)]

    def _decided_before(self, event: PersonDecided, now: float) -> list[Effect]:
        """Two people have answered, or one too late."""
        return []

    def _unanswered(self, event: Tick, now: float) -> list[Effect]:
        until = float(self._asked.invitation.answer_by)
        if now < until:
            return [WakeAt(until)]
        reason = "nobody has decided in time"
        self._end(PatientState.DECLINED)  # without a word: the hospital waits for answers no longer
        return [Decided(self.request, reason, by_person=True), Ended(DECLINED, detail=reason)]

    def _decline(self, reason: str, now: float) -> list[Effect]:
        assert self.hospital is not None
        until = min(float(self._asked.invitation.answer_by), now + DECLINED_SECONDS)
        send, _ = self._seal(Kind.DECLINED, Declined(self.invitation_digest), self.hospital, until)
        self._end(PatientState.DECLINED)
        return [send, Ended(DECLINED, detail=reason)]

    def _consent(self) -> list[Effect]:
        assert self.round_key is not None and self.hospital is not None
        invitation = self._asked.invitation
        consent = Consent(
            invitation=self.invitation_digest,
            hospital=invitation.hospital,
            nonce=self.entropy(32),
            endpoint=self.endpoint,
            version=min(NEWEST_VERSION, invitation.version_max),
            key_statement=self.keyring.encryption.statement,
            round_key=self.round_key.public,
            expires=invitation.deadline,
            study=sha256(invitation.study),
            purpose=self.study.purpose,
        )
        signed = sign(self.keyring.signing_key, CONSENT_STATEMENT, consent)
        self.consent = signed.body
        self.state = PatientState.CONSENTED
        send, _ = self._seal(Kind.CONSENT, signed, self.hospital, float(invitation.answer_by))
        return [send, WakeAt(float(invitation.ready_by))]

    # -- the roster, then the values

    def _roster(self, received: Received, now: float) -> list[Effect]:
        roster: Roster = received.payload
        assert self.round_key is not None
        revoked = revoked_members(roster, self.credentials, now)
        if revoked:
            return self._abort(AbortCode.REVOKED, tuple(node.name for node in revoked))
        try:
            members = read_roster(self._asked, roster, credentials=self.credentials, round_key=self.round_key, now=now)
        except MessageRefused as error:
            return self._abort(AbortCode.ROSTER, (self.keyring.identity.name,), detail=f"the roster breaks a rule: {error}")
        mine = [member for member in members if member.identity == self.keyring.identity]
        if [member.signed.body for member in mine] != [self.consent]:
            return self._abort(
                AbortCode.ROSTER, (self.keyring.identity.name,), detail="the roster does not hold this patient's own consent"
            )
        credentials = tuple(member.credential for member in members)
        cohort = Cohort(
            members=frozenset(one.identity.uri for one in credentials),
            vouched=frozenset(
                one.identity.uri for one in credentials if one.identity == self.keyring.identity or self.policy.vouches_for(one)
            ),
            burnt=burnt_by(roster, self.credentials, now),
        )
        reason = refuse_roster(self.policy, self.keyring.identity, self._asked.invitation.floor, credentials)
        reason = reason or refuse_contribution(self.policy, self.ledger, self.study, cohort, now)
        if reason:
            return self._abort(AbortCode.ROSTER, (self.keyring.identity.name,), detail=f"the roster is refused: {reason}")
        self.members, self._cohort = members, cohort
        self._peers = {member.identity: member for member in members if member.identity != self.keyring.identity}
        self._roster_bytes = encode(roster)
        self.context, self.version = context_of(self._roster_bytes), version_of(members)
        self.state = PatientState.READING
        return [ReadValues(self.study), Progressed(self.phase, self.missing_shares())]

    def _share(self, event: ValuesRead, now: float) -> list[Effect]:
        try:
            self._values = encode_values(self.study, event.values, event.noise)
        except DataError as error:
            return self._abort(AbortCode.UNAVAILABLE, (self.keyring.identity.name,), detail=str(error))
        self.state = PatientState.SHARING
        until = float(self._asked.invitation.ready_by)
        effects: list[Effect] = []
        for peer, seed in zip(self.peers, draw_seeds(len(self.peers), self.entropy), strict=True):
            send, digest = self._seal(Kind.SHARE, Share(seed.reveal()), peer.recipient, until, peer.consent.endpoint)
            self._sent[peer.identity] = seed
            self._sent_digests[peer.identity] = digest
            effects.append(send)
        return effects + self._ready_when_complete()

    def _unavailable(self, event: ValuesUnavailable, now: float) -> list[Effect]:
        return self._abort(AbortCode.UNAVAILABLE, (self.keyring.identity.name,))

    def _received_share(self, received: Received, now: float) -> list[Effect]:
        share: Share = received.payload
        self._received[received.sender] = Secret(share.seed)
        self._received_digests[received.sender] = received.message.envelope.digest
        return self._ready_when_complete()

    def _ready_when_complete(self) -> list[Effect]:
        if self.state is not PatientState.SHARING or len(self._received) < len(self._peers):
            return []
        assert self.context is not None and self.hospital is not None
        self.state = PatientState.READY
        deadline = float(self._asked.invitation.deadline)
        ready = sign(self.keyring.signing_key, READY_STATEMENT, Ready(self.context))
        send, _ = self._seal(Kind.READY, ready, self.hospital, deadline)
        return [send, Progressed(self.phase, ()), WakeAt(deadline)]

    # -- the partial sum

    def _collect(self, received: Received, now: float) -> list[Effect]:
        collect: Collect = received.payload
        assert self.context is not None and self.hospital is not None and self._values is not None
        assert self._cohort is not None
        me = self.keyring.identity
        try:
            check_ready(self.members, collect.ready, self.context)
        except MessageRefused as error:
            return self._abort(AbortCode.COLLECT, (me.name,), detail=f"a proof of readiness breaks a rule: {error}")
        if now > self._asked.invitation.deadline:
            return self._abort(AbortCode.COLLECT, (me.name,), detail="the consent has expired")
        # Another round may have been committed since the roster was looked at.
        reason = refuse_contribution(self.policy, self.ledger, self.study, self._cohort, now)
        if reason:
            return self._abort(AbortCode.COLLECT, (me.name,), detail=f"the partial sum is not given: {reason}")
        packed = []
        for index, segment in enumerate(self._segments):
            ring = segment.ring
            own = own_share(ring, self._values[index], self._sent.values(), self.context, segment=index)
            packed.append(ring.pack(partial_sum(ring, own, self._received.values(), self.context, segment=index)))
        content = PartialSum(
            tuple(packed),
            tuple(self._sent_digests[peer.identity] for peer in self.peers),
            tuple(self._received_digests[peer.identity] for peer in self.peers),
        )
        deadline = float(self._asked.invitation.deadline)
        send, _ = self._seal(Kind.PARTIAL_SUM, content, self.hospital, deadline)
        self.state = PatientState.SUBMITTED
        self._forget_values()
        vouched = frozenset(member.identity for member in self.members if member.identity.uri in self._cohort.vouched)
        submitted = Submitted(
            self.study.id,
            self.context,
            tuple(member.identity for member in self.members),
            vouched,
            {source: period_end(self.policy, self.ledger, source, now) for source in self.policy.sources_of(self.study)},
            charge(self.policy, self.study, len(vouched)),
        )
        return [submitted, send, WakeAt(deadline + RECEIPT_GRACE)]

    def _receipt(self, received: Received, now: float) -> list[Effect]:
        receipt: Receipt = received.payload
        assert self.context is not None
        statement = read(receipt.statement, RECEIPT_STATEMENT, ReceiptStatement, self._asked.hospital.public_key)
        if statement is None or not is_true(statement, self._asked, self.version, self.context):
            raise MessageRefused(Answer.REFUSED, "receipt")
        if bool(receipt.result) != (self.study.publish == PUBLISH_MEMBERS):
            raise MessageRefused(Answer.REFUSED, "receipt")
        effects: list[Effect] = []
        if receipt.result:
            if not hmac.compare_digest(commitment(receipt.key, receipt.result), statement.commitment):
                raise MessageRefused(Answer.REFUSED, "receipt")
            effects.append(Released(decode_payload(receipt.result, Result), receipt.key))
        effects += self._countersign(receipt)
        self._end(PatientState.FINISHED)
        return [*effects, Ended(RELEASED)]

    def _countersign(self, receipt: Receipt) -> list[Effect]:
        """This patient has the receipt, and says so to the hospital, which has forgotten its round key by now."""
        assert self.hospital is not None
        mine = SignedReceipt(self._roster_bytes, receipt.statement, (b"",) * len(self.members))
        signed = sign(self.keyring.signing_key, COUNTERSIGNATURE_STATEMENT, Countersignature(mine.digest))
        place = next(place for place, member in enumerate(self.members) if member.identity == self.keyring.identity)
        until = self._asked.invitation.deadline + COUNTERSIGN_SECONDS
        send, _ = self._seal(Kind.COUNTERSIGNATURE, signed, replace(self.hospital, round_key=b""), until)
        return [send, Receipted(mine.countersigned(place, signed.signature))]

    # -- the ends

    def _aborted(self, received: Received, now: float) -> list[Effect]:
        abort: Abort = received.payload
        if self.context is not None and abort.context not in (b"", self.context):
            raise MessageRefused(Answer.REFUSED, "context")
        phase, burnt = self.phase, self._burn()
        self._end(PatientState.ABORTED)
        ended = Ended(ABORTED, abort.code, phase, abort.missing, explain(abort.code, abort.missing, phase))
        return [StopSending(), *burnt, ended]

    def _burn(self) -> list[Effect]:
        """What lets others go on without this patient, who will make no PartialSum. Before its Ready nobody can have made one."""
        if self.state is not PatientState.READY:
            return []
        assert self.hospital is not None and self.context is not None
        burnt = sign(self.keyring.signing_key, BURNT_STATEMENT, Burnt(self.context))
        until = self._asked.invitation.deadline + BURNT_SECONDS
        return [self._seal(Kind.BURNT, burnt, replace(self.hospital, round_key=b""), until)[0]]

    def _withdraw(self, event: Withdrawn, now: float) -> list[Effect]:
        reason = "a person has withdrawn from the study"
        if self.state is PatientState.SUBMITTED:
            return []  # given is given
        if self.state is PatientState.ASKED:
            return [Decided(self.request, reason, by_person=True), *self._decline(reason, now)]
        return self._abort(AbortCode.UNAVAILABLE, (self.keyring.identity.name,), detail=reason)

    def _late(self, event: Tick, now: float) -> list[Effect]:
        invitation = self._asked.invitation
        if self.state in (PatientState.READING, PatientState.SHARING):
            if now >= invitation.ready_by:
                return self._abort(AbortCode.MISSING, self.missing_shares() or (self.keyring.identity.name,))
            return [WakeAt(float(invitation.ready_by))]
        # Without a roster, or once ready, the hospital has until the deadline to say more; after that, a little longer.
        limit = invitation.deadline + (RECEIPT_GRACE if self.state is PatientState.SUBMITTED else 0.0)
        if now < limit:
            return [WakeAt(limit)]
        return self._give_up(NO_RECEIPT if self.state is PatientState.SUBMITTED else AbortCode.MISSING)

    def _undeliverable(self, event: Undeliverable, now: float) -> list[Effect]:
        if event.kind is Kind.CONSENT:
            return self._give_up(AbortCode.UNDELIVERABLE)  # no member yet: nobody will send an Abort
        if event.answer is Answer.GONE:
            return []  # the recipient has ended the round itself: an Abort, which says why, is on its way
        if event.kind is Kind.SHARE:
            return self._abort(AbortCode.UNDELIVERABLE, (event.recipient.name,))
        return self._give_up(AbortCode.UNDELIVERABLE)

    def _revoked(self, event: PeersRevoked, now: float) -> list[Effect]:
        if self.state is PatientState.SUBMITTED:
            return []  # nothing is left to keep back; whether there is a result is the hospital's to say
        if self._asked.hospital.identity in event.nodes:
            return self._give_up(AbortCode.REVOKED)
        if self.state is PatientState.ASKED:
            return []  # nobody but the hospital takes part yet
        return self._abort(AbortCode.REVOKED, tuple(node.name for node in event.nodes))

    def _give_up(self, code: str) -> list[Effect]:
        """Ends the round where the hospital cannot or need not be told."""
        phase, hospital = self.phase, self._asked.hospital.identity.name
        burnt = [] if code == AbortCode.REVOKED else self._burn()
        self._end(PatientState.ABORTED)
        detail = (
            "the partial sum was given but no receipt came; the round counts as one that was answered"
            if code == NO_RECEIPT
            else explain(code, (hospital,), phase)
        )
        return [StopSending(), *burnt, Ended(ABORTED, code, phase, (hospital,), detail)]

    def _abort(self, code: AbortCode, missing: tuple[str, ...], detail: str = "") -> list[Effect]:
        """Burns the round and tells the hospital the code and the names, never the detail."""
        assert self.hospital is not None
        phase = self.phase
        content = Abort(self.context or b"", code, phase, missing)
        send, _ = self._seal(Kind.ABORT, content, self.hospital, self._asked.invitation.deadline + RECEIPT_GRACE)
        burnt = self._burn()
        self._end(PatientState.ABORTED)
        return [StopSending(), send, *burnt, Ended(ABORTED, code, phase, missing, detail or explain(code, missing, phase))]

    def _forget_values(self) -> None:
        self._values = None
        self._sent.clear()
        self._received.clear()

    def _end(self, state: PatientState) -> None:
        self.state = state
        self._forget_values()
        self.round_key = None

    @property
    def _segments(self) -> tuple[Segment, ...]:
        return tuple(Segment(shape.modulus, shape.length) for shape in self._asked.invitation.segments)

    transitions: ClassVar[Transitions] = {
        (PatientState.NEW, Kind.INVITATION): _invited,
        (PatientState.CONSENTED, Kind.ROSTER): _roster,
        (PatientState.READING, ValuesRead): _share,
        (PatientState.READING, ValuesUnavailable): _unavailable,
        (PatientState.READING, Kind.SHARE): _received_share,
        (PatientState.SHARING, Kind.SHARE): _received_share,
        (PatientState.READY, Kind.COLLECT): _collect,
        (PatientState.SUBMITTED, Kind.RECEIPT): _receipt,
        **dict.fromkeys([(state, Kind.ABORT) for state in _OPEN], _aborted),
        **dict.fromkeys([(state, Tick) for state in _OPEN], _late),
        **dict.fromkeys([(state, Undeliverable) for state in _OPEN], _undeliverable),
        **dict.fromkeys([(state, PersonDecided) for state in _OPEN], _decided_before),
        **dict.fromkeys([(state, Withdrawn) for state in _OPEN], _withdraw),
        (PatientState.ASKED, PersonDecided): _person_decided,
        (PatientState.ASKED, Tick): _unanswered,
        **dict.fromkeys([(state, PeersRevoked) for state in _OPEN], _revoked),
    }
