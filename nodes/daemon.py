"""What every daemon is made of and how it lives: load, listen, ready, work, reload, drain, stop."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import hashlib
import math
import os
import signal
import sys
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import msgspec
from aiohttp import web

from mpc.credentials import Credentials
from mpc.errors import CohortiumError, ConfigError, UsageError
from mpc.identity import Identity, Role
from mpc.result import Result
from mpc.rounds.admission import Admitted
from mpc.rounds.events import Decided, Effect, Ended, Progressed, Released, Submitted
from mpc.rounds.events import Event as RoundEvent
from mpc.rounds.machine import Machine
from mpc.study import Study
from mpc.wire import Struct, decode, encode
from nodes.admin.api import AdminApi, json_response
from nodes.config import HospitalConfig, PatientConfig, identity_of
from nodes.driver import Driver
from nodes.fields import address
from nodes.health import HealthServer
from nodes.journal import Beginning
from nodes.keys import Keys
from nodes.ledger import Ledger
from nodes.log import Event, Level, configure, logger, place
from nodes.metrics import Registry
from nodes.notify import Notifier
from nodes.rounds import New, Rounds
from nodes.state import load_state
from nodes.store.base import OpenRound, StoreError
from nodes.transport.choose import node_transport
from nodes.vitals import Vitals
from pki.node import NodeKey, load_node_key
from pki.trust import TrustStore, check_leaf

Config = HospitalConfig | PatientConfig
Read = Callable[[], Config]
"""Reads the configuration again, with everything that was said on the command line. Raises ConfigError."""

RESTART_KEYS = (
    *("consortium", "name", "listen", "admin", "health", "limits"),
    *("state", "store", "storage_key", "topology", "relay", "proxy"),
)
"""What holds from the start of a daemon to its end; the other keys change with SIGHUP."""

_REFUSAL_SECONDS = 1.0
"""A guest who is refused again and again fills a counter, not the log: one line a reason in this time."""
EXIT_FORCED = 1
"""Exit status of a daemon that was told twice to stop."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration and what it names, all of it read and checked."""

    config: Config
    trust: TrustStore
    node_key: NodeKey


def load(config: Config) -> Loaded:
    """Raises IdentityError or ConfigError for keys and certificates that cannot be used now."""
    identity = config.identity
    trust = TrustStore.load(*identity.authorities)
    return Loaded(config, trust, load_node_key(identity.key, identity.certificate, trust, time.time(), identity_of(config)))


