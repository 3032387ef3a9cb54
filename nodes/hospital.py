"""The hospital's daemon: opens rounds when a person asks for it, and keeps their results."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Collection, Mapping
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
from mpc.release import in_words
from mpc.result import Result
from mpc.rounds.admission import Admitted
from mpc.rounds.events import (
    ABORTED,
    RELEASED,
    CancelRound,
    Effect,
    Ended,
    KeyPublished,
    OpenRound,
    Progressed,
    Released,
    ValuesUnavailable,
)
from mpc.rounds.events import Event as RoundEvent
from mpc.rounds.hospital import HospitalRound, HospitalState
from mpc.rounds.machine import Machine
from mpc.statistics import plan
from mpc.statistics.newton import Fit
from mpc.study import Study
from mpc.wire import Struct, decode, encode
from nodes.admin.results import add_result_routes
from nodes.admin.rounds import add_round_routes
from nodes.admin.studies import add_study_routes
from nodes.config import HospitalConfig
from nodes.daemon import Config, Daemon
from nodes.fitting import Fitting, is_fit
from nodes.journal import Beginning, RoundLost
from nodes.log import Event
from nodes.records import KEPT_RECORDS, Records, RoundRecord
from nodes.results import StudyResult, study_result
from nodes.rounds import New
from nodes.scheduler import Scheduler
from nodes.store.base import OpenRound as OpenRoundKept
from nodes.store.base import StoreError
from nodes.studies import Planned, StudyDirectory
from nodes.transport.base import DeliveryError
from nodes.transport.mail import RelayedTransport

NOT_OPENED = "not-opened"
"""Code of a round that was to follow a failed one and could not be opened."""
_LONGEST_PAUSE = 5.0
"""Seconds between two questions for a key that a patient behind the relay has not published yet; the first are closer."""
_BEFORE_COLLECT = frozenset({"inviting", "sharing"})
_MAY_PASS = frozenset({AbortCode.TOO_FEW, AbortCode.MISSING, AbortCode.UNAVAILABLE, AbortCode.UNDELIVERABLE, AbortCode.REVOKED})


class _Asked(Struct, frozen=True):
    """What a round asks, and of whom it could: the part of its `Beginning` that a hospital's round has."""

    study: Study
    attempt: int
    """See `RoundRecord`, also for the next."""
    follows: str
    relayed: tuple[str, ...]
    """URIs of the patients whose Invitation was sealed for a relay."""
    keyless: tuple[str, ...]
    """... and of those that had published no key when the round opened, and are invited once they have."""
    fitting: Fitting | None
    """The fit that this round goes on with."""


