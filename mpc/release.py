"""What of a result anybody may see: the answer to the finest question, at most as fine as the study's, without a small cell.

A table hides a small cell only if another is hidden with it, in every table that the two are part of; otherwise a margin gives it
away. So cells are not blanked one by one. Neighbouring categories, or bins, become one until every cell is empty or holds
`minimum_cell` records, alike in all statistics of the study, and figures are computed from the merged totals alone. Whatever
somebody computes from those follows from them, and how many records a merged cell has of each of its parts does not: all of them
could be in one and the same part (see `mpc.blocks`).

Where a cell is small and nothing can be merged, the whole statistic is withheld; so is one with a few records less than another,
for the difference is theirs. Rounding comes last, and is for looks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from mpc.blocks import divide
from mpc.result import Result, check_same
from mpc.statistics import grouped
from mpc.statistics.cells import Axis, Cells, Counts, Runs, merge, together
from mpc.statistics.component import Asked, Sums
from mpc.statistics.contingency import ContingencyFigures
from mpc.statistics.figures import Table
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
        asked, notes = self.part.asked, list[str]()
        coarser, groups = self.merged(runs)
        if asked.by is not None and asked.by.name in runs:
            notes.append(_note(asked.by, runs, least))
        if coarser.variables != asked.variables or coarser.statistic != asked.statistic:
            notes += [_note(variable, runs, least) for variable in asked.variables if variable.name in runs]
        figures = grouped.figures(self.part.family, coarser, groups)
        return replace(figures, notes=(*notes, *figures.notes))  # type: ignore[return-value]

    def merged(self, runs: Mapping[str, Runs]) -> tuple[Asked, tuple[Sums, ...]]:
        """The coarser question and its totals, group by group."""
        asked, groups = self.part.asked, self.groups
        if asked.by is not None and asked.by.name in runs:
            ends = (*runs[asked.by.name][1:], len(groups))
            groups = tuple(_add(groups[first:end]) for first, end in zip(runs[asked.by.name], ends, strict=True))
            asked = Asked(asked.statistic, asked.variables, together(asked.by, runs[asked.by.name]), asked.records, asked.members)
        coarser = [self.part.family.coarser(asked, group, runs) for group in groups]
        return coarser[0][0], tuple(sums for _, sums in coarser)

    def withheld(self, reason: str) -> Withheld:
        """Nothing of it."""
        statistic = self.part.asked.statistic
        return Withheld(statistic=statistic.kind, id=statistic.name, variable=statistic.variable, reason=reason)


def _stack(counts: Sequence[Counts], by: tuple[Axis, ...]) -> Counts:
    return np.stack(counts) if by else counts[0]


def _add(groups: Sequence[Sums]) -> Sums:
    totals: Counts = np.stack([group.totals for group in groups]).sum(axis=0)
    return Sums(sum(group.n for group in groups), groups[0].left_out, totals, groups[0].members)


def _note(variable: Variable, runs: Mapping[str, Runs], least: int) -> str:
    what = "categories" if variable.categories else "bins"
    return f"{variable.name}: neighbouring {what} are told as one where one alone would have fewer than {least} records"


class _Cutter:
    """Finds the runs that become one, and what has to be withheld.

    An axis is cut for all tables along it at once, so that it is known where it is empty, and a table after all of its margins,
    so that at worst the axis that is cut becomes one run. What is once large enough or empty stays so when more is merged. Move
    all records of each run of each variable to one place, as `mpc.blocks` says: then every cell of every table is large enough or
    empty from the start, nothing more is merged, and the runs are the same.
    """

    def __init__(self, answers: Sequence[_Answer], least: int) -> None:
        self._answers = answers
        self._least = least
        self._tables = [list(answer.cells()) for answer in answers]
        self._sizes = {
            axis.variable: size
            for tables in self._tables
            for cells in tables
            for axis, size in zip(cells.axes, cells.counts.shape, strict=True)
            if axis.merges
        }
        self._runs: dict[str, Runs] = {name: tuple(range(size)) for name, size in self._sizes.items()}
        self._columns: dict[str, list[Counts]] = defaultdict(list)
        """By variable: the counts that its runs were made for, shape (places, columns) each."""
        self.withheld: dict[int, str] = {}
        """By the statistic's place: why."""

    def merged(self) -> dict[str, Runs]:
        """The runs of each variable that has fewer of them than places."""
        return {name: runs for name, runs in self._runs.items() if len(runs) < self._sizes[name]}

    def cut(self) -> None:
        """Merges and withholds until nothing small is left."""
        for place, answer in enumerate(self._answers):
            if 0 < answer.groups[0].left_out < self._least:
                self.withheld[place] = (
                    f"fewer than {self._least} records lack a value; with another statistic it would tell theirs"
                )
        for place, tables in enumerate(self._tables):
            small = next((cells for cells in tables if self._is_small(_margin(cells, ()).counts).any()), None)
            if small is not None and place not in self.withheld:
                self.withheld[place] = self._too_few(small)
        kept = [cells for place, tables in enumerate(self._tables) if place not in self.withheld for cells in tables]
        for line in _margins(kept, 1):
            self._take(line)
        for name in self._columns:
            self._divide(name)
        for dimensions in range(2, 1 + max((len(cells.axes) for cells in kept), default=0)):
            for table in _margins(kept, dimensions):
                if self._is_small(self._merge(table)).any():
                    self._divide(self._take(table))
        self._withhold_exact()
        self._withhold_small()
        self._withhold_differences()

    def _too_few(self, cells: Cells) -> str:
        values = [axis.variable for axis in cells.axes if not axis.merges]
        about = f" with one value of {' and '.join(values)}" if values else ""
        return f"it would tell of fewer than {self._least} records{about}"

    def _take(self, table: Cells) -> str:
        """Has the runs of its longest axis made for it as well; which that is."""
        along = max(
            (at for at, axis in enumerate(table.axes) if axis.merges),
            key=lambda at: (len(self._runs[table.axes[at].variable]), at),
        )
        name = table.axes[along].variable
        rows = np.moveaxis(self._merge(table, but=along), along, 0)
        self._columns[name].append(rows.reshape(self._sizes[name], -1))
        return name

    def _divide(self, name: str) -> None:
        self._runs[name] = divide(np.concatenate(self._columns[name], axis=1), self._least)

    def _merge(self, cells: Cells, but: int | None = None) -> Counts:
        """The counts along the runs of all axes but one."""
        counts = cells.counts
        for at, axis in enumerate(cells.axes):
            if axis.merges and at != but:
                counts = merge(counts, at, self._runs[axis.variable])
        return counts

    def _is_small(self, counts: Counts) -> npt.NDArray[np.bool_]:
        return (counts > 0) & (counts < self._least)

    def _withhold_exact(self) -> None:
        """What cannot be told of a merged variable, because it needs each of its values or adds them up.

        That follows from what was merged, and so goes before a reason that speaks of the records.
        """
        merged = self.merged()
        for place, answer in enumerate(self._answers):
            needed = {axis.variable for cells in self._tables[place] for axis in cells.axes if axis.exact and not axis.merges}
            for name in sorted(needed & merged.keys()):
                self.withheld[place] = f"it tells every {name} on its own, of which some have fewer than {self._least} records"
            for variable in answer.part.asked.variables if answer.part.family.adds else ():
                values = variable.maximum - variable.minimum + 1
                if variable.name in merged and not variable.categories and values - len(merged[variable.name]) <= FEW_VALUES:
                    self.withheld[place] = f"with the bins of {variable.name} it would tell those that have too few records"

    def _withhold_small(self) -> None:
        """What tells of too few records only since groups were merged: some bounds of counts do not add up as the totals do."""
        runs = self.merged()
        for place, answer in enumerate(self._answers):
            by, family = answer.part.asked.by, answer.part.family
            if place not in self.withheld and by is not None and by.name in runs:
                asked, groups = answer.merged(runs)
                found = (cells for sums in groups for cells in family.cells(asked, sums))
                small = next((cells for cells in found if self._is_small(cells.counts).any()), None)
                if small is not None:
                    self.withheld[place] = self._too_few(small)

    def _withhold_differences(self) -> None:
        """Of statistics that leave out records for different variables, those with a few less than another that is told."""
        seen: dict[tuple[str, ...], dict[frozenset[str], Counts]] = defaultdict(dict)
        kept = [place for place in range(len(self._answers)) if place not in self.withheld]
        for place in sorted(kept, key=lambda place: self._answers[place].groups[0].left_out):
            asked = self._answers[place].part.asked
            omits = frozenset(one.name for one in (*asked.variables, *([asked.by] if asked.by else [])) if one.omits)
            mine = dict(margin for cells in self._tables[place] for margin in self._numbers(cells))
            others = [(counts, other) for axes, counts in mine.items() for of, other in seen[axes].items() if of != omits]
            if any(self._is_small(np.abs(counts - other)).any() for counts, other in others):
                self.withheld[place] = (
                    f"it has fewer than {self._least} records less than another statistic, and would tell theirs"
                )
            else:
                for axes, counts in mine.items():
                    seen[axes][omits] = counts

    def _numbers(self, cells: Cells) -> Iterator[tuple[tuple[str, ...], Counts]]:
        """How many records there are along each choice of the axes, in the order of their names."""
        if all(axis.exact for axis in cells.axes):
            counts, names = self._merge(cells), [axis.variable for axis in cells.axes]
            order = sorted(range(len(names)), key=names.__getitem__)
            for size in range(len(order) + 1):
                for chosen in combinations(order, size):
                    rest = tuple(at for at in order if at not in chosen)
                    there = sorted(chosen)
                    margin = np.asarray(counts.sum(axis=rest)).transpose([there.index(at) for at in chosen])
                    yield tuple(names[at] for at in chosen), margin


def _margins(tables: Sequence[Cells], dimensions: int) -> Iterator[Cells]:
    """Along so many of the axes that merge."""
    for cells in tables:
        names = [axis.variable for axis in cells.axes if axis.merges]
        yield from (_margin(cells, chosen) for chosen in combinations(names, dimensions))


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
