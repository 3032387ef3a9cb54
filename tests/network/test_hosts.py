"""Rounds between hosts of their own: late, lost and doubled packets, and partitions that heal or do not.

Runs where the machine allows it, which is root with /dev/net/tun; skipped with the reason elsewhere.
"""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nodes import daemon
from nodes.admin.client import AdminClient
from scripts.daemons import Daemons
from scripts.deployment import HOSPITAL, RELAY, STUDY, Deployment, Question
from tests.network.link import Network, Weather, why_not
from tests.services import SUM, VALUES, until

_WHY_NOT = why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(_WHY_NOT), reason=_WHY_NOT or "it runs")]

ways = pytest.mark.parametrize(
    "relayed",
    [
        False,
        pytest.param(
            True,
            marks=pytest.mark.skipif(
                "node_transport" not in inspect.getsource(daemon), reason="no daemon takes mail from a relay yet"
            ),
        ),
    ],
    ids=["direct", "relayed"],
)


class OnHosts(Deployment):
    """A deployment whose nodes each run on a host of their own."""

    network: Network

    def command(self, name: str) -> list[str]:
        return ["ip", "netns", "exec", self.network.namespace(name), *super().command(name)]

    def move(self, network: Network) -> None:
        """Writes the hosts' addresses where those of loopback are."""
        self.network = network
        for node in self.nodes:
            text = self.config(node).read_text()
            for name, port in self.ports.items():
                text = text.replace(f"127.0.0.1:{port}", f"{network.address(name)}:{port}")
            self.config(node).write_text(text)


@dataclass
class Hosts:
    """All of it at work."""

    network: Network
    daemons: Daemons

    def begin(self) -> str:
        """The id of a round that is opened now."""
        return str(self._ask("post", "/v1/rounds", {"study": STUDY})["round"])

    def show(self, round_id: str) -> dict[str, Any]:
        """How it stands."""
        self.daemons.check()
        return self._ask("get", f"/v1/rounds/{round_id}")

    def final(self, round_id: str, seconds: float = 60) -> dict[str, Any]:
        """How it ended."""
        until(lambda: self.show(round_id)["outcome"] != "open", "the round to end", seconds)
        return self.show(round_id)

    def _ask(self, method: str, *arguments: Any) -> dict[str, Any]:
        async def ask() -> dict[str, Any]:
            async with AdminClient(self.daemons.deployment.socket(HOSPITAL)) as admin:
                answer: dict[str, Any] = await getattr(admin, method)(*arguments)
                return answer

        return asyncio.run(ask())


@contextmanager
def hosts(directory: Path, *, relayed: bool, deadline: int = 60, weather: Weather | None = None) -> Iterator[Hosts]:
    deployment = OnHosts(
        directory,
        {name: {"literal": value} for name, value in VALUES.items()},
        Question(bound=20_000, deadline=deadline),
        relayed=frozenset(VALUES) if relayed else frozenset(),
    )
    deployment.write()
    network = Network(deployment.nodes, weather or Weather())
    deployment.move(network)
    with network.up(), Daemons(deployment) as daemons:
        daemons.wait_until_ready()
        if relayed:
            # A patient is ready before the relay has its key; whom the relay has no key of cannot be invited.
            until(lambda: _published(deployment) == len(VALUES), "every patient's key at the relay")
        yield Hosts(network, daemons)


def _published(deployment: Deployment) -> int:
    with closing(sqlite3.connect(f"file:{deployment.directory / RELAY / 'state' / 'relay.db'}?mode=ro", uri=True)) as store:
        return int(store.execute("SELECT count(*) FROM published").fetchone()[0])


def exact(final: dict[str, Any]) -> bool:
    assert final["outcome"] == "released", final
    return bool(final["statistics"]["value"]["sum"] == SUM)


@ways
def test_a_round_over_a_network_that_delays_loses_and_doubles_packets(
    tmp_path_factory: pytest.TempPathFactory, relayed: bool
) -> None:
    with hosts(tmp_path_factory.mktemp("n"), relayed=relayed) as made:
        assert exact(made.final(made.begin()))
        assert made.network.lost > 5, "the weather was bad"
        assert made.network.doubled > 2


@ways
def test_a_round_across_a_partition_that_heals_before_the_deadline(
    tmp_path_factory: pytest.TempPathFactory, relayed: bool
) -> None:
    with hosts(tmp_path_factory.mktemp("n"), relayed=relayed) as made:
        made.network.cut("charlie")
        round_id = made.begin()
        until(lambda: made.show(round_id)["waiting_for"] == ["charlie"], "all but charlie to answer")
        made.network.heal()
        assert exact(made.final(round_id))


def test_shares_that_wait_for_a_link_between_two_patients_arrive_when_it_is_there_again(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with hosts(tmp_path_factory.mktemp("n"), relayed=False) as made:
        made.network.cut("alice", "bob")
        round_id = made.begin()

        def charlie_alone_is_ready() -> bool:
            shown = made.show(round_id)
            return (shown["phase"], shown["waiting_for"]) == ("sharing", ["alice", "bob"])

        until(charlie_alone_is_ready, "charlie alone to have every share")
        made.network.heal()
        assert exact(made.final(round_id))


@ways
def test_a_patient_that_stays_cut_off_is_named(tmp_path_factory: pytest.TempPathFactory, relayed: bool) -> None:
    with hosts(tmp_path_factory.mktemp("n"), relayed=relayed, deadline=9, weather=Weather(loss=0.0)) as made:
        made.network.cut("bob")
        final = made.final(made.begin())
        assert (final["outcome"], final["code"], final["missing"]) == ("aborted", "too-few-members", ["bob"])


def test_two_patients_that_cannot_reach_each_other_are_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    with hosts(tmp_path_factory.mktemp("n"), relayed=False, deadline=12, weather=Weather(loss=0.0)) as made:
        made.network.cut("alice", "bob")
        final = made.final(made.begin())
        assert (final["outcome"], final["code"]) == ("aborted", "member-missing")
        assert final["missing"] in (["alice"], ["bob"], ["alice", "bob"]), "of the two, the first to speak names the other"
