"""The PostgreSQL store: shared by nodes, held by one daemon each, and back by itself when the server is."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from mpc.errors import ConfigError, IdentityError
from nodes.audit import verify
from nodes.store import postgres
from nodes.store.base import StoreError
from nodes.store.postgres import PostgresStore
from nodes.store.schema import POSTGRES
from nodes.store.sealing import StorageKey
from scripts.postgres import Cluster
from tests.nodes.store.conftest import KEY
from tests.nodes.store.steps import NODE, NOW, ONE, OTHER_NODE, TWO, begin, close, closed_at, event, line
from tests.nodes.transport.conftest import cut

SOCKET = ".s.PGSQL.5432"


@pytest.fixture(autouse=True)
def _no_long_wait_for_a_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_LOCK_TIMEOUT", "100ms")


@asynccontextmanager
async def opened(url: str, node: str = NODE) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(url, node, KEY)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


class Proxy:
    """Stands between a store and its server, and can lose the answer to a commit, or everything."""

    def __init__(self, server: Path) -> None:
        self.lose_answer = False
        self.forward = True
        self._server = server
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Path]:
        """The directory of the proxy's socket."""
        with tempfile.TemporaryDirectory() as name:
            async with await asyncio.start_unix_server(self._serve, Path(name) / SOCKET):
                yield Path(name)
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with suppress(asyncio.CancelledError):  # the streams would log it
            if self.forward:
                answers, server = await asyncio.open_unix_connection(self._server / SOCKET)
                async with asyncio.TaskGroup() as group:
                    asked = group.create_task(self._pump(reader, server))
                    try:
                        await self._pump(answers, writer, answers=True)
                    finally:
                        asked.cancel()
                        await cut(server)
        await cut(writer)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool = False) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65_536):
                if answers and self.lose_answer and b"COMMIT\x00" in data:  # the server's "done"
                    self.forward = self.lose_answer = False
                    return
                sink.write(data)
                await sink.drain()


async def test_nodes_share_a_database_and_see_only_their_own(cluster: Cluster, database: str) -> None:
    url = cluster.url(database)
    async with opened(url) as alice, opened(url, OTHER_NODE) as bob:
        await alice.commit([begin(1), event(1, b"of alice"), begin(2)])
        await bob.commit([begin(1)])
        assert await bob.commit([event(1, b"of bob")]) == 2
        await bob.commit([close(1, closed_at(NOW))])
        assert [(kept.round_id, kept.events) for kept in await alice.open_rounds()] == [(ONE, (b"of alice",)), (TWO, ())]
        assert await alice.counter() == 1
        assert await alice.closed_rounds(10) == []
        await bob.erase_before(NOW + 1)
        assert len(await alice.open_rounds()) == 2


async def test_two_daemons_of_one_name_cannot_use_one_store(cluster: Cluster, database: str) -> None:
    url = cluster.url(database)
    async with opened(url) as first:
        with pytest.raises(ConfigError, match="is in use by another daemon; stop that one"):
            await PostgresStore(url, NODE, KEY).open()
        assert await first.commit([begin()]) == 1
    async with opened(url) as second:
        assert await second.counter() == 1


async def test_the_wrong_storage_key_is_one_clear_error(cluster: Cluster, database: str) -> None:
    async with opened(cluster.url(database)):
        pass
    with pytest.raises(IdentityError, match="the storage key does not fit this store"):
        await PostgresStore(cluster.url(database), NODE, StorageKey(bytes(32))).open()


