"""What a hospital or a patient is told about itself: YAML files into frozen typed structs, checked as a whole.

`check_hospital` and `check_patient` list every problem at once. Whether keys and certificates are good is asked when
they are loaded (`pki`), not here.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import fields
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from mpc.errors import ConfigError, IdentityError, StudyError, UsageError
from mpc.identity import Identity, Role
from mpc.statistics import FAMILIES
from mpc.study import MAX_RECORDS, MINIMUM_COHORT
from nodes.fields import (
    RELAY,
    Consortium,
    Digest,
    Endpoints,
    Listen,
    Name,
    Places,
    Positive,
    Proxy,
    SocketPath,
    StoreUrl,
    Text,
    Url,
    address,
)
from nodes.sources import SourceConfig
from nodes.sources.base import entry
from nodes.sources.literal import LiteralValues
from nodes.studies import load_studies
from nodes.transport.limits import Limits
from nodes.yaml_struct import Problem, checked, examine, load


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of what a configuration holds."""


class IdentityFiles(_Struct, frozen=True, kw_only=True):
    """The node's key, its certificate, and the authorities that it trusts, all PEM."""

    key: Path
    certificate: Path
    authorities: Annotated[tuple[Path, ...], msgspec.Meta(min_length=1)]


class LogConfig(_Struct, frozen=True, kw_only=True):
    """What is logged, and how: `auto` is console on a terminal and JSON lines otherwise."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class HealthConfig(_Struct, frozen=True, kw_only=True):
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


class _DaemonConfig(_Struct, frozen=True, kw_only=True):
    """What every daemon is told."""

    consortium: Consortium
    name: Name
    identity: IdentityFiles
    admin: SocketPath
    """Unix socket of the local API."""
    limits: Annotated[Limits, checked(_positive_limits)] = Limits()
    log: LogConfig = LogConfig()
    health: HealthConfig | None = None
    state: Path = Path("state")
    """Directory of what the daemon keeps: the store and the keys of open rounds."""
    store: StoreUrl | None = None
    """postgresql://... instead of SQLite in `state`."""
    shutdown_timeout: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 15
    """Seconds that what is under way gets when the daemon is told to stop."""


class RelayAddress(_Struct, frozen=True, kw_only=True):
    """The relay that a node posts to and fetches from."""

    name: Name
    url: Url

    @property
    def endpoint(self) -> str:
        """What a node behind it announces: relay://NAME@HOST:PORT."""
        return f"relay://{self.name}@{self.url.removeprefix('https://')}"


class _NodeConfig(_DaemonConfig, frozen=True, kw_only=True):
    """What hospitals and patients are told."""

    relay: RelayAddress | None = None
    storage_key: Path = Path("storage.key")
    """What seals the store; made when a new node starts. Keep a copy, and not beside `state`."""
    keep_days: Positive = 365
    """Age at which rounds that have ended, their results and the lines of the ledger are erased."""


class HospitalConfig(_NodeConfig, frozen=True, kw_only=True):
    """A hospital: which studies it runs, and where the patients are."""

    listen: Listen
    studies: Path
    """Directory of *.yaml."""
    retries: Annotated[int, msgspec.Meta(ge=0, le=10)] = 1
    """How often a round that failed before anything was collected is opened again without those who failed it."""
    patients: Annotated[Places, msgspec.Meta(min_length=1)]
    """Where each is reached: its URL, or `relay`."""

    @property
    def place(self) -> str:
        """Where it takes messages, for people."""
        return self.listen

    def behind_relay(self, patient: str) -> bool:
        """Whether this patient is reached through the relay."""
        return self.patients.get(patient) == RELAY

    def endpoint(self, patient: str, announced: str) -> str:
        """Where to send what is for this patient."""
        place = self.patients.get(patient, announced)
        return self.relay.endpoint if place == RELAY and self.relay is not None else place

    def problems(self) -> Iterator[Problem]:
        """Who is behind a relay needs one."""
        behind = [name for name, place in self.patients.items() if place == RELAY]
        if behind and self.relay is None:
            yield Problem(
                ("patients", behind[0]), "is behind a relay, but none is named; add relay: {name: ..., url: https://...}"
            )


class HospitalAddress(_Struct, frozen=True, kw_only=True):
    """The one hospital that a patient answers."""

    name: Name
    url: Url | None = None
    """Not needed behind a relay."""


class Vouched(_Struct, frozen=True, kw_only=True):
    """Which members count towards the floor."""

    members: tuple[Name, ...] = ()
    """Known to this patient to be real."""
    authorities: tuple[Digest, ...] = ()
    """Independent of the hospital: whoever they certify is real."""

    def problems(self) -> Iterator[Problem]:
        """Somebody must be vouched for."""
        if not self.members and not self.authorities:
            yield Problem(
                (),
                "names nobody, so a hospital that issues certificates could invent the other members and learn this "
                "patient's value; list members that you know to be real, or authorities independent of the hospital",
            )

    def digests(self) -> frozenset[bytes]:
        """SHA-256 of each vouched authority's DER, as `Credential.authority` has it."""
        return frozenset(bytes.fromhex(digest.removeprefix("sha256:")) for digest in self.authorities)


