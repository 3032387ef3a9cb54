"""Studies between real daemons over mutual TLS on loopback: how long a round takes, and how much of it is arithmetic.

    studies.py [--case NAME] [--rounds K] [--json]

    regression-50      a linear regression on 20 variables over 50 practices of 100 records, allowed 2.5 s
    histogram-10       a histogram of 500 bins for each of 10 groups over 10 patients behind a relay, allowed 0.5 s
    histogram-100      the same over 100 patients, allowed 15 s

Values are made up from seeds, and every result is compared with numpy's over the pooled records. The first round, which opens the
connections, is not counted. `arithmetic` is the time in which all members encode their records and the hospital decodes the
totals and makes figures of them, one after the other on two processors, as part of the round's; allowed: a tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import numpy.typing as npt
import yaml

from mpc.ring import RunningSum
from mpc.statistics import decode, encode, interpret, plan
from mpc.statistics.component import Values
from mpc.statistics.grouped import GroupedFigures
from mpc.statistics.histogram import HistogramFigures
from mpc.statistics.linear_regression import LinearRegressionFigures
from mpc.study import Study
from nodes.admin.client import AdminClient
from nodes.sources import SourceConfig
from nodes.sources.base import read_study
from nodes.sources.synthetic import SyntheticValues
from nodes.studies import load_study
from scripts.daemons import Daemons
from scripts.deployment import CONSORTIUM, HOSPITAL, Deployment

_PROCESSORS = 2
_SHARE = 0.1
_DEADLINE = 120
_QUIET_LOOKS = 3000

Columns = Mapping[str, npt.NDArray[np.int64]]


class Failed(Exception):
    """A round without a result, or with a wrong one."""


@dataclass(frozen=True)
class Case:
    """A study that every member answers with made-up records."""

    id: str
    members: int
    allowed: float
    """Seconds."""
    variables: tuple[Mapping[str, Any], ...]
    statistic: Mapping[str, Any]
    check: Callable[[Columns, Any], bool]
    """Whether figures are those of the pooled records."""
    records: int = 1
    relayed: bool = False

    @property
    def names(self) -> list[str]:
        """The members."""
        return [f"member-{number:03}" for number in range(self.members)]

    def study(self, names: Sequence[str]) -> str:
        """See `scripts.deployment.Asked`."""
        content = {
            "id": self.id,
            "title": "A benchmark",
            "purpose": "to be measured",
            "records": self.records,
            "variables": list(self.variables),
            "statistics": [self.statistic],
            "cohort": {"members": list(names)},
            "deadline": _DEADLINE,
        }
        return yaml.safe_dump(content, sort_keys=False)

    def sources(self, source: Mapping[str, Any]) -> dict[str, Any]:
        """See `scripts.deployment.Asked`."""
        found = {}
        for place, variable in enumerate(self.variables):
            declared = {key: variable[key] for key in ("bounds", "categories") if key in variable}
            found[variable["name"]] = {**declared, "synthetic": {"seed": source["seed"] + place, "records": self.records}}
        return found

    def policy(self) -> dict[str, Any]:
        """See `scripts.deployment.Asked`."""
        return {"records": self.records}

    def records_of(self, study: Study) -> list[Columns]:
        """What each member's daemon reads."""
        found: list[Columns] = []
        for seed in map(_seed, range(self.members)):
            sources = {}
            for name, one in self.sources({"seed": seed}).items():
                declared: dict[str, Any] = {key: tuple(value) for key, value in one.items() if key != "synthetic"}
                sources[name] = SourceConfig(**declared, synthetic=SyntheticValues(**one["synthetic"])).source(name)
            found.append(read_study(study, sources, self.records))
        return found


def _seed(member: int) -> int:
    return 1000 * (member + 1)


def _same_histogram(pooled: Columns, found: Any) -> bool:
    assert isinstance(found, GroupedFigures)
    for place, group in enumerate(found.groups):
        figures = group.figures
        assert isinstance(figures, HistogramFigures)
        expected, _ = np.histogram(pooled["value"][pooled["group"] == place], figures.edges)
        if expected.tolist() != list(figures.counts):
            return False
    return True


def _same_regression(pooled: Columns, found: Any) -> bool:
    assert isinstance(found, LinearRegressionFigures)
    outcome, *regressors = (column.astype(float) for column in pooled.values())
    expected = np.linalg.lstsq(np.column_stack([np.ones(len(outcome)), *regressors]), outcome, rcond=None)[0]
    estimates = [one.estimate.value for one in found.coefficients if one.estimate.value is not None]
    return len(estimates) == len(expected) and bool(np.allclose(estimates, expected, rtol=1e-6))


def _histogram(members: int, allowed: float) -> Case:
    return Case(
        id=f"histogram-{members}",
        members=members,
        allowed=allowed,
        variables=(
            {"name": "value", "bounds": [0, 499_999]},
            {"name": "group", "type": "category", "categories": [f"group-{number}" for number in range(10)]},
        ),
        statistic={"kind": "histogram", "variable": "value", "by": "group", "bins": 500},
        check=_same_histogram,
        relayed=True,
    )


CASES = (
    Case(
        id="regression-50",
        members=50,
        allowed=2.5,
        variables=tuple({"name": f"x{number}", "bounds": [0, 1000]} for number in range(21)),
        statistic={"kind": "linear-regression", "variable": "x0", "others": [f"x{number}" for number in range(1, 21)]},
        check=_same_regression,
        records=100,
    ),
    _histogram(10, 0.5),
    _histogram(100, 15.0),
)


