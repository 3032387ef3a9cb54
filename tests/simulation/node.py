"""A node of a run, from one life to the next: the real driver, rounds, outbox, journal and machines, on a disk that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from mpc.credentials import Credentials
from mpc.entropy import SeededEntropy
from mpc.errors import Answer
from mpc.identity import Identity, Role
from mpc.keys import Keyring
from mpc.rounds.admission import Admitted
from mpc.rounds.events import Effect, Ended, OpenRound, Released, ValuesRead, ValuesUnavailable
from mpc.rounds.events import Event as RoundEvent
from mpc.rounds.hospital import HospitalRound
from mpc.rounds.machine import Machine
from mpc.rounds.patient import PatientRound
from mpc.study import Study
from mpc.wire import decode, encode
from nodes.burnt import BurntInbox
from nodes.driver import Driver
from nodes.journal import Beginning, RoundLost
from nodes.ledger import Ledger
from nodes.log import Event, Logger
from nodes.metrics import Registry
from nodes.receipts import OpenReceipts
from nodes.rounds import New, Rounds
from nodes.store.base import OpenRound as OpenRoundKept
from nodes.store.base import Step, Store, StoreError
from nodes.transport.base import DeliveryError, Receive
from nodes.transport.memory import MemoryTransport
from tests.mpc.nodes import HOSPITAL, credential, keyring, policy, trust
from tests.mpc.world import array
from tests.simulation.disks import Disk, Watched
from tests.simulation.loop import Life

if TYPE_CHECKING:
    from tests.simulation.run import Run

_FOREVER = 1e9
_RESTART_SECONDS = 1.0


class _Log:
    """Tells the run's story what the node's log says; a failure of the program is a finding."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def debug(self, event: str, **_content: object) -> None:
        """Too much for a short story."""

    info = debug

    def warning(self, event: str, **content: object) -> None:
        self._node.tell(f"{event} {content.get('reason', '')}")

    def error(self, event: str, **content: object) -> None:
        if event == Event.FAILED and "disk-full" not in str(content.get("error")):
            self._node.run.finding(f"{self._node.identity.name}: the program failed: {content}")
        self.warning(event, **content)


