"""How long `/healthz` takes while rounds over long vectors run: bulk work must not hold up a daemon's event loop.

health.py [--patients N] [--length L] [--rounds K]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nodes.admin.client import AdminClient
from scripts.daemons import Daemons
from scripts.deployment import HOSPITAL, STUDY, Deployment, Question


async def ask_again_and_again(socket: Path, stop: asyncio.Event) -> list[float]:
    """Seconds of every answer, one request after the other on one connection."""
    seconds: list[float] = []
    async with aiohttp.ClientSession("http://daemon", connector=aiohttp.UnixConnector(str(socket))) as session:
        while not stop.is_set():
            began = time.perf_counter()
            async with session.get("/healthz") as response:
                await response.read()
            seconds.append(time.perf_counter() - began)
            await asyncio.sleep(0.002)
    return seconds


async def measure(deployment: Deployment, rounds: int) -> dict[str, list[float]]:
    """Answer times by node, from the opening of the first round to the end of the last."""
    stop = asyncio.Event()
    names = [HOSPITAL, deployment.names[0]]
    asking = [asyncio.create_task(ask_again_and_again(deployment.socket(name), stop)) for name in names]
    async with AdminClient(deployment.socket(HOSPITAL)) as hospital:
        for _ in range(rounds):
            opened = await hospital.post("/v1/rounds", {"study": STUDY})
            async for state in hospital.lines(f"/v1/rounds/{opened['round']}/watch"):
                final = state
            assert final["outcome"] == "released", final
    stop.set()
    return dict(zip(names, await asyncio.gather(*asking), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=3)
    parser.add_argument("--length", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    sources = {f"patient-{number:03d}": {"synthetic": {"seed": number}} for number in range(options.patients)}
    with tempfile.TemporaryDirectory(prefix="cohortium-bench-") as directory:
        deployment = Deployment(Path(directory), sources, Question(1_000_000, options.length, deadline=120))
        deployment.write()
        with Daemons(deployment) as daemons:
            daemons.wait_until_ready()
            answers = asyncio.run(measure(deployment, options.rounds))
    for name, seconds in answers.items():
        ordered = sorted(seconds)
        middle, worst = ordered[len(ordered) // 2], ordered[-1]
        print(f"{name:<12} {len(ordered)} answers: median {1000 * middle:.1f} ms, longest {1000 * worst:.1f} ms")


if __name__ == "__main__":
    main()
