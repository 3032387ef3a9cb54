"""The receipt of a round: what the hospital signs of it and members countersign, as a file that needs no other to be checked.

    roster             as it was sent: its digest is the context, and in it is everybody's certificate and signed Consent
    statement          what the hospital says of the round, signed
    countersignatures  of members who found all of it as they know it, in the order of the roster; empty where there is none

So whoever has the authority's certificate can check every word, and is told no more than each member was. Nothing in it depends
on the result but an HMAC under a random key (`mpc.result.commitment`), which is disclosed, if ever, with the result alone.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass
from typing import Annotated, TypeVar

from msgspec import Meta

from mpc.errors import CohortiumError, IdentityError, MessageRefused
from mpc.identity import Credential, Role, Trust
from mpc.messages import (
    CONSENT_STATEMENT,
    COUNTERSIGNATURE_STATEMENT,
    RECEIPT_STATEMENT,
    Consent,
    Countersignature,
    Digest,
    Member,
    Roster,
    RoundId,
    Time,
)
from mpc.result import COMMITMENT_KEY_BYTES, Result, commitment
from mpc.rounds.roster import Question, context_of
from mpc.signature import SIGNATURE_BYTES, sha256, tagged_digest, verify_digest
from mpc.statement import Signed
from mpc.study import MAX_MEMBERS, MAX_OTHERS, MAX_PARTS, Privacy, Release, Statistic, Study, Word
from mpc.wire import Struct, decode, encode

RECEIPT_GRACE = 60.0
"""Seconds after the deadline for which a receipt is awaited, and final messages are still sent."""
COUNTERSIGN_SECONDS = 24 * 3600.0
"""Seconds after the deadline for which the hospital adds countersignatures, and members send them."""
MAX_FILE = 48 * 1024 * 1024
"""Bytes: the largest roster that fits a message, in base 64, and a countersignature of each of its members."""
_LINE = 64

S = TypeVar("S", bound=Struct)


class ReceiptRefused(CohortiumError):
    """A receipt, or what is to open its commitment, that does not hold. The text says why."""


class ReleasedStatistic(Struct, frozen=True):
    """A statistic by its names. Its bins, and where a fit stood, are in the study alone: the latter tell of earlier results."""

    kind: Word
    variable: Word
    others: Annotated[tuple[Word, ...], Meta(max_length=MAX_OTHERS)]
    by: Word
    id: Word

    @classmethod
    def of(cls, statistic: Statistic) -> ReleasedStatistic:
        """The names of `statistic`."""
        return cls(statistic.kind, statistic.variable, statistic.others, statistic.by, statistic.id)


class Terms(Struct, frozen=True):
    """What was released, to whom and by which rules: as the study said."""

    publish: Word
    """"hospital", or "members" too."""
    statistics: Annotated[tuple[ReleasedStatistic, ...], Meta(max_length=MAX_PARTS)]
    release: Release
    privacy: Privacy | None

    @classmethod
    def of(cls, study: Study) -> Terms:
        """Those of `study`."""
        return cls(study.publish, tuple(map(ReleasedStatistic.of, study.statistics)), study.release, study.privacy)


class ReceiptStatement(Struct, frozen=True):
    """What the hospital says of a round that has a result, signed."""

    version: Annotated[int, Meta(ge=1, le=255)]
    """Of the protocol, in this round."""
    round: RoundId
    context: Digest
    study: Digest
    """SHA-256 of the study, as in every Consent."""
    study_id: Word
    terms: Terms
    commitment: Digest
    """HMAC-SHA256(key, result)."""
    opened: Time
    released: Time
    """When the hospital had the result, by its clock."""
    deadline: Time


class SignedReceipt(Struct, frozen=True):
    """The receipt with all that it takes to check it."""

    roster: bytes
    """The payload of the Roster."""
    statement: Signed
    """A ReceiptStatement, for the purpose "receipt-statement"."""
    countersignatures: Annotated[tuple[Annotated[bytes, Meta(max_length=SIGNATURE_BYTES)], ...], Meta(max_length=MAX_MEMBERS)]
    """The signature of each member's Countersignature, in roster order; empty where there is none."""

    @property
    def digest(self) -> bytes:
        """What members countersign, and what people call the receipt by."""
        return tagged_digest(RECEIPT_STATEMENT, self.statement.body)

    def countersigned(self, place: int, signature: bytes) -> SignedReceipt:
        """With the countersignature of the member at that place of the roster."""
        every = list(self.countersignatures)
        every[place] = signature
        return SignedReceipt(self.roster, self.statement, tuple(every))


