"""Who takes part: reading a consent, a roster and the proofs of readiness, with every check that a member makes.

The hospital checks a consent with the same function as the members, so that an honest hospital never sends a roster that an
honest member refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

from mpc.credentials import Credentials
from mpc.envelope import Recipient
from mpc.errors import Answer, IdentityError, MessageRefused, RevokedError
from mpc.identity import Credential, Identity, Role
from mpc.keys import RoundKey, WrappingKey, check_statement
from mpc.messages import (
    BURNT_STATEMENT,
    CONSENT_STATEMENT,
    READY_STATEMENT,
    Burnt,
    BurntRound,
    Consent,
    Invitation,
    Member,
    Ready,
    Roster,
)
from mpc.signature import sha256
from mpc.statement import Signed, read
from mpc.study import Study


@dataclass(frozen=True, slots=True, repr=False)
class Participant:
    """A member whose consent holds."""

    credential: Credential
    chain: tuple[bytes, ...]
    signed: Signed
    consent: Consent
    wrapping_key: WrappingKey

    @property
    def identity(self) -> Identity:
        """Whose consent it is."""
        return self.credential.identity

    @property
    def recipient(self) -> Recipient:
        """Where sealed messages for this member go."""
        return Recipient(self.identity, self.wrapping_key, self.consent.round_key)

    @property
    def member(self) -> Member:
        """The member's line in the roster."""
        return Member(self.chain, self.signed)


@dataclass(frozen=True, slots=True, repr=False)
class Question:
    """What a round's consents must agree with."""

    invitation: Invitation
    digest: bytes
    study: Study
    hospital: Credential


def _refuse(reason: str) -> MessageRefused:
    return MessageRefused(Answer.REFUSED, reason)


def read_consent(
    question: Question,
    chain: tuple[bytes, ...],
    signed: Signed,
    *,
    credentials: Credentials,
    round_key: RoundKey,
    now: float,
) -> Participant:
    """The participant that a chain and a signed consent make; `round_key` is the reader's. Raises MessageRefused."""
    try:
        credential = credentials.learn(chain, now)
    except IdentityError as error:
        raise _refuse("member-certificate") from error
    identity = credential.identity
    if identity.role is not Role.PATIENT or identity.uri not in question.study.members:
        raise _refuse("not-a-member")
    consent = read(signed, CONSENT_STATEMENT, Consent, credential.public_key)
    if consent is None:
        raise _refuse("consent-signature")
    if consent.invitation != question.digest:
        raise _refuse("consent-invitation")
    if consent.hospital != question.hospital.identity.uri:
        raise _refuse("consent-hospital")
    if (consent.study, consent.purpose) != (sha256(question.invitation.study), question.study.purpose):
        raise _refuse("consent-study")
    if not question.invitation.version_min <= consent.version <= question.invitation.version_max:
        raise _refuse("consent-version")
    if consent.expires < question.invitation.deadline or consent.expires < now:
        raise _refuse("consent-expired")
    if not round_key.agrees(consent.round_key):
        raise _refuse("round-key")
    return Participant(credential, chain, signed, consent, check_statement(consent.key_statement, credential, now))


def revoked_members(roster: Roster, credentials: Credentials, now: float) -> tuple[Identity, ...]:
    """The members whose certificates are revoked by what the reader knows; whatever else is wrong `read_roster` says."""
    found = []
    for member in roster.members:
        try:
            credentials.learn(member.chain, now)
        except RevokedError as error:
            found.append(Identity.parse(error.node))
        except IdentityError:
            continue
    return tuple(found)


def write_roster(
    question: Question,
    hospital_chain: tuple[bytes, ...],
    members: Iterable[Participant],
    burnt: tuple[BurntRound, ...] = (),
) -> Roster:
    """The roster over `members`, in the one order."""
    ordered = sorted(members, key=lambda member: member.identity.uri)
    return Roster(question.digest, hospital_chain, tuple(member.member for member in ordered), burnt)


def read_roster(
    question: Question, roster: Roster, *, credentials: Credentials, round_key: RoundKey, now: float
) -> tuple[Participant, ...]:
    """The participants in roster order. Raises MessageRefused with the first rule that the roster breaks."""
    if roster.invitation != question.digest:
        raise _refuse("roster-invitation")
    if sha256(roster.hospital_chain[0]) != question.hospital.digest:
        raise _refuse("roster-hospital")
    members = tuple(
        read_consent(question, member.chain, member.consent, credentials=credentials, round_key=round_key, now=now)
        for member in roster.members
    )
    names = [member.identity.uri for member in members]
    if names != sorted(set(names)):
        raise _refuse("roster-order")
    for distinct in (
        {member.credential.public_key.public_numbers() for member in members},
        {member.wrapping_key.key_id for member in members},
        {member.consent.round_key for member in members},
        {member.consent.nonce for member in members},
    ):
        if len(distinct) != len(members):
            raise _refuse("roster-keys")
    return members


@dataclass(frozen=True, slots=True, repr=False)
class UnreleasedRoster:
    """At the hospital: a roster whose members were asked for their partial sums, and of which there is no total."""

    members: tuple[str, ...]
    """Identity URIs."""
    burnt: tuple[tuple[str, BurntRound], ...]
    """(URI, Burnt) of those that made none, as far as they have said so."""

    def explaining(self, members: Set[str]) -> list[BurntRound]:
        """What lets those who are bound to this roster take the smaller one of `members`; empty when nothing does."""
        gone = frozenset(self.members) - members
        burnt = [burnt for who, burnt in self.burnt if who in gone]
        return burnt if members < frozenset(self.members) and len(burnt) == len(gone) else []


def read_burnt(burnt: BurntRound, credentials: Credentials, now: float) -> tuple[Identity, bytes] | None:
    """(who, context) of a member's Burnt; None for one that does not hold, or no longer."""
    try:
        credential = credentials.learn(burnt.chain, now)
        content = read(burnt.statement, BURNT_STATEMENT, Burnt, credential.public_key)
    except (IdentityError, MessageRefused):
        return None
    if content is None or credential.identity.role is not Role.PATIENT:
        return None
    return credential.identity, content.context


def burnt_by(roster: Roster, credentials: Credentials, now: float) -> dict[bytes, frozenset[str]]:
    """By context: the URIs of those whose Burnt the roster carries. What does not hold proves nothing, and counts for nothing."""
    found: dict[bytes, frozenset[str]] = {}
    for burnt in roster.burnt:
        held = read_burnt(burnt, credentials, now)
        if held is not None:
            who, context = held
            found[context] = found.get(context, frozenset()) | {who.uri}
    return found


def context_of(roster: bytes) -> bytes:
    """What every later message of the round is bound to: SHA-256("cohortium/v1/context" ‖ roster)."""
    return sha256(b"cohortium/v1/context" + roster)


def version_of(members: tuple[Participant, ...]) -> int:
    """The protocol version of the round: the newest that every member speaks."""
    return min(member.consent.version for member in members)


def check_ready(members: tuple[Participant, ...], proofs: tuple[Signed, ...], context: bytes) -> None:
    """Raises MessageRefused unless there is one proof a member, in roster order, each for this context."""
    if len(proofs) != len(members):
        raise _refuse("ready-count")
    for member, proof in zip(members, proofs, strict=True):
        ready = read(proof, READY_STATEMENT, Ready, member.credential.public_key)
        if ready is None:
            raise _refuse("ready-signature")
        if ready.context != context:
            raise _refuse("ready-context")
