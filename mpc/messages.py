"""Every message of a round as a typed struct, and for each kind who may send it to whom and what it is bound to.

docs/protocol.md shows each field's bytes. Digests and nonces are 32 bytes, round ids 16; times are Unix seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import cached_property
from typing import Annotated

from msgspec import Meta

from mpc.identity import Role
from mpc.statement import Signed
from mpc.study import MAX_MEMBERS
from mpc.wire import Struct

OLDEST_VERSION = 1
"""What every message is written in until the members of its round have said what they speak."""
NEWEST_VERSION = 1
"""A node speaks this version and the one before it, so that nodes can be upgraded one after the other."""

CONSENT_STATEMENT = "consent-statement"
READY_STATEMENT = "ready-statement"
"""Purposes in the tags of the signatures that members show each other; an envelope's tag is its kind's own."""

Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
RoundId = Annotated[bytes, Meta(min_length=16, max_length=16)]
RoundKey = Annotated[bytes, Meta(min_length=32, max_length=32)]
Chain = Annotated[tuple[bytes, ...], Meta(min_length=1, max_length=3)]
Missing = Annotated[tuple[Annotated[str, Meta(max_length=63)], ...], Meta(max_length=MAX_MEMBERS)]
Time = Annotated[int, Meta(ge=0, le=2**53)]


class Kind(IntEnum):
    """The kind of a message, as the header carries it."""

    INVITATION = 1
    CONSENT = 2
    DECLINED = 3
    ROSTER = 4
    SHARE = 5
    READY = 6
    COLLECT = 7
    PARTIAL_SUM = 8
    RECEIPT = 9
    ABORT = 10

    @cached_property
    def purpose(self) -> str:
        """The word in the tag of its signature."""
        return self.name.lower().replace("_", "-")


class AbortCode(StrEnum):
    """Why a round ended without a result."""

    TOO_FEW = "too-few-members"
    """Not enough patients consented in time."""
    MISSING = "member-missing"
    """A member that consented went silent; the names are in `missing`."""
    UNAVAILABLE = "unavailable"
    """A member's value is missing or outside its bounds. Nothing more is said."""
    ROSTER = "roster-refused"
    """A member found the roster to differ from what it had consented to."""
    COLLECT = "collect-refused"
    """A member found the proofs of readiness incomplete or wrong."""
    EQUIVOCATION = "equivocation"
    """A node sent two different messages where there is one."""
    TRANSCRIPT = "transcript-mismatch"
    """What one member sent is not what another received."""
    OUT_OF_RANGE = "out-of-range"
    """The total is not one that honest members can produce; nothing is released."""
    UNDELIVERABLE = "undeliverable"
    """A member finally refuses a message that the round needs."""
    REVOKED = "member-revoked"
    """A member's certificate, or the hospital's, was revoked while the round was open."""
    CANCELLED = "cancelled"
    """A person at the hospital ended the round."""


class SegmentShape(Struct, frozen=True):
    """One segment's ring and length."""

    modulus: Annotated[int, Meta(ge=2)]
    length: Annotated[int, Meta(ge=1)]


class Invitation(Struct, frozen=True):
    """hospital -> patient: the question, word for word the same to all."""

    version_min: int
    version_max: int
    round: RoundId
    nonce: Digest
    hospital: str
    study: bytes
    """The encoded `mpc.study.Study`."""
    encoding: str
    """How values become segments: "statistics/1"."""
    segments: tuple[SegmentShape, ...]
    floor: int
    """The fewest members over whom the round runs."""
    answer_by: Time
    ready_by: Time
    deadline: Time
    key_statement: Signed
    round_key: RoundKey


class Consent(Struct, frozen=True):
    """patient -> hospital, signed: what a patient agrees to. It binds the Invitation: two invitations never share a roster."""

    invitation: Digest
    hospital: str
    nonce: Digest
    endpoint: str
    """The https URL under which the other members reach this one."""
    version: Annotated[int, Meta(ge=1, le=255)]
    """The newest protocol version that it speaks of those that the Invitation offers; a round speaks the least of them."""
    key_statement: Signed
    round_key: RoundKey
    expires: Time


