"""What a person says to the own patient's daemon, and is told by it: requests that wait, consent, withdrawal, bound sources.

Nobody here needs a value to decide, and none is read. What is said is kept in the ledger and in the audit log with one commit.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from mpc.disclosure import Policy, Withdrawal, question_digest, withdrawn_from
from mpc.errors import UsageError
from mpc.guards import live
from mpc.identity import Identity
from mpc.rounds.events import PersonDecided, Withdrawn
from mpc.rounds.patient import PatientRound, PatientState
from mpc.wire import encode
from nodes.audit import PAGE
from nodes.rounds import Said
from nodes.store.audit import AuditEvent, AuditLine, audit_line
from nodes.store.base import LedgerEntry

if TYPE_CHECKING:
    from nodes.patient import PatientDaemon

T = TypeVar("T")

_DIGEST = re.compile(r"[0-9a-f]{8,64}", re.ASCII)
_WHOLE = 64
_REQUESTS = (AuditEvent.ASKED, AuditEvent.CONSENTED)


class Person:
    """See `nodes.admin.patient`. For the event loop; every method may raise StoreError."""

    def __init__(self, daemon: PatientDaemon) -> None:
        self._daemon = daemon

    async def inbox(self) -> list[dict[str, object]]:
        """What waits for a person, oldest first."""
        return await self._on_thread(lambda: [_waiting(machine) for machine in self._rounds() if _waits(machine)])

    async def asked(self, study: str) -> dict[str, object]:
        """The study of what waits, in the bytes that the hospital sent. Raises UsageError for nothing."""
        found = await self._on_thread(lambda: [encode(machine.study).hex() for machine in self._find(study)])
        if not found:
            raise _nothing(study)
        return {"study": found[0]}

    async def approve(self, study: str, until: float | None) -> list[dict[str, object]]:
        """Consents to what waits; with `until`, in advance as well, to exactly that study. Raises UsageError for nothing."""
        now = time.time()
        if until is not None and until <= now:
            raise UsageError("the approval would be over before it began; give a time to come")
        found = await self._on_thread(lambda: self._find(study))
        digests = {machine.request.digest: machine.request.study for machine in found}
        if not found:
            if until is None or len(study) != _WHOLE or _DIGEST.fullmatch(study) is None:
                raise _nothing(study)
            digests = {bytes.fromhex(study): ""}
        if until is not None:
            for digest, name in digests.items():
                approve = partial(self._daemon.ledger.approve, digest, until)
                await self._say(approve, AuditEvent.APPROVED, name, digest=digest.hex(), until=until)
        return await self._decide(found, approved=True)

    async def decline(self, study: str) -> list[dict[str, object]]:
        """Declines what waits. Raises UsageError for nothing."""
        found = await self._on_thread(lambda: self._find(study))
        if not found:
            raise _nothing(study)
        return await self._decide(found, approved=False)

    async def withdraw(self, pattern: str) -> dict[str, object]:
        """No round any more of studies whose ids match, nor of what asks the same under another name; the rounds that were."""
        policy, ledger = self._daemon.policy, self._daemon.ledger
        said = {Withdrawal(pattern, frozenset()): None}
        digests: set[bytes] = set()
        given: list[dict[str, object]] = []
        async for line, content in self._lines():
            if not fnmatch.fnmatchcase(line.study, pattern):
                continue
            if line.event == AuditEvent.SUBMITTED:
                members = [Identity.parse(uri).name for uri in content["members"]]
                given.append({"round": content["round"], "study": line.study, "at": line.at, "members": members})
            elif line.event in _REQUESTS:
                digests.add(bytes.fromhex(content["digest"]))
                said[Withdrawal(line.study, frozenset(map(bytes.fromhex, content["questions"])))] = None
        for machine in await self._on_thread(self._rounds):
            if fnmatch.fnmatchcase(machine.study.id, pattern):
                said[Withdrawal(machine.study.id, frozenset(map(question_digest, machine.request.questions)))] = None
        await self._say(
            lambda at: ledger.withdraw(said, digests, at), AuditEvent.WITHDRAWN, pattern, rounds=len(given), studies=len(said) - 1
        )
        ended = [machine for machine in await self._on_thread(self._rounds) if any(_ends(policy, one, machine) for one in said)]
        for machine in ended:
            await self._daemon.driver.decide(machine.round_id, Withdrawn())
        return {"withdrawn": pattern, "ended": [machine.round_id.hex() for machine in ended], "given": given}

    async def release(self, sources: tuple[str, ...]) -> list[str]:
        """Frees sources, or all of them, from their rosters, and forgets the values kept of them. Raises UsageError."""
        ledger = self._daemon.ledger
        known = {*self._daemon.policy.fields.values(), *await self._on_thread(ledger.sources)}
        strange = sorted(set(sources) - known)
        if strange:
            raise UsageError(f"there is no source {strange[0]!r}; there is {', '.join(sorted(known)) or 'none'}")
        freed = sorted(sources or known)
        await self._say(lambda at: ledger.free(freed, at), AuditEvent.FREED, "", sources=freed)
        return freed

    async def bindings(self) -> list[dict[str, object]]:
        """What each source has gone into in its period, and over whom."""
        now, ledger, policy = time.time(), self._daemon.ledger, self._daemon.policy

        def look() -> list[dict[str, object]]:
            found = []
            for source in sorted(ledger.sources()):
                past = live(ledger, source, now)
                if past:
                    members = [Identity.parse(uri).name for uri in sorted(past[-1].members)]
                    spent = sum(one.rho for one in past)
                    found.append(
                        {
                            "source": source,
                            "guard": policy.guard,
                            "until": past[0].until,
                            "rounds": len(past),
                            "members": members,
                            "rho": spent,
                        }
                    )
            return found

        return await self._on_thread(look)

    # -- inside

    def _rounds(self) -> list[PatientRound]:
        machines = self._daemon.driver.rounds.machines()
        return [machine for machine in machines if isinstance(machine, PatientRound) and not machine.ended]

    def _find(self, study: str) -> list[PatientRound]:
        """What waits under this id, or under the digest that begins so."""
        by_digest = _DIGEST.fullmatch(study) is not None
        return [
            machine
            for machine in self._rounds()
            if _waits(machine)
            and (machine.request.study == study or (by_digest and machine.request.digest.hex().startswith(study)))
        ]

    async def _decide(self, found: Sequence[PatientRound], *, approved: bool) -> list[dict[str, object]]:
        told = await self._on_thread(lambda: [_waiting(machine) for machine in found if _waits(machine)])
        for machine in found:
            await self._daemon.driver.decide(machine.round_id, PersonDecided(approved))
        return told

    async def _say(
        self, entries: Callable[[float], tuple[LedgerEntry, ...]], event: AuditEvent, study: str, **content: object
    ) -> None:
        await self._daemon.driver.say(Said(entries, lambda at: audit_line(at, event, study, **content)))

    async def _on_thread(self, look: Callable[[], T]) -> T:
        return await self._daemon.driver.on_thread(look)

    async def _lines(self) -> AsyncIterator[tuple[AuditLine, Any]]:
        last = 0
        while page := await self._daemon.store.audit(last, PAGE):
            last = page[-1].number
            for kept in page:
                if kept.line.event in (*_REQUESTS, AuditEvent.SUBMITTED):
                    with contextlib.suppress(ValueError):  # somebody has changed it: `verify` says so
                        yield kept.line, json.loads(kept.line.content)


def _waits(machine: PatientRound) -> bool:
    return machine.state is PatientState.ASKED


def _ends(policy: Policy, withdrawal: Withdrawal, machine: PatientRound) -> bool:
    return bool(withdrawn_from(policy, withdrawal, machine.study))


def _waiting(machine: PatientRound) -> dict[str, object]:
    """A request in words; all of it the hospital's."""
    request, study = machine.request, machine.study
    assert machine.question is not None, "it waits"
    invitation = machine.question.invitation
    return {
        "study": study.id,
        "digest": request.digest.hex(),
        "title": study.title,
        "purpose": study.purpose,
        "legal_basis": study.legal_basis,
        "hospital": request.hospital.name,
        "asks": list(request.questions),
        "invited": len(study.members),
        "minimum": study.minimum,
        "publish": study.publish,
        "noise": study.privacy is not None,
        "answer_by": invitation.answer_by,
        "deadline": invitation.deadline,
        "round": machine.round_id.hex(),
    }


def _nothing(study: str) -> UsageError:
    return UsageError(f"nothing waits under {study!r}; see 'cohortium patient inbox'")
