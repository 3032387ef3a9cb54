"""A token lets one node, once and for a while, get a certificate in one name: what it carries, and how it is spelled.

    cohortium1_BASE64URL( fields || first 4 bytes of SHA-256(fields) )

The fields are a MessagePack array. The last bytes are no protection, they find typing errors. Whoever reads the text can use
it, so it is a secret until it is used; the authority itself keeps only `digest`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

import msgspec

from mpc.errors import IdentityError
from mpc.identity import Identity, Role
from pki.certificate import brief

PREFIX = "cohortium1_"
SECRET_BYTES = 32
MAX_TOKEN_CHARACTERS = 2048

_SUM_BYTES = 4
_ADDRESS = re.compile(r"https://(?:[a-z0-9_.-]{1,253}|\[[0-9a-f:.]{2,45}\]):(?P<port>\d{1,5})", re.ASCII | re.IGNORECASE)
_REMEDY = "copy all of it again, or have a new one made with 'cohortium pki token'"


class Fault(StrEnum):
    """Why a token is refused: for logs and counters."""

    UNKNOWN = "unknown"
    USED = "used"
    WITHDRAWN = "withdrawn"
    LATE = "late"
    OTHER_NAME = "other-name"


class TokenRefused(IdentityError):
    """A token that gets no certificate. The text is for the authority's people; a stranger should hear less."""

    def __init__(self, fault: Fault, text: str) -> None:
        super().__init__(text)
        self.fault = fault


class _Fields(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    identity: Annotated[str, msgspec.Meta(max_length=256)]
    service: Annotated[str, msgspec.Meta(max_length=256)]
    address: Annotated[str, msgspec.Meta(max_length=300)]
    root: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    secret: Annotated[bytes, msgspec.Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]

    def __repr__(self) -> str:
        return "_Fields()"


@dataclass(frozen=True, slots=True)
class Token:
    """What a node needs to enrol: who it will be, where to ask, whom it must meet there, and what to say.

    The constructor raises IdentityError when the parts do not fit together.
    """

    identity: Identity
    service: Identity
    """Who answers at `address`, by its certificate: the hospital, or a relay."""
    address: str
    """https://HOST:PORT."""
    root: bytes
    """SHA-256 of the DER of the root that the service's certificate must end in, and that the node will trust."""
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if self.service.role not in {Role.HOSPITAL, Role.RELAY}:
            raise IdentityError(f"{self.service} cannot enrol nodes; name the hospital or a relay, as in hospital/general")
        if self.service.consortium != self.identity.consortium:
            raise IdentityError(f"{self.service} cannot enrol {self.identity}: they are of different consortiums")
        if not _is_address(self.address):
            raise IdentityError(f"{brief(self.address)} is not where a node can enrol; write https://HOST:PORT and nothing more")

    @property
    def digest(self) -> str:
        """What the authority knows the token by: SHA-256 of its secret, hexadecimal."""
        return secret_digest(self.secret)

    def encode(self) -> str:
        """The text that is given to the node's administrator. A secret."""
        fields = _Fields(self.identity.uri, self.service.uri, self.address, self.root, self.secret)
        data = msgspec.msgpack.encode(fields)
        return PREFIX + base64.urlsafe_b64encode(data + _checksum(data)).rstrip(b"=").decode()

    @classmethod
    def parse(cls, text: str) -> Token:
        """The token that `text` spells. Raises IdentityError that does not repeat it."""
        text = text.strip()
        if not text.startswith(PREFIX):
            raise IdentityError(f"this is not a token: one begins with {PREFIX}; {_REMEDY}")
        mistyped = IdentityError(f"the token is mistyped or cut off; {_REMEDY}")
        if len(text) > MAX_TOKEN_CHARACTERS:
            raise mistyped
        body = text.removeprefix(PREFIX)
        try:
            raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        except ValueError:
            raise mistyped from None  # the parsers' own words could quote the secret, so nothing is chained
        data, checksum = raw[:-_SUM_BYTES], raw[-_SUM_BYTES:]
        if checksum != _checksum(data):
            raise mistyped
        try:
            fields = msgspec.msgpack.decode(data, type=_Fields)
        except msgspec.DecodeError:
            raise IdentityError("the token is of a form that this version does not know; use that of the authority") from None
        token = cls(Identity.parse(fields.identity), Identity.parse(fields.service), fields.address, fields.root, fields.secret)
        if token.encode() != text:  # one token, one spelling
            raise mistyped
        return token


def secret_digest(secret: bytes) -> str:
    """SHA-256 of a token's secret, hexadecimal."""
    return hashlib.sha256(secret).hexdigest()


def short(digest: str) -> str:
    """How people and logs name a token: the start of its digest."""
    return digest[:16]


def _checksum(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:_SUM_BYTES]


def _is_address(text: str) -> bool:
    match = _ADDRESS.fullmatch(text)
    return match is not None and 1 <= int(match["port"]) <= 65_535
