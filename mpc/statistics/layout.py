"""Where every element of a study's statistics lies: in which segment, between which bounds (protocol.md, "Arithmetic").

A statistic's elements are, in this order: the records left out, if it may leave out any; then for each group (one without `by`)
the number of records, unless that is known, and the elements of its family. A member adds the sum over its records, less the
lowest that it can be, so that nothing added is negative.

An element whose total over all members reaches T takes as many bytes as T has. The elements of one size share a segment, whose
modulus is the largest T among them and one: no element pays for another's size, and a round never has more than eight segments,
each of which costs every pair of members a key derivation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mpc.errors import StudyError
from mpc.ring import MAX_MODULUS, Ring, Vector
from mpc.statistics.columns import Records
from mpc.statistics.component import Asked, Block, Family, Sums, Values
from mpc.statistics.families import FAMILIES
from mpc.study import CATEGORY, USUAL_LEVEL, Statistic, Study

MAX_PIECES = 100_000
"""Stretches of elements with bounds of their own, in one study."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a round: `length` elements modulo `modulus`."""

    modulus: int
    length: int

    @property
    def ring(self) -> Ring:
        """The integers modulo `modulus`."""
        return Ring(self.modulus)


@dataclass(frozen=True, slots=True)
class Piece:
    """Elements of a statistic that follow each other and have the same bounds."""

    start: int
    """In the statistic's own vector."""
    length: int
    low: int
    """The least that one member adds."""
    width: int
    """The most that one member adds, less `low`."""
    segment: int
    at: int
    """In the segment."""


@dataclass(frozen=True, slots=True)
class Part:
    """One statistic in a layout."""

    family: Family
    asked: Asked
    length: int
    pieces: tuple[Piece, ...]

    @property
    def groups(self) -> int:
        """Categories of `by`, or 1."""
        return len(self.asked.by.categories) if self.asked.by else 1


@dataclass(frozen=True, slots=True)
class Layout:
    """A whole study."""

    segments: tuple[Segment, ...]
    parts: tuple[Part, ...]
    """One a statistic, in the study's order."""

    @property
    def length(self) -> int:
        """Elements of all segments."""
        return sum(segment.length for segment in self.segments)

    @property
    def octets(self) -> int:
        """Bytes of one member's packed vector."""
        return sum(segment.length * segment.ring.width for segment in self.segments)


def ask(study: Study, statistic: Statistic) -> tuple[Family, Asked]:
    """A statistic with its family and variables. Raises StudyError for a kind or a variable that is not known."""
    family = FAMILIES.get(statistic.kind)
    if family is None:
        raise StudyError(
            f"study {study.id}: there is no statistic {statistic.kind!r}; this version computes {', '.join(FAMILIES)}"
        )
    variables = tuple(study.variable(name) for name in (statistic.variable, *statistic.others))
    by = study.variable(statistic.by) if statistic.by else None
    return family, Asked(statistic, variables, by, study.records, len(study.members))


def problems(family: Family, asked: Asked) -> list[str]:
    """What is wrong with a question, by the rules of all families, or if nothing is, by the family's own."""
    return [*_common_problems(family, asked)] or [*family.problems(asked)]


def _common_problems(family: Family, asked: Asked) -> Iterator[str]:
    statistic = asked.statistic
    if len(statistic.others) > family.most_others:
        yield f"it takes {f'at most {family.most_others} further variables' if family.most_others else 'one variable'}"
    if len(statistic.others) < family.least_others:
        yield f"it needs {family.others} beside {statistic.variable}; name what is missing under 'others'"
    given = {
        "bins": statistic.bins != 0,
        "edges": bool(statistic.edges),
        "quantiles": bool(statistic.quantiles),
        "level": statistic.level != USUAL_LEVEL,
        "coefficients": bool(statistic.coefficients),
    }
    for name in [name for name, there in given.items() if there and name not in family.takes]:
        yield f"{name!r} means nothing here; remove it"
    for variable in asked.variables:
        if variable.length > 1 and not (family.vectors and variable is asked.variables[0]):
            yield f"{variable.name} has {variable.length} values a record; name a variable of length 1"
    if asked.by is not None:
        if not family.grouped:
            yield "it cannot be computed 'by' a category; make a study of each group"
        if asked.by.type != CATEGORY:
            yield f"'by' {asked.by.name}: a group is a category; give it the type 'category' and its 'categories'"


