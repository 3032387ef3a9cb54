"""What a patient refuses, blind to its value (protocol.md, "What a patient defends").

A decision is made from the study, the patient's policy and its ledger; no function here can be given a value. A reason is
for the patient's own ledger: on the wire every refusal is `declined`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from mpc.errors import StudyError
from mpc.identity import Credential, Identity
from mpc.messages import NEWEST_VERSION, OLDEST_VERSION, Invitation
from mpc.statistics import plan
from mpc.study import CATEGORY, INTEGER, MINIMUM_COHORT, Study, Variable

ENCODING = "statistics/1"
"""How values become segments in this version."""

RATE_WINDOW = 60.0
"""Seconds over which invitations are counted."""

_MAX_REASON = 1000
"""Characters: a study that came may be wrong in a thousand places."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a patient declares of a source of numbers, whatever studies say: every value lies in [minimum, maximum]."""

    minimum: int | Fraction
    maximum: int | Fraction
    """In the source's unit."""
    whole: bool = True
    """Every value is a whole number."""

    def __str__(self) -> str:
        return f"[{', '.join(str(int(end)) if end == int(end) else str(float(end)) for end in (self.minimum, self.maximum))}]"


@dataclass(frozen=True, slots=True)
class Categories:
    """What a patient declares of a source of categories: every value is one of these."""

    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class Policy:
    """The patient's own rules."""

    hospital: Identity
    sources: Mapping[str, Bounds | Categories]
    studies: tuple[str, ...] = ("*",)
    """Patterns of study ids that are answered at all."""
    floor: int = MINIMUM_COHORT
    """The fewest vouched members, this patient among them, over whom it shares."""
    vouched_members: frozenset[Identity] = frozenset()
    """Members that this patient knows to be real."""
    vouched_authorities: frozenset[bytes] = frozenset()
    """SHA-256 of the root certificates of authorities that it trusts to certify none but real members."""
    max_length: int = 2_000_000
    max_members: int = 1000
    records: int = 1
    """The most records that its sources ever hold."""
    statistics: tuple[str, ...] = ("*",)
    """Patterns of the kinds of statistics that it takes part in."""
    max_open_rounds: int = 16
    max_seconds: int = 7 * 24 * 3600
    """How far in the future a round's deadline may lie: until then it holds keys and one of the open rounds."""
    invitations_per_minute: int = 60

    def vouches_for(self, member: Credential) -> bool:
        """Whether `member` counts towards the floor."""
        return member.identity in self.vouched_members or member.authority in self.vouched_authorities


class Ledger(Protocol):
    """What a patient remembers of earlier invitations. The long-lived ledger has this face too."""

    def open_rounds(self) -> int:
        """Rounds that this patient takes part in now."""
        ...

    def invitations_since(self, time: float) -> int:
        """Invitations decided on since `time` (Unix seconds)."""
        ...


def refuse_invitation(policy: Policy, ledger: Ledger, me: Identity, invitation: Invitation, study: Study, now: float) -> str:
    """Why this patient declines, in words for its own ledger; empty when it consents."""
    if not (invitation.version_min <= NEWEST_VERSION and invitation.version_max >= OLDEST_VERSION):
        return (
            f"the round needs protocol version {invitation.version_min} to {invitation.version_max}, "
            f"this node speaks {OLDEST_VERSION} to {NEWEST_VERSION}"
        )
    if not any(fnmatch.fnmatchcase(study.id, pattern) for pattern in policy.studies):
        return f"the policy answers no study called {study.id}"
    if not now < invitation.answer_by < invitation.ready_by < invitation.deadline:
        return "its deadlines are over or out of order; if the hospital's clock is right, this machine's is not"
    if invitation.deadline - now > policy.max_seconds:
        return f"its deadline is more than {policy.max_seconds} s away"
    if ledger.open_rounds() >= policy.max_open_rounds:
        return f"{policy.max_open_rounds} rounds are open already"
    if ledger.invitations_since(now - RATE_WINDOW) >= policy.invitations_per_minute:
        return f"more than {policy.invitations_per_minute} invitations in a minute"
    return _refuse_study(policy, me, invitation, study)[:_MAX_REASON]


def _refuse_study(policy: Policy, me: Identity, invitation: Invitation, study: Study) -> str:
    if invitation.encoding != ENCODING:
        return f"the encoding {invitation.encoding!r} is not known here"
    try:
        segments = plan(study)
    except StudyError as error:
        return str(error)
    if [(segment.modulus, segment.length) for segment in segments] != [(s.modulus, s.length) for s in invitation.segments]:
        return "its rings are not the ones that its study asks for"
    if invitation.floor != study.minimum or invitation.floor < policy.floor:
        return f"it runs over as few as {invitation.floor} members, the policy's floor is {policy.floor}"
    if me.uri not in study.members:
        return "its study does not name this patient"
    if len(study.members) > policy.max_members:
        return f"it names {len(study.members)} members, the policy allows {policy.max_members}"
    if sum(segment.length for segment in segments) > policy.max_length:
        return f"it asks for more than {policy.max_length} numbers"
    for kind in (statistic.kind for statistic in study.statistics):
        if not any(fnmatch.fnmatchcase(kind, pattern) for pattern in policy.statistics):
            return f"it asks for the statistic {kind}, the policy allows {', '.join(policy.statistics)}"
    # Otherwise studies of ever fewer records would read their number by which of them fail; and so on, for all that follows.
    if study.records < policy.records:
        return f"it takes {study.records} records of a node, the policy declares up to {policy.records}"
    for variable in study.variables:
        source = policy.sources.get(variable.name)
        if source is None:
            return f"there is no source for the variable {variable.name!r}"
        reason = refuse_variable(variable, source)
        if reason:
            return reason
    return ""


def refuse_variable(variable: Variable, source: Bounds | Categories) -> str:
    """Why the study's words for a variable do not cover all that the source may ever hold; empty when they do."""
    name = variable.name
    if isinstance(source, Categories):
        if variable.type != CATEGORY:
            return f"{name} is a number in the study, the source has categories"
        surplus = source.names - {*variable.categories}
        return f"its categories of {name} lack the declared {', '.join(sorted(surplus))} of the source" if surplus else ""
    if variable.type == CATEGORY:
        return f"{name} is a category in the study, the source has numbers"
    if variable.type == INTEGER and not source.whole:
        return f"{name} is a whole number in the study, the source has fractions"
    if not variable.minimum <= source.minimum * variable.scale <= source.maximum * variable.scale <= variable.maximum:
        return f"its bounds for {name} do not contain the declared {source} of the source"
    return ""


def refuse_roster(policy: Policy, me: Identity, floor: int, members: tuple[Credential, ...]) -> str:
    """Why this patient shares nothing with this roster, in words for its own ledger; empty when it shares."""
    vouched = sum(member.identity == me or policy.vouches_for(member) for member in members)
    if vouched < policy.floor:
        return f"{vouched} of its {len(members)} members are vouched for, the policy's floor is {policy.floor}"
    if len(members) < floor:
        return f"it has {len(members)} members, the invitation promised at least {floor}"
    return ""
