"""What is asked: variables with bounds, statistics, of whom, by when, what for.

A study is fixed before a round opens and travels inside the Invitation, so that every patient decides on the same words.
Values are integers; a variable is a scalar (length 1) or a vector. `check_study` holds the rules that need no knowledge of
the statistics; `mpc.statistics.plan` proves the arithmetic.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated

from msgspec import Meta

from mpc.errors import IdentityError, StudyError, few
from mpc.identity import Identity, Role
from mpc.wire import Struct

MINIMUM_COHORT = 3
"""The floor of every floor: with two members each learns the other's value from the sum."""

MAX_PARTS = 1000
"""Variables, and statistics, of one study."""
MAX_MEMBERS = 1000
"""Members of one study, and so of a round."""

Word = Annotated[str, Meta(max_length=63)]
"""A name that errors repeat: a stranger's study must not make them long."""

PUBLISH_HOSPITAL = "hospital"
PUBLISH_MEMBERS = "members"

_INT64 = 2**63
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?", re.ASCII)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}", re.ASCII)


class Variable(Struct, frozen=True):
    """A value that each member holds: `length` integers, each in [minimum, maximum]."""

    name: Word
    unit: str
    minimum: int
    maximum: int
    length: int


class Statistic(Struct, frozen=True):
    """What is computed over a variable; `kind` is a key of `mpc.statistics.FAMILIES`."""

    kind: Word
    variable: Word


class Study(Struct, frozen=True):
    """One question. Durations are whole seconds from the opening of the round."""

    id: Word
    title: str
    purpose: str
    variables: Annotated[tuple[Variable, ...], Meta(max_length=MAX_PARTS)]
    statistics: Annotated[tuple[Statistic, ...], Meta(max_length=MAX_PARTS)]
    members: Annotated[tuple[str, ...], Meta(max_length=MAX_MEMBERS)]
    """Identity URIs of the patients that are asked, sorted."""
    minimum: int
    """The fewest members over whom the hospital runs the round."""
    range: int | None
    """R, the largest value that any total may take; None: members x (maximum - minimum) of each variable."""
    assume_in_range: bool
    """The author states that every total stays within `range` although the bounds do not prove it."""
    publish: Word
    """Who gets the result: "hospital", or "members" too."""
    answer_within: int
    """By then a patient has consented or declined."""
    ready_within: int
    """By then every member holds a share of every other."""
    deadline: int
    """By then the round has a result or is aborted."""

    def variable(self, name: str) -> Variable:
        """The variable called `name`. Raises StudyError when there is none."""
        for variable in self.variables:
            if variable.name == name:
                return variable
        raise StudyError(f"study {self.id}: there is no variable {name!r}; it has {few([v.name for v in self.variables])}")


def problems(study: Study) -> list[str]:
    """Everything that is wrong with the study's own words, each with what to do; empty when it can be asked."""
    found: list[str] = []
    if _SLUG.fullmatch(study.id) is None:
        found.append(f"id {study.id!r}: use lower-case letters, digits, '.', '-' and '_'")
    if study.publish not in (PUBLISH_HOSPITAL, PUBLISH_MEMBERS):
        found.append(f"publish {study.publish!r}: say {PUBLISH_HOSPITAL} or {PUBLISH_MEMBERS}")
    for what, count, most in (
        ("variables", len(study.variables), MAX_PARTS),
        ("statistics", len(study.statistics), MAX_PARTS),
        ("members", len(study.members), MAX_MEMBERS),
    ):
        if count > most:
            found.append(f"{count} {what} are too many; at most {most} fit one round")
    found += _variable_problems(study)
    found += _cohort_problems(study)
    found += _range_problems(study)
    if not 0 < study.answer_within < study.ready_within < study.deadline:
        found.append(
            f"answer_within {study.answer_within} s, ready_within {study.ready_within} s and deadline {study.deadline} s "
            f"must be positive and in this order"
        )
    return found


def check_study(study: Study) -> None:
    """Raises StudyError that lists every problem of the study."""
    found = problems(study)
    if found:
        raise StudyError("\n".join(f"study {study.id}: {problem}" for problem in found))


def _variable_problems(study: Study) -> list[str]:
    found: list[str] = []
    names = Counter(variable.name for variable in study.variables)
    found += [f"variable {name!r} is there twice; give each its own name" for name in sorted(names) if names[name] > 1]
    for variable in study.variables:
        if _NAME.fullmatch(variable.name) is None:
            found.append(f"variable {variable.name!r}: a name begins with a letter and has letters, digits, '_', '.', '-'")
        if not -_INT64 <= variable.minimum < variable.maximum < _INT64:
            found.append(
                f"variable {variable.name}: bounds [{variable.minimum}, {variable.maximum}] must rise and lie within "
                f"[-2^63, 2^63 - 1]"
            )
        if variable.length < 1:
            found.append(f"variable {variable.name}: length {variable.length} must be at least 1")
    if not study.statistics:
        found.append("it asks for no statistic; add one under 'statistics'")
    asked = Counter((statistic.kind, statistic.variable) for statistic in study.statistics)
    found += [f"{kind} of {name!r} is asked twice; remove one" for kind, name in sorted(asked) if asked[kind, name] > 1]
    for statistic in study.statistics:
        if statistic.variable not in names:
            found.append(f"{statistic.kind} of {statistic.variable!r}: no such variable; it has {few(list(names))}")
    used = {statistic.variable for statistic in study.statistics}
    found += [f"variable {name!r} is asked for but no statistic uses it; remove it" for name in names if name not in used]
    return found


def _cohort_problems(study: Study) -> list[str]:
    found: list[str] = []
    for uri in study.members:
        try:
            patient = Identity.parse(uri).role is Role.PATIENT
        except IdentityError as error:
            found.append(f"member {error}")
        else:
            if not patient:
                found.append(f"{uri} is no patient; only patients are members")
    times = Counter(study.members)
    found += [f"{uri} is a member twice; name each patient once" for uri in sorted(times) if times[uri] > 1]
    if len(times) < MINIMUM_COHORT:
        found.append(
            f"{len(times)} patients are too few: with fewer than {MINIMUM_COHORT} the sum gives values away; "
            f"name at least {MINIMUM_COHORT}"
        )
    if list(study.members) != sorted(study.members):
        found.append("the members are not in order; sort them")
    if not MINIMUM_COHORT <= study.minimum <= max(len(study.members), MINIMUM_COHORT):
        found.append(f"minimum {study.minimum} must lie between {MINIMUM_COHORT} and the {len(study.members)} members named")
    return found


def _range_problems(study: Study) -> list[str]:
    if study.range is None:
        return ["assume_in_range is set but no range is given; give 'range' or remove it"] if study.assume_in_range else []
    if not 0 < study.range < _INT64:
        return [f"range {study.range} must be positive and at most 2^63 - 1"]
    return []
