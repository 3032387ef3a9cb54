"""A study as a person writes it in YAML, and the `mpc.study.Study` that it becomes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from mpc import study as rules
from mpc.errors import StudyError
from mpc.identity import Identity, Role
from mpc.statistics import make_layout, plan
from mpc.statistics.logistic_regression import LogisticRegression
from mpc.statistics.newton import Fit
from mpc.study import CATEGORY, FIXED, INTEGER, MILLION, REFUSE, Release, Statistic, Study, Variable
from nodes.fields import RELAY, Int64, Name, Positive, Text
from nodes.schedule import Schedule
from nodes.yaml_struct import Key, Problem, examine

_Number = Int64 | float
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)] | Annotated[int, msgspec.Meta(ge=0, le=1)]


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of what a study file holds."""


class VariableEntry(_Struct, frozen=True, kw_only=True):
    """An entry of `variables`. Numbers have bounds, fixed-point ones a scale too; categories have their names instead."""

    name: Text
    unit: str = ""
    type: Literal["integer", "fixed", "category"] = INTEGER
    bounds: tuple[_Number, _Number] | None = None
    scale: Positive | None = None
    """Steps in one unit: 10 keeps one decimal."""
    categories: tuple[Text, ...] = ()
    length: Positive = 1
    code: str = ""
    missing: Literal["refuse", "omit"] = REFUSE

    def problems(self) -> Iterator[Problem]:
        """What goes with which type; bounds are whole steps."""
        if self.type == CATEGORY:
            if self.bounds is not None:
                yield Problem(("bounds",), "a category has none; remove them")
            return
        if self.bounds is None:
            yield Problem((), "has no bounds; add them: [smallest, largest]")
        if self.type == FIXED and self.scale is None:
            yield Problem((), "is a fixed-point number without a scale; add one, 10 for one decimal")
        for place, bound in enumerate(self.bounds or ()):
            if _steps(bound, self.scale).denominator != 1:
                yield Problem(("bounds", place), f"is no whole number of steps of 1/{self.scale or 1}; change it or the scale")

    def variable(self) -> Variable:
        """As the protocol has it."""
        if self.type == CATEGORY:
            low, high = 0, len(self.categories) - 1
        else:
            low, high = (int(_steps(bound, self.scale)) for bound in self.bounds or (0, 0))
        return Variable(
            self.name, self.unit, low, high, self.length, self.type, self.scale or 1, self.categories, self.code, self.missing
        )


class StatisticEntry(_Struct, frozen=True, kw_only=True):
    """An entry of `statistics`; what the keys mean is said by each kind."""

    kind: Text
    variable: Text
    id: str = ""
    others: tuple[Text, ...] = ()
    by: str = ""
    bins: Positive | None = None
    edges: tuple[_Number, ...] = ()
    """In the variable's unit."""
    quantiles: tuple[_Share, ...] = ()
    level: _Share = 0.95

    def scale(self, variables: Sequence[VariableEntry]) -> int | None:
        """Of its variable."""
        return next((entry.scale for entry in variables if entry.name == self.variable), None)

    def statistic(self, variables: Sequence[VariableEntry]) -> Statistic:
        """As the protocol has it."""
        scale = self.scale(variables)
        return Statistic.of(
            self.kind,
            self.variable,
            *self.others,
            id=self.id,
            by=self.by,
            bins=self.bins or 0,
            edges=[int(_steps(edge, scale)) for edge in self.edges],
            quantiles=[round(_steps(share, MILLION)) for share in self.quantiles],
            level=round(_steps(self.level, MILLION)),
        )


def _steps(number: float, scale: int | None) -> Fraction:
    """As a person wrote it: 0.1 is one tenth, not the nearest float."""
    return Fraction(str(number)) * (scale or 1)


class ReleaseEntry(_Struct, frozen=True, kw_only=True):
    """`mpc.study.Release` as a person writes it."""

    minimum_cell: Annotated[int, msgspec.Meta(ge=0)] = 0
    round_to: Annotated[int, msgspec.Meta(ge=0)] = 0


class Cohort(_Struct, frozen=True, kw_only=True):
    """Of whom: patients by name, and the fewest that will do (default: all of them)."""

    members: tuple[Name, ...]
    minimum: Positive | None = None


