"""What linear and logistic regression share: a coefficient a term, and the words for terms that cannot be told apart."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mpc.statistics.figures import Quantity, Table, absent

CONSTANT = "constant"
"""The name of the intercept's term."""


class Coefficient(msgspec.Struct, frozen=True, kw_only=True):
    """One term. A category has one for each of its categories but the first, named VARIABLE=CATEGORY."""

    term: str
    estimate: Quantity
    standard_error: Quantity
    statistic: Quantity
    """estimate / standard_error: Student's t, or Wald's z."""
    p: Quantity
    """Two-sided, for the estimate being 0."""
    low: Quantity
    """Of the confidence interval."""
    high: Quantity

    def __repr__(self) -> str:
        return "<Coefficient>"


def unknown(terms: Sequence[tuple[str, str]], reason: str) -> tuple[Coefficient, ...]:
    """Coefficients that cannot be computed; a term is its name and its coefficient's unit."""
    return tuple(
        Coefficient(
            term=name,
            estimate=absent(reason, unit),
            standard_error=absent(reason, unit),
            statistic=absent(reason),
            p=absent(reason),
            low=absent(reason, unit),
            high=absent(reason, unit),
        )
        for name, unit in terms
    )


def coefficients_table(name: str, coefficients: Sequence[Coefficient]) -> Table:
    """One row a term."""
    return Table(
        name=name,
        columns=("term", "estimate", "unit", "error", "standard_error", "statistic", "p", "low", "high", "reason"),
        rows=tuple(
            (
                one.term,
                one.estimate.value,
                one.estimate.unit,
                one.estimate.error,
                one.standard_error.value,
                one.statistic.value,
                one.p.value,
                one.low.value,
                one.high.value,
                one.estimate.reason or one.statistic.reason,
            )
            for one in coefficients
        ),
    )


def collinear(term: str, of: Sequence[str]) -> str:
    """Why there are no coefficients."""
    if list(of) == [CONSTANT]:
        return f"{term} is constant; leave it out"
    return f"{term} is a linear combination of {', '.join(of)}; leave one of them out"
