"""A whole consortium from one command: an authority, and for each node the directory with which it starts.

    OUT/root/        the root's key: needed again only when the authority below it ends or is stolen; to be locked away
    OUT/NAME/        one node's directory (see `kit`), or OUT/NAME.tar

One node holds the authority that issues, and renews everybody's certificate: the relay where there is one, which every node
reaches, and otherwise the hospital. With `enroll` only that one gets its key here; the others get a token each, and make theirs.
"""

from __future__ import annotations

import ipaddress
import shutil
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mpc.errors import IdentityError, UsageError
from mpc.identity import Identity, Role
from mpc.study import MINIMUM_COHORT
from nodes.enrolment.kit import (
    AUTHORITY,
    CERTIFICATE,
    KEY,
    PORTS,
    ROOT,
    TOKEN,
    Place,
    Plan,
    listen_at,
    write_kit,
)
from nodes.fields import RELAY, address
from pki.authority import Authority
from pki.files import PRIVATE, is_there, make_directory, sync_directory, write_certificates, write_file

ROOT_DIRECTORY = "root"


@dataclass(frozen=True, slots=True)
class Member:
    """A node, and where others reach it."""

    identity: Identity
    host: str
    port: int

    @classmethod
    def parse(cls, consortium: str, role: Role, text: str, domain: str = "") -> Member:
        """NAME[@HOST[:PORT]]; a host is NAME, in `domain` if there is one, and a port the role's. Raises UsageError."""
        name, _, place = text.partition("@")
        try:
            identity = Identity(consortium, role, name)
        except IdentityError as error:
            raise UsageError(str(error)) from error
        host = place or (f"{name}.{domain}" if domain else name)
        port = PORTS[role]
        if place.startswith("[") or place.count(":") == 1:
            try:
                host, port = address(place)
            except ValueError:
                raise UsageError(f"{text!r}: write NAME@HOST:PORT, with [] around an IPv6 address") from None
        if not 0 < port < 2**16:
            raise UsageError(f"{text!r}: a port is a number from 1 to 65535")
        return cls(identity, host, port)

    @property
    def url(self) -> str:
        """https://HOST:PORT."""
        return self.at(self.port)

    def at(self, port: int) -> str:
        """https:// and that port of this host."""
        return f"https://[{self.host}]:{port}" if ":" in self.host else f"https://{self.host}:{port}"

    @property
    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(DNS names, addresses) for its certificate."""
        try:
            return (), (str(ipaddress.ip_address(self.host)),)
        except ValueError:
            return (self.host,), ()


@dataclass(frozen=True, slots=True)
class Consortium:
    """Who is to be in it. The constructor raises UsageError when that makes no working consortium."""

    name: str
    hospital: Member
    patients: tuple[Member, ...]
    relay: Member | None
    door: int
    """Port at which the holder of the authority enrols others."""

    def __post_init__(self) -> None:
        if len(self.patients) < MINIMUM_COHORT:
            raise UsageError(f"--patients names {len(self.patients)}; no patient takes part with fewer than {MINIMUM_COHORT}")
        twice = [name for name, count in Counter(member.identity.name for member in self.members).items() if count > 1]
        if twice or ROOT_DIRECTORY in {member.identity.name for member in self.members}:
            raise UsageError(f"{(twice or [ROOT_DIRECTORY])[0]!r} cannot be the name of a node here; each needs one of its own")
        places = Counter([member.url for member in self.members if self.listens(member)] + [self.holder.at(self.door)])
        shared = [url for url, count in places.items() if count > 1]
        if shared:
            raise UsageError(f"two nodes would listen at {shared[0]}; give each a port: NAME@HOST:PORT, or another --door")

    @property
    def members(self) -> tuple[Member, ...]:
        """Everybody, the holder of the authority first."""
        others = () if self.relay is None else (self.relay,)
        return (*others, self.hospital, *self.patients)

    @property
    def holder(self) -> Member:
        """Who holds the authority."""
        return self.relay or self.hospital

    def listens(self, member: Member) -> bool:
        """Whether others connect to it."""
        return member.identity.role is not Role.PATIENT or self.relay is None

    def plan(self, member: Member, root: bytes) -> Plan:
        """What its configuration says. `root` is the digest of the root."""
        identity = member.identity
        plan = Plan(identity, root, url=member.url if self.listens(member) else "")
        if identity.role is not Role.RELAY and self.relay is not None:
            plan = replace(plan, relay=Place(self.relay.identity.name, self.relay.url))
        if member == self.holder:
            plan = replace(plan, door=listen_at(member.host, self.door))
        elif identity.role is not Role.PATIENT:
            plan = replace(plan, service=self.holder.identity, service_url=self.holder.url)
        match identity.role:
            case Role.PATIENT:
                vouched = tuple(patient.identity.name for patient in self.patients)
                return replace(plan, hospital=Place(self.hospital.identity.name, self.hospital.url), vouched=vouched)
            case Role.HOSPITAL:
                return replace(plan, patients={p.identity.name: p.url if self.listens(p) else RELAY for p in self.patients})
            case _:
                return plan


def found(consortium: Consortium, out: Path, now: float, *, enroll: int | None, tar: bool) -> list[Path]:
    """Makes it all in the new directory `out`, which appears complete or not at all. Returns what is in it.

    `now` is Unix seconds; `enroll` is how many seconds tokens are good for, None: keys are made here. Raises UsageError and
    IdentityError.
    """
    if is_there(out):
        raise UsageError(f"{out} exists already; name a directory with --out that does not, so that no key is overwritten")
    building = out.with_name(f".{out.name}.new")
    shutil.rmtree(building, ignore_errors=True)  # of a run that was cut off: nobody has used anything of it
    make_directory(building)
    try:
        made = [ROOT_DIRECTORY, *_write(consortium, building, now, enroll)]
        if tar:
            for name in made[1:]:
                _pack(building / name)
            made[1:] = [f"{name}.tar" for name in made[1:]]
        building.rename(out)
        sync_directory(out.parent)
    except OSError as error:
        raise IdentityError(f"cannot make {out}: {error.strerror}") from error
    return [out / name for name in made]


def _write(consortium: Consortium, out: Path, now: float, enroll: int | None) -> list[str]:
    root = Authority.create(out / ROOT_DIRECTORY, consortium.name, now)
    holder = out / consortium.holder.identity.name
    make_directory(holder)
    authority = Authority.create_below(root, holder / AUTHORITY, now)
    for member in consortium.members:
        directory = out / member.identity.name
        make_directory(directory)
        dns, ips = member.names if consortium.listens(member) else ((), ())
        write_certificates(directory / ROOT, [root.root.x509], force=False)
        if enroll is None or member == consortium.holder:
            files = authority.issue_node(member.identity, dns, ips, now, out=directory)
            _rename(files.key, KEY)
            _rename(files.certificate, CERTIFICATE)
        else:
            token = authority.grant(
                member.identity,
                dns,
                ips,
                now,
                seconds=enroll,
                service=consortium.holder.identity,
                address=consortium.holder.at(consortium.door),
            )
            write_file(directory / TOKEN, token.encode().encode() + b"\n", mode=PRIVATE, force=False)
        write_kit(consortium.plan(member, root.root.digest), directory)
    return [member.identity.name for member in consortium.members]


def _rename(path: Path, name: str) -> None:
    path.rename(path.with_name(name))


def _pack(directory: Path) -> None:
    """NAME.tar in place of the directory NAME: for the owner alone, because keys are in it."""
    packed = directory.with_name(f"{directory.name}.tar")
    packed.touch(mode=PRIVATE)
    with tarfile.open(packed, "w") as tar:
        tar.add(directory, directory.name, filter=_anonymous)
    shutil.rmtree(directory)


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Whoever unpacks it owns it."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def parse_patients(consortium: str, text: Sequence[str], domain: str) -> tuple[Member, ...]:
    """`a,b@host,c@host:port`, perhaps several times. Raises UsageError."""
    return tuple(Member.parse(consortium, Role.PATIENT, one.strip(), domain) for part in text for one in part.split(",") if one)
