"""What of a result anybody may see: the answer to the finest question, at most as fine as the study's, without a small cell.

A table hides a small cell only if another is hidden with it, in every table that the two are part of; otherwise a margin gives it
away. So cells are not blanked one by one. Neighbouring categories, or bins, become one until every cell is empty or holds
`minimum_cell` records, alike in all statistics of the study, and figures are computed from the merged totals alone. Whatever
somebody computes from those follows from them, and how many records a merged cell has of each of its parts does not.

Where a cell is small and nothing can be merged, the whole statistic is withheld. Rounding comes last, and is for looks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from mpc.result import Result, check_same
from mpc.statistics import grouped
from mpc.statistics.cells import Axis, Cells, Counts, Runs, merge, together
from mpc.statistics.component import Asked, Sums
from mpc.statistics.contingency import ContingencyFigures
from mpc.statistics.figures import Table, name_of
from mpc.statistics.grouped import AnyFigures, Group, GroupedFigures
from mpc.statistics.histogram import HistogramFigures
from mpc.statistics.kaplan_meier import KaplanMeierFigures
from mpc.statistics.layout import Part, make_layout, take_apart
from mpc.statistics.logistic_regression import LogisticRegressionFigures
from mpc.study import Release, Study, Variable

FEW_VALUES = 8
"""How many more values than bins a merged variable must have, for sums of the values not to tell its counts."""


class Withheld(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="withheld"):
    """A statistic of which nothing is told."""

    statistic: str
    """Its kind."""
    id: str
    variable: str
    reason: str

    @property
    def name(self) -> str:
        """The kind, as the study calls it."""
        return self.statistic

    @property
    def notes(self) -> tuple[str, ...]:
        """The reason."""
        return (self.reason,)

    def tables(self) -> tuple[Table, ...]:
        """None."""
        return ()

    def __repr__(self) -> str:
        return "<Withheld>"


Told = AnyFigures | Withheld
"""What JSON is read as: `msgspec.json.decode(raw, type=tuple[Told, ...])`."""


def release(study: Study, result: Result) -> tuple[Told, ...]:
    """What the result of `study` may say by its rules, one a statistic. Raises ValueError for a result of another study."""
    check_same(study, result)
    rules = study.release
    parts = make_layout(study).parts
    answers = [
        _Answer(part, take_apart(part, statistic.array(), result.members))
        for part, statistic in zip(parts, result.statistics, strict=True)
    ]
    if result.members < study.minimum:
        return tuple(
            answer.withheld(f"{result.members} members are fewer than the study's {study.minimum}") for answer in answers
        )
    cutter = _Cutter(answers, rules.minimum_cell)
    if rules.minimum_cell:
        cutter.cut()
    told: list[Told] = []
    for place, answer in enumerate(answers):
        if place in cutter.withheld:
            told.append(answer.withheld(cutter.withheld[place]))
        else:
            told.append(_rounded(answer.figures(cutter.merged(), rules.minimum_cell), rules.round_to))
    return tuple(told)


def in_words(rules: Release) -> str:
    """The rules in a sentence; empty when there are none."""
    found = []
    if rules.minimum_cell:
        found.append(f"nothing is told of fewer than {rules.minimum_cell} records")
    if rules.round_to:
        found.append(f"counts are rounded to multiples of {rules.round_to}")
    return "; ".join(found)


@dataclass(frozen=True, slots=True, repr=False)
class _Answer:
    """A statistic with its totals, group by group."""

    part: Part
    groups: tuple[Sums, ...]

    def cells(self) -> Iterator[Cells]:
        """n, and what else the figures tell, with the groups as the first axis."""
        asked, family = self.part.asked, self.part.family
        by = (Axis(asked.by.name),) if asked.by else ()
        yield Cells(by, _stack([np.array(group.n, dtype=np.int64) for group in self.groups], by))
        for alike in zip(*(family.cells(asked, group) for group in self.groups), strict=True):
            yield Cells((*by, *alike[0].axes), _stack([cells.counts for cells in alike], by))

    def figures(self, runs: Mapping[str, Runs], least: int) -> AnyFigures:
        """Of the merged totals."""
        asked, groups, notes = self.part.asked, self.groups, list[str]()
        if asked.by is not None and asked.by.name in runs:
            ends = (*runs[asked.by.name][1:], len(groups))
            groups = tuple(_add(groups[first:end]) for first, end in zip(runs[asked.by.name], ends, strict=True))
            notes.append(_note(asked.by, runs, least))
            asked = Asked(asked.statistic, asked.variables, together(asked.by, runs[asked.by.name]), asked.records, asked.members)
        coarser = [self.part.family.coarser(asked, group, runs) for group in groups]
        if coarser[0][0] is not asked:
            notes += [_note(variable, runs, least) for variable in asked.variables if variable.name in runs]
        figures = grouped.figures(self.part.family, coarser[0][0], [sums for _, sums in coarser])
        return replace(figures, notes=(*notes, *figures.notes))  # type: ignore[return-value]

    def withheld(self, reason: str) -> Withheld:
        """Nothing of it."""
        statistic = self.part.asked.statistic
        return Withheld(statistic=statistic.kind, id=name_of(statistic), variable=statistic.variable, reason=reason)


def _stack(counts: Sequence[Counts], by: tuple[Axis, ...]) -> Counts:
    return np.stack(counts) if by else counts[0]


def _add(groups: Sequence[Sums]) -> Sums:
    totals: Counts = np.stack([group.totals for group in groups]).sum(axis=0)
    return Sums(sum(group.n for group in groups), groups[0].left_out, totals, groups[0].members)


def _note(variable: Variable, runs: Mapping[str, Runs], least: int) -> str:
    what = "categories" if variable.categories else "bins"
    return f"{variable.name}: neighbouring {what} are told as one where one alone would have fewer than {least} records"


class _Cutter:
    """Finds the runs that become one, and what has to be withheld. Which neighbours merge does not depend on their sizes.

    A table is cut after all of its margins, so that at worst the axis that is cut becomes one run. What is once large enough or
    empty stays so when more is merged.
    """

    def __init__(self, answers: Sequence[_Answer], least: int) -> None:
        self._answers = answers
        self._least = least
        self._tables = [(place, cells) for place, answer in enumerate(answers) for cells in answer.cells()]
        self._sizes = {
            axis.variable: size
            for _, cells in self._tables
            for axis, size in zip(cells.axes, cells.counts.shape, strict=True)
            if axis.merges
        }
        self._runs: dict[str, Runs] = {name: tuple(range(size)) for name, size in self._sizes.items()}
        self.withheld: dict[int, str] = {}
        """By the statistic's place: why."""

    def merged(self) -> dict[str, Runs]:
        """The runs of each variable that has fewer of them than places."""
        return {name: runs for name, runs in self._runs.items() if len(runs) < self._sizes[name]}

    def cut(self) -> None:
        """Merges and withholds until nothing small is left."""
        for place, cells in self._tables:
            if place not in self.withheld and self._is_small(_margin(cells, ()).counts).any():
                values = [axis.variable for axis in cells.axes if not axis.merges]
                about = f" with one value of {' and '.join(values)}" if values else ""
                self.withheld[place] = f"it would tell of fewer than {self._least} records{about}"
        kept = [cells for place, cells in self._tables if place not in self.withheld]
        for dimensions in range(1, 1 + max((len(cells.axes) for cells in kept), default=0)):
            for cells in kept:
                names = [axis.variable for axis in cells.axes if axis.merges]
                for margin in combinations(names, dimensions):
                    self._cut_table(_margin(cells, margin))
        self._withhold_exact()

    def _cut_table(self, cells: Cells) -> None:
        """Merges along the longest axis."""
        counts = cells.counts
        for at, axis in enumerate(cells.axes):
            if axis.merges:
                counts = merge(counts, at, self._runs[axis.variable])
        along = max((at for at, axis in enumerate(cells.axes) if axis.merges), key=lambda at: (cells.counts.shape[at], at))
        rows = np.moveaxis(counts, along, 0).reshape(counts.shape[along], -1)
        name = cells.axes[along].variable
        self._runs[name] = tuple(self._runs[name][first] for first in self._cut_rows(rows))

    def _cut_rows(self, counts: Counts) -> list[int]:
        """Where runs of rows begin whose sums are large enough or 0 in each column."""
        if not self._is_small(counts).any():
            return list(range(len(counts)))
        begins = np.ones(len(counts), dtype=np.bool_)
        first, run = -1, np.zeros_like(counts[0])
        for row in np.flatnonzero(counts.any(axis=1)).tolist():  # an empty row is in the run around it, or one by itself
            first = row if first < 0 else first
            begins[first + 1 : row + 1] = False
            run = run + counts[row]
            if not self._is_small(run).any():
                first, run = -1, np.zeros_like(run)
        if first < 0:
            return np.flatnonzero(begins).tolist()
        begins[first + 1 :] = False  # what is left over joins the runs before it
        firsts: list[int] = np.flatnonzero(begins).tolist()
        while len(firsts) > 1 and self._is_small(run).any():
            end = firsts.pop()
            run = run + counts[firsts[-1] : end].sum(axis=0)
        return firsts

    def _is_small(self, counts: Counts) -> npt.NDArray[np.bool_]:
        return (counts > 0) & (counts < self._least)

    def _withhold_exact(self) -> None:
        """What cannot be told of a merged variable, because it needs each of its values or adds them up."""
        merged = self.merged()
        for place, answer in enumerate(self._answers):
            if place in self.withheld:
                continue
            needed = {axis.variable for cells in answer.cells() for axis in cells.axes if not axis.merges}
            for name in sorted(needed & merged.keys()):
                self.withheld[place] = f"it tells every {name} on its own, of which some have fewer than {self._least} records"
            for variable in answer.part.asked.variables if answer.part.family.adds else ():
                values = variable.maximum - variable.minimum + 1
                if variable.name in merged and not variable.categories and values - len(merged[variable.name]) <= FEW_VALUES:
                    self.withheld[place] = f"with the bins of {variable.name} it would tell those that have too few records"