def make_layout(study: Study) -> Layout:
    """The layout of a round over the members of a study that `check_study` has passed.

    Raises StudyError, with the arithmetic shown, when a statistic cannot be asked so or a total does not fit.
    """
    drafts: list[tuple[Family, Asked, list[_Range]]] = []
    found: list[str] = []
    if study.range is not None and any(statistic.kind != "sum" for statistic in study.statistics):
        found.append(f"study {study.id}: range {study.range}: only sums have one; remove 'range', the bounds give all rings")
    for statistic in study.statistics:
        family, asked = ask(study, statistic)
        what = f"study {study.id}: {statistic.kind} of {statistic.variable}"
        wrong = problems(family, asked)
        found += [f"{what}: {problem}" for problem in wrong]
        if not wrong:
            drafts.append((family, asked, _ranges(family, asked, what)))
        if sum(len(ranges) for _, _, ranges in drafts) > MAX_PIECES:
            raise StudyError(f"study {study.id}: it adds up too many different numbers; ask for fewer statistics or groups")
    found += _two_grids(study)
    if found:
        raise StudyError("\n".join(found))
    totals = [[_total(study, asked, one) for one in ranges] for _, asked, ranges in drafts]
    return _place(drafts, totals)


def _two_grids(study: Study) -> Iterator[str]:
    """With a smallest cell, bins of one variable that cross each other: what lies between two edges may be one record."""
    grids: dict[str, tuple[int, tuple[int, ...]]] = {}
    for statistic in study.statistics if study.release.minimum_cell else ():
        if statistic.kind in FAMILIES and "bins" in FAMILIES[statistic.kind].takes:
            grid = statistic.bins, statistic.edges
            if grids.setdefault(statistic.variable, grid) != grid:
                yield (
                    f"study {study.id}: {statistic.kind} of {statistic.variable}: it has other bins than another statistic of "
                    f"{statistic.variable}, and what lies between can be less than the release rule's minimum_cell; give all of "
                    f"them the same 'bins' or 'edges'"
                )


@dataclass(frozen=True, slots=True)
class _Range:
    """Elements that follow each other, and what one member adds to each."""

    low: int
    span: int
    """What one record adds at most, less the least."""
    width: int
    length: int
    label: str


def _ranges(family: Family, asked: Asked, what: str) -> list[_Range]:
    blocks: list[Block] = []
    if family.counted or not asked.one_each:
        blocks.append(Block(0, 1, label="number of records"))
    blocks += family.blocks(asked)
    group = _joined(_range(asked, block, one_each=asked.one_each) for block in blocks)
    groups = len(asked.by.categories) if asked.by else 1
    if len(group) * groups > MAX_PIECES:
        raise StudyError(f"{what}: it adds up too many different numbers; ask for fewer variables or groups")
    left_out = [_range(asked, Block(0, 1, label="records left out"), one_each=False)] if asked.omits else []
    return [*_joined([*left_out, *(one for _ in range(groups) for one in group)])]


def _range(asked: Asked, block: Block, *, one_each: bool) -> _Range:
    if one_each:
        span = block.high - block.low
        return _Range(block.low, span, span, block.length, block.label)
    low, high = min(0, block.low), max(0, block.high)
    return _Range(asked.records * low, high - low, asked.records * (high - low), block.length, block.label)


def _joined(ranges: Sequence[_Range] | Iterator[_Range]) -> list[_Range]:
    """Neighbours with the same bounds as one."""
    joined: list[_Range] = []
    for one in ranges:
        last = joined[-1] if joined else None
        if last is not None and (last.low, last.width) == (one.low, one.width):
            joined[-1] = _Range(last.low, last.span, last.width, last.length + one.length, last.label)
        else:
            joined.append(one)
    return joined


def _total(study: Study, asked: Asked, one: _Range) -> int:
    """The largest total of these elements. Raises StudyError when it fits no ring, or not the study's own range."""
    statistic, members = asked.statistic, asked.members
    what = f"study {study.id}: {statistic.kind} of {statistic.variable}{f': {one.label}' if one.label else ''}"
    needed = members * one.width
    records = f" x {asked.records} records" if one.width != one.span else ""
    arithmetic = f"{members} members{records} x {one.span} = {needed}"
    size = needed if study.range is None else study.range
    remedy = "narrow the bounds" if asked.records == 1 else "narrow the bounds, or ask for fewer 'records'"
    if any(variable.scale > 1 for variable in asked.variables):
        remedy += ", or lower the 'scale'"
    if size > MAX_MODULUS - 1:
        raise StudyError(f"{what}: {arithmetic} is above 2^63 - 1; {remedy}")
    if not (members * one.low >= -MAX_MODULUS and members * one.low + size < MAX_MODULUS):
        raise StudyError(f"{what}: results between {members * one.low} and {members * one.low + size} leave 64 bits; {remedy}")
    if one.width > size:
        # Otherwise a patient whose value does not fit would have to say so, and ever smaller ranges would read the value.
        raise StudyError(
            f"{what}: one value may be {one.width}, which is above the range {size}; widen 'range' or narrow the bounds"
        )
    if needed > size and not study.assume_in_range:
        raise StudyError(
            f"{what}: {arithmetic} is above the range {size}; widen 'range', narrow the bounds, or state 'assume_in_range: true'"
        )
    return size


