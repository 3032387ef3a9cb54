"""Places to keep a store in: memory, a directory, a PostgreSQL server."""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from nodes.store.base import Store
from nodes.store.postgres import PostgresStore
from nodes.store.sealing import StorageKey
from nodes.store.sqlite import SqliteStore
from nodes.store.volatile import VolatileStore
from scripts.postgres import Cluster, NotInstalled, running_cluster
from tests.nodes.store.steps import NODE

KEY = StorageKey(bytes(range(32)))
_names = itertools.count()


class Place:
    """Makes stores, one after the other, that all hold what was kept in this place."""

    def __init__(self, make: Callable[[], Store]) -> None:
        self.make = make

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Store]:
        store = self.make()
        await store.open()
        try:
            yield store
        finally:
            await store.close()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server, or a reason why there is none."""
    if importlib.util.find_spec("asyncpg") is None:
        pytest.skip("asyncpg is not installed")
    try:
        with running_cluster() as running:
            yield running
    except NotInstalled as missing:
        pytest.skip(str(missing))


@pytest.fixture
def database(cluster: Cluster) -> str:
    """The name of a new database."""
    name = f"test_{next(_names)}"
    cluster.sql(f"CREATE DATABASE {name}")
    return name


def _volatile() -> Callable[[], Store]:
    last = VolatileStore()

    def make() -> Store:
        nonlocal last
        last = last.copy()
        return last

    return make


@pytest.fixture(params=["volatile", "sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each kind of store in turn."""
    match request.param:
        case "volatile":
            return Place(_volatile())
        case "sqlite":
            return Place(lambda: SqliteStore(tmp_path / "state" / "store.db", NODE, KEY))
        case _:
            cluster: Cluster = request.getfixturevalue("cluster")
            node = f"{NODE}-{next(_names)}"  # all of these nodes share one database
            return Place(lambda: PostgresStore(cluster.url(), node, KEY))


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    """An open store."""
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(place.opened())


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory that is not there yet."""
    return tmp_path / "state"


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do this")
