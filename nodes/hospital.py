"""The hospital's daemon: opens rounds when a person asks for it, and keeps their results."""

from __future__ import annotations

import os
import time
from typing import ClassVar

from mpc.errors import StudyError
from mpc.identity import Identity, Role
from mpc.rounds.admission import Admitted
from mpc.rounds.events import CancelRound, Effect, OpenRound, ValuesUnavailable
from mpc.rounds.events import Event as RoundEvent
from mpc.rounds.hospital import HospitalRound
from mpc.rounds.machine import Machine
from mpc.study import Study
from nodes.admin.rounds import add_round_routes
from nodes.config import HospitalConfig
from nodes.daemon import Daemon
from nodes.log import Event
from nodes.records import Records, RoundRecord
from nodes.studies import load_studies


class HospitalDaemon(Daemon):
    """See `Daemon`."""

    speaks_with: ClassVar[frozenset[Role]] = frozenset({Role.PATIENT, Role.RELAY})

    def __init__(self, config: HospitalConfig) -> None:
        self.config = config
        self.records = Records()
        super().__init__(config)
        add_round_routes(self.admin, self)

    def resolve(self, node: Identity, announced: str) -> str:
        """Where the configuration says that the patient is; what it announced is for the other members."""
        return self.config.patients.get(node.name, announced)

    def new_round(self, message: Admitted) -> Machine | None:
        """A hospital is invited to nothing."""
        return None

    def read_sources(self, study: Study) -> RoundEvent:
        """A hospital has no values."""
        return ValuesUnavailable()

    def observe(self, round_id: bytes, effect: Effect) -> None:
        """Keeps the record up to date."""
        super().observe(round_id, effect)
        self.records.note(round_id, effect)

    def studies(self) -> dict[str, Study]:
        """The studies as they stand in the directory now. Raises StudyError that lists every problem."""
        return load_studies(self.config.studies, self.config.consortium, self.config.patients)

    async def open_round(self, study_id: str) -> RoundRecord:
        """Opens a round of a study. Raises StudyError when there is no such study or it cannot be run."""
        studies = self.studies()
        if study_id not in studies:
            raise StudyError(
                f"there is no study {study_id!r} in {self.config.studies}; there is {', '.join(sorted(studies)) or 'none'}"
            )
        study = studies[study_id]
        machine = HospitalRound(
            os.urandom(16), self.keys.keyring, os.urandom, credentials=self.credentials, me=self.credential, study=study
        )
        record = RoundRecord(machine.round_id, study, machine.segments[0].modulus, opened=time.time())
        self.records.add(record)
        self.log.info(
            Event.ROUND_OPENED, round=machine.round_id.hex(), study=study.id, patients=len(study.members), deadline=study.deadline
        )
        await self.driver.begin(machine, OpenRound())
        return record

    def cancel_round(self, round_id: bytes) -> None:
        """Ends an open round."""
        self.driver.tell(round_id, CancelRound())

    def status(self) -> dict[str, object]:
        """Adds how many rounds there are."""
        rounds = self.records.all()
        return super().status() | {"rounds": len(rounds), "open": sum(not record.ended for record in rounds)}