def _statistic(pattern: str) -> Iterator[Problem]:
    if not fnmatch.filter(FAMILIES, pattern):
        yield Problem((), f"matches no statistic; there are {', '.join(FAMILIES)}")


class Policy(_Struct, frozen=True, kw_only=True):
    """What this patient takes part in. All of it is decided without looking at a value."""

    studies: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)] = ("*",)
    """Patterns (as in a shell) for the ids of studies."""
    statistics: Annotated[tuple[Annotated[Text, checked(_statistic)], ...], msgspec.Meta(min_length=1)] = ("*",)
    """Patterns for the kinds of statistics."""
    records: Annotated[int, msgspec.Meta(ge=1, le=MAX_RECORDS)] = 1
    """The most records that its sources hold: 1 is a person. A study that takes fewer is declined."""
    floor: Annotated[int, msgspec.Meta(ge=MINIMUM_COHORT)] = MINIMUM_COHORT
    """The fewest vouched members, this patient among them."""
    vouched: Vouched
    max_length: Positive = 2_000_000
    """Elements of all vectors of one round."""
    max_members: Annotated[int, msgspec.Meta(ge=MINIMUM_COHORT)] = 1000
    max_open_rounds: Positive = 16
    max_seconds: Positive = 7 * 24 * 3600
    """From an invitation to the deadline of its round."""
    invitations_per_minute: Positive = 60


class PatientConfig(_NodeConfig, frozen=True, kw_only=True):
    """A patient: whom it answers, what it holds, what it consents to."""

    topology: Literal["direct", "relay"] = "direct"
    """`relay`: no listener; all mail goes through the relay, on connections that this node opens."""
    listen: Listen | None = None
    endpoint: Url | None = None
    proxy: Proxy | None = None
    """HTTP proxy on the way to the relay."""
    hospital: HospitalAddress
    peers: Endpoints = msgspec.field(default_factory=dict)
    """Addresses that override what members announce."""
    sources: dict[Text, SourceConfig] = msgspec.field(default_factory=dict)
    """By the name that studies have for the variable."""
    policy: Policy

    @property
    def url(self) -> str:
        """Where others reach this patient: the relay, or `endpoint`, or else the address that it listens on."""
        if self.topology == "relay":
            assert self.relay is not None, "`problems` asks for it"
            return self.relay.endpoint
        return self.endpoint or f"https://{self.listen}"

    @property
    def place(self) -> str:
        """Where it takes messages, for people."""
        return self.listen or self.url

    @property
    def hospital_url(self) -> str:
        """Where this patient reaches its hospital."""
        return self.hospital.url or self.url

    def problems(self) -> Iterator[Problem]:
        """Rules between the fields."""
        yield from self._relay_problems() if self.topology == "relay" else self._direct_problems()
        vouched = self.policy.vouched
        known = len({self.name, *vouched.members})
        if not vouched.authorities and known < self.policy.floor:
            yield Problem(
                ("policy", "vouched", "members"),
                f"vouches for {known} members with this patient but the floor is {self.policy.floor}, so it never "
                f"takes part; add members or authorities",
            )

    def _relay_problems(self) -> Iterator[Problem]:
        if self.relay is None:
            yield Problem(("relay",), "is missing, and topology is relay; add relay: {name: ..., url: https://...}")
        for key in ("listen", "endpoint", "peers"):
            if getattr(self, key):
                yield Problem((key,), "has no use behind a relay: everything goes through it; remove the key")

    def _direct_problems(self) -> Iterator[Problem]:
        if self.listen is None:
            yield Problem(("listen",), "is missing; add it (text), HOST:PORT to listen on, or say topology: relay")
        elif self.endpoint is None and _is_wildcard(address(self.listen)[0]):
            yield Problem(
                ("endpoint",),
                "is missing, and 'listen' names every address of this machine, which nobody can connect to; "
                "add endpoint: https://HOST:PORT as others reach this patient",
            )
        if self.proxy is not None:
            yield Problem(("proxy",), "has no use without topology: relay; remove the key")
        if self.hospital.url is None:
            yield Problem(("hospital", "url"), "is missing; write the hospital's https://HOST:PORT, or topology: relay")
        elif self.url.lower() == self.hospital.url.lower():
            yield Problem(("hospital", "url"), "is this patient's own URL; write the hospital's")
        for name, url in self.peers.items():
            if name == self.name:
                yield Problem(("peers", name), "is this patient itself; remove it")
            elif url.lower() in (self.url.lower(), (self.hospital.url or "").lower()):
                owner = "this patient" if url.lower() == self.url.lower() else "the hospital"
                yield Problem(("peers", name), f"has the URL of {owner}; every node listens on its own")


