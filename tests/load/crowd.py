"""A hospital with a crowd of patients on loopback: the hospital is a process of its own, the patients share a few."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodes.admin.client import AdminClient
from scripts.daemons import Daemons
from scripts.deployment import HOSPITAL, STUDY, Deployment, Question
from tests.services import add

_START_SECONDS = 120.0
_STOP_SECONDS = 20.0

_FEW = 8
_CROWD = {"connections": 4000, "handshakes_per_address": 4000}  # all of them have one address here
_MESH = {
    **_CROWD,
    # Pairs of patients meet once a round; what they keep open in between is descriptors of two processes.
    "kept_seconds": 5,
    "idle_seconds": 10,
    "connections_per_recipient": 1,
}


@dataclass
class Crowd:
    """All of it at work."""

    deployment: Deployment
    daemons: Daemons
    hosts: list[subprocess.Popen[str]]

    @property
    def processes(self) -> list[int]:
        """Of hospital, relay and patients."""
        return [*(child.process.pid for child in self.daemons.children.values()), *(host.pid for host in self.hosts)]

    @property
    def total(self) -> int:
        """The exact sum."""
        return sum(source["literal"] for source in self.deployment.sources.values())

    def resident(self) -> list[int]:
        """Bytes of each process that are in memory."""
        return [_resident(process) for process in self.processes]

    def files(self) -> list[int]:
        """Descriptors that each process has open."""
        return [len(list(Path(f"/proc/{process}/fd").iterdir())) for process in self.processes]

    def rows(self, node: str) -> dict[str, int]:
        """Rows in each table of a node's SQLite store."""
        file = self.deployment.directory / node / "state" / "store.db"
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as store:
            names = [name for (name,) in store.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            return {name: int(store.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]) for name in names}  # noqa: S608

    def rounds(self, count: int, seconds: float) -> list[dict[str, Any]]:
        """Opens that many rounds at once, and gives each as it ended."""
        return asyncio.run(self._rounds(count, seconds))

    async def _rounds(self, count: int, seconds: float) -> list[dict[str, Any]]:
        async with AdminClient(self.deployment.socket(HOSPITAL)) as admin, asyncio.timeout(seconds):
            opened = [await admin.post("/v1/rounds", {"study": STUDY}) for _ in range(count)]
            waiting = [one["round"] for one in opened]
            ended: list[dict[str, Any]] = []
            while waiting:
                shown = await admin.get(f"/v1/rounds/{waiting[0]}")
                if shown["outcome"] == "open":
                    self.daemons.check()
                    await asyncio.sleep(0.002)
                else:
                    ended.append(shown)
                    waiting.pop(0)
            return ended


def sums(ended: list[dict[str, Any]]) -> list[int]:
    """Of rounds that were released, all of them."""
    assert {one["outcome"] for one in ended} == {"released"}, [one for one in ended if one["outcome"] != "released"][:2]
    return [int(one["statistics"]["value"]["sum"]) for one in ended]


@contextmanager
def crowd(directory: Path, patients: int, processes: int = 2, *, relayed: bool = False, deadline: int = 110) -> Iterator[Crowd]:
    """Starts it, and leaves nothing behind. Values are 1, 2, 4, ... as far as 2^20, then 1, 2, 4, ... again."""
    sources = {f"p{number:03d}": {"literal": 1 << number % 21} for number in range(patients)}
    deployment = Deployment(
        directory,
        sources,
        Question(bound=1 << 20, deadline=deadline),
        limits=_CROWD if relayed else _MESH if patients > _FEW else {},
        relayed=frozenset(sources) if relayed else frozenset(),
    )
    deployment.write()
    for name in deployment.names:
        add(deployment.patient_config(name), "  max_open_rounds: 1000\n")
    daemons = Daemons(deployment)
    with ExitStack() as stack:
        stack.callback(daemons.stop)
        for name in deployment.nodes:
            if name not in sources:
                daemons.start(name)
        daemons.wait_until_ready()
        hosts = [stack.enter_context(_host(deployment, list(sources)[at::processes])) for at in range(processes)]
        for host in hosts:
            assert host.stdout is not None
            assert host.stdout.readline() == "ready\n", f"the patients ended with {host.wait(_STOP_SECONDS)}"
        yield Crowd(deployment, daemons, hosts)


@contextmanager
def _host(deployment: Deployment, names: list[str]) -> Iterator[subprocess.Popen[str]]:
    log = deployment.directory / f"{names[0]}.log"
    command = [sys.executable, "-m", "tests.load.host", *(str(deployment.patient_config(name)) for name in names)]
    with log.open("w") as sink:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=sink, text=True, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _resident(process: int) -> int:
    match = re.search(r"VmRSS:\s+([0-9]+) kB", Path(f"/proc/{process}/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def settled(condition: Any, seconds: float = 15) -> bool:
    """Whether the condition comes about within that time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
