"""Kaplan-Meier survival with the log-rank test between groups, on a grid of times.

Each cell of the grid holds the events and the censorings of its times, all of which count as happening at its last time: events
first, then censorings, as usual. With a cell for each step of the variable, as there is unless the study says otherwise, that is
the exact curve; with wider ones a curve with the true order would lie between `survival` and `least`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from mpc.statistics.cells import Axis, Cells
from mpc.statistics.component import Asked, Block, Sums, Values, must_be_yes_or_no
from mpc.statistics.distributions import chi_squared_tail, normal_quantile
from mpc.statistics.figures import CONTRADICTION, Comparison, Figures, Quantity, Table, absent, half_step, quantity
from mpc.statistics.grid import Binned, Grid
from mpc.study import MILLION

NO_EVENT = "there is no event"


class Survival(msgspec.Struct, frozen=True, kw_only=True):
    """The curve from one time on."""

    time: float
    at_risk: int
    """Just before."""
    events: int
    censored: int
    survival: float
    least: float
    """What the curve would be if in every cell the censorings came before the events."""
    standard_error: float | None
    """Greenwood's; None where the curve is at 0."""
    low: float | None
    """Of the confidence interval for log(-log S); None where the curve is at 1 or 0."""
    high: float | None

    def __repr__(self) -> str:
        return "<Survival>"


class KaplanMeierFigures(Figures, frozen=True, kw_only=True, tag="kaplan-meier"):
    """A row for each time with an event or a censoring."""

    unit: str
    """Of time."""
    events: int
    curve: tuple[Survival, ...]
    median: Quantity
    """The first time at which the curve is at 0.5 or below; the error is of that time, for the grid."""
    error: float
    """How far the curve may lie above the exact one at the last time of a cell."""
    level: float

    def tables(self) -> tuple[Table, ...]:
        """The curve, and the median."""
        columns = Survival.__struct_fields__
        rows = tuple(tuple(getattr(row, column) for column in columns) for row in self.curve)
        median = (("median", self.median.value, self.median.unit, self.median.error, self.median.reason),)
        return (
            Table(name=self.name, columns=columns, rows=rows),
            Table(name=f"{self.name}-median", columns=("quantity", "value", "unit", "error", "reason"), rows=median),
        )


class KaplanMeier(Binned):
    """`kaplan-meier` in a study: `variable` is the time, the other one whether it ended with the event."""

    kind = "kaplan-meier"
    reveals = "the events and the censorings in each cell of the grid of times"
    others = "whether there was an event"
    least_others = most_others = 1
    takes = Binned.takes | {"level"}

    def problems(self, asked: Asked) -> Iterator[str]:
        """The grid, and an event that is yes or no."""
        yield from super().problems(asked)
        yield from must_be_yes_or_no(asked.variables[1])

    def blocks(self, asked: Asked) -> Sequence[Block]:
        """Events of each cell, then censorings."""
        return (Block(0, 1, 2 * Grid.of(asked).cells, label="records in a cell"),)

    def totals(self, asked: Asked, columns: Sequence[Values]) -> Values:
        """The counts."""
        cells = Grid.of(asked)
        times, event = columns
        places = cells.places(times) + cells.cells * (event == 0)
        return np.bincount(places, minlength=2 * cells.cells).astype(np.int64, copy=False)

    def cells(self, asked: Asked, sums: Sums) -> Iterable[Cells]:
        """Events and censorings at each time: the curve tells both."""
        axes = (Axis(asked.variables[0].name), Axis(asked.variables[1].name, merges=False))
        return (Cells(axes, sums.totals.reshape(2, -1).T),)

    def figures(self, asked: Asked, sums: Sums) -> KaplanMeierFigures:
        """The curve of these records."""
        time, level = asked.variables[0], asked.statistic.level / MILLION
        cells = Grid.of(asked)
        events, censored = sums.totals[: cells.cells], sums.totals[cells.cells :]
        # Within a cell of one exact time there is no order to be unsure of.
        vague = time.rounded or cells.cells < time.maximum - time.minimum + 1
        total, reason = int(events.sum()), NO_EVENT if sums.n else "there is no record"
        if int(sums.totals.sum()) == sums.n:
            curve = _curve(cells, sums.n, events, censored, normal_quantile(level), vague=vague)
        else:
            curve, reason = [], CONTRADICTION
        return KaplanMeierFigures(
            id=asked.statistic.name,
            variable=time.name,
            n=sums.n,
            left_out=sums.left_out,
            notes=(reason,) if reason == CONTRADICTION else () if total else (NO_EVENT,),
            unit=time.unit,
            events=total,
            curve=tuple(row for _, row in curve),
            median=_median(cells, curve) if total and curve else absent(reason, time.unit),
            error=max((row.survival - row.least for _, row in curve), default=0.0),
            level=level,
        )

    def compare(self, asked: Asked, groups: Sequence[Sums]) -> Comparison:
        """The log-rank test."""
        cells = Grid.of(asked).cells
        counts = np.array([group.totals.reshape(2, cells) for group in groups], dtype=np.float64)
        events, leaving = counts[:, 0], counts.sum(axis=1)
        at_risk = leaving[:, ::-1].cumsum(axis=1)[:, ::-1]
        return _log_rank(events, at_risk)


