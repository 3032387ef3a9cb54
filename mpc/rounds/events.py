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


@dataclass(frozen=True, slots=True)
class ValuesUnavailable:
    """The patient's source could not give them: missing, not an integer, out of bounds."""


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
class Decided:
    """The patient's decision on an invitation, for its own ledger. `reason` is empty for a consent and never leaves the node."""

    study: str
    hospital: Identity
    reason: str


@dataclass(frozen=True, slots=True)
class Submitted:
    """The PartialSum exists: from the commit of this transition the round counts for guards and budgets."""

    study: str
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
class Ended:
    """Nothing more happens in this round; its secrets are forgotten. `code` is empty when all went well."""

    outcome: str
    """"released", "aborted" or "declined"."""
    code: str = ""
    phase: str = ""
    missing: tuple[str, ...] = ()
    detail: str = ""
    """A sentence for the people at this node."""


Effect = Send | StopSending | Answered | ReadValues | WakeAt | Decided | Submitted | Progressed | Released | Ended

RELEASED = "released"
ABORTED = "aborted"
DECLINED = "declined"
