"""A study as a person writes it in YAML, and the `mpc.study.Study` that it becomes."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from mpc import study as rules
from mpc.errors import StudyError
from mpc.identity import Identity, Role
from mpc.statistics import plan
from mpc.study import Statistic, Study, Variable
from nodes.fields import Int64, Name, Positive, Text
from nodes.yaml_struct import Findings, Key, examine


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of what a study file holds."""


class VariableEntry(_Struct, frozen=True, kw_only=True):
    """An entry of `variables`."""

    name: Text
    unit: str = ""
    bounds: tuple[Int64, Int64]
    length: Positive = 1

    def variable(self) -> Variable:
        """As the protocol has it."""
        return Variable(self.name, self.unit, self.bounds[0], self.bounds[1], self.length)


class StatisticEntry(_Struct, frozen=True, kw_only=True):
    """An entry of `statistics`."""

    kind: Text
    variable: Text


class Cohort(_Struct, frozen=True, kw_only=True):
    """Of whom: patients by name, and the fewest that will do (default: all of them)."""

    members: tuple[Name, ...]
    minimum: Positive | None = None


class StudyFile(_Struct, frozen=True, kw_only=True):
    """The whole file. Durations are seconds from the opening of a round."""

    id: Text
    title: Text
    purpose: Text
    variables: tuple[VariableEntry, ...]
    statistics: tuple[StatisticEntry, ...]
    cohort: Cohort
    range: Int64 | None = None
    assume_in_range: bool = False
    publish: Literal["hospital", "members"] = "hospital"
    deadline: Positive = 60
    answer_within: Positive | None = None
    """Default: half of the deadline."""
    ready_within: Positive | None = None
    """Default: four fifths of the deadline."""

    def study(self, consortium: str) -> Study:
        """The study with its defaults filled in; not checked."""
        members = [Identity(consortium, Role.PATIENT, name).uri for name in self.cohort.members]
        return Study(
            id=self.id,
            title=self.title,
            purpose=self.purpose,
            variables=tuple(entry.variable() for entry in self.variables),
            statistics=tuple(Statistic(entry.kind, entry.variable) for entry in self.statistics),
            members=tuple(sorted(members)),
            minimum=len(members) if self.cohort.minimum is None else self.cohort.minimum,
            range=self.range,
            assume_in_range=self.assume_in_range,
            publish=self.publish,
            answer_within=self.deadline // 2 if self.answer_within is None else self.answer_within,
            ready_within=self.deadline * 4 // 5 if self.ready_within is None else self.ready_within,
            deadline=self.deadline,
        )


def load_study(path: Path, consortium: str) -> Study:
    """The study in the file, checked. Raises StudyError that lists every problem, one a line."""
    study, problems = _read(path, consortium, None)
    if study is None:
        raise StudyError("\n".join(problems))
    return study


class StudyDirectory:
    """The studies of a directory, read again only when a file in it has changed: that takes longer than a small round."""

    def __init__(self) -> None:
        self._seen: object = None
        self._studies: dict[str, Study] = {}

    def read(self, directory: Path, consortium: str, patients: Collection[str]) -> dict[str, Study]:
        """As `load_studies`, of the files as they are now."""
        seen = (directory, consortium, frozenset(patients), _state_of(directory))
        if self._seen != seen:
            self._studies = load_studies(directory, consortium, patients)
            self._seen = seen
        return self._studies


def load_studies(directory: Path, consortium: str, patients: Collection[str] | None = None) -> dict[str, Study]:
    """The studies of every *.yaml in the directory, by id. Raises StudyError that lists every problem of all of them.

    With `patients`, the names whose addresses are known, a study with another member is a problem.
    """
    try:
        paths = sorted(directory.iterdir())
    except OSError as error:
        raise StudyError(f"{directory}: cannot be listed ({error.strerror}); make the directory of studies") from None
    found: dict[str, tuple[Study, Path]] = {}
    problems: list[str] = []
    for path in paths:
        if path.suffix == ".yml":
            problems.append(f"{path}: a study's file ends in .yaml; rename it")
        if path.suffix != ".yaml":
            continue
        study, wrong = _read(path, consortium, patients)
        problems += wrong
        if study is not None:
            if study.id in found:
                other = found[study.id][1]
                problems.append(f"{path}: study {study.id!r} is in {other} too; give each study its own id")
            found[study.id] = (study, path)
    if problems:
        raise StudyError("\n".join(problems))
    return {name: study for name, (study, _) in found.items()}


def _state_of(directory: Path) -> object:
    """What differs whenever a study in the directory may: of each file its name, number, times and size."""
    try:
        found = [(entry.name, entry.stat()) for entry in os.scandir(directory)]
    except OSError:
        return object()  # equal to nothing: whoever reads the directory says what is wrong
    return frozenset((name, file.st_ino, file.st_mtime_ns, file.st_ctime_ns, file.st_size) for name, file in found)


def _read(path: Path, consortium: str, patients: Collection[str] | None) -> tuple[Study | None, list[str]]:
    """The checked study, or None and what is wrong."""
    found = examine(path, StudyFile)
    if found.value is None:
        return None, list(found.problems)
    study = found.value.study(consortium)
    problems = [found.at(_place(problem), problem) for problem in rules.problems(study)]
    if not problems:
        try:
            plan(study, len(study.members))
        except StudyError as error:
            problems.append(found.at(("range",) if study.range is not None else ("variables",), str(error)))
    problems += _unreachable(found, found.value, patients)
    return (None if problems else study), problems


def _unreachable(found: Findings[StudyFile], file: StudyFile, patients: Collection[str] | None) -> Iterator[str]:
    for at, name in enumerate(file.cohort.members):
        if patients is not None and name not in patients:
            text = f"{name} has no address; add it under 'patients' in the hospital's configuration"
            yield found.at(("cohort", "members", at), text)


def _place(problem: str) -> Key:
    """The key that a problem of `mpc.study` is about: it begins with its name, or else it is about the members."""
    first, second, *_ = problem.split(maxsplit=2)
    if second == "of":  # "sum of 'weight': no such variable"
        return ("statistics",)
    return {
        "id": ("id",),
        "variable": ("variables",),
        "it": ("statistics",),
        "range": ("range",),
        "assume_in_range": ("assume_in_range",),
        "minimum": ("cohort", "minimum"),
        "answer_within": ("deadline",),
    }.get(first, ("cohort", "members"))
