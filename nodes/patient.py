"""The patient's daemon: answers the one hospital of its configuration, by its own policy, from its own sources."""

from __future__ import annotations

import json
import os
import time
from fractions import Fraction
from typing import ClassVar

from mpc import disclosure
from mpc.disclosure import Policy
from mpc.entropy import SEED_BYTES, SeededEntropy
from mpc.errors import DataError
from mpc.guards import keeps_values
from mpc.identity import Identity, Role
from mpc.keys import Keyring
from mpc.rounds.admission import Admitted
from mpc.rounds.events import Asked, Ended, Released, ValuesRead, ValuesUnavailable
from mpc.rounds.events import Event as RoundEvent
from mpc.rounds.machine import Machine
from mpc.rounds.patient import PatientRound
from mpc.statistics import draws
from mpc.study import Study
from nodes.admin.patient import add_patient_routes
from nodes.config import PatientConfig
from nodes.daemon import Config, Daemon
from nodes.journal import Beginning, RoundLost
from nodes.ledger import MOST_DECISIONS
from nodes.log import Event, place
from nodes.noise import can_draw, draw
from nodes.person import Person
from nodes.recorded import Reading, found_again, found_by, recall, record
from nodes.rounds import New
from nodes.sources import fields
from nodes.sources.base import Found
from nodes.sources.reading import find, settle
from nodes.store.audit import AuditEvent
from nodes.store.base import StoreError


class PatientDaemon(Daemon):
    """See `Daemon`."""

    speaks_with: ClassVar[frozenset[Role]] = frozenset({Role.HOSPITAL, Role.PATIENT, Role.RELAY})

    def __init__(self, config: PatientConfig) -> None:
        self.use(config)
        super().__init__(config)
        add_patient_routes(self.admin, Person(self))

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
            by_rule = kept.line.event in (AuditEvent.CONSENTED, AuditEvent.DECLINED) and b'"by":"rule"' in kept.line.content
            if kept.line.event == AuditEvent.ASKED or by_rule:
                self.ledger.decided(kept.line.at)

    def new_round(self, message: Admitted) -> New | None:
        """A round that begins with an Invitation."""
        # What came through a relay was sealed with the key that was published then.
        keyring, seed = self.keys.find(message.envelope.header.key_id) or self.keys.keyring, os.urandom(SEED_BYTES)
        machine = self._machine(message.envelope.header.round, keyring, seed)
        return New(machine, Beginning(seed, keyring.encryption.key_id, b""), Role.PATIENT, "")

    def rebuild_round(self, round_id: bytes, role: str, beginning: Beginning) -> Machine:
        """See `Daemon.rebuild_round`."""
        keyring = self.keys.find(beginning.key_id)
        if keyring is None:
            raise RoundLost("the encryption key that it was promised is gone")
        return self._machine(round_id, keyring, beginning.seed)

    def close_round(self, round_id: bytes, ended: Ended, released: Released | None) -> tuple[bytes, bytes]:
        """See `Daemon.close_round`."""
        summary = {"round": round_id.hex(), "outcome": ended.outcome, "code": ended.code, "detail": ended.detail}
        return json.dumps(summary).encode(), b"" if released is None else self.seal_result(round_id, released)

    def _machine(self, round_id: bytes, keyring: Keyring, seed: bytes) -> PatientRound:
        return PatientRound(
            round_id,
            keyring,
            SeededEntropy(seed),
            credentials=self.credentials,
            policy=self.policy,
            ledger=self.ledger,
            endpoint=self.config.url,
        )

    def read_sources(self, study: Study) -> RoundEvent:
        """All variables of the study, or `unavailable`; why stays in this node's log."""
        try:
            # Noise is drawn for this round alone: it is kept with the round, and two rounds with the same noise would cancel it.
            kept = self._kept(study, time.time())
            found = find(study, self.sources, self.policy.records, kept) | kept
            values = settle(study, self.sources, self.policy.records, found)
            return Reading(values, draw(draws(study)), found)
        except DataError as error:
            self.log.warning(Event.SOURCE_FAILED, study=study.id, reason=str(error))
        except Exception as error:  # a source is somebody else's file or service: nothing of it may stop the daemon
            self.log.error(Event.SOURCE_FAILED, study=study.id, reason=type(error).__name__, place=place(error))
        return ValuesUnavailable()

    def settle_values(self, round_id: bytes, study: Study, event: ValuesRead, now: float) -> RoundEvent:
        """The values of a period, where there are some by now: another round may have read while this one did."""
        if not keeps_values(self.policy):
            return ValuesRead(event.values, event.noise)
        if not isinstance(event, Reading):  # a round that goes on with what it has read before
            self.ledger.read(round_id, record(study, found_again(round_id, study, event), self.policy))
            return event
        try:
            found = found_by(round_id, event) | self._kept(study, now)
            values = settle(study, self.sources, self.policy.records, found)
        except (DataError, StoreError) as error:
            self.log.warning(Event.SOURCE_FAILED, study=study.id, reason=str(error))
            return ValuesUnavailable()
        self.ledger.read(round_id, record(study, found, self.policy))
        return ValuesRead(values, event.noise)

    def _kept(self, study: Study, now: float) -> dict[str, Found]:
        """What counts for those variables whose source has given values in this period. Raises DataError, StoreError."""
        if not keeps_values(self.policy):
            return {}
        names = [variable.name for variable in study.variables if variable.name in self.sources]
        found = {name: self.ledger.values_of(self.policy.field_of(name), now) for name in names}
        return {name: recall(kept, self.sources[name].declared) for name, kept in found.items() if kept is not None}

    def approved(self, asked: Asked) -> bool:
        """See `Daemon.approved`."""
        return self.ledger.approved(asked.request.digest, asked.deadline)

    def at_hand(self, study: Study) -> bool:
        """When reading all its values takes no time, as of what stands in the configuration, and there is no noise to draw."""
        found = [self.sources.get(variable.name) for variable in study.variables]
        return study.privacy is None and all(source is not None and source.reader.quick for source in found)

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
        noise=can_draw(),
        floor=rules.floor,
        vouched_members=frozenset(Identity(config.consortium, Role.PATIENT, name) for name in vouched.members),
        vouched_authorities=vouched.digests(),
        max_length=rules.max_length,
        max_members=rules.max_members,
        max_open_rounds=rules.max_open_rounds,
        max_seconds=rules.max_seconds,
        invitations_per_minute=rules.invitations_per_minute,
        purposes=rules.purposes,
        ask=rules.ask,
        fields=fields(config.sources),
        guard=rules.guard,
        period=rules.period,
        rounds_per_period=rules.rounds_per_period,
        budget=None if rules.privacy_budget is None else rules.privacy_budget.budget(rules.records),
        least_per_cell=Fraction(str(rules.least_per_cell)),
    )


def _assumption(policy: Policy) -> str:
    if policy.vouched_authorities:
        return (
            f"at least {policy.floor} members are real because the authorities that this policy names certify no others; "
            f"if the hospital runs one of them, it can invent members"
        )
    return f"at least {policy.floor} members are real because this policy names them"
