"""The relay's daemon: keeps sealed messages for nodes of its consortium until they fetch them. It can read none of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from mpc.credentials import Credentials
from mpc.errors import CohortiumError, ConfigError
from mpc.mailbox import Quota, Rules
from nodes.admin.api import AdminApi
from nodes.config import RelayConfig, identity_of
from nodes.fields import address
from nodes.health import HealthServer
from nodes.log import Event, configure, logger
from nodes.metrics import Registry
from nodes.notify import Notifier
from nodes.store.base import StoreError
from nodes.store.mail import Depth, mail_store
from nodes.transport.listener import Listener
from nodes.transport.mailroom import Mailroom
from nodes.transport.tls import NodeContext, server_context
from pki.node import NodeKey, load_node_key
from pki.trust import TrustStore, check_leaf

_LOOK_SECONDS = 2.0
"""How old the depth in status and metrics may be."""
_SWEEP_SECONDS = 60.0
"""How often messages that are too old are deleted; they are not handed out in the meantime."""
EXIT_FORCED = 1

RESTART_KEYS = ("consortium", "name", "listen", "admin", "health", "limits", "state", "store", "quota", "max_age_hours")
"""What holds from the start of a relay to its end; the other keys change with SIGHUP."""

Read = Callable[[], RelayConfig]


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A configuration and what it names, all of it read and checked."""

    config: RelayConfig
    trust: TrustStore
    node_key: NodeKey


def _load(config: RelayConfig) -> _Loaded:
    files = config.identity
    trust = TrustStore.load(*files.authorities)
    return _Loaded(config, trust, load_node_key(files.key, files.certificate, trust, time.time(), identity_of(config)))


