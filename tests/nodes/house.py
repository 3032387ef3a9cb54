"""Drivers on the network in memory and daemons in this process, with what a test needs to see into them.

A clock that stands still, a log that is kept, a postman who does harm, machines that do as they are told.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import structlog
from structlog.testing import LogCapture

from mpc.credentials import Credentials
from mpc.entropy import SEED_BYTES, SeededEntropy
from mpc.envelope import Place, write_unsealed
from mpc.errors import Answer
from mpc.identity import Credential, Identity, Role
from mpc.keys import Keyring, RoundKey
from mpc.messages import Kind
from mpc.rounds.admission import Admitted
from mpc.rounds.events import (
    Effect,
    Ended,
    Event,
    MessageReceived,
    ReadValues,
    Released,
    ValuesRead,
    ValuesUnavailable,
)
from mpc.rounds.hospital import HospitalRound
from mpc.rounds.machine import Machine, Transitions
from mpc.rounds.patient import PatientRound, PatientState
from mpc.study import Study
from mpc.wire import decode, encode
from nodes.burnt import BurntInbox
from nodes.config import check_hospital, check_patient
from nodes.driver import Driver
from nodes.hospital import HospitalDaemon
from nodes.journal import Beginning, RoundLost
from nodes.ledger import Ledger
from nodes.metrics import Registry
from nodes.patient import PatientDaemon
from nodes.receipts import OpenReceipts
from nodes.rounds import New, Rounds
from nodes.store.base import OpenRound, Posted
from nodes.store.volatile import VolatileStore
from nodes.transport.base import DeliveryError
from nodes.transport.memory import MemoryNetwork, Parcel
from pki.authority import Authority
from scripts.ports import free_ports
from tests.mpc.nodes import CONSORTIUM, HOSPITAL, NOW, credential, keyring, patient, policy, trust
from tests.mpc.world import array
from tests.simulation.disks import VolatileGuard, VolatileKeys

DEADLINE = 5.0
"""Seconds after which a test that waits has failed."""


class Clock:
    """Stands in for the module `time`. It moves when the test says so."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


async def eventually(condition: Callable[[], bool]) -> None:
    """Waits for what other tasks bring about."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DEADLINE
    while not condition():
        assert loop.time() < deadline, "the condition did not come about"
        await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def nothing_left_over() -> AsyncIterator[None]:
    """Whatever is done inside, no task and no protocol thread outlives it."""
    before, threads = asyncio.all_tasks(), set(threading.enumerate())
    yield
    await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before | {task for task in [asyncio.current_task()] if task}
    assert not [thread.name for thread in set(threading.enumerate()) - threads if thread.name.startswith("protocol")]


async def soon(awaitable: Awaitable[Any]) -> Any:
    """The result, which must come within the deadline."""
    async with asyncio.timeout(DEADLINE):
        return await awaitable


def kept_log() -> tuple[structlog.typing.FilteringBoundLogger, list[Any]]:
    """A logger of every level, and what was logged."""
    capture = LogCapture()
    log: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        None, processors=[capture], wrapper_class=structlog.make_filtering_bound_logger(0)
    )
    return log, capture.entries


@dataclass
class Disk:
    """What a node keeps from one life to the next."""

    store: VolatileStore = field(default_factory=VolatileStore)
    keys: VolatileKeys = field(default_factory=VolatileKeys)
    guard: VolatileGuard = field(default_factory=VolatileGuard)

    async def outbox(self) -> list[Posted]:
        """What a new life would go on delivering."""
        of_open = [posted for kept in await self.store.open_rounds() for posted in kept.outbox]
        return of_open + [posted for _, posted in await self.store.left_over()]


@dataclass
class Node:
    """A driver with all that it was given."""

    identity: Identity
    driver: Driver
    disk: Disk
    credentials: Credentials
    network: MemoryNetwork
    metrics: Registry
    logged: list[Any]
    observed: list[tuple[bytes, Effect]]
    resumed: list[bytes]

    async def begin(self, machine: Machine, event: Event) -> None:
        """Opens a round of a machine that is made."""
        await soon(self.driver.begin(begun(machine), event))

    def endings(self, round_id: bytes) -> list[Ended]:
        return [effect for of_round, effect in self.observed if of_round == round_id and isinstance(effect, Ended)]

    def seen(self, kind: type[Effect]) -> list[Any]:
        return [effect for _, effect in self.observed if isinstance(effect, kind)]

    def log(self, event: str) -> list[Any]:
        return [entry for entry in self.logged if entry["event"] == event]


def begun(machine: Machine, seed: bytes = bytes(SEED_BYTES), study: bytes = b"") -> New:
    """The beginning of a round; a hospital's needs seed and study to be rebuilt."""
    return New(machine, Beginning(seed, machine.keyring.encryption.key_id, study), machine.keyring.identity.role, "pressure")


