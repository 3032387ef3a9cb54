"""The certificates that a node has verified, by digest, so that a message can name its signer's instead of carrying it."""

from __future__ import annotations

from collections import OrderedDict

from mpc.identity import Credential, Trust

_CAPACITY = 4096


class Credentials:
    """Remembers verified credentials, the least recently used forgotten first."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._known: OrderedDict[bytes, Credential] = OrderedDict()

    def learn(self, chain: tuple[bytes, ...], now: float) -> Credential:
        """Verifies a DER chain, leaf first, and remembers it. Raises IdentityError when it is not trusted at `now`."""
        # The whole chain each time: others will be shown it as it is. The trust store remembers chains that held.
        credential = self._trust.verify(chain, now)
        self._known[credential.digest] = credential
        if len(self._known) > _CAPACITY:
            self._known.popitem(last=False)
        return credential

    def replace_trust(self, trust: Trust, authorities: frozenset[bytes]) -> None:
        """Believes `trust` from now on; `authorities` are the SHA-256 digests of its roots.

        What they vouch for stays known, so that rounds under way go on; the rest is forgotten.
        """
        self._trust = trust
        for digest in [digest for digest, known in self._known.items() if known.authority not in authorities]:
            del self._known[digest]

    def find(self, digest: bytes, now: float) -> Credential | None:
        """The credential of the certificate with this SHA-256 digest, if known. Raises IdentityError once it has expired."""
        credential = self._known.get(digest)
        if credential is not None:
            credential.check_time(now)
            self._known.move_to_end(digest)
        return credential
