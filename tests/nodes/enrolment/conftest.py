"""The hospital general holds the authority of the consortium demo, and its door is open on a free port."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mpc.identity import Identity, Role
from nodes.enrolment.desk import Desk
from nodes.enrolment.door import Door
from nodes.log import logger
from nodes.metrics import Registry
from nodes.transport.tls import strangers_context
from pki.authority import Authority
from pki.node import NodeKey, load_node_key
from pki.token import Token
from pki.trust import TrustStore

GENERAL = Identity("demo", Role.HOSPITAL, "general")
ALICE = Identity("demo", Role.PATIENT, "alice")
BOB = Identity("demo", Role.PATIENT, "bob")


def node_key(authority: Authority, identity: Identity, out: Path) -> NodeKey:
    """A key and certificate for 127.0.0.1."""
    files = authority.issue_node(identity, [], ["127.0.0.1"], time.time(), out=out)
    return load_node_key(files.key, files.certificate, TrustStore([authority.root.der]), time.time(), identity)


@dataclass
class House:
    """An authority, the daemon's part of it, and what that has told."""

    authority: Authority
    door: Door
    metrics: Registry
    refused: Counter[str]
    audited: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.door.listener.port}"

    def token(self, identity: Identity = ALICE, *, seconds: int = 600, at: float | None = None, **names: list[str]) -> Token:
        return self.authority.grant(
            identity,
            names.get("dns", []),
            names.get("ips", []),
            time.time() if at is None else at,
            seconds=seconds,
            service=GENERAL,
            address=self.address,
        )

    def count(self, outcome: str) -> float:
        wanted = f'cohortium_enrolments_total{{outcome="{outcome}"}} '
        [number] = [line.removeprefix(wanted) for line in self.metrics.render().splitlines() if line.startswith(wanted)] or ["0"]
        return float(number)

    async def say(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer to these bytes, from somebody who has no certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        reader, writer = await asyncio.open_connection("127.0.0.1", self.door.listener.port, ssl=context)
        async with asyncio.timeout(10):
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
            body = await reader.readexactly(int(headers["content-length"]))
            writer.transport.abort()
        return int(head[0].split()[1]), headers, body

    async def post(
        self, body: bytes, path: str = "/v1/enroll", kind: str = "application/json"
    ) -> tuple[int, dict[str, str], bytes]:
        head = f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        return await self.say(head.encode() + body)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Below a root that is elsewhere."""
    root = Authority.create(tmp_path / "root", "demo", time.time())
    return Authority.create_below(root, tmp_path / "ca", time.time())


@pytest.fixture
async def house(authority: Authority, tmp_path: Path) -> AsyncIterator[House]:
    metrics, refused = Registry(), Counter[str]()
    audited: list[tuple[str, dict[str, Any]]] = []
    desk = Desk(authority, logger(GENERAL), metrics, lambda event, **content: audited.append((event, content)))
    context = strangers_context(node_key(authority, GENERAL, tmp_path / "general"))
    door = Door("127.0.0.1:0", context, desk, lambda slug: refused.update([slug]), port=7000, relay=None)
    await door.start()
    yield House(authority, door, metrics, refused, audited)
    await door.stop()