class HospitalDaemon(Daemon):
    """See `Daemon`."""

    speaks_with: ClassVar[frozenset[Role]] = frozenset({Role.PATIENT, Role.RELAY})

    def __init__(self, config: HospitalConfig) -> None:
        self.config = config
        self.records = Records()
        self._studies = StudyDirectory()
        self._asked: dict[bytes, _Asked] = {}
        """By open round."""
        self._seconds: dict[bytes, float | None] = {}
        """What was kept of how long a round took, until the news of its end."""
        self._following: set[asyncio.Task[None]] = set()
        """Rounds that are about to open in the place of others, or after them."""
        self._asking: dict[bytes, asyncio.Task[None]] = {}
        """By open round: asks for the keys of patients that cannot be invited yet."""
        super().__init__(config)
        self._scheduler = Scheduler(self, config.state, self.log)
        self._scheduling: asyncio.Task[None] | None = None
        add_study_routes(self.admin, self)
        add_round_routes(self.admin, self)
        add_result_routes(self.admin, self)

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
        try:
            asked = decode(beginning.asked, _Asked)
            sealed_for = {Identity.parse(uri): stand_in for uri in asked.relayed}
            keyless = {Identity.parse(uri): None for uri in asked.keyless}
            machine = self._machine(round_id, keyring, beginning.seed, asked.study, {**sealed_for, **keyless})
        except CohortiumError as error:
            raise RoundLost(f"another version of this program opened it, and this one would not: {error}") from error
        self._asked[round_id] = asked
        return machine

    def close_round(self, round_id: bytes, ended: Ended, released: Released | None) -> tuple[bytes, bytes]:
        """See `Daemon.close_round`."""
        record = self.records.get(round_id)
        assert record is not None, "every round has its record before it opens"
        final = replace(record)  # the record itself belongs to the event loop, which hears of the end after the commit
        final.end(ended)
        self._seconds[round_id] = final.seconds
        asked = self._asked[round_id]
        question = asked.fitting or Fitting.of(asked.study)
        result = b"" if released is None else self.seal_result(round_id, released, question)
        return json.dumps(final.summary()).encode(), result

    def read_sources(self, study: Study) -> RoundEvent:
        """A hospital has no values."""
        return ValuesUnavailable()

    async def recall(self) -> None:
        """The rounds of earlier lives."""
        for closed in reversed(await self.store.closed_rounds(KEPT_RECORDS)):
            self.records.add(RoundRecord.kept_closed(closed))
        for kept in await self.store.open_rounds():  # those that cannot go on are to be seen, too
            self.records.add(RoundRecord.kept_open(kept))

    def forget(self, before: float, study: str | None) -> None:
        """See `Daemon.forget`."""
        self.records.forget(before, study)

    async def full(self, record: RoundRecord) -> dict[str, object]:
        """A round with its result, from the store where it is not at hand. Raises StoreError."""
        if record.outcome == RELEASED and record.result is None:
            kept = await self.kept_result(record.round_id)
            return record.full(None if kept is None else kept.result)
        return record.full(record.result)

    async def answer(self, record: RoundRecord) -> StudyResult | None:
        """What a released round may tell, while it is kept. Raises StoreError."""
        kept = await self.kept_result(record.round_id)
        if kept is None or kept.question is None:
            return None
        return await asyncio.to_thread(study_result, record, kept.question, kept.result)

    def resumed(self, kept: OpenRoundKept, machine: Machine) -> None:
        """A kept round goes on."""
        assert isinstance(machine, HospitalRound)
        asked, record = self._asked[kept.round_id], RoundRecord.kept_open(kept)
        record.modulus, record.attempt, record.follows = machine.segments[0].modulus, asked.attempt, asked.follows
        record.asked, record.fit = len(asked.study.members), _number(asked.study, asked.fitting)
        record.rules = in_words(asked.study.release)
        record.members = tuple(member.identity.name for member in machine.members)
        self.records.add(record)
        self._ask_later(kept.round_id, machine.keyless, kept.begun.opened + machine.study.answer_within)

    def observe(self, round_id: bytes, effect: Effect) -> None:
        """Keeps the record up to date, and opens a failed round again where that is safe."""
        super().observe(round_id, effect)
        if isinstance(effect, Ended) or (isinstance(effect, Progressed) and effect.phase != HospitalState.INVITING):
            asking = self._asking.pop(round_id, None)
            if asking is not None:
                asking.cancel()
        if isinstance(effect, Ended):
            asked, record = self._asked.pop(round_id, None), self.records.get(round_id)
            if record is not None:
                record.seconds = self._seconds.pop(round_id, None)
            if asked is not None and record is not None:  # before the end is news: it says which round follows
                if effect.outcome == ABORTED:
                    self._again(round_id, effect, asked)
                elif record.result is not None and is_fit(asked.study):
                    self._fit_on(record, record.result, asked)
        self.records.note(round_id, effect)

    def studies(self) -> dict[str, Planned]:
        """The studies as they stand in the directory now. Raises StudyError that lists every problem."""
        return self._studies.read(self.config.studies, self.config.consortium, self.config.patients)

    def study(self, study_id: str) -> Planned:
        """One of them. Raises StudyError when there is no such study."""
        studies = self.studies()
        if study_id not in studies:
            raise StudyError(
                f"there is no study {study_id!r} in {self.config.studies}; there is {', '.join(sorted(studies)) or 'none'}"
            )
        return studies[study_id]

    def schedule(self) -> list[dict[str, object]]:
        """See `Scheduler.plans`."""
        return self._scheduler.plans()

    async def open_round(self, study_id: str) -> RoundRecord:
        """Opens a round of a study. Raises StudyError when there is no such study or it cannot be run."""
        study = self.study(study_id).study
        record = self._announce(study)
        try:
            await self._open(record, study)
        except Exception:
            self.records.discard(record.round_id)
            raise
        return record

    def _announce(self, study: Study, attempt: int = 1, follows: str = "", fitting: Fitting | None = None) -> RoundRecord:
        """The record of a round that is to open: there before the round is, for whoever is told of it."""
        modulus = plan(study)[0].modulus
        record = RoundRecord(os.urandom(16), study.id, modulus, time.time(), attempt, follows)
        record.asked, record.fit, record.rules = len(study.members), _number(study, fitting), in_words(study.release)
        self.records.add(record)
        return record

    async def _open(self, record: RoundRecord, study: Study, fitting: Fitting | None = None) -> None:
        behind = [patient for patient in map(Identity.parse, study.members) if self.config.behind_relay(patient.name)]
        sealed_for = await self._keys_of_patients(behind)
        keyring, seed = self.keys.keyring, os.urandom(SEED_BYTES)
        machine = self._machine(record.round_id, keyring, seed, study, sealed_for)
        record.opened, record.started = time.time(), time.perf_counter()
        self.log.info(
            Event.ROUND_OPENED,
            round=record.round_id.hex(),
            study=study.id,
            patients=len(study.members),
            deadline=study.deadline,
            attempt=record.attempt,
        )
        relayed = tuple(patient.uri for patient, key in sealed_for.items() if key is not None)
        keyless = tuple(patient.uri for patient, key in sealed_for.items() if key is None)
        asked = self._asked[record.round_id] = _Asked(study, record.attempt, record.follows, relayed, keyless, fitting)
        beginning = Beginning(seed, keyring.encryption.key_id, encode(asked))
        try:
            await self.driver.begin(New(machine, beginning, Role.HOSPITAL, study.id), OpenRound())
        except StoreError:
            self._asked.pop(record.round_id, None)
            raise
        self._ask_later(record.round_id, machine.keyless, record.opened + study.answer_within)

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

    async def _keys_of_patients(self, patients: Collection[Identity]) -> dict[Identity, WrappingKey | None]:
        """The published key of each; None for one that has published none that holds, or when the relay is away."""
        if not patients:
            return {}
        assert isinstance(self.transport, RelayedTransport), "the configuration asks for a relay then"
        found = await asyncio.gather(*map(self.transport.key_of, patients), return_exceptions=True)
        credentials, now = Credentials(self._loaded.trust), time.time()
        keys: dict[Identity, WrappingKey | None] = {}
        for patient, raw in zip(patients, found, strict=True):
            if isinstance(raw, BaseException) and not isinstance(raw, DeliveryError):
                raise raw
            keys[patient] = None if isinstance(raw, BaseException) else usable_key(raw, patient, credentials, now)
        return keys

    def _ask_later(self, round_id: bytes, keyless: Collection[Identity], until: float) -> None:
        """Asks again for these keys until the time to answer is over: daemons and the relay may start in any order."""

        async def ask() -> None:
            missing, pause = set(keyless), 0.1
            while missing and time.time() < until:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                for patient, key in (await self._keys_of_patients(missing)).items():
                    if key is not None:
                        missing.discard(patient)
                        self.driver.tell(round_id, KeyPublished(key))

        if keyless and round_id in self._asked:
            self._asking[round_id] = asyncio.create_task(ask())

    async def start(self) -> None:
        """See `Service.start`."""
        await super().start()
        self._scheduling = asyncio.create_task(self._scheduler.run())

    async def stop(self, seconds: float) -> None:
        """See `Service.stop`."""
        if self._scheduling is not None:
            self._scheduling.cancel()
        for asking in self._asking.values():
            asking.cancel()
        await super().stop(seconds)

    def _again(self, round_id: bytes, ended: Ended, asked: _Asked) -> None:
        """Before anything was collected, a round is tried again without those who failed it, while the cohort is large enough."""
        if ended.phase not in _BEFORE_COLLECT or ended.code not in _MAY_PASS:
            return
        study = asked.study
        members = tuple(uri for uri in study.members if Identity.parse(uri).name not in ended.missing)
        if asked.attempt > self.config.retries or not study.minimum <= len(members) < len(study.members):
            return

        again = msgspec.structs.replace(study, members=members)
        self._follow(self._announce(again, asked.attempt + 1, round_id.hex()), again)

    def _fit_on(self, record: RoundRecord, result: Result, asked: _Asked) -> None:
        """The next round of a fit, unless this was the last."""
        members = [uri for uri in asked.study.members if Identity.parse(uri).name in record.members]
        fitting = (asked.fitting or Fitting.of(asked.study)).after(members, result)
        following = fitting.stand()
        if isinstance(following, Fit):
            follower = self._announce(following.study, follows=record.round_id.hex(), fitting=fitting)
            self._follow(follower, following.study, fitting)

    def _follow(self, follower: RoundRecord, study: Study, fitting: Fitting | None = None) -> None:
        """Opens a round that nobody asked for."""

        async def follow() -> None:
            try:
                await self._open(follower, study, fitting)
            except CohortiumError as error:
                self.log.error(Event.FAILED, round=follower.round_id.hex(), error=str(error))
                self.records.note(follower.round_id, Ended(ABORTED, NOT_OPENED, detail=str(error)))

        task = asyncio.create_task(follow())
        self._following.add(task)
        task.add_done_callback(self._following.discard)

    def cancel_round(self, round_id: bytes) -> None:
        """Ends an open round."""
        self.driver.tell(round_id, CancelRound())

    def status(self) -> dict[str, object]:
        """Adds how many rounds there are."""
        rounds = self.records.all()
        return super().status() | {"rounds": len(rounds), "open": sum(not record.ended for record in rounds)}


def _number(study: Study, fitting: Fitting | None) -> int:
    """Which round of a fit it is, from 1."""
    return 1 + len(fitting.results) if fitting is not None else int(is_fit(study))
