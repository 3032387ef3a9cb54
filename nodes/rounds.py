"""The rounds of a node, on the one thread where their machines live: an event in, a transition, and what is to be kept of it.

Nothing in here waits, sends or writes to the store: a transition becomes an Outcome, which the driver commits and then acts upon.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from mpc.credentials import Credentials
from mpc.envelope import parse
from mpc.errors import Answer, InvalidTransition, MessageRefused
from mpc.identity import Identity
from mpc.messages import Kind
from mpc.rounds.admission import Admitted, admit
from mpc.rounds.events import (
    ABORTED,
    Answered,
    Decided,
    Effect,
    Ended,
    MessageReceived,
    PeersRevoked,
    ReadValues,
    Released,
    Send,
    StopSending,
    Submitted,
    ValuesRead,
    ValuesUnavailable,
    WakeAt,
)
from mpc.rounds.events import Event as RoundEvent
from mpc.rounds.machine import Machine
from mpc.wire import decode, encode
from nodes.journal import Beginning, RoundLost, restore, write
from nodes.ledger import Ledger
from nodes.log import place
from nodes.store.audit import AuditEvent, AuditLine, audit_line
from nodes.store.base import Begun, Closed, OpenRound, Posted, Step, StoreError
from nodes.store.round_keys import RoundKeys
from nodes.store.sealing import SealingKey

LIGHT_BYTES = 16 * 1024
INTERNAL = "internal-error"
LOST = "lost"
STORE = "store"
_BURIED = 256
"""Ended rounds whose late messages are still told `accepted` or `gone`; those of older ones are told `later` and give up."""
_SLOT_BYTES = 4
"""Before what a round was made from: the slot of the key that opens it, big-endian."""
_EVENT = "event"
_BEGINNING = "beginning"


@dataclass(frozen=True, slots=True)
class New:
    """A round that begins here: its machine, and what it can be made from again."""

    machine: Machine
    beginning: Beginning
    role: str
    study: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message that `peer` carried here."""

    raw: bytes = field(repr=False)
    peer: Identity


@dataclass(frozen=True, slots=True)
class Happened:
    """Something else happened to a round."""

    round_id: bytes
    event: RoundEvent
    new: New | None = None
    """Of a round that begins with this event."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one event led to."""

    round_id: bytes
    effects: list[Effect]
    answer: Answer | None = None
    reason: str = ""
    kind: str = ""
    """Of the message that arrived, for the counter."""
    message: str = ""
    """The first 8 hex digits of its digest, by which the logs of sender and receiver name it."""
    sender: str = ""
    step: Step | None = None
    failure: str = ""
    """Where this program failed, if it did."""


@dataclass(frozen=True, slots=True)
class Pending:
    """What a rebuilt round still has to do, beside its outbox."""

    round_id: bytes
    machine: Machine
    read: ReadValues | None
    wake: WakeAt | None
    effects: tuple[Effect, ...]
    """Of all its events, in order; for whoever tells people about rounds."""


NewRound = Callable[[Admitted], New | None]
"""Makes the round that a valid Invitation opens, or None when messages open no rounds here."""
Rebuild = Callable[[bytes, str, Beginning], Machine]
"""A new machine for a kept round: (round id, role, beginning). Raises RoundLost."""
Close = Callable[[bytes, Ended, Released | None], tuple[bytes, bytes]]
"""(summary for people, sealed result) of a round that ends."""


@dataclass(slots=True)
class _Open:
    machine: Machine
    key: SealingKey | None
    """None where a round ends with the event that it began with: nothing of it is kept."""
    study: str
    posted: int = 0
    """Messages that it has sent so far."""


