"""What a patient is told: whom it answers, what it holds, what it takes part in."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Annotated, Literal

import msgspec

from mpc.statistics import FAMILIES
from mpc.study import MAX_RECORDS, MINIMUM_COHORT
from nodes.config.parts import NodeConfig, Struct, Trust
from nodes.fields import Digest, Endpoints, Listen, Name, Positive, Proxy, Text, Url, address, digest
from nodes.sources import SourceConfig
from nodes.yaml_struct import Problem, checked


class HospitalAddress(Struct, frozen=True, kw_only=True):
    """The one hospital that a patient answers."""

    name: Name
    url: Url | None = None
    """Not needed behind a relay."""


class Vouched(Struct, frozen=True, kw_only=True):
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
        return frozenset(map(digest, self.authorities))


def _statistic(pattern: str) -> Iterator[Problem]:
    if not fnmatch.filter(FAMILIES, pattern):
        yield Problem((), f"matches no statistic; there are {', '.join(FAMILIES)}")


class Policy(Struct, frozen=True, kw_only=True):
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


class PatientConfig(NodeConfig, frozen=True, kw_only=True):
    """A patient: whom it answers, what it holds, what it consents to."""

    topology: Literal["direct", "relay"] = "direct"
    """`relay`: no listener; all mail goes through the relay, on connections that this node opens."""
    listen: Listen | None = None
    endpoint: Url | None = None
    proxy: Proxy | None = None
    """HTTP proxy on the way to the relay."""
    trust: Trust
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
        if not self.trust.authorities:
            yield Problem(
                ("trust", "authorities"),
                "is missing; add the digest that who runs the authority reads from 'cohortium pki show ca.crt' (sha256:...)",
            )
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
