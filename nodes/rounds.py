"""The rounds of a node, on the one thread where their machines live: an event in, a transition, and what is to be kept of it.

Nothing in here waits, sends or writes to the store: a transition becomes an Outcome, which the driver commits and then acts upon.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from mpc.credentials import Credentials
from mpc.disclosure import question_digest
from mpc.envelope import parse
from mpc.errors import Answer, InvalidTransition, MessageRefused, few
from mpc.identity import Identity, Role
from mpc.messages import Kind
from mpc.rounds.admission import Admitted, admit
from mpc.rounds.countersigning import Countersigning
from mpc.rounds.events import (
    ABORTED,
    RELEASED,
    Answered,
    Asked,
    Decided,
    Effect,
    Ended,
    MessageReceived,
    PeersRevoked,
    ReadValues,
    Receipted,
    Released,
    Request,
    Send,
    StopSending,
    Submitted,
    Unreleased,
    ValuesRead,
    ValuesUnavailable,
    WakeAt,
)
from mpc.rounds.events import Event as RoundEvent
from mpc.rounds.machine import Machine
from mpc.study import Study
from mpc.wire import decode, encode
from nodes.journal import Beginning, RoundLost, restore, write
from nodes.ledger import Ledger
from nodes.log import place
from nodes.receipts import OpenReceipts, countersigning_step
from nodes.store.audit import AuditEvent, AuditLine, audit_line
from nodes.store.base import Begun, Closed, KeptReceipt, LedgerEntry, OpenRound, Posted, ReceiptPart, Step, StoreError
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
_MOST_WORDS = 1000
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
class Said:
    """A person said something that the ledger keeps, whichever rounds are open."""

    entries: Callable[[float], tuple[LedgerEntry, ...]] = field(repr=False)
    """Gives what is to be kept, at that time (Unix seconds)."""
    line: Callable[[float], AuditLine] = field(repr=False)


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
Settle = Callable[[bytes, Study, ValuesRead, float], RoundEvent]
"""What a round takes for values that were read: (round id, study, values, Unix seconds)."""
TakeBurnt = Callable[[Admitted, bool, float], tuple[LedgerEntry, ...]]
"""What is to be kept of a Burnt: (message, whether its round is open and its sender takes part, Unix seconds).

