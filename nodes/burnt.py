"""A member's word at the hospital that it made no PartialSum: taken whenever it comes, mostly after the round has ended here."""

from __future__ import annotations

from collections.abc import Callable

from mpc.envelope import open_sealed
from mpc.errors import Answer, MessageRefused
from mpc.keys import Keyring
from mpc.messages import BURNT_STATEMENT, Burnt, BurntRound
from mpc.rounds.admission import Admitted
from mpc.statement import Signed, read
from mpc.wire import decode_payload
from nodes.ledger import Ledger
from nodes.store.base import LedgerEntry


class BurntInbox:
    """For the protocol thread."""

    def __init__(self, keyring: Callable[[bytes], Keyring | None], ledger: Ledger) -> None:
        """`keyring` finds the one with an encryption key, while that is kept."""
        self._keyring = keyring
        self._ledger = ledger

    def take(self, message: Admitted, takes_part: bool, now: float) -> tuple[LedgerEntry, ...]:
        """What is to be kept of it; `takes_part`: its round is open, and the sender a member. Raises MessageRefused."""
        envelope = message.envelope
        if not takes_part and not self._ledger.awaits_burnt(envelope.header.context, envelope.sender):
            raise MessageRefused(Answer.GONE, "round-ended")  # of no use here; and nobody fills a disk with it
        payload = bytes(envelope.ciphertext)
        if envelope.sealed:
            keyring = self._keyring(envelope.header.key_id)
            if keyring is None:
                raise MessageRefused(Answer.UNOPENABLE, "key-unknown")
            payload = open_sealed(envelope, keyring.encryption.private_key, None)
        statement = decode_payload(payload, Signed)
        burnt = read(statement, BURNT_STATEMENT, Burnt, message.credential.public_key)
        if burnt is None or burnt.context != envelope.header.context:
            raise MessageRefused(Answer.REFUSED, "burnt")
        return self._ledger.burnt(burnt.context, envelope.sender, BurntRound(envelope.chain, statement), now)
