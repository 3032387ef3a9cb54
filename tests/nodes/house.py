"""Drivers on the network in memory and daemons in this process, with what a test needs to see into them.

A clock that stands still, a log that is kept, a postman who does harm, machines that do as they are told.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
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
from mpc.envelope import Place, write_unsealed
from mpc.errors import Answer
from mpc.identity import Identity, Role
from mpc.keys import RoundKey
from mpc.messages import Kind
from mpc.rounds.admission import Admitted
from mpc.rounds.events import Effect, Ended, Event, ValuesRead
from mpc.rounds.hospital import HospitalRound
from mpc.rounds.machine import Machine, Transitions
from mpc.rounds.patient import PatientRound, PatientState
from mpc.study import Study
from nodes.config import check_hospital, check_patient
from nodes.driver import Driver
from nodes.hospital import HospitalDaemon
from nodes.metrics import Registry
from nodes.patient import PatientDaemon
from nodes.store.base import Store
from nodes.store.memory import MemoryStore
from nodes.transport.base import DeliveryError
from nodes.transport.memory import MemoryNetwork, Parcel
from pki.authority import Authority
from tests.mpc.nodes import CONSORTIUM, HOSPITAL, NOW, credential, keyring, patient, policy, trust
from tests.mpc.world import array

DEADLINE = 5.0
"""Seconds after which a test that waits has failed."""


class Clock:
    """Stands in for the module `time`. It moves when the test says so."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def time(self) -> float:
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
class Node:
    """A driver with all that it was given."""

    identity: Identity
    driver: Driver
    store: Store
    credentials: Credentials
    network: MemoryNetwork
    metrics: Registry
    logged: list[Any]
    observed: list[tuple[bytes, Effect]]

    def endings(self, round_id: bytes) -> list[Ended]:
        return [effect for of_round, effect in self.observed if of_round == round_id and isinstance(effect, Ended)]

    def seen(self, kind: type[Effect]) -> list[Any]:
        return [effect for _, effect in self.observed if isinstance(effect, kind)]

    def log(self, event: str) -> list[Any]:
        return [entry for entry in self.logged if entry["event"] == event]


def make_node(
    identity: Identity,
    network: MemoryNetwork,
    *,
    store: Store | None = None,
    credentials: Credentials | None = None,
    new_round: Callable[[Admitted], Machine | None] = lambda _: None,
    read_sources: Callable[[Study], Event] = lambda _: ValuesRead({}),
    observe: Callable[[bytes, Effect], None] = lambda _round, _effect: None,
    resolve: Callable[[Identity, str], str] = lambda node, announced: announced or f"https://{node.name}.example:8443",
    log: structlog.typing.FilteringBoundLogger | None = None,
) -> Node:
    """A driver that is not started yet. What it observes is kept, then given to `observe`."""
    kept, logged = kept_log()
    observed: list[tuple[bytes, Effect]] = []
    metrics, store, credentials = Registry(), store or MemoryStore(), credentials or Credentials(trust())

    def keep(round_id: bytes, effect: Effect) -> None:
        observed.append((round_id, effect))
        observe(round_id, effect)

    driver = Driver(
        identity,
        credentials=credentials,
        store=store,
        transport=network.transport(identity),
        resolve=resolve,
        new_round=new_round,
        read_sources=read_sources,
        observe=keep,
        max_message=1 << 20,
        metrics=metrics,
        log=log or kept,
    )
    return Node(identity, driver, store, credentials, network, metrics, logged, observed)


@contextlib.asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    """The nodes at work; afterwards they are stopped."""
    for node in nodes:
        await node.network.transport(node.identity).start(node.driver.receive)
        node.driver.start()
    try:
        yield
    finally:
        for node in nodes:
            await node.network.transport(node.identity).stop()
            await node.driver.stop(0)


def patient_node(
    name: str, network: MemoryNetwork, values: Sequence[int], *, bound: int = 1_000_000, read: Callable[[], None] = lambda: None
) -> Node:
    """A patient that answers HOSPITAL about `value`; `read` is called wherever sources are read."""
    store, credentials = MemoryStore(), Credentials(trust())

    def new_round(message: Admitted) -> Machine:
        return PatientRound(
            message.envelope.header.round,
            keyring(patient(name)),
            os.urandom,
            credentials=credentials,
            policy=policy(bound),
            ledger=store,
            endpoint=f"https://{name}.example:8443",
        )

    def read_sources(_study: Study) -> Event:
        read()
        return ValuesRead({"value": array(list(values))})

    return make_node(patient(name), network, store=store, credentials=credentials, new_round=new_round, read_sources=read_sources)


def hospital_machine(node: Node, asked: Study, round_id: bytes) -> HospitalRound:
    return HospitalRound(
        round_id, keyring(HOSPITAL), os.urandom, credentials=node.credentials, me=credential(HOSPITAL), study=asked
    )


@dataclass
class Ward:
    """A hospital, its patients, and a postman who carries all that `keeps` does not hold back."""

    hospital: Node
    patients: Mapping[str, Node]
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
    hospital = make_node(HOSPITAL, network)
    patients = {name: patient_node(name, network, value, **options) for name, value in values.items()}
    made = Ward(hospital, patients, network)
    async with running(hospital, *patients.values()):
        postman = asyncio.create_task(made.carry())
        try:
            yield made
        finally:
            postman.cancel()
            await asyncio.gather(postman, return_exceptions=True)


Handle = Callable[[Event, float], list[Effect]]


class Scripted(Machine):
    """A round that does what the test's function says, and ends with the effect Ended."""

    name = "scripted round"
    transitions: ClassVar[Transitions] = {}

    def __init__(self, round_id: bytes, handle: Handle, identity: Identity = HOSPITAL) -> None:
        super().__init__(round_id, keyring(identity), os.urandom, PatientState.NEW)
        self._handle = handle
        self._ended = False

    def handle(self, event: Event, now: float) -> list[Effect]:
        effects = self._handle(event, now)
        self._ended = any(isinstance(effect, Ended) for effect in effects)
        return effects

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def heavy(self) -> bool:
        return True

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


def make_site(directory: Path, values: Mapping[str, int]) -> Site:
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
            f'listen: "127.0.0.1:{port}"\nadmin: {name}.sock\n{rest}'
        )
        return path

    (directory / "studies").mkdir()
    (directory / "studies" / "pressure.yaml").write_text(STUDY)
    addresses = "".join(f"  {name}: {urls[name]}\n" for name in values)
    hospital = write("general", Role.HOSPITAL, ports[0], f"studies: studies\npatients:\n{addresses}")
    patients = {
        name: write(
            name,
            Role.PATIENT,
            port,
            f"hospital: {{name: general, url: {urls['general']}}}\n"
            f"sources:\n  value: {{bounds: [0, 1000000], literal: {values[name]}}}\n"
            f"policy: {{vouched: {{members: [{', '.join(other for other in values if other != name)}]}}}}\n",
        )
        for name, port in zip(values, ports[1:], strict=True)
    }
    return Site(directory, hospital, patients)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """A directory with a short path: that of a Unix socket has 107 bytes at the most."""
    with tempfile.TemporaryDirectory(prefix="co") as directory:
        yield Path(directory)


@contextlib.asynccontextmanager
async def at_work(*daemons: HospitalDaemon | PatientDaemon) -> AsyncIterator[None]:
    """The daemons run from here on, and have stopped afterwards."""
    tasks = [asyncio.create_task(daemon.run()) for daemon in daemons]
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
