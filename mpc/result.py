"""What a round releases, its one encoding, and the commitment to it that receipts carry.

A result holds exact totals, and `figures` makes of them what people read: whoever has the study and the result can do that again.
"""

from __future__ import annotations

import hmac

import numpy as np

from mpc.statistics import interpret
from mpc.statistics.component import Values
from mpc.statistics.figures import Figures
from mpc.study import Study
from mpc.wire import Struct

COMMITMENT_KEY_BYTES = 32


class StatisticResult(Struct, frozen=True):
    """One statistic: its totals as 8-byte little-endian two's complement integers."""

    kind: str
    variable: str
    values: bytes
    id: str
    """As in the study."""

    def array(self) -> Values:
        """The totals, shape (elements,), int64, in the order of `mpc.statistics.layout`."""
        return np.frombuffer(self.values, dtype="<i8").astype(np.int64, copy=False)


class Result(Struct, frozen=True):
    """The aggregate over the roster, and nothing else."""

    context: bytes
    members: int
    statistics: tuple[StatisticResult, ...]

    def plain(self) -> dict[str, dict[str, int | list[int]]]:
        """`{variable: {id or kind: total}}`: a single one as an integer, several as a list."""
        table: dict[str, dict[str, int | list[int]]] = {}
        for statistic in self.statistics:
            values: list[int] = statistic.array().tolist()
            name = statistic.id or statistic.kind
            table.setdefault(statistic.variable, {})[name] = values[0] if len(values) == 1 else values
        return table


def make_result(study: Study, context: bytes, members: int, values: tuple[Values, ...]) -> Result:
    """The result of `study` from the decoded statistics, in the study's order."""
    return Result(
        context,
        members,
        tuple(
            StatisticResult(statistic.kind, statistic.variable, array.astype("<i8", copy=False).tobytes(), statistic.id)
            for statistic, array in zip(study.statistics, values, strict=True)
        ),
    )


def check_same(study: Study, result: Result) -> None:
    """Raises ValueError for a result of another study."""
    kinds = [(statistic.kind, statistic.variable, statistic.id) for statistic in study.statistics]
    if [(statistic.kind, statistic.variable, statistic.id) for statistic in result.statistics] != kinds:
        raise ValueError("the result has other statistics than the study")


def figures(study: Study, result: Result) -> tuple[Figures, ...]:
    """What the result of `study` says, a statistic each, whatever its release rules. Raises ValueError as `check_same`."""
    check_same(study, result)
    return interpret(study, tuple(statistic.array() for statistic in result.statistics), result.members)


def commitment(key: bytes, result: bytes) -> bytes:
    """HMAC-SHA256: hides a small result from guessing while `key` is secret, and binds the hospital to it (RFC 2104)."""
    return hmac.digest(key, result, "sha256")