def _is_wildcard(host: str) -> bool:
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False


class RelayQuota(_Struct, frozen=True, kw_only=True):
    """The most that waits at a relay, of one sender and for one recipient each."""

    sender_messages: Positive = 100_000
    sender_bytes: Positive = 1024**3
    recipient_messages: Positive = 100_000
    recipient_bytes: Positive = 1024**3


class RelayConfig(_DaemonConfig, frozen=True, kw_only=True):
    """A relay: it keeps sealed messages for nodes of its consortium until they fetch them."""

    listen: Listen
    recipients: tuple[Text, ...] = ()
    """ROLE/NAME of nodes that have a mailbox before they have ever been here."""
    quota: RelayQuota = RelayQuota()
    max_age_hours: Positive = 7 * 24
    """Messages that nobody fetched for so long are deleted."""

    def problems(self) -> Iterator[Problem]:
        """Who may have a mailbox."""
        for index, name in enumerate(self.recipients):
            try:
                role = Identity.parse(f"spiffe://{self.consortium}/{name}").role
            except IdentityError:
                role = Role.MODEL
            if role not in (Role.HOSPITAL, Role.PATIENT):
                yield Problem(("recipients", index), f"{name!r} is no node with a mailbox; write patient/NAME or hospital/NAME")

    @property
    def place(self) -> str:
        """Where it takes messages, for people."""
        return self.listen

    @property
    def mailboxes(self) -> tuple[Identity, ...]:
        """`recipients` as identities."""
        return tuple(Identity.parse(f"spiffe://{self.consortium}/{name}") for name in self.recipients)


_ROLES: dict[type[_DaemonConfig], Role] = {
    HospitalConfig: Role.HOSPITAL,
    PatientConfig: Role.PATIENT,
    RelayConfig: Role.RELAY,
}


def identity_of(config: HospitalConfig | PatientConfig | RelayConfig) -> Identity:
    """The name that the node's certificate must carry."""
    return Identity(config.consortium, _ROLES[type(config)], config.name)


def check_hospital(path: Path) -> HospitalConfig:
    """The hospital's configuration. Raises ConfigError that lists every problem of it and of its studies."""
    found = examine(path, HospitalConfig)
    problems = list(found.problems)
    if "studies" in found.fields and "consortium" in found.fields:
        try:
            load_studies(found.fields["studies"], found.fields["consortium"], found.fields.get("patients"))
        except StudyError as error:
            problems.append(str(error))
    if found.value is None or problems:
        raise ConfigError("\n".join(problems))
    return _placed(found.value, path)


def check_patient(path: Path) -> PatientConfig:
    """The patient's configuration. Raises ConfigError that lists every problem."""
    return _placed(load(path, PatientConfig), path)


def check_relay(path: Path) -> RelayConfig:
    """The relay's configuration. Raises ConfigError that lists every problem."""
    config = load(path, RelayConfig)
    return msgspec.structs.replace(config, state=path.resolve().parent / config.state)


def admin_of(path: Path) -> Path:
    """The admin socket that a daemon's configuration names. Raises ConfigError that says why there is none."""
    found = examine(path, HospitalConfig)
    admin = found.fields.get("admin")
    if not isinstance(admin, Path):
        raise ConfigError("\n".join(text for text in found.problems if "admin" in text) or f"{path}: names no admin socket")
    return admin


def with_values(config: PatientConfig, given: Sequence[str]) -> PatientConfig:
    """The configuration with literals, `[VARIABLE=]VALUE`, in place of the sources of these variables.

    Raises UsageError for an unknown variable, a missing one where there are several, or what is no such value.
    """
    sources = dict(config.sources)
    for text in given:
        name, _, spelt = text.rpartition("=")
        if not name and len(sources) == 1:
            (name,) = sources
        if name not in sources:
            raise UsageError(f"--value: say VARIABLE=VALUE with one of the configured sources, {', '.join(sources) or 'none'}")
        try:
            value = entry(sources[name].declared, spelt)
        except ValueError as error:
            raise UsageError(f"--value: {name}: {error}") from None
        if value is None:
            raise UsageError(f"--value: {name}: is empty")
        sources[name] = msgspec.structs.replace(sources[name], literal=LiteralValues(value), csv=None, synthetic=None)
    return msgspec.structs.replace(config, sources=sources)


C = TypeVar("C", bound=_NodeConfig)


def _placed(config: C, path: Path) -> C:
    """Defaults that are paths lie beside the file, as those do that it gives."""
    here = path.resolve().parent
    return msgspec.structs.replace(config, state=here / config.state, storage_key=here / config.storage_key)
