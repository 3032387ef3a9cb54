"""A throw-away deployment on loopback: an authority, a hospital, patients and one study, each as files in one directory.

    DIR/ca/                   the authority
    DIR/hospital/             hospital.yaml, key, certificate, studies/
    DIR/NAME/                 patient.yaml, key, certificate (and CSV file) of patient NAME
    DIR/README                how to start each daemon by hand

Everything is made by the command line `cohortium` and by writing YAML, as an administrator would.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import yaml

from scripts.ports import free_ports

CONSORTIUM = "demo"
HOSPITAL = "hospital"
RELAY = "relay"
AUTHORITY = "ca"
VARIABLE = "value"
STUDY = "demo-sum"
COHORTIUM = (sys.executable, "-m", "nodes.cli")
"""The command line `cohortium`, of the same environment that runs this."""


class DeploymentError(Exception):
    """A deployment that cannot be made; the text says why."""


class Asked(Protocol):
    """The study of a deployment."""

    @property
    def id(self) -> str:
        """Of the study."""
        ...

    def study(self, names: Sequence[str]) -> str:
        """Its file, with these patients as members."""
        ...

    def sources(self, source: Mapping[str, Any]) -> dict[str, Any]:
        """`sources` of a patient's configuration, by variable, each read from `source`."""
        ...

    def policy(self) -> dict[str, Any]:
        """What a patient's policy must allow beyond its defaults."""
        ...


@dataclass(frozen=True)
class Question:
    """A sum over `length` integers, each in [0, bound]."""

    bound: int
    length: int = 1
    range: int | None = None
    assume_in_range: bool = False
    deadline: int = 60
    publish: str = "hospital"
    id: str = STUDY

    def study(self, names: Sequence[str]) -> str:
        """See `Asked`."""
        study: dict[str, Any] = {
            "id": self.id,
            "title": "A private sum",
            "purpose": "demonstration",
            "variables": [{"name": VARIABLE, "bounds": [0, self.bound], "length": self.length}],
            "statistics": [{"kind": "sum", "variable": VARIABLE}],
            "cohort": {"members": names},
            "deadline": self.deadline,
            "publish": self.publish,
        }
        if self.range is not None:
            study |= {"range": self.range, "assume_in_range": self.assume_in_range}
        return _yaml(study, 0)

    def sources(self, source: Mapping[str, Any]) -> dict[str, Any]:
        """See `Asked`."""
        return {VARIABLE: {"bounds": [0, self.bound], **source}}

    def policy(self) -> dict[str, Any]:
        """See `Asked`."""
        return {"max_length": max(self.length, 1)}


@dataclass(frozen=True)
class StudyFile:
    """A study as a person has written it. Each patient has a CSV file with a column for each variable."""

    path: Path

    @cached_property
    def content(self) -> dict[str, Any]:
        """What stands in it, unchecked."""
        content: dict[str, Any] = yaml.safe_load(self.path.read_text(encoding="utf-8"))
        return content

    @property
    def id(self) -> str:
        """See `Asked`."""
        return str(self.content["id"])

    @property
    def members(self) -> list[str]:
        """The patients."""
        return list(self.content["cohort"]["members"])

    def check(self) -> None:
        """Raises DeploymentError that lists every mistake."""
        _cohortium("study", "check", str(self.path))

    def study(self, names: Sequence[str]) -> str:
        """See `Asked`."""
        return self.path.read_text(encoding="utf-8")

    def sources(self, source: Mapping[str, Any]) -> dict[str, Any]:
        """See `Asked`."""
        return {
            variable["name"]: {**_declared(variable), "csv": {**source, "column": variable["name"]}}
            for variable in self.content["variables"]
        }

    def policy(self) -> dict[str, Any]:
        """See `Asked`."""
        return {"records": self.content.get("records", 1)}


def _declared(variable: Mapping[str, Any]) -> dict[str, Any]:
    if variable.get("type") == "category":
        return {"categories": variable["categories"]}
    decimals = variable.get("type") == "fixed"
    return {"bounds": [float(bound) if decimals else bound for bound in variable["bounds"]]}


