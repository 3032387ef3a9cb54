"""What noise costs: (epsilon, delta), the rho of zero-concentrated differential privacy, and the budget that rho is taken from.

A study that states epsilon and delta gets the largest rho with which rho-zCDP implies (epsilon, delta)-DP. Rounds add up: what
has been asked of a source is the sum of their rho (Bun and Steinke 2016, Lemma 1.7), whatever each of them asked. rho is a whole
number of 10^-12 here, so that a ledger adds up exactly and every node computes the same noise for the same study.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context, Decimal, localcontext
from functools import lru_cache
from typing import Final

from mpc.study import MEMBER, MILLION, RECORD, TINY, Privacy, Study

RHO: Final = 10**12
"""rho is in parts of this."""

# Decimals are rounded alike on every machine, in exp and ln too; floats are not.
_EXACT = Context(prec=34)
_FIRST, _LAST = Decimal(-12), Decimal(60)  # of ln(alpha - 1)
_STEPS = 160
_GOLDEN = Decimal("0.618033988749894848204586834365638")


@lru_cache(maxsize=256)
def rho_of(epsilon: int, delta: int) -> int:
    """The rho that a promise of epsilon (in millionths) and delta (in parts of TINY) allows, in parts of RHO, rounded down.

    rho-zCDP implies (epsilon, delta)-DP when for any one alpha > 1

        delta >= exp((alpha - 1)(alpha rho - epsilon)) / (alpha - 1) * (1 - 1/alpha)^alpha

    (Canonne, Kamath and Steinke 2020, section 2.3). Solved for rho, and the best alpha searched: whichever is
    found, the promise holds. 0 when epsilon is too small for any, or delta is no probability.
    """
    if not 0 < delta < TINY:
        return 0
    with localcontext(_EXACT):
        promised = Decimal(epsilon) / MILLION

        def rho(log: Decimal) -> Decimal:
            room, beyond = _room(delta, log)
            return (promised + room / beyond) / (1 + beyond)

        # The last digits of logarithms are rounded to nearest: far less than the one part of RHO that is left out for it.
        return max(0, int((rho(_highest(rho)) * RHO).to_integral_value(ROUND_FLOOR)) - 1)


def epsilon_of(rho: int, delta: int) -> float:
    """The epsilon that `rho` (in parts of RHO) promises at `delta` (in parts of TINY): what a budget comes to, for people."""
    if not rho:
        return 0.0
    with localcontext(_EXACT):

        def negated(log: Decimal) -> Decimal:
            room, beyond = _room(delta, log)
            return room / beyond - (1 + beyond) * rho / RHO

        return max(0.0, -float(negated(_highest(negated))))


def _room(delta: int, log: Decimal) -> tuple[Decimal, Decimal]:
    """(alpha - 1)(alpha rho - epsilon) may be the first of these; the second is alpha - 1, of which `log` is the logarithm."""
    beyond = log.exp()
    alpha = 1 + beyond
    return (Decimal(delta) / TINY).ln() + log - alpha * (beyond / alpha).ln(), beyond


def _highest(function: Callable[[Decimal], Decimal]) -> Decimal:
    """Where a function that rises and then falls is highest, by golden sections."""
    low, high = _FIRST, _LAST
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(_STEPS):
        if at_left < at_right:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = function(right)
        else:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = function(left)
    return left if at_left > at_right else right


def in_words(promise: Privacy | None) -> str:
    """What noise promises, in a sentence; empty without noise."""
    if promise is None:
        return ""
    return (
        f"epsilon {promise.epsilon / MILLION:g}, delta {promise.delta / TINY:g} for each {promise.per}, "
        f"with up to {promise.colluding} of the members on the hospital's side"
    )


@dataclass(frozen=True, slots=True)
class Budget:
    """What a patient lets all studies together learn from a source in one period."""

    rho: int
    """In parts of RHO."""
    per: str = MEMBER
    """Of what: of each "record", or of all that this "member" holds."""
    records: int = 1
    """The most records that the source holds, as the policy declares."""

    @classmethod
    def of(cls, epsilon: int, delta: int, per: str = MEMBER, records: int = 1) -> Budget:
        """One that promises epsilon (in millionths) at delta (in parts of TINY)."""
        return cls(rho_of(epsilon, delta), per, records)

    def left(self, spent: int) -> int:
        """What remains after `spent`, not below 0."""
        return max(0, self.rho - spent)


def cost(study: Study, budget: Budget, vouched: int | None = None) -> int | None:
    """What a round of the study takes from such a budget, in parts of RHO, rounded up; None: no budget pays for it.

    A study without noise costs more than any budget. `vouched` are the members of the roster that the patient takes for
    real, itself among them; None: the fewest that the study runs with. Those beyond `colluding` add the noise that counts: fewer
    of them than the study reckons with cost more, more of them less.
    """
    promise = study.privacy
    if promise is None:
        return None
    reckoned = study.minimum - promise.colluding
    honest = reckoned if vouched is None else vouched - promise.colluding
    rho = rho_of(promise.epsilon, promise.delta)
    if min(honest, reckoned) < 1 or not rho:
        return None
    rho *= reckoned
    divisor = honest
    # All records of a member moving together move a total by as many times as much: rho goes with the square of that.
    if promise.per == RECORD and budget.per == MEMBER:
        rho *= min(study.records, budget.records) ** 2
    elif promise.per == MEMBER and budget.per == RECORD:
        divisor *= study.records**2
    return -(-rho // divisor)


def refuse_cost(study: Study, budget: Budget, spent: int, vouched: int | None = None) -> str:
    """Why a source from which `spent` is taken already does not take part, in words for the ledger; empty when it does.

    Asked at the roster, and again at the commit of the PartialSum, which is when the cost is charged.
    """
    price = cost(study, budget, vouched)
    if price is None:
        return "it adds no noise that this patient can count on, and the policy has a privacy budget"
    if spent + price > budget.rho:
        return (
            f"it costs a rho of {price / RHO:.3g} a {budget.per}, of the privacy budget of {budget.rho / RHO:.3g} "
            f"there is {budget.left(spent) / RHO:.3g} left in this period"
        )
    return ""