class Declined(Struct, frozen=True):
    """patient -> hospital: no reason, ever."""

    invitation: Digest


class Member(Struct, frozen=True):
    """One line of a roster: the certificate chain, and the Consent with key statement and round key."""

    chain: Chain
    consent: Signed


class Roster(Struct, frozen=True):
    """hospital -> patient: who takes part, sorted by identity; one a round, ever. The context is made of these bytes."""

    invitation: Digest
    hospital_chain: Chain
    members: tuple[Member, ...]


class Share(Struct, frozen=True):
    """patient -> patient: the seed that expands to the sender's share for the recipient."""

    seed: Annotated[bytes, Meta(min_length=32, max_length=32)]


class Ready(Struct, frozen=True):
    """patient -> hospital, signed: it holds a valid Share from every other member."""

    context: Digest


class Collect(Struct, frozen=True):
    """hospital -> patient: every member is ready; the signatures stand in roster order."""

    ready: tuple[Signed, ...]


class PartialSum(Struct, frozen=True):
    """patient -> hospital: the sum of the shares it holds; digests of the Share envelopes, other members in roster order."""

    segments: tuple[bytes, ...]
    sent: tuple[Digest, ...]
    received: tuple[Digest, ...]


class Receipt(Struct, frozen=True):
    """hospital -> patient: the round has a result. `result` and `key` are empty unless the study publishes to members."""

    context: Digest
    commitment: Digest
    """HMAC-SHA256(key, result)."""
    result: bytes
    key: Annotated[bytes, Meta(max_length=32)]


class Abort(Struct, frozen=True):
    """any -> hospital, hospital -> all: the round ends. `missing` is the sender's claim, not a proof."""

    context: Annotated[bytes, Meta(max_length=32)]
    """Of the roster that the sender knows; empty before there is one."""
    code: AbortCode
    phase: Annotated[str, Meta(max_length=32)]
    missing: Missing


class Binding(StrEnum):
    """What the header's `context` holds."""

    ITSELF = "itself"
    """SHA-256 of the payload: an Invitation, which everything else is bound to."""
    INVITATION = "invitation"
    """SHA-256 of the Invitation: until there is a roster, and for Abort, which may come before or after it."""
    ROSTER = "roster"
    """SHA-256("cohortium/v1/context" ‖ roster)."""


@dataclass(frozen=True, slots=True)
class KindRule:
    """The wire's rules for one kind."""

    payload: type[Struct]
    senders: frozenset[Role]
    recipients: frozenset[Role]
    binding: Binding
    sealed: bool = True
    """Always. An Invitation need not be: it holds a question, and nobody's round key is known; straight over TLS it goes bare."""
    introduces: bool = False
    """Carries the signer's certificate chain, because the recipient may not know it yet."""


_HOSPITAL = frozenset({Role.HOSPITAL})
_PATIENT = frozenset({Role.PATIENT})

RULES: dict[Kind, KindRule] = {
    Kind.INVITATION: KindRule(Invitation, _HOSPITAL, _PATIENT, Binding.ITSELF, sealed=False, introduces=True),
    Kind.CONSENT: KindRule(Signed, _PATIENT, _HOSPITAL, Binding.INVITATION, introduces=True),
    Kind.DECLINED: KindRule(Declined, _PATIENT, _HOSPITAL, Binding.INVITATION, introduces=True),
    Kind.ROSTER: KindRule(Roster, _HOSPITAL, _PATIENT, Binding.INVITATION),
    Kind.SHARE: KindRule(Share, _PATIENT, _PATIENT, Binding.ROSTER),
    Kind.READY: KindRule(Signed, _PATIENT, _HOSPITAL, Binding.ROSTER),
    Kind.COLLECT: KindRule(Collect, _HOSPITAL, _PATIENT, Binding.ROSTER),
    Kind.PARTIAL_SUM: KindRule(PartialSum, _PATIENT, _HOSPITAL, Binding.ROSTER),
    Kind.RECEIPT: KindRule(Receipt, _HOSPITAL, _PATIENT, Binding.ROSTER),
    Kind.ABORT: KindRule(Abort, _HOSPITAL | _PATIENT, _HOSPITAL | _PATIENT, Binding.INVITATION),
}
