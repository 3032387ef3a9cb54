"""The five commands of README.md and docs/pki.md make a consortium of five machines, and a sum; with --enroll, too.

Stand-ins: a directory is a machine, `scp` copies into it, and all of them are reached at 127.0.0.1.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.services import free_port, until

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "pki.md").read_text(encoding="utf-8")
COMMANDS, [ENROLL] = (
    block.splitlines() for block in re.findall(r"```sh\n(.*?)```", PAGE[: PAGE.index("## The authority")], re.DOTALL)
)
NODES = {"mail": "relay", "general": "hospital", "alice": "patient", "bob": "patient", "carol": "patient"}
VALUES = {"alice": 120, "bob": 135, "carol": 128}

pytestmark = pytest.mark.slow


class Machines:
    """Directories in place of machines."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.daemons = ExitStack()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("bin", "admin", *NODES):
            (directory / name).mkdir()
        self._program("cohortium", f'exec {shlex.quote(sys.executable)} -m nodes.cli "$@"')
        self._program("scp", f'cp "$1" {shlex.quote(str(directory))}/"${{2%:}}"/')
        path = os.pathsep.join([str(directory / "bin"), os.environ["PATH"]])
        self._environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}

    def _program(self, name: str, text: str) -> None:
        path = self.directory / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def run(self, machine: str, command: str) -> str:
        done = subprocess.run(
            ["bash", "-euc", command],
            cwd=self.directory / machine,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )
        assert done.returncode == 0, f"{machine}$ {command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, machine: str, command: str) -> None:
        log = self.directory / machine / "log"
        with log.open("wb") as sink:
            daemon = subprocess.Popen(
                ["bash", "-euc", f"exec {command}"],
                cwd=self.directory / machine,
                env=self._environment,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.daemons.callback(self._stop, daemon)
        self._running[machine] = daemon

    def wait_for(self, machine: str) -> None:
        ready, daemon = self.directory / machine / machine / "admin.sock", self._running[machine]
        until(lambda: ready.exists() or daemon.poll() is not None, f"{machine} to start", 60)
        assert daemon.poll() is None, (self.directory / machine / "log").read_text()

    @staticmethod
    def _stop(daemon: subprocess.Popen[bytes]) -> None:
        daemon.terminate()
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    made = Machines(tmp_path)
    with made.daemons:
        yield made


def test_both_documents_have_the_same_five_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = [re.sub(r"\s+#.*", "", line.strip()) for line in readme.splitlines() if line.startswith("    ")]
    assert len(COMMANDS) == 5
    start = shown.index(COMMANDS[0])
    assert shown[start : start + 5] == COMMANDS
    assert f"`{ENROLL}`" in readme


@pytest.mark.parametrize("enroll", [False, True], ids=["keys made in one place", "tokens"])
def test_five_commands_on_five_machines_make_a_sum(machines: Machines, enroll: bool) -> None:
    init, copy, unpack, start, open_round = COMMANDS
    here = re.sub(r"(?<= --)(hospital|relay) (\w+)", lambda match: f"{match[0]}@127.0.0.1:{free_port()}", init)
    machines.run("admin", f"{here} --door {free_port()}" + " --enroll" * enroll)
    machines.run("admin", copy)
    for node, role in NODES.items():
        machines.run(node, unpack.replace("alice", node))
        if enroll and node != "mail":
            machines.wait_for("mail")
            assert not (machines.directory / node / node / "identity.key").exists()
            machines.run(node, ENROLL.replace("alice", node))
            assert not (machines.directory / node / node / "token").exists()
        command = start.replace("patient", role).replace("alice", node)
        machines.start(node, command.replace("120", str(VALUES[node])) if node in VALUES else command.partition(" --value")[0])
    for node in NODES:
        machines.wait_for(node)
    assert "383" in machines.run("general", open_round)
