"""A node's next certificate, while the one that it has is still good: a new key, a request, and the answer checked before use.

Two thirds of a certificate's life are before its renewal, and up to a twentieth more, so that nodes made together do not ask
together. While the authority is away the node tries again and again and warns; when the certificate ends it has to stop.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from mpc.errors import CohortiumError, IdentityError, RevokedError
from nodes.log import Event, Logger
from nodes.metrics import Registry
from nodes.upkeep import Source
from pki.certificate import read, utc
from pki.node import NodeKey, check_node_key
from pki.profile import renewal_time
from pki.request import make_request
from pki.trust import TrustStore

LOOK_SECONDS = 60.0
"""At the most between two looks at the clock, which may have been set meanwhile."""
_SHORTEST_LOOK = 0.05
_SPREAD = 20
_LONGEST_PAUSE = 3600.0
_SHORTEST_PAUSE = 10.0
_TRIES = 20
"""A failure is followed by a pause of at most this part of the time that is left."""
_DAY = 86_400.0
_MOST_AHEAD = 3600
"""Seconds for which a new certificate is waited for whose time has not come: the authority's clock is ahead of this one's."""


class Renewal:
    """Looks after one node's certificate. `adopt` keeps a new pair and uses it, or raises CohortiumError and does neither."""

    def __init__(
        self,
        source: Source | None,
        *,
        current: Callable[[], NodeKey],
        trust: Callable[[], TrustStore],
        adopt: Callable[[NodeKey], Awaitable[None]],
        metrics: Registry,
        log: Logger,
    ) -> None:
        self._source = source
        self._current = current
        self._trust = trust
        self._adopt = adopt
        self._log = log
        self._done = metrics.counter("cohortium_renewals_total", "Renewals of this node's certificate, by outcome.", ("outcome",))
        self._of: NodeKey | None = None
        """Whose renewal is planned."""
        self._next = 0.0
        """When something is to be done about it, Unix seconds."""
        self._renewed = 0.0
        self._early: NodeKey | None = None
        """A new pair whose time has not come."""
        self.trouble = ""
        """Why the last attempt failed; empty when it did not."""

    async def step(self) -> None:
        """Does what is due now. Raises IdentityError when the node cannot go on: its certificate has ended, or was revoked."""
        self.check()
        now, node = time.time(), self._current()
        if self._of is not node:
            self._of, self._next = node, max(_due(node), self._renewed + _LONGEST_PAUSE)
        if now < self._next:
            return
        left = node.credential.not_after - now
        until = utc(node.credential.not_after)
        if self._source is None:
            self._next = now + _DAY
            self._log.warning(
                Event.CERTIFICATE_ENDING,
                until=until,
                reason="nobody renews it: name the node that does under 'authority', or put a new key and certificate in place",
            )
            return
        try:
            fresh = self._early or await self._fetch(self._source, node)
            begins = fresh.credential.not_before
            if now < begins:
                self._early, self._next = fresh, float(begins)
                self._log.warning(Event.CLOCK_BEHIND, seconds=round(begins - now), reason="the new certificate is not valid yet")
                return
            self._early = None
            await self._adopt(fresh)
        except CohortiumError as error:
            pause = max(_SHORTEST_PAUSE, min(_LONGEST_PAUSE, left / _TRIES)) * random.uniform(0.5, 1.0)  # noqa: S311  (no secret)
            self._next = now + pause
            self.trouble = str(error)
            self._done.inc(outcome="failed")
            self._log.warning(Event.RENEWAL_FAILED, until=until, again_in=round(pause), reason=str(error))
            return
        self._renewed, self.trouble = now, ""
        self._done.inc(outcome="renewed")

    def pause(self) -> float:
        """Seconds until the next step."""
        ends = self._current().credential.not_after + 1
        return max(_SHORTEST_LOOK, min(LOOK_SECONDS, min(self._next, ends) - time.time()))

    def check(self) -> None:
        """Raises IdentityError as `step` does. That a certificate's time has not come is for `not_ready` to say."""
        now, node = time.time(), self._current()
        try:
            self._trust().whatever_age().verify(node.chain, now)
        except RevokedError:
            raise
        except IdentityError as error:
            if now > node.credential.not_after:
                why = f"; it could not be renewed: {self.trouble}" if self.trouble else ""
                raise IdentityError(f"{error}{why}") from error

    async def _fetch(self, source: Source, node: NodeKey) -> NodeKey:
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.load_pem_x509_csr(make_request(key, node.identity.name)).public_bytes(Encoding.DER)
        answer = await source.renew(request)
        try:
            chain = tuple(one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(answer))
        except ValueError as error:
            raise IdentityError("what came back is no certificate; see who answers as the authority's node") from error
        now, begins = time.time(), float(read(chain[0]).not_before)
        at = begins if now < begins <= now + _MOST_AHEAD else now
        return check_node_key(key, chain, self._trust().whatever_age(), at, node.identity)


def _due(node: NodeKey) -> float:
    """When this certificate is to be renewed, Unix seconds."""
    leaf = read(node.chain[0])
    return renewal_time(leaf) + random.uniform(0, (leaf.not_after - leaf.not_before) / _SPREAD)  # noqa: S311  (no secret)