def no_rebuilding(_round_id: bytes, _role: str, _beginning: Beginning) -> Machine:
    raise RoundLost("this test rebuilds nothing")


def make_node(
    identity: Identity,
    network: MemoryNetwork,
    *,
    disk: Disk | None = None,
    credentials: Credentials | None = None,
    ledger: Ledger | None = None,
    new_round: Callable[[Admitted], New | None] = lambda _: None,
    rebuild: Callable[[bytes, str, Beginning], Machine] = no_rebuilding,
    read_sources: Callable[[Study], Event] = lambda _: ValuesRead({}),
    at_hand: Callable[[Study], bool] = lambda _: False,
    observe: Callable[[bytes, Effect], None] = lambda _round, _effect: None,
    resolve: Callable[[Identity, str], str] = lambda node, announced: announced or f"https://{node.name}.example:8443",
    log: structlog.typing.FilteringBoundLogger | None = None,
) -> Node:
    """A driver that is not started yet. What it observes is kept, then given to `observe`."""
    kept, logged = kept_log()
    observed: list[tuple[bytes, Effect]] = []
    resumed: list[bytes] = []
    metrics, disk, credentials = Registry(), disk or Disk(), credentials or Credentials(trust())

    def keep(round_id: bytes, effect: Effect) -> None:
        observed.append((round_id, effect))
        observe(round_id, effect)

    def resume(kept: OpenRound, _machine: Machine) -> None:
        resumed.append(kept.round_id)

    def keyring_of(key_id: bytes) -> Keyring | None:
        mine = keyring(identity)
        return mine if mine.encryption.key_id == key_id else None

    ledger = ledger or Ledger()
    rounds = Rounds(
        identity,
        credentials=credentials,
        keys=disk.keys,
        ledger=ledger,
        receipts=OpenReceipts(keyring_of),
        new_round=new_round,
        rebuild=rebuild,
        close=close_round,
        take_burnt=BurntInbox(keyring_of, ledger).take,
        max_message=1 << 20,
    )
    driver = Driver(
        rounds,
        store=disk.store,
        keys=disk.keys,
        guard=disk.guard,
        transport=network.transport(identity),
        resolve=resolve,
        read_sources=read_sources,
        at_hand=at_hand,
        resumed=resume,
        observe=keep,
        metrics=metrics,
        log=log or kept,
    )
    return Node(identity, driver, disk, credentials, network, metrics, logged, observed, resumed)


def close_round(_round_id: bytes, _ended: Ended, released: Released | None) -> tuple[bytes, bytes]:
    """What the store keeps of a round that ends here."""
    return b"{}", b"" if released is None else encode(released.result)


@contextlib.asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    """The nodes at work; afterwards they are stopped."""
    for node in nodes:
        await start(node)
    try:
        yield
    finally:
        for node in nodes:
            await stop(node)


async def stop(node: Node) -> None:
    """Ends a life; the disk stays."""
    await node.network.transport(node.identity).stop()
    await node.driver.stop(0)


async def start(node: Node) -> None:
    """Puts back what its disk has, and begins to work."""
    await node.disk.store.open()
    await node.driver.start()
    await node.network.transport(node.identity).start(node.driver.receive)


def patient_node(
    name: str,
    network: MemoryNetwork,
    values: Sequence[int],
    *,
    disk: Disk | None = None,
    bound: int = 1_000_000,
    at_hand: bool = False,
    read: Callable[[], None] = lambda: None,
    period: int = 3600,
) -> Node:
    """A patient that answers HOSPITAL about `value`; `read` is called wherever sources are read."""
    ledger, credentials = Ledger(), Credentials(trust())

    def machine(round_id: bytes, seed: bytes) -> PatientRound:
        return PatientRound(
            round_id,
            keyring(patient(name)),
            SeededEntropy(seed),
            credentials=credentials,
            policy=policy(bound, period=period),
            ledger=ledger,
            endpoint=f"https://{name}.example:8443",
        )

    def new_round(message: Admitted) -> New:
        seed = os.urandom(SEED_BYTES)
        return begun(machine(message.envelope.header.round, seed), seed)

    def rebuild(round_id: bytes, _role: str, beginning: Beginning) -> Machine:
        return machine(round_id, beginning.seed)

    def read_sources(_study: Study) -> Event:
        read()
        return ValuesRead({"value": array(list(values))})

    return make_node(
        patient(name),
        network,
        disk=disk,
        credentials=credentials,
        ledger=ledger,
        new_round=new_round,
        rebuild=rebuild,
        read_sources=read_sources,
        at_hand=lambda _study: at_hand,
    )


