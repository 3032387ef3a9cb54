"""The life of a daemon's process: load, start, ready, reload, drain, stop; its health, its admin socket, its log.

What it does in between is its subclass's: a node with rounds (`daemon`) or a relay (`relay`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import ssl
import sys
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Generic

import msgspec
from aiohttp import web

from mpc.errors import CohortiumError, ConfigError, IdentityError, UsageError
from mpc.identity import Credential
from nodes.admin.api import AdminApi, json_response
from nodes.audit import AuditLog
from nodes.care import Care
from nodes.config import HospitalConfig, PatientConfig, identity_of
from nodes.enrolment.desk import Desk, load_authority
from nodes.enrolment.door import Door, renewal
from nodes.enrolment.messages import RENEW_PATH, RelayPlace
from nodes.fields import address
from nodes.health import HealthServer
from nodes.loaded import C, Loaded, load
from nodes.log import Event, Level, Thinned, configure, logger, place
from nodes.metrics import Registry
from nodes.notify import Notifier
from nodes.store.audit import AuditEvent
from nodes.transport.inbox import Route
from nodes.transport.tls import CheckPeer, strangers_context
from nodes.upkeep import REVOCATIONS_PATH
from nodes.vitals import Vitals
from pki.certificate import read
from pki.lists import Lists, take

Read = Callable[[], C]
"""Reads the configuration again, with everything that was said on the command line. Raises ConfigError."""

COMMON_RESTART_KEYS = ("consortium", "name", "listen", "admin", "health", "limits", "state", "store", "enrolment", "authority")
EXIT_FORCED = 1
"""Exit status of a daemon that was told twice to stop."""


def _door_context(loaded: Loaded[C]) -> ssl.SSLContext:
    return strangers_context(loaded.node_key)


def _settle() -> None:
    """Gives back the pages that start-up used and an idle daemon would hold for good; modules never become garbage."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 20)  # work makes many small objects that free themselves; looking through them is for nothing
    with contextlib.suppress(AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)