def _octets(total: int) -> int:
    return (total.bit_length() + 7) // 8


def _place(drafts: list[tuple[Family, Asked, list[_Range]]], totals: list[list[int]]) -> Layout:
    largest: dict[int, int] = {}
    for total in (total for ones in totals for total in ones):
        largest[_octets(total)] = max(total, largest.get(_octets(total), 1))
    order = {octets: index for index, octets in enumerate(sorted(largest))}
    lengths = [0] * len(order)
    parts = []
    for (family, asked, ranges), sizes in zip(drafts, totals, strict=True):
        pieces, start = [], 0
        for one, total in zip(ranges, sizes, strict=True):
            segment = order[_octets(total)]
            pieces.append(Piece(start, one.length, one.low, one.width, segment, lengths[segment]))
            start += one.length
            lengths[segment] += one.length
        parts.append(Part(family, asked, start, tuple(pieces)))
    segments = tuple(Segment(largest[octets] + 1, lengths[index]) for octets, index in order.items())
    return Layout(segments, tuple(parts))


def add_up(part: Part, records: Records) -> Values:
    """What one member's records add to a statistic, shape (part.length,), before anything is taken off."""
    asked, family = part.asked, part.family
    columns = [records.columns[variable.name] for variable in asked.variables]
    groups = records.columns[asked.by.name] if asked.by else None
    kept, count = records.present(asked), records.count
    if kept is not None:
        columns = [column[kept] for column in columns]
        groups = groups[kept] if groups is not None else None
        count = int(kept.sum())
    pieces = [np.array([records.count - count], dtype=np.int64)] if asked.omits else []
    counted = family.counted or not asked.one_each
    for group in range(part.groups):
        if groups is not None:
            rows = groups == group
            mine, count = [column[rows] for column in columns], int(rows.sum())
        else:
            mine = columns
        pieces += [np.array([count], dtype=np.int64)] if counted else []
        pieces.append(family.totals(asked, mine))
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def take_apart(part: Part, totals: Values, members: int) -> tuple[Sums, ...]:
    """The totals of a statistic over `members` members, group by group."""
    asked = part.asked
    left_out = int(totals[0]) if asked.omits else 0
    counted = part.family.counted or not asked.one_each
    groups = totals[int(asked.omits) :].reshape(part.groups, -1)
    return tuple(
        Sums(int(row[0]), left_out, row[1:], members) if counted else Sums(members, left_out, row, members) for row in groups
    )


def write(layout: Layout, vectors: Sequence[Values]) -> tuple[Vector, ...]:
    """One member's vectors, one a part, as one vector a segment: each element less the lowest that it can be."""
    written = tuple(np.empty(segment.length, dtype=np.uint64) for segment in layout.segments)
    for part, vector in zip(layout.parts, vectors, strict=True):
        octets = vector.astype(np.int64, copy=False).view(np.uint64)
        for piece in part.pieces:
            # Two's complement subtraction modulo 2^64 is exact here: the difference lies in [0, 2^63 - 1].
            np.subtract(
                octets[piece.start : piece.start + piece.length],
                np.uint64(piece.low % 2**64),
                out=written[piece.segment][piece.at : piece.at + piece.length],
            )
    return written


def unwrite(layout: Layout, segments: Sequence[Vector], members: int) -> tuple[Values, ...]:
    """The totals over `members` members, one array a part. Raises ValueError for a total that their bounds do not allow."""
    vectors = []
    for part in layout.parts:
        vector = np.empty(part.length, dtype=np.uint64)
        for piece in part.pieces:
            total = segments[piece.segment][piece.at : piece.at + piece.length]
            if total.size and int(total.max()) > members * piece.width:
                raise ValueError("a total lies outside what the members' bounds allow")
            np.add(total, np.uint64(members * piece.low % 2**64), out=vector[piece.start : piece.start + piece.length])
        vectors.append(vector.view(np.int64))
    return tuple(vectors)
