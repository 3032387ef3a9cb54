"""The patient's daemon: answers the one hospital of its configuration, by its own policy, from its own sources."""

from __future__ import annotations

import json
import os
import time
from typing import ClassVar

from mpc import disclosure
from mpc.disclosure import Policy
from mpc.entropy import SEED_BYTES, SeededEntropy
from mpc.errors import DataError
from mpc.identity import Identity, Role
from mpc.keys import Keyring
from mpc.rounds.admission import Admitted
from mpc.rounds.events import Ended, Released, ValuesRead, ValuesUnavailable
from mpc.rounds.events import Event as RoundEvent
from mpc.rounds.machine import Machine
from mpc.rounds.patient import PatientRound
from mpc.study import Study
from nodes.config import PatientConfig
from nodes.daemon import Config, Daemon
from nodes.journal import Beginning, RoundLost
from nodes.ledger import MOST_DECISIONS, OpenLedger
from nodes.log import Event, place
from nodes.rounds import New
from nodes.sources.base import read_study
from nodes.store.audit import AuditEvent


class PatientDaemon(Daemon):
    """See `Daemon`."""

    speaks_with: ClassVar[frozenset[Role]] = frozenset({Role.HOSPITAL, Role.PATIENT, Role.RELAY})

    def __init__(self, config: PatientConfig) -> None:
        self.use(config)
        super().__init__(config)

    def use(self, config: Config) -> None:
        """Decides by this policy, and reads these sources, from the next invitation on."""
        assert isinstance(config, PatientConfig)
        sources = {name: source.source(name) for name, source in config.sources.items()}
        self.config, self.sources, self.policy = config, sources, _policy(config)

    def resolve(self, node: Identity, announced: str) -> str:
        """The hospital's and overridden addresses from the configuration, the others as their consents announce them."""
        if node == self.policy.hospital:
            return self.config.hospital_url
        return self.config.peers.get(node.name, announced)

    async def recall(self) -> None:
        """The invitations of the last minute: an end and a start do not make room for more."""
        for kept in await self.store.audit(0, MOST_DECISIONS, since=time.time() - disclosure.RATE_WINDOW):
            if kept.line.event in (AuditEvent.CONSENTED, AuditEvent.DECLINED):
                self.ledger.decided(kept.line.at)

    def new_round(self, message: Admitted) -> New | None:
        """A round that begins with an Invitation."""
        # What came through a relay was sealed with the key that was published then.
        keyring, seed = self.keys.find(message.envelope.header.key_id) or self.keys.keyring, os.urandom(SEED_BYTES)
        machine = self._machine(message.envelope.header.round, keyring, seed, self.ledger)
        return New(machine, Beginning(seed, keyring.encryption.key_id, b""), Role.PATIENT, "")

    def rebuild_round(self, round_id: bytes, role: str, beginning: Beginning) -> Machine:
        """See `Daemon.rebuild_round`."""
        keyring = self.keys.find(beginning.key_id)
        if keyring is None:
            raise RoundLost("the encryption key that it was promised is gone")
        return self._machine(round_id, keyring, beginning.seed, OpenLedger())

    def close_round(self, round_id: bytes, ended: Ended, released: Released | None) -> tuple[bytes, bytes]:
        """See `Daemon.close_round`."""
        summary = {"round": round_id.hex(), "outcome": ended.outcome, "code": ended.code, "detail": ended.detail}
        return json.dumps(summary).encode(), b"" if released is None else self.seal_result(round_id, released)

    def _machine(self, round_id: bytes, keyring: Keyring, seed: bytes, ledger: disclosure.Ledger) -> PatientRound:
        return PatientRound(
            round_id,
            keyring,
            SeededEntropy(seed),
            credentials=self.credentials,
            policy=self.policy,
            ledger=ledger,
            endpoint=self.config.url,
        )

    def read_sources(self, study: Study) -> RoundEvent:
        """All variables of the study, or `unavailable`; why stays in this node's log."""
        try:
            return ValuesRead(read_study(study, self.sources, self.policy.records))
        except DataError as error:
            self.log.warning(Event.SOURCE_FAILED, study=study.id, reason=str(error))
        except Exception as error:  # a source is somebody else's file or service: nothing of it may stop the daemon
            self.log.error(Event.SOURCE_FAILED, study=study.id, reason=type(error).__name__, place=place(error))
        return ValuesUnavailable()

    def at_hand(self, study: Study) -> bool:
        """When all its values stand in the configuration, or are made up from it."""
        found = [self.config.sources.get(variable.name) for variable in study.variables]
        return all(source is not None and (source.literal or source.synthetic) is not None for source in found)

    def status(self) -> dict[str, object]:
        """Adds the assumption that its floor rests on."""
        return super().status() | {"open_rounds": self.ledger.open_rounds(), "assumption": _assumption(self.policy)}


def _policy(config: PatientConfig) -> Policy:
    rules, vouched = config.policy, config.policy.vouched
    return Policy(
        hospital=Identity(config.consortium, Role.HOSPITAL, config.hospital.name),
        sources={name: source.declared for name, source in config.sources.items()},
        studies=rules.studies,
        statistics=rules.statistics,
        records=rules.records,
        floor=rules.floor,
        vouched_members=frozenset(Identity(config.consortium, Role.PATIENT, name) for name in vouched.members),
        vouched_authorities=vouched.digests(),
        max_length=rules.max_length,
        max_members=rules.max_members,
        max_open_rounds=rules.max_open_rounds,
        max_seconds=rules.max_seconds,
        invitations_per_minute=rules.invitations_per_minute,
    )


def _assumption(policy: Policy) -> str:
    if policy.vouched_authorities:
        return (
            f"at least {policy.floor} members are real because the authorities that this policy names certify no others; "
            f"if the hospital runs one of them, it can invent members"
        )
    return f"at least {policy.floor} members are real because this policy names them"
