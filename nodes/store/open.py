"""Which store a node has: an SQLite file in its state directory, or PostgreSQL by URL."""

from __future__ import annotations

from pathlib import Path

from mpc.errors import ConfigError
from mpc.identity import Identity
from nodes.store.base import Store
from nodes.store.sealing import StorageKey

FILE = "store.db"


def make_store(url: str | None, directory: Path, identity: Identity, key: StorageKey) -> Store:
    """The store at `url` (postgresql://...), or the one in `directory` when there is no URL; it is still to be opened.

    Raises ConfigError for a URL of anything else, and when what PostgreSQL needs is not installed.
    """
    if url is None:
        from nodes.store.sqlite import SqliteStore

        return SqliteStore(directory / FILE, identity.uri, key)
    scheme = url.partition("://")[0]
    if scheme in {"postgresql", "postgres"}:
        from nodes.store.postgres import PostgresStore

        return PostgresStore(url, identity.uri, key)
    # The URL may hold a password: only its scheme is told.
    raise ConfigError(
        f"store: cannot use a URL that begins with {scheme[:20]!r}; write postgresql://USER@HOST/DATABASE, or leave it out for "
        f"an SQLite file in the state directory"
    )
