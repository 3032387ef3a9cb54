"""The same secure sums with other people's software: MPyC and Flower's SecAgg+, from their packages, on this machine.

    peers.py [--peer mpyc|flower|flower-simulated]... [--case 3x1000000]... [--rounds K] [--timeout S] [--ours [PYTHON]]

Run it with the Python of the benchmark's environment. Values go up to 10^6 and R = patients x 10^6; the same seeds
make the same values for everybody, and every sum is checked against plain numpy. One JSON object a line on stdout, a
table on stderr. With `--ours` our own daemons do the same sums in the same run, by `secure_sum.py` under the given
Python (default: this one), and the table has the ratios.

mpyc              one process a patient, plain TCP on loopback, secure arrays, the sum opened to one party
flower            one SuperLink, a SuperNode a patient, plain HTTP on loopback, everything else as it comes
flower-simulated  Flower's own simulation engine (Ray) on this machine's cores: no network between the nodes

The first round is a warm-up, reported apart when there are others. A run has `--timeout` seconds, its start included;
rounds that were done by then count, and with none done the answer is "more than". Flower is told not to call home.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import importlib.util
import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.ports import free_ports

HERE = Path(__file__).resolve().parent
LARGEST = 10**6
SEED = 2026
_PR_SET_CHILD_SUBREAPER = 36
_GRACE_SECONDS = 10.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Case:
    """So many patients with so many values each."""

    patients: int
    length: int

    @property
    def range(self) -> int:
        """R: the largest value that the sum may take."""
        return self.patients * LARGEST

    @classmethod
    def parse(cls, text: str) -> Case:
        """Read `3x1000000`."""
        patients, _, length = text.partition("x")
        return cls(int(patients), int(length))


@dataclass(frozen=True, slots=True)
class Measured:
    """What one peer needed for one case. Seconds are wall time a round; `cpu_seconds` is of all processes, a round."""

    peer: str
    version: str
    patients: int
    length: int
    seconds: list[float] = field(default_factory=list)
    warm_up: float | None = None
    p50: float | None = None
    cpu_seconds: float | None = None
    more_than: float | None = None
    note: str = ""

    @classmethod
    def of(cls, peer: str, version: str, case: Case, rounds: Sequence[float], cpu: float | None, note: str) -> Measured:
        """From the seconds of every round done, the first of which is the warm-up when there are others."""
        kept = list(rounds[1:] or rounds)
        return cls(
            peer,
            version,
            case.patients,
            case.length,
            seconds=kept,
            warm_up=rounds[0] if len(rounds) > 1 else None,
            p50=statistics.median(kept),
            cpu_seconds=cpu,
            note=note,
        )


class PeerFailedError(Exception):
    """A peer ended without doing what it was asked; the text has its last words."""


class PeerMissingError(Exception):
    """A peer cannot run in this environment; the text says what is missing."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The same secure sums with MPyC and Flower.")
    parser.add_argument("--peer", action="append", choices=sorted(PEERS), help="only this one (may be repeated)")
    parser.add_argument("--case", action="append", type=Case.parse, metavar="NxL", help="instead of each peer's own cases")
    parser.add_argument("--rounds", type=int, default=3, help="rounds measured, after one to warm up (default 3)")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one peer and case (default 300)")
    parser.add_argument("--ours", nargs="?", const=sys.executable, metavar="PYTHON")
    asked = parser.parse_args(arguments)
    _adopt_orphans()
    # Asked to end, leave by way of every `finally`: the peers' processes end too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    measured: list[Measured] = []
    ours: dict[Case, Measured] = {}
    failed = False
    for peer in asked.peer or list(PEERS):
        run, cases = PEERS[peer]
        for case in asked.case or cases:
            if asked.ours and case not in ours:
                ours[case] = _ours(asked.ours, case, asked.rounds, asked.timeout)
                _print_line(ours[case])
            try:
                result = run(case, asked.rounds + 1, asked.timeout)
            except (PeerFailedError, PeerMissingError) as error:
                failed |= isinstance(error, PeerFailedError)
                result = Measured(peer, "", case.patients, case.length, note=str(error))
            measured.append(result)
            _print_line(result)
    _print_table(measured, ours)
    return 1 if failed else 0