@dataclass
class Deployment:
    """Files in `directory`. `sources` gives each patient's source as its YAML has it, such as {"literal": 725}."""

    directory: Path
    sources: Mapping[str, Mapping[str, Any]]
    question: Asked
    ports: dict[str, int] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)
    relayed: frozenset[str] = frozenset()
    """Patients behind a relay, which then is one of the nodes; they have no listener."""

    @property
    def names(self) -> list[str]:
        """The patients."""
        return list(self.sources)

    @property
    def nodes(self) -> list[str]:
        """Every daemon."""
        return [*([RELAY] if self.relayed else []), HOSPITAL, *self.names]

    @property
    def hospital_config(self) -> Path:
        return self.directory / HOSPITAL / "hospital.yaml"

    def patient_config(self, name: str) -> Path:
        return self.directory / name / "patient.yaml"

    def socket(self, name: str) -> Path:
        """The admin socket of a node."""
        return self.directory / name / "admin.sock"

    def command(self, name: str) -> list[str]:
        """What starts the daemon of a node."""
        return [*COHORTIUM, _role(name), "--config", str(self.config(name))]

    def config(self, name: str) -> Path:
        """The configuration of a node."""
        return self.directory / name / f"{_role(name)}.yaml"

    def write(self) -> None:
        """Makes all files. Raises DeploymentError with the words of the command that failed."""
        for name in self.names:
            check_name(name)
        nodes = self.nodes
        self.ports = dict(zip(nodes, free_ports(len(nodes)), strict=True))
        ca = self.directory / AUTHORITY
        _cohortium("pki", "init", "--consortium", CONSORTIUM, "--dir", str(ca))
        for name in nodes:
            (self.directory / name).mkdir(mode=0o700, exist_ok=True)
        identities = [f"{_role(name)}/{name}" for name in nodes]
        _cohortium("pki", "issue", *identities, "--ip", "127.0.0.1", "--dir", str(ca), "--out", str(self.directory), "--per-node")
        shown = json.loads(_cohortium("pki", "show", str(ca / "ca.crt"), "--json"))
        authority = shown[0]["fingerprint"]
        if self.relayed:
            _write_yaml(self.config(RELAY), self._node(RELAY))
        self._write_hospital()
        for name in self.names:
            self._write_patient(name, authority)
        self._write_readme()

    def _node(self, name: str) -> dict[str, Any]:
        return {
            "consortium": CONSORTIUM,
            "name": name,
            "identity": {"key": f"{name}.key", "certificate": f"{name}.crt", "authorities": ["../ca/ca.crt"]},
            "listen": f"127.0.0.1:{self.ports[name]}",
            "admin": "admin.sock",
            **({"limits": dict(self.limits)} if self.limits else {}),
        }

    def _relay(self) -> dict[str, Any]:
        return {"relay": {"name": RELAY, "url": f"https://127.0.0.1:{self.ports[RELAY]}"}} if self.relayed else {}

    def _write_hospital(self) -> None:
        patients = {name: "relay" if name in self.relayed else f"https://127.0.0.1:{self.ports[name]}" for name in self.names}
        _write_yaml(self.hospital_config, {**self._node(HOSPITAL), **self._relay(), "studies": "studies", "patients": patients})
        (self.directory / HOSPITAL / "studies").mkdir(exist_ok=True)
        study = self.directory / HOSPITAL / "studies" / f"{self.question.id}.yaml"
        study.write_text(self.question.study(self.names), encoding="utf-8")

    def _write_patient(self, name: str, authority: str) -> None:
        config = self._node(name) | self._relay()
        hospital = {"name": HOSPITAL, "url": f"https://127.0.0.1:{self.ports[HOSPITAL]}"}
        if name in self.relayed:
            del config["listen"]
            config["topology"] = "relay"
            hospital = {"name": HOSPITAL}
        config |= {
            "trust": {"authorities": [authority]},
            "hospital": hospital,
            "sources": self.question.sources(self.sources[name]),
            "policy": {
                "vouched": {"authorities": [authority]},
                **self.question.policy(),
                "max_members": max(len(self.names), 3),
                "invitations_per_minute": 6000,
            },
        }
        _write_yaml(self.patient_config(name), config)
        self.patient_config(name).chmod(0o600)  # it may hold the patient's value

    def _write_readme(self) -> None:
        lines = ["Start each daemon in a terminal of its own, in any order:", ""]
        lines += [f"    cohortium {_role(name)} --config {name}/{_role(name)}.yaml" for name in self.nodes]
        lines += ["", "Then, in another terminal, open a round:", ""]
        lines += [f"    cohortium round open {self.question.id} --config {HOSPITAL}/hospital.yaml --watch", ""]
        (self.directory / "README").write_text("\n".join(lines))


def _role(name: str) -> str:
    return name if name in (HOSPITAL, RELAY) else "patient"


def _cohortium(*arguments: str) -> str:
    done = subprocess.run([*COHORTIUM, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeploymentError(done.stderr.strip().removeprefix("cohortium: ") or f"cohortium {arguments[0]} failed")
    return done.stdout


def _write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(_yaml(content, 0))


def _yaml(content: Mapping[str, Any], depth: int) -> str:
    """Plain YAML; every string and list as JSON, which YAML takes literally (YAML 1.2 is a superset of JSON)."""
    text = ""
    for key, value in content.items():
        name = key if re.fullmatch(r"(?!(?:yes|no|on|off|true|false|null)$)[a-z_]+", key) else json.dumps(key)
        if isinstance(value, Mapping) and value:
            text += f"{'  ' * depth}{name}:\n{_yaml(value, depth + 1)}"
        else:
            text += f"{'  ' * depth}{name}: {json.dumps(value)}\n"
    return text


def check_name(name: str) -> None:
    """Raises DeploymentError unless `name` can name a patient here: its directory stands beside the others."""
    if name in (HOSPITAL, AUTHORITY, RELAY):
        raise DeploymentError(f"a patient cannot be called {name!r} here; choose another name")
    if re.fullmatch(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?", name) is None:
        raise DeploymentError(
            f"{name!r} is not a name: use lower-case letters, digits, '.', '-' and '_', "
            f"at most 63 of them, a letter or digit first and last"
        )


def parse_values(text: str) -> dict[str, int]:
    """`alice=725,bob=310` as a mapping. Raises DeploymentError that says which part is wrong, without repeating a value."""
    values: dict[str, int] = {}
    for position, part in enumerate(text.split(","), 1):
        name, equals, number = part.strip().partition("=")
        if not equals or not name:
            raise DeploymentError(f"part {position} of the values is not NAME=INTEGER")
        if name in values:
            raise DeploymentError(f"{name!r} is there twice; name each patient once")
        values[name] = parse_value(name, number)
    return values


def parse_value(name: str, number: str) -> int:
    """An integer. Raises DeploymentError that names the patient, not the value."""
    if re.fullmatch(r"\s*[+-]?[0-9]{1,20}\s*", number) is None:
        raise DeploymentError(f"the value of {name!r} is not an integer")
    return int(number)
