"""What a released round leaves at its hospital: a receipt that members countersign, until all have or the time is up.

    open --each member's Countersignature--> complete

The round itself has ended with its result, and its round key is forgotten; nothing in here is secret. So this is made from the
receipt alone, after a restart as well. Past its time every message is answered with `gone`, and nobody has to end it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from mpc.errors import Answer, MessageRefused
from mpc.identity import Credential, Identity
from mpc.keys import Keyring
from mpc.messages import COUNTERSIGNATURE_STATEMENT, Consent, Countersignature, Kind, Roster
from mpc.receipt import COUNTERSIGN_SECONDS, ReceiptStatement, SignedReceipt
from mpc.rounds.admission import Admitted
from mpc.rounds.events import Countersigned, Effect
from mpc.rounds.machine import Machine, Received, Transitions
from mpc.signature import sha256
from mpc.statement import read
from mpc.wire import decode


class CountersigningState(StrEnum):
    """Where it stands."""

    OPEN = "open"
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class _Line:
    """A member."""

    place: int
    """In the roster."""
    round_key: bytes


class Countersigning(Machine):
    """The countersignatures of one receipt."""

    name = "countersigning"

    def __init__(self, keyring: Keyring, receipt: SignedReceipt) -> None:
        """`keyring` is the one of the round, `receipt` the hospital's own, with the countersignatures that it has so far."""
        statement = decode(receipt.statement.body, ReceiptStatement)
        # Its entropy is used for nothing: what is forgotten at once may as well be zeros.
        super().__init__(statement.round, keyring, bytes, CountersigningState.OPEN)
        self.round_key = None
        self.context, self.version = statement.context, statement.version
        self.until = statement.deadline + COUNTERSIGN_SECONDS
        """Unix seconds."""
        self._digest = receipt.digest
        self._members = {
            sha256(member.chain[0]): _Line(place, decode(member.consent.body, Consent).round_key)
            for place, member in enumerate(decode(receipt.roster, Roster).members)
        }
        """By the digest of the certificate."""
        self._signed = {place for place, signature in enumerate(receipt.countersignatures) if signature}
        """Places of those who have."""
        self._complete_when_all_have_signed()

    @property
    def ended(self) -> bool:
        """Whether nothing more can happen."""
        return self.state is CountersigningState.COMPLETE

    @property
    def heavy(self) -> bool:
        """See `Machine.heavy`."""
        return False

    @property
    def parties(self) -> tuple[Credential, ...]:
        """See `Machine.parties`. A certificate that is revoked is no longer admitted, and that is enough here."""
        return ()

    def check_invariants(self) -> None:
        """See `Machine.check_invariants`."""
        assert self._signed <= {line.place for line in self._members.values()}, "only members countersign"
        assert self.ended == (len(self._signed) == len(self._members)), "complete means that all have"
        assert self.round_key is None, "there is nothing to seal"

    def _check_sender(self, message: Admitted) -> None:
        line = self._members.get(message.credential.digest)
        if line is None:
            raise MessageRefused(Answer.REFUSED, "sender")
        if message.envelope.header.round_key != line.round_key:
            raise MessageRefused(Answer.REFUSED, "round-key")

    def _equivocated(self, sender: Identity, now: float) -> list[Effect]:
        # A node that was restored from a backup seals the same anew. What it signed is in the receipt already.
        raise MessageRefused(Answer.REFUSED, "equivocation")

    def _countersigned(self, received: Received, now: float) -> list[Effect]:
        if now > self.until:
            raise MessageRefused(Answer.GONE, "round-ended")
        credential = received.message.credential
        content = read(received.payload, COUNTERSIGNATURE_STATEMENT, Countersignature, credential.public_key)
        if content is None or content.receipt != self._digest:
            raise MessageRefused(Answer.REFUSED, "countersignature")
        place = self._members[credential.digest].place
        if place in self._signed:
            return []  # taken in an earlier life; there is one form of each signature
        self._signed.add(place)
        self._complete_when_all_have_signed()
        return [Countersigned(received.sender, place, received.payload.signature)]

    def _complete_when_all_have_signed(self) -> None:
        if len(self._signed) == len(self._members):
            self.state = CountersigningState.COMPLETE

    transitions: ClassVar[Transitions] = {(CountersigningState.OPEN, Kind.COUNTERSIGNATURE): _countersigned}
