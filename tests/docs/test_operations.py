"""Every command of docs/operations.md is run here, in order, against real daemons; its tables are compared with the program.

Stand-ins: `sudo` is dropped, paths and ports of the host are moved, `systemctl` and `journalctl` are played by this file, which
starts what the real units say with the credentials and the notification socket that systemd would give.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nodes.log import Event
from nodes.store.audit import AuditEvent
from tests.services import Manager, free_port, http, manager

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```(?P<kind>console|yaml)\n(?P<text>.*?)```", re.DOTALL)
FILE = re.compile(r"`(/etc/cohortium/[a-z/-]+\.yaml)`")
PORT = re.compile(r"(?<=127\.0\.0\.1:)\d{4}\b")

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Part:
    """A command, or a file and its content."""

    command: str = ""
    file: str = ""
    content: str = ""


def parts() -> Iterator[Part]:
    """What a person who follows the page does, in its order; what is written for alice is done for every patient."""
    end = 0
    for block in BLOCK.finditer(TEXT):
        before, end = TEXT[end : block.start()], block.end()
        found = [Part(command=line[2:]) for line in block["text"].splitlines() if line.startswith("$ ")]
        if block["kind"] == "yaml":
            found = [Part(file=FILE.findall(before)[-1], content=block["text"])]
        for_each = TEXT.rfind("\n### ", 0, block.start())
        names = ("alice", "bob", "charlie") if TEXT.startswith("\n### Patients", for_each) else ("alice",)
        for number, name in enumerate(names):
            for part in found:
                yield Part(
                    *(
                        re.sub(r"alice(?!, bob)", name, text).replace("7001", str(7001 + number)) if len(names) > 1 else text
                        for text in (part.command, part.file, part.content)
                    )
                )


@dataclass
class Host:
    """A directory that stands for a host."""

    directory: Path
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    managers: dict[str, Manager] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)
    outputs: list[tuple[str, str]] = field(default_factory=list)
    """Each command that was run, and what it printed."""

    def port(self, written: str) -> int:
        """The free port that stands for the one in the page."""
        return self.ports.setdefault(written, free_port())

    def moved(self, text: str) -> str:
        """The text for this host in place of a real one."""
        text = re.sub(r"(?<![\w/.])/(?=(etc/cohortium|var/lib/cohortium|run/c))", f"{self.directory}/", text)
        return PORT.sub(lambda match: str(self.port(match[0])), text)

    def do(self, part: Part) -> None:
        """Runs a command, or writes a file."""
        if part.file:
            path = Path(self.moved(part.file))
            path.write_text(self.moved(part.content).replace(f"sha256:{'0' * 64}", self.authority()))
            path.chmod(0o640)
            return
        command = re.sub(r"^sudo (-u cohortium )?", "", part.command)
        words = shlex.split(command)
        if words[0] == "systemctl":
            self.systemctl(words[1], [word for word in words[2:] if word != "--now"])
            output = ""
        elif words[0] == "journalctl":
            output = self.log(words[2]).read_text()
            assert output, f"{words[2]} logged nothing"
        else:
            output = self.shell(command)
        self.outputs.append((part.command, output))

    def authority(self) -> str:
        """The fingerprint that 'cohortium pki show' printed."""
        (shown,) = [output for command, output in self.outputs if command.startswith("cohortium pki show")]
        found = re.search(r"^fingerprint +(sha256:[0-9a-f]{64})$", shown, re.MULTILINE)
        assert found is not None
        return found[1]

    def shell(self, command: str) -> str:
        """Runs it in the directory `work`, where only the checkout's scripts are."""
        command = self.moved(re.sub(r" -[go] cohortium", "", command))
        command = command.replace(
            "scripts/install.sh", f"{ROOT}/scripts/install.sh --root {self.directory} --python {self.python}"
        )
        path = os.pathsep.join([str(self.directory / "bin"), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", "-euc", command],
            cwd=self.directory / "work",
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
        return done.stdout

    @property
    def python(self) -> Path:
        """Stands for an interpreter that makes an environment and installs into it; tests/scripts looks at that more closely."""
        return self.directory / "bin" / "fake-python"

    def prepare(self) -> None:
        """What a host has."""
        for name in ("bin", "work", "log", "run", "var/lib", "etc"):
            (self.directory / name).mkdir(parents=True)
        self.program("cohortium", f'exec {shlex.quote(sys.executable)} -m nodes.cli "$@"')
        self.program("fake-python", 'if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin"; cp -f "$0" "$3/bin/python"; fi')
        if shutil.which("sqlite3") is None:
            self.program("sqlite3", f'exec {shlex.quote(sys.executable)} {Path(__file__).resolve()} "$@"')

    def program(self, name: str, text: str) -> None:
        path = self.directory / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    # -- systemd

    def systemctl(self, verb: str, units: list[str]) -> None:
        """enable, start, stop, restart and reload."""
        for unit in units:
            if verb in ("stop", "restart"):
                daemon = self.daemons.pop(unit)
                daemon.terminate()
                assert daemon.wait(30) == 0, self.log(unit).read_text()[-2000:]
            if verb in ("enable", "start", "restart"):
                self.start(unit)
            elif verb == "reload":
                self.daemons[unit].send_signal(signal.SIGHUP)
                self.wait_for(unit, "READY=1")
            else:
                assert verb == "stop"

    def start(self, unit: str) -> None:
        """As the unit's file says."""
        base, at, instance = unit.partition("@")
        lines = (ROOT / "scripts" / "systemd" / f"{base}{at}.service").read_text().replace("%i", instance).splitlines()
        has = [line.partition("=")[::2] for line in lines if "=" in line]
        credentials = self.directory / "run" / "credentials" / f"{unit}.service"
        shutil.rmtree(credentials, ignore_errors=True)
        credentials.mkdir(parents=True)
        for name, source in (value.split(":") for key, value in has if key == "LoadCredential"):
            (credentials / name).write_bytes(Path(self.moved(source)).read_bytes())
            (credentials / name).chmod(0o400)
        for key, value in has:
            if key in ("StateDirectory", "RuntimeDirectory"):
                place = self.directory / ("var/lib" if key == "StateDirectory" else "run") / value
                place.mkdir(parents=True, exist_ok=True)
                place.chmod(0o700)
        [command] = [value for key, value in has if key == "ExecStart"]
        arguments = shlex.split(self.moved(command))[1:]
        address = str(self.directory / "run" / f"{unit}.notify")
        if unit not in self.managers:
            self.managers[unit] = self.stack.enter_context(manager(address))
        with self.log(unit).open("ab") as sink:
            self.daemons[unit] = subprocess.Popen(
                [sys.executable, "-m", "nodes.cli", *arguments],
                cwd="/",
                env={**os.environ, "PYTHONPATH": str(ROOT), "CREDENTIALS_DIRECTORY": str(credentials), "NOTIFY_SOCKET": address},
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.wait_for(unit, "READY=1")

    def wait_for(self, unit: str, line: str) -> None:
        """As systemctl waits for a service of Type=notify."""
        try:
            self.managers[unit].hear(line, 60)
        except AssertionError as error:
            raise AssertionError(f"{unit}: {error}\n{self.log(unit).read_text()[-2000:]}") from error

    def log(self, unit: str) -> Path:
        """What journald would keep."""
        return self.directory / "log" / unit

    def stop(self) -> None:
        """Ends whatever still runs."""
        for daemon in self.daemons.values():
            daemon.kill()
            daemon.wait()
        self.stack.close()


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """A host on which the page was followed from top to bottom; its daemons still run."""
    directory = Path(tempfile.mkdtemp(prefix="ops"))
    made = Host(directory)
    try:
        made.prepare()
        for part in parts():
            made.do(part)
        yield made
    finally:
        made.stop()
        shutil.rmtree(directory)


def table(name: str) -> dict[str, str]:
    """The first two columns of the table that follows `<!-- table NAME -->`."""
    (found,) = re.findall(rf"<!-- table {name} -->\n((?:\|.*\n)+)", TEXT)
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in found.splitlines()[2:]]
    return {first.strip("`"): second for first, second in rows}


def test_every_command_of_the_page_does_its_work(host: Host) -> None:
    # The fixture fails with the command and its output; this says how much was run.
    assert [command for command, _ in host.outputs] == [part.command for part in parts() if part.command]
    assert len(host.outputs) > 50


def test_the_page_opens_a_round_that_gives_the_sum_and_restores_it(host: Host) -> None:
    shown = {command: output for command, output in host.outputs if " round " in command}
    [opened] = [output for command, output in shown.items() if " round open " in command]
    assert str(3 * 72) in opened
    [listed] = [output for command, output in shown.items() if " round list " in command]
    assert "released" in listed, "after the restore"


def test_doctor_finds_nothing_wrong_with_what_the_page_made(host: Host) -> None:
    looked = [output for command, output in host.outputs if " doctor --config" in command]
    assert looked
    assert not [line for output in looked for line in output.splitlines() if line.startswith("fail")]


def test_a_copied_state_shows_neither_value_nor_result(host: Host) -> None:
    kept = [path.read_bytes() for path in (host.directory / "var" / "lib").rglob("*") if path.is_file()]
    assert kept
    assert not [content for content in kept if b"PRIVATE KEY" in content or b'"sum": 216' in content]


def test_the_metrics_are_those_that_the_daemons_have(host: Host) -> None:
    texts = [http(host.port(written), "/metrics")[1] for written in ("9100", "9110")]
    found = {line.split()[2] for text in texts for line in text.splitlines() if line.startswith("# TYPE ")}
    of_an_authority = {"cohortium_enrolments_total", "cohortium_renewals_granted_total"}  # this deployment has none running
    assert found == table("metrics").keys() - of_an_authority


def test_the_events_are_those_of_the_vocabulary() -> None:
    assert list(table("events")) == [str(event) for event in Event]


def test_the_events_of_the_audit_log_are_those_of_its_vocabulary() -> None:
    assert list(table("audit")) == [str(event) for event in AuditEvent]


def test_the_page_verifies_and_exports_the_audit_logs_of_its_nodes(host: Host) -> None:
    shown = [output for command, output in host.outputs if " audit show " in command]
    assert all("consented" in output for output in shown)
    verified = [output for command, output in host.outputs if " audit verify " in command]
    assert len(verified) == 3
    assert all("as they were written" in output or "no lines yet" in output for output in verified)


def test_the_keys_that_need_a_restart_are_those_of_the_daemon() -> None:
    from nodes.daemon import RESTART_KEYS

    (told,) = re.findall(r"Open rounds and connections go on\. ((?:`[a-z_]+`[,\s]*(?:and\s)?)+)need a restart", TEXT)
    assert tuple(re.findall(r"`([a-z_]+)`", told)) == RESTART_KEYS


if __name__ == "__main__":  # stands in for the program sqlite3, where there is none: FILE ".backup COPY"
    source, command = sys.argv[1:]
    sqlite3.connect(source).backup(sqlite3.connect(command.split()[1]))
