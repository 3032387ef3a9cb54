"""What every store of mailboxes keeps: numbers, quotas, acknowledgements, ages, keys; in SQLite and in PostgreSQL."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from mpc.errors import ConfigError
from mpc.identity import Identity
from mpc.mailbox import Quota, Rules, Verdict
from nodes.audit import verify
from nodes.store.audit import AuditEvent, audit_line
from nodes.store.base import StoreError
from nodes.store.mail import CursorError, Depth, Fetched, MailStore, mail_store
from scripts.postgres import Cluster
from tests.nodes.relay.conftest import ALICE, AMPLE, BOB, CHARLIE, RULES, eventually, letter

NOW = 1_800_000_000.0
PLENTY = 1 << 20

MakeStore = Callable[..., Any]


@pytest.fixture(params=["sqlite", "postgres"])
async def make(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    """Opens stores in one place: `async with make() as store`."""
    where: str | Path = tmp_path / "relay.db" if request.param == "sqlite" else request.getfixturevalue("database")

    @asynccontextmanager
    async def opened(rules: Rules = RULES, heard: list[Identity | None] | None = None) -> AsyncIterator[MailStore]:
        store = mail_store(where, rules)
        await store.open((heard if heard is not None else []).append)
        try:
            yield store
        finally:
            await store.close()

    return opened


@pytest.fixture
async def store(make: MakeStore) -> AsyncIterator[MailStore]:
    async with make() as opened:
        await opened.open_boxes([BOB, CHARLIE])
        yield opened


async def fetch(store: MailStore, owner: Identity = BOB, finished: int = 0, after: int = 0, limit: int = PLENTY) -> Fetched:
    return await store.fetch(owner, finished, max(finished, after), limit, 0.0)


async def test_mail_is_fetched_in_its_order_and_as_it_was(store: MailStore) -> None:
    letters = [letter() for _ in range(5)]

    assert list(await store.post(letters[:2], NOW)) == [Verdict.TAKEN] * 2
    await store.post(letters[2:], NOW)

    assert await fetch(store) == [(number, sent.envelope) for number, sent in enumerate(letters, 1)]
    assert await fetch(store, after=3) == [(4, letters[3].envelope), (5, letters[4].envelope)]
    assert await fetch(store, CHARLIE) == []


async def test_what_is_acknowledged_is_deleted_and_nothing_else(store: MailStore) -> None:
    letters = [letter() for _ in range(4)]
    await store.post(letters, NOW)

    assert [number for number, _ in await fetch(store, finished=2, after=3)] == [4]
    assert [number for number, _ in await fetch(store)] == [3, 4]
    assert (await store.depth()).messages == 2


async def test_numbers_go_on_after_everything_was_acknowledged(store: MailStore) -> None:
    await store.post([letter(), letter()], NOW)
    await fetch(store, finished=2)
    await store.post([letter()], NOW)

    assert [number for number, _ in await fetch(store)] == [3]


async def test_the_same_message_twice_waits_once(store: MailStore) -> None:
    sent = letter()
    await store.post([sent], NOW)

    assert list(await store.post([sent], NOW)) == [Verdict.DUPLICATE]
    assert len(await fetch(store)) == 1
    assert (await store.depth()).messages == 1


async def test_a_limit_of_bytes_still_lets_one_message_through(store: MailStore) -> None:
    letters = [letter(payload=bytes(1000)) for _ in range(3)]
    await store.post(letters, NOW)
    size = letters[0].size

    assert len(await fetch(store, limit=1)) == 1
    assert len(await fetch(store, limit=2 * size)) == 2
    assert len(await fetch(store, limit=2 * size - 1)) == 1


async def test_a_mailbox_is_there_from_its_owners_first_fetch_on(make: MakeStore) -> None:
    async with make() as store:
        assert list(await store.post([letter()], NOW)) == [Verdict.UNKNOWN]
        assert await fetch(store) == []
        assert list(await store.post([letter()], NOW)) == [Verdict.TAKEN]


async def test_a_cursor_beyond_the_end_is_told_and_deletes_nothing(store: MailStore) -> None:
    await store.post([letter()], NOW)

    for cursor in ({"finished": 2}, {"after": 2}):
        with pytest.raises(CursorError):
            await fetch(store, **cursor)  # type: ignore[arg-type]
    assert len(await fetch(store)) == 1


@pytest.mark.parametrize(
    ("rules", "verdict"),
    [
        (Rules(Quota(2, PLENTY), AMPLE, 60.0, PLENTY), Verdict.SENDER_FULL),
        (Rules(AMPLE, Quota(2, PLENTY), 60.0, PLENTY), Verdict.RECIPIENT_FULL),
    ],
)
async def test_a_full_quota_has_room_again_once_mail_is_acknowledged(make: MakeStore, rules: Rules, verdict: Verdict) -> None:
    async with make(rules) as store:
        await store.open_boxes([BOB])
        assert list(await store.post([letter(), letter(), letter()], NOW)) == [Verdict.TAKEN, Verdict.TAKEN, verdict]
        assert list(await store.post([letter()], NOW)) == [verdict]
        await fetch(store, finished=1)
        assert list(await store.post([letter(), letter()], NOW)) == [Verdict.TAKEN, verdict]


async def test_mail_and_quotas_outlast_the_process(make: MakeStore) -> None:
    rules = Rules(Quota(2, PLENTY), AMPLE, 60.0, PLENTY)
    sent = letter()
    async with make(rules) as store:
        await store.open_boxes([BOB])
        await store.post([sent], NOW)
    async with make(rules) as store:
        assert await fetch(store) == [(1, sent.envelope)]
        assert list(await store.post([letter(), letter()], NOW)) == [Verdict.TAKEN, Verdict.SENDER_FULL]


async def test_mail_that_is_too_old_is_not_handed_out_and_then_deleted(store: MailStore) -> None:
    await store.post([letter(), letter(to=CHARLIE)], NOW)
    await store.post([fresh := letter()], NOW + 60)

    assert await store.fetch(BOB, 0, 0, PLENTY, NOW + 1) == [(2, fresh.envelope)]
    assert await store.expire(NOW + 1) == 2
    assert await store.depth() == Depth(2, 1, fresh.size, NOW + 60)
    assert await store.expire(NOW + 1) == 0


async def test_a_published_key_is_replaced_and_ends(store: MailStore) -> None:
    assert await store.published(ALICE, NOW) is None
    await store.publish(ALICE, b"first", NOW + 10)
    await store.publish(ALICE, b"second", NOW + 20)

    assert await store.published(ALICE, NOW + 20) == b"second"
    assert await store.published(ALICE, NOW + 21) is None
    assert await store.published(BOB, NOW) is None
    assert list(await store.post([letter(CHARLIE, ALICE)], NOW)) == [Verdict.TAKEN], "who has published a key has a mailbox"


async def test_many_who_post_at_once_lose_nothing_and_share_no_number(store: MailStore) -> None:
    letters = [letter(sender, to) for sender in (ALICE, CHARLIE) for to in (BOB, CHARLIE) for _ in range(10)]
    verdicts = await asyncio.gather(*(store.post([one], NOW) for one in letters))

    assert [list(of_one) for of_one in verdicts] == [[Verdict.TAKEN]] * 40
    for owner in (BOB, CHARLIE):
        fetched = await fetch(store, owner)
        assert [number for number, _ in fetched] == list(range(1, 21))
        assert {raw for _, raw in fetched} == {one.envelope for one in letters if one.recipient == owner}


async def test_whoever_waits_hears_of_new_mail(make: MakeStore) -> None:
    heard: list[Identity | None] = []
    async with make(heard=heard) as store:
        await store.open_boxes([BOB])
        await store.post([letter(), letter(to=CHARLIE)], NOW)
        await eventually(lambda: BOB in heard)
        assert CHARLIE not in heard


async def test_two_relays_on_one_database_write_one_audit_log(database: str) -> None:
    async with AsyncExitStack() as stack:
        stores = []
        for _ in range(2):
            store = mail_store(database, RULES)
            await store.open(lambda _: None)
            stack.push_async_callback(store.close)
            stores.append(store)
        lines = [audit_line(NOW + number, AuditEvent.REFUSED, number=number) for number in range(20)]
        await asyncio.gather(*(stores[number % 2].record([line]) for number, line in enumerate(lines)))
        assert (await verify(stores[0])).last == 20
        assert {kept.line for kept in await stores[1].audit(0, 100)} == set(lines)
        assert await stores[1].erase_audit(NOW + 100) == 20
        head = await verify(stores[0])
        assert (head.erased_to, head.last) == (20, 21)


async def test_two_relays_on_one_database_keep_one_order(database: str) -> None:
    heard: list[Identity | None] = []
    async with AsyncExitStack() as stack:
        stores = []
        for listener in ([], heard):
            store = mail_store(database, RULES)
            await store.open(listener.append)
            stack.push_async_callback(store.close)
            stores.append(store)
        await stores[0].open_boxes([BOB, CHARLIE])
        letters = [letter(sender, to) for sender in (ALICE, BOB, CHARLIE) for to in (BOB, CHARLIE) for _ in range(8)]

        await asyncio.gather(*(stores[index % 2].post([one], NOW) for index, one in enumerate(letters)))
        same = await asyncio.gather(*(store.post(letters, NOW) for store in stores))
        cleared = asyncio.gather(*(store.fetch(owner, 5, 5, PLENTY, 0.0) for store in stores for owner in (BOB, CHARLIE)))
        await asyncio.gather(cleared, *(store.expire(NOW - 1) for store in stores))

        assert {verdict for verdicts in same for verdict in verdicts} == {Verdict.DUPLICATE}
        for owner in (BOB, CHARLIE):
            assert [number for number, _ in await fetch(stores[1], owner)] == list(range(6, 25))
        assert (await stores[0].depth()).messages == 2 * 19
        assert BOB in heard, "the second process hears of what the first one took"


async def test_a_server_that_goes_away_is_a_passing_fault(cluster: Cluster, database: str) -> None:
    store = mail_store(database, RULES)
    await store.open(lambda _: None)
    try:
        await store.open_boxes([BOB])
        name = database.partition("?")[0].rpartition("/")[2]
        sent = letter()

        async def posted() -> bool:
            with suppress(StoreError):
                await store.post([sent], NOW)
                return True
            return False

        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "
        cluster.sql(f"{end} '{name}'")
        await eventually(posted)
        assert [raw for _, raw in await fetch(store)] == [sent.envelope]
    finally:
        await store.close()


def test_a_database_that_cannot_be_reached_is_told_without_its_password() -> None:
    pytest.importorskip("asyncpg")
    store = mail_store("postgresql://relay:hunter2@127.0.0.1:1/mail", RULES)
    with pytest.raises(StoreError, match="cannot be reached") as caught:
        asyncio.run(store.open(lambda _: None))
    assert "hunter2" not in str(caught.value)


async def test_another_programs_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (value TEXT)")
    other.close()
    with pytest.raises(ConfigError):
        await mail_store(path, RULES).open(lambda _: None)


async def test_a_file_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    store = mail_store(path, RULES)
    await store.open(lambda _: None)
    await store.close()
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA user_version = 99")
    file.close()
    with pytest.raises(ConfigError, match="newer"):
        await mail_store(path, RULES).open(lambda _: None)
