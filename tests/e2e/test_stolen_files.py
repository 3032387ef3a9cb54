"""A thief who has recorded all traffic of a round takes all files of a node: too late, the seeds open no more.

The relay is played here, with its own key: it sees every envelope that the real daemons send, as a recording of the network that
somebody took the TLS off. The thief knows the program, and tries every key that is in the files, in every slot, on every row.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import shutil
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
import yaml
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key

from mpc.entropy import SeededEntropy
from mpc.envelope import Envelope, open_sealed, parse
from mpc.errors import MessageRefused
from mpc.keys import RoundKey
from mpc.mailbox import Letter, Verdict
from mpc.messages import Kind, Share
from mpc.wire import decode
from nodes.config import check_relay
from nodes.relay import RelayDaemon
from nodes.store.base import StoreError
from nodes.store.sealing import SealingKey
from scripts.daemons import Daemons
from scripts.deployment import HOSPITAL, RELAY, STUDY, VARIABLE, Deployment, Question
from tests.e2e.harness import Admin, cohortium, wait_for
from tests.e2e.played import MAX_MESSAGE, Loop

VALUES = {"alice": 725, "bob": 310, "charlie": 540}
SUM = 1575
SLOT = 64
"""Bytes of one slot in rounds.keys; what is sealed in it has 60."""

pytestmark = pytest.mark.slow


class Wire:
    """The relay, which keeps a copy of all that goes by. It holds back bob's Ready, so that nothing is collected."""

    def __init__(self, deployment: Deployment, loop: Loop) -> None:
        self.daemon = RelayDaemon(check_relay(deployment.config(RELAY)))
        self.recorded: list[Envelope] = []
        self._loop = loop
        self._withheld: list[Letter] = []
        self._post = self.daemon.store.post
        self.daemon.store.post = self._tapped  # type: ignore[method-assign]

    def __enter__(self) -> Wire:
        self._loop.run(self.daemon.open())
        self._loop.run(self.daemon.start())
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run(self.daemon.stop(0.5))

    async def _tapped(self, letters: Sequence[Letter], now: float) -> Sequence[Verdict]:
        envelopes = [parse(letter.envelope, MAX_MESSAGE) for letter in letters]
        self.recorded += envelopes
        late = [envelope.kind is Kind.READY and envelope.sender.name == "bob" for envelope in envelopes]
        self._withheld += [letter for letter, is_late in zip(letters, late, strict=True) if is_late]
        taken = iter(await self._post([letter for letter, is_late in zip(letters, late, strict=True) if not is_late], now))
        return [Verdict.TAKEN if is_late else next(taken) for is_late in late]

    @property
    def all_is_shared(self) -> bool:
        """Every patient has every seed: each has said that it is ready."""
        return sum(envelope.kind is Kind.READY for envelope in self.recorded) == len(VALUES)

    def let_go(self) -> None:
        """Delivers what was held back."""
        self._loop.run(self._post(self._withheld, time.time()))


@dataclass
class Loot:
    """What is in files: words of 32 bytes, each of them tried as every kind of key, and encryption keys."""

    words: set[bytes] = field(default_factory=set, repr=False)
    encryption_keys: list[rsa.RSAPrivateKey] = field(default_factory=list, repr=False)

    @classmethod
    def of(cls, *directories: Path) -> Loot:
        """All that can be had from all these files together."""
        paths = [path for directory in directories for path in directory.rglob("*") if path.is_file()]
        loot, sealed = cls(), set[tuple[bytes, str]]()
        for content in [path.read_bytes() for path in paths]:
            loot.find(content)
            if len(content) % SLOT == 0 and len(content) <= 1 << 14:
                sealed |= {(content[at : at + 60], f"round key in slot {at // SLOT}") for at in range(0, len(content), SLOT)}
        cells = {cell for path in paths if path.suffix == ".db" for cell in _cells(path)}
        names = ["event", "beginning", *(f"encryption key {cell.hex()}" for cell in cells if len(cell) == 32)]
        names += [f"result of round {cell.hex()}" for cell in cells if len(cell) == 16]
        sealed |= {(cell[skipped:], name) for cell in cells for skipped in (0, 4) for name in names}  # 4: the slot's number
        tried = set[bytes]()
        while untried := loot.words - tried:
            for word in untried:
                key = SealingKey(word)
                for blob, label in sealed:
                    with contextlib.suppress(StoreError):
                        loot.find(key.unseal(blob, label))
            tried |= untried
        return loot

    def find(self, content: bytes) -> None:
        """Whatever looks like a key, as it is, in base64, PEM or DER, or as an item of MessagePack."""
        if len(content) == 32:
            self.words.add(content)
        with contextlib.suppress(binascii.Error, ValueError):
            word = base64.b64decode(content.strip(), validate=True)
            self.words |= {word} if len(word) == 32 else set()
        for load in (load_pem_private_key, load_der_private_key):
            with contextlib.suppress(ValueError, TypeError):
                key = load(content, None)
                if isinstance(key, rsa.RSAPrivateKey):
                    self.encryption_keys.append(key)
                if isinstance(key, ec.EllipticCurvePrivateKey):
                    self.words.add(key.private_numbers().private_value.to_bytes(32))
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            for item in _items(msgspec.msgpack.decode(content)):
                self.find(item)

    def opens(self, recorded: Sequence[Envelope]) -> list[tuple[Kind, bytes]]:
        """The envelopes, with their payloads, that open with some of it."""
        round_keys: list[RoundKey | None] = [None]
        round_keys += [RoundKey(SeededEntropy(word)) for word in self.words]
        round_keys += [RoundKey(lambda _, word=word: word) for word in self.words]  # type: ignore[misc]
        found = []
        for envelope in recorded:
            for private_key in [key for key in self.encryption_keys if _unwraps(key, envelope)]:
                for round_key in round_keys:
                    with contextlib.suppress(MessageRefused):
                        found.append((envelope.kind, open_sealed(envelope, private_key, round_key)))
        return found


