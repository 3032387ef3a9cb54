"""A node's keys while it runs: the one of its identity, and an encryption key that is made anew every day.

    pending --its time comes--> active --the next one's time comes--> expired --nobody needs it--> erased

A key is made, and kept sealed in the store, some minutes before its time: a full disk is noticed while the active one is good.
Rounds are promised the active key and finish under it, restarts and all. An expired key is erased once no open round needs it and
what was sealed with it without a round, an Invitation on its way through a relay, has had its time to arrive.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from mpc.errors import MessageRefused
from mpc.keys import DEFAULT_BITS, PUBLIC_EXPONENT, EncryptionKey, Keyring, check_statement, publish
from mpc.statement import Signed
from mpc.wire import Struct, decode, encode
from nodes.config import EncryptionKeyRules
from nodes.log import Event, Logger
from nodes.metrics import Registry
from nodes.store.base import KeptKey, Store
from nodes.store.sealing import StorageKey
from pki.node import NodeKey

LONGEST_ROUND = 7 * 24 * 3600
"""Seconds: a statement in use always has so much of its life left."""
MOST_AHEAD = 600.0
"""Seconds before its time that a key is made; a tenth of the time between two where that is less."""
_SWEEP_SECONDS = 3600.0
_ERASED_SHOWN = 3


class State(StrEnum):
    """Of one encryption key."""

    PENDING = "pending"
    ACTIVE = "active"
    EXPIRED = "expired"
    ERASED = "erased"


@dataclass(frozen=True, slots=True)
class Made:
    """A key that is in the store, and the identity that published it. See `Keys.make`."""

    node: NodeKey
    encryption: EncryptionKey
    since: float
    """From when rounds are promised it, Unix seconds."""


class _Kept(Struct, frozen=True):
    since: float
    private_key: bytes
    """PKCS #8, DER."""
    statement: Signed


