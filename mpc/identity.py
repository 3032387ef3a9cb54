"""Who a node is: its name, and the credential that proves it.

A name is `spiffe://CONSORTIUM/ROLE/NAME` and nothing else (SPIFFE-ID section 2: the trust domain is the consortium). The
common name, DNS names and addresses of a certificate are never read as a name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from mpc.errors import IdentityError

# The trust domain: lower-case letters, digits, dots, dashes, underscores (SPIFFE-ID section 2.1).
_CONSORTIUM = r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?"
# A path segment; "." and ".." cannot occur because the first and the last character are letters or digits.
_NAME = r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?"
_URI = re.compile(rf"spiffe://(?P<consortium>{_CONSORTIUM})/(?P<role>[a-z]+)/(?P<name>{_NAME})", re.ASCII)


class Role(StrEnum):
    """What a certificate allows its holder to do."""

    HOSPITAL = "hospital"
    PATIENT = "patient"
    RELAY = "relay"
    MODEL = "model"


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """One node's name. Ordered as its URI is, which is the order of a roster."""

    consortium: str
    role: Role
    name: str
    uri: str = field(init=False, repr=False, compare=False)
    """`spiffe://CONSORTIUM/ROLE/NAME`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", f"spiffe://{self.consortium}/{self.role}/{self.name}")
        if _URI.fullmatch(self.uri) is None:
            raise IdentityError(
                f"{self.uri!r} is not a name: use lower-case letters, digits, '.', '-' and '_', "
                f"at most 63 of them, a letter or digit first and last"
            )

    def __hash__(self) -> int:
        return hash(self.uri)

    def __str__(self) -> str:
        return self.uri

    @classmethod
    def parse(cls, uri: str) -> Identity:
        """The identity that `uri` spells. Raises IdentityError when it is not `spiffe://CONSORTIUM/ROLE/NAME`."""
        return _parse(uri)


@lru_cache(maxsize=4096)  # every message names two, and they are few
def _parse(uri: str) -> Identity:
    match = _URI.fullmatch(uri)
    if match is None:
        raise IdentityError(f"{uri!r} is not an identity; it must read spiffe://CONSORTIUM/ROLE/NAME")
    if match["role"] not in set(Role):
        raise IdentityError(f"{uri!r} names no known role; roles are {', '.join(Role)}")
    return Identity(match["consortium"], Role(match["role"]), match["name"])


@dataclass(frozen=True, slots=True)
class Credential:
    """What a verified certificate chain says: this key is that node's, from then to then, vouched for by this authority."""

    identity: Identity
    public_key: ec.EllipticCurvePublicKey = field(compare=False)
    """Of the leaf certificate, so that `digest` stands for it in comparisons."""
    digest: bytes
    """SHA-256 of the leaf certificate's DER."""
    not_before: int
    """Unix seconds; valid from this second on."""
    not_after: int
    """Unix seconds; the last valid second."""
    authority: bytes
    """SHA-256 of the DER of the trusted root that the chain ends in."""


class Trust(Protocol):
    """Verifies certificate chains. `pki.trust` is the real one; `mpc` only asks."""

    def verify(self, chain: tuple[bytes, ...], now: float) -> Credential:
        """`chain` is DER, leaf first, without the root. Raises IdentityError when it does not end in a trusted root."""
        ...
