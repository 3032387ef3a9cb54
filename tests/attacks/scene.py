"""Rounds of a hospital that asks too much: real machines and ledgers, and for the patient under attack a real store on the disk.

A test says what the hospital does. What the patient did about it stands in the patient's own audit log (`Scene.why`).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from mpc.credentials import Credentials
from mpc.disclosure import Policy
from mpc.entropy import SEED_BYTES, SeededEntropy
from mpc.errors import Answer
from mpc.identity import Identity, Role
from mpc.keys import Keyring
from mpc.messages import Kind, Member, Roster
from mpc.rounds.admission import Admitted
from mpc.rounds.events import (
    Asked,
    Effect,
    Ended,
    OpenRound,
    ReadValues,
    Released,
    Send,
    StopSending,
    Tick,
    Undeliverable,
    ValuesRead,
)
from mpc.rounds.hospital import HospitalRound
from mpc.rounds.machine import Machine
from mpc.rounds.patient import PatientRound
from mpc.study import Study
from nodes.burnt import BurntInbox
from nodes.journal import Beginning
from nodes.ledger import Ledger
from nodes.receipts import OpenReceipts
from nodes.rounds import Arrived, Happened, New, Rounds, Said
from nodes.store.audit import AuditEvent, AuditLine
from nodes.store.base import Store
from nodes.store.sealing import KEY_BYTES, StorageKey
from nodes.store.sqlite import SqliteStore
from nodes.store.volatile import VolatileStore
from tests.mpc.nodes import HOSPITAL, NOW, credential, keyring, patient, policy, study, trust
from tests.mpc.world import array
from tests.simulation.disks import VolatileKeys

FINAL = frozenset({Answer.GONE, Answer.REFUSED, Answer.UNOPENABLE})
WITNESS = "alice"
"""The patient whose daemon is looked at."""

Change = Callable[[Roster], Roster]


@dataclass(frozen=True, eq=False)
class Letter:
    round_id: bytes
    sender: Identity
    recipient: Identity
    kind: Kind
    raw: bytes = field(repr=False)


class Forger(HospitalRound):
    """A hospital's round that sends another roster than the honest one."""

    change: Change = staticmethod(lambda roster: roster)

    def _to_all(self, kind: Kind, content: Any, until: float) -> list[Send]:
        return super()._to_all(kind, self.change(content) if kind is Kind.ROSTER else content, until)


@dataclass
class Node:
    """A node in one of its lives."""

    identity: Identity
    store: Store
    key: StorageKey
    rules: Policy | None
    keys: VolatileKeys = field(default_factory=VolatileKeys)

    def live(self) -> None:
        """Begins a life, with nothing in memory."""
        self.keys = self.keys.next_life()
        self.credentials, self.ledger = Credentials(trust()), Ledger(self.key)
        self.rounds = Rounds(
            self.identity,
            credentials=self.credentials,
            keys=self.keys,
            ledger=self.ledger,
            receipts=OpenReceipts(self._keyring),
            new_round=self._new_round,
            rebuild=lambda round_id, _role, beginning: self._machine(round_id, beginning.seed),
            close=lambda _round, _ended, _released: (b"{}", b""),
            take_burnt=BurntInbox(self._keyring, self.ledger).take,
            max_message=1 << 20,
        )

    def _keyring(self, key_id: bytes) -> Keyring | None:
        return keyring(self.identity) if keyring(self.identity).encryption.key_id == key_id else None

    def _new_round(self, message: Admitted) -> New | None:
        if self.rules is None:
            return None
        seed = os.urandom(SEED_BYTES)
        beginning = Beginning(seed, keyring(self.identity).encryption.key_id, b"")
        return New(self._machine(message.envelope.header.round, seed), beginning, Role.PATIENT, "")

    def _machine(self, round_id: bytes, seed: bytes) -> Machine:
        assert self.rules is not None
        return PatientRound(
            round_id,
            keyring(self.identity),
            SeededEntropy(seed),
            credentials=self.credentials,
            policy=self.rules,
            ledger=self.ledger,
            endpoint=f"https://{self.identity.name}.example:8443",
        )