class StudyFile(_Struct, frozen=True, kw_only=True):
    """The whole file. Durations are seconds from the opening of a round."""

    id: Text
    title: Text
    purpose: Text
    legal_basis: str = ""
    """What permits it."""
    variables: tuple[VariableEntry, ...]
    statistics: tuple[StatisticEntry, ...]
    cohort: Cohort
    records: Positive = 1
    """The most that one member holds: 1 is a person, more a practice."""
    range: Int64 | None = None
    assume_in_range: bool = False
    publish: Literal["hospital", "members"] = "hospital"
    deadline: Positive = 60
    answer_within: Positive | None = None
    """Default: half of the deadline."""
    ready_within: Positive | None = None
    """Default: four fifths of the deadline."""
    release: ReleaseEntry = ReleaseEntry()
    schedule: Schedule | None = None
    """When the hospital opens rounds by itself; None: when a person asks for one."""
    topology: Literal["direct", "relay"] | None = None
    """How every member must be reached; None: as the hospital's configuration says of each."""

    def problems(self) -> Iterator[Problem]:
        """Edges are whole steps of their variable."""
        for place, entry in enumerate(self.statistics):
            scale = entry.scale(self.variables)
            for at, edge in enumerate(entry.edges):
                if _steps(edge, scale).denominator != 1:
                    text = f"is no whole number of steps of 1/{scale or 1}; change it or the scale of {entry.variable}"
                    yield Problem(("statistics", place, "edges", at), text)

    def study(self, consortium: str) -> Study:
        """The study with its defaults filled in; not checked."""
        members = [Identity(consortium, Role.PATIENT, name).uri for name in self.cohort.members]
        return Study(
            id=self.id,
            title=self.title,
            purpose=self.purpose,
            variables=tuple(entry.variable() for entry in self.variables),
            statistics=tuple(entry.statistic(self.variables) for entry in self.statistics),
            members=tuple(sorted(members)),
            minimum=len(members) if self.cohort.minimum is None else self.cohort.minimum,
            range=self.range,
            assume_in_range=self.assume_in_range,
            publish=self.publish,
            answer_within=self.deadline // 2 if self.answer_within is None else self.answer_within,
            ready_within=self.deadline * 4 // 5 if self.ready_within is None else self.ready_within,
            deadline=self.deadline,
            records=self.records,
            legal_basis=self.legal_basis,
            release=Release(self.release.minimum_cell, self.release.round_to),
        )


@dataclass(frozen=True, slots=True)
class Planned:
    """A study as the hospital has it."""

    study: Study
    file: StudyFile
    path: Path


def load_study(path: Path, consortium: str, patients: Mapping[str, str] | None = None) -> Planned:
    """The study in the file, checked; `patients` as in `load_studies`. Raises StudyError that lists every problem, one a line."""
    planned, problems = _read(path, consortium, patients)
    if planned is None:
        raise StudyError("\n".join(problems))
    return planned


class StudyDirectory:
    """The studies of a directory, read again only when a file in it has changed: that takes longer than a small round."""

    def __init__(self) -> None:
        self._seen: object = None
        self._studies: dict[str, Planned] = {}

    def read(self, directory: Path, consortium: str, patients: Mapping[str, str]) -> dict[str, Planned]:
        """As `load_studies`, of the files as they are now."""
        seen = (directory, consortium, frozenset(patients.items()), _state_of(directory))
        if self._seen != seen:
            self._studies = load_studies(directory, consortium, patients)
            self._seen = seen
        return self._studies


def load_studies(directory: Path, consortium: str, patients: Mapping[str, str] | None = None) -> dict[str, Planned]:
    """The studies of every *.yaml in the directory, by id. Raises StudyError that lists every problem of all of them.

    With `patients`, by name where each is reached, a study with another member is a problem.
    """
    try:
        paths = sorted(directory.iterdir())
    except OSError as error:
        raise StudyError(f"{directory}: cannot be listed ({error.strerror}); make the directory of studies") from None
    found: dict[str, Planned] = {}
    problems: list[str] = []
    for path in paths:
        if path.suffix == ".yml":
            problems.append(f"{path}: a study's file ends in .yaml; rename it")
        if path.suffix != ".yaml":
            continue
        planned, wrong = _read(path, consortium, patients)
        problems += wrong
        if planned is not None:
            if planned.study.id in found:
                other = found[planned.study.id].path
                problems.append(f"{path}: study {planned.study.id!r} is in {other} too; give each study its own id")
            found[planned.study.id] = planned
    if problems:
        raise StudyError("\n".join(problems))
    return found


