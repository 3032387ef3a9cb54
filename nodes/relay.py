"""The relay's daemon: keeps sealed messages for nodes of its consortium until they fetch them. It can read none of them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import ClassVar

from mpc.credentials import Credentials
from mpc.identity import Identity
from mpc.mailbox import Quota, Rules, Verdict
from nodes.admin.audit import add_audit_routes
from nodes.config import RelayConfig
from nodes.loaded import Loaded
from nodes.log import Event, Thinned
from nodes.service import COMMON_RESTART_KEYS, Service
from nodes.store.audit import AuditEvent
from nodes.store.base import StoreError
from nodes.store.mail import Depth, mail_store
from nodes.transport.guard import proved_peer
from nodes.transport.listener import Listener
from nodes.transport.mailroom import Mailroom
from nodes.transport.tls import CheckPeer, NodeContext, is_refused, server_context

_LOOK_SECONDS = 2.0
"""How old the depth in status and metrics may be."""
_SWEEP_SECONDS = 60.0
"""How often messages that are too old are deleted; they are not handed out in the meantime."""
_ERASE_SECONDS = 3600.0
"""How often lines of the audit log that are older than `keep_days` are erased."""
_DAY = 24 * 3600.0
_ANSWER_SECONDS = 30.0
"""A store that takes longer to be looked at counts as failed."""
_TROUBLE_SECONDS = 15.0
"""For how long a failure counts that nothing has disproved. Nodes try again within 5 s, and renew it while it lasts."""

RESTART_KEYS = (*COMMON_RESTART_KEYS, "quota", "max_age_hours")


class RelayDaemon(Service[RelayConfig]):
    """One relay process. Several may serve the same mailboxes from one PostgreSQL.

    See `Service` for what the constructor raises; ConfigError also for a store that cannot be used.
    """

    restart_keys: ClassVar[tuple[str, ...]] = RESTART_KEYS

    def __init__(self, config: RelayConfig) -> None:
        super().__init__(config)
        quota, limits = config.quota, config.limits
        self._rules = Rules(
            sender=Quota(quota.sender_messages, quota.sender_bytes),
            recipient=Quota(quota.recipient_messages, quota.recipient_bytes),
            max_age=config.max_age_hours * 3600.0,
            max_message=limits.message_bytes,
        )
        self.store = mail_store(config.store or config.state / "relay.db", self._rules)
        self._depth = Depth(0, 0, 0, None)
        self._trouble = ""
        self._failed_at = 0.0
        self._failures = Thinned()
        self._untaken = Thinned()
        self._watching: asyncio.Task[None] | None = None
        self._posted = self.metrics.counter(
            "cohortium_mail_posted_total", "Messages that nodes posted, by what became of them.", ("outcome",)
        )
        self._store_errors = self.metrics.counter(
            "cohortium_store_errors_total", "What the store could not do, by reason.", ("reason",)
        )
        self.mailroom = Mailroom(
            self.identity,
            self.store,
            Credentials(self._loaded.trust),
            self._rules,
            limits,
            count=self._refused,
            posted=self._note_posted,
            store_failed=self._store_failed,
            routes=self.routes,
        )
        self.listener = Listener(config.listen, self._context(self._loaded), limits, self._refused, proved_peer)
        add_audit_routes(self.admin, self.store, lambda: self._loaded.node_key)
        self._measure()

    def status(self) -> dict[str, object]:
        """Adds what waits, and who."""
        return super().status() | {
            "mailboxes": self._depth.boxes,
            "messages_waiting": self._depth.messages,
            "bytes_waiting": self._depth.bytes,
            "oldest_message_seconds": round(self._oldest(), 1),
            "connections": self.connections(),
            "fetches_waiting": self.mailroom.polls(),
        }

    def not_ready(self) -> list[str]:
        """See `Service.not_ready`."""
        return super().not_ready() + ([f"the store fails: {self._trouble}"] if self._trouble else [])

    def close_refused(self, check_peer: CheckPeer) -> int:
        """See `Service.close_refused`. A relay opens no connection to those that it serves."""
        return self.listener.cut(lambda transport: is_refused(transport, check_peer))

    def connections(self) -> int:
        """See `Service.connections`."""
        return self.listener.connections()

    def waiting(self) -> int:
        """See `Service.waiting`."""
        return self._depth.messages

    async def open(self) -> None:
        """See `Service.open`."""
        await self.store.open(self.mailroom.arrived)

    async def start(self) -> None:
        """See `Service.start`."""
        await self.store.open_boxes(self._loaded.config.mailboxes)
        await self.audit.begin(self.store)
        self._watching = asyncio.create_task(self._watch())
        await self.listener.start(self.mailroom.handle)

    async def stop(self, seconds: float) -> None:
        """See `Service.stop`. Fetches that wait are answered at once."""
        self.mailroom.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.listener.stop()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self.audit.end()
        await self.store.close()

    async def swap(self, fresh: Loaded[RelayConfig]) -> None:
        """See `Service.swap`."""
        context = self._context(fresh)
        await self.store.open_boxes(fresh.config.mailboxes)
        self._loaded = fresh
        self.listener.context = context
        self.mailroom.credentials = Credentials(fresh.trust)

    # -- the store

    async def _watch(self) -> None:
        """Looks how much waits, and deletes what is too old."""
        swept = erased = float("-inf")
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    self._depth = await self.store.depth()
                    if loop.time() - swept >= _SWEEP_SECONDS:
                        swept = loop.time()
                        expired = await self.store.expire(time.time() - self._rules.max_age)
                        if expired:
                            self.log.warning(Event.MAIL_EXPIRED, messages=expired)
                    if loop.time() - erased >= _ERASE_SECONDS:
                        erased = loop.time()
                        await self.store.erase_audit(time.time() - self._loaded.config.keep_days * _DAY)
            except TimeoutError:
                self._store_failed(StoreError("timeout", f"the store did not answer within {_ANSWER_SECONDS:g} s"))
            except StoreError as error:
                self._store_failed(error)
            else:
                # A full disk can be read: that a look succeeds says little about what is written.
                if loop.time() - self._failed_at >= _TROUBLE_SECONDS:
                    self._trouble = ""
            await asyncio.sleep(_LOOK_SECONDS)

    def _store_failed(self, error: StoreError) -> None:
        self._trouble = error.reason
        self._failed_at = asyncio.get_running_loop().time()
        self._store_errors.inc(reason=error.reason)
        left_out = self._failures.due(error.reason)
        if left_out is not None:
            self.log.error(Event.STORE_FAILED, reason=error.reason, detail=str(error), left_out=left_out)

    def _note_posted(self, outcome: str, sender: Identity, recipient: Identity | None) -> None:
        self._posted.inc(outcome=outcome)
        if outcome == Verdict.TAKEN:
            self._trouble = ""
        elif outcome != Verdict.DUPLICATE:
            names = {"sender": sender.name} | ({} if recipient is None else {"recipient": recipient.name})
            self.audit(AuditEvent.REFUSED, what="message", **names, reason=outcome)
            if (left_out := self._untaken.due(outcome)) is not None:
                self.log.info(Event.MESSAGE_REFUSED, **names, reason=outcome, left_out=left_out)

    def _measure(self) -> None:
        metrics = self.metrics
        metrics.gauge("cohortium_mailboxes", "Nodes that have a mailbox.", read=lambda: self._depth.boxes)
        metrics.gauge("cohortium_mailbox_messages", "Messages that wait in all mailboxes.", read=lambda: self._depth.messages)
        metrics.gauge("cohortium_mailbox_bytes", "Bytes that wait in all mailboxes.", read=lambda: self._depth.bytes)
        metrics.gauge("cohortium_mailbox_oldest_seconds", "Age of the oldest message; 0 with none.", read=self._oldest)
        metrics.gauge("cohortium_fetches_waiting", "Fetches that wait for mail.", read=self.mailroom.polls)

    def _oldest(self) -> float:
        return 0.0 if self._depth.oldest is None else max(0.0, time.time() - self._depth.oldest)

    def _context(self, loaded: Loaded[RelayConfig]) -> NodeContext:
        return server_context(loaded.node_key, loaded.trust.roots, self.care.check_peer)
