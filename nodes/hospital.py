"""The hospital's daemon: opens rounds when a person asks for it, and keeps their results."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import msgspec

from mpc.credentials import Credentials
from mpc.entropy import SEED_BYTES, SeededEntropy
from mpc.errors import CohortiumError, StudyError
from mpc.identity import Identity, Role
from mpc.keys import Keyring, WrappingKey
from mpc.mailbox import usable_key
from mpc.messages import AbortCode
from mpc.rounds.admission import Admitted
from mpc.rounds.events import ABORTED, RELEASED, CancelRound, Effect, Ended, OpenRound, Released, ValuesUnavailable
from mpc.rounds.events import Event as RoundEvent
from mpc.rounds.hospital import HospitalRound
from mpc.rounds.machine import Machine
from mpc.study import Study
from mpc.wire import decode, encode
from nodes.admin.rounds import add_round_routes
from nodes.config import HospitalConfig
from nodes.daemon import Config, Daemon
from nodes.journal import Beginning, RoundLost
from nodes.log import Event
from nodes.records import KEPT_RECORDS, Records, RoundRecord
from nodes.rounds import New
from nodes.store.base import OpenRound as OpenRoundKept
from nodes.store.base import StoreError
from nodes.studies import load_studies
from nodes.transport.mail import RelayedTransport

_KEY_SECONDS = 10.0
"""How long a round waits for keys of patients behind the relay before it opens without those that have none."""
_BEFORE_COLLECT = frozenset({"inviting", "sharing"})
_MAY_PASS = frozenset({AbortCode.TOO_FEW, AbortCode.MISSING, AbortCode.UNAVAILABLE, AbortCode.UNDELIVERABLE})


class HospitalDaemon(Daemon):
    """See `Daemon`."""

    speaks_with: ClassVar[frozenset[Role]] = frozenset({Role.PATIENT, Role.RELAY})

    def __init__(self, config: HospitalConfig) -> None:
        self.config = config
        self.records = Records()
        self._asked: dict[bytes, Study] = {}
        """Of the rounds that this life of the daemon opened and that have not ended."""
        self._retries: set[asyncio.Task[None]] = set()
        super().__init__(config)
        add_round_routes(self.admin, self)

    def use(self, config: Config) -> None:
        """Studies are read from the directory when a round opens; addresses are asked for by message."""
        assert isinstance(config, HospitalConfig)
        self.config = config

    def resolve(self, node: Identity, announced: str) -> str:
        """Where the configuration says that the patient is; what it announced is for the other members."""
        return self.config.endpoint(node.name, announced)

    def new_round(self, message: Admitted) -> New | None:
        """A hospital is invited to nothing."""
        return None

    def rebuild_round(self, round_id: bytes, role: str, beginning: Beginning) -> Machine:
        """See `Daemon.rebuild_round`."""
        keyring = self.keys.find(beginning.key_id)
        if keyring is None:
            raise RoundLost("the encryption key that it was promised is gone")
        # The Invitations are in the journal as they were sealed: any key stands for those that they were sealed with.
        stand_in = WrappingKey(self.identity, b"", keyring.encryption.private_key.public_key(), 0, 0)
        sealed_for = {Identity.parse(uri): stand_in for uri in beginning.relayed}
        keyless = {Identity.parse(uri): None for uri in beginning.keyless}
        return self._machine(round_id, keyring, beginning.seed, decode(beginning.study, Study), {**sealed_for, **keyless})

    def close_round(self, round_id: bytes, ended: Ended, released: Released | None) -> tuple[bytes, bytes]:
        """See `Daemon.close_round`."""
        record = self.records.get(round_id)
        assert record is not None, "every round has its record before it opens"
        final = replace(record)  # the record itself belongs to the event loop, which hears of the end after the commit
        final.end(ended)
        result = b"" if released is None else self.seal_result(round_id, released)
        return json.dumps(final.summary()).encode(), result

    def read_sources(self, study: Study) -> RoundEvent:
        """A hospital has no values."""
        return ValuesUnavailable()

    async def recall(self) -> None:
        """The rounds of earlier lives."""
        for closed in reversed(await self.store.closed_rounds(KEPT_RECORDS)):
            if closed.closed.summary:
                self.records.add(RoundRecord.kept(json.loads(closed.closed.summary)))

    async def full(self, record: RoundRecord) -> dict[str, object]:
        """A round with its result, from the store where it is not at hand. Raises StoreError."""
        if record.outcome == RELEASED and record.result is None:
            return record.full(await self.kept_result(record.round_id))
        return record.full(record.result)

    def resumed(self, kept: OpenRoundKept, machine: Machine) -> None:
        """A kept round goes on."""
        assert isinstance(machine, HospitalRound)
        self.records.add(RoundRecord(kept.round_id, machine.study.id, machine.segments[0].modulus, kept.begun.opened))

    def observe(self, round_id: bytes, effect: Effect) -> None:
        """Keeps the record up to date, and opens a failed round again where that is safe."""
        super().observe(round_id, effect)
        if isinstance(effect, Ended):
            study = self._asked.pop(round_id, None)
            if effect.outcome == ABORTED and study is not None:
                self._again(round_id, effect, study)  # before the end is news: it says which round follows
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
        return await self._open(os.urandom(16), studies[study_id], attempt=1)

    async def _open(self, round_id: bytes, study: Study, attempt: int) -> RoundRecord:
        keyring, seed = self.keys.keyring, os.urandom(SEED_BYTES)
        sealed_for = await self._keys_behind_relay(study)
        machine = self._machine(round_id, keyring, seed, study, sealed_for)
        record = RoundRecord(machine.round_id, study.id, machine.segments[0].modulus, time.time(), attempt)
        self.records.add(record)
        self._asked[machine.round_id] = study
        self.log.info(
            Event.ROUND_OPENED,
            round=machine.round_id.hex(),
            study=study.id,
            patients=len(study.members),
            deadline=study.deadline,
            attempt=attempt,
        )
        relayed = tuple(patient.uri for patient, key in sealed_for.items() if key is not None)
        keyless = tuple(patient.uri for patient, key in sealed_for.items() if key is None)
        beginning = Beginning(seed, keyring.encryption.key_id, encode(study), relayed, keyless)
        try:
            await self.driver.begin(New(machine, beginning, Role.HOSPITAL, study.id), OpenRound())
        except StoreError:
            self.records.discard(machine.round_id)
            del self._asked[machine.round_id]
            raise
        return record

    def _machine(
        self, round_id: bytes, keyring: Keyring, seed: bytes, study: Study, sealed_for: Mapping[Identity, WrappingKey | None]
    ) -> HospitalRound:
        return HospitalRound(
            round_id,
            keyring,
            SeededEntropy(seed),
            credentials=self.credentials,
            me=self.credential,
            study=study,
            sealed_for=sealed_for,
        )

    async def _keys_behind_relay(self, study: Study) -> dict[Identity, WrappingKey | None]:
        """The key of each patient behind the relay; None for one that has published none that holds. Raises DeliveryError."""
        members = [Identity.parse(uri) for uri in study.members]
        behind = [patient for patient in members if self.config.behind_relay(patient.name)]
        if not behind:
            return {}
        assert isinstance(self.transport, RelayedTransport), "the configuration asks for a relay then"
        published = await self.transport.keys_of(behind, _KEY_SECONDS)
        credentials, now = Credentials(self._loaded.trust), time.time()
        return {patient: usable_key(raw, patient, credentials, now) for patient, raw in zip(behind, published, strict=True)}

    def _again(self, round_id: bytes, ended: Ended, study: Study) -> None:
        """Before anything was collected, a round is tried again without those who failed it, while the cohort is large enough."""
        record = self.records.get(round_id)
        if record is None or ended.phase not in _BEFORE_COLLECT or ended.code not in _MAY_PASS:
            return
        members = tuple(uri for uri in study.members if Identity.parse(uri).name not in ended.missing)
        if record.attempt > self.config.retries or not study.minimum <= len(members) < len(study.members):
            return

        follower = os.urandom(16)
        record.followed_by = follower.hex()

        async def open_again() -> None:
            try:
                await self._open(follower, msgspec.structs.replace(study, members=members), record.attempt + 1)
            except CohortiumError as error:
                record.followed_by = ""
                self.log.error(Event.FAILED, round=round_id.hex(), error=str(error))

        task = asyncio.create_task(open_again())
        self._retries.add(task)
        task.add_done_callback(self._retries.discard)

    def cancel_round(self, round_id: bytes) -> None:
        """Ends an open round."""
        self.driver.tell(round_id, CancelRound())

    def status(self) -> dict[str, object]:
        """Adds how many rounds there are."""
        rounds = self.records.all()
        return super().status() | {"rounds": len(rounds), "open": sum(not record.ended for record in rounds)}