class Keys:
    """Gives the active keyring, and those that open rounds were promised.

    `rules` is asked each time, so that it may change. For the event loop, but for `keyring`, `find` and `adopt`.
    """

    def __init__(
        self,
        node: NodeKey,
        store: Store,
        storage_key: StorageKey,
        rules: Callable[[], EncryptionKeyRules],
        metrics: Registry,
        log: Logger,
        former: Sequence[NodeKey] = (),
    ) -> None:
        """`former` are identities that this node had before `node`: rounds from their time go on under them."""
        self._node = node
        self._former = former
        self._store = store
        self._storage_key = storage_key
        self._rules = rules
        self._log = log
        self._lock = asyncio.Lock()
        """Held by whoever makes or erases a key."""
        self._turn = threading.Lock()
        """Held for the moment in which another key becomes active."""
        self._keyrings: dict[bytes, Keyring] = {}
        """By key id, oldest first."""
        self._since: dict[bytes, float] = {}
        """From when each key is what it is; a pending one, from when it will be active."""
        self._active = b""
        self._scheduled: Made | None = None
        """Pending, for this identity."""
        self._prepared: Made | None = None
        """Pending, for the next identity."""
        self._erased: OrderedDict[bytes, float] = OrderedDict()
        """The last few, and when."""
        self._kept = metrics.gauge("cohortium_encryption_keys", "Encryption keys that are kept, by state.", ("state",))
        self._gone = metrics.counter("cohortium_encryption_keys_erased_total", "Encryption keys that were erased.")
        metrics.gauge(
            "cohortium_encryption_key_age_seconds", "For how long the active encryption key has been that.", read=self._age
        )

    @property
    def keyring(self) -> Keyring:
        """What new rounds sign and open with. Only after `open`."""
        return self._keyrings[self._active]

    def find(self, key_id: bytes) -> Keyring | None:
        """The keyring with that encryption key, while it is kept."""
        return self._keyrings.get(key_id)

    def status(self) -> dict[str, dict[str, object]]:
        """Each key by the first 16 hex digits of its id: its state, and since when it has it; pending, until when."""
        keys = {key_id: (State.ERASED, at) for key_id, at in self._erased.items()}
        keys |= {key_id: (self._state(key_id), self._since[key_id]) for key_id in list(self._keyrings)}
        return {_name(key_id): {"state": str(state), "since": since} for key_id, (state, since) in keys.items()}

    async def open(self) -> None:
        """Takes what the store has, and makes a key where none of it can be used now. Raises StoreError."""
        now = time.time()
        for kept in await self._store.keys():
            key = decode(self._storage_key.unseal(kept.sealed, _label(kept.key_id)), _Kept)
            private_key = load_der_private_key(key.private_key, None)
            assert isinstance(private_key, rsa.RSAPrivateKey), "nothing else is kept"
            encryption = EncryptionKey(private_key, kept.key_id, key.statement, int(kept.not_after))
            owner = next((node for node in (self._node, *self._former) if _is_published(encryption, node, now)), None)
            made = Made(owner or self._node, encryption, key.since)
            self._hold(made)
            if owner is not self._node:
                self._since[kept.key_id] = now
            elif key.since > now:
                self._scheduled = made
            else:
                self._activate(made, key.since)
        if not self._active or self._due_at() <= now:
            await self.rotate()
        self._count()

    async def rotate(self) -> Keyring:
        """Makes a key and uses it for rounds from now on, whatever the schedule. Returns its keyring.

        The pending one is not used: who rotates because something may be known wants a key that was made after that.
        Raises StoreError, and changes nothing.
        """
        async with self._lock:
            made = await self._make(self._node, time.time())
            with self._turn:
                if made.node is self._node:
                    self._use(made)
        self._count()
        return self.keyring

    async def make(self, node: NodeKey) -> Made:
        """A pending key for an identity that is about to be used: see `adopt`. Raises StoreError."""
        async with self._lock:
            self._prepared = await self._make(node, time.time())
            return self._prepared

    def adopt(self, made: Made) -> None:
        """Works under the identity of `made`, and with that key, from now on. For any thread; does not fail."""
        with self._turn:
            self._node, self._prepared = made.node, None
            self._use(made)

    async def tend(self, needed: frozenset[bytes]) -> None:
        """What is due: makes the next key, uses it, erases those that have expired, but none in `needed`. Raises StoreError."""
        async with self._lock:
            if self._scheduled is None and time.time() >= self._due_at() - self._ahead():
                made = await self._make(self._node, max(self._due_at(), time.time()))
                self._log.info(Event.KEY_MADE, key_id=_name(made.encryption.key_id))
                with self._turn:
                    self._scheduled = made if made.node is self._node else None
            with self._turn:
                if self._scheduled is not None and time.time() >= self._due_at():
                    self._use(self._scheduled)
            now = time.time()
            for key_id in [key_id for key_id in self._keyrings if self._ends(key_id) <= now and key_id not in needed]:
                await self._erase(key_id)
        self._count()

    def due(self) -> float:
        """Seconds until `tend` has something to do, if no round ends before."""
        now = time.time()
        times = [self._due_at() - (self._ahead() if self._scheduled is None else 0.0)]
        times += [end for key_id in self._keyrings if (end := self._ends(key_id)) > now]  # the others wait for their rounds
        return max(0.0, min(_SWEEP_SECONDS, min(times) - now))

    # -- one key

    def _state(self, key_id: bytes) -> State:
        if key_id == self._active:
            return State.ACTIVE
        pending = [made.encryption.key_id for made in (self._scheduled, self._prepared) if made is not None]
        return State.PENDING if key_id in pending else State.EXPIRED

    def _age(self) -> float:
        return time.time() - self._since[self._active] if self._active else 0.0

    def _count(self) -> None:
        states = [self._state(key_id) for key_id in self._keyrings]
        for state in (State.PENDING, State.ACTIVE, State.EXPIRED):
            self._kept.set(states.count(state), state=state)

    def _ahead(self) -> float:
        return min(MOST_AHEAD, self._rules().every / 10)

    def _due_at(self) -> float:
        """When the active key is replaced, Unix seconds."""
        return min(self._since[self._active] + self._rules().every, self.keyring.encryption.not_after - LONGEST_ROUND)

    def _ends(self, key_id: bytes) -> float:
        """From when an expired key may be erased, Unix seconds; for the others never."""
        return self._since[key_id] + self._rules().keep if self._state(key_id) is State.EXPIRED else math.inf

    async def _make(self, node: NodeKey, since: float) -> Made:
        """A new key, in the store and held."""
        now = time.time()
        lifetime = int(since - now) + self._rules().every + LONGEST_ROUND
        key = await asyncio.to_thread(_generate, node, now, lifetime)  # some tenths of a second
        private_key = key.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        sealed = self._storage_key.seal(encode(_Kept(since, private_key, key.statement)), _label(key.key_id))
        await self._store.keep_key(KeptKey(key.key_id, float(key.not_after), sealed))
        made = Made(node, key, since)
        self._hold(made)
        return made

    def _hold(self, made: Made) -> None:
        node, key_id = made.node, made.encryption.key_id
        self._since[key_id] = made.since
        self._keyrings[key_id] = Keyring(node.identity, node.private_key, node.chain, made.encryption)

    def _use(self, made: Made) -> None:
        now = time.time()
        if self._scheduled is not None:
            self._since[self._scheduled.encryption.key_id] = now  # expired unused, where it is not `made` itself
        self._activate(made, now)
        self._scheduled = None
        self._log.info(Event.KEY_ROTATED, key_id=_name(made.encryption.key_id))

    def _activate(self, made: Made, since: float) -> None:
        """The one before has expired since then."""
        if self._active:
            self._since[self._active] = since
        self._active = made.encryption.key_id
        self._since[self._active] = since

    async def _erase(self, key_id: bytes) -> None:
        await self._store.erase_key(key_id)
        del self._keyrings[key_id], self._since[key_id]
        self._gone.inc()
        self._erased[key_id] = time.time()
        if len(self._erased) > _ERASED_SHOWN:
            self._erased.popitem(last=False)
        self._log.info(Event.KEY_ERASED, key_id=_name(key_id))


def _is_published(key: EncryptionKey, node: NodeKey, now: float) -> bool:
    """Whether this identity published it, and peers take it from there."""
    try:
        check_statement(key.statement, node.credential, now)
    except MessageRefused:
        return False
    return True


def _generate(node: NodeKey, now: float, lifetime: int) -> EncryptionKey:
    return publish(node.identity, node.private_key, rsa.generate_private_key(PUBLIC_EXPONENT, DEFAULT_BITS), now, lifetime)


def _label(key_id: bytes) -> str:
    return f"encryption key {key_id.hex()}"


def _name(key_id: bytes) -> str:
    """As logs and status have it."""
    return key_id.hex()[:16]
