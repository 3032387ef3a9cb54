"""The patient's daemon: answers the one hospital of its configuration, by its own policy, from its own sources."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import ClassVar

from mpc.disclosure import Bounds, Policy
from mpc.errors import DataError
from mpc.identity import Identity, Role
from mpc.rounds.admission import Admitted
from mpc.rounds.events import Event as RoundEvent
from mpc.rounds.events import ValuesRead, ValuesUnavailable
from mpc.rounds.machine import Machine
from mpc.rounds.patient import PatientRound
from mpc.study import Study
from nodes.config import PatientConfig
from nodes.daemon import Daemon
from nodes.log import Event, place


class PatientDaemon(Daemon):
    """See `Daemon`."""

    speaks_with: ClassVar[frozenset[Role]] = frozenset({Role.HOSPITAL, Role.PATIENT, Role.RELAY})

    def __init__(self, config: PatientConfig) -> None:
        self.config = config
        self.sources = {name: source.source(name) for name, source in config.sources.items()}
        self.policy = _policy(config)
        super().__init__(config)

    def resolve(self, node: Identity, announced: str) -> str:
        """The hospital's and overridden addresses from the configuration, the others as their consents announce them."""
        if node == self.policy.hospital:
            return self.config.hospital.url
        return self.config.peers.get(node.name, announced)

    def new_round(self, message: Admitted) -> Machine | None:
        """A round that begins with an Invitation."""
        return PatientRound(
            message.envelope.header.round,
            self.keys.keyring,
            os.urandom,
            credentials=self.credentials,
            policy=self.policy,
            ledger=self.store,
            endpoint=self.config.url,
        )

    def read_sources(self, study: Study) -> RoundEvent:
        """All variables of the study, or `unavailable`; why stays in this node's log."""
        try:
            return ValuesRead({v.name: self.sources[v.name].read(v.length) for v in study.variables})
        except DataError as error:
            self.log.warning(Event.SOURCE_FAILED, study=study.id, reason=str(error))
        except Exception as error:  # a source is somebody else's file or service: nothing of it may stop the daemon
            self.log.error(Event.SOURCE_FAILED, study=study.id, reason=type(error).__name__, place=place(error))
        return ValuesUnavailable()

    def status(self) -> dict[str, object]:
        """Adds the assumption that its floor rests on."""
        return super().status() | {"open_rounds": self.store.open_rounds(), "assumption": _assumption(self.policy)}


def _policy(config: PatientConfig) -> Policy:
    rules, vouched = config.policy, config.policy.vouched
    return Policy(
        hospital=Identity(config.consortium, Role.HOSPITAL, config.hospital.name),
        sources=_bounds(config),
        studies=rules.studies,
        floor=rules.floor,
        vouched_members=frozenset(Identity(config.consortium, Role.PATIENT, name) for name in vouched.members),
        vouched_authorities=vouched.digests(),
        max_length=rules.max_length,
        max_members=rules.max_members,
        max_open_rounds=rules.max_open_rounds,
        max_seconds=rules.max_seconds,
        invitations_per_minute=rules.invitations_per_minute,
    )


def _bounds(config: PatientConfig) -> Mapping[str, Bounds]:
    return {name: Bounds(*source.bounds) for name, source in config.sources.items()}


def _assumption(policy: Policy) -> str:
    if policy.vouched_authorities:
        return (
            f"at least {policy.floor} members are real because the authorities that this policy names certify no others; "
            f"if the hospital runs one of them, it can invent members"
        )
    return f"at least {policy.floor} members are real because this policy names them"