def run_mpyc(case: Case, rounds: int, timeout: float) -> Measured:
    """One process a party, on loopback."""
    version = _version("mpyc")
    deadline = time.monotonic() + timeout
    addresses = [part for port in free_ports(case.patients) for part in ("-P", f"127.0.0.1:{port}")]
    sums = [str(number) for number in (case.length, case.range, SEED, rounds)]
    with tempfile.TemporaryDirectory() as name, _all_ended():
        outputs = [Path(name) / f"party{party}" for party in range(case.patients)]
        parties = [
            _start([sys.executable, "-m", "benchmarks.mpyc_sum", *sums, "-I", str(party), *addresses, "--no-log"], output)
            for party, output in enumerate(outputs)
        ]
        _wait(lambda: all(party.poll() is not None for party in parties), deadline)
        reports = [_json_lines(output) for output in outputs]
        failed = [output for party, output in zip(parties, outputs, strict=True) if party.poll() not in (0, None)]
        if failed:
            raise PeerFailedError(f"a party of MPyC failed: {_tail(failed[0])}")
    done = min(len(report) for report in reports)
    if not done:
        return Measured("mpyc", version, case.patients, case.length, more_than=timeout)
    _check("mpyc", reports[0])
    first = 1 if done > 1 else 0
    cpu = sum(line["cpu"] for report in reports for line in report[first:done]) / (done - first)
    seconds = [line["seconds"] for line in reports[0][:done]]
    return Measured.of("mpyc", version, case, seconds, cpu, "secure arrays, plain TCP")


def run_flower(case: Case, rounds: int, timeout: float) -> Measured:
    """A SuperLink and a SuperNode a patient, each with the processes that they start themselves."""
    return _run_flower("flower", case, rounds, timeout, simulated=False)


def run_flower_simulated(case: Case, rounds: int, timeout: float) -> Measured:
    """Flower's simulation engine, one core a client."""
    if importlib.util.find_spec("ray") is None:
        raise PeerMissingError("Flower's simulation engine needs ray, which is not installed: flwr[simulation]")
    return _run_flower("flower-simulated", case, rounds, timeout, simulated=True)


def _run_flower(peer: str, case: Case, rounds: int, timeout: float, *, simulated: bool) -> Measured:
    version = _version("flwr")
    deadline = time.monotonic() + timeout
    link_port, *node_ports = free_ports(1 + case.patients)
    link = f"127.0.0.1:{link_port}"
    programs = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = _flower_environment(folder, programs)
        _write_flower_app(folder, link, case, rounds)

        def start(program: str, *words: str) -> subprocess.Popen[bytes]:
            return _start([programs / program, *words], folder / f"{program}.log", environment)

        with _all_ended():
            start(
                "flower-superlink",
                "--insecure",
                "--host=127.0.0.1",
                f"--port={link_port}",
                "--disable-runtime-dependency-installation",
                *(["--simulation"] if simulated else []),
            )
            if not _wait(lambda: _listens(link_port), deadline):
                raise PeerFailedError(f"Flower's SuperLink did not start: {_tail(folder / 'flower-superlink.log')}")
            for number, port in enumerate([] if simulated else node_ports):
                start(
                    "flower-supernode",
                    "--insecure",
                    f"--superlink={link}",
                    f"--port={port}",
                    f"--node-config=partition-id={number} num-partitions={case.patients}",
                )
            federation = f"num-supernodes={case.patients} client-resources-num-cpus=1"
            run = start(
                "flwr",
                "run",
                str(folder / "app"),
                "bench",
                "--stream",
                *([f"--federation-config={federation}"] if simulated else []),
            )
            results = folder / "results"
            _wait(lambda: run.poll() is not None or len(_json_lines(results)) >= 1, deadline)
            warm_cpu = _family_cpu()
            _wait(lambda: run.poll() is not None or len(_json_lines(results)) == rounds, deadline)
            cpu = _family_cpu() - warm_cpu
            lines = _json_lines(results)
            if run.poll() is not None and len(lines) < rounds:
                raise PeerFailedError(f"Flower's run ended early: {_tail(folder / 'flwr.log')}")
    if not lines:
        return Measured(peer, version, case.patients, case.length, more_than=timeout)
    _check(peer, lines)
    note = "SecAgg+, simulated by Ray" if simulated else "SecAgg+, plain HTTP"
    a_round = cpu / (len(lines) - 1) if len(lines) == rounds > 1 else None
    return Measured.of(peer, version, case, [line["seconds"] for line in lines], a_round, note)


def _flower_environment(folder: Path, programs: Path) -> dict[str, str]:
    """Flower's programs find each other by PATH; the rest keeps them from calling home and from the user's settings."""
    return os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_HOME": str(folder / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPERGRID_API_URL": "http://127.0.0.1:9",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _write_flower_app(folder: Path, link: str, case: Case, rounds: int) -> None:
    app = folder / "app"
    (app / "benchmarks").mkdir(parents=True)
    (folder / "home").mkdir()
    for part in ("flower_sum.py", "values.py"):
        (app / "benchmarks" / part).write_bytes((HERE / part).read_bytes())
    (app / "pyproject.toml").write_text(
        f"""\
[project]
name = "flower-sum"
version = "1.0.0"
description = "A secure sum"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "cohortium"
[tool.flwr.app.components]
serverapp = "benchmarks.flower_sum:server"
clientapp = "benchmarks.flower_sum:client"
[tool.flwr.app.config]
patients = {case.patients}
length = {case.length}
largest = {LARGEST}
seed = {SEED}
rounds = {rounds}
results = "{folder / "results"}"
""",
        encoding="utf-8",
    )
    (folder / "home" / "config.toml").write_text(
        f'[superlink]\ndefault = "bench"\n[superlink.bench]\naddress = "{link}"\ninsecure = true\n', encoding="utf-8"
    )


