"""A node that the test plays itself: our own software with real keys on the real port, in this process.

It is honest by itself. A test sees every message that it sends or gets, can hold back those of one kind, swap one for
another, and read the round's secrets, with which it can seal whatever a malicious member could.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar
from unittest.mock import patch

import structlog
from structlog.testing import LogCapture

from mpc.envelope import parse
from mpc.errors import Answer
from mpc.identity import Identity, Role
from mpc.messages import Kind
from mpc.rounds.hospital import HospitalRound
from mpc.rounds.patient import PatientRound
from nodes.config import check_hospital, check_patient
from nodes.hospital import HospitalDaemon
from nodes.patient import PatientDaemon
from nodes.transport.base import Receive
from nodes.transport.https import HttpsTransport
from scripts.deployment import HOSPITAL
from tests.e2e.harness import SECONDS, Cohort, wait_for

MAX_MESSAGE = 1 << 26

T = TypeVar("T")


class Loop:
    """An event loop on a thread of its own, as a context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="played")

    def __enter__(self) -> Loop:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SECONDS)

    def soon(self, call: Callable[[], object]) -> None:
        """Calls it on the loop."""
        self._loop.call_soon_threadsafe(call)


@dataclass(frozen=True)
class Letter:
    """A message that went by; `other` is who sent it or whom it is for."""

    kind: Kind
    round_id: str
    other: Identity
    raw: bytes = field(repr=False)


def letter(raw: bytes, other: Identity) -> Letter:
    """What an envelope says about itself."""
    header = parse(raw, MAX_MESSAGE).header
    return Letter(header.kind, header.round.hex(), other, raw)


class Tap:
    """Between the node and its transport."""

    def __init__(self) -> None:
        self.sent: list[Letter] = []
        """In the order in which the node wanted them to go, held ones too."""
        self.received: list[Letter] = []
        self.swallows = False
        """What comes in is accepted and goes no further."""
        self.held: dict[Kind, asyncio.Event] = {}

    async def outgoing(self, message: Letter) -> None:
        self.sent.append(message)
        if message.kind in self.held:
            await self.held[message.kind].wait()

    async def incoming(self, receive: Receive, raw: bytes, peer: Identity) -> Answer:
        self.received.append(letter(raw, peer))
        return Answer.ACCEPTED if self.swallows else await receive(raw, peer)

    def of(self, letters: list[Letter], round_id: str, kind: Kind) -> dict[str, bytes]:
        """The messages of that kind and round, by the name of the other node."""
        return {found.other.name: found.raw for found in letters if (found.round_id, found.kind) == (round_id, kind)}


class _Tapped(HttpsTransport):
    def __init__(self, listen: str, *, tap: Tap, **rest: Any) -> None:
        super().__init__(listen, **rest)
        self._tap = tap

    async def start(self, receive: Receive) -> None:
        await super().start(functools.partial(self._tap.incoming, receive))

    async def send(self, recipient: Identity, endpoint: str, envelope: bytes) -> Answer:
        await self._tap.outgoing(letter(envelope, recipient))
        return await super().send(recipient, endpoint, envelope)


class Played:
    """One node of a deployment, as a context manager. Its daemon's process is not started."""

    daemon: HospitalDaemon | PatientDaemon

    def __init__(self, cohort: Cohort, name: str, loop: Loop) -> None:
        self.cohort = cohort
        self.tap = Tap()
        self.loop = loop
        self.log = LogCapture()
        logger = structlog.wrap_logger(None, [self.log], structlog.make_filtering_bound_logger(0))
        config = cohort.config(name)
        with (
            patch("nodes.transport.choose.HttpsTransport", functools.partial(_Tapped, tap=self.tap)),
            patch("nodes.service.logger", lambda _: logger),
        ):
            if name == HOSPITAL:
                self.daemon = HospitalDaemon(check_hospital(config))
            else:
                self.daemon = PatientDaemon(check_patient(config))

    def __enter__(self) -> Played:
        self.loop.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.run(self._stop())

    async def _start(self) -> None:
        await self.daemon.store.open()
        await self.daemon.keys.open()
        await self.daemon.recall()
        await self.daemon.driver.start()
        await self.daemon.transport.start(self.daemon.driver.receive)

    async def _stop(self) -> None:
        await self.daemon.driver.stop(0.0)
        await self.daemon.transport.stop()
        await self.daemon.store.close()
        self.daemon.state.guard.close()

    def hold(self, *kinds: Kind) -> None:
        """From now on messages of these kinds stay here."""
        for kind in kinds:
            self.tap.held[kind] = asyncio.Event()

    def release(self, kind: Kind) -> None:
        """Lets go of them, and of those to come."""
        self.loop.soon(self.tap.held.pop(kind).set)

    def release_all(self) -> None:
        """Lets go of everything that is held."""
        for kind in list(self.tap.held):
            self.release(kind)

    def sent(self, round_id: str, kind: Kind) -> dict[str, bytes]:
        """What it sent, or holds, by recipient."""
        return self.tap.of(self.tap.sent, round_id, kind)

    def received(self, round_id: str, kind: Kind) -> dict[str, bytes]:
        """What it got, by sender."""
        return self.tap.of(self.tap.received, round_id, kind)

    def hold_ready(self, study: str) -> str:
        """Opens a round, in which every share has arrived and the hospital waits for this patient's Ready alone."""
        self.hold(Kind.READY)
        round_id = self.cohort.open(study)
        self.cohort.wait_until_waiting_for(round_id, "sharing", self.daemon.identity.name)
        wait_for(lambda: self.sent(round_id, Kind.READY), "it holds its own Ready")
        return round_id

    def post(self, name: str, raw: bytes) -> Answer:
        """Posts to a patient whatever is held, and returns its answer."""
        recipient = Identity(self.daemon.identity.consortium, Role.PATIENT, name)
        endpoint = f"https://127.0.0.1:{self.cohort.port(name)}"
        transport = self.daemon.transport
        assert isinstance(transport, HttpsTransport)
        return self.loop.run(HttpsTransport.send(transport, recipient, endpoint, raw))

    def patient_round(self, round_id: str) -> PatientRound:
        """Its open round."""
        machine = self.daemon.driver.rounds._open[bytes.fromhex(round_id)].machine
        assert isinstance(machine, PatientRound)
        return machine

    def hospital_round(self, round_id: str) -> HospitalRound:
        """Its open round, as the hospital."""
        machine = self.daemon.driver.rounds._open[bytes.fromhex(round_id)].machine
        assert isinstance(machine, HospitalRound)
        return machine