Raises MessageRefused.
"""
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
        receipts: OpenReceipts,
        new_round: NewRound,
        rebuild: Rebuild,
        close: Close,
        take_burnt: TakeBurnt,
        settle: Settle = lambda _round_id, _study, event, _now: event,
        max_message: int,
    ) -> None:
        self._me = me
        self._credentials = credentials
        self._keys = keys
        self._ledger = ledger
        self._receipts = receipts
        self._new_round = new_round
        self._rebuild = rebuild
        self._close = close
        self._take_burnt = take_burnt
        self._settle = settle
        self._max_message = max_message
        self._open: dict[bytes, _Open] = {}
        self._heavy: set[bytes] = set()
        """Open rounds with long vectors or many members."""
        self._buried: OrderedDict[bytes, frozenset[bytes]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def machines(self) -> list[Machine]:
        """Of all open rounds, oldest first."""
        return [entry.machine for entry in self._open.values()]

    def key_ids(self, now: float) -> frozenset[bytes]:
        """Encryption keys that open rounds were promised, and those who are still to countersign a receipt."""
        promised = frozenset(entry.machine.keyring.encryption.key_id for entry in self._open.values())
        return promised.union(self._receipts.key_ids(now))

    def light(self, whats: Iterable[Arrived | Happened | Said]) -> bool:
        """Whether these events are a matter of some milliseconds together: no long vector, no large message, no large roster."""
        return all(self._is_light(what) for what in whats)

    def _is_light(self, what: Arrived | Happened | Said) -> bool:
        if isinstance(what, Said):
            return True
        if isinstance(what, Arrived):
            # The header's round is not read for this: any open round that is not light makes messages wait their turn.
            return len(what.raw) <= LIGHT_BYTES and not self._heavy
        return what.new is None and what.round_id not in self._heavy

    def take(self, what: Arrived | Happened | Said, now: float) -> Outcome:
        """One event. Never raises: a bug ends the one round that it hit."""
        if isinstance(what, Said):
            return Outcome(b"", [], step=Step(b"", ledger=what.entries(now), audit=(what.line(now),)))
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
        self._receipts.forget(round_id)
        self._ledger.closed(round_id)

    def bury(self, round_id: bytes, taken: frozenset[bytes]) -> None:
        """Remembers a round that has ended, with the digests of the messages that it took."""
        self._open.pop(round_id, None)
        self._heavy.discard(round_id)
        self._ledger.closed(round_id)
        self._buried[round_id] = taken
        if len(self._buried) > _BURIED:
            self._buried.popitem(last=False)

    def load(self, entries: Iterable[LedgerEntry]) -> None:
        """The ledger is what the store has of it."""
        self._ledger.load(entries)

    def restored(self, now: float) -> Step:
        """The store is an older copy: what is to be kept of that."""
        return Step(b"", ledger=self._ledger.restored(now))

    def resume_receipt(self, kept: KeptReceipt) -> None:
        """Goes on adding countersignatures to a receipt."""
        self._receipts.resume(kept)

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
        with self._ledger.replaying():
            restored = restore(machine, entries, me=self._me, credentials=self._credentials, max_message=self._max_message)
        effects = tuple(effect for of_event in restored.effects for effect in of_event)
        wanted = next((effect for effect in effects if isinstance(effect, ReadValues)), None)
        if wanted is not None and restored.values is not None:
            self._settle(kept.round_id, wanted.study, restored.values, restored.times[-1])
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
            if envelope.kind is Kind.BURNT:  # of a round that mostly has ended here
                burnt = Step(b"", ledger=self._take_burnt(message, self._takes_part(message), now))
                return Outcome(round_id, [], Answer.ACCEPTED, kind=kind, message=name, sender=sender, step=burnt)
            event = MessageReceived(message)
            receipt = self._receipts.find(round_id) if envelope.kind is Kind.COUNTERSIGNATURE else None
            if receipt is not None:
                effects = receipt.handle(event, now)
                added = self._countersigned(receipt, effects)
                return Outcome(round_id, effects, Answer.ACCEPTED, kind=kind, message=name, sender=sender, step=added)
            entry = self._open.get(round_id)
            new = None if entry else self._unknown(message)
            if entry is None and new is None:
                return Outcome(round_id, [], Answer.ACCEPTED, kind=kind, message=name, sender=sender)
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

    def _takes_part(self, message: Admitted) -> bool:
        """Whether its sender takes part in the round that it is bound to, which is open."""
        entry = self._open.get(message.envelope.header.round)
        if entry is None or entry.machine.context != message.envelope.header.context:
            return False
        return message.envelope.sender in {party.identity for party in entry.machine.parties}

    def _unknown(self, message: Admitted) -> New | None:
        """The round that the message opens; None when it was taken in a round that has ended."""
        envelope = message.envelope
        taken = self._buried.get(envelope.header.round)
        if taken is not None:
            if envelope.digest in taken:
                return None
            raise MessageRefused(Answer.GONE, "round-ended")
        if envelope.kind is Kind.COUNTERSIGNATURE:  # it comes after the end of its round, which will never be known here
            raise MessageRefused(Answer.GONE, "round-ended")
        new = self._new_round(message) if envelope.kind is Kind.INVITATION else None
        if new is None:
            raise MessageRefused(Answer.LATER, "round-unknown")
        return new

    def _countersigned(self, receipt: Countersigning, effects: list[Effect]) -> Step | None:
        if receipt.ended:
            self._receipts.forget(receipt.round_id)
            if receipt.round_id in self._buried:
                self._buried[receipt.round_id] |= frozenset(receipt.seen.values())
        return countersigning_step(receipt.round_id, effects)

    def _happen(self, happened: Happened, now: float) -> Outcome:
        if happened.new is not None:
            effects, step = self._begin(happened.new, happened.event, None, now)
            return Outcome(happened.round_id, effects, step=step)
        entry = self._open.get(happened.round_id)
        if entry is None:
            return Outcome(happened.round_id, [])
        if isinstance(happened.event, ValuesRead | ValuesUnavailable) and entry.machine.unread is None:
            return Outcome(happened.round_id, [])  # read twice: the round was rebuilt while its values were being read
        event = happened.event
        if isinstance(event, ValuesRead) and entry.machine.unread is not None:
            event = self._settle(happened.round_id, entry.machine.unread.study, event, now)
        effects = entry.machine.handle(event, now)
        idle = all(isinstance(effect, WakeAt) for effect in effects)
        return Outcome(
            happened.round_id,
            effects,
            step=None if idle else self._step(happened.round_id, entry, event, None, effects, now),
        )

    def _begin(self, new: New, event: RoundEvent, arrived: Arrived | None, now: float) -> tuple[list[Effect], Step]:
        round_id = new.machine.round_id
        effects = new.machine.handle(event, now)
        key = None if new.machine.ended else self._keys.make(round_id)
        # A patient learns from the Invitation itself what is asked.
        study = next((effect.request.study for effect in effects if isinstance(effect, Asked | Decided)), new.study)
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
        receipt: ReceiptPart | None = None
        entries: list[LedgerEntry] = []
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
                case Asked():
                    self._ledger.decided(now)
                    audit.append(_requested(now, AuditEvent.ASKED, round_id, effect.request))
                case Decided():
                    if not effect.by_person:
                        self._ledger.decided(now)
                    said = AuditEvent.DECLINED if effect.reason else AuditEvent.CONSENTED
                    by = "person" if effect.by_person else "rule"
                    audit.append(_requested(now, said, round_id, effect.request, by=by, reason=effect.reason))
                case Unreleased():
                    entries += self._ledger.not_released(effect, now)
                case Submitted():
                    entries += self._ledger.submitted(round_id, effect, now)
                    context, members = effect.context.hex(), [member.uri for member in effect.members]
                    audit.append(
                        audit_line(now, AuditEvent.SUBMITTED, effect.study, round=name, context=context, members=members)
                    )
                case Released():
                    released = effect
                    context, count = effect.result.context.hex(), effect.result.members
                    audit.append(audit_line(now, AuditEvent.RELEASED, entry.study, round=name, context=context, members=count))
                case Receipted():
                    keep = self._receipts.open if self._me.role is Role.HOSPITAL else self._receipts.close
                    receipt = keep(effect.receipt, machine.keyring)
                    audit.append(audit_line(now, AuditEvent.RECEIPTED, entry.study, round=name, receipt=receipt.digest.hex()))
                case Ended():
                    if effect.outcome == RELEASED and machine.context is not None:
                        entries += self._ledger.received(machine.context)
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
        return Step(round_id, None, event_bytes, tuple(posted), called_back, closed, tuple(audit), receipt, tuple(entries))

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
    detail = ended.detail[:_MOST_WORDS]
    content = {"outcome": ended.outcome, "code": ended.code, "missing": list(ended.missing), "detail": detail}
    return audit_line(now, AuditEvent.ENDED, study, round=round_id.hex(), **content)


def _requested(now: float, event: AuditEvent, round_id: bytes, request: Request, **more: str) -> AuditLine:
    """What was asked, in so few words that no hospital fills a disk; by digests, too, for a withdrawal to know it again."""
    return audit_line(
        now,
        event,
        request.study,
        round=round_id.hex(),
        hospital=request.hospital.uri,
        asks=few(request.questions, 5)[:_MOST_WORDS],
        purpose=request.purpose[:_MOST_WORDS],
        digest=request.digest.hex(),
        questions=[] if event is AuditEvent.DECLINED else [question_digest(one).hex() for one in request.questions],
        **more,
    )
