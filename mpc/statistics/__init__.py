"""The statistics that a study may ask for: local records become vectors of ring elements, totals become figures.

    plan(study)                          the segments of a round
    encode(study, values)                one member's records as a vector a segment
    decode(study, totals, members)       exact totals, an array a statistic: what a Result carries
    interpret(study, totals, members)    the figures that people read

Between encode and decode is addition, which is all that the protocol can do. A family is one file beside this one and one line
in `mpc.statistics.families`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from mpc.ring import Vector
from mpc.statistics import columns, grouped
from mpc.statistics.component import Values
from mpc.statistics.families import FAMILIES
from mpc.statistics.figures import Figures
from mpc.statistics.layout import Layout, Segment, add_up, make_layout, take_apart, unwrite, write
from mpc.study import Study, check_study

__all__ = ["FAMILIES", "Layout", "Segment", "decode", "encode", "interpret", "make_layout", "plan"]


@lru_cache(maxsize=16)  # a study is asked again and again; a layout may be too large to be remembered, its segments are few
def plan(study: Study) -> tuple[Segment, ...]:
    """The segments of a round over the study's members.

    Raises StudyError, with the arithmetic shown, when the study is not well-formed or members x bound does not fit.
    """
    check_study(study)
    return make_layout(study).segments


def encode(study: Study, values: Mapping[str, Values]) -> tuple[Vector, ...]:
    """Local values (see `columns.read`) as one vector a segment, reduced in the ring that `plan` gives it.

    Raises DataError for values that the study cannot take.
    """
    layout, records = make_layout(study), columns.read(study, values)
    return write(layout, [add_up(part, records) for part in layout.parts])


def decode(study: Study, totals: Sequence[Vector], members: int) -> tuple[Values, ...]:
    """Exact totals, an array a statistic. Raises ValueError when one lies outside what `members` members' bounds allow."""
    return unwrite(make_layout(study), totals, members)


def interpret(study: Study, totals: Sequence[Values], members: int) -> tuple[Figures, ...]:
    """What the decoded totals over `members` members say, one a statistic. What cannot be computed is there with its reason."""
    return tuple(
        grouped.figures(part.family, part.asked, take_apart(part, vector, members))
        for part, vector in zip(make_layout(study).parts, totals, strict=True)
    )
