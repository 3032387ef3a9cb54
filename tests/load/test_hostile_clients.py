"""Hundreds of clients who mean harm at one real hospital, and an honest round that ends in its exact sum all the same.

The guests come from addresses of their own (all of 127/8 is loopback); those with a certificate have that of mallory, a patient.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodes.admin.client import AdminClient
from scripts.daemons import Daemons
from scripts.deployment import COHORTIUM, HOSPITAL, STUDY
from tests.e2e.harness import Admin
from tests.services import SUM, until, write_deployment

pytestmark = pytest.mark.slow

MIB = 1 << 20
LIMITS = {
    "handshake_seconds": 2,
    "header_seconds": 2,
    "body_seconds": 2,
    "linger_seconds": 0.5,
    "idle_seconds": 3,
    "kept_seconds": 2,
    "bytes_per_second": 1_000_000,
}


class Hospital:
    """The daemon under attack."""

    def __init__(self, daemons: Daemons) -> None:
        self.daemons = daemons
        self.port = daemons.deployment.ports[HOSPITAL]
        self.process = daemons.children[HOSPITAL].process.pid

    def files(self) -> int:
        return len(list(Path(f"/proc/{self.process}/fd").iterdir()))

    def resident(self) -> int:
        [line] = [line for line in Path(f"/proc/{self.process}/status").read_text().splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1]) * 1024

    def refused(self) -> Counter[str]:
        """How many connections and requests were turned away so far, by reason; the log has no more than a line a second."""
        text = Admin(self.daemons.deployment.socket(HOSPITAL)).text("/metrics")
        found = re.findall(r'^cohortium_connections_refused_total\{reason="(.+)"\} (\d+)', text, re.MULTILINE)
        return Counter({reason: int(count) for reason, count in found})

    def honest_round(self) -> int:
        """The sum of a round that is opened now."""

        async def sum_of() -> int:
            async with AdminClient(self.daemons.deployment.socket(HOSPITAL)) as admin, asyncio.timeout(30):
                opened = await admin.post("/v1/rounds", {"study": STUDY})
                async for _ in admin.lines(f"/v1/rounds/{opened['round']}/watch"):
                    pass  # until it has ended
                shown = await admin.get(f"/v1/rounds/{opened['round']}")
                assert shown["outcome"] == "released", shown
                return int(shown["statistics"]["value"]["sum"])

        return asyncio.run(sum_of())


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    deployment = write_deployment(tmp_path_factory.mktemp("h"), LIMITS)
    issued = ["pki", "issue", "patient/mallory", "--ip", "127.0.0.1", "--dir", str(deployment.directory / "ca")]
    subprocess.run([*COHORTIUM, *issued, "--out", str(deployment.directory), "--per-node"], check=True, capture_output=True)
    with Daemons(deployment) as daemons:
        daemons.wait_until_ready()
        yield Hospital(daemons)


@contextmanager
def under_attack(hospital: Hospital, guest: str, count: int, addresses: int) -> Iterator[None]:
    """`count` guests from that many addresses, each again and again, until the block ends."""
    arguments = [guest, str(count), str(addresses), str(hospital.port), str(hospital.daemons.deployment.directory)]
    before = hospital.refused().total()
    with subprocess.Popen([sys.executable, "-m", "tests.load.guests", *arguments], start_new_session=True) as guests:
        try:
            until(lambda: hospital.refused().total() > before or guests.poll() is not None, "the first of them to be turned away")
            assert guests.poll() is None
            yield
        finally:
            guests.kill()


@pytest.mark.parametrize(
    ("guest", "count", "addresses", "reasons"),
    [
        ("silent", 1000, 1, {"address", "handshake-timeout"}),
        ("silent", 600, 5, {"handshake-timeout"}),
        ("handshake_by_the_byte", 300, 3, {"handshake-timeout"}),
        ("noise", 200, 2, {"tls"}),
        ("head_by_the_byte", 200, 2, {"peer", "header-timeout"}),
        ("body_by_the_byte", 200, 2, {"peer", "body-timeout"}),
        ("body_without_end", 60, 1, {"peer", "length"}),
        ("slow_reader", 60, 1, {"peer"}),
    ],
    ids=[
        *("1000 connections", "600 connections from 5 addresses", "handshakes by the byte", "noise"),
        *("heads by the byte", "bodies by the byte", "bodies without end", "slow readers"),
    ],
)
def test_an_honest_round_ends_well_under(hospital: Hospital, guest: str, count: int, addresses: int, reasons: set[str]) -> None:
    files, memory, before = hospital.files(), hospital.resident(), hospital.refused()
    with under_attack(hospital, guest, count, addresses):
        assert hospital.honest_round() == SUM
        until(lambda: reasons <= set(hospital.refused() - before), f"each of {reasons} to be a reason")
        assert hospital.resident() - memory < 120 * MIB
    until(lambda: hospital.files() <= files + 10, "the guests' connections to be cut")
    assert hospital.honest_round() == SUM
