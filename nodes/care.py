"""What a running daemon does about its own identity and those of others: renewal in time, newer lists, and their effect."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Generic

from mpc.errors import IdentityError
from mpc.identity import Identity
from nodes.audit import AuditLog
from nodes.config import PatientConfig
from nodes.enrolment.desk import Desk
from nodes.loaded import C, Loaded, kept_of
from nodes.log import Event, Logger, place
from nodes.metrics import Registry
from nodes.renewal import Renewal
from nodes.revocation import Revocations
from nodes.store.audit import AuditEvent
from nodes.transport.tls import NodeContext, client_context
from nodes.upkeep import Own, Remote, Source, service_of
from pki.certificate import read, utc
from pki.lists import Lists, take
from pki.node import NodeKey

Use = Callable[[Loaded[C]], Awaitable[None]]


class Care(Generic[C]):
    """Of one daemon. `loaded` is what it works by; `use` makes it work by something else from now on, and cuts off whoever it
    does not believe any more; `cut_off` is that alone, for those whose time is up. Changes happen one at a time, under `lock`.
    """

    def __init__(
        self,
        loaded: Callable[[], Loaded[C]],
        use: Use[C],
        cut_off: Callable[[], None],
        lock: asyncio.Lock,
        desk: Desk | None,
        *,
        audit: AuditLog,
        metrics: Registry,
        log: Logger,
    ) -> None:
        self._loaded = loaded
        self._use = use
        self._cut_off = cut_off
        self._lock = lock
        self._audit = audit
        self._log = log
        config = loaded().config
        source = self._source(desk)
        self.renewal = Renewal(
            source,
            current=lambda: self._loaded().node_key,
            trust=lambda: self._loaded().trust,
            adopt=self._adopt_identity,
            metrics=metrics,
            log=log,
        )
        self.revocations = Revocations(
            source,
            state=config.state,
            rules=lambda: self._loaded().config.revocation,
            trust=lambda: self._loaded().trust,
            adopt=self._adopt_lists,
            metrics=metrics,
            log=log,
        )

    def check_peer(self, chain: tuple[bytes, ...]) -> Identity:
        """Who a peer is, by all that is known now. Raises IdentityError."""
        return self._loaded().trust.verify(chain, time.time()).identity

    async def run(self) -> None:
        """For ever. Raises IdentityError when the node cannot go on with the certificate that it has."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._again_and_again(self.renewal.step, self.renewal.pause))
            tasks.create_task(self._again_and_again(self._look_at_others, self.revocations.pause))

    async def _look_at_others(self) -> None:
        await self.revocations.step()
        self.renewal.check()  # it may be on the list itself
        self._cut_off()

    async def _again_and_again(self, step: Callable[[], Awaitable[None]], pause: Callable[[], float]) -> None:
        while True:
            try:
                await step()
            except IdentityError:
                raise
            except Exception as error:  # a bug must not end the care for good
                self._log.error(Event.FAILED, error=type(error).__name__, place=place(error))
            await asyncio.sleep(pause())

    def _source(self, desk: Desk | None) -> Source | None:
        loaded = self._loaded()
        if desk is not None and not isinstance(loaded.config, PatientConfig) and loaded.config.enrolment is not None:
            days = loaded.config.enrolment.list_days
            return Own(
                loaded.node_key.identity,
                desk,
                lambda: self._loaded().node_key.chain[0],
                lambda: self._loaded().trust,
                days,
            )
        service = service_of(loaded.config)
        if service is None:
            return None
        proxy = loaded.config.proxy if isinstance(loaded.config, PatientConfig) else None
        return Remote(*service, proxy, self._context)

    def _context(self) -> NodeContext:
        loaded = self._loaded()
        # By lists of any age: the newer one is what it may be about to fetch.
        trust = loaded.trust.whatever_age()
        return client_context(loaded.node_key, trust.roots, lambda chain: trust.verify(chain, time.time()).identity)

    async def _adopt_identity(self, fresh: NodeKey) -> None:
        async with self._lock:
            loaded = self._loaded()
            before = (loaded.node_key, *loaded.former)
            former = tuple(one for one in before if one.credential.not_after > time.time())
            await asyncio.to_thread(kept_of(loaded.config).write, fresh, former)
            await self._use(replace(loaded, node_key=fresh, former=former, notes=()))
        leaf = read(fresh.chain[0])
        about = {"until": utc(leaf.not_after), "serial": f"{leaf.serial:x}"}
        self._log.info(Event.IDENTITY_RENEWED, **about)
        self._audit(AuditEvent.RENEWED, **about)

    async def _adopt_lists(self, lists: Lists) -> list[IdentityError]:
        async with self._lock:
            loaded = self._loaded()
            above = loaded.node_key.chain[1:]
            trust, problems = await asyncio.to_thread(take, loaded.trust, lists, time.time(), above)
            if trust is not loaded.trust:
                known = [listed.revocations for listed in loaded.trust.lists]
                for found in [listed.revocations for listed in trust.lists if listed.revocations not in known]:
                    about: dict[str, Any] = {"authority": found.issuer, "number": found.number, "revoked": len(found.revoked)}
                    self._log.info(Event.REVOCATIONS_TAKEN, **about, next_update=utc(found.next_update))
                    self._audit(AuditEvent.REVOKED, **about)
                await self._use(replace(loaded, trust=trust, notes=()))
        return problems
