"""What tests of daemons as services share: a service manager that listens, a small deployment, patience with a deadline."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.daemons import Daemons
from scripts.deployment import COHORTIUM, HOSPITAL, Deployment, Question
from scripts.ports import free_ports

DEADLINE = 20.0
"""Seconds after which a test that waits has failed."""

VALUES = {"alice": 1, "bob": 100, "charlie": 10_000}
"""Powers of a base, so that a missing or doubled one shows."""
SUM = 10_101


def until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
    """What `condition` gives, as soon as that is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.01)
    return found


@dataclass
class Manager:
    """Stands in for systemd: takes what daemons say on the notification socket."""

    channel: socket.socket
    said: list[list[str]] = field(default_factory=list)
    """Each message's lines."""

    def hear(self, line: str, seconds: float = DEADLINE) -> list[str]:
        """The next message with that line (or with a line of that name, `NAME=`); what came before it is in `said`."""
        end = time.monotonic() + seconds
        while True:
            self.channel.settimeout(max(0.001, end - time.monotonic()))
            try:
                lines = self.channel.recv(4096).decode().split("\n")
            except TimeoutError:
                raise AssertionError(f"nobody said {line} within {seconds:g} s; heard {self.said}") from None
            self.said.append(lines)
            if any(spoken == line or (line.endswith("=") and spoken.startswith(line)) for spoken in lines):
                return lines

    def silent_for(self, seconds: float) -> bool:
        """Whether nothing is said for so long."""
        self.channel.settimeout(seconds)
        try:
            self.said.append(self.channel.recv(4096).decode().split("\n"))
        except TimeoutError:
            return True
        return False


@contextmanager
def manager(address: str) -> Iterator[Manager]:
    """A manager at `address`, as NOTIFY_SOCKET spells it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind("\0" + address[1:] if address.startswith("@") else address)
        yield Manager(channel)


def free_port() -> int:
    """A loopback port that nobody has."""
    return free_ports(1)[0]


def write_deployment(directory: Path, limits: Mapping[str, Any] | None = None, **question: Any) -> Deployment:
    """A hospital and three patients."""
    asked = Question(**{"bound": 20_000, **question})
    deployment = Deployment(directory, {name: {"literal": value} for name, value in VALUES.items()}, asked, limits=limits or {})
    deployment.write()
    return deployment


def config_of(deployment: Deployment, name: str) -> Path:
    """The configuration file of a node."""
    return deployment.hospital_config if name == HOSPITAL else deployment.patient_config(name)


def add(path: Path, text: str) -> None:
    """Puts lines at the end of a configuration."""
    path.write_text(path.read_text() + text)


def log_of(daemons: Daemons, name: str) -> list[dict[str, Any]]:
    """A daemon's log lines so far."""
    lines = daemons.children[name].log.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def logged(daemons: Daemons, name: str, event: str) -> list[dict[str, Any]]:
    """Those of one event."""
    return [line for line in log_of(daemons, name) if line["event"] == event]


def http(port: int, path: str) -> tuple[int, str]:
    """Status and body of a GET on loopback."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=DEADLINE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def metric(text: str, name: str) -> float:
    """The number in the line that begins with `name`, its labels included."""
    [line] = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(line.rpartition(" ")[2])


def cohortium(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs the command line."""
    return subprocess.run([*COHORTIUM, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)