@dataclass(frozen=True, slots=True)
class Told:
    """What was measured. Seconds."""

    case: str
    allowed: float
    first: float
    rounds: list[float]
    encode: float
    """Of one member."""
    decode: float
    """Figures included."""
    members: int

    @property
    def p50(self) -> float:
        """Of the rounds after the first."""
        return statistics.median(self.rounds)

    @property
    def arithmetic(self) -> float:
        """As a share of the round."""
        return (self.encode * self.members / _PROCESSORS + self.decode) / self.p50

    def plain(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "case": self.case,
            "seconds_allowed": self.allowed,
            "seconds_p50": self.p50,
            "seconds": self.rounds,
            "first_seconds": self.first,
            "encode_seconds": self.encode,
            "decode_seconds": self.decode,
            "arithmetic_share": self.arithmetic,
            "arithmetic_allowed": _SHARE,
        }

    def __str__(self) -> str:
        verdict = "met" if self.p50 <= self.allowed and self.arithmetic <= _SHARE else "NOT MET"
        every = " · ".join(f"{seconds:.2f}" for seconds in sorted(self.rounds))
        return (
            f"{self.case:<15} p50 {self.p50:6.2f} s of {self.allowed:4.1f} s ({every}; first {self.first:.2f}); arithmetic "
            f"{100 * self.arithmetic:.1f} % of {100 * _SHARE:.0f} % (encode {1000 * self.encode:.2f} ms a member, "
            f"decode {1000 * self.decode:.2f} ms): {verdict}"
        )


def arithmetic(case: Case, study: Study, records: Sequence[Columns]) -> tuple[float, float]:
    """Seconds to encode one member's records, and to decode and interpret all."""
    encoding: list[float] = []
    sums = [RunningSum(segment.ring, segment.ring.zeros(segment.length)) for segment in plan(study)]
    for columns in records:
        began = time.perf_counter()
        vectors = encode(study, columns)
        encoding.append(time.perf_counter() - began)
        for total, vector in zip(sums, vectors, strict=True):
            total.add(vector)
    totals = [total.finish() for total in sums]
    began = time.perf_counter()
    interpret(study, decode(study, totals, case.members), case.members)
    return statistics.median(encoding), time.perf_counter() - began


async def _rounds(case: Case, study: Study, pooled: Columns, hospital: AdminClient, count: int) -> list[float]:
    found: list[float] = []
    for _ in range(1 + count):
        began = time.perf_counter()
        state = opened = await hospital.post("/v1/rounds", {"study": case.id})
        async for change in hospital.lines(f"/v1/rounds/{opened['round']}/watch"):
            state = change
        found.append(time.perf_counter() - began)
        if state["outcome"] != "released":
            raise Failed(f"{case.id}: the round was {state['outcome']}: {state.get('detail', '')}")
        full = await hospital.get(f"/v1/rounds/{opened['round']}")
        (totals,) = full["statistics"][study.statistics[0].variable].values()
        (figures,) = interpret(study, [np.array(totals, dtype=np.int64)], case.members)
        if not case.check(pooled, figures):
            raise Failed(f"{case.id}: the result is not the one that numpy gives")
        await _quiet(hospital)
    return found


async def _quiet(hospital: AdminClient) -> None:
    """Until the last receipt is delivered, the next round would pay for this one."""
    for _ in range(_QUIET_LOOKS):
        if not (await hospital.get("/v1/status"))["messages_on_their_way"]:
            return
        await asyncio.sleep(0.01)
    raise Failed("the hospital still has messages on their way")


def measure(case: Case, rounds: int) -> Told:
    """Starts the daemons, measures, stops them."""
    with tempfile.TemporaryDirectory(prefix="cohortium-bench-") as directory:
        sources = {name: {"seed": _seed(number)} for number, name in enumerate(case.names)}
        deployment = Deployment(Path(directory), sources, case, relayed=frozenset(sources if case.relayed else ()))
        deployment.write()
        study = load_study(Path(directory) / HOSPITAL / "studies" / f"{case.id}.yaml", CONSORTIUM).study
        records = case.records_of(study)
        pooled: dict[str, Values] = {name: np.concatenate([one[name] for one in records]) for name in records[0]}
        encoding, decoding = arithmetic(case, study, records)

        async def ask() -> list[float]:
            async with AdminClient(deployment.socket(HOSPITAL)) as hospital:
                return await _rounds(case, study, pooled, hospital, rounds)

        with Daemons(deployment) as daemons:
            daemons.wait_until_ready()
            first, *others = asyncio.run(ask())
    return Told(case.id, case.allowed, first, others, encoding, decoding, case.members)


def main() -> int:
    """Exit status 0, also where a limit is not met: a benchmark measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=[case.id for case in CASES], help="one alone (default: all)")
    parser.add_argument("--rounds", type=int, default=3, metavar="K", help="rounds after the first one (default 3)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a case")
    asked = parser.parse_args()
    if asked.rounds < 1:
        parser.error("--rounds must be positive")
    # Asked to end, leave by way of every `with`: the daemons end too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for case in CASES:
        if asked.case in (None, case.id):
            told = measure(case, asked.rounds)
            print(json.dumps(told.plain()) if asked.json else told, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
