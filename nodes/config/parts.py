"""What several roles are told: keys and certificates, log, health, state, the way to the relay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from mpc.identity import Identity
from nodes.fields import Consortium, Digest, Listen, Name, NodeName, Positive, SocketPath, StoreUrl, Url, address, digest
from nodes.transport.limits import Limits
from nodes.yaml_struct import Problem, checked
from pki.pins import Pins


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of what a configuration holds."""


class IdentityFiles(Struct, frozen=True, kw_only=True):
    """The node's key, its certificate, and the authorities that it trusts, all PEM."""

    key: Path
    certificate: Path
    authorities: Annotated[tuple[Path, ...], msgspec.Meta(min_length=1)]


class Trust(Struct, frozen=True, kw_only=True):
    """What is known beforehand of authorities and nodes. What differs is refused; nothing is believed because it came first."""

    authorities: tuple[Digest, ...] = ()
    """All that `identity.authorities` may hold; empty: whatever they hold."""
    nodes: dict[NodeName, Annotated[tuple[Digest, ...], msgspec.Meta(min_length=1)]] = msgspec.field(default_factory=dict)
    """Nodes that must show one of these certificates, or one of these public keys."""

    def pins(self, consortium: str) -> Pins:
        """For `TrustStore`."""
        nodes = {Identity.parse(f"spiffe://{consortium}/{name}"): frozenset(map(digest, of)) for name, of in self.nodes.items()}
        return Pins(frozenset(map(digest, self.authorities)), nodes)


class LogConfig(Struct, frozen=True, kw_only=True):
    """What is logged, and how: `auto` is console on a terminal and JSON lines otherwise."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class HealthConfig(Struct, frozen=True, kw_only=True):
    """Where /healthz, /readyz and /metrics are served without authentication: to programs on this machine alone."""

    listen: Listen | None = None
    socket: SocketPath | None = None

    def problems(self) -> Iterator[Problem]:
        """One place, and none that the network reaches."""
        if (self.listen is None) == (self.socket is None):
            yield Problem((), "give exactly one of listen, a loopback address and port, and socket, a path")
        if self.listen is not None and not _is_loopback(address(self.listen)[0]):
            yield Problem(
                ("listen",),
                f"{self.listen!r} is not a loopback address, and nobody is asked who they are there; "
                f"write 127.0.0.1:PORT or '[::1]:PORT', or name a socket",
            )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a host's name may mean another machine tomorrow
        return False


def _positive_limits(limits: Limits) -> Iterator[Problem]:
    for limit in fields(limits):
        if getattr(limits, limit.name) <= 0:
            yield Problem((limit.name,), "must be positive; remove the key for the default")


class AuthorityAddress(Struct, frozen=True, kw_only=True):
    """The node that renews certificates and has the revocation lists: it holds the authority, or is nearer to it."""

    role: Literal["hospital", "relay"]
    name: Name
    url: Url


class RevocationRules(Struct, frozen=True, kw_only=True):
    """How revocation lists are fetched, and how old they may be."""

    every: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 60
    """Seconds from one question for newer lists to the next."""
    warn_after: Annotated[int, msgspec.Meta(ge=0)] = 24 * 3600
    """Seconds after the time at which a newer list was promised."""
    refuse_after: Annotated[int, msgspec.Meta(ge=0)] = 7 * 24 * 3600
    """The same; then nobody is believed whom that list could have named."""
    file: Path | None = None
    """A list, or several, that an administrator puts there; read at the start and at a reload."""

    def problems(self) -> Iterator[Problem]:
        """First a warning, then the refusal."""
        if self.warn_after > self.refuse_after:
            yield Problem(("warn_after",), f"must not be above refuse_after, which is {self.refuse_after}")


class DaemonConfig(Struct, frozen=True, kw_only=True):
    """What every daemon is told."""

    consortium: Consortium
    name: Name
    identity: IdentityFiles
    trust: Trust = Trust()
    admin: SocketPath
    """Unix socket of the local API."""
    limits: Annotated[Limits, checked(_positive_limits)] = Limits()
    log: LogConfig = LogConfig()
    health: HealthConfig | None = None
    authority: AuthorityAddress | None = None
    """Whom this node asks for its next certificate and for revocation lists. A patient asks its hospital or relay without it."""
    revocation: RevocationRules = RevocationRules()
    state: Path = Path("state")
    """Directory of what the daemon keeps: the store and the keys of open rounds."""
    store: StoreUrl | None = None
    """postgresql://... instead of SQLite in `state`."""
    keep_days: Positive = 365
    """Age at which lines of the audit log are erased, and rounds that have ended with their results."""
    shutdown_timeout: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 15
    """Seconds that what is under way gets when the daemon is told to stop."""


class RelayAddress(Struct, frozen=True, kw_only=True):
    """The relay that a node posts to and fetches from."""

    name: Name
    url: Url

    @property
    def endpoint(self) -> str:
        """What a node behind it announces: relay://NAME@HOST:PORT."""
        return f"relay://{self.name}@{self.url.removeprefix('https://')}"


class EncryptionKeyRules(Struct, frozen=True, kw_only=True):
    """How long an encryption key is used, and how long it is there after that. Seconds."""

    every: Annotated[int, msgspec.Meta(ge=60, le=7 * 24 * 3600)] = 24 * 3600
    """After which rounds are promised a new one."""
    keep: Annotated[int, msgspec.Meta(ge=1, le=7 * 24 * 3600)] = 3600
    """For which an expired one still opens an Invitation that comes through a relay. Open rounds keep theirs longer."""


class NodeConfig(DaemonConfig, frozen=True, kw_only=True):
    """What hospitals and patients are told."""

    relay: RelayAddress | None = None
    storage_key: Path = Path("storage.key")
    """What seals the store; made when a new node starts. Keep a copy, and not beside `state`."""
    encryption_keys: EncryptionKeyRules = EncryptionKeyRules()
