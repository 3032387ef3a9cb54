"""One private sum, or one study, between real daemons, from one command.

Makes a throw-away authority and configuration, starts a hospital and its patients as processes of their own on free loopback
ports, opens the round through the hospital's admin socket, prints what came out, and stops everything. It only calls the
command line `cohortium`, as a person would; with --keep the directory stays, and its README says how to start each daemon by
hand.

With --study FILE its members are the patients, each with the records in DIR/NAME.csv; the tables are printed, and a report with
plots is written to ID.html where the libraries for that are installed.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.daemons import DaemonFailure, Daemons
from scripts.deployment import (
    COHORTIUM,
    HOSPITAL,
    VARIABLE,
    Deployment,
    DeploymentError,
    Question,
    StudyFile,
    check_name,
    parse_value,
    parse_values,
)

_DEFAULT = {"alice": 725, "bob": 310, "charlie": 540}
_DEFAULT_BOUND = 1_000_000
_MAX_RANGE = 2**63 - 1


class Refused(Exception):
    """The run cannot begin; the text says why."""


def main() -> int:
    """Exit status: 0 released, 1 otherwise, 2 usage, 130 interrupted."""
    options = _options()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with _directory(options.keep) as directory:
            final = _run(_deployment(options, directory), options)
    except (Refused, DeploymentError) as error:
        final = {"outcome": "refused", "code": "refused", "detail": str(error)}
    except DaemonFailure as error:
        final = {"outcome": "aborted", "code": "daemon-failed", "detail": str(error)}
    except KeyboardInterrupt:
        _say("stopped", options.json)
        return 130
    _report(final, options)
    return 0 if final["outcome"] == "released" else 1


def _run(deployment: Deployment, options: argparse.Namespace) -> dict[str, Any]:
    _say(f"making keys, certificates and configuration for {len(deployment.names)} patients", options.json)
    deployment.write()
    with Daemons(deployment) as daemons:
        _say(f"starting {len(deployment.nodes)} daemons on loopback, talking over mutual TLS 1.3", options.json)
        daemons.wait_until_ready(lambda: _look_after(daemons))
        final = _open_round(daemons)
        if options.study and final["outcome"] == "released":
            final["told"] = _results(deployment, options)
        return final


def _results(deployment: Deployment, options: argparse.Namespace) -> str:
    """What the study has found, as text or as JSON; the report is written on the way."""
    words = [deployment.question.id, "--config", str(deployment.hospital_config)]
    report = options.report or Path(f"{deployment.question.id}.html")
    try:
        _cohortium("results", "export", *words, "--format", "html", "--to", str(report))
        _say(f"the report is in {report}", options.json)
    except Refused as error:
        if options.report:
            raise
        _say(f"there is no report: {error}", options.json)
    return _cohortium("results", "show", *words, *(["--json"] if options.json else []))


def _cohortium(*words: str) -> str:
    done = subprocess.run([*COHORTIUM, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(done.stderr.strip().removeprefix("cohortium: "))
    return done.stdout


def _look_after(daemons: Daemons) -> None:
    """Whatever somebody kills may be started again by hand, and the round goes on. Raises DaemonFailure for any other end."""
    for name in daemons.forget_killed():
        again = " ".join(daemons.deployment.command(name))
        print(f"{name} was killed; start it again by hand, and the round goes on:\n  {again}", file=sys.stderr)
    daemons.check()


def _open_round(daemons: Daemons) -> dict[str, Any]:
    config = str(daemons.deployment.hospital_config)
    command = [*COHORTIUM, "study", "open", daemons.deployment.question.id, "--config", config, "--watch", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as opened:
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    output, _ = opened.communicate(timeout=0.1)
                    break
                _look_after(daemons)
        except BaseException:
            opened.terminate()
            raise
    lines = output.strip().splitlines()
    if not lines:
        raise DaemonFailure("the hospital gave no answer")
    final: dict[str, Any] = json.loads(lines[-1])
    return final


def _deployment(options: argparse.Namespace, directory: Path) -> Deployment:
    if options.study:
        return _study(options, directory)
    sources, length = _sources(options, directory)
    if options.range is not None:
        if not 0 < options.range <= _MAX_RANGE:
            raise Refused("--range must be positive and at most 2^63 - 1")
        # The user says that every value and the sum lie in [0, R]; nothing proves it.
        question = Question(options.range, length, range=options.range, assume_in_range=True)
    else:
        if options.bound <= 0:
            raise Refused("--bound must be positive")
        question = Question(options.bound, length)
    _check_values(sources, question)
    return Deployment(directory, sources, question, relayed=frozenset(sources if options.relay else ()))


def _study(options: argparse.Namespace, directory: Path) -> Deployment:
    study = StudyFile(options.study)
    study.check()
    data = options.data or options.study.parent / "data" / options.study.stem
    for name in study.members:
        check_name(name)
        (directory / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        own = directory / name / "records.csv"
        try:
            own.write_bytes((data / f"{name}.csv").read_bytes())
        except OSError as error:
            raise Refused(
                f"{data / name}.csv: {error.strerror}; every member of {study.id} needs its file, see --data"
            ) from error
        own.chmod(0o600)
    sources = {name: {"file": "records.csv"} for name in study.members}
    return Deployment(directory, sources, study, relayed=frozenset(sources if options.relay else ()))


def _sources(options: argparse.Namespace, directory: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Each patient's source, and the length of a value."""
    if options.vector_csv:
        return _vectors(options.vector_csv, directory)
    if options.ask:
        values = _asked()
    elif options.values:
        print("run_all: warning: --values stand in the process list, readable by everybody on this machine", file=sys.stderr)
        values = parse_values(options.values)
    elif options.patients:
        values = {f"patient-{number:03d}": 100 + number for number in range(1, options.patients + 1)}
    else:
        values = dict(_DEFAULT)
    if options.patients and options.patients != len(values):
        raise Refused(f"--patients {options.patients}, but {len(values)} values are given; leave --patients out")
    return {name: {"literal": value} for name, value in values.items()}, 1