class Node:
    """One hospital or patient."""

    def __init__(self, run: Run, identity: Identity, disk: Disk) -> None:
        self.run = run
        self.identity = identity
        self.disk = disk
        self.life: Life | None = None
        self.driver: Driver | None = None
        self.machines: dict[bytes, Machine] = {}
        """Of this life."""
        self.stories: dict[bytes, list[str]] = {}
        self.full = False
        """Its disk."""
        self.offset = 0.0
        self.restored = False
        """Whether its store was ever put back to an older copy."""

    def tell(self, what: str) -> None:
        self.run.tell(self.identity.name, what)

    # -- lives

    def start(self) -> None:
        """A new life begins."""
        assert self.life is None, "one at a time"
        self.life = life = Life()
        life.offset = self.offset
        self.machines = {}
        self.disk.put(lambda point: self._point(life, point))
        store = Watched(
            self.disk.store,
            lambda name: self._before(life, name),
            lambda name: self._after(life, name),
            self._kept,
        )
        self.ledger = Ledger()
        self.credentials = Credentials(trust())
        rounds = Rounds(
            self.identity,
            credentials=self.credentials,
            keys=self.disk.keys,
            ledger=self.ledger,
            receipts=OpenReceipts(self._keyring),
            new_round=self._new_round,
            rebuild=self._rebuild,
            close=_close,
            take_burnt=BurntInbox(self._keyring, self.ledger).take,
            max_message=1 << 20,
        )
        transport = _Transport(self, life)

        async def live() -> None:
            try:
                await self._live(rounds, store, transport)
            except StoreError as error:
                self.tell(f"could not start: {error.reason}")
                self.end(_RESTART_SECONDS)
            except Exception as error:
                self.run.finding(f"{self.identity.name} could not start: {error!r}")

        asyncio.get_running_loop().create_task(live(), context=life.context)

    async def _live(self, rounds: Rounds, store: Store, transport: _Transport) -> None:
        self.driver = driver = Driver(
            rounds,
            store=store,
            keys=self.disk.keys,
            guard=self.disk.guard,
            transport=transport,
            resolve=lambda node, announced: announced or f"https://{node.name}.example:8443",
            read_sources=self._read_sources,
            at_hand=lambda _study: self.run.chance.random() < 0.3,
            resumed=self._resumed,
            observe=self._observe,
            metrics=Registry(),
            log=cast(Logger, _Log(self)),
        )
        await store.open()
        await driver.start()
        await transport.start(driver.receive)

    def end(self, away: float) -> None:
        """The life ends here and now; the next one begins after so many seconds."""
        if self.life is None:
            return
        for round_id, machine in self.machines.items():
            self.stories[round_id] = machine.story
        self.life.end()
        self.life, self.driver = None, None
        self.run.network.listen(self.identity, None)
        self.run.later(away, self._rise)

    async def _rise(self) -> None:
        await self.disk.crash()
        self.tell("starts")
        self.start()

    def crash(self, where: str) -> None:
        """By SIGKILL."""
        away = self.run.chance.uniform(0.01, self.run.temper.away)
        self.tell(f"crashes {where}, away for {away:.1f} s")
        self.run.count("crash " + where)
        self.end(away)

    def stop(self, seconds: float) -> None:
        """By SIGTERM."""
        life, driver = self.life, self.driver
        if life is None or driver is None:
            return

        async def stop() -> None:
            self.tell("stops")
            await driver.stop(seconds)
            self.end(self.run.chance.uniform(0.01, self.run.temper.away))

        asyncio.get_running_loop().create_task(stop(), context=life.context)

    def set_clock(self, offset: float) -> None:
        """Its clock is wrong by so much from now on."""
        self.offset = offset
        if self.life is not None:
            self.life.offset = offset

    def open(self, asked: Study, round_id: bytes) -> asyncio.Task[None]:
        """At the hospital: opens a round."""
        assert self.life is not None
        assert self.driver is not None
        seed = self.run.chance.randbytes(32)
        machine = self._hospital_round(round_id, seed, asked)
        self.machines[round_id] = machine
        beginning = Beginning(seed, keyring(self.identity).encryption.key_id, encode(asked))
        new = New(machine, beginning, Role.HOSPITAL, asked.id)
        loop = asyncio.get_running_loop()
        return loop.create_task(self.driver.begin(new, OpenRound()), context=self.life.context)

    # -- what the disk does

    async def _before(self, life: Life, name: str) -> None:
        await self._alive(life)
        run = self.run
        if run.strikes(run.temper.slow_disk):
            await asyncio.sleep(run.chance.uniform(0, 1.0))
            await self._alive(life)
        await self._maybe_crash(life, f"before {name}")
        writes = name in {"commit", "delivered"}
        if (writes and self.full) or run.strikes(run.temper.fail * (1.0 if writes else 0.3)):
            run.count(f"{name} fails")
            self.tell(f"{name} fails")
            raise StoreError("disk-full", "the disk is full")

    async def _after(self, life: Life, name: str) -> None:
        await self._alive(life)
        await self._maybe_crash(life, f"after {name}")

    async def _maybe_crash(self, life: Life, where: str) -> None:
        if self.run.strikes(self.run.temper.crash):
            self.crash(where)
            await self._alive(life)

    async def _alive(self, life: Life) -> None:
        """Whoever comes here from a life that has ended goes no further."""
        if not life.alive:
            await asyncio.sleep(_FOREVER)

    def _point(self, life: Life, where: str) -> None:
        if not life.alive:
            raise asyncio.CancelledError
        if self.run.strikes(self.run.temper.crash):
            self.crash(where)
            raise asyncio.CancelledError
        if where.startswith("before") and (self.full or self.run.strikes(self.run.temper.fail)):
            self.run.count(f"{where.removeprefix('before ')} fails")
            self.tell(f"{where.removeprefix('before ')} fails")
            raise StoreError("disk-full", "the disk is full")

    def _kept(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self.run.kept(self, step)
        for machine in self.machines.values():
            try:
                machine.check_invariants()
            except AssertionError as error:
                self.run.finding(f"{self.identity.name}: {error}")

    # -- what a daemon does for its driver

    def _new_round(self, message: Admitted) -> New | None:
        if self.identity == HOSPITAL:
            return None
        round_id, seed = message.envelope.header.round, self.run.chance.randbytes(32)
        machine = self._patient_round(round_id, seed)
        return New(machine, Beginning(seed, keyring(self.identity).encryption.key_id, b""), Role.PATIENT, "")

    def _rebuild(self, round_id: bytes, role: str, beginning: Beginning) -> Machine:
        if not self.run.temper.gentle and self.run.strikes(self.run.temper.fail * 0.1):
            raise RoundLost("its policy has changed")
        if role == Role.HOSPITAL:
            machine: Machine = self._hospital_round(round_id, beginning.seed, decode(beginning.asked, Study))
        else:
            machine = self._patient_round(round_id, beginning.seed)
        return machine

    def _hospital_round(self, round_id: bytes, seed: bytes, asked: Study) -> HospitalRound:
        machine = HospitalRound(
            round_id,
            keyring(HOSPITAL),
            SeededEntropy(seed),
            credentials=self.credentials,
            me=credential(HOSPITAL),
            study=asked,
        )
        self.machines[round_id] = machine
        return machine

    def _keyring(self, key_id: bytes) -> Keyring | None:
        mine = keyring(self.identity)
        return mine if mine.encryption.key_id == key_id else None

    def _patient_round(self, round_id: bytes, seed: bytes) -> PatientRound:
        machine = PatientRound(
            round_id,
            keyring(self.identity),
            SeededEntropy(seed),
            credentials=self.credentials,
            policy=policy(self.run.bound),
            ledger=self.ledger,
            endpoint=f"https://{self.identity.name}.example:8443",
        )
        self.machines[round_id] = machine
        return machine

    def _read_sources(self, study: Study) -> RoundEvent:
        if self.run.strikes(self.run.temper.unavailable):
            self.tell("has no value")
            return ValuesUnavailable()
        return ValuesRead({"value": array([self.run.value(study.id, self.identity)])})

    def _resumed(self, kept: OpenRoundKept, machine: Machine) -> None:
        self.run.count("resumed")

    def _observe(self, round_id: bytes, effect: Effect) -> None:
        if isinstance(effect, Released):
            self.run.released(self, round_id, effect)
        elif isinstance(effect, Ended):
            self.tell(f"round {round_id.hex()[:4]} {effect.outcome} {effect.code} {','.join(effect.missing)}")


def _close(_round_id: bytes, _ended: Ended, released: Released | None) -> tuple[bytes, bytes]:
    return b"{}", b"" if released is None else encode(released.result)


class _Transport:
    """A life's end of the network. See `nodes.transport.base.Transport`."""

    def __init__(self, node: Node, life: Life) -> None:
        self._node = node
        self._life = life
        self._way = MemoryTransport(node.run.network, node.identity)

    async def start(self, receive: Receive) -> None:
        async def take(envelope: bytes, peer: Identity) -> Answer:
            loop = asyncio.get_running_loop()
            coroutine = cast(Callable[[bytes, Identity], Any], receive)(envelope, peer)
            try:
                answer: Answer = await loop.create_task(coroutine, context=self._life.context)
            except asyncio.CancelledError:
                if self._life.alive:
                    raise
                raise DeliveryError("closed", "the recipient died") from None
            return answer

        await self._way.start(take)

    async def send(self, recipient: Identity, endpoint: str, envelope: bytes) -> Answer:
        node = self._node
        node.run.sent(node, recipient, envelope)
        if node.run.strikes(node.run.temper.crash):
            node.crash("before send")
            await asyncio.sleep(_FOREVER)
        answer = await self._way.send(recipient, endpoint, envelope)
        if node.run.strikes(node.run.temper.crash):
            node.crash("after send")
            await asyncio.sleep(_FOREVER)
        return answer

    async def stop(self) -> None:
        await self._way.stop()