def hospital_node(network: MemoryNetwork, disk: Disk | None = None) -> Node:
    """A hospital whose rounds outlive it."""
    credentials = Credentials(trust())

    def rebuild(round_id: bytes, _role: str, beginning: Beginning) -> Machine:
        return hospital_machine(credentials, decode(beginning.asked, Study), round_id, beginning.seed)

    return make_node(HOSPITAL, network, disk=disk, credentials=credentials, rebuild=rebuild)


def hospital_machine(credentials: Credentials, asked: Study, round_id: bytes, seed: bytes) -> HospitalRound:
    return HospitalRound(
        round_id, keyring(HOSPITAL), SeededEntropy(seed), credentials=credentials, me=credential(HOSPITAL), study=asked
    )


def hospital_round(node: Node, asked: Study, round_id: bytes) -> New:
    """A round of `hospital_node`."""
    seed = os.urandom(SEED_BYTES)
    return begun(hospital_machine(node.credentials, asked, round_id, seed), seed, encode(asked))


@dataclass
class Ward:
    """A hospital, its patients, and a postman who carries all that `keeps` does not hold back."""

    hospital: Node
    patients: dict[str, Node]
    network: MemoryNetwork
    keeps: Callable[[Parcel], bool] = lambda _: False
    fate: Callable[[Parcel], str] = lambda _: "deliver"
    """Of each parcel: deliver, drop, corrupt, double or lose_answer."""
    answers: list[tuple[Parcel, Answer]] = field(default_factory=list)

    async def carry(self) -> None:
        """Delivers for ever; each parcel on its own, because a recipient may hold one until another has come."""
        under_way: set[asyncio.Task[None]] = set()
        try:
            while True:
                for parcel in [parcel for parcel in self.network.waiting if not self.keeps(parcel)]:
                    task = asyncio.create_task(self._carry_one(parcel, self.fate(parcel)))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                await asyncio.sleep(0.0005)  # time in which the protocol threads work
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _carry_one(self, parcel: Parcel, fate: str) -> None:
        if parcel not in self.network.waiting:
            return  # its sender called it back
        if fate == "drop":
            self.network.drop(parcel)
        elif fate == "lose_answer":
            self.answers.append((parcel, await self.network.lose_answer(parcel)))
        else:
            twin = Parcel(parcel.sender, parcel.recipient, parcel.endpoint, parcel.envelope, parcel.answer)
            if fate == "corrupt":
                self.network.corrupt(parcel)
            with contextlib.suppress(DeliveryError):
                self.answers.append((parcel, await self.network.deliver(parcel)))
                if fate == "double":
                    self.answers.append((twin, await self.network.double(twin)))


@contextlib.asynccontextmanager
async def ward(values: Mapping[str, Sequence[int]], **options: Any) -> AsyncIterator[Ward]:
    """Running nodes for these patients' values, with the postman at work."""
    network = MemoryNetwork()
    hospital = hospital_node(network)
    patients = {name: patient_node(name, network, value, **options) for name, value in values.items()}
    made = Ward(hospital, patients, network)
    for node in (hospital, *patients.values()):
        await start(node)
    postman = asyncio.create_task(made.carry())
    try:
        yield made
    finally:
        postman.cancel()
        await asyncio.gather(postman, return_exceptions=True)
        for node in (made.hospital, *made.patients.values()):
            await stop(node)


Handle = Callable[[Event, float], list[Effect]]


class Scripted(Machine):
    """A round that does what the test's function says, and ends with the effect Ended."""

    name = "scripted round"
    transitions: ClassVar[Transitions] = {}

    def __init__(self, round_id: bytes, handle: Handle, identity: Identity = HOSPITAL, *, heavy: bool = False) -> None:
        super().__init__(round_id, keyring(identity), os.urandom, PatientState.NEW)
        self._handle = handle
        self._ended = False
        self._heavy = heavy
        self._unread: ReadValues | None = None

    def handle(self, event: Event, now: float) -> list[Effect]:
        effects = self._handle(event, now)
        self._ended = any(isinstance(effect, Ended) for effect in effects)
        if isinstance(event, MessageReceived):
            envelope = event.message.envelope
            self.seen[envelope.header.context, envelope.kind, envelope.sender] = envelope.digest
        if isinstance(event, ValuesRead | ValuesUnavailable):
            self._unread = None
        self._unread = next((effect for effect in effects if isinstance(effect, ReadValues)), self._unread)
        return effects

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def heavy(self) -> bool:
        return self._heavy

    @property
    def unread(self) -> ReadValues | None:
        return self._unread

    @property
    def parties(self) -> tuple[Credential, ...]:
        return ()

    def check_invariants(self) -> None:
        """It has none."""

    def _check_sender(self, message: Admitted) -> None:
        raise AssertionError("handle does not ask")

    def _equivocated(self, sender: Identity, now: float) -> list[Effect]:
        raise AssertionError("handle does not ask")