def _margin(cells: Cells, names: Sequence[str]) -> Cells:
    """The table summed over every axis that merges and is not named."""
    over = tuple(at for at, axis in enumerate(cells.axes) if axis.merges and axis.variable not in names)
    axes = tuple(axis for at, axis in enumerate(cells.axes) if at not in over)
    return Cells(axes, np.asarray(cells.counts.sum(axis=over)))


def _rounded(figures: AnyFigures, base: int) -> AnyFigures:
    """The figures with every count of records as a multiple of `base`."""
    if not base:
        return figures

    def near(count: int) -> int:
        return (2 * count + base) // (2 * base) * base

    changed: dict[str, object] = {"n": near(figures.n), "left_out": near(figures.left_out)}
    match figures:
        case GroupedFigures():
            changed["groups"] = tuple(
                Group(category=group.category, figures=_rounded(group.figures, base))  # type: ignore[arg-type]
                for group in figures.groups
            )
        case HistogramFigures():
            changed |= {"counts": tuple(map(near, figures.counts)), "below": near(figures.below), "above": near(figures.above)}
        case ContingencyFigures():
            changed["counts"] = tuple(tuple(map(near, row)) for row in figures.counts)
        case KaplanMeierFigures():
            changed["events"] = near(figures.events)
            changed["curve"] = tuple(
                replace(row, at_risk=near(row.at_risk), events=near(row.events), censored=near(row.censored))
                for row in figures.curve
            )
        case LogisticRegressionFigures():
            changed["events"] = near(figures.events)
        case _:
            pass
    return replace(figures, **changed)