def _ours(python: str, case: Case, rounds: int, timeout: float) -> Measured:
    """Our own daemons, by the benchmark beside this file."""
    words = [f"--patients={case.patients}", f"--length={case.length}", f"--range={case.range}", f"--rounds={rounds}"]
    command = [python, str(HERE / "secure_sum.py"), *words, "--json"]
    with _all_ended():
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            raise SystemExit(f"secure_sum.py was not done after {timeout:.0f} s") from None
    if done.returncode:
        raise SystemExit(f"secure_sum.py failed:\n{done.stderr[-2000:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    return Measured(
        "cohortium",
        "",
        case.patients,
        case.length,
        seconds=told["seconds"],
        p50=told["seconds_p50"],
        cpu_seconds=told["cpu_seconds"],
        note="mutual TLS",
    )


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise PeerMissingError(f"{distribution} is not installed in this environment: see the `bench` extra") from None


def _check(peer: str, lines: list[dict[str, float]]) -> None:
    if not all(line["correct"] for line in lines):
        raise PeerFailedError(f"{peer} gave a sum that is not numpy's")


def _json_lines(path: Path) -> list[dict[str, float]]:
    """The JSON objects that a program has written so far, other output left out."""
    if not path.exists():
        return []
    complete = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")[0]
    return [json.loads(line) for line in complete.splitlines() if line.startswith("{")]


def _tail(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")[-1500:]


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _wait(condition: Callable[[], bool], deadline: float) -> bool:
    """Look again and again until the condition holds (True) or the deadline has come (False)."""
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _start(words: Sequence[str | Path], output: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    with output.open("ab") as sink:
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=environment, cwd=HERE.parent)


def _adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent ends (prctl(2)).

    Flower and Ray start processes of their own, and some of them outlive their starters. So all can be found and ended.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


@contextmanager
def _all_ended() -> Iterator[None]:
    """When the block is left, everything that was started in it ends: asked first, then killed, and waited for."""
    try:
        yield
    finally:
        deadline = time.monotonic() + _GRACE_SECONDS
        _signal_children(signal.SIGTERM)
        if not _wait(_no_children, deadline):
            # What a killed child leaves behind comes to us as a child only then: again until there is none.
            while not _no_children():
                _signal_children(signal.SIGKILL)
                time.sleep(_POLL_SECONDS)


def _no_children() -> bool:
    """Collect the children that have ended; True when none is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False


def _signal_children(number: signal.Signals) -> None:
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text(encoding="ascii").split():
            os.kill(int(pid), number)


def _family_cpu() -> float:
    """CPU seconds so far of every process that comes from this one: those that live, and those that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = used.ru_utime + used.ru_stime
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # proc_pid_stat(5), after the name in brackets: state, parent, ..., and user and system time in ticks, its
            # own and that of its children that it waited for.
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        pid = int(path.parent.name)
        parents[pid] = int(fields[1])
        ticks[pid] = sum(int(number) for number in fields[11:15])
    for pid, used_ticks in ticks.items():
        ancestor = parents[pid]
        while ancestor not in (0, os.getpid()):
            ancestor = parents.get(ancestor, 0)
        if ancestor:
            total += used_ticks / os.sysconf("SC_CLK_TCK")
    return total


def _print_line(measured: Measured) -> None:
    print(json.dumps(asdict(measured)), flush=True)


def _print_table(measured: Sequence[Measured], ours: dict[Case, Measured]) -> None:
    rows = [("peer", "version", "case", "p50 s", "CPU s", "x ours", "")]
    for one in [*ours.values(), *measured]:
        own = ours.get(Case(one.patients, one.length))
        time_taken = f"{one.p50:.4f}" if one.p50 is not None else "-"
        if one.more_than is not None:
            time_taken = f"more than {one.more_than:.0f}"
        ratio = f"{one.p50 / own.p50:.3g}" if own and own.p50 and one.p50 is not None else ""
        cpu = f"{one.cpu_seconds:.3f}" if one.cpu_seconds is not None else ""
        rows.append((one.peer, one.version, f"{one.patients} x {one.length}", time_taken, cpu, ratio, one.note))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), file=sys.stderr)


PEERS: dict[str, tuple[Callable[[Case, int, float], Measured], list[Case]]] = {
    "mpyc": (run_mpyc, [Case(3, 1), Case(3, 10**6), Case(10, 10**6)]),
    "flower": (run_flower, [Case(3, 1), Case(3, 10**6)]),
    "flower-simulated": (run_flower_simulated, [Case(10, 10**6)]),
}

if __name__ == "__main__":
    sys.exit(main())
