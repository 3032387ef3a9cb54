"""Pins: what is known beforehand of authorities and nodes, by digest. What differs from it is refused, whoever has signed it.

There is no trust at first use: without a pin a certificate is good because an authority of the configuration has signed it, with
one it must be this very certificate, or of this very key, besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mpc.errors import IdentityError
from mpc.identity import Identity
from pki.certificate import Certificate, brief
from pki.request import key_digest
from pki.show import fingerprint


@dataclass(frozen=True, slots=True)
class Pins:
    """SHA-256 digests. Without any, whatever is given is good."""

    authorities: frozenset[bytes] = frozenset()
    """Of the DER of root certificates; empty: any root."""
    nodes: Mapping[Identity, frozenset[bytes]] = field(default_factory=lambda: MappingProxyType({}))
    """Of the DER of a node's certificate or of its public key (SubjectPublicKeyInfo): one of them must be there."""

    def check_authority(self, root: Certificate) -> None:
        """Raises IdentityError for a root that is not pinned."""
        if self.authorities and root.digest not in self.authorities:
            raise IdentityError(
                f"the authority {brief(root.subject)} is {fingerprint(root.digest)}, which 'trust.authorities' does not name; "
                f"ask who runs the authority for the digest that 'cohortium pki show ca.crt' prints there: if it is this one, "
                f"add it, and if not, this is another authority's file"
            )

    def check_node(self, identity: Identity, certificate: Certificate) -> None:
        """Raises IdentityError for the certificate of a node that is pinned to another certificate and key."""
        pinned = self.nodes.get(identity)
        if pinned is None:
            return
        key = key_digest(certificate.public_key)
        if pinned.isdisjoint({certificate.digest, key}):
            raise IdentityError(
                f"the certificate of {identity} is {fingerprint(certificate.digest)} and its key {fingerprint(key)}, and "
                f"'trust.nodes' names neither; if that node was given a new key, ask who runs it for the digests that "
                f"'cohortium pki show' prints there, and add one"
            )
