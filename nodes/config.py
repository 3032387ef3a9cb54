"""What a hospital or a patient is told about itself: YAML files into frozen typed structs, checked as a whole.

`check_hospital` and `check_patient` list every problem at once. Whether keys and certificates are good is asked when
they are loaded (`pki`), not here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from mpc.errors import ConfigError, StudyError, UsageError
from mpc.identity import Identity, Role
from mpc.study import MINIMUM_COHORT
from nodes.fields import Consortium, Digest, Endpoints, Listen, Name, Positive, SocketPath, Text, Url, address
from nodes.sources import SourceConfig
from nodes.sources.base import integer
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


def _positive_limits(limits: Limits) -> Iterator[Problem]:
    for limit in fields(limits):
        if getattr(limits, limit.name) <= 0:
            yield Problem((limit.name,), "must be positive; remove the key for the default")


class _NodeConfig(_Struct, frozen=True, kw_only=True):
    """What every daemon is told."""

    consortium: Consortium
    name: Name
    identity: IdentityFiles
    listen: Listen
    admin: SocketPath
    """Unix socket of the local API."""
    limits: Annotated[Limits, checked(_positive_limits)] = Limits()
    log: LogConfig = LogConfig()


class HospitalConfig(_NodeConfig, frozen=True, kw_only=True):
    """A hospital: which studies it runs, and where the patients are."""

    studies: Path
    """Directory of *.yaml."""
    patients: Annotated[Endpoints, msgspec.Meta(min_length=1)]


class HospitalAddress(_Struct, frozen=True, kw_only=True):
    """The one hospital that a patient answers."""

    name: Name
    url: Url


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


class Policy(_Struct, frozen=True, kw_only=True):
    """What this patient takes part in. All of it is decided without looking at a value."""

    studies: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)] = ("*",)
    """Patterns (as in a shell) for the ids of studies."""
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

    endpoint: Url | None = None
    hospital: HospitalAddress
    peers: Endpoints = msgspec.field(default_factory=dict)
    """Addresses that override what members announce."""
    sources: dict[Text, SourceConfig] = msgspec.field(default_factory=dict)
    """By the name that studies have for the variable."""
    policy: Policy

    @property
    def url(self) -> str:
        """Where others reach this patient: `endpoint`, or else the address that it listens on."""
        return self.endpoint or f"https://{self.listen}"

    def problems(self) -> Iterator[Problem]:
        """Rules between the fields."""
        if self.endpoint is None and _is_wildcard(address(self.listen)[0]):
            yield Problem(
                ("endpoint",),
                "is missing, and 'listen' names every address of this machine, which nobody can connect to; "
                "add endpoint: https://HOST:PORT as others reach this patient",
            )
        if self.url.lower() == self.hospital.url.lower():
            yield Problem(("hospital", "url"), "is this patient's own URL; write the hospital's")
        for name, url in self.peers.items():
            if name == self.name:
                yield Problem(("peers", name), "is this patient itself; remove it")
            elif url.lower() in (self.url.lower(), self.hospital.url.lower()):
                owner = "this patient" if url.lower() == self.url.lower() else "the hospital"
                yield Problem(("peers", name), f"has the URL of {owner}; every node listens on its own")
        vouched = self.policy.vouched
        known = len({self.name, *vouched.members})
        if not vouched.authorities and known < self.policy.floor:
            yield Problem(
                ("policy", "vouched", "members"),
                f"vouches for {known} members with this patient but the floor is {self.policy.floor}, so it never "
                f"takes part; add members or authorities",
            )


def _is_wildcard(host: str) -> bool:
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False


def identity_of(config: HospitalConfig | PatientConfig) -> Identity:
    """The name that the node's certificate must carry."""
    role = Role.HOSPITAL if isinstance(config, HospitalConfig) else Role.PATIENT
    return Identity(config.consortium, role, config.name)


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
    return found.value


def check_patient(path: Path) -> PatientConfig:
    """The patient's configuration. Raises ConfigError that lists every problem."""
    return load(path, PatientConfig)


def admin_of(path: Path) -> Path:
    """The admin socket that a daemon's configuration names. Raises ConfigError that says why there is none."""
    found = examine(path, HospitalConfig)
    admin = found.fields.get("admin")
    if not isinstance(admin, Path):
        raise ConfigError("\n".join(text for text in found.problems if "admin" in text) or f"{path}: names no admin socket")
    return admin


def with_values(config: PatientConfig, given: Sequence[str]) -> PatientConfig:
    """The configuration with literals, `[VARIABLE=]INTEGER`, in place of the sources of these variables.

    Raises UsageError for an unknown variable, a missing one where there are several, or what is no integer.
    """
    sources = dict(config.sources)
    for text in given:
        name, _, number = text.rpartition("=")
        if not name and len(sources) == 1:
            (name,) = sources
        if name not in sources:
            raise UsageError(f"--value: say VARIABLE=INTEGER with one of the configured sources, {', '.join(sources) or 'none'}")
        try:
            value = integer(number)
        except ValueError as error:
            raise UsageError(f"--value: {name}: {error}") from None
        sources[name] = SourceConfig(bounds=sources[name].bounds, literal=LiteralValues(value))
    return msgspec.structs.replace(config, sources=sources)