def _cells(path: Path) -> Iterator[bytes]:
    """Every value of every row of a database."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in database.execute(f'SELECT * FROM "{table}"'):  # noqa: S608  (a name out of the database itself)
                yield from (value for value in row if isinstance(value, bytes))


def _items(value: object) -> Iterator[bytes]:
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _items(item)


def _unwraps(key: rsa.RSAPrivateKey, envelope: Envelope) -> bool:
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label=envelope.header_bytes)
    with contextlib.suppress(ValueError):
        key.decrypt(envelope.wrapped, oaep)
        return True
    return False


def steal(daemons: Daemons, into: Path) -> Path:
    """A copy of all of alice's files at one moment: configuration, identity key, storage key, state directory."""
    process = daemons.children["alice"].process
    process.send_signal(signal.SIGSTOP)
    try:
        shutil.copytree(daemons.deployment.directory / "alice", into, ignore=shutil.ignore_patterns("*.sock"))
    finally:
        process.send_signal(signal.SIGCONT)
    assert {path.name for path in into.iterdir()} >= {"patient.yaml", "alice.key", "storage.key", "state"}
    return into


def test_the_seeds_of_a_recorded_round_open_while_it_is_open_and_never_after_it(tmp_path: Path, loop: Loop) -> None:
    sources = {name: {"literal": value} for name, value in VALUES.items()}
    deployment = Deployment(tmp_path / "nodes", sources, Question(1_000_000, deadline=60), relayed=frozenset(VALUES))
    deployment.directory.mkdir()
    deployment.write()
    config = yaml.safe_load(deployment.config("alice").read_text())
    deployment.config("alice").write_text(yaml.safe_dump(config | {"encryption_keys": {"keep": 1}}))
    daemons = Daemons(deployment)
    hospital, alice = (Admin(deployment.socket(name)) for name in (HOSPITAL, "alice"))
    slots = deployment.directory / "alice" / "state" / "rounds.keys"

    with ExitStack() as stack:
        wire = stack.enter_context(Wire(deployment, loop))
        stack.callback(daemons.stop)
        for name in (HOSPITAL, *VALUES):
            daemons.start(name)
        daemons.wait_until_ready()
        number = hospital.post("/v1/rounds", {"study": STUDY})["round"]
        wait_for(lambda: wire.all_is_shared, "all seeds to be where they belong")

        early = steal(daemons, tmp_path / "early")
        opened = Loot.of(early).opens(wire.recorded)
        seeds = [decode(payload, Share).seed for kind, payload in opened if kind is Kind.SHARE]
        assert len(set(map(bytes, seeds))) == 2, "this test can fail: while the round is open the thief has both"

        (old,) = alice.get("/v1/status")["encryption_keys"]
        for name in (HOSPITAL, "alice"):
            done = cohortium("keys", "rotate", "--config", deployment.config(name))
            assert done.returncode == 0, done.stderr
        assert f"{old} expired\n" in done.stdout
        kept = slots.read_bytes()
        wire.let_go()
        wait_for(lambda: hospital.get(f"/v1/rounds/{number}")["outcome"] == "released", "the result")
        assert hospital.get(f"/v1/rounds/{number}")["statistics"][VARIABLE]["sum"] == SUM, "it ends under the keys it began with"
        assert Counter(envelope.kind for envelope in wire.recorded)[Kind.SHARE] == 6, "nothing went by unseen"
        wait_for(lambda: slots.read_bytes() != kept, "the end of the round's key")
        wait_for(lambda: alice.get("/v1/status")["encryption_keys"][old]["state"] == "erased", "the end of the encryption key")
        assert alice.metric("cohortium_encryption_keys_erased_total") == 1

        late = steal(daemons, tmp_path / "late")
        assert not Loot.of(late).opens(wire.recorded)
        (early / "state" / "rounds.keys").unlink()  # which a backup must leave out
        opened = Loot.of(early, late).opens(wire.recorded)
        assert [kind for kind, _ in opened] == [Kind.INVITATION], "the encryption key alone opens the question alone"