def _state_of(directory: Path) -> object:
    """What differs whenever a study in the directory may: of each file its name, number, times and size."""
    try:
        found = [(entry.name, entry.stat()) for entry in os.scandir(directory)]
    except OSError:
        return object()  # equal to nothing: whoever reads the directory says what is wrong
    return frozenset((name, file.st_ino, file.st_mtime_ns, file.st_ctime_ns, file.st_size) for name, file in found)


def _read(path: Path, consortium: str, patients: Mapping[str, str] | None) -> tuple[Planned | None, list[str]]:
    """The checked study, or None and what is wrong."""
    found = examine(path, StudyFile)
    if found.value is None:
        return None, list(found.problems)
    file, study = found.value, found.value.study(consortium)
    problems = {problem: _place(study, problem) for problem in rules.problems(study)}
    of_the_rest = rules.problems(msgspec.structs.replace(study, statistics=()))
    for at, statistic in enumerate(study.statistics):
        for problem in _problems_alone(study, statistic, of_the_rest):
            of_range = study.range is not None and problem.startswith(f"study {study.id}: ")
            problems[problem] = ("range",) if of_range else ("statistics", at)
    if not problems:
        try:
            plan(study)
            if any(statistic.kind == LogisticRegression.kind for statistic in study.statistics):
                Fit.start(study)
        except StudyError as error:
            problems = {problem: _statistic_of(study, problem) for problem in str(error).splitlines()}
    told = [found.at(place, problem) for problem, place in problems.items()]
    told += [found.at(("cohort", "members", at), text) for at, text in _unreachable(file, patients)]
    return (None if told else Planned(study, file, path)), told


def _problems_alone(study: Study, statistic: Statistic, of_the_rest: Sequence[str]) -> list[str]:
    """What would be wrong if this were the only statistic: nothing that two of them can do to each other, so it is its own.

    `of_the_rest` is what is wrong without any statistic.
    """
    alone = msgspec.structs.replace(study, statistics=(statistic,))
    wrong = [problem for problem in rules.problems(alone) if problem not in of_the_rest]
    if wrong or any(problem.startswith("variable ") and "is asked for but" not in problem for problem in of_the_rest):
        return wrong
    try:
        make_layout(alone)
    except StudyError as error:
        return str(error).splitlines()
    return []


def _statistic_of(study: Study, problem: str) -> Key:
    """Where the last statistic stands that a problem of the arithmetic names: one that does not go with those before it."""
    named = [
        at
        for at, statistic in enumerate(study.statistics)
        if problem.startswith(f"study {study.id}: {statistic.kind} of {statistic.variable}: ")
    ]
    return ("statistics", named[-1]) if named else ("statistics",)


def _unreachable(file: StudyFile, patients: Mapping[str, str] | None) -> Iterator[tuple[int, str]]:
    for at, name in enumerate(file.cohort.members if patients is not None else ()):
        place = (patients or {}).get(name)
        if place is None:
            yield at, f"{name} has no address; add it under 'patients' in the hospital's configuration"
        elif file.topology is not None and (place == RELAY) != (file.topology == RELAY):
            how = "through the relay" if place == RELAY else "directly"
            yield at, f"{name} is reached {how}, and topology is {file.topology}; change one of the two"


def _place(study: Study, problem: str) -> Key:
    """The key that a problem of `mpc.study` is about: it begins with its name, or else it is about the members."""
    first, second, *_ = problem.split(maxsplit=2)
    if second == "of":  # "sum of 'weight' is asked twice"
        return ("statistics",)
    if first == "variable":
        names = [variable.name for variable in study.variables]
        name = second.strip("':")
        return ("variables", len(names) - 1 - names[::-1].index(name)) if name in names else ("variables",)
    return {
        "id": ("id",),
        "it": ("statistics",),
        "range": ("range",),
        "assume_in_range": ("assume_in_range",),
        "minimum": ("cohort", "minimum"),
        "answer_within": ("deadline",),
        "records": ("records",),
        "release:": ("release",),
        "publish": ("publish",),
    }.get(first, ("cohort", "members"))