def invitation(round_id: bytes, recipient: Identity, payload: bytes = b"x") -> bytes:
    """An envelope that HOSPITAL really signed, and that opens a round where messages do."""
    raw, _ = write_unsealed(
        Kind.INVITATION,
        payload,
        Place(round_id, bytes(32)),
        keyring=keyring(HOSPITAL),
        round_key=RoundKey(os.urandom),
        recipient=recipient,
    )
    return raw


# -- whole daemons, in this process


@dataclass(frozen=True)
class Site:
    """A consortium on disk: keys, certificates, configurations, one study over `value`."""

    directory: Path
    hospital: Path
    patients: Mapping[str, Path]

    def daemons(self) -> tuple[HospitalDaemon, dict[str, PatientDaemon]]:
        patients = {name: PatientDaemon(check_patient(path)) for name, path in self.patients.items()}
        return HospitalDaemon(check_hospital(self.hospital)), patients


STUDY = """\
id: pressure
title: Mean systolic pressure
purpose: test
variables: [{name: value, bounds: [0, 1000000]}]
statistics: [{kind: sum, variable: value}]
cohort: {members: [alice, bob, charlie]}
"""


def make_site(directory: Path, values: Mapping[str, int], study: str = STUDY) -> Site:
    """Files for a hospital called general and these patients, on free ports of the loopback."""
    authority = Authority.create(directory / "ca", CONSORTIUM, time.time())
    ports = free_ports(1 + len(values))
    urls = {name: f"https://127.0.0.1:{port}" for name, port in zip(["general", *values], ports, strict=True)}

    def write(name: str, role: Role, port: int, rest: str) -> Path:
        authority.issue_node(Identity(CONSORTIUM, role, name), (), ("127.0.0.1",), time.time(), out=directory)
        path = directory / f"{name}.yaml"
        path.write_text(
            f"consortium: {CONSORTIUM}\nname: {name}\n"
            f"identity: {{key: {name}.key, certificate: {name}.crt, authorities: [ca/ca.crt]}}\n"
            f'listen: "127.0.0.1:{port}"\nadmin: {name}.sock\nstate: {name}.state\nstorage_key: {name}.storage\n{rest}'
        )
        return path

    (directory / "studies").mkdir()
    (directory / "studies" / "pressure.yaml").write_text(study)
    addresses = "".join(f"  {name}: {urls[name]}\n" for name in values)
    hospital = write("general", Role.HOSPITAL, ports[0], f"studies: studies\npatients:\n{addresses}")
    patients = {
        name: write(
            name,
            Role.PATIENT,
            port,
            f"trust: {{authorities: [sha256:{authority.root.digest.hex()}]}}\n"
            f"hospital: {{name: general, url: {urls['general']}}}\n"
            f"sources:\n  value: {{bounds: [0, 1000000], literal: {values[name]}}}\n"
            f"policy: {{vouched: {{members: [{', '.join(other for other in values if other != name)}]}}}}\n",
        )
        for name, port in zip(values, ports[1:], strict=True)
    }
    return Site(directory, hospital, patients)


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """A directory with a short path: that of a Unix socket has 107 bytes at the most."""
    with tempfile.TemporaryDirectory(prefix="co") as directory:
        yield Path(directory)


async def run(daemon: HospitalDaemon | PatientDaemon) -> None:
    """Its life, in which the configuration does not change."""
    await daemon.run(lambda: daemon.config)


@contextlib.asynccontextmanager
async def at_work(*daemons: HospitalDaemon | PatientDaemon) -> AsyncIterator[None]:
    """The daemons run from here on, and have stopped afterwards."""
    tasks = [asyncio.create_task(run(daemon)) for daemon in daemons]
    try:
        for daemon, task in zip(daemons, tasks, strict=True):
            while not daemon.config.admin.exists():
                if task.done():
                    await task  # raises what it failed with
                await asyncio.sleep(0.002)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
