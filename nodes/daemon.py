"""A node with rounds: what a hospital's and a patient's daemon are made of. How a daemon lives and ends is in `service`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from abc import abstractmethod
from typing import ClassVar

from aiohttp import web

from mpc.credentials import Credentials
from mpc.identity import Identity, Role
from mpc.result import Result
from mpc.rounds.admission import Admitted
from mpc.rounds.events import Decided, Effect, Ended, Progressed, Released, Submitted
from mpc.rounds.events import Event as RoundEvent
from mpc.rounds.machine import Machine
from mpc.study import Study
from mpc.wire import Struct, decode, encode
from nodes.admin.api import json_response
from nodes.admin.audit import add_audit_routes
from nodes.admin.erase import add_erase_route
from nodes.config import HospitalConfig, PatientConfig
from nodes.driver import Driver
from nodes.fitting import Fitting
from nodes.journal import Beginning
from nodes.keys import Keys
from nodes.ledger import Ledger
from nodes.loaded import Loaded
from nodes.log import Event
from nodes.rounds import New, Rounds
from nodes.service import COMMON_RESTART_KEYS, Service
from nodes.state import load_state
from nodes.store.base import OpenRound, StoreError
from nodes.transport.choose import node_transport
from nodes.transport.tls import CheckPeer
from nodes.vitals import RoundPhases

Config = HospitalConfig | PatientConfig
RESTART_KEYS = (*COMMON_RESTART_KEYS, "storage_key", "topology", "relay", "proxy")


DAY = 24 * 3600
_ERASE_SECONDS = 3600.0
_CHORE_SECONDS = 1.0


class KeptResult(Struct, frozen=True):
    """A result, the key that opens the commitment to it, and at a hospital what was asked."""

    result: Result
    key: bytes
    question: Fitting | None


def _result_label(round_id: bytes) -> str:
    return f"result of round {round_id.hex()}"


class Daemon(Service[Config]):
    """One node. Subclasses say who may speak to it, which rounds it has, and what its admin socket offers.

    See `Service` for what the constructor raises.
    """

    speaks_with: ClassVar[frozenset[Role]]
    restart_keys: ClassVar[tuple[str, ...]] = RESTART_KEYS

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        loaded = self._loaded
        self.credentials = Credentials(loaded.trust, loaded.trust.without_lists())
        self.state = load_state(self.identity, config.state, config.store, config.storage_key)
        self.store = self.state.store
        self.keys = Keys(
            loaded.node_key,
            self.store,
            self.state.storage_key,
            lambda: self._loaded.config.encryption_keys,
            self.metrics,
            self.log,
            loaded.former,
        )
        self.ledger = Ledger()
        self.transport = node_transport(
            config,
            proof=loaded.node_key,
            roots=loaded.trust.roots,
            roles=self.speaks_with,
            check_peer=self.care.check_peer,
            count=self._refused,
            log=self.log,
            keyring=lambda: self.keys.keyring,
            routes=self.routes,
        )
        rounds = Rounds(
            self.identity,
            credentials=self.credentials,
            keys=self.state.round_keys,
            ledger=self.ledger,
            new_round=self.new_round,
            rebuild=self.rebuild_round,
            close=self.close_round,
            max_message=config.limits.message_bytes,
        )
        self.driver = Driver(
            rounds,
            store=self.store,
            keys=self.state.round_keys,
            guard=self.state.guard,
            transport=self.transport,
            resolve=self.resolve,
            read_sources=self.read_sources,
            at_hand=self.at_hand,
            resumed=self.resumed,
            observe=self.observe,
            audit=self.audit,
            metrics=self.metrics,
            log=self.log,
        )
        self.phases = RoundPhases(self.metrics)
        outbox = self.driver.outbox
        self.metrics.gauge("cohortium_outbox_messages", "Messages on their way.", read=outbox.depth)
        self.metrics.gauge(
            "cohortium_outbox_oldest_seconds", "Age of the oldest of them; 0 with none.", read=outbox.oldest_seconds
        )
        add_erase_route(self.admin, self)
        add_audit_routes(self.admin, self.store, lambda: self._loaded.node_key)
        self.admin.app.router.add_post("/v1/keys/rotate", self._post_rotate)
        self._chores_due = asyncio.Event()
        self._chores: asyncio.Task[None] | None = None

    @abstractmethod
    def resolve(self, node: Identity, announced: str) -> str:
        """The https URL of `node`."""

    @abstractmethod
    def new_round(self, message: Admitted) -> New | None:
        """The round that an Invitation opens here; called on the protocol thread."""

    @abstractmethod
    def rebuild_round(self, round_id: bytes, role: str, beginning: Beginning) -> Machine:
        """A new machine for a kept round. Raises RoundLost. Called on the protocol thread."""

    @abstractmethod
    def close_round(self, round_id: bytes, ended: Ended, released: Released | None) -> tuple[bytes, bytes]:
        """(summary for people as JSON, sealed result) of a round that ends. Called on the protocol thread."""

    @abstractmethod
    def read_sources(self, study: Study) -> RoundEvent:
        """The study's variables; called off the event loop."""

    def at_hand(self, study: Study) -> bool:
        """Whether `read_sources` takes no time for this study."""
        return False

    @abstractmethod
    def use(self, config: Config) -> None:
        """Works by `config` from now on: called on the protocol thread, between two transitions. Must not fail."""

    async def recall(self) -> None:
        """Takes from the store what people may ask about; the open rounds come after this."""

    def resumed(self, kept: OpenRound, machine: Machine) -> None:
        """Hears of each kept round that goes on."""

    def seal_result(self, round_id: bytes, released: Released, question: Fitting | None = None) -> bytes:
        """A result as the store keeps it, with the key that opens the commitment in the receipts."""
        kept = KeptResult(released.result, released.key, question)
        return self.state.storage_key.seal(encode(kept), _result_label(round_id))

    async def kept_result(self, round_id: bytes) -> KeptResult | None:
        """The result of a round that has ended, while it is kept. Raises StoreError."""
        found = await self.store.find_closed(round_id)
        if found is None or not found.closed.result:
            return None
        opened = await asyncio.to_thread(self.state.storage_key.unseal, found.closed.result, _result_label(round_id))
        return decode(opened, KeptResult)

    def observe(self, round_id: bytes, effect: Effect) -> None:
        """Logs what happened in a round."""
        self.phases.observe(round_id, effect)
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
                self._chores_due.set()
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
        """Adds what is on its way."""
        outbox = self.driver.outbox
        return super().status() | {
            "messages_on_their_way": outbox.depth(),
            "oldest_message_seconds": round(outbox.oldest_seconds(), 1),
            "unreachable": {node.name: trouble for node, trouble in sorted(outbox.troubles.items())},
            "encryption_keys": self.keys.status(),
        }

    def not_ready(self) -> list[str]:
        """See `Service.not_ready`."""
        trouble = self.driver.store_trouble
        return super().not_ready() + ([f"the store fails: {trouble}"] if trouble else [])

    async def alive(self, seconds: float) -> bool:
        """Whether the protocol thread answers within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self.driver.on_thread(_nothing)
        except (TimeoutError, RuntimeError):  # RuntimeError: there is no such thread any more
            return False
        return True

    def close_refused(self, check_peer: CheckPeer) -> int:
        """See `Service.close_refused`."""
        return self.transport.close_refused(check_peer)

    def connections(self) -> int:
        """See `Service.connections`."""
        return self.transport.connections()

    def waiting(self) -> int:
        """See `Service.waiting`."""
        return self.driver.outbox.depth()

    async def open(self) -> None:
        """See `Service.open`."""
        await self.store.open()

    async def start(self) -> None:
        """See `Service.start`."""
        await self.keys.open()
        await self.recall()
        await self.driver.start()
        await self.audit.begin(self.store)  # not before the driver has looked at the store's counter
        self._chores = asyncio.create_task(self._do_chores())
        await self.transport.start(self.driver.receive)

    async def stop(self, seconds: float) -> None:
        """See `Service.stop`."""
        deadline = asyncio.get_running_loop().time() + seconds
        if self._chores is not None:
            self._chores.cancel()
        # Deliveries get most of the time: requests that are being answered need little, for every answer is `later` now.
        await self.driver.stop(0.9 * seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self.transport.stop()
        await self.audit.end()
        await self.store.close()
        self.state.round_keys.close()
        self.state.guard.close()

    async def swap(self, fresh: Loaded[Config]) -> None:
        """See `Service.swap`. The step is one of the protocol thread, between two transitions."""
        renewed = fresh.node_key.chain != self._loaded.node_key.chain
        key = await self.keys.make(fresh.node_key) if renewed else None
        self.transport.reload(fresh.node_key, fresh.trust.roots)
        authorities = frozenset(hashlib.sha256(root).digest() for root in fresh.trust.roots)

        def swap() -> None:
            self.credentials.replace_trust(fresh.trust, authorities, fresh.trust.without_lists())
            self._loaded = fresh
            if key is not None:
                self.keys.adopt(key)
            self.use(fresh.config)

        await self.driver.on_thread(swap)
        await self.driver.tell_revoked()
        self._chores_due.set()

    async def erase(self, older_than_days: int, study: str | None = None) -> int:
        """Deletes what is kept of rounds that ended so long ago, of one study if it is given. Returns how many rows.

        Raises StoreError.
        """
        before = time.time() - older_than_days * DAY
        rows = await self.store.erase_before(before, study)
        self.forget(before, study)
        if rows:
            self.log.info(Event.ERASED, rows=rows, older_than_days=older_than_days, study=study)
        return rows

    def forget(self, before: float, study: str | None) -> None:
        """Takes what the store has erased out of memory."""

    async def _post_rotate(self, _request: web.Request) -> web.Response:
        """POST /v1/keys/rotate: a new encryption key, now."""
        await self.keys.rotate()
        self._chores_due.set()
        return await json_response(self.keys.status())

    async def _do_chores(self) -> None:
        """Looks after the encryption keys, also when a round has ended that may have needed one; erases what is too old."""
        loop = asyncio.get_running_loop()
        looked = float("-inf")
        while True:
            self._chores_due.clear()
            try:
                await self.keys.tend(await self.driver.on_thread(self.driver.rounds.key_ids))
                if loop.time() - looked >= _ERASE_SECONDS:
                    looked = loop.time()
                    await self.erase(self._loaded.config.keep_days)
            except StoreError as error:
                self.log.error(Event.STORE_FAILED, reason=error.reason, detail=str(error))
            await asyncio.sleep(_CHORE_SECONDS)  # what comes meanwhile is one chore
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.keys.due()):
                    await self._chores_due.wait()


def _nothing() -> None:
    """What the protocol thread does to show that it is alive."""
