"""The certificates that a node has verified, by digest, so that a message can name its signer's instead of carrying it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mpc.errors import IdentityError, RevokedError
from mpc.identity import Credential, Trust

_CAPACITY = 4096


@dataclass(frozen=True, slots=True)
class _Known:
    credential: Credential
    chain: tuple[bytes, ...] = field(repr=False)


class Credentials:
    """Remembers verified credentials, the least recently used forgotten first.

    Whoever was verified once is asked about again at each use: a certificate can end, and can be revoked.
    """

    def __init__(self, trust: Trust, past: Trust | None = None) -> None:
        """`past` believes as `trust` does, but whom it believes now it has never heard revoked; `trust` itself if not given."""
        self._trust = trust
        self._past = past or trust
        self._known: OrderedDict[bytes, _Known] = OrderedDict()

    def learn(self, chain: tuple[bytes, ...], now: float) -> Credential:
        """Verifies a DER chain, leaf first, and remembers it. Raises IdentityError when it is not trusted at `now`."""
        # The whole chain each time: others will be shown it as it is. The trust store remembers chains that held.
        credential = self._trust.verify(chain, now)
        self._known[credential.digest] = _Known(credential, chain)
        if len(self._known) > _CAPACITY:
            self._known.popitem(last=False)
        return credential

    def replace_trust(self, trust: Trust, authorities: frozenset[bytes], past: Trust | None = None) -> None:
        """Believes `trust` from now on; `authorities` are the SHA-256 digests of its roots, `past` as for the constructor.

        What they vouch for stays known, so that rounds under way go on; the rest is forgotten.
        """
        self._trust, self._past = trust, past or trust
        for digest in [digest for digest, known in self._known.items() if known.credential.authority not in authorities]:
            del self._known[digest]

    def find(self, digest: bytes, now: float) -> Credential | None:
        """The credential of the certificate with this SHA-256 digest, if known. Raises IdentityError when it is good no more."""
        known = self._known.get(digest)
        if known is None:
            return None
        self._trust.verify(known.chain, now)
        self._known.move_to_end(digest)
        return known.credential

    def revoked(self, credential: Credential, now: float) -> bool:
        """Whether a certificate that was learned has been revoked since. Not whether it is good otherwise."""
        try:
            self.find(credential.digest, now)
        except RevokedError:
            return True
        except IdentityError:
            pass
        return False

    @contextmanager
    def in_the_past(self) -> Iterator[None]:
        """Inside, nobody is revoked: a round that is rebuilt takes again what it took then. Ask `revoked` afterwards."""
        trust, self._trust = self._trust, self._past
        try:
            yield
        finally:
            self._trust = trust