def _curve(cells: Grid, n: int, events: Values, censored: Values, z: float, *, vague: bool) -> list[tuple[int, Survival]]:
    """The cells in which something happens, each with the curve after it."""
    rows: list[tuple[int, Survival]] = []
    survival = least = 1.0
    spread = 0.0
    scale = cells.variable.scale
    for cell in np.flatnonzero(events + censored).tolist():
        died, lost = int(events[cell]), int(censored[cell])
        survival *= 1 - died / n
        if died:
            least *= 1 - died / (n - lost if vague else n)
            spread += died / (n * (n - died)) if died < n else math.inf
        low = high = None
        if 0 < survival < 1:
            power = math.exp(z * math.sqrt(spread) / -math.log(survival))
            low, high = survival**power, survival ** (1 / power)
        row = Survival(
            time=cells.span(cell)[1] / scale,
            at_risk=n,
            events=died,
            censored=lost,
            survival=survival,
            least=least,
            standard_error=survival * math.sqrt(spread) if survival else None,
            low=low,
            high=high,
        )
        rows.append((cell, row))
        n -= died + lost
    return rows


def _median(cells: Grid, curve: Sequence[tuple[int, Survival]]) -> Quantity:
    variable, half = cells.variable, 0.5 + 1e-12  # what rounding in a product may leave above one half
    reached = next((cell for cell, row in curve if row.survival <= half), None)
    if reached is None:
        return absent("the curve stays above one half", variable.unit)
    earliest = next(cell for cell, row in curve if row.least <= half)
    last, first = cells.span(reached)[1], cells.span(earliest)[0]
    return quantity(last / variable.scale, variable.unit, (last - first) / variable.scale + float(half_step(variable)))


def _log_rank(events: npt.NDArray[np.float64], at_risk: npt.NDArray[np.float64]) -> Comparison:
    """Observed less expected events of each group, against their hypergeometric covariance; shape (groups, cells) each."""
    test = "log-rank"
    happened = events.sum(axis=0) > 0
    if not happened.any():
        return Comparison(test=test, statistic=absent(NO_EVENT), degrees_of_freedom=0, p=absent(NO_EVENT))
    events, at_risk = events[:, happened], at_risk[:, happened]
    died, n = events.sum(axis=0), at_risk.sum(axis=0)
    share = at_risk / n
    excess = (events - share * died).sum(axis=1)
    # The last one at risk dies with certainty: its variance is 0 and not 0 / 0.
    weight = died * (n - died) / np.maximum(n - 1, 1)
    covariance = np.diag(share @ weight) - (share * weight) @ share.T
    kept = np.flatnonzero(covariance.diagonal() > 1e-12)
    notes = () if len(kept) == len(events) else ("groups with nobody at risk beside others are left out of the test",)
    if len(kept) < 2:
        none = absent("events happen while one group alone is at risk; a test needs two")
        return Comparison(test=test, statistic=none, degrees_of_freedom=0, p=none, notes=notes)
    kept = kept[:-1]
    value = float(excess[kept] @ np.linalg.solve(covariance[np.ix_(kept, kept)], excess[kept]))
    p = quantity(chi_squared_tail(value, len(kept)))
    return Comparison(test=test, statistic=quantity(value), degrees_of_freedom=len(kept), p=p, notes=notes)
