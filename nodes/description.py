"""A study in words: what it asks of whom, what it reveals to whom, and what a round of it takes."""

from __future__ import annotations

from collections.abc import Iterator

from mpc.errors import few
from mpc.identity import Identity
from mpc.release import in_words
from mpc.statistics import Layout, make_layout
from mpc.statistics.grid import Grid
from mpc.statistics.layout import Part
from mpc.statistics.newton import MOST_ROUNDS
from mpc.study import CATEGORY, MILLION, PUBLISH_MEMBERS, Study, Variable
from nodes.cost import cost
from nodes.fitting import is_fit
from nodes.studies import Planned

_MOST_NAMES = 20
_SEEN = "who took part, who did not, and when"
_DECIMALS = 4


def describe(planned: Planned) -> list[tuple[str, list[str]]]:
    """Headings, each with its lines."""
    study, file = planned.study, planned.file
    layout = make_layout(study)
    return [
        ("study", [f"{study.id}: {study.title}"]),
        ("what for", [study.purpose]),
        ("legal basis", [study.legal_basis or "not stated"]),
        ("asks", [*_cohort(study), *(_variable(variable) for variable in study.variables)]),
        ("computes", [_computed(part) for part in layout.parts]),
        ("the hospital sees", ["of all together, and of nobody alone:", *(f"- {line}" for line in _revealed(layout)), _SEEN]),
        ("members see", [_published(study)]),
        ("release", [in_words(study.release) or "everything is told, exactly"]),
        ("rounds", [*_rounds(study), f"schedule: {file.schedule or 'when a person opens one'}", *_deadlines(study)]),
        ("rings", list(_rings(layout))),
        ("takes", list(_takes(study, layout))),
    ]


def _cohort(study: Study) -> Iterator[str]:
    names = [Identity.parse(uri).name for uri in study.members]
    yield f"{len(names)} patients: {few(names, _MOST_NAMES)}; at least {study.minimum} must take part"
    each = "one record each: a person" if study.records == 1 else f"up to {study.records:,} records each: a practice"
    yield f"{each}; of every record:"


def _variable(variable: Variable) -> str:
    if variable.type == CATEGORY:
        what = f"one of {few(variable.categories, _MOST_NAMES)}"
    else:
        low, high = (_number(variable, steps) for steps in (variable.minimum, variable.maximum))
        kind = f"a number in steps of 1/{variable.scale}" if variable.rounded else "a whole number"
        what = f"{kind}, {low} to {high}{f' {variable.unit}' if variable.unit else ''}"
    many = f", {variable.length:,} of them" if variable.length > 1 else ""
    gone = "a record without it is left out" if variable.omits else "must not be missing"
    return f"- {variable.name}{f' ({variable.code})' if variable.code else ''}: {what}{many}; {gone}"


def _number(variable: Variable, steps: int) -> str:
    return f"{steps:,}" if variable.scale == 1 else f"{steps / variable.scale:,.{_DECIMALS}f}".rstrip("0").rstrip(".")


def _computed(part: Part) -> str:
    statistic = part.asked.statistic
    words = f"{statistic.name}: {statistic.kind} of {statistic.variable}"
    if statistic.others:
        words += f" with {few(statistic.others, _MOST_NAMES)}"
    if statistic.by:
        words += f", for each {statistic.by} ({part.groups} groups)"
    if statistic.bins:
        made = Grid.of(part.asked).cells
        words += f", in {made:,} bins" + (f", not {statistic.bins:,}: each is a whole number of steps" * (made != statistic.bins))
    elif statistic.edges:
        words += f", in {len(statistic.edges) - 1:,} given bins"
    if statistic.quantiles:
        words += f", at {', '.join(f'{share / MILLION:g}' for share in statistic.quantiles)}"
    if "level" in part.family.takes:
        words += f", intervals of {statistic.level / MILLION:.4g}"
    return words


def _revealed(layout: Layout) -> Iterator[str]:
    for part in layout.parts:
        each = ", in each group" if part.asked.by is not None else ""
        left_out = ", and how many records were left out" if part.asked.omits else ""
        total = "" if part.asked.one_each else "the number of records, "
        yield f"{part.asked.statistic.name}: {total}{part.family.reveals}{each}{left_out}"


def _published(study: Study) -> str:
    if study.publish == PUBLISH_MEMBERS:
        return "the result; all but one of them together can then work out the last one's part"
    return "nothing of the result, only that there is one"


def _rounds(study: Study) -> Iterator[str]:
    if is_fit(study):
        yield f"one for each step of the fit, often 5 to 10, at most {MOST_ROUNDS}; all over the members of the first"
    else:
        yield "one"


def _deadlines(study: Study) -> Iterator[str]:
    yield f"answers within {study.answer_within} s, shares within {study.ready_within} s, an end within {study.deadline} s"


def _rings(layout: Layout) -> Iterator[str]:
    """Members x bound is below each modulus, as `plan` has shown."""
    for number, segment in enumerate(layout.segments):
        yield f"segment {number}: {segment.length:,} numbers modulo {segment.modulus:,}, {segment.ring.width} bytes each"
    yield f"together {layout.length:,} numbers, {layout.octets:,} bytes"


def _takes(study: Study, layout: Layout) -> Iterator[str]:
    found = cost(study, layout)
    yield f"a patient sends about {found.sent:,} bytes a round and receives about {found.received:,}"
    yield f"a round takes about {_seconds(found.apart)} between machines, {_seconds(found.together)} with all on one of two cores"
    yield "longer where somebody answers late: a round waits for everybody until its deadlines"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
