"""What a node keeps between its lives: a state directory with the store, the keys of open rounds and the commit counter.

    STATE/store.db            the store, unless `store` names a PostgreSQL database
    STATE/store.large/        what open rounds hold that is too large for it
    STATE/rounds.keys         the keys of open rounds, each destroyed when its round ends
    STATE/identity.sealed     the key and certificate that the node got itself, see `identity`
    STATE/commits             the counter that tells a restored copy from the original

The storage key, which seals all of it, lies elsewhere: a copy of the directory without it shows nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mpc.identity import Identity
from nodes.identity import SEALED
from nodes.store.base import Store
from nodes.store.counter import BackupGuard
from nodes.store.open import FILE, make_store
from nodes.store.round_keys import RoundKeys
from nodes.store.sealing import StorageKey, credentials_directory, make_storage_key
from pki.files import is_there, make_directory


@dataclass(frozen=True, slots=True)
class State:
    """The opened state of one node."""

    store: Store
    storage_key: StorageKey
    round_keys: RoundKeys
    guard: BackupGuard


def load_state(me: Identity, directory: Path, url: str | None, storage_key: Path) -> State:
    """Opens what is there, and makes what a new node lacks, the storage key included.

    The store itself is opened by `store.open()`. Raises IdentityError for a storage key that cannot be used, or is missing
    though there is a state; ConfigError for a directory that cannot be written.
    """
    make_directory(directory)
    guard, round_keys, identity = directory / "commits", directory / "rounds.keys", directory / SEALED
    credentials = credentials_directory(os.environ)
    # A new key beside any of these would only hide that theirs is missing: a restored copy may lack some of them.
    new = url is None and not any(is_there(path) for path in (guard, round_keys, identity, directory / FILE))
    if new and not is_there(storage_key) and credentials is None:
        make_storage_key(storage_key)
    key = StorageKey.load(storage_key, credentials)
    return State(make_store(url, directory, me, key), key, RoundKeys(round_keys, key), BackupGuard(guard))