class Service(Generic[C]):
    """One daemon in a process of its own. Subclasses open, start and stop what it consists of, and exchange its configuration.

    The constructor raises IdentityError or ConfigError for keys and certificates that cannot be used.
    """

    restart_keys: ClassVar[tuple[str, ...]] = COMMON_RESTART_KEYS
    """What holds from the start of a daemon to its end; the other keys change with SIGHUP."""

    def __init__(self, config: C) -> None:
        self._loaded = load(config)
        self.identity = identity_of(config)
        self.log = logger(self.identity)
        self.audit = AuditLog(self.log)
        self.metrics = Registry()
        self.notify = Notifier()
        self.vitals = Vitals(self.metrics, certificate_not_after=lambda: self.credential.not_after, connections=self.connections)
        self.admin = AdminApi(config.admin, self.status, self.metrics)
        self.admin.app.router.add_post("/v1/log", self._post_log)
        self.health = self._health_server(config)
        self._turned_away = self.metrics.counter(
            "cohortium_connections_refused_total", "Connections and requests turned away, by reason.", ("reason",)
        )
        self._refusals = Thinned()
        self.routes: dict[str, Route] = {}
        """What other nodes may ask besides what the node is there for, by path; filled before `start`."""
        self.desk: Desk | None
        self.door: Door | None
        self.desk, self.door = self._enrolment(config)
        self._level: Level = config.log.level
        self._state = "starting"
        self._reloading = asyncio.Lock()
        self.care = Care(
            lambda: self._loaded,
            self._use,
            self._cut_off,
            self._reloading,
            self.desk,
            audit=self.audit,
            metrics=self.metrics,
            log=self.log,
        )
        if not isinstance(config, PatientConfig):
            self.routes[REVOCATIONS_PATH] = self.care.revocations.route(config.limits, self._refused)
        self._reloads: set[asyncio.Task[bool]] = set()
        self._unfit: IdentityError | None = None
        """Why this node cannot go on, once it cannot."""

    @abstractmethod
    async def open(self) -> None:
        """Opens the store. Raises ConfigError or StoreError, and then leaves nothing behind."""

    @abstractmethod
    async def start(self) -> None:
        """Begins to work, and listens. Raises ConfigError or StoreError; `stop` follows in any case."""

    @abstractmethod
    async def stop(self, seconds: float) -> None:
        """Takes nothing new, lets what is under way finish for at most so long, and closes everything."""

    @abstractmethod
    async def swap(self, fresh: Loaded[C]) -> None:
        """Works by `fresh`, which becomes `_loaded`, from now on. What can still be refused comes first; the rest is one step."""

    @abstractmethod
    def close_refused(self, check_peer: CheckPeer) -> int:
        """Cuts the connections, of either direction, to peers that `check_peer` refuses. Returns how many."""

    @abstractmethod
    def connections(self) -> int:
        """Connections that other nodes have open here."""

    @abstractmethod
    def waiting(self) -> int:
        """Messages that wait here to go on."""

    async def alive(self, seconds: float) -> bool:
        """Whether the parts answer within `seconds`. That the event loop turns is shown by the answer."""
        return True

    def not_ready(self) -> list[str]:
        """Why this daemon takes no new work; empty when it does."""
        reasons = [] if self._state == "ready" else [self._state]
        if not self.credential.not_before <= time.time() <= self.credential.not_after:
            reasons.append("the certificate is not valid now")
        return reasons + self.care.revocations.too_old(time.time())

    @property
    def credential(self) -> Credential:
        """Who this node is, by its certificate."""
        return self._loaded.node_key.credential

    def status(self) -> dict[str, object]:
        """What `GET /v1/status` of the admin socket says."""
        return {
            "identity": self.identity.uri,
            "state": self._state,
            "not_ready": self.not_ready(),
            "listen": self._loaded.config.place,
            **self.vitals.as_status(),
            "certificate_not_after": self.credential.not_after,
            "renewal_trouble": self.care.renewal.trouble,
            "revocation_lists": self.care.revocations.status(),
            "revocation_trouble": self.care.revocations.trouble,
            "log_level": self._level,
        }

    async def run(self, read: Read[C]) -> None:
        """Runs until SIGTERM or SIGINT, then drains and stops in order; the same signal again ends the process at once.

        SIGHUP takes what `read` gives. Raises ConfigError or StoreError when the daemon cannot start, and IdentityError when it
        cannot go on because its certificate has ended or was revoked.
        """
        where = self._loaded.config.place
        self.log.info(Event.STARTING, listen=where, version=self.vitals.version)
        stop = self._handle_signals(read)
        await self.open()
        try:
            await self._took(self._loaded)
            await self.start()
            if self.door is not None:
                await self.door.start()
            if self.health is not None:
                await self.health.start()
            await self.admin.start()
            _settle()
            self._state = "ready"
            self.log.info(Event.READY, listen=where)
            self.notify.ready(f"listening on {where}")
            watchdog = asyncio.create_task(self._feed_watchdog())
            care = asyncio.create_task(self._take_care(stop))
            try:
                await stop.wait()
            finally:
                watchdog.cancel()
                care.cancel()
                await asyncio.gather(care, return_exceptions=True)
        finally:
            await self._drain()
        if self._unfit is not None:
            raise self._unfit

    # -- stop

    def _handle_signals(self, read: Read[C]) -> asyncio.Event:
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
        # Not sys.exit: the interpreter would wait for the threads. What was promised to anybody is in the store.
        self.log.warning(Event.STOPPED, forced=True)
        sys.stderr.flush()
        os._exit(EXIT_FORCED)

    async def _drain(self) -> None:
        seconds = self._loaded.config.shutdown_timeout
        self._state = "draining"
        self.log.info(Event.STOPPING, seconds=seconds, messages_waiting=self.waiting())
        self.notify.stopping(f"draining for at most {seconds} s")
        await self.admin.stop()
        if self.door is not None:
            await self.door.stop()
        await self.stop(seconds)
        if self.health is not None:
            await self.health.stop()
        self.log.info(Event.STOPPED)

    # -- reload

    def _told_to_reload(self, read: Read[C]) -> None:
        if self._state != "ready":
            return  # what is starting has just read it all, what stops needs nothing new
        task = asyncio.create_task(self.reload(read))
        self._reloads.add(task)  # the loop itself keeps no task alive
        task.add_done_callback(self._reloads.discard)

    async def reload(self, read: Read[C]) -> bool:
        """Reads everything again and swaps it in at once; or changes nothing, and says why. Returns whether it was taken."""
        async with self._reloading:
            self.notify.reloading()
            trouble = ""
            try:
                fresh = self._with_lists(await asyncio.to_thread(lambda: load(read())))
                self._refuse_restart_keys(fresh.config)
                await self._use(fresh)
                self._set_level(fresh.config.log.level)
            except CohortiumError as error:
                trouble = str(error)
            except Exception as error:  # a bug: the daemon goes on with what it has, and the manager must hear an end
                trouble = f"{type(error).__name__} at {place(error)}"
            self.vitals.reload_ended(trouble)
            if trouble:
                self.log.error(Event.RELOAD_REFUSED, reason=trouble)
            else:
                self.log.info(Event.RELOADED)
                self.audit(AuditEvent.RELOADED, certificate=self.credential.digest.hex())
            now = f"listening on {self._loaded.config.place}"
            self.notify.ready(f"{now}; the last reload was refused, the log says why" if trouble else now)
            return not trouble

    # -- identities

    async def _take_care(self, stop: asyncio.Event) -> None:
        try:
            await self.care.run()
        except* IdentityError as group:
            self._unfit = next(error for error in group.exceptions if isinstance(error, IdentityError))
            self.log.error(Event.IDENTITY_LOST, reason=str(self._unfit))
            stop.set()

    def _with_lists(self, fresh: Loaded[C]) -> Loaded[C]:
        """No reload takes back a list that is obeyed, whatever became of its file."""
        obeyed = self._loaded.trust.lists
        above = tuple(read(one) for listed in obeyed for one in listed.intermediates)
        held = Lists(tuple(listed.revocations for listed in obeyed), above)
        trust, _ = take(fresh.trust, held, time.time(), fresh.node_key.chain[1:])
        return replace(fresh, trust=trust)

    async def _use(self, fresh: Loaded[C]) -> None:
        """Works by `fresh` from now on."""
        await self.swap(fresh)
        if self.door is not None:
            self.door.listener.context = _door_context(fresh)
        self._cut_off()
        await self._took(fresh)

    async def _took(self, loaded: Loaded[C]) -> None:
        for event, reason in loaded.notes:
            self.log.warning(event, reason=reason)
        await self.care.revocations.changed()

    def _cut_off(self) -> None:
        """Whoever is not believed now loses the connections that were made before, within moments of the news."""
        closed = self.close_refused(self.care.check_peer)
        if closed:
            self.log.warning(Event.CONNECTIONS_CUT, connections=closed)

    def _refuse_restart_keys(self, fresh: C) -> None:
        now = self._loaded.config
        changed = [key for key in self.restart_keys if getattr(now, key, None) != getattr(fresh, key, None)]
        if changed:
            raise ConfigError(
                f"{', '.join(changed)}: cannot change while the daemon runs; restart it, or write what was there before"
            )

    # -- health

    async def _feed_watchdog(self) -> None:
        every = self.notify.watchdog_seconds
        while every is not None:
            began = time.monotonic()
            if await self.alive(every):
                self.notify.watchdog()
            await asyncio.sleep(max(0.0, began + every - time.monotonic()))

    def _enrolment(self, config: C) -> tuple[Desk, Door] | tuple[None, None]:
        """Where the authority lives here: who signs, and where nodes without a certificate come. The others come as always."""
        if isinstance(config, PatientConfig) or config.enrolment is None:
            return None, None
        desk = Desk(load_authority(config.enrolment, self._loaded.trust), self.log, self.metrics, self.audit)
        self.routes[RENEW_PATH] = renewal(desk, config.limits, self._refused)
        place = config.relay if isinstance(config, HospitalConfig) else None
        relay = None if place is None else RelayPlace(place.name, place.url)
        context, port = _door_context(self._loaded), address(config.listen)[1]
        return desk, Door(config.enrolment.listen, context, desk, self._refused, port=port, relay=relay)

    def _health_server(self, config: C) -> HealthServer | None:
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

    # -- the log

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
        """A guest who is refused again and again fills a counter, not the log."""
        self._turned_away.inc(reason=reason)
        self.audit(AuditEvent.REFUSED, what="connection", reason=reason)
        left_out = self._refusals.due(reason)
        if left_out is not None:
            self.log.info(Event.CONNECTION_REFUSED, reason=reason, left_out=left_out)


class _AskedLevel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    level: Level
