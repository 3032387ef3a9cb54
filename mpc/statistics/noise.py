"""How much noise each member adds to each element, so that the total keeps the study's promise (protocol.md, "Noise").

The promise is about two inputs that differ in one record: another in its place, or none where members may hold several; or in all
that one member holds, which moves totals by `records` times as much. A family says how far such a change can reach
(`Family.reaches`); the statistics of a study get equal shares of its rho, and so do the kinds of totals of one statistic.

With distance D between the totals of two such inputs, noise of the standard deviation s costs a rho of D^2 / (2 s^2) (Canonne,
Kamath and Steinke 2020, Theorem 4, for the discrete Gaussian as for the other), and rho adds up. Each member adds a discrete
Gaussian N_Z(0, s^2 / h) of its own, where h is how many are honest in the smallest round: what the honest ones add is enough, and
what more of them add is taken from the total again by nobody.

A sum of discrete Gaussians is not quite one. The mass of N_Z(0, k v) + N_Z(0, v) at z is that of N_Z(0, (k + 1) v), times the sum
of exp(-(x - c)^2 / (2 u)) over all integers x, for u = v k / (k + 1) and some c, times a constant. By Poisson summation that sum
is sqrt(2 pi u) (1 + e) with |e| <= 2 exp(-2 pi^2 u) / (1 - exp(-2 pi^2 u)). So over h members the two masses differ by a factor
exp(l) at the most, l <= 8 h exp(-pi^2 v), as pure differential privacy would have it. In d elements that is d l^2 / 2 of rho on
the way from one to the other, which is gone twice, and ways add up as square roots (Bun and Steinke 2016, Proposition 1.4 and
Lemma 5.2): sqrt(2 rho) grows by 2 l sqrt(d). Kairouz, Liu and Steinke 2021, Proposition 14, is the same argument. Totals are
scaled up until a share has sqrt(v) >= LEAST_SHARE = 128: then 2 l sqrt(d) is below 10^-70000, and one part of `mpc.privacy.RHO`,
which each study sets aside for it, is more than that by far.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain

import numpy as np
import numpy.typing as npt

from mpc.privacy import RHO, rho_of
from mpc.statistics.component import Asked, Family, Noise, Reach
from mpc.study import MEMBER, TINY, Privacy, Study

LEAST_SHARE = 128
"""The least standard deviation of a member's noise, in steps of the scaled total: rounding it up adds less than a hundredth."""
MAX_DRAWN = 10_000
"""Elements of one study that have noise: exact sampling takes its time."""
_MAX_SIGMA = 2**53
"""Samplers take a standard deviation as a float, which is exact below this."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one member adds to an element: a discrete Gaussian of the standard deviation `sigma`, in steps of 1/`steps`."""

    sigma: int
    """0: no noise."""
    steps: int
    """A power of two: how many steps of the noise make 1 of the total."""

    def deviation(self, members: int) -> float:
        """Standard deviation of a total over so many members; one with steps is rounded when it is decoded."""
        return math.sqrt(members * (self.sigma / self.steps) ** 2 + (1 / 12 if self.steps > 1 else 0))

    def tail(self, members: int, drawn: int, tail: int) -> int:
        """What the members' noise stays within, in steps, in all `drawn` elements, but for a probability `tail` / TINY.

        A discrete Gaussian is sub-Gaussian with sigma^2 (Canonne, Kamath and Steinke 2020), so a sum of n leaves [-t, t] with a
        probability of 2 exp(-t^2 / (2 n sigma^2)) at the most. The logarithm is rounded up, to 7/10 a bit.
        """
        if not self.sigma:
            return 0
        bits = (2 * drawn * TINY // tail + 1).bit_length()
        return math.isqrt(2 * members * self.sigma**2 * bits * 7 // 10) + 1


SILENT = Share(0, 1)
Run = tuple[Share, int]
"""A share, and how many elements in a row have it."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Totals of one statistic that share a part of its rho."""

    label: str
    squared: Fraction
    """The most squared distance between the totals of two inputs that differ in one record, or member, in weights."""
    runs: tuple[Run, ...]
    """Of one group."""


@dataclass(frozen=True, slots=True)
class Shares:
    """The noise of one statistic, in the order of its elements (`mpc.statistics.layout`)."""

    left_out: Kind | None
    """None where the statistic has no such element."""
    kinds: tuple[Kind, ...]
    """Of one group: the number of records, unless that is known; then those of the family."""
    groups: int

    def runs(self) -> Iterator[Run]:
        """Of all its elements."""
        yield from self.left_out.runs if self.left_out else ()
        for _ in range(self.groups):
            yield from chain.from_iterable(kind.runs for kind in self.kinds)

    def noise(self, members: int, *, counted: bool) -> Noise:
        """As standard deviations of totals over so many members."""
        runs = list(chain.from_iterable(kind.runs for kind in self.kinds))
        each: npt.NDArray[np.float64] = np.repeat(
            [share.deviation(members) for share, _ in runs], [length for _, length in runs]
        ).astype(np.float64)
        left_out = self.left_out.runs[0][0].deviation(members) if self.left_out else 0.0
        return Noise(float(each[0]) if counted else 0.0, left_out, each[1:] if counted else each)


def refuse(family: Family, asked: Asked) -> Iterator[str]:
    """Why noise cannot hide a record in a statistic."""
    if not family.hides:
        yield (
            "with 'privacy' every round of its fit would cost the whole epsilon again; remove 'privacy', or ask for a "
            "linear-regression"
        )


def shares(study: Study, parts: Sequence[tuple[Family, Asked]]) -> tuple[list[Shares], list[str]]:
    """The noise of each statistic, and what is wrong with the promise. For a study with `privacy`."""
    promise = study.privacy
    assert promise is not None, "as its caller has seen"
    drafts = [_draft(family, asked, promise) for family, asked in parts]
    noisy = sum(any(squared for _, squared, _ in kinds) for _, kinds in drafts)
    rho = rho_of(promise.epsilon, promise.delta) - 1  # the one that sums of shares are charged
    if rho <= 0:
        return [], [f"study {study.id}: privacy: no noise keeps an epsilon that small; allow a larger one"]
    if not noisy:
        return [], [f"study {study.id}: privacy: what it asks for does not depend on any record; remove 'privacy'"]
    honest = study.minimum - promise.colluding
    found = []
    for (omits, kinds), (_, asked) in zip(drafts, parts, strict=True):
        share = sum(squared > 0 for _, squared, _ in kinds) * noisy
        made = [
            Kind(
                label,
                squared,
                tuple((_share(weight**2 * squared * share * RHO / (2 * rho * honest)), n) for weight, n in weights),
            )
            for label, squared, weights in kinds
        ]
        groups = len(asked.by.categories) if asked.by else 1
        found.append(Shares(made[0] if omits else None, tuple(made[int(omits) :]), groups))
    problems = []
    if (drawn := count(found)) > MAX_DRAWN:
        problems.append(
            f"study {study.id}: privacy: {drawn} numbers need noise, and a node draws at most {MAX_DRAWN}; ask for fewer bins, "
            f"groups or variables"
        )
    if any(share.sigma >= _MAX_SIGMA for one in found for share, _ in one.runs()):
        problems.append(f"study {study.id}: privacy: its noise is too large for totals of 64 bits; narrow the bounds")
    return found, problems


def count(found: Sequence[Shares]) -> int:
    """Elements that have noise."""
    return sum(length for one in found for share, length in one.runs() if share.sigma)


_Draft = tuple[str, Fraction, tuple[tuple[int, int], ...]]


def _draft(family: Family, asked: Asked, promise: Privacy) -> tuple[bool, list[_Draft]]:
    """Whether records may be left out, and the kinds of totals of a statistic, that of those first."""
    groups = len(asked.by.categories) if asked.by else 1
    comes = asked.omits or asked.records > 1
    # All of a member's records may move the same way.
    larger = asked.records**2 if promise.per == MEMBER else 1
    one = ((1, 1),)
    kinds: list[_Draft] = [("records left out", Fraction(larger), one)] if asked.omits else []
    if family.counted or not asked.one_each:
        kinds.append(("number of records", Fraction(larger * (2 if groups > 1 else int(comes))), one))
    for reach in family.reaches(asked):
        kinds.append((reach.label, Fraction(larger * _squared(reach, groups, comes=comes)), reach.weights))
    return asked.omits, kinds


def _squared(reach: Reach, groups: int, *, comes: bool) -> Fraction:
    """Another record in the place of one: in its group, in another group, or where there was or is none."""
    return max(reach.apart, 2 * reach.alone if groups > 1 else Fraction(0), reach.alone if comes else Fraction(0))


def _share(variance: Fraction) -> Share:
    """The least share with that variance."""
    if not variance:
        return SILENT
    steps = 1
    while variance * steps**2 < LEAST_SHARE**2:
        steps *= 2
    return Share(math.isqrt(math.ceil(variance * steps**2) - 1) + 1, steps)
