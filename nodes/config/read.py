"""From a YAML file to the configuration of a role: every problem at once, and defaults beside the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from mpc.errors import ConfigError, StudyError, UsageError
from mpc.identity import Identity, Role
from nodes.config.hospital import HospitalConfig
from nodes.config.parts import DaemonConfig, NodeConfig
from nodes.config.patient import PatientConfig
from nodes.config.relay import RelayConfig
from nodes.sources.base import entry
from nodes.sources.literal import LiteralValues
from nodes.studies import load_studies
from nodes.yaml_struct import examine, load

_ROLES: dict[type[DaemonConfig], Role] = {
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


C = TypeVar("C", bound=NodeConfig)


def _placed(config: C, path: Path) -> C:
    """Defaults that are paths lie beside the file, as those do that it gives."""
    here = path.resolve().parent
    return msgspec.structs.replace(config, state=here / config.state, storage_key=here / config.storage_key)
