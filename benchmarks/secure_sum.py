"""Private sums between real daemons over mutual TLS on loopback: how long a round takes, and what it costs.

    secure_sum.py --patients N --length L [--range R] [--rounds K] [--seed S] [--parts] [--json]

Every node is a process of its own. The patients make their values, 0 to R // N, from seeds, and each released sum is
checked against plain numpy. The first round opens the connections and is reported apart; the K that follow find them
open, as a daemon's rounds do.

seconds          wall time from asking the hospital to open the round until it says that the round has a result
CPU              user and system time of all daemons, from the opening until nothing is on its way any more
bytes            what the kernel counts on the daemons' TCP connections: TLS records, HTTP and answers included
peak             largest resident memory of the hospital, and of the patient with the most, during a round
idle             the same of all daemons, when they are ready and before the first round

The values of a result are fetched and checked after the clock has stopped. Needs Linux: see `benchmarks.probe`.
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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import probe, values
from mpc.errors import CohortiumError
from mpc.ring import Ring
from nodes.admin.client import AdminClient
from scripts.daemons import DaemonFailure, Daemons
from scripts.deployment import HOSPITAL, STUDY, VARIABLE, Deployment, DeploymentError, Question

_MEGABYTE = 10**6
_DEADLINE_SECONDS = 120
_QUIET_SECONDS = 30.0
_POLL_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked: `patients` vectors of `length` values are added; the sum may take values up to `largest_sum`."""

    patients: int
    length: int
    largest_sum: int
    rounds: int
    seed: int

    @property
    def bound(self) -> int:
        """The largest value of one patient."""
        return self.largest_sum // self.patients

    @property
    def patient_bytes_allowed(self) -> int:
        """What a patient may send in a round: its vector, 1.2 kB for each member, and 8 kB."""
        return Ring(self.largest_sum + 1).width * self.length + 1200 * self.patients + 8000


@dataclass(frozen=True, slots=True)
class Round:
    """One round as it was measured. Memory in bytes; byte counts None where the kernel does not give them."""

    seconds: float
    cpu_seconds: float
    patient_bytes_sent: int | None
    hospital_bytes_received: int | None
    hospital_peak: int
    patient_peak: int
    vanished: int
    """Connections that closed during the round, whose bytes are missing from the counts."""


class Failed(Exception):
    """A round without a result, or with a wrong one."""


class Bench:
    """Running daemons, and rounds measured on them."""

    def __init__(self, case: Case, pids: Mapping[str, int], hospital: AdminClient) -> None:
        self._case = case
        self._hospital_pid = pids[HOSPITAL]
        self._patient_pids = [pid for name, pid in pids.items() if name != HOSPITAL]
        self._pids = list(pids.values())
        self._hospital = hospital
        self._counts_bytes = probe.unsupported() is None
        self._expected = values.plain_sum(case.seed, case.patients, case.length, case.bound).tolist()

    def idle(self) -> int:
        """The largest resident memory of any daemon now, in bytes."""
        return max(probe.memory(pid) for pid in self._pids)

    async def round(self) -> Round:
        """Opens a round, waits for its result, and checks it. Raises Failed."""
        for pid in self._pids:
            probe.reset_peak_memory(pid)
        before, cpu = self._connections(), probe.cpu_seconds(self._pids)

        began = time.perf_counter()
        opened = await self._hospital.post("/v1/rounds", {"study": STUDY})
        state = opened
        async for change in self._hospital.lines(f"/v1/rounds/{opened['round']}/watch"):
            state = change
        seconds = time.perf_counter() - began

        if state["outcome"] != "released":
            raise Failed(f"the round was {state['outcome']}: {state.get('code', '')} {state.get('detail', '')}")
        await self._quiet()
        cpu = probe.cpu_seconds(self._pids) - cpu
        after = self._connections()
        moved = {pid: probe.traffic(before[pid], after[pid]) for pid in before}
        measured = Round(
            seconds=seconds,
            cpu_seconds=cpu,
            patient_bytes_sent=max((moved[pid].sent for pid in self._patient_pids), default=0) if moved else None,
            hospital_bytes_received=moved[self._hospital_pid].received if moved else None,
            hospital_peak=probe.peak_memory(self._hospital_pid),
            patient_peak=max(probe.peak_memory(pid) for pid in self._patient_pids),
            vanished=sum(one.vanished for one in moved.values()),
        )
        await self._check(opened["round"])
        return measured

    async def _quiet(self) -> None:
        """Until the hospital has delivered its last message, a round still costs CPU time and bytes."""
        deadline = time.monotonic() + _QUIET_SECONDS
        while (await self._hospital.get("/v1/status"))["messages_on_their_way"]:
            if time.monotonic() > deadline:
                raise Failed(f"the hospital still has messages on their way {_QUIET_SECONDS:.0f} s after the result")
            await asyncio.sleep(_POLL_SECONDS)

    async def _check(self, round_id: str) -> None:
        final = await self._hospital.get(f"/v1/rounds/{round_id}")
        given = final["statistics"][VARIABLE]["sum"]
        if (given if isinstance(given, list) else [given]) != self._expected:
            raise Failed("the released sum is not the one that numpy gives")

    def _connections(self) -> dict[int, Mapping[int, probe.Count]]:
        return {pid: probe.connections(pid) for pid in self._pids} if self._counts_bytes else {}


async def measure(case: Case, daemons: Daemons) -> tuple[int, Round, list[Round]]:
    """Idle memory in bytes, the first round, and the rounds after it."""
    async with AdminClient(daemons.deployment.socket(HOSPITAL)) as hospital:
        bench = Bench(case, {name: child.process.pid for name, child in daemons.children.items()}, hospital)
        idle = bench.idle()
        first = await bench.round()
        return idle, first, [await bench.round() for _ in range(case.rounds)]


