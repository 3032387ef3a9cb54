"""What a patient's past forbids: rosters whose totals tell a member apart, and one question too many.

No test on pairs of rosters is sound: of four rosters, each two of which look safe, the totals can isolate one member. So by
default a source, which is the patient's own field whatever studies call it, is *bound* to the first roster for which this patient
commits a PartialSum, and goes into no other until its period ends or a person releases it. `pairwise` only stops mistakes;
`privacy-budget` relies on the noise alone (protocol.md, "What a patient defends").

Everything here is asked at the roster and once more in the transaction that commits the PartialSum, so that of two rounds under
way at the same time the second sees the first. A round counts from that transaction on, whatever is said of it later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mpc.disclosure import BOUND, PAIRWISE, PRIVACY_BUDGET, Contribution, Ledger, Policy
from mpc.errors import few
from mpc.identity import Identity
from mpc.privacy import cost, refuse_cost
from mpc.study import Study


@dataclass(frozen=True, slots=True)
class Cohort:
    """Over whom a round runs, as its roster says."""

    members: frozenset[str]
    """Identity URIs."""
    vouched: frozenset[str]
    """Those that this patient's policy vouches for, itself among them."""
    burnt: Mapping[bytes, frozenset[str]] = field(default_factory=dict)
    """By context: who signed that it made no PartialSum for it."""


def refuse_early(policy: Policy, ledger: Ledger, study: Study, now: float) -> str:
    """Why no roster of this study can be taken, as far as an Invitation shows; empty when one may be."""
    invited = frozenset(study.members)
    for source in policy.sources_of(study):
        past = live(ledger, source, now)
        reason = _forgotten(policy, ledger, source, now) or _spent(policy, source, past, study)
        if not reason and policy.guard == BOUND and past and past[-1].released and not past[-1].members <= invited:
            reason = _bound_to(source, past[-1], now) + ", of whom it does not ask all"
        if reason:
            return reason
    return ""


def refuse_contribution(policy: Policy, ledger: Ledger, study: Study, cohort: Cohort, now: float) -> str:
    """Why this patient contributes nothing over this cohort, in words for its own ledger; empty when it does."""
    for source in policy.sources_of(study):
        past = live(ledger, source, now)
        reason = _forgotten(policy, ledger, source, now) or _spent(policy, source, past, study, len(cohort.vouched))
        if not reason and policy.guard == BOUND:
            reason = _differs(source, past, cohort, now)
        if not reason and policy.guard == PAIRWISE:
            reason = _isolates(policy, source, past, cohort)
        if reason:
            return reason
    return ""


def charge(policy: Policy, study: Study, vouched: int) -> int:
    """What a round of the study takes from the budget of each of its sources, in parts of RHO; 0 where there is none."""
    return (cost(study, policy.budget, vouched) or 0) if policy.budget is not None else 0


def keeps_values(policy: Policy) -> bool:
    """Whether a source's values are used again within its period. Where noise alone protects, they need not be."""
    return policy.guard != PRIVACY_BUDGET


def live(ledger: Ledger, source: str, now: float) -> list[Contribution]:
    """The contributions of the source's period, oldest first; none when it has ended."""
    return [one for one in ledger.contributions(source) if one.until > now]


def period_end(policy: Policy, ledger: Ledger, source: str, now: float) -> float:
    """When the period ends in which a contribution now lies: the one under way, or one that begins."""
    past = live(ledger, source, now)
    return past[0].until if past else now + policy.period


def _forgotten(policy: Policy, ledger: Ledger, source: str, now: float) -> str:
    until = ledger.forgot(source) + policy.period
    if until <= now:
        return ""
    return (
        f"this node was restored from an older copy, which may lack what {source} went into; that counts for another "
        f"{_hours(until - now)}, or until a person releases {source}"
    )


def _spent(policy: Policy, source: str, past: Sequence[Contribution], study: Study, vouched: int | None = None) -> str:
    if len(past) >= policy.rounds_per_period:
        return f"{source} went into {len(past)} rounds in its period already, the policy allows {policy.rounds_per_period}"
    if policy.budget is None:
        return f"{source} has no privacy budget, which alone protects it" if policy.guard == PRIVACY_BUDGET else ""
    reason = refuse_cost(study, policy.budget, sum(one.rho for one in past), vouched)
    return f"{source}: {reason}" if reason else ""


def _differs(source: str, past: Sequence[Contribution], cohort: Cohort, now: float) -> str:
    """`bound`. The binding is the roster committed last: an earlier one has yielded to it."""
    if not past or past[-1].members == cohort.members:
        return ""
    binding = past[-1].members
    if _yields([one for one in past if one.members == binding], cohort):
        return ""
    less, more = binding - cohort.members, cohort.members - binding
    changes = [f"lacks {_names(less)}"] * bool(less) + [f"has {_names(more)} besides"] * bool(more)
    return f"{_bound_to(source, past[-1], now)}, and this one {' and '.join(changes)}"


def _yields(binding: Sequence[Contribution], cohort: Cohort) -> bool:
    """A roster that was never released yields to itself less exactly those whose Burnt the new one carries.

    Either one of these is honest: then the old roster has no total. Or none is: then what the totals differ by is their own.
    It must hold of every round over that roster.
    """
    members = binding[0].members
    gone = members - cohort.members
    return (
        cohort.members < members
        and not any(one.released for one in binding)
        and all(cohort.burnt.get(one.context, frozenset()) & members == gone for one in binding)
    )


def _isolates(policy: Policy, source: str, past: Sequence[Contribution], cohort: Cohort) -> str:
    """`pairwise`: only vouched members count in what two rosters differ by, as they do in the floor."""
    for one in past:
        if one.members == cohort.members or _yields([one], cohort):
            continue
        for part, vouched in (
            (one.members - cohort.members, one.vouched - cohort.members),
            (cohort.members - one.members, cohort.vouched - one.members),
        ):
            if part and len(vouched) < policy.floor:
                return (
                    f"a roster that {source} went into before differs from this one by {_names(part)}, {len(vouched)} of them "
                    f"vouched for; the policy's floor is {policy.floor}"
                )
    return ""


def _bound_to(source: str, binding: Contribution, now: float) -> str:
    return f"{source} is bound to a roster of {len(binding.members)} members for another {_hours(binding.until - now)}"


def _names(members: frozenset[str]) -> str:
    return few(sorted(Identity.parse(uri).name for uri in members), 5)


def _hours(seconds: float) -> str:
    return f"{math.ceil(seconds / 3600)} h"
