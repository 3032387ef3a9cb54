"""What can happen to a round, and what a round can ask its driver to do.

Events go in, effects come out; both are frozen. Nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mpc.errors import Answer
from mpc.identity import Identity
from mpc.keys import WrappingKey
from mpc.messages import Kind
from mpc.receipt import SignedReceipt
from mpc.result import Result
from mpc.rounds.admission import Admitted
from mpc.statistics.component import Values
from mpc.study import Study

# -- events


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A message whose signature holds arrived for this round."""

    message: Admitted = field(repr=False)


@dataclass(frozen=True, slots=True)
class Tick:
    """A time that the round asked to be woken at has come (or another; coming early is harmless)."""


@dataclass(frozen=True, slots=True)
class ValuesRead:
    """The patient's source gave the study's variables."""

    values: Mapping[str, Values] = field(repr=False)
    noise: tuple[int, ...] = field(default=(), repr=False)
    """What `mpc.statistics.draws` asks for, drawn for this round and for no other."""


@dataclass(frozen=True, slots=True)
class ValuesUnavailable:
    """The patient's source could not give them: missing, not an integer, out of bounds."""


@dataclass(frozen=True, slots=True)
class PersonDecided:
    """A person at the patient has answered what `Asked` asked."""

    approved: bool


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A person at the patient takes no part in this study any more."""


@dataclass(frozen=True, slots=True)
class OpenRound:
    """A person or a schedule at the hospital opens the round."""


@dataclass(frozen=True, slots=True)
class CancelRound:
    """A person at the hospital ends it."""


@dataclass(frozen=True, slots=True)
class Undeliverable:
    """The recipient gave a final answer other than `accepted`; the message will not be sent again."""

    recipient: Identity
    kind: Kind
    answer: Answer


@dataclass(frozen=True, slots=True)
class KeyPublished:
    """A patient behind a relay, of whom no key was known when the round opened, can be invited with this one."""

    key: WrappingKey


@dataclass(frozen=True, slots=True)
class PeersRevoked:
    """The certificates by which these nodes take part in the round are not believed any more."""

    nodes: tuple[Identity, ...]


Event = (
    MessageReceived
    | Tick
    | ValuesRead
    | ValuesUnavailable
    | PersonDecided
    | Withdrawn
    | OpenRound
    | CancelRound
    | Undeliverable
    | KeyPublished
    | PeersRevoked
)

# -- effects


@dataclass(frozen=True, slots=True)
class Send:
    """Deliver these bytes until the recipient answers for good, or until `until` (Unix seconds)."""

    recipient: Identity
    kind: Kind
    envelope: bytes = field(repr=False)
    endpoint: str
    """The https URL that the recipient announced; empty where the node's own configuration names it."""
    until: float


@dataclass(frozen=True, slots=True)
class StopSending:
    """Whatever this round still has to deliver from earlier transitions is void."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What the sender of the message that caused this transition is told."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class ReadValues:
    """Read the study's variables from the node's sources, then give ValuesRead or ValuesUnavailable."""

    study: Study


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Give Tick at this time (Unix seconds). A later WakeAt replaces an earlier one."""

    at: float


@dataclass(frozen=True, slots=True)
class Request:
    """What a hospital asks of a patient, for the patient's own ledger."""

    study: str
    hospital: Identity
    digest: bytes
    """SHA-256 of the encoded study, as a Consent names it."""
    purpose: str
    questions: tuple[str, ...]
    """See `mpc.disclosure.Policy.questions_of`; sorted. Empty for a study that is not well-formed."""


@dataclass(frozen=True, slots=True)
class Asked:
    """No rule refuses the request; a person is to decide by then, by PersonDecided."""

    request: Request
    until: float
    """Unix seconds."""
    deadline: float
    """Of the round: whoever approved in advance must have done so up to then."""


@dataclass(frozen=True, slots=True)
class Decided:
    """The patient's decision on a request, for its own ledger. `reason` is empty for a consent and never leaves the node."""

    request: Request
    reason: str
    by_person: bool = False
    """The request was Asked before."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """The PartialSum exists: from the commit of this transition the round counts for guards and budgets."""

    study: str
    context: bytes
    members: tuple[Identity, ...]
    vouched: frozenset[Identity]
    """Those of them that the policy vouches for."""
    sources: Mapping[str, float]
    """By source that went into it: when the source's period ends (Unix seconds)."""
    rho: int
    """What it takes from each source's privacy budget."""


@dataclass(frozen=True, slots=True)
class Unreleased:
    """At the hospital: partial sums were asked for over this roster, and there will be no total of them."""

    context: bytes
    members: tuple[Identity, ...]


@dataclass(frozen=True, slots=True)
class Progressed:
    """The round entered a phase, or waits for fewer members."""

    phase: str
    waiting_for: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Released:
    """The hospital has the result; `key` opens the commitment in the receipts."""

    result: Result = field(repr=False)
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Receipted:
    """The round's receipt, to be kept with its end: at a patient with its own countersignature, at the hospital with none yet."""

    receipt: SignedReceipt = field(repr=False)


@dataclass(frozen=True, slots=True)
class Countersigned:
    """A member has countersigned the receipt of a round that ended here."""

    member: Identity
    place: int
    """In the roster."""
    signature: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing more happens in this round; its secrets are forgotten. `code` is empty when all went well."""

    outcome: str
    """"released", "aborted" or "declined"."""
    code: str = ""
    phase: str = ""
    missing: tuple[str, ...] = ()
    detail: str = ""
    """A sentence for the people at this node."""


Effect = (
    Send
    | StopSending
    | Answered
    | ReadValues
    | WakeAt
    | Asked
    | Decided
    | Submitted
    | Unreleased
    | Progressed
    | Released
    | Receipted
    | Countersigned
    | Ended
)

RELEASED = "released"
ABORTED = "aborted"
DECLINED = "declined"
