"""What is said at the door, in both directions: JSON, so that any program can say it.

GET  /v1/authority    the root certificate, PEM
POST /v1/enroll       Application -> Welcome
POST /v1/renew        at the node's ordinary listener: PKCS #10, DER -> the certificate chain, PEM
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from nodes.fields import Name, Url
from pki.request import MAX_REQUEST_BYTES
from pki.token import SECRET_BYTES

AUTHORITY_PATH = "/v1/authority"
ENROLL_PATH = "/v1/enroll"
RENEW_PATH = "/v1/renew"
JSON = "application/json"
PEM = "application/x-pem-file"
MAX_APPLICATION = 2 * MAX_REQUEST_BYTES


class Application(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token's secret, the name that it is for, and the new key's request. Its repr shows none of it."""

    identity: Annotated[str, msgspec.Meta(max_length=256)]
    secret: Annotated[bytes, msgspec.Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]
    request: Annotated[str, msgspec.Meta(max_length=MAX_REQUEST_BYTES)]
    """PKCS #10, PEM."""

    def __repr__(self) -> str:
        return "Application()"


class RelayPlace(msgspec.Struct, frozen=True):
    """A relay that others may use."""

    name: Name
    url: Url


class Welcome(msgspec.Struct, frozen=True):
    """A certificate, and what its node needs to know to work with whoever gives it."""

    certificate: str
    """The chain, PEM, leaf first, without the root."""
    port: int
    """Where this node takes messages, on the host at which it was just reached."""
    relay: RelayPlace | None = None
    """The relay that this hospital uses."""
