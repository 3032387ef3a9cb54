"""What a round releases, its one encoding, and the commitment to it that receipts carry."""

from __future__ import annotations

import hmac

import numpy as np

from mpc.statistics.component import Values
from mpc.study import Study
from mpc.wire import Struct

COMMITMENT_KEY_BYTES = 32


class StatisticResult(Struct, frozen=True):
    """One statistic: its values as 8-byte little-endian two's complement integers."""

    kind: str
    variable: str
    values: bytes

    def array(self) -> Values:
        """The values, shape (length,), int64."""
        return np.frombuffer(self.values, dtype="<i8").astype(np.int64, copy=False)


class Result(Struct, frozen=True):
    """The aggregate over the roster, and nothing else."""

    context: bytes
    members: int
    statistics: tuple[StatisticResult, ...]

    def plain(self) -> dict[str, dict[str, int | list[int]]]:
        """`{variable: {statistic: value}}`: a scalar as an integer, a vector as a list."""
        table: dict[str, dict[str, int | list[int]]] = {}
        for statistic in self.statistics:
            values: list[int] = statistic.array().tolist()
            table.setdefault(statistic.variable, {})[statistic.kind] = values[0] if len(values) == 1 else values
        return table


def make_result(study: Study, context: bytes, members: int, values: tuple[Values, ...]) -> Result:
    """The result of `study` from the decoded statistics, in the study's order."""
    return Result(
        context,
        members,
        tuple(
            StatisticResult(statistic.kind, statistic.variable, array.astype("<i8", copy=False).tobytes())
            for statistic, array in zip(study.statistics, values, strict=True)
        ),
    )


def commitment(key: bytes, result: bytes) -> bytes:
    """HMAC-SHA256: hides a small result from guessing while `key` is secret, and binds the hospital to it (RFC 2104)."""
    return hmac.digest(key, result, "sha256")