def run(case: Case) -> dict[str, Any]:
    """Starts the daemons, measures, stops them. Returns what `--json` prints."""
    sources = {
        f"patient-{number:03d}": {"synthetic": {"seed": values.patient_seed(case.seed, number)}}
        for number in range(case.patients)
    }
    question = Question(case.bound, case.length, range=case.largest_sum, deadline=_DEADLINE_SECONDS)
    with tempfile.TemporaryDirectory(prefix="cohortium-bench-") as directory:
        deployment = Deployment(Path(directory), sources, question)
        deployment.write()
        with Daemons(deployment) as daemons:
            daemons.wait_until_ready()
            idle, first, rounds = asyncio.run(measure(case, daemons))
    return summary(case, idle, first, rounds, probe.unsupported())


def summary(case: Case, idle: int, first: Round, rounds: Sequence[Round], bytes_unsupported: str | None) -> dict[str, Any]:
    """What `--json` prints: medians of time, the largest of bytes and memory, and every round. `idle` is in bytes."""
    return {
        "patients": case.patients,
        "length": case.length,
        "range": case.largest_sum,
        "bound": case.bound,
        "seconds_p50": statistics.median(one.seconds for one in rounds),
        "seconds": [one.seconds for one in rounds],
        "cpu_seconds": statistics.median(one.cpu_seconds for one in rounds),
        "patient_bytes_sent": _largest([one.patient_bytes_sent for one in rounds]),
        "patient_bytes_allowed": case.patient_bytes_allowed,
        "hospital_bytes_received": _largest([one.hospital_bytes_received for one in rounds]),
        "hospital_peak_mb": max(one.hospital_peak for one in rounds) / _MEGABYTE,
        "patient_peak_mb": max(one.patient_peak for one in rounds) / _MEGABYTE,
        "idle_mb": idle / _MEGABYTE,
        "connections_vanished": sum(one.vanished for one in rounds),
        "bytes_unsupported": bytes_unsupported,
        "first_round": asdict(first),
        "rounds": [asdict(one) for one in rounds],
    }


def _largest(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return max(known) if known else None


def report(case: Case, told: Mapping[str, Any]) -> str:
    """The measurements for a person."""
    lines = [
        f"{case.patients} patients x {case.length} values, R = {case.largest_sum}, mutual TLS on loopback",
        f"{'round':>14} {'seconds':>9} {'CPU s':>8} {'patient sent':>13} {'hospital got':>13} "
        f"{'hospital MB':>12} {'patient MB':>11}",
    ]
    for number, one in enumerate([told["first_round"], *told["rounds"]]):
        name = "1 (connecting)" if number == 0 else str(number + 1)
        lines.append(
            f"{name:>14} {one['seconds']:9.4f} {one['cpu_seconds']:8.3f} {_count(one['patient_bytes_sent']):>13} "
            f"{_count(one['hospital_bytes_received']):>13} {one['hospital_peak'] / _MEGABYTE:12.1f} "
            f"{one['patient_peak'] / _MEGABYTE:11.1f}"
        )
    lines.append(
        f"once connected: p50 {told['seconds_p50']:.4f} s, CPU {told['cpu_seconds']:.3f} s; a patient sends at most "
        f"{_count(told['patient_bytes_sent'])} bytes (allowed: {told['patient_bytes_allowed']}); "
        f"an idle daemon has {told['idle_mb']:.1f} MB"
    )
    if told["bytes_unsupported"]:
        lines.append(f"bytes are not counted: {told['bytes_unsupported']}")
    if told["connections_vanished"]:
        lines.append(f"{told['connections_vanished']} connections closed during rounds; their last bytes are not counted")
    return "\n".join(lines)


def _count(number: int | None) -> str:
    return "-" if number is None else str(number)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Private sums between real daemons on this machine, measured.")
    parser.add_argument("--patients", type=int, default=3, metavar="N")
    parser.add_argument("--length", type=int, default=1, metavar="L", help="values of each patient")
    parser.add_argument("--range", type=int, metavar="R", help="the largest sum (default: N x 10^6); a value is at most R // N")
    parser.add_argument("--rounds", type=int, default=5, metavar="K", help="rounds after the first one (default 5)")
    parser.add_argument("--seed", type=int, default=2026, metavar="S")
    parser.add_argument("--parts", action="store_true", help="also show where the time goes, part by part")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line of stdout")
    asked = parser.parse_args(arguments)
    largest_sum = asked.patients * 10**6 if asked.range is None else asked.range
    if asked.patients < 3 or min(asked.length, asked.rounds) < 1 or largest_sum < asked.patients or asked.seed < 0:
        parser.error("at least 3 patients, 1 value, 1 round, a range not below the number of patients, and no negative seed")
    # Asked to end, leave by way of every `with`: the daemons end too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    case = Case(asked.patients, asked.length, largest_sum, asked.rounds, asked.seed)
    try:
        told = run(case)
    except (Failed, DaemonFailure, DeploymentError, CohortiumError) as error:
        print(f"secure_sum: {error}", file=sys.stderr)
        return 1
    if asked.parts:
        from benchmarks import parts

        rows = parts.parts(case.patients, case.length, case.largest_sum)
        told["parts"] = [asdict(row) for row in rows]
    if asked.json:
        print(json.dumps(told))
    else:
        print(report(case, told))
        if asked.parts:
            print("\n" + parts.table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