class Rounds:
    """All open rounds. For the protocol thread alone."""

    def __init__(
        self,
        me: Identity,
        *,
        credentials: Credentials,
        keys: RoundKeys,
        ledger: Ledger,
        new_round: NewRound,
        rebuild: Rebuild,
        close: Close,
        max_message: int,
    ) -> None:
        self._me = me
        self._credentials = credentials
        self._keys = keys
        self._ledger = ledger
        self._new_round = new_round
        self._rebuild = rebuild
        self._close = close
        self._max_message = max_message
        self._open: dict[bytes, _Open] = {}
        self._heavy: set[bytes] = set()
        """Open rounds with long vectors or many members."""
        self._buried: OrderedDict[bytes, frozenset[bytes]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def key_ids(self) -> frozenset[bytes]:
        """Encryption keys that open rounds were promised."""
        return frozenset(entry.machine.keyring.encryption.key_id for entry in self._open.values())

    def light(self, whats: Iterable[Arrived | Happened]) -> bool:
        """Whether these events are a matter of some milliseconds together: no long vector, no large message, no large roster."""
        return all(self._is_light(what) for what in whats)

    def _is_light(self, what: Arrived | Happened) -> bool:
        if isinstance(what, Arrived):
            # The header's round is not read for this: any open round that is not light makes messages wait their turn.
            return len(what.raw) <= LIGHT_BYTES and not self._heavy
        return what.new is None and what.round_id not in self._heavy

    def take(self, what: Arrived | Happened, now: float) -> Outcome:
        """One event. Never raises: a bug ends the one round that it hit."""
        try:
            return self._arrive(what, now) if isinstance(what, Arrived) else self._happen(what, now)
        except StoreError as error:  # no key could be made for a round that was to begin: it has not begun
            return Outcome(b"", [], Answer.LATER, STORE, failure=f"{error.reason}: {error}")
        except Exception as error:
            return self._broken(what, error, now)

    def forget(self, round_id: bytes) -> None:
        """Drops a round's machine: what it did last could not be kept, so it is to be rebuilt from what was."""
        self._open.pop(round_id, None)
        self._heavy.discard(round_id)
        self._buried.pop(round_id, None)
        self._ledger.closed(round_id)

    def bury(self, round_id: bytes, taken: frozenset[bytes]) -> None:
        """Remembers a round that has ended, with the digests of the messages that it took."""
        self._open.pop(round_id, None)
        self._heavy.discard(round_id)
        self._ledger.closed(round_id)
        self._buried[round_id] = taken
        if len(self._buried) > _BURIED:
            self._buried.popitem(last=False)

    def _put(self, round_id: bytes, entry: _Open) -> None:
        self._open[round_id] = entry
        if entry.machine.heavy:
            self._heavy.add(round_id)

    def rebuild(self, kept: OpenRound) -> Pending:
        """Puts a kept round back. Raises RoundLost, and changes nothing, when it cannot go on."""
        try:
            slot, sealed = int.from_bytes(kept.begun.sealed[:_SLOT_BYTES]), kept.begun.sealed[_SLOT_BYTES:]
            key = self._keys.take_again(kept.round_id, slot)
            beginning = decode(key.unseal(sealed, _BEGINNING), Beginning)
            entries = [key.unseal(event, _EVENT) for event in kept.events]
        except (StoreError, MessageRefused) as error:
            raise RoundLost("its key is gone, or does not open what was kept") from error
        machine = self._rebuild(kept.round_id, kept.begun.role, beginning)
        restored = restore(machine, entries, me=self._me, credentials=self._credentials, max_message=self._max_message)
        effects = tuple(effect for of_event in restored.effects for effect in of_event)
        posted = sum(isinstance(effect, Send) for effect in effects)
        self._put(kept.round_id, _Open(machine, key, kept.begun.study, posted))
        self._ledger.opened(kept.round_id)
        wake = next((effect for effect in reversed(effects) if isinstance(effect, WakeAt)), None)
        return Pending(kept.round_id, machine, machine.unread, wake, effects)

    def revoked(self, now: float) -> list[Happened]:
        """What is to happen to open rounds in which somebody takes part by a certificate that is revoked by now."""
        found = []
        for round_id, entry in self._open.items():
            gone = [one.identity for one in entry.machine.parties if self._credentials.revoked(one, now)]
            if gone:
                found.append(Happened(round_id, PeersRevoked(tuple(gone))))
        return found

    # -- transitions

    def _arrive(self, arrived: Arrived, now: float) -> Outcome:
        round_id, kind, name, sender = b"", "unknown", "", ""
        try:
            envelope = parse(arrived.raw, self._max_message)
            round_id, kind = envelope.header.round, envelope.kind.purpose
            name, sender = envelope.digest.hex()[:8], envelope.sender.name
            message = admit(envelope, peer=arrived.peer, me=self._me, credentials=self._credentials, now=now)
            entry = self._open.get(round_id)
            new = None if entry else self._unknown(message)
            if entry is None and new is None:
                return Outcome(round_id, [], Answer.ACCEPTED, kind=kind, message=name, sender=sender)
            event = MessageReceived(message)
            if entry is not None:
                taken = len(entry.machine.seen)
                effects = entry.machine.handle(event, now)
                changed = len(entry.machine.seen) > taken or entry.machine.ended
                step = self._step(round_id, entry, event, arrived, effects, now) if changed else None
            else:
                assert new is not None
                effects, step = self._begin(new, event, arrived, now)
            answer = next((effect.answer for effect in effects if isinstance(effect, Answered)), Answer.ACCEPTED)
            return Outcome(round_id, effects, answer, kind=kind, message=name, sender=sender, step=step)
        except MessageRefused as refused:
            return Outcome(round_id, [], refused.answer, refused.reason, kind, name, sender)

    def _unknown(self, message: Admitted) -> New | None:
        """The round that the message opens; None when it was taken in a round that has ended."""
        envelope = message.envelope
        taken = self._buried.get(envelope.header.round)
        if taken is not None:
            if envelope.digest in taken:
                return None
            raise MessageRefused(Answer.GONE, "round-ended")
        new = self._new_round(message) if envelope.kind is Kind.INVITATION else None
        if new is None:
            raise MessageRefused(Answer.LATER, "round-unknown")
        return new

    def _happen(self, happened: Happened, now: float) -> Outcome:
        if happened.new is not None:
            effects, step = self._begin(happened.new, happened.event, None, now)
            return Outcome(happened.round_id, effects, step=step)
        entry = self._open.get(happened.round_id)
        if entry is None:
            return Outcome(happened.round_id, [])
        if isinstance(happened.event, ValuesRead | ValuesUnavailable) and entry.machine.unread is None:
            return Outcome(happened.round_id, [])  # read twice: the round was rebuilt while its values were being read
        effects = entry.machine.handle(happened.event, now)
        idle = all(isinstance(effect, WakeAt) for effect in effects)
        return Outcome(
            happened.round_id,
            effects,
            step=None if idle else self._step(happened.round_id, entry, happened.event, None, effects, now),
        )

    def _begin(self, new: New, event: RoundEvent, arrived: Arrived | None, now: float) -> tuple[list[Effect], Step]:
        round_id = new.machine.round_id
        effects = new.machine.handle(event, now)
        key = None if new.machine.ended else self._keys.make(round_id)
        # A patient learns from the Invitation itself what is asked.
        study = next((effect.study for effect in effects if isinstance(effect, Decided)), new.study)
        entry = _Open(new.machine, key, study)
        step = self._step(round_id, entry, event, arrived, effects, now)
        sealed = b""
        if key is not None:
            sealed = self._keys.slot(round_id).to_bytes(_SLOT_BYTES) + key.seal(encode(new.beginning), _BEGINNING)
            self._put(round_id, entry)
            self._ledger.opened(round_id)
        return effects, replace(step, begun=Begun(now, new.role, study, sealed))

    # -- what is kept

    def _step(
        self,
        round_id: bytes,
        entry: _Open,
        event: RoundEvent,
        arrived: Arrived | None,
        effects: list[Effect],
        now: float,
    ) -> Step:
        machine = entry.machine
        posted: list[Posted] = []
        audit: list[AuditLine] = []
        released: Released | None = None
        closed: Closed | None = None
        name = round_id.hex()
        for effect in effects:
            match effect:
                case Send():
                    number = entry.posted
                    entry.posted += 1
                    posted.append(
                        Posted(number, effect.recipient.uri, effect.kind, effect.endpoint, effect.until, effect.envelope)
                    )
                case Decided():
                    self._ledger.decided(now)
                    said = AuditEvent.DECLINED if effect.reason else AuditEvent.CONSENTED
                    hospital = effect.hospital.uri
                    audit.append(audit_line(now, said, effect.study, round=name, hospital=hospital, reason=effect.reason))
                case Submitted():
                    context, members = effect.context.hex(), [member.uri for member in effect.members]
                    audit.append(
                        audit_line(now, AuditEvent.SUBMITTED, effect.study, round=name, context=context, members=members)
                    )
                case Released():
                    released = effect
                    context, count = effect.result.context.hex(), effect.result.members
                    audit.append(audit_line(now, AuditEvent.RELEASED, entry.study, round=name, context=context, members=count))
                case Ended():
                    audit.append(_ended(now, entry.study, round_id, effect))
                    summary, result = self._close(round_id, effect, released)
                    closed = Closed(now, effect.outcome, effect.code, b"".join(machine.seen.values()), result, summary)
        called_back = any(isinstance(effect, StopSending) for effect in effects)
        event_bytes = b""
        if closed is None:
            assert entry.key is not None, "a round that goes on has a key"
            raw, peer = (arrived.raw, arrived.peer.uri) if arrived else (b"", "")
            event_bytes = entry.key.seal(write(event, raw, peer, now, machine.sealed, str(machine.state)), _EVENT)
        else:
            self.bury(round_id, frozenset(machine.seen.values()))
        machine.sealed.clear()
        return Step(round_id, None, event_bytes, tuple(posted), called_back, closed, tuple(audit))

    def _broken(self, what: Arrived | Happened, error: Exception, now: float) -> Outcome:
        round_id = what.round_id if isinstance(what, Happened) else b""
        if isinstance(what, Arrived):
            with contextlib.suppress(Exception):
                round_id = parse(what.raw, self._max_message).header.round
        detail = str(error) if isinstance(error, InvalidTransition) else type(error).__name__
        failure = f"{detail} at {place(error)}"
        if round_id not in self._open and not (isinstance(what, Happened) and what.new):
            return Outcome(round_id, [], Answer.GONE, INTERNAL, failure=failure)
        entry = self._open.get(round_id)
        self.bury(round_id, frozenset())
        ended = Ended(ABORTED, INTERNAL, detail="this program failed; its log has the place")
        # Of a round that has not begun there is nothing that the store could close.
        step = closing_step(now, round_id, entry.study, ended) if entry is not None else None
        return Outcome(round_id, [StopSending(), ended], Answer.GONE, INTERNAL, step=step, failure=failure)


def closing_step(now: float, round_id: bytes, study: str, ended: Ended) -> Step:
    """What ends a round whose machine has no say in it any more."""
    closed = Closed(now, ended.outcome, ended.code, b"")
    return Step(round_id, called_back=True, closed=closed, audit=(_ended(now, study, round_id, ended),))


def _ended(now: float, study: str, round_id: bytes, ended: Ended) -> AuditLine:
    missing = list(ended.missing)
    return audit_line(now, AuditEvent.ENDED, study, round=round_id.hex(), outcome=ended.outcome, code=ended.code, missing=missing)
