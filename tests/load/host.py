"""Many patients in one process: `python -m tests.load.host CONFIG...`. Each is the real daemon; they share an event loop.

A person's machine has one patient; a test of hundreds has two cores. All that is different here: encryption keys are the
smallest allowed, so that starting takes seconds, and one signal stops them all.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import sys
from pathlib import Path

import nodes.keys
from mpc.keys import MIN_BITS
from nodes.config import check_patient
from nodes.log import configure
from nodes.patient import PatientDaemon

_AT_ONCE = 8
"""Daemons that start together: each makes a key and a database."""


async def _host(paths: list[Path]) -> None:
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[None]] = []
    for at in range(0, len(paths), _AT_ONCE):
        starting = [(path, asyncio.create_task(_run(path))) for path in paths[at : at + _AT_ONCE]]
        tasks += [task for _, task in starting]
        while not all(_admin(path).exists() for path, _ in starting):
            for task in tasks:
                if task.done():
                    await task  # raises what it failed with
            await asyncio.sleep(0.01)
    # Each daemon has asked for the signals; the last one has them. Here one word is for all.
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    print("ready", flush=True)
    await stop.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _run(path: Path) -> None:
    await PatientDaemon(check_patient(path)).run(lambda: check_patient(path))


def _admin(path: Path) -> Path:
    return path.with_name("admin.sock")


def main() -> None:
    """Runs until SIGTERM."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    vars(nodes.keys)["DEFAULT_BITS"] = MIN_BITS
    configure("warning", "json")
    sys.setswitchinterval(0.0005)  # as nodes.run does
    asyncio.run(_host([Path(argument) for argument in sys.argv[1:]]))


if __name__ == "__main__":
    main()
