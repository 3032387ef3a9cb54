"""What is asked: variables with bounds, statistics, of whom, by when, what for.

A study is fixed before a round opens and travels inside the Invitation, so that every patient decides on the same words.
Inside, all values are integers: a number counts the steps of 1/scale of its unit, a category is its place in the list. A
variable is a scalar (length 1) or a vector. `check_study` holds the rules that need no knowledge of the statistics;
`mpc.statistics.plan` proves the arithmetic.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Final

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
MAX_RECORDS = 10**9
"""Records that one node may hold."""
MAX_OTHERS = 200
"""Further variables of one statistic."""
MAX_EDGES = 100_000
"""Edges of bins that are listed one by one."""
LEAST_CELL = 3
"""The least `minimum_cell`: in a cell of two, each knows the other."""
MILLION = 1_000_000
"""Probabilities and confidence levels are in millionths."""

USUAL_LEVEL = 950_000

INTEGER: Final = "integer"
FIXED: Final = "fixed"
CATEGORY: Final = "category"
TYPES = (INTEGER, FIXED, CATEGORY)

REFUSE: Final = "refuse"
OMIT: Final = "omit"

Word = Annotated[str, Meta(max_length=63)]
"""A name that errors repeat: a stranger's study must not make them long."""

PUBLISH_HOSPITAL = "hospital"
PUBLISH_MEMBERS = "members"

_INT64 = 2**63
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?", re.ASCII)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}", re.ASCII)


class Variable(Struct, frozen=True):
    """A value that each record has: `length` integers, each in [minimum, maximum]."""

    name: Word
    unit: str
    minimum: int
    maximum: int
    """In steps of 1/scale; of a category, 0 and the number of categories less 1."""
    length: int
    type: str
    """"integer"; "fixed": a number that is rounded to the nearest step; "category"."""
    scale: int
    """Steps in one unit; 1 unless the type is "fixed"."""
    categories: Annotated[tuple[Word, ...], Meta(max_length=MAX_PARTS)]
    code: str
    """What a terminology calls it, such as "LOINC 8480-6"; for people."""
    missing: str
    """What a record without this value does: "refuse" the round, or "omit" itself from the statistics of this variable."""

    @classmethod
    def number(
        cls,
        name: str,
        unit: str,
        minimum: int,
        maximum: int,
        length: int = 1,
        *,
        scale: int | None = None,
        code: str = "",
        missing: str = REFUSE,
    ) -> Variable:
        """A whole number, or with a scale a fixed-point one; the bounds are in its steps."""
        type_ = INTEGER if scale is None else FIXED
        return cls(name, unit, minimum, maximum, length, type_, scale or 1, (), code, missing)

    @classmethod
    def category(cls, name: str, categories: Sequence[str], *, code: str = "", missing: str = REFUSE) -> Variable:
        """One of these."""
        return cls(name, "", 0, len(categories) - 1, 1, CATEGORY, 1, tuple(categories), code, missing)

    @property
    def rounded(self) -> bool:
        """Whether a value may differ from what was measured by half a step."""
        return self.type == FIXED

    @property
    def omits(self) -> bool:
        """Whether a record may be without it."""
        return self.missing == OMIT


class Statistic(Struct, frozen=True):
    """What is computed over a variable; `kind` is a key of `mpc.statistics.FAMILIES`, which says what the rest means."""

    kind: Word
    variable: Word
    id: Word
    """What its result is called; empty: KIND-VARIABLE."""
    others: Annotated[tuple[Word, ...], Meta(max_length=MAX_OTHERS)]
    """Further variables: regressors, the event, the weight."""
    by: Word
    """A category: the statistic is computed for each of its categories."""
    bins: int
    """So many bins of one width over the variable's bounds."""
    edges: Annotated[tuple[int, ...], Meta(max_length=MAX_EDGES)]
    """Or the edges of the bins, in steps of the variable, rising; the last bin holds its upper edge."""
    quantiles: Annotated[tuple[int, ...], Meta(max_length=MAX_PARTS)]
    """Probabilities in millionths, 0 to 1,000,000."""
    level: int
    """Confidence level in millionths."""
    coefficients: Annotated[tuple[int, ...], Meta(max_length=MAX_PARTS)]
    """Where a fit of several rounds stands, in the family's own scale; empty in the first round."""

    @classmethod
    def of(
        cls,
        kind: str,
        variable: str,
        *others: str,
        id: str = "",
        by: str = "",
        bins: int = 0,
        edges: Sequence[int] = (),
        quantiles: Sequence[int] = (),
        level: int = USUAL_LEVEL,
    ) -> Statistic:
        """One with as much to say as there is; the first round of it."""
        return cls(kind, variable, id, others, by, bins, tuple(edges), tuple(quantiles), level, ())


class Release(Struct, frozen=True):
    """What of a result anybody sees, and how: see `mpc.release`."""

    minimum_cell: int
    """Figures are told of no fewer records than this: smaller cells of tables are told together with others, and smaller
    statistics not at all. 0: there is no such rule."""
    round_to: int
    """Counts of records are told as the nearest multiple of this; 0: exactly."""