class DisclosedResult(Struct, frozen=True):
    """What opens the commitment of a receipt."""

    result: bytes
    """The encoded `mpc.result.Result`."""
    key: Annotated[bytes, Meta(min_length=COMMITMENT_KEY_BYTES, max_length=COMMITMENT_KEY_BYTES)]


# -- in a round


def write_statement(question: Question, version: int, context: bytes, commitment: bytes, released: float) -> ReceiptStatement:
    """What there is to say of a round. Only the commitment and the time are the hospital's to know.

    `released` is Unix seconds; a clock that was put back in between does not make a round end before it began.
    """
    invitation, study = question.invitation, question.study
    opened = invitation.answer_by - study.answer_within
    return ReceiptStatement(
        version=version,
        round=invitation.round,
        context=context,
        study=sha256(invitation.study),
        study_id=study.id,
        terms=Terms.of(study),
        commitment=commitment,
        opened=opened,
        released=max(opened, int(released)),
        deadline=invitation.deadline,
    )


def is_true(statement: ReceiptStatement, question: Question, version: int, context: bytes) -> bool:
    """Whether a member of the round finds in it what it knows. Its own consent is in the context."""
    expected = write_statement(question, version, context, statement.commitment, statement.released)
    return statement == expected and _in_time(statement)


def _in_time(statement: ReceiptStatement) -> bool:
    return statement.opened <= statement.released <= statement.deadline + RECEIPT_GRACE


# -- as a file


def write_receipt(receipt: SignedReceipt) -> bytes:
    """The file: base 64 between two lines, in the one form that `read_receipt` takes."""
    return _armour(b"RECEIPT", receipt)


def read_receipt(raw: bytes) -> SignedReceipt:
    """The receipt in a file, not checked. Raises ReceiptRefused."""
    return _open_armour(raw, b"RECEIPT", SignedReceipt)


def write_result(result: DisclosedResult) -> bytes:
    """The same for what opens a commitment."""
    return _armour(b"RESULT", result)


def read_result(raw: bytes) -> DisclosedResult:
    """What opens a commitment, not checked. Raises ReceiptRefused."""
    return _open_armour(raw, b"RESULT", DisclosedResult)


def _armour(what: bytes, content: Struct) -> bytes:
    text = base64.b64encode(encode(content))
    lines = [text[at : at + _LINE] for at in range(0, len(text), _LINE)]
    return b"\n".join([b"-----BEGIN COHORTIUM %s-----" % what, *lines, b"-----END COHORTIUM %s-----" % what, b""])


def _open_armour(raw: bytes, what: bytes, kind: type[S]) -> S:
    _, *lines = raw.split(b"\n")
    try:
        content = decode(base64.b64decode(b"".join(lines[:-2]), validate=True), kind)
    except (binascii.Error, MessageRefused) as error:
        raise ReceiptRefused(f"it is no {what.decode().lower()} of this program, or it was changed or cut off") from error
    if _armour(what, content) != raw:  # line ends, base 64 and the lines around it have forms that mean the same
        raise ReceiptRefused("it is not in the one form that these files have: somebody, or a program that copied it, changed it")
    return content


# -- checking


@dataclass(frozen=True, slots=True)
class CheckedMember:
    """A member of the round."""

    credential: Credential
    chain: tuple[bytes, ...]
    consent: Consent
    countersigned: bool


@dataclass(frozen=True, slots=True)
class CheckedReceipt:
    """A receipt that holds."""

    digest: bytes
    statement: ReceiptStatement
    hospital: Credential
    hospital_chain: tuple[bytes, ...]
    members: tuple[CheckedMember, ...]
    """In roster order, one at least."""

    @property
    def purpose(self) -> str:
        """What all consented to, in the study's words."""
        return self.members[0].consent.purpose


