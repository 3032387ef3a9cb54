"""How many small messages a second one relay process takes and hands out, and what it weighs while many wait.

    python benchmarks/relay.py [--nodes 20] [--messages 20000] [--waiting 100000] [--store postgresql://...]

A real relay process (mutual TLS 1.3, SQLite that waits for the disk); nodes in this process post to one another and fetch at
the same time, with the code that daemons use. A message is the envelope of a share. What is made beforehand is not timed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cryptography.hazmat.primitives.asymmetric import rsa

from mpc.envelope import Place, Recipient, seal
from mpc.errors import Answer
from mpc.identity import Identity, Role
from mpc.keys import Keyring, RoundKey, WrappingKey, publish
from mpc.messages import Kind
from nodes.log import logger
from nodes.transport.limits import Limits
from nodes.transport.mail import RelayedTransport
from pki.node import load_node_key
from pki.trust import TrustStore
from scripts.daemons import Daemons
from scripts.deployment import CONSORTIUM, RELAY, Deployment, Question

_AT_ONCE = 400
"""Messages that a node has on their way together, as in a round of so many members."""


class Node:
    """One node behind the relay, and the envelopes that it will post."""

    def __init__(self, deployment: Deployment, name: str) -> None:
        self.identity = Identity(CONSORTIUM, Role.PATIENT, name)
        self.received = 0
        self.all_here = asyncio.Event()
        self.expected = 0
        files = deployment.directory / name
        trust = TrustStore.load(deployment.directory / "ca" / "ca.crt")
        key = load_node_key(files / f"{name}.key", files / f"{name}.crt", trust, time.time(), self.identity)
        private_key = rsa.generate_private_key(65537, 3072)
        self.keyring = Keyring(
            key.identity, key.private_key, key.chain, publish(key.identity, key.private_key, private_key, time.time())
        )
        self.wrapping_key = WrappingKey(self.identity, self.keyring.encryption.key_id, private_key.public_key(), 0, 2**40)
        self.url = f"https://127.0.0.1:{deployment.ports[RELAY]}"
        self.transport = RelayedTransport(
            Identity(CONSORTIUM, Role.RELAY, RELAY),
            self.url,
            proof=key,
            roots=trust.roots,
            check_peer=None,
            limits=Limits(),
            log=logger(self.identity),
        )

    async def receive(self, _envelope: bytes, _peer: Identity) -> Answer:
        self.received += 1
        if self.received >= self.expected:
            self.all_here.set()
        return Answer.ACCEPTED

    def expect(self, count: int) -> None:
        self.received, self.expected = 0, count
        self.all_here.clear()

    def envelopes(self, to: Node, count: int) -> list[bytes]:
        """Different ones, each of the right form: one is sealed, the others differ in bytes that only the recipient checks."""
        recipient = Recipient(to.identity, to.wrapping_key, RoundKey(os.urandom).public)
        raw, _ = seal(
            Kind.SHARE,
            bytes(35),
            Place(os.urandom(16), bytes(32)),
            keyring=self.keyring,
            round_key=RoundKey(os.urandom),
            recipient=recipient,
            secret=os.urandom(32),
        )
        return [raw[:-76] + os.urandom(12) + raw[-64:] for _ in range(count)]

    async def post(self, work: list[tuple[Identity, bytes]]) -> None:
        room = asyncio.Semaphore(_AT_ONCE)

        async def post(to: Identity, envelope: bytes) -> None:
            async with room:
                answer = await self.transport.send(to, f"relay://{RELAY}@relay:1", envelope)
            assert answer is Answer.ACCEPTED, answer

        await asyncio.gather(*(post(to, envelope) for to, envelope in work))


def _work(nodes: list[Node], messages: int) -> list[list[tuple[Identity, bytes]]]:
    each = messages // (len(nodes) * (len(nodes) - 1))
    return [
        [
            (to.identity, envelope)
            for of_one in zip(*(sender.envelopes(to, each) for to in nodes if to is not sender), strict=True)
            for to, envelope in zip((to for to in nodes if to is not sender), of_one, strict=True)
        ]
        for sender in nodes
    ]


def _megabytes(process: int, what: str = "VmRSS") -> float:
    for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(what):
            return int(line.split()[1]) / 1024
    raise ValueError(what)


async def _measure(deployment: Deployment, process: int, messages: int, waiting: int) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        nodes = [Node(deployment, name) for name in deployment.names]
        for node in nodes:
            await node.transport.start(node.receive)
            stack.push_async_callback(node.transport.stop)
        await asyncio.sleep(0.5)  # everybody has a mailbox and waits for mail
        idle = _megabytes(process)

        work = _work(nodes, messages)
        total = sum(map(len, work))
        for node in nodes:
            node.expect(total // len(nodes))
        size = len(work[0][0][1])
        began = time.perf_counter()
        await asyncio.gather(*(node.post(of_one) for node, of_one in zip(nodes, work, strict=True)))
        posted = time.perf_counter() - began
        await asyncio.gather(*(node.all_here.wait() for node in nodes))
        seconds = time.perf_counter() - began
        busy = _megabytes(process)

        for node in nodes:  # nobody fetches from here on
            await node.transport.stop()
        work = _work(nodes, waiting)
        stored = sum(map(len, work))
        for node, of_one in zip(nodes, work, strict=True):
            node.transport._client.start()
            await node.post(of_one)
        full = _megabytes(process)
        return {
            "messages": total,
            "bytes_each": size,
            "messages_per_second": round(total / seconds),
            "posted_per_second": round(total / posted),
            "idle_mb": round(idle, 1),
            "busy_mb": round(busy, 1),
            "waiting": stored,
            "waiting_mb": round(full, 1),
            "peak_mb": round(_megabytes(process, "VmHWM"), 1),
        }


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--messages", type=int, default=20_000, help="posted and fetched for the rate")
    parser.add_argument("--waiting", type=int, default=100_000, help="left in the mailboxes for the memory")
    parser.add_argument("--store", help="postgresql://... instead of SQLite")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cohortium-") as directory:
        sources = {f"n{number:03d}": {"literal": 0} for number in range(options.nodes)}
        deployment = Deployment(Path(directory), sources, Question(1), relayed=frozenset(sources))
        deployment.write()
        if options.store:
            with deployment.config(RELAY).open("a", encoding="utf-8") as config:
                config.write(f"store: {json.dumps(options.store)}\n")
        daemons = Daemons(deployment)
        try:
            relay = daemons.start(RELAY).process
            daemons.wait_until_ready()
            print(json.dumps(asyncio.run(_measure(deployment, relay.pid, options.messages, options.waiting)), indent=1))
        finally:
            daemons.stop()


if __name__ == "__main__":
    main()
