"""A result with every kind of figure, as a hospital tells it. Some names in its study look like a page's own language."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from msgspec.structs import replace

from mpc.result import make_result
from mpc.study import Release, Statistic, Study, Variable
from nodes.fitting import Fitting
from nodes.records import RoundRecord
from nodes.results import StudyResult, study_result
from tests.mpc.statistics.pool import question, totals, whole

HOSTILE = '<script>alert("x")</script> $\\frac{1$ & "co"'
RULES = Release(5, 0)
ROUND = bytes(range(16))

ARM = Variable.category("arm", ["placebo", HOSTILE, "rare"])
EVENT = Variable.category("event", ["no", "yes"])
DAYS = whole("days", 0, 60, "d")
AGE = Variable.number("age", "a", 200, 900, scale=10)
SMOKES = whole("smokes", 0, 1)

STATISTICS = (
    Statistic.of("count", "age"),
    Statistic.of("sum", "days"),
    Statistic.of("mean", "age"),
    Statistic.of("mean", "age", by="arm", id="ages"),
    Statistic.of("histogram", "age", bins=7),
    Statistic.of("histogram", "age", bins=7, by="arm", id="ages-of-arms"),
    Statistic.of("quantiles", "age", bins=7),
    Statistic.of("extremes", "age", bins=7),
    Statistic.of("contingency", "arm", "event"),
    Statistic.of("covariance", "age", "days"),
    Statistic.of("linear-regression", "days", "age"),
    Statistic.of("kaplan-meier", "days", "event", by="arm"),
    Statistic.of("weighted-mean", "age", "days"),
    Statistic.of("mean", "smokes"),
)


def study(*statistics: Statistic, release: Release) -> Study:
    asked = question([ARM, EVENT, DAYS, AGE, SMOKES], *(statistics or STATISTICS), members=4, records=1000)
    used = {name for one in asked.statistics for name in (one.variable, *one.others, one.by)}
    return replace(
        asked,
        title=f"Ages {HOSTILE}",
        variables=tuple(variable for variable in asked.variables if variable.name in used),
        release=release,
    )


@cache
def data() -> dict[str, Any]:
    rng = np.random.default_rng(11)
    return {
        "arm": np.repeat([0, 1, 2], [120, 110, 3]),
        "event": rng.integers(0, 2, 233),
        "days": rng.integers(0, 61, 233),
        "age": rng.integers(200, 901, 233),
        "smokes": np.repeat([0, 1], [231, 2]),
    }


def found(*statistics: Statistic, release: Release = RULES) -> StudyResult:
    """What is told of these; of all, if none is named."""
    asked = study(*statistics, release=release)
    used = {variable.name: data()[variable.name] for variable in asked.variables}
    result = make_result(asked, bytes(32), 4, totals(asked, used))
    record = RoundRecord(ROUND, asked.id, 0, opened=1_700_000_000.0, outcome="released", seconds=1.23456)
    return study_result(record, Fitting.of(asked), result)
