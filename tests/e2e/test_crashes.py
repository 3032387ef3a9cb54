"""kill -9 of real daemons before and after every commit and every send: after a restart the round ends in the exact sum, and in a
receipt that all have countersigned.

The points of a deployment are gone through one after another, those of several deployments at the same time: the tests wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mpc.errors import TemporaryError
from nodes.admin.client import AdminClient
from scripts.daemons import Daemons
from scripts.deployment import HOSPITAL, STUDY, Deployment, Question
from tests.e2e.crashing import POINTS
from tests.services import SUM, VALUES

POINT_SECONDS = 60.0
"""In which one point must be reached, and its round have ended."""
POLL_SECONDS = 0.05
"""Asking more often would take the processor from those who are asked."""
VICTIMS = {"hospital": HOSPITAL, "patient": "bob"}
ALL = [(role, point) for role, points in POINTS.items() for point in points]
GROUPS = [(role, what) for role in POINTS for what in ("commit", "send")]
"""One deployment each."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Doomed(Deployment):
    """A deployment whose daemons die on order."""

    def order(self, name: str) -> Path:
        return self.directory / name / "order"

    def command(self, name: str) -> list[str]:
        _python, _module, _cli, *arguments = super().command(name)
        return [sys.executable, "-m", "tests.e2e.crashing", str(self.order(name)), *arguments]


def until(condition: Callable[[], Any], what: str) -> Any:
    """What `condition` gives, as soon as that is true."""
    end = time.monotonic() + POINT_SECONDS
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {POINT_SECONDS:g} s in vain for {what}"
        time.sleep(POLL_SECONDS)
    return found


async def ask(deployment: Deployment, name: str, path: str, content: object = None) -> Any:
    async with AdminClient(deployment.socket(name)) as client:
        return await (client.get(path) if content is None else client.post(path, content))


def rounds(deployment: Deployment) -> list[str]:
    """All that the hospital knows, oldest first."""
    return [known["round"] for known in asyncio.run(ask(deployment, HOSPITAL, "/v1/rounds"))]


def sum_of_last(deployment: Deployment) -> int:
    """Of the round that was opened last, when it has ended."""
    last = rounds(deployment)[-1]

    def ended() -> Any:
        found = asyncio.run(ask(deployment, HOSPITAL, f"/v1/rounds/{last}"))
        return found if found["outcome"] != "open" else None

    final = until(ended, "the round to end")
    assert final["outcome"] == "released", f"{final['code']}: {final['detail']}"
    return int(final["statistics"]["value"]["sum"])


def all_have_countersigned(deployment: Deployment) -> bool:
    """The receipt of the round that was opened last."""
    found = asyncio.run(ask(deployment, HOSPITAL, f"/v1/receipts/{rounds(deployment)[-1]}"))
    return all(member["countersigned"] for member in found["proof"]["members"])


def nothing_is_open(deployment: Deployment) -> bool:
    """Whether no patient takes part in a round any more."""
    return not any(asyncio.run(ask(deployment, name, "/v1/status"))["open_rounds"] for name in deployment.names)


def keys_on_disk(deployment: Deployment, name: str) -> set[bytes]:
    """What is in the slots of a node's file of round keys."""
    content = (deployment.directory / name / "state" / "rounds.keys").read_bytes()
    return {content[at : at + 64] for at in range(0, len(content), 64)}


def restart(daemons: Daemons, name: str) -> None:
    daemons.deployment.socket(name).unlink(missing_ok=True)  # a daemon that was killed leaves it behind
    daemons.start(name)
    daemons.wait_until_ready()
    until(lambda: answers(daemons.deployment, name), f"{name} to answer")  # its socket is there a moment before it listens


def answers(deployment: Deployment, name: str) -> bool:
    try:
        asyncio.run(ask(deployment, name, "/v1/status"))
    except TemporaryError:
        return False
    return True


def die_and_go_on(daemons: Daemons, victim: str, point: str) -> None:
    """One round with one death."""
    deployment = daemons.deployment
    assert isinstance(deployment, Doomed)
    process = daemons.children[victim].process
    deployment.order(victim).write_text(point)
    end = time.monotonic() + POINT_SECONDS
    known: list[str] = []
    while process.poll() is None:  # a commit may keep two things at once, and then lacks the one that the point is named for
        assert time.monotonic() < end, f"{victim} did not come to the point '{point}'"
        with contextlib.suppress(TemporaryError):  # the hospital may be the victim
            known = rounds(deployment)
            asyncio.run(ask(deployment, HOSPITAL, "/v1/rounds", {"study": STUDY}))
            until(lambda: process.poll() is not None or _last_has_ended(deployment), "the round to end or the victim to die")
            until(lambda: process.poll() is not None or nothing_is_open(deployment), "the patients to end")
    assert process.wait() == -signal.SIGKILL
    keys = keys_on_disk(deployment, victim)
    restart(daemons, victim)
    if rounds(deployment) == known:  # the hospital died before the round was kept: it was never opened
        asyncio.run(ask(deployment, HOSPITAL, "/v1/rounds", {"study": STUDY}))
    assert sum_of_last(deployment) == SUM
    until(lambda: nothing_is_open(deployment), "every patient to end the round")
    until(lambda: not keys & keys_on_disk(deployment, victim), "the key of the round to be destroyed")
    until(lambda: all_have_countersigned(deployment), "every patient's countersignature")


def _last_has_ended(deployment: Deployment) -> bool:
    return bool(asyncio.run(ask(deployment, HOSPITAL, "/v1/rounds"))[-1]["outcome"] != "open")


Results = Mapping[tuple[str, str], Future[None]]


def go_through(directory: Path, role: str, what: str, results: Results) -> None:
    """All points of one group in one deployment."""
    mine = [future for (of_role, point), future in results.items() if of_role == role and f" {what} " in point]
    try:
        deployment = Doomed(
            directory, {name: {"literal": value} for name, value in VALUES.items()}, Question(20_000, deadline=600)
        )
        deployment.write()
        with Daemons(deployment) as daemons:
            daemons.wait_until_ready()
            for (of_role, point), future in results.items():
                if future not in mine or not future.set_running_or_notify_cancel():
                    continue
                try:
                    die_and_go_on(daemons, VICTIMS[of_role], point)
                except Exception as error:
                    future.set_exception(error)
                    raise
                future.set_result(None)
    except Exception as error:
        for future in mine:
            if not future.done():
                future.set_exception(AssertionError(f"not tried, because of an earlier failure: {error!r}"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    """What came of each point, by and by."""
    futures: Results = {one: Future() for one in ALL}
    with ThreadPoolExecutor(len(GROUPS)) as pool:
        for role, what in GROUPS:
            pool.submit(go_through, tmp_path_factory.mktemp("c"), role, what, futures)
        try:
            yield futures
        finally:
            for future in futures.values():
                future.cancel()


@pytest.mark.parametrize(("role", "point"), ALL)
def test_a_round_survives_a_death(role: str, point: str, results: Results) -> None:
    results[role, point].result()