class RelayDaemon:
    """One relay process. Several may serve the same mailboxes from one PostgreSQL.

    The constructor raises IdentityError or ConfigError for keys, certificates or a store that cannot be used.
    """

    def __init__(self, config: RelayConfig) -> None:
        self._loaded = loaded = _load(config)
        self.identity = identity_of(config)
        self.log = logger(self.identity)
        self.metrics = Registry()
        self.notify = Notifier()
        quota, limits = config.quota, config.limits
        self._rules = Rules(
            sender=Quota(quota.sender_messages, quota.sender_bytes),
            recipient=Quota(quota.recipient_messages, quota.recipient_bytes),
            max_age=config.max_age_hours * 3600.0,
            max_message=limits.message_bytes,
        )
        self.store = mail_store(config.store or config.state / "relay.db", self._rules)
        self._depth = Depth(0, 0, 0, None)
        self._store_trouble = ""
        self._state = "starting"
        self._posted = self.metrics.counter(
            "cohortium_mail_posted_total", "Messages that nodes posted, by what became of them.", ("outcome",)
        )
        self._turned_away = self.metrics.counter(
            "cohortium_connections_refused_total", "Connections and requests turned away, by reason.", ("reason",)
        )
        self.mailroom = Mailroom(
            self.identity,
            self.store,
            Credentials(loaded.trust),
            self._rules,
            limits,
            self._refused,
            lambda outcome: self._posted.inc(outcome=outcome),
        )
        self.listener = Listener(config.listen, _context(loaded), limits, self._refused)
        self._measure()
        self.admin = AdminApi(config.admin, self.status, self.metrics)
        self.health = self._health_server(config)
        self._tasks: set[asyncio.Task[None]] = set()

    def status(self) -> dict[str, object]:
        """What `GET /v1/status` of the admin socket says."""
        return {
            "identity": self.identity.uri,
            "state": self._state,
            "not_ready": self.not_ready(),
            "listen": self._loaded.config.listen,
            "certificate_not_after": self._loaded.node_key.credential.not_after,
            "mailboxes": self._depth.boxes,
            "messages_waiting": self._depth.messages,
            "bytes_waiting": self._depth.bytes,
            "oldest_message_seconds": round(self._oldest(), 1),
            "connections": self.listener.connections(),
            "fetches_waiting": self.mailroom.polls(),
        }

    def not_ready(self) -> list[str]:
        """Why this relay takes no mail; empty when it does."""
        reasons = [] if self._state == "ready" else [self._state]
        if self._store_trouble:
            reasons.append(f"the store fails: {self._store_trouble}")
        return reasons

    async def run(self, read: Read) -> None:
        """Runs until SIGTERM or SIGINT, then answers what is under way and stops; the same signal again ends the process at once.

        SIGHUP takes what `read` gives. Raises ConfigError or StoreError when the relay cannot start.
        """
        listen = self._loaded.config.listen
        self.log.info(Event.STARTING, listen=listen)
        stop = self._handle_signals(read)
        watch = None
        try:
            await self.store.open(self.mailroom.arrived)
            await self.store.open_boxes(self._loaded.config.mailboxes)
            watch = asyncio.create_task(self._watch())
            await self.listener.start(self.mailroom.handle)
            if self.health is not None:
                await self.health.start()
            await self.admin.start()
            self._state = "ready"
            self.log.info(Event.READY, listen=listen)
            self.notify.ready(f"listening on {listen}")
            await stop.wait()
        finally:
            await self._drain(watch)

    async def _drain(self, watch: asyncio.Task[None] | None) -> None:
        self._state = "draining"
        seconds = self._loaded.config.shutdown_timeout
        self.log.info(Event.STOPPING, seconds=seconds)
        self.notify.stopping(f"draining for at most {seconds} s")
        self.mailroom.stop()
        await self.admin.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.listener.stop()
        if watch is not None:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        await self.store.close()
        if self.health is not None:
            await self.health.stop()
        self.log.info(Event.STOPPED)

    # -- signals

    def _handle_signals(self, read: Read) -> asyncio.Event:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def told_to_stop() -> None:
            if stop.is_set():
                self.log.warning(Event.STOPPED, forced=True)
                sys.stderr.flush()
                os._exit(EXIT_FORCED)  # what was accepted is in the store
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._told_to_reload, read)
        return stop

    def _told_to_reload(self, read: Read) -> None:
        task = asyncio.create_task(self.reload(read))
        self._tasks.add(task)  # the loop itself keeps no task alive
        task.add_done_callback(self._tasks.discard)

    async def reload(self, read: Read) -> None:
        """Reads everything again and swaps it in at once; or changes nothing, and says why."""
        self.notify.reloading()
        try:
            fresh = await asyncio.to_thread(lambda: _load(read()))
            changed = [key for key in RESTART_KEYS if getattr(fresh.config, key) != getattr(self._loaded.config, key)]
            if changed:
                raise ConfigError(f"{', '.join(changed)}: cannot change while the relay runs; restart it")
            context = _context(fresh)
            await self.store.open_boxes(fresh.config.mailboxes)
        except CohortiumError as error:
            self.log.error(Event.RELOAD_REFUSED, reason=str(error))
        else:
            self._loaded = fresh
            self.listener.context = context
            self.mailroom.credentials = Credentials(fresh.trust)
            configure(fresh.config.log.level, fresh.config.log.format)
            self.log.info(Event.RELOADED)
        self.notify.ready(f"listening on {self._loaded.config.listen}")

    # -- what is watched

    async def _watch(self) -> None:
        """Looks how much waits, deletes what is too old, and tells the service manager that the loop and the store are alive."""
        swept = float("-inf")
        loop = asyncio.get_running_loop()
        while True:
            try:
                if loop.time() - swept >= _SWEEP_SECONDS:
                    swept = loop.time()
                    expired = await self.store.expire(time.time() - self._rules.max_age)
                    if expired:
                        self.log.warning(Event.MAIL_EXPIRED, messages=expired)
                self._depth = await self.store.depth()
                self._store_trouble = ""
                self.notify.watchdog()
            except StoreError as error:
                if not self._store_trouble:
                    self.log.error(Event.STORE_FAILED, reason=error.reason, detail=str(error))
                self._store_trouble = str(error)
            await asyncio.sleep(min(_LOOK_SECONDS, self.notify.watchdog_seconds or _LOOK_SECONDS))

    def _measure(self) -> None:
        metrics = self.metrics
        metrics.gauge("cohortium_mailboxes", "Nodes that have a mailbox.", read=lambda: self._depth.boxes)
        metrics.gauge("cohortium_mailbox_messages", "Messages that wait in all mailboxes.", read=lambda: self._depth.messages)
        metrics.gauge("cohortium_mailbox_bytes", "Bytes that wait in all mailboxes.", read=lambda: self._depth.bytes)
        metrics.gauge("cohortium_mailbox_oldest_seconds", "Age of the oldest message; 0 with none.", read=self._oldest)
        metrics.gauge("cohortium_connections", "Connections of nodes that are open.", read=self.listener.connections)
        metrics.gauge("cohortium_fetches_waiting", "Fetches that wait for mail.", read=self.mailroom.polls)
        metrics.gauge(
            "cohortium_certificate_not_after_timestamp_seconds",
            "When the first certificate of this node's chain ends, Unix time.",
            read=lambda: self._loaded.node_key.credential.not_after,
        )

    def _oldest(self) -> float:
        return 0.0 if self._depth.oldest is None else max(0.0, time.time() - self._depth.oldest)

    def _health_server(self, config: RelayConfig) -> HealthServer | None:
        if config.health is None:
            return None
        return HealthServer(
            listen=None if config.health.listen is None else address(config.health.listen),
            socket=config.health.socket,
            alive=self._alive,
            reasons=self.not_ready,
            metrics=self.metrics,
        )

    async def _alive(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self.store.depth()
        except (TimeoutError, StoreError):
            return False
        return True

    def _refused(self, reason: str) -> None:
        self._turned_away.inc(reason=reason)
        self.log.info(Event.CONNECTION_REFUSED, reason=reason)


def _context(loaded: _Loaded) -> NodeContext:
    files = loaded.config.identity
    return server_context(files.key, files.certificate, loaded.trust.roots, check_leaf)