def _settle() -> None:
    """Gives back the pages that start-up used and an idle daemon would hold for good; modules never become garbage."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 20)  # a round makes many small objects that free themselves; looking through them is for nothing
    with contextlib.suppress(AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)


class KeptResult(Struct, frozen=True):
    """A result, and the key that opens the commitment to it."""

    result: Result
    key: bytes


def _result_label(round_id: bytes) -> str:
    return f"result of round {round_id.hex()}"


class Daemon:
    """One node. Subclasses say who may speak to it, which rounds it has, and what its admin socket offers.

    The constructor raises IdentityError or ConfigError for keys and certificates that cannot be used.
    """

    speaks_with: ClassVar[frozenset[Role]]

    def __init__(self, config: Config) -> None:
        loaded = load(config)
        self.identity = identity_of(config)
        self.log = logger(self.identity)
        self.metrics = Registry()
        self.notify = Notifier()
        self.credential = loaded.node_key.credential
        self.credentials = Credentials(loaded.trust)
        self.state = load_state(self.identity, config.state, config.store, config.storage_key)
        self.store = self.state.store
        self.keys = self._keys_of(loaded)
        self.ledger = Ledger()
        self._connections = self.metrics.counter(
            "cohortium_connections_refused_total", "Connections and requests turned away, by reason.", ("reason",)
        )
        self.transport = node_transport(
            config,
            roots=loaded.trust.roots,
            roles=self.speaks_with,
            check_peer=check_leaf,
            count=self._refused,
            log=self.log,
            keyring=lambda: self.keys.keyring,
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
            metrics=self.metrics,
            log=self.log,
        )
        self.vitals = Vitals(
            self.metrics,
            certificate_not_after=lambda: self.credential.not_after,
            outbox_depth=self.driver.outbox.depth,
            outbox_age=self.driver.outbox.oldest_seconds,
            connections=self.transport.connections,
        )
        self.admin = AdminApi(config.admin, self.status, self.metrics)
        self.admin.app.router.add_post("/v1/log", self._post_log)
        self.health = self._health_server(config)
        self._loaded = loaded
        self._level: Level = config.log.level
        self._state = "starting"
        self._reloading = asyncio.Lock()
        self._refusals: dict[str, tuple[float, int]] = {}
        """By reason: when a line was last logged, and how many were left out since."""
        self._chores: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[bool]] = set()

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

    def seal_result(self, round_id: bytes, released: Released) -> bytes:
        """A result as the store keeps it, with the key that opens the commitment in the receipts."""
        kept = KeptResult(released.result, released.key)
        return self.state.storage_key.seal(encode(kept), _result_label(round_id))

    async def kept_result(self, round_id: bytes) -> Result | None:
        """The result of a round that has ended, while it is kept. Raises StoreError."""
        found = await self.store.find_closed(round_id)
        if found is None or not found.closed.result:
            return None
        opened = await asyncio.to_thread(self.state.storage_key.unseal, found.closed.result, _result_label(round_id))
        return decode(opened, KeptResult).result

    def observe(self, round_id: bytes, effect: Effect) -> None:
        """Logs what happened in a round."""
        self.vitals.observe(round_id, effect)
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
            "state": self._state,
            "not_ready": self.not_ready(),
            "listen": self._loaded.config.place,
            **self.vitals.as_status(),
            "certificate_not_after": self.credential.not_after,
            "log_level": self._level,
            "messages_on_their_way": self.driver.outbox.depth(),
            "oldest_message_seconds": round(self.driver.outbox.oldest_seconds(), 1),
            "unreachable": {node.name: trouble for node, trouble in sorted(self.driver.outbox.troubles.items())},
        }

    async def run(self, read: Read) -> None:
        """Runs until SIGTERM or SIGINT, then drains and stops in order; the same signal again ends the process at once.

        SIGHUP takes what `read` gives. Raises ConfigError or StoreError when the daemon cannot start.
        """
        config = self._loaded.config
        self.log.info(Event.STARTING, listen=config.place, version=self.vitals.version)
        stop = self._handle_signals(read)
        await self.store.open()
        try:
            await self.keys.open()
            await self.recall()
            await self.driver.start()
            self._chores = asyncio.create_task(self._do_chores())
            await self.transport.start(self.driver.receive)
            if self.health is not None:
                await self.health.start()
            await self.admin.start()
            _settle()
            self._state = "ready"
            self.log.info(Event.READY, listen=config.place)
            self.notify.ready(f"listening on {config.place}")
            watchdog = asyncio.create_task(self._feed_watchdog())
            await stop.wait()
            watchdog.cancel()
        finally:
            await self._drain()

    # -- stop

    def _handle_signals(self, read: Read) -> asyncio.Event:
        """Set by the first signal to stop; the second one does not return."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def told_to_stop() -> None:
            if stop.is_set():
                self._force()
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._told_to_reload, read)
        return stop

    def _force(self) -> None:
        # Not sys.exit: the interpreter would wait for the protocol thread. What was promised to anybody is in the store.
        self.log.warning(Event.STOPPED, forced=True)
        sys.stderr.flush()
        os._exit(EXIT_FORCED)

    async def _drain(self) -> None:
        """Takes nothing new, lets what is under way finish within `shutdown_timeout`, and closes everything."""
        seconds = self._loaded.config.shutdown_timeout
        deadline = asyncio.get_running_loop().time() + seconds
        self._state = "draining"
        self.log.info(Event.STOPPING, seconds=seconds, messages_on_their_way=self.driver.outbox.depth())
        self.notify.stopping(f"draining for at most {seconds} s")
        if self._chores is not None:
            self._chores.cancel()
        await self.admin.stop()
        # Deliveries get most of the time: requests that are being answered need little, for every answer is `later` now.
        await self.driver.stop(0.9 * seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self.transport.stop()
        if self.health is not None:
            await self.health.stop()
        await self.store.close()
        self.state.round_keys.close()
        self.state.guard.close()
        self.log.info(Event.STOPPED)

    # -- reload

    def _told_to_reload(self, read: Read) -> None:
        if self._state != "ready":
            return  # what is starting has just read it all, what stops needs nothing new
        task = asyncio.create_task(self.reload(read))
        self._tasks.add(task)  # the loop itself keeps no task alive
        task.add_done_callback(self._tasks.discard)

    async def reload(self, read: Read) -> bool:
        """Reads everything again and swaps it in at once; or changes nothing, and says why. Returns whether it was taken."""
        async with self._reloading:
            self.notify.reloading()
            trouble = ""
            try:
                fresh = await asyncio.to_thread(lambda: load(read()))
                self._refuse_restart_keys(fresh.config)
                await self._swap(fresh)
            except CohortiumError as error:
                trouble = str(error)
            except Exception as error:  # a bug: the daemon goes on with what it has, and the manager must hear an end
                trouble = f"{type(error).__name__} at {place(error)}"
            self.vitals.reload_ended(trouble)
            if trouble:
                self.log.error(Event.RELOAD_REFUSED, reason=trouble)
            else:
                self.log.info(Event.RELOADED)
            now = f"listening on {self._loaded.config.place}"
            self.notify.ready(f"{now}; the last reload was refused, the log says why" if trouble else now)
            return not trouble

    def _refuse_restart_keys(self, fresh: Config) -> None:
        now = self._loaded.config
        changed = [key for key in RESTART_KEYS if getattr(now, key, None) != getattr(fresh, key, None)]
        if changed:
            raise ConfigError(
                f"{', '.join(changed)}: cannot change while the daemon runs; restart it, or write what was there before"
            )

    async def _swap(self, fresh: Loaded) -> None:
        """What can still be refused comes first; the rest is one step on the protocol thread, between two transitions."""
        files = fresh.config.identity
        self.transport.reload(files.key, files.certificate, fresh.trust.roots)
        if fresh.node_key.chain != self._loaded.node_key.chain:
            keys = self._keys_of(fresh)
            await keys.open()
            self.keys = keys

        authorities = frozenset(hashlib.sha256(root).digest() for root in fresh.trust.roots)

        def swap() -> None:
            self.credentials.replace_trust(fresh.trust, authorities)
            self.credential = fresh.node_key.credential
            self._loaded = fresh
            self.use(fresh.config)

        await self.driver.on_thread(swap)
        self._set_level(fresh.config.log.level)

    def _keys_of(self, loaded: Loaded) -> Keys:
        return Keys(loaded.node_key, self.store, self.state.storage_key, self.log)

    async def _do_chores(self) -> None:
        """A new encryption key each day; erases keys that no round needs, and what is older than it may be."""
        while True:
            try:
                if self.keys.is_due():
                    await self.keys.rotate()
                await self.keys.erase_unneeded(await self.driver.on_thread(self.driver.rounds.key_ids))
                erased = await self.store.erase_before(time.time() - self._loaded.config.keep_days * 86400)
                if erased:
                    self.log.info(Event.ERASED, rows=erased)
            except StoreError as error:
                self.log.error(Event.STORE_FAILED, reason=error.reason, detail=str(error))
            await asyncio.sleep(max(1.0, self.keys.due()))

    # -- health

    def not_ready(self) -> list[str]:
        """Why this node takes no new work; empty when it does."""
        reasons = [] if self._state == "ready" else [self._state]
        if not self.credential.not_before <= time.time() <= self.credential.not_after:
            reasons.append("the certificate is not valid now")
        if self.driver.store_trouble:
            reasons.append(f"the store fails: {self.driver.store_trouble}")
        return reasons

    async def alive(self, seconds: float) -> bool:
        """Whether the protocol thread answers within `seconds`. That the event loop turns is shown by the answer."""
        try:
            async with asyncio.timeout(seconds):
                await self.driver.on_thread(_nothing)
        except (TimeoutError, RuntimeError):  # RuntimeError: there is no such thread any more
            return False
        return True

    async def _feed_watchdog(self) -> None:
        every = self.notify.watchdog_seconds
        while every is not None:
            began = time.monotonic()
            if await self.alive(every):
                self.notify.watchdog()
            await asyncio.sleep(max(0.0, began + every - time.monotonic()))

    def _health_server(self, config: Config) -> HealthServer | None:
        health = config.health
        if health is None:
            return None
        return HealthServer(
            listen=None if health.listen is None else address(health.listen),
            socket=health.socket,
            alive=self.alive,
            reasons=self.not_ready,
            metrics=self.metrics,
        )

    # -- the log's level

    def _set_level(self, level: Level) -> None:
        configure(level, self._loaded.config.log.format)
        self._level = level

    async def _post_log(self, request: web.Request) -> web.Response:
        """POST /v1/log {"level": LEVEL}: until the next reload or restart."""
        try:
            asked = msgspec.json.decode(await request.read(), type=_AskedLevel)
        except ValueError as error:  # msgspec's own errors, and UnicodeDecodeError
            raise UsageError(f'the request must read {{"level": "debug"}}, or info, warning, error: {error}') from error
        before = self._level
        self._set_level(asked.level)
        self.log.warning(Event.LOG_LEVEL, now=asked.level, before=before)
        return await json_response({"level": asked.level, "before": before})

    def _refused(self, reason: str) -> None:
        self._connections.inc(reason=reason)
        now = time.monotonic()
        logged, left_out = self._refusals.get(reason, (-math.inf, 0))
        if now - logged < _REFUSAL_SECONDS:
            self._refusals[reason] = (logged, left_out + 1)
            return
        self._refusals[reason] = (now, 0)
        self.log.info(Event.CONNECTION_REFUSED, reason=reason, left_out=left_out)


class _AskedLevel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    level: Level


def _nothing() -> None:
    """What the protocol thread does to show that it is alive."""