@dataclass
class Scene:
    """A hospital, its patients, and what is on its way."""

    nodes: dict[Identity, Node]
    values: dict[str, int] = field(default_factory=dict)
    now: float = NOW
    letters: list[Letter] = field(default_factory=list)
    lost: Callable[[Letter], bool] = lambda _letter: False
    """Which letters never arrive."""
    released: list[Released] = field(default_factory=list)

    async def open(self, asked: Study, change: Change | None = None) -> bytes:
        """The hospital opens a round; `change` makes another roster of the honest one. Returns its id, once all is quiet."""
        round_id = await self.begin(asked, change)
        await self.run()
        return round_id

    async def begin(self, asked: Study, change: Change | None = None, round_id: bytes = b"") -> bytes:
        """The same, with everything still on its way."""
        node, round_id, seed = self.nodes[HOSPITAL], round_id or os.urandom(16), os.urandom(SEED_BYTES)
        machine = Forger(
            round_id,
            keyring(HOSPITAL),
            SeededEntropy(seed),
            credentials=node.credentials,
            me=credential(HOSPITAL),
            study=asked,
            unreleased=node.ledger.unreleased(),
        )
        if change is not None:
            machine.change = change
        beginning = Beginning(seed, keyring(HOSPITAL).encryption.key_id, b"")
        await self.take(HOSPITAL, Happened(round_id, OpenRound(), New(machine, beginning, Role.HOSPITAL, asked.id)))
        return round_id

    async def take(self, who: Identity, what: Arrived | Happened | Said) -> Answer:
        """One event, its commit, and what follows."""
        node = self.nodes[who]
        outcome = node.rounds.take(what, self.now)
        assert not outcome.failure, outcome.failure
        if outcome.step is not None:
            await node.store.commit([outcome.step])
        for effect in outcome.effects:
            await self._do(who, outcome.round_id, effect)
        return outcome.answer or Answer.ACCEPTED

    async def run(self) -> None:
        """Delivers until nothing changes."""
        moved = True
        while moved:
            moved = False
            for letter in list(self.letters):
                if letter not in self.letters:
                    continue
                if self.lost(letter):
                    self.letters.remove(letter)
                    continue
                answer = await self.take(letter.recipient, Arrived(letter.raw, letter.sender))
                if answer in (Answer.LATER, Answer.REJECTED):
                    continue
                moved = True
                if letter in self.letters:
                    self.letters.remove(letter)
                if answer in FINAL:
                    event = Undeliverable(letter.recipient, letter.kind, answer)
                    await self.take(letter.sender, Happened(letter.round_id, event))

    async def pass_time(self, seconds: float) -> None:
        """Every open round looks at its clock."""
        self.now += seconds
        self.letters.clear()
        for who, node in self.nodes.items():
            for machine in node.rounds.machines():
                await self.take(who, Happened(machine.round_id, Tick()))
        await self.run()

    async def restart(self, name: str) -> None:
        """The node dies, and lives again from what its store has."""
        node = self.nodes[patient(name)]
        node.live()
        node.rounds.load(await node.store.ledger())
        for kept in await node.store.open_rounds():
            node.rounds.rebuild(kept)

    async def _do(self, who: Identity, round_id: bytes, effect: Effect) -> None:
        match effect:
            case Send():
                self.letters.append(Letter(round_id, who, effect.recipient, effect.kind, effect.envelope))
            case StopSending():
                self.letters = [one for one in self.letters if (one.sender, one.round_id) != (who, round_id)]
            case ReadValues():
                values = {variable.name: array([self.values.get(who.name, 1)]) for variable in effect.study.variables}
                await self.take(who, Happened(round_id, ValuesRead(values)))
            case Released():
                self.released.append(effect)
            case Asked() | Ended():
                pass

    # -- what a test looks at

    async def lines(self, *events: AuditEvent, name: str = WITNESS) -> list[tuple[AuditLine, Any]]:
        """Lines of a patient's audit log, oldest first."""
        kept = await self.nodes[patient(name)].store.audit(0, 1000)
        return [(one.line, json.loads(one.line.content)) for one in kept if not events or one.line.event in events]

    async def why(self, name: str = WITNESS) -> str:
        """Why the patient took no part in what it was asked last, in the words of its own ledger; empty when it took part."""
        line, content = (await self.lines(AuditEvent.DECLINED, AuditEvent.ENDED, name=name))[-1]
        if line.event == AuditEvent.ENDED and content["outcome"] == "declined":
            line, content = (await self.lines(AuditEvent.DECLINED, name=name))[-1]
        return str(content["reason"] if line.event == AuditEvent.DECLINED else content["detail"])

    async def given(self, name: str = WITNESS) -> int:
        """To how many rounds it has contributed."""
        return len(await self.lines(AuditEvent.SUBMITTED, name=name))


def roster_of(change: Callable[[tuple[Member, ...]], tuple[Member, ...]]) -> Change:
    """A roster with other members."""
    return lambda roster: msgspec.structs.replace(roster, members=change(roster.members))


@contextlib.asynccontextmanager
async def scene(directory: Path, *names: str, rules: Mapping[str, Any] | None = None, **policies: Policy) -> AsyncIterator[Scene]:
    """Patients of these names, WITNESS with a store in `directory`. `rules` change its policy, `policies` that of others."""
    own = policy(**(rules or {}))
    nodes: dict[Identity, Node] = {}
    for identity in (HOSPITAL, *map(patient, names)):
        key = StorageKey(os.urandom(KEY_BYTES))
        store: Store = VolatileStore()
        if identity.name == WITNESS:
            store = SqliteStore(directory / "store.db", identity.uri, key)
        of = None if identity == HOSPITAL else own if identity.name == WITNESS else policies.get(identity.name, policy())
        nodes[identity] = Node(identity, store, key, of)
    for node in nodes.values():
        await node.store.open()
        node.live()
    try:
        yield Scene(nodes)
    finally:
        for node in nodes.values():
            await node.store.close()


def asks(*names: str, **changes: Any) -> Study:
    """A sum over one variable of these patients, with what else is to be otherwise."""
    return msgspec.structs.replace(study(*names), **changes)
