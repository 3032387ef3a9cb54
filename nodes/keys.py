"""A node's keys while it runs: the identity from its files, and an encryption key that is made anew every day.

Encryption keys are kept sealed in the store, so that a round which was promised one finishes under it, restarts and all. A key
is erased once it is not the newest and no open round needs it.
"""

from __future__ import annotations

import asyncio
import time

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from mpc.errors import MessageRefused
from mpc.keys import DEFAULT_BITS, PUBLIC_EXPONENT, EncryptionKey, Keyring, check_statement, publish
from mpc.statement import Signed
from mpc.wire import Struct, decode, encode
from nodes.log import Event, Logger
from nodes.store.base import KeptKey, Store
from nodes.store.sealing import StorageKey
from pki.node import NodeKey

ROTATE_SECONDS = 24 * 3600.0
"""A statement in use always has a week of its life left, the longest that a round may take."""
_SWEEP_SECONDS = 3600.0


class _Kept(Struct, frozen=True):
    made: float
    private_key: bytes
    """PKCS #8, DER."""
    statement: Signed


class Keys:
    """Gives the current keyring, and those that open rounds were promised."""

    def __init__(self, node: NodeKey, store: Store, storage_key: StorageKey, log: Logger) -> None:
        self._node = node
        self._store = store
        self._storage_key = storage_key
        self._log = log
        self._keyrings: dict[bytes, Keyring] = {}
        """By key id, oldest first."""
        self._made = 0.0
        self._current = b""

    @property
    def keyring(self) -> Keyring:
        """What new rounds sign and open with. Only after `open`."""
        return self._keyrings[self._current]

    def find(self, key_id: bytes) -> Keyring | None:
        """The keyring with that encryption key, while it is kept."""
        return self._keyrings.get(key_id)

    async def open(self) -> None:
        """Takes what the store has, and makes a key where the newest is a day old or another identity's. Raises StoreError."""
        for kept in await self._store.keys():
            key = decode(self._storage_key.unseal(kept.sealed, _label(kept.key_id)), _Kept)
            private_key = load_der_private_key(key.private_key, None)
            assert isinstance(private_key, rsa.RSAPrivateKey), "nothing else is kept"
            self._take(EncryptionKey(private_key, kept.key_id, key.statement, int(kept.not_after)))
            if self._is_current(key):
                self._current, self._made = kept.key_id, key.made
        if time.time() - self._made >= ROTATE_SECONDS:
            await self.rotate()

    async def rotate(self) -> None:
        """Makes a new encryption key (some tenths of a second, off the loop) and uses it for rounds from now on."""
        made = time.time()
        encryption = await asyncio.to_thread(self._make, made)
        private_key = encryption.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        sealed = self._storage_key.seal(encode(_Kept(made, private_key, encryption.statement)), _label(encryption.key_id))
        await self._store.keep_key(KeptKey(encryption.key_id, float(encryption.not_after), sealed))
        self._take(encryption)
        self._current, self._made = encryption.key_id, made
        self._log.info(Event.KEY_ROTATED, key_id=encryption.key_id.hex()[:16])

    async def erase_unneeded(self, needed: frozenset[bytes]) -> None:
        """Forgets every key but the current one and those whose ids are in `needed`. Raises StoreError."""
        # The one before the current, too: an Invitation that waits at a relay may be sealed with it.
        newest = frozenset(list(self._keyrings)[-2:])
        for key_id in [key_id for key_id in self._keyrings if key_id not in newest | needed | {self._current}]:
            await self._store.erase_key(key_id)
            del self._keyrings[key_id]
            self._log.info(Event.KEY_ERASED, key_id=key_id.hex()[:16])

    def due(self) -> float:
        """Seconds until the next rotation, or the next look at what may be erased, whichever is first."""
        return max(0.0, min(_SWEEP_SECONDS, self._made + ROTATE_SECONDS - time.time()))

    def is_due(self) -> bool:
        """Whether the current key has served its day."""
        return time.time() - self._made >= ROTATE_SECONDS

    def _take(self, encryption: EncryptionKey) -> None:
        self._keyrings[encryption.key_id] = Keyring(self._node.identity, self._node.private_key, self._node.chain, encryption)

    def _is_current(self, key: _Kept) -> bool:
        """Whether this identity published it: after a renewal the old statement names a key that peers no longer see."""
        try:
            check_statement(key.statement, self._node.credential, time.time())
        except MessageRefused:
            return False
        return True

    def _make(self, now: float) -> EncryptionKey:
        private_key = rsa.generate_private_key(PUBLIC_EXPONENT, DEFAULT_BITS)
        return publish(self._node.identity, self._node.private_key, private_key, now)


def _label(key_id: bytes) -> str:
    return f"encryption key {key_id.hex()}"
