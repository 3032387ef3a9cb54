"""The statistics that a study may ask for, and how a study becomes segments of ring elements.

A family is one file beside this one and one line in FAMILIES. It encodes local values to non-negative integers and decodes
the total; everything between is addition, which is all that the protocol can do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from mpc.errors import StudyError
from mpc.ring import MAX_MODULUS, Ring, Vector
from mpc.statistics.component import Component, Values
from mpc.statistics.sum import Sum
from mpc.study import Study, Variable, check_study


class Family(Protocol):
    """One kind of statistic over one variable."""

    def component(self, variable: Variable, members: int) -> Component:
        """What each of `members` members contributes."""
        ...

    def encode(self, variable: Variable, values: Values) -> Vector:
        """Local values, shape (variable.length,), as integers in [0, largest]. Raises DataError when they do not fit."""
        ...

    def decode(self, variable: Variable, total: Vector, members: int) -> Values:
        """The statistic from the total over `members` members."""
        ...


FAMILIES: Mapping[str, Family] = {"sum": Sum()}


@dataclass(frozen=True, slots=True)
class Segment:
    """One statistic's part of a round: `length` elements modulo `modulus`."""

    modulus: int
    length: int

    @property
    def ring(self) -> Ring:
        """The integers modulo `modulus`."""
        return Ring(self.modulus)


def _component(study: Study, index: int, members: int) -> Component:
    statistic = study.statistics[index]
    family = FAMILIES.get(statistic.kind)
    if family is None:
        raise StudyError(
            f"study {study.id}: there is no statistic {statistic.kind!r}; this version computes {', '.join(FAMILIES)}"
        )
    return family.component(study.variable(statistic.variable), members)


def plan(study: Study, members: int) -> tuple[Segment, ...]:
    """The segments of a round over `members` members, one a statistic.

    Raises StudyError, with the arithmetic shown, when the study is not well-formed or members x bound does not fit R.
    """
    check_study(study)
    segments = []
    for index, statistic in enumerate(study.statistics):
        component = _component(study, index, members)
        needed = members * component.maximum
        size = study.range if study.range is not None else needed
        if size > MAX_MODULUS - 1:
            raise StudyError(
                f"study {study.id}: {statistic.kind} of {statistic.variable}: {members} members x {component.maximum} = {needed} "
                f"is above 2^63 - 1; narrow the bounds"
            )
        if not (component.offset >= -MAX_MODULUS and component.offset + size < MAX_MODULUS):
            raise StudyError(
                f"study {study.id}: {statistic.kind} of {statistic.variable}: results between {component.offset} and "
                f"{component.offset + size} leave 64 bits; narrow the bounds"
            )
        if component.maximum > size:
            # Otherwise a patient whose value does not fit would have to say so, and ever smaller ranges would read the value.
            raise StudyError(
                f"study {study.id}: {statistic.kind} of {statistic.variable}: one value may be {component.maximum}, "
                f"which is above the range {size}; widen 'range' or narrow the bounds"
            )
        if needed > size and not study.assume_in_range:
            raise StudyError(
                f"study {study.id}: {statistic.kind} of {statistic.variable}: {members} members x {component.maximum} = {needed} "
                f"is above the range {size}; widen 'range', narrow the bounds, or state 'assume_in_range: true'"
            )
        segments.append(Segment(size + 1, component.length))
    return tuple(segments)


def encode(study: Study, values: Mapping[str, Values]) -> tuple[Vector, ...]:
    """Local values as one vector a statistic, reduced in the ring that `plan` gives it.

    Raises DataError for a value that the study cannot take.
    """
    vectors = []
    for statistic in study.statistics:
        variable = study.variable(statistic.variable)
        vector = FAMILIES[statistic.kind].encode(variable, values[variable.name])
        vectors.append(vector)
    return tuple(vectors)


def decode(study: Study, totals: tuple[Vector, ...], members: int) -> tuple[Values, ...]:
    """The statistics, one array each. Raises ValueError when a total lies outside [0, members x bound]."""
    results = []
    for index, (statistic, total) in enumerate(zip(study.statistics, totals, strict=True)):
        if total.size and int(total.max()) > members * _component(study, index, members).maximum:
            raise ValueError("a total lies outside what the members' bounds allow")
        results.append(FAMILIES[statistic.kind].decode(study.variable(statistic.variable), total, members))
    return tuple(results)
