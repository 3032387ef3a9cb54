"""What a field of a configuration may hold: names, addresses and numbers, each with the rule that a person is told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from mpc.errors import IdentityError
from mpc.identity import Identity, Role
from nodes.yaml_struct import Problem, checked

_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?):([0-9]{1,5})", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_URL = f"[Hh][Tt][Tt][Pp][Ss]://{_HOST_PORT.pattern}"
_MAX_SOCKET_PATH = 107  # bytes of sun_path on Linux, without the closing zero (unix(7))
RELAY = "relay"
"""In place of a URL: through the relay."""
_NAME_RULE = "use lower-case letters, digits, '.', '-' and '_', at most 63, a letter or digit first and last"


def digest(text: str) -> bytes:
    """The 32 bytes of a Digest."""
    return bytes.fromhex(text.removeprefix("sha256:"))


def address(text: str) -> tuple[str, int]:
    """Host and port of a Listen; the brackets of an IPv6 address are taken off."""
    host, _, port = text.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _has_host_and_port(text: str) -> bool:
    match = _HOST_PORT.fullmatch(text)
    return match is not None and 0 < int(match[2]) < 2**16


def _consortium(text: str) -> Iterator[Problem]:
    try:
        Identity(text, Role.HOSPITAL, "x")
    except IdentityError:
        yield Problem((), f"{text!r} is not a consortium; {_NAME_RULE}")


def _name(text: str) -> Iterator[Problem]:
    try:
        Identity("x", Role.PATIENT, text)
    except IdentityError:
        yield Problem((), f"{text!r} is not a name; {_NAME_RULE}")


def _node(text: str) -> Iterator[Problem]:
    try:
        Identity.parse(f"spiffe://x/{text}")
    except IdentityError:
        yield Problem((), f"{text!r} is not a node; write ROLE/NAME, for instance hospital/general")


def _listen(text: str) -> Iterator[Problem]:
    if not _has_host_and_port(text):
        yield Problem((), f"{text!r} is not HOST:PORT; write for instance 127.0.0.1:7001 or '[::1]:7001'")


def _store_url(text: str) -> Iterator[Problem]:
    if not text.startswith("postgresql://"):
        yield Problem(
            (), "is not a store; write postgresql://USER@HOST/DATABASE, or remove the key for SQLite in the state directory"
        )


def _url(text: str) -> Iterator[Problem]:
    try:
        parts = urlsplit(text)
    except ValueError:
        yield Problem((), "is not a URL; write https://HOST:PORT")
        return
    if "@" in parts.netloc:  # not repeated: a password may stand there
        yield Problem((), "a URL here has no user or password, certificates say who is who; write https://HOST:PORT")
    elif parts.scheme != "https":
        yield Problem((), f"{text!r} is not an https URL; write https://HOST:PORT")
    elif parts.path or parts.query or parts.fragment or text.endswith(("?", "#")):
        yield Problem((), f"{text!r} has a path; write https://HOST:PORT and nothing after the port")
    elif not _has_host_and_port(parts.netloc):
        yield Problem((), f"{text!r} needs a host and a port from 1 to 65535; write https://HOST:PORT")


def _reached(text: str) -> Iterator[Problem]:
    if text != RELAY:
        yield from _url(text)


def _proxy(text: str) -> Iterator[Problem]:
    scheme, _, rest = text.partition("://")
    if "@" in rest:  # not repeated: a password may stand there
        yield Problem((), "a proxy here has no user or password; write http://HOST:PORT")
    elif scheme != "http" or not _has_host_and_port(rest):
        yield Problem((), f"{text!r} is not a proxy; write http://HOST:PORT")


def _endpoints(urls: Mapping[str, str]) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for name, url in urls.items():
        if url == RELAY:
            continue
        other = first.setdefault(url.lower(), name)
        if other != name:
            yield Problem((name,), f"has the same URL as {other}; every node listens on its own")


def _socket(path: Path) -> Iterator[Problem]:
    if len(bytes(path)) > _MAX_SOCKET_PATH:
        yield Problem((), f"is longer than the {_MAX_SOCKET_PATH} bytes that a Unix socket may have; shorten the path")


def _digest(text: str) -> Iterator[Problem]:
    if _DIGEST.fullmatch(text) is None:
        yield Problem((), "is not a digest; write sha256: and the 64 hex digits that 'cohortium pki show' prints")


def _whole(pattern: str) -> str:
    """For a JSON schema, whose patterns may match anywhere."""
    return f"^(?:{pattern})$"


Consortium = Annotated[str, checked(_consortium)]
"""The trust domain of every name in it."""
Name = Annotated[str, checked(_name)]
"""A node's name within its consortium."""
NodeName = Annotated[str, checked(_node)]
"""ROLE/NAME of a node of the same consortium."""
Listen = Annotated[str, checked(_listen, pattern=_whole(_HOST_PORT.pattern))]
"""HOST:PORT to listen on; see `address`."""
Url = Annotated[str, checked(_url, pattern=_whole(_URL))]
"""https://HOST:PORT and nothing more."""
Endpoints = Annotated[dict[Name, Url], checked(_endpoints)]
"""Where nodes are reached; no two at the same place."""
Places = Annotated[dict[Name, Annotated[str, checked(_reached, pattern=_whole(f"{_URL}|{RELAY}"))]], checked(_endpoints)]
"""As Endpoints, or RELAY for a node behind the relay."""
Proxy = Annotated[str, checked(_proxy, pattern=_whole(f"http://{_HOST_PORT.pattern}"))]
"""http://HOST:PORT of an HTTP proxy."""
SocketPath = Annotated[Path, checked(_socket)]
"""Of a Unix socket."""
Digest = Annotated[str, checked(_digest, pattern=_whole(_DIGEST.pattern))]
"""`sha256:` and the SHA-256 of a certificate, or of a public key, in DER, in lower-case hex; see `digest`."""
StoreUrl = Annotated[str, checked(_store_url, pattern="^postgresql://")]
"""A PostgreSQL database; it may hold a password, so it is never repeated in a message."""
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