UNRESTRICTED = Release(minimum_cell=0, round_to=0)
"""Everything is told as it is."""


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
    records: int
    """The most that one member holds: 1, a person, who has exactly one, or a practice's many, down to none."""
    legal_basis: str
    """What permits it, for people."""
    release: Release

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
    found += _statistic_problems(study)
    found += _cohort_problems(study)
    found += _range_problems(study)
    found += _release_problems(study)
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
        # -2^63 itself stands for a missing value.
        if variable.type != CATEGORY and not -_INT64 < variable.minimum < variable.maximum < _INT64:
            found.append(
                f"variable {variable.name}: bounds [{variable.minimum}, {variable.maximum}] must rise and lie within "
                f"[-2^63 + 1, 2^63 - 1]"
            )
        if variable.length < 1:
            found.append(f"variable {variable.name}: length {variable.length} must be at least 1")
        found += [f"variable {variable.name}: {problem}" for problem in _type_problems(variable)]
    return found


def _type_problems(variable: Variable) -> Iterator[str]:
    if variable.type not in TYPES:
        yield f"type {variable.type!r}: say {', '.join(TYPES)}"
    if variable.missing not in (REFUSE, OMIT):
        yield f"missing {variable.missing!r}: say {REFUSE} or {OMIT}"
    if not 1 <= variable.scale < _INT64:
        yield f"scale {variable.scale} must lie between 1 and 2^63 - 1"
    if variable.type != FIXED and variable.scale != 1:
        yield f"only the type {FIXED!r} has a scale; remove it or change the type"
    if variable.type != CATEGORY:
        if variable.categories:
            yield f"only the type {CATEGORY!r} has categories; remove them or change the type"
        return
    if len(variable.categories) < 2 or (variable.minimum, variable.maximum) != (0, len(variable.categories) - 1):
        yield f"its {len(variable.categories)} categories are numbered from 0; give at least two, and no bounds"
    if variable.length != 1:
        yield "a category has the length 1"
    times = Counter(variable.categories)
    yield from (f"category {name!r} is there twice; name each once" for name in sorted(times) if times[name] > 1)
    if "" in times:
        yield "a category without a name means a missing value; remove it"


def _statistic_problems(study: Study) -> list[str]:
    found: list[str] = []
    if not study.statistics:
        found.append("it asks for no statistic; add one under 'statistics'")
    names = dict.fromkeys(variable.name for variable in study.variables)
    asked = Counter((statistic.kind, statistic.variable) for statistic in study.statistics if not statistic.id)
    found += [f"{kind} of {name!r} is asked twice; remove one" for kind, name in sorted(asked) if asked[kind, name] > 1]
    ids = Counter(statistic.id for statistic in study.statistics if statistic.id)
    found += [f"it has two statistics with the id {name!r}; give each its own" for name in sorted(ids) if ids[name] > 1]
    for statistic in study.statistics:
        what = f"{statistic.kind} of {statistic.variable!r}"
        if statistic.id and _NAME.fullmatch(statistic.id) is None:
            found.append(f"{what}: id {statistic.id!r}: begin with a letter, then letters, digits, '_', '.', '-'")
        if statistic.variable not in names:
            found.append(f"{what}: no such variable; it has {few(list(names))}")
        further = [*statistic.others, *([statistic.by] if statistic.by else [])]
        found += [f"{what}: there is no variable {name!r}" for name in further if name not in names]
        times = Counter((statistic.variable, *further))
        found += [f"{what}: it names {name!r} twice; once is enough" for name in times if times[name] > 1]
        if not 0 < statistic.level < MILLION:
            found.append(f"{what}: a confidence level lies between 0 and 1")
    used = {name for statistic in study.statistics for name in (statistic.variable, *statistic.others, statistic.by)}
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
    if not 1 <= study.records <= MAX_RECORDS:
        found.append(f"records {study.records} must lie between 1 and {MAX_RECORDS}")
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


def _release_problems(study: Study) -> list[str]:
    found: list[str] = []
    cell, base = study.release.minimum_cell, study.release.round_to
    if cell and not LEAST_CELL <= cell <= MAX_RECORDS:
        # Of a count that is below 2 and not 0 everybody knows what it is.
        found.append(f"release: minimum_cell {cell} must lie between {LEAST_CELL} and {MAX_RECORDS}, or be 0 for no such rule")
    if base and not 2 <= base <= MAX_RECORDS:
        found.append(f"release: round_to {base} must lie between 2 and {MAX_RECORDS}, or be 0 for exact counts")
    if study.release != UNRESTRICTED and study.publish == PUBLISH_MEMBERS:
        found.append(
            f"release: no rule holds for members, who get the exact totals with their receipt; "
            f"publish to {PUBLISH_HOSPITAL} alone, or remove 'release'"
        )
    return found
