"""A study over records that are split among nodes, with the rings' own arithmetic between them and nothing else of a round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mpc.ring import RunningSum
from mpc.statistics import decode, encode, interpret, plan
from mpc.statistics.component import Values
from mpc.statistics.newton import Fit
from mpc.study import UNRESTRICTED, Statistic, Study, Variable

Columns = Mapping[str, npt.NDArray[Any]]


def question(variables: Sequence[Variable], *statistics: Statistic, members: int = 10, records: int = 1) -> Study:
    return Study(
        id="question",
        title="",
        purpose="test",
        variables=tuple(variables),
        statistics=statistics,
        members=tuple(f"spiffe://demo/patient/p{number:04}" for number in range(members)),
        minimum=3,
        range=None,
        assume_in_range=False,
        publish="hospital",
        answer_within=20,
        ready_within=40,
        deadline=60,
        records=records,
        legal_basis="",
        release=UNRESTRICTED,
    )


def whole(name: str, minimum: int, maximum: int, unit: str = "", **more: Any) -> Variable:
    return Variable.number(name, unit, minimum, maximum, **more)


def split(data: Columns, members: int, seed: int = 7) -> list[dict[str, Values]]:
    """The records dealt out at random, so that some nodes may have none. One record a node where there are as many nodes."""
    size = len(next(iter(data.values())))
    owner = np.arange(size) if size == members else np.random.default_rng(seed).integers(0, members, size)
    return [{name: column[owner == member].astype(np.int64) for name, column in data.items()} for member in range(members)]


def totals(study: Study, data: Columns) -> tuple[Values, ...]:
    """What a hospital decodes."""
    sums = [RunningSum(segment.ring, segment.ring.zeros(segment.length)) for segment in plan(study)]
    for values in split(data, len(study.members)):
        for total, vector in zip(sums, encode(study, values), strict=True):
            assert total.ring.contains(vector)
            total.add(vector)
    return decode(study, [total.finish() for total in sums], len(study.members))


def figures(study: Study, data: Columns) -> Any:
    """What the study's statistics say; of one statistic, that alone."""
    said = interpret(study, totals(study, data), len(study.members))
    return said[0] if len(said) == 1 else said


def rounds(study: Study, data: Columns) -> Any:
    """A logistic regression to its end."""
    fit: Any = Fit.start(study)
    while isinstance(fit, Fit):
        used = {variable.name for variable in fit.study.variables}
        fit = fit.advance(totals(fit.study, {name: data[name] for name in used}), len(study.members))
    return fit