async def test_upgrades_are_made_and_a_newer_store_is_refused(
    cluster: Cluster, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = cluster.url(database)
    async with opened(url) as store:
        await store.commit([begin()])
    monkeypatch.setattr(postgres, "POSTGRES", (*POSTGRES, "CREATE TABLE cohortium.tomorrow (x integer);"))
    async with opened(url) as store:
        assert len(await store.open_rounds()) == 1
    monkeypatch.undo()
    with pytest.raises(
        ConfigError, match=rf"written by a newer cohortium \(store version {len(POSTGRES) + 1}, this program knows"
    ):
        await PostgresStore(url, NODE, KEY).open()


async def test_daemons_that_start_together_make_the_tables_once(cluster: Cluster, database: str) -> None:
    stores = [PostgresStore(cluster.url(database), f"{NODE}-{number}", KEY) for number in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    assert await asyncio.gather(*(store.commit([begin()]) for store in stores)) == [1] * 4
    await asyncio.gather(*(store.close() for store in stores))


async def test_a_lost_connection_is_made_again(cluster: Cluster, database: str) -> None:
    async with opened(cluster.url(database)) as store:
        await store.commit([begin()])
        await asyncio.to_thread(cluster.disconnect, database)
        with suppress(StoreError):  # unless the client has noticed before
            await store.counter()
        assert await store.commit([event()]) == 2
        assert len((await store.open_rounds())[0].events) == 1
        # The lock came back with the connection.
        with pytest.raises(ConfigError, match="in use"):
            await PostgresStore(cluster.url(database), NODE, KEY).open()


async def test_while_the_server_is_away_every_call_says_so(cluster: Cluster, database: str) -> None:
    url = cluster.url(database)
    async with opened(url) as store:
        await store.commit([begin()])
        await asyncio.to_thread(cluster.stop)
        try:
            for call in (store.counter(), store.commit([event()]), store.delivered([(ONE, 0)]), store.open_rounds()):
                with pytest.raises(StoreError) as caught:
                    await call
                assert caught.value.reason == "connection"
            with pytest.raises(StoreError):  # not a ConfigError: it will pass
                await PostgresStore(url, OTHER_NODE, KEY).open()
        finally:
            await asyncio.to_thread(cluster.start)
        assert await store.counter() == 1
        assert await store.commit([event()]) == 2


async def test_a_commit_whose_answer_was_lost_is_not_kept_twice(cluster: Cluster, database: str) -> None:
    proxy = Proxy(cluster.directory)
    async with proxy.running() as directory, opened(cluster.url(database, directory)) as store:
        await store.commit([begin()])
        steps = [event(1, b"once")]
        proxy.lose_answer = True
        for _ in range(2):  # the answer is lost, then the server cannot be reached
            with pytest.raises(StoreError):
                await store.commit(steps)
        proxy.forward = True
        assert await store.commit([event(1, b"once")]) == 2
        assert await store.commit([event(1, b"twice")]) == 3
        assert (await store.open_rounds())[0].events == (b"once", b"twice")


async def test_after_a_lost_answer_other_steps_wait_until_the_rounds_are_read_again(cluster: Cluster, database: str) -> None:
    proxy = Proxy(cluster.directory)
    async with proxy.running() as directory, opened(cluster.url(database, directory)) as store:
        await store.commit([begin()])
        proxy.lose_answer = True
        with pytest.raises(StoreError):
            await store.commit([event(1, b"first")])
        proxy.forward = True
        for _ in range(2):
            with pytest.raises(StoreError) as caught:
                await store.commit([event(1, b"second")])
            assert caught.value.reason == "in-doubt"
        assert (await store.open_rounds())[0].events == (b"first",)
        assert await store.commit([event(1, b"second")]) == 3


async def test_lines_whose_answer_was_lost_are_not_kept_twice(cluster: Cluster, database: str) -> None:
    proxy = Proxy(cluster.directory)
    async with proxy.running() as directory, opened(cluster.url(database, directory)) as store:
        await store.commit([begin()])
        proxy.lose_answer = True
        with pytest.raises(StoreError):
            await store.record([line(NOW)])
        proxy.forward = True
        await store.record([line(NOW)])
        # A round's commit need not wait for lines that are in doubt.
        proxy.lose_answer = True
        with pytest.raises(StoreError):
            await store.record([line(NOW + 1)])
        proxy.forward = True
        assert await store.commit([event()]) == 4
        assert [kept.line for kept in await store.audit(0, 10)] == [line(NOW), line(NOW + 1)]
        assert (await verify(store)).last == 2


async def test_an_erasure_whose_answer_was_lost_leaves_a_store_that_goes_on(cluster: Cluster, database: str) -> None:
    proxy = Proxy(cluster.directory)
    async with proxy.running() as directory, opened(cluster.url(database, directory)) as store:
        await store.record([line(NOW), line(NOW + 2)])
        proxy.lose_answer = True
        with pytest.raises(StoreError):
            await store.erase_before(NOW + 1)
        proxy.forward = True
        assert await store.commit([begin()]) == 3
        assert ((await verify(store)).erased_to, await store.erase_before(NOW + 1)) == (1, 0)


async def test_a_commit_that_never_reached_the_server_is_made_by_the_next_try(cluster: Cluster, database: str) -> None:
    proxy = Proxy(cluster.directory)
    async with proxy.running() as directory, opened(cluster.url(database, directory)) as store:
        await store.commit([begin()])
        await asyncio.to_thread(cluster.disconnect, database)
        with suppress(StoreError):
            await store.commit([event(1, b"once")])
        counter = await store.commit([event(1, b"once")])
        assert (await store.open_rounds())[0].events == (b"once",) * (counter - 1)


async def test_a_store_used_by_another_daemon_meanwhile_is_given_up(cluster: Cluster, database: str) -> None:
    proxy = Proxy(cluster.directory)
    async with proxy.running() as directory, opened(cluster.url(database, directory)) as store:
        await store.commit([begin()])
        proxy.forward = False
        await asyncio.to_thread(cluster.disconnect, database)
        with pytest.raises(StoreError):
            await store.commit([event()])
        async with opened(cluster.url(database)) as other:
            await other.commit([event()])
        proxy.forward = True
        for _ in range(2):
            with pytest.raises(StoreError, match="restart this one") as caught:
                await store.commit([event()])
            assert caught.value.reason == "overtaken"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql:///nowhere?host={host}&user=postgres", 'database "nowhere" does not exist; check the URL'),
        ("postgresql:///postgres?host={host}&user=nobody", 'role "nobody" does not exist; check the URL'),
        ("postgresql://x:hunter2@[bad/postgres", "the URL cannot be read"),
        ("postgresql://x:hunter2@localhost:port/postgres", "the URL cannot be read"),
    ],
)
async def test_a_wrong_url_is_told_without_its_password(cluster: Cluster, url: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await PostgresStore(url.format(host=cluster.directory), NODE, KEY).open()
    assert text in str(caught.value)
    assert "hunter2" not in str(caught.value)


async def test_a_user_who_may_not_create_tables_is_told_so(cluster: Cluster, database: str) -> None:
    cluster.sql(f"CREATE ROLE guest_{database} LOGIN")
    url = cluster.url(database).replace("user=postgres", f"user=guest_{database}")
    with pytest.raises(ConfigError, match=r"permission denied for database .* and that its user may create"):
        await PostgresStore(url, NODE, KEY).open()


async def test_errors_of_the_server_quote_no_row(cluster: Cluster, database: str) -> None:
    async with opened(cluster.url(database)) as store:
        await store.commit([begin()])
        with pytest.raises(StoreError) as caught:
            await store.commit([begin()])
        assert caught.value.reason == "inconsistent"
        assert ONE.hex() not in str(caught.value)
        # And it is not the connection's fault.
        assert await store.commit([event()]) == 2


async def test_a_database_that_does_not_allow_writes_is_a_passing_fault(cluster: Cluster, database: str) -> None:
    async with opened(cluster.url(database)) as store:
        await store.commit([begin()])
        cluster.sql(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
        cluster.disconnect(database)
        with suppress(StoreError):
            await store.counter()
        with pytest.raises(StoreError) as caught:
            await store.commit([event()])
        assert caught.value.reason == "read-only"
