"""A node's keys while it runs: the identity from its files, and an encryption key that is made anew every day.

The encryption key lives in memory only. A round keeps the keyring that it began with, so an old key is forgotten with the
last round that was promised it.
"""

from __future__ import annotations

import asyncio
import time

from cryptography.hazmat.primitives.asymmetric import rsa

from mpc.keys import DEFAULT_BITS, PUBLIC_EXPONENT, EncryptionKey, Keyring, publish
from nodes.log import Event, Logger
from pki.node import NodeKey

ROTATE_SECONDS = 24 * 3600.0
"""A statement in use always has a week of its life left, the longest that a round may take."""


class Keys:
    """Gives the current keyring."""

    def __init__(self, node: NodeKey, log: Logger) -> None:
        self._node = node
        self._log = log
        self._keyring: Keyring | None = None

    @property
    def keyring(self) -> Keyring:
        """What new rounds sign and open with. Only after `rotate`."""
        assert self._keyring is not None, "the daemon makes a key before it listens"
        return self._keyring

    async def rotate(self) -> None:
        """Makes a new encryption key (some tenths of a second, off the loop) and uses it for rounds from now on."""
        encryption = await asyncio.to_thread(self._make)
        self._keyring = Keyring(self._node.identity, self._node.private_key, self._node.chain, encryption)
        self._log.info(Event.KEY_ROTATED, key_id=encryption.key_id.hex()[:16])

    async def keep_rotating(self) -> None:
        """Rotates for as long as the node runs."""
        while True:
            await asyncio.sleep(ROTATE_SECONDS)
            await self.rotate()

    def _make(self) -> EncryptionKey:
        private_key = rsa.generate_private_key(PUBLIC_EXPONENT, DEFAULT_BITS)
        return publish(self._node.identity, self._node.private_key, private_key, time.time())