def check_receipt(receipt: SignedReceipt, trust: Trust) -> CheckedReceipt:
    """Checks every signature, and every certificate at the round's time. Raises ReceiptRefused with the first fault."""
    roster = _decode(receipt.roster, Roster, "its list of members")
    statement = _decode(receipt.statement.body, ReceiptStatement, "what the hospital signed")
    if context_of(receipt.roster) != statement.context:
        raise ReceiptRefused("its context is not that of its members: one of the two was changed")
    if not _in_time(statement):
        raise ReceiptRefused("its times contradict each other")
    hospital = _credential(roster.hospital_chain, Role.HOSPITAL, statement, trust)
    if not verify_digest(hospital.public_key, receipt.statement.signature, receipt.digest):
        raise ReceiptRefused(f"{hospital.identity} did not sign it")
    if not len(receipt.countersignatures) == len(roster.members) > 0:
        raise ReceiptRefused("it has not one place for a countersignature of each member")
    signed = tagged_digest(COUNTERSIGNATURE_STATEMENT, encode(Countersignature(receipt.digest)))
    members = tuple(
        _member(member, signature, signed, roster.invitation, hospital, statement, trust)
        for member, signature in zip(roster.members, receipt.countersignatures, strict=True)
    )
    names = [member.credential.identity.uri for member in members]
    keys = {member.credential.public_key.public_numbers() for member in members}
    if names != sorted(set(names)) or len(keys) != len(members):
        raise ReceiptRefused("a member is in it twice, or out of order")
    if {member.consent.purpose for member in members} != {members[0].consent.purpose}:
        raise ReceiptRefused("its members consented to different purposes")
    if min(member.consent.version for member in members) != statement.version:
        raise ReceiptRefused("its protocol version is not the one that its members agreed on")
    return CheckedReceipt(receipt.digest, statement, hospital, roster.hospital_chain, members)


def check_result(checked: CheckedReceipt, disclosed: DisclosedResult) -> Result:
    """The result that the hospital committed itself to. Raises ReceiptRefused for another."""
    if not hmac.compare_digest(commitment(disclosed.key, disclosed.result), checked.statement.commitment):
        raise ReceiptRefused("the result is not the one that the receipt commits the hospital to")
    result = _decode(disclosed.result, Result, "the result")
    if (result.context, result.members) != (checked.statement.context, len(checked.members)):
        raise ReceiptRefused("the hospital committed itself to a result that is not of this round")
    return result


def _member(
    member: Member,
    signature: bytes,
    signed: bytes,
    invitation: bytes,
    hospital: Credential,
    statement: ReceiptStatement,
    trust: Trust,
) -> CheckedMember:
    """A line of the roster; `signed` is the digest that a countersignature signs."""
    credential = _credential(member.chain, Role.PATIENT, statement, trust)
    who = credential.identity
    if who.consortium != hospital.identity.consortium:
        raise ReceiptRefused(f"{who} is not of the hospital's consortium")
    if not verify_digest(credential.public_key, member.consent.signature, tagged_digest(CONSENT_STATEMENT, member.consent.body)):
        raise ReceiptRefused(f"{who} did not sign the consent in it")
    consent = _decode(member.consent.body, Consent, f"the consent of {who}")
    if (consent.invitation, consent.hospital, consent.study) != (invitation, hospital.identity.uri, statement.study):
        raise ReceiptRefused(f"the consent of {who} is to something else")
    if consent.expires < statement.deadline:
        raise ReceiptRefused(f"the consent of {who} had expired")
    if signature and not verify_digest(credential.public_key, signature, signed):
        raise ReceiptRefused(f"{who} did not countersign it")
    return CheckedMember(credential, member.chain, consent, bool(signature))


def _credential(chain: tuple[bytes, ...], role: Role, statement: ReceiptStatement, trust: Trust) -> Credential:
    try:
        credential = trust.verify(chain, statement.released)
    except IdentityError as error:
        raise ReceiptRefused(f"at the round's time {error}") from error
    if credential.identity.role is not role:
        raise ReceiptRefused(f"{credential.identity} stands where a {role} must")
    return credential


def _decode(raw: bytes, kind: type[S], what: str) -> S:
    try:
        return decode(raw, kind)
    except MessageRefused as error:
        raise ReceiptRefused(f"{what} cannot be read") from error
