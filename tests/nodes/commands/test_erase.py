"""`cohortium erase`: says what goes and what it cannot reach, and asks first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mpc.errors import TemporaryError, UsageError
from nodes.admin.api import AdminApi
from nodes.admin.client import AdminClient
from nodes.admin.erase import add_erase_route
from nodes.commands.erase import erase
from nodes.metrics import Registry
from nodes.store.base import Step
from nodes.store.volatile import VolatileStore
from tests.nodes.commands.play import at_work
from tests.nodes.house import short_directory
from tests.nodes.store.steps import NOW, ONE, TWO, begun, closed_at, line

DAY = 86400.0


@dataclass
class Node:
    """What the route asks of a daemon."""

    path: Path
    store: VolatileStore = field(default_factory=VolatileStore)

    async def erase(self, older_than_days: int, study: str | None = None) -> int:
        return await self.store.erase_before(NOW - older_than_days * DAY, study)

    def ended(self) -> list[bytes]:
        return [kept.round_id for kept in asyncio.run(self.store.closed_rounds(10))]


@pytest.fixture
def node() -> Iterator[Node]:
    """A daemon with one round of two days ago and one of ten, and its admin socket on a thread of its own."""
    with short_directory() as directory:
        made = Node(directory / "admin.sock")

        async def serve() -> AdminApi:
            await made.store.open()
            for number, round_id, days in ((1, ONE, 10), (2, TWO, 2)):
                at = NOW - days * DAY
                await made.store.commit([Step(round_id, begun(number), closed=closed_at(at), audit=(line(at),))])
            admin = AdminApi(made.path, dict, Registry())
            add_erase_route(admin, made)
            await admin.start()
            return admin

        with at_work(serve):
            yield made


def invoke(node: Node, *arguments: str, answer: str = "") -> Result:
    return CliRunner().invoke(erase, [*arguments, "--socket", str(node.path)], input=answer)


def test_it_says_what_goes_and_what_is_out_of_reach_and_asks(node: Node) -> None:
    refused = invoke(node, "--older-than", "7", answer="n\n")
    assert refused.exit_code == 1
    assert "rounds that ended more than 7 days ago" in refused.stderr
    assert "Out of reach: backups, snapshots and replicas of the store" in refused.stderr
    assert refused.stderr.endswith("nothing was deleted\n")
    assert node.ended() == [TWO, ONE]


@pytest.mark.parametrize(("arguments", "answer"), [(["--yes"], ""), ([], "y\n")])
def test_what_is_older_is_deleted_and_the_rest_stays(node: Node, arguments: list[str], answer: str) -> None:
    done = invoke(node, "--older-than", "7", *arguments, answer=answer)
    assert done.stdout == "deleted 2 rounds and lines of the audit log\n"
    assert node.ended() == [TWO]


def test_one_study_can_be_deleted(node: Node) -> None:
    assert invoke(node, "--study", "study-1", "--older-than", "11", "--yes").stdout.startswith("deleted 0 ")
    done = invoke(node, "--study", "study-2", "--yes")
    assert "all rounds that have ended, of the study 'study-2' alone" in done.stderr
    assert done.stdout.startswith("deleted 1 ")
    assert node.ended() == [ONE]


def test_zero_days_is_all_that_has_ended(node: Node) -> None:
    done = invoke(node, "--older-than", "0", "--yes")
    assert "all rounds that have ended" in done.stderr
    assert node.ended() == []


def test_nobody_deletes_without_saying_what(node: Node) -> None:
    assert isinstance(invoke(node, "--yes").exception, UsageError)
    assert invoke(node, "--older-than", "-1", "--yes").exit_code == 2
    assert node.ended() == [TWO, ONE]


@pytest.mark.parametrize("wrong", [{}, {"older_than_days": -1}, {"older_than_days": 1, "more": 2}, {"older_than_days": "7"}])
def test_a_request_that_is_not_one_deletes_nothing(node: Node, wrong: dict[str, Any]) -> None:
    async def post() -> None:
        async with AdminClient(node.path) as client:
            await client.post("/v1/erase", wrong)

    with pytest.raises(UsageError, match="the request must read"):
        asyncio.run(post())
    assert node.ended() == [TWO, ONE]


def test_a_daemon_that_does_not_run_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(erase, ["--older-than", "7", "--yes", "--socket", str(tmp_path / "admin.sock")])
    assert isinstance(done.exception, TemporaryError)
    assert "no daemon answers at" in str(done.exception)
