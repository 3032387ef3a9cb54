"""What every daemon is made of and how it lives: load, listen, ready, work, stop."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import math
import signal
import time
from abc import abstractmethod
from typing import ClassVar

from mpc.credentials import Credentials
from mpc.identity import Identity, Role
from mpc.rounds.admission import Admitted
from mpc.rounds.events import Decided, Effect, Ended, Progressed, Submitted
from mpc.rounds.events import Event as RoundEvent
from mpc.rounds.machine import Machine
from mpc.study import Study
from nodes.admin.api import AdminApi
from nodes.config import HospitalConfig, PatientConfig, identity_of
from nodes.driver import Driver
from nodes.keys import Keys
from nodes.log import Event, logger
from nodes.metrics import Registry
from nodes.store.memory import MemoryStore
from nodes.transport.https import HttpsTransport
from pki.node import load_node_key
from pki.trust import TrustStore, check_leaf

_REFUSAL_SECONDS = 1.0
"""Between two log lines about refusals for one reason: a peer that tries on and on fills no disk. The counter has them all."""
STOP_SECONDS = 5.0
"""How long deliveries under way may take when the daemon is told to stop."""


def _settle() -> None:
    """Gives back the pages that start-up used and an idle daemon would hold for good; modules never become garbage."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 20)  # a round makes many small objects that free themselves; looking through them is for nothing
    with contextlib.suppress(AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)


class Daemon:
    """One node. Subclasses say who may speak to it, which rounds it has, and what its admin socket offers.

    The constructor raises IdentityError or ConfigError for keys and certificates that cannot be used.
    """

    speaks_with: ClassVar[frozenset[Role]]

    def __init__(self, config: HospitalConfig | PatientConfig) -> None:
        self.identity = identity_of(config)
        self.log = logger(self.identity)
        self.metrics = Registry()
        identity = config.identity
        trust = TrustStore.load(*identity.authorities)
        node_key = load_node_key(identity.key, identity.certificate, trust, time.time(), self.identity)
        self.credential = node_key.credential
        self.credentials = Credentials(trust)
        self.keys = Keys(node_key, self.log)
        self.store = MemoryStore()
        self._connections = self.metrics.counter(
            "cohortium_connections_refused_total", "Connections and requests turned away, by reason.", ("reason",)
        )
        self.transport = HttpsTransport(
            config.listen,
            key_file=identity.key,
            certificate_file=identity.certificate,
            roots=trust.roots,
            roles=self.speaks_with,
            check_peer=check_leaf,
            limits=config.limits,
            count=self._refused,
        )
        self.driver = Driver(
            self.identity,
            credentials=self.credentials,
            store=self.store,
            transport=self.transport,
            resolve=self.resolve,
            new_round=self.new_round,
            read_sources=self.read_sources,
            observe=self.observe,
            max_message=config.limits.message_bytes,
            metrics=self.metrics,
            log=self.log,
        )
        self._refusals: dict[str, tuple[float, int]] = {}
        """By reason: when a refusal was last logged (monotonic seconds), and how many were not since."""
        self.admin = AdminApi(config.admin, self.status, self.metrics)
        self._listen = config.listen

    @abstractmethod
    def resolve(self, node: Identity, announced: str) -> str:
        """The https URL of `node`."""

    @abstractmethod
    def new_round(self, message: Admitted) -> Machine | None:
        """The machine for a round that an Invitation opens here; called between two transitions, and must be quick."""

    @abstractmethod
    def read_sources(self, study: Study) -> RoundEvent:
        """The study's variables; called off the event loop."""

    def observe(self, round_id: bytes, effect: Effect) -> None:
        """Logs what happened in a round."""
        name = round_id.hex()
        match effect:
            case Decided():
                self.log.info(
                    Event.INVITATION_DECIDED, round=name, study=effect.study, hospital=effect.hospital.name, reason=effect.reason
                )
            case Progressed():
                self.log.debug(Event.ROUND_PHASE, round=name, phase=effect.phase, waiting_for=list(effect.waiting_for))
            case Submitted():
                self.log.info(Event.SUBMITTED, round=name, study=effect.study, members=[member.name for member in effect.members])
            case Ended():
                self.log.info(
                    Event.ROUND_ENDED,
                    round=name,
                    outcome=effect.outcome,
                    code=effect.code,
                    phase=effect.phase,
                    missing=list(effect.missing),
                    detail=effect.detail,
                )

    def status(self) -> dict[str, object]:
        """What `GET /v1/status` of the admin socket says."""
        return {
            "identity": self.identity.uri,
            "certificate_not_after": self.credential.not_after,
            "messages_on_their_way": self.driver.outbox.depth(),
            "unreachable": {node.name: trouble for node, trouble in sorted(self.driver.outbox.troubles.items())},
        }

    async def run(self) -> None:
        """Runs until SIGTERM or SIGINT, then stops in order."""
        self.log.info(Event.STARTING, listen=self._listen)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await self.keys.rotate()
        rotation = asyncio.create_task(self.keys.keep_rotating())
        self.driver.start()
        try:
            await self.transport.start(self.driver.receive)
            await self.admin.start()
            _settle()
            self.log.info(Event.READY, listen=self._listen)
            await stop.wait()
            self.log.info(Event.STOPPING)
        finally:
            rotation.cancel()
            await self.admin.stop()
            await self.driver.stop(STOP_SECONDS)
            await self.transport.stop()
            self.log.info(Event.STOPPED)

    def _refused(self, reason: str) -> None:
        self._connections.inc(reason=reason)
        now = time.monotonic()
        logged, left_out = self._refusals.get(reason, (-math.inf, 0))
        if now - logged < _REFUSAL_SECONDS:
            self._refusals[reason] = (logged, left_out + 1)
            return
        self._refusals[reason] = (now, 0)
        self.log.info(Event.CONNECTION_REFUSED, reason=reason, left_out=left_out)
