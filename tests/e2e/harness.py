"""What the end-to-end tests hold in their hands: a deployment whose daemons are real processes, seen from outside.

Nothing here waits by the clock. `wait_for` asks for a condition until it holds, and fails at its deadline; the end of a
round is read from the hospital's own stream of news.
"""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml

from scripts.daemons import Child, Daemons
from scripts.deployment import COHORTIUM, HOSPITAL, STUDY, VARIABLE, Deployment, Question

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60.0
"""How long a test waits for what should come at once: the machine may be busy."""

T = TypeVar("T")


def wait_for(condition: Callable[[], T], what: str, seconds: float = SECONDS) -> T:
    """The first answer of `condition` that is true. Fails, naming `what`, when there is none in time."""
    never = threading.Event()
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"after {seconds} s still not: {what}"
        never.wait(0.02)
    return found


def cohortium(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line, run to its end."""
    return subprocess.run(
        [*COHORTIUM, *map(str, words)],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "100", **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("daemon", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(str(self._path))
        except OSError:
            self.sock.close()
            raise


class Admin:
    """One daemon's admin socket, a connection a request."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def ask(self, method: str, path: str, content: object = None) -> Iterator[http.client.HTTPResponse]:
        """The answer, whatever its status."""
        connection = _UnixConnection(self.path)
        try:
            connection.request(method, path, None if content is None else json.dumps(content))
            yield connection.getresponse()
        finally:
            connection.close()

    def text(self, path: str) -> str:
        """What GET says."""
        with self.ask("GET", path) as answer:
            return answer.read().decode()

    def get(self, path: str) -> Any:
        """The JSON that GET says."""
        return json.loads(self.text(path))

    def post(self, path: str, content: object = None) -> Any:
        """The JSON that POST says."""
        with self.ask("POST", path, content) as answer:
            return json.loads(answer.read())

    def metric(self, name: str, **labels: str) -> float:
        """A number from /metrics; 0 when it is not there yet."""
        pairs = ",".join(f'{key}="{value}"' for key, value in labels.items())
        series = re.escape(f"{name}{{{pairs}}}" if pairs else name)
        found = re.search(rf"^{series} (\S+)$", self.text("/metrics"), re.MULTILINE)
        return float(found[1]) if found else 0.0

    @property
    def answers(self) -> bool:
        """Whether a daemon serves it now."""
        try:
            return self.text("/healthz") == "ok\n"
        except OSError:
            return False


class Cohort:
    """A deployment and its daemons, as a context manager: none of them outlives it. All of them log everything."""

    def __init__(
        self, directory: Path, sources: Mapping[str, Mapping[str, Any]], *, bound: int = 1_000_000, deadline: int = 60
    ) -> None:
        self.bound = bound
        self.deployment = Deployment(directory, sources, Question(bound, deadline=deadline))
        self.deployment.write()
        self.directory = directory
        self.daemons = Daemons(self.deployment)
        for name in (HOSPITAL, *self.deployment.names):
            self.edit(name, lambda config: config.update(log={"level": "debug"}))

    def __enter__(self) -> Cohort:
        return self

    def __exit__(self, *_: object) -> None:
        self.daemons.stop()

    # -- files

    def config(self, name: str) -> Path:
        """A node's YAML file."""
        return self.deployment.hospital_config if name == HOSPITAL else self.deployment.patient_config(name)

    def edit(self, name: str, change: Callable[[dict[str, Any]], object]) -> None:
        """Changes a node's configuration; its daemon reads it when it starts."""
        config = yaml.safe_load(self.config(name).read_text())
        change(config)
        self.config(name).write_text(yaml.safe_dump(config))

    def write_study(
        self,
        name: str,
        *,
        members: Sequence[str],
        variable: str = VARIABLE,
        bounds: tuple[int, int] | None = None,
        length: int = 1,
        deadline: int = 60,
        **more: object,
    ) -> str:
        """A study of the hospital's directory, which it reads when a round is opened. Returns its id."""
        content = {
            "id": name,
            "title": "A study",
            "purpose": "test",
            "variables": [{"name": variable, "bounds": list(bounds or (0, self.bound)), "length": length}],
            "statistics": [{"kind": "sum", "variable": variable}],
            "cohort": {"members": list(members)},
            "deadline": deadline,
            **more,
        }
        (self.directory / HOSPITAL / "studies" / f"{name}.yaml").write_text(yaml.safe_dump(content))
        return name

    def port(self, name: str) -> int:
        """Where a node listens."""
        return self.deployment.ports[name]

    # -- processes

    def start(self, *names: str, words: Sequence[str] = ()) -> None:
        """Starts daemons and waits until all are ready; `words` go to their command line."""
        for name in names:
            if words:
                self._start_with(name, words)
            else:
                self.daemons.start(name)
        for name in names:
            wait_for(lambda name=name: self.is_ready(name), f"{name} is ready")  # type: ignore[misc]

    def _start_with(self, name: str, words: Sequence[str]) -> None:
        log = self.directory / name / "daemon.log"
        with log.open("ab") as sink:
            process = subprocess.Popen(
                [*self.deployment.command(name), *words], stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.daemons.children[name] = Child(process, log)

    def is_ready(self, name: str) -> bool:
        """Whether a node answers. Fails with its last words when it has ended."""
        status = self.process(name).poll()
        assert status is None, f"{name} ended with status {status}\n{self.daemons.last_lines(name)}"
        return self.admin(name).answers

    def process(self, name: str) -> subprocess.Popen[bytes]:
        """The process of a daemon."""
        return self.daemons.children[name].process

    def is_running(self, name: str) -> bool:
        """Whether a node's daemon lives."""
        return name in self.daemons.children and self.process(name).poll() is None

    def signal(self, name: str, number: signal.Signals) -> None:
        """Sends a signal to a daemon."""
        self.process(name).send_signal(number)

    def kill(self, name: str) -> None:
        """Ends a daemon with SIGKILL: it can do nothing about it."""
        self.process(name).kill()
        self.process(name).wait(SECONDS)
        del self.daemons.children[name]

    def stop(self, name: str) -> int:
        """Asks a daemon to stop; its exit status."""
        self.process(name).terminate()
        status = self.process(name).wait(SECONDS)
        del self.daemons.children[name]
        return status

    # -- what the daemons say

    def admin(self, name: str) -> Admin:
        """A node's admin socket."""
        return Admin(self.deployment.socket(name))

    @property
    def hospital(self) -> Admin:
        """The hospital's admin socket."""
        return self.admin(HOSPITAL)

    def log(self, name: str) -> list[dict[str, Any]]:
        """Everything that a daemon has logged, one entry a line; what is no JSON (a warning for people) has the key `text`."""
        lines = (self.directory / name / "daemon.log").read_text().splitlines()
        return [json.loads(line) if line.startswith("{") else {"text": line} for line in lines]

    def logged(self, name: str, event: str, **fields: object) -> list[dict[str, Any]]:
        """The log entries of that event with these fields."""
        wanted = {"event": event, **fields}
        return [entry for entry in self.log(name) if wanted.items() <= entry.items()]

    def wait_for_log(self, name: str, event: str, **fields: object) -> dict[str, Any]:
        """The first such log entry, once it is there."""
        return wait_for(lambda: self.logged(name, event, **fields), f"{name} logs {event} {fields}")[0]

    # -- rounds

    def open(self, study: str = STUDY) -> str:
        """Opens a round and returns its id."""
        opened = self.hospital.post("/v1/rounds", {"study": study})
        assert "round" in opened, opened
        return str(opened["round"])

    def result(self, round_id: str) -> Any:
        """How the round ended, once it has."""
        with self.hospital.ask("GET", f"/v1/rounds/{round_id}/watch") as news:
            while news.readline():
                pass
        return self.hospital.get(f"/v1/rounds/{round_id}")

    def run(self, study: str = STUDY) -> Any:
        """Opens a round, and how it ended."""
        return self.result(self.open(study))

    def waiting_for(self, round_id: str, phase: str) -> list[str] | None:
        """Whom the hospital waits for in that phase; None in another."""
        state = self.hospital.get(f"/v1/rounds/{round_id}")
        assert state["outcome"] == "open", state
        return list(state["waiting_for"]) if state["phase"] == phase else None

    def wait_until_waiting_for(self, round_id: str, phase: str, *names: str) -> None:
        """Waits until the hospital waits in `phase` for these alone."""
        wait_for(lambda: self.waiting_for(round_id, phase) == list(names), f"the hospital waits for {names} while {phase}")


def total(final: Any, variable: str = VARIABLE) -> Any:
    """The sum of a released round; fails with the whole story when it was not released."""
    assert final["outcome"] == "released", final
    return final["statistics"][variable]["sum"]


PYTHON = sys.executable
