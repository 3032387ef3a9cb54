"""Receipts as a node keeps them, and those at a hospital to which members' countersignatures are still added."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mpc.errors import MessageRefused
from mpc.keys import Keyring
from mpc.receipt import SignedReceipt
from mpc.rounds.countersigning import Countersigning
from mpc.rounds.events import Countersigned, Effect
from mpc.wire import Struct, decode, encode
from nodes.store.base import KeptReceipt, ReceiptPart, Step


class _Kept(Struct, frozen=True):
    key_id: bytes
    """Of the encryption key with which this node took part."""
    receipt: SignedReceipt


def assembled(kept: KeptReceipt) -> SignedReceipt:
    """The receipt with every countersignature that came. Raises MessageRefused where the store has been tampered with."""
    receipt = decode(kept.content, _Kept).receipt
    for number, signature in kept.countersignatures:
        receipt = receipt.countersigned(number - 1, signature)
    return receipt


class OpenReceipts:
    """Those that wait for countersignatures, by round. For the protocol thread."""

    def __init__(self, keyring: Callable[[bytes], Keyring | None]) -> None:
        """`keyring` finds the one with an encryption key, while that is kept."""
        self._keyring = keyring
        self._open: dict[bytes, Countersigning] = {}

    def close(self, receipt: SignedReceipt, keyring: Keyring) -> ReceiptPart:
        """What is to be kept of a receipt that is not added to: a member's."""
        return ReceiptPart(0, encode(_Kept(keyring.encryption.key_id, receipt)), receipt.digest)

    def open(self, receipt: SignedReceipt, keyring: Keyring) -> ReceiptPart:
        """What is to be kept of one that is, from now on: the hospital's own."""
        added_to = Countersigning(keyring, receipt)
        self._open[added_to.round_id] = added_to
        return ReceiptPart(0, encode(_Kept(keyring.encryption.key_id, receipt)), receipt.digest, added_to.until)

    def resume(self, kept: KeptReceipt) -> None:
        """Goes on with one from the store. Without the key that members seal with, or damaged there, it stays as it is."""
        try:
            keyring = self._keyring(decode(kept.content, _Kept).key_id)
            added_to = None if keyring is None else Countersigning(keyring, assembled(kept))
        except (MessageRefused, IndexError):
            return
        if added_to is not None and not added_to.ended:
            self._open[kept.round_id] = added_to

    def find(self, round_id: bytes) -> Countersigning | None:
        """The one of a round that has ended."""
        return self._open.get(round_id)

    def forget(self, round_id: bytes) -> None:
        """It is complete, or what was done to it last could not be kept."""
        self._open.pop(round_id, None)

    def key_ids(self, now: float) -> Iterable[bytes]:
        """Encryption keys that countersignatures are sealed with. Those whose time is over at `now` are forgotten first."""
        for round_id in [round_id for round_id, added_to in self._open.items() if now > added_to.until]:
            self.forget(round_id)
        return {added_to.keyring.encryption.key_id for added_to in self._open.values()}


def countersigning_step(round_id: bytes, effects: Iterable[Effect]) -> Step | None:
    """What is to be kept of a countersignature; None when it was there already."""
    for effect in effects:
        if isinstance(effect, Countersigned):
            return Step(round_id, receipt=ReceiptPart(effect.place + 1, effect.signature))
    return None
