"""What a new node's directory holds, so that its daemon can be started: a commented configuration and what goes with it.

    ROLE.yaml       the configuration; what nobody has said yet is a commented line that `--check` asks for
    identity.key, identity.crt, ca.crt
    systemd.conf    a drop-in by which the installed unit runs on this directory
    README          three lines
    studies/        of a hospital

A file that is there is left alone: it may have been changed since.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mpc.identity import Identity, Role
from mpc.study import MINIMUM_COHORT
from nodes.fields import RELAY, address
from pki.files import PRIVATE, PUBLIC, is_there, make_directory, write_file
from pki.show import fingerprint

PORTS = {Role.HOSPITAL: 7000, Role.PATIENT: 7001, Role.RELAY: 7100}
"""Where nodes listen unless somebody says otherwise."""
BOUND = 1_000_000
VARIABLE = "value"
STUDY = "first-sum"
KEY, CERTIFICATE, ROOT, TOKEN = "identity.key", "identity.crt", "ca.crt", "token"
AUTHORITY = "authority"


@dataclass(frozen=True, slots=True)
class Place:
    """Another node, and where it takes messages if that is known: https://HOST:PORT."""

    name: str
    url: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known of a node that is to run. Empty is: not known, and then asked for, or not needed."""

    identity: Identity
    root: bytes
    """SHA-256 of the DER of the only authority that it trusts."""
    url: str = ""
    """Where others reach it; empty for a patient that does not listen."""
    listen: str = ""
    """HOST:PORT; by default what `url` suggests."""
    hospital: Place | None = None
    relay: Place | None = None
    service: Identity | None = None
    service_url: str = ""
    """Of a hospital or a relay: who renews its certificate, if it does not hold the authority itself."""
    proxy: str = ""
    patients: Mapping[str, str] = field(default_factory=dict)
    """Of a hospital: each patient's URL, or RELAY."""
    vouched: tuple[str, ...] = ()
    """Of a patient: members that are real."""
    door: str = ""
    """HOST:PORT where it enrols others, with the authority in its directory."""
    authority: Path = Path(AUTHORITY)
    """... or elsewhere."""

    @property
    def config_name(self) -> str:
        """The file of its configuration."""
        return f"{self.identity.role}.yaml"

    @property
    def unit(self) -> str:
        """Of systemd."""
        return "cohortium-patient@" + self.identity.name if self._is(Role.PATIENT) else f"cohortium-{self.identity.role}"

    @property
    def home(self) -> Path:
        """Where its directory lies on a host with systemd: the unit's StateDirectory."""
        name = f"patient-{self.identity.name}" if self._is(Role.PATIENT) else str(self.identity.role)
        return Path("/var/lib/cohortium", name)

    def _is(self, role: Role) -> bool:
        return self.identity.role is role


def listen_at(host: str, port: int) -> str:
    """HOST:PORT to listen on for who is reached at `host`: all addresses, unless only this machine reaches it."""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return f"0.0.0.0:{port}"
    if found.is_loopback:
        return f"[{found}]:{port}" if found.version == 6 else f"{found}:{port}"
    return f"[::]:{port}" if found.version == 6 else f"0.0.0.0:{port}"


def write_kit(plan: Plan, directory: Path) -> list[Path]:
    """Writes what is missing in `directory`, all but keys and certificates. Returns what was written. Raises IdentityError."""
    files = {
        plan.config_name: "".join(f"{line}\n" for line in _config(plan)),
        "systemd.conf": _drop_in(plan),
        "README": _readme(plan),
    }
    if plan.identity.role is Role.HOSPITAL:
        make_directory(directory / "studies")
        if len(plan.patients) >= MINIMUM_COHORT:
            files[f"studies/{STUDY}.yaml"] = _study(tuple(plan.patients))
    written = []
    for name, text in files.items():
        if not is_there(directory / name):
            # A patient's configuration may come to hold its values.
            write_file(directory / name, text.encode(), mode=PRIVATE if name == "patient.yaml" else PUBLIC, force=False)
            written.append(directory / name)
    return written


def _config(plan: Plan) -> Iterator[str]:
    identity, role = plan.identity, plan.identity.role
    yield f"# {identity}. Paths are relative to this file. Try it with: cohortium {role} --config {plan.config_name} --check"
    yield f"consortium: {_text(identity.consortium)}"
    yield f"name: {_text(identity.name)}"
    yield "identity:"
    yield f"  key: {KEY}  # secret, and never leaves this node"
    yield f"  certificate: {CERTIFICATE}  # the first one; later ones are in 'state'"
    yield f"  authorities: [{ROOT}]  # who is believed to say who is who"
    yield "trust:"
    yield f"  authorities: [{_text(fingerprint(plan.root))}]  # ... and that this is the right one"
    match role:
        case Role.PATIENT:
            yield from _patient(plan)
        case Role.HOSPITAL:
            yield from _listener(plan)
            yield "studies: studies  # a directory; every *.yaml in it is a study"
            yield from _patients_of(plan)
            yield from _relay(plan)
        case _:
            yield from _listener(plan)
    yield from _authority(plan)
    yield "admin: admin.sock  # who may open it may ask this daemon for everything"
    yield "state: state  # the store; back it up, but not together with storage.key"
    if role is not Role.RELAY:
        yield "storage_key: storage.key  # made at the first start: keep a copy elsewhere, without it the store is lost"
    yield '# health: {listen: "127.0.0.1:9100"}  # /healthz, /readyz and /metrics, for monitoring on this machine'