def _vectors(path: Path, directory: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """A column a patient: each gets a file with its own column alone. Whether the cells are integers is for the daemon to say."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Refused(f"{path}: cannot be read as CSV ({type(error).__name__})") from error
    except ValueError:
        raise Refused(f"{path}: is empty; give a header with a name for each patient, and a row for each element") from None
    if any(len(row) != len(header) for row in rows) or len(set(header)) != len(header):
        raise Refused(f"{path}: every row must have as many cells as the header, and every name must be there once")
    for index, name in enumerate(header):
        check_name(name)
        (directory / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        column = "\n".join([VARIABLE, *(row[index] for row in rows)])
        own = directory / name / "values.csv"
        own.write_text(column + "\n")
        own.chmod(0o600)
    return {name: {"csv": {"file": "values.csv", "column": VARIABLE}} for name in header}, len(rows)


def _asked() -> dict[str, int]:
    values: dict[str, int] = {}
    print("Name and value of each patient; an empty name ends.", file=sys.stderr)
    while name := _answer("patient: ").strip():
        if name in values:
            print(f"  {name} is there already", file=sys.stderr)
            continue
        try:
            values[name] = parse_value(name, _answer(f"  value of {name}: "))
        except DeploymentError as error:
            print(f"  {error}", file=sys.stderr)
    return values


def _answer(prompt: str) -> str:
    """A line of stdin, empty at its end. The prompt goes to stderr: stdout is for the result."""
    print(prompt, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().removesuffix("\n")


def _check_values(sources: dict[str, dict[str, Any]], question: Question) -> None:
    """Says at once what a daemon would find only during the round, and then keep to itself."""
    bound, patients = question.bound, len(sources)
    if patients < 3:
        raise Refused(f"{patients} patients are too few: with fewer than 3 the sum gives values away")
    if question.range is None and patients * bound > _MAX_RANGE:
        raise Refused(f"{patients} patients x {bound} = {patients * bound} is above 2^63 - 1; give a smaller --bound or --range")
    for name, source in sources.items():
        value = source.get("literal", 0)
        if value < 0:
            raise Refused(f"the value of {name!r} is negative; values lie in [0, {bound}]")
        if value > bound:
            raise Refused(f"the value of {name!r} is above the bound {bound}; give a larger --bound or --range")
    if question.range is not None and sum(source.get("literal", 0) for source in sources.values()) > question.range:
        raise Refused(f"the sum is above {question.range}, so your assumption does not hold; give a larger --range")


def _report(final: dict[str, Any], options: argparse.Namespace) -> None:
    if "told" in final:
        print(final["told"].rstrip("\n"))
    elif options.json:
        keys = ("outcome", "patients", "modulus", "statistics", "seconds", "round", "code", "detail")
        print(json.dumps({key: final[key] for key in keys if key in final}))
    elif final["outcome"] == "released":
        value = final["statistics"][VARIABLE]["sum"]
        shown = value if isinstance(value, int) else f"[{', '.join(map(str, value[:8]))}{', …' if len(value) > 8 else ''}]"
        print(f"sum of {final['patients']} private values: {shown}")
        print(f"  modulo R+1 = {final['modulus']}, in {final['seconds']:.3f} s; {HOSPITAL} saw no single value")
        if options.range is not None:
            print(f"  by your own assumption, unproved, that every value and the sum lie in [0, {options.range}]")
    else:
        print(f"run_all: {final['outcome']} ({final.get('code', '')}): {final.get('detail', '')}", file=sys.stderr)


@contextlib.contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="cohortium-") as directory:
            yield Path(directory)
    else:
        if keep.exists() and any(keep.iterdir()):
            raise Refused(f"{keep} is not empty; name a new directory")
        keep.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            yield keep.resolve()
        finally:
            if (keep / "README").exists():
                print(f"kept in {keep.resolve()}; its README says how to start each daemon by hand", file=sys.stderr)


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        print(text, file=sys.stderr)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run_all.py", description="A private sum between real daemons on this machine.")
    parser.add_argument("--patients", type=int, metavar="N", help="this many patients with made-up values")
    values = parser.add_mutually_exclusive_group()
    values.add_argument("--values", metavar="NAME=VALUE,...", help="patients and their values (default: alice, bob, charlie)")
    values.add_argument("--ask", action="store_true", help="ask for each patient's name and value")
    values.add_argument("--vector-csv", type=Path, metavar="FILE", help="a column a patient, named in the header")
    values.add_argument("--study", type=Path, metavar="FILE", help="run this study in place of a sum")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="with --study: a CSV file of records for each member (default: data/STUDY beside it)",
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="with --study: the report's HTML file (default: ID.html)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--bound", type=int, default=_DEFAULT_BOUND, metavar="B", help="largest value of one patient; R = n x B")
    size.add_argument("--range", type=int, metavar="R", help="instead: you assume that values and sum lie in [0, R]")
    parser.add_argument("--relay", action="store_true", help="patients have no listener: everything goes through a relay")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep keys, certificates and configuration there")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line of stdout")
    options = parser.parse_args()
    if options.patients is not None and options.patients < 1:
        parser.error("--patients must be positive")
    if (options.data or options.report) and not options.study:
        parser.error("--data and --report go with --study")
    if options.study and (options.patients or options.range):
        parser.error("--study says itself who takes part, and within which bounds")
    return options


if __name__ == "__main__":
    sys.exit(main())