def _listener(plan: Plan) -> Iterator[str]:
    listen = plan.listen
    if not listen and plan.url:
        listen = listen_at(*address(plan.url.removeprefix("https://")))
    yield f"listen: {_text(listen or f'0.0.0.0:{PORTS[plan.identity.role]}')}  # others reach it at {plan.url or 'this port'}"


def _patient(plan: Plan) -> Iterator[str]:
    if plan.url:
        yield from _listener(plan)
        yield f"endpoint: {_text(plan.url)}"
    else:
        yield "topology: relay  # this node listens nowhere; all mail goes through the relay"
        if plan.proxy:
            yield f"proxy: {_text(plan.proxy)}  # on the way to the relay"
        if plan.relay is None:
            yield "# relay: {name: NAME, url: https://HOST:PORT}  # required: say which, and remove the first '#'"
    yield from _relay(plan)
    if plan.hospital is None:
        yield "# hospital: {name: NAME, url: https://HOST:PORT}  # required: whose invitations are answered; remove the first '#'"
    else:
        yield "hospital:  # nobody else's invitations are answered"
        yield f"  name: {_text(plan.hospital.name)}"
        if plan.url:
            url = f"url: {_text(plan.hospital.url)}" if plan.hospital.url else "# url: https://HOST:PORT  # required"
            yield f"  {url}"
    yield "sources:  # by the name that studies have for a variable"
    yield f"  {VARIABLE}:"
    yield f"    bounds: [0, {BOUND}]  # no study gets more than that it lies in there"
    yield f"    csv: {{file: values.csv, column: {VARIABLE}, row: 1}}  # a table with a line of names, written by you"
    if plan.vouched:
        yield "policy:"
        yield f"  vouched: {{members: {_list(plan.vouched)}}}  # known to be real; change it if you do not know them"
    else:
        yield "# policy: {vouched: {members: [NAME, NAME]}}  # required: two others that you know are real; remove the first '#'"


def _patients_of(plan: Plan) -> Iterator[str]:
    if not plan.patients:
        yield "# patients: {NAME: https://HOST:PORT, NAME: relay}  # required: who can be asked; remove the first '#'"
        return
    yield f"patients:  # where each is reached; '{RELAY}': through the relay"
    for name, url in plan.patients.items():
        yield f"  {_text(name)}: {_text(url)}"


def _relay(plan: Plan) -> Iterator[str]:
    if plan.relay is not None:
        yield f"relay: {{name: {_text(plan.relay.name)}, url: {_text(plan.relay.url)}}}"


def _authority(plan: Plan) -> Iterator[str]:
    if plan.service is not None and plan.service_url:
        yield "authority:  # who renews this node's certificate, by itself, and tells who was revoked"
        yield f"  {{role: {plan.service.role}, name: {_text(plan.service.name)}, url: {_text(plan.service_url)}}}"
    if plan.door:
        yield "enrolment:  # the authority lives here: other nodes get and renew their certificates from this one"
        yield f"  listen: {_text(plan.door)}"
        yield f"  authority: {_text(str(plan.authority))}  # back it up after every change; whoever has its key can be anybody"


def _study(members: tuple[str, ...]) -> str:
    return f"""\
# An example: the sum of one number a patient.
id: {STUDY}
title: A first sum
purpose: To see that everything works
variables: [{{name: {VARIABLE}, bounds: [0, {BOUND}]}}]
statistics: [{{kind: sum, variable: {VARIABLE}}}]
cohort: {{members: {_list(members)}}}
"""


def _drop_in(plan: Plan) -> str:
    command = f"/opt/cohortium/bin/cohortium {plan.identity.role} --config {plan.home}/{plan.config_name}"
    return f"""\
# Put this directory at {plan.home}, owned by the user cohortium, and this file into /etc/systemd/system/{plan.unit}.service.d/
[Service]
ExecStart=
ExecStart={command}
# The keys lie beside the configuration, and belong to the daemon's user.
LoadCredential=
"""


def _readme(plan: Plan) -> str:
    role = plan.identity.role
    stored = (
        "storage.key, which the first start makes, opens its store" if role is not Role.RELAY else "what it keeps it cannot read"
    )
    check = f"check with 'cohortium {role} --config {plan.config_name} --check', start with the same without --check"
    return f"""\
{plan.identity}: if a file 'token' lies here, first 'cohortium enroll --dir DIRECTORY'; {check}.
{KEY} is this node's alone and secret; {stored}: keep a copy of the keys elsewhere, not with backups of 'state'.
As a service: see the first line of systemd.conf, then 'systemctl daemon-reload' and 'systemctl enable --now {plan.unit}'.
"""


def _text(text: str) -> str:
    """As JSON, which YAML takes literally."""
    return json.dumps(text)


def _list(names: tuple[str, ...]) -> str:
    return "[" + ", ".join(map(_text, names)) + "]"
