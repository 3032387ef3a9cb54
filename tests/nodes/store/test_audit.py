"""The audit log in every store: what somebody else does to its lines is found, what the node erases is not held against it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from mpc.mailbox import Quota, Rules
from nodes.audit import verify
from nodes.store.audit import AuditEvent, AuditLine, ChainBroken, Head, Kept, Walk, audit_line, text
from nodes.store.base import AuditStore, Step, Store, StoreError
from nodes.store.mail import MailStore, mail_store
from nodes.store.postgres import PostgresStore
from nodes.store.sqlite import SqliteStore
from scripts.postgres import Cluster
from tests.nodes.store.conftest import KEY, Place
from tests.nodes.store.steps import NODE, NOW, ONE, begin, begun, close, closed_at

LINES = 7
QUOTA = Quota(1000, 1 << 20)


def numbered(number: int, study: str = "pulse") -> AuditLine:
    return audit_line(NOW + number, AuditEvent.CONSENTED, study, round="ab", reason="")


async def filled(store: AuditStore) -> None:
    """Seven lines, in three commits."""
    for first, last in ((1, 3), (4, 4), (5, LINES)):
        await store.record([numbered(number) for number in range(first, last + 1)])


async def broken(store: AuditStore) -> tuple[int, str]:
    with pytest.raises(ChainBroken) as caught:
        await verify(store)
    return caught.value.number, str(caught.value)


# -- the bytes


async def test_the_digests_and_tags_are_those_of_the_page(state: Path) -> None:
    store = SqliteStore(state / "store.db", NODE, KEY)
    await store.open()
    await store.record([AuditLine(1_800_000_000.25, AuditEvent.REFUSED, 'a "b"', b'{"n":1}')])
    await store.record([AuditLine(0.5, AuditEvent.ENDED, "", b"{}")])
    kept, head = await store.audit(0, 10), await store.audit_head()
    await store.close()
    # RFC 5869 with no salt: extract under zeros, then expand.
    extracted = hmac.digest(bytes(32), bytes(range(32)), "sha256")
    key = HKDFExpand(hashes.SHA256(), 32, b"cohortium/v1/audit").derive(extracted)
    digest = bytes(32)
    said = ['{"at":1800000000.250000,"event":"refused","study":"a \\"b\\"","content":{"n":1},"salt":"%s"}']
    said += ['{"at":0.500000,"event":"ended","study":"","content":{},"salt":"%s"}']
    for number, (line, template) in enumerate(zip(kept, said, strict=True), 1):
        assert len(line.salt) == 16
        raw = (template % line.salt.hex()).encode()
        assert json.loads(raw)["salt"] == line.salt.hex()
        body = hashlib.sha256(raw).digest()
        digest = hashlib.sha256(b"cohortium/v1/audit\0" + digest + number.to_bytes(8, "big") + body).digest()
        assert line.tag == hmac.digest(key, b"line" + digest, "sha256")
    assert head == Head(2, 0, bytes(32), 2, digest, head.seal)
    packed = (2).to_bytes(8, "big") + bytes(8) + bytes(32) + (2).to_bytes(8, "big") + digest
    assert head.seal == hmac.digest(key, b"head" + packed, "sha256")


# -- what every store does


async def test_a_log_that_nobody_touched_verifies_over_restarts(place: Place) -> None:
    async with place.opened() as store:
        assert (await verify(store)).last == 0
        await filled(store)
        await store.commit([replace(begin(), audit=(numbered(8),))])
    async with place.opened() as store:
        await store.record([numbered(9)])
        head = await verify(store)
        assert (head.erased_to, head.last, head.counter) == (0, 9, 5)


async def test_a_commit_that_fails_leaves_no_line(store: Store) -> None:
    await filled(store)
    with pytest.raises(StoreError):
        await store.commit([Step(ONE, event=b"of no round", audit=(numbered(8),))])
    assert (await verify(store)).last == LINES


async def test_lines_that_are_written_at_once_are_one_chain(store: Store) -> None:
    await asyncio.gather(*(store.record([numbered(number)]) for number in range(1, 20)), store.commit([begin()]))
    assert (await verify(store)).last == 19


async def test_old_lines_are_erased_and_the_rest_verifies_and_says_so(store: Store) -> None:
    await filled(store)
    assert await store.erase_before(NOW + 4) == 3
    head = await verify(store)
    assert (head.erased_to, head.last) == (3, LINES + 1)
    *rest, said = await store.audit(0, 100)
    assert [kept.number for kept in rest] == [4, 5, 6, 7]
    content = json.loads(said.line.content)
    assert (said.line.event, said.line.study) == ("erased", "")
    assert content == {"before": NOW + 4, "of_one_study": False, "rounds": 0, "lines": 3, "up_to": 3, "numbers": []}
    assert await store.erase_before(NOW + 4) == 0
    assert (await store.audit_head()).last == LINES + 1


async def test_lines_of_one_study_are_emptied_and_its_name_is_gone(store: Store) -> None:
    await store.record([numbered(1), numbered(2, "weight"), numbered(3), numbered(4, "weight"), numbered(5, "weight")])
    assert await store.erase_before(NOW + 100, "weight") == 3
    assert (await verify(store)).erased_to == 0
    kept = await store.audit(0, 100)
    assert [one.line.event for one in kept] == ["consented", "", "consented", "", "", "erased"]
    assert json.loads(kept[-1].line.content)["numbers"] == [[2, 2], [4, 5]]
    assert "weight" not in repr(kept)
    await store.record([numbered(7)])
    # What is empty already goes with what is old, and so does the line that told of it.
    assert await store.erase_before(NOW + 4) == 2
    head = await verify(store)
    assert (head.erased_to, head.last) == (6, 8)


async def test_erasing_everything_again_and_again_verifies(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("audit", "audit_sqlite", "audit_postgres", "sqlite", "postgres"):
        monkeypatch.setattr(f"nodes.store.{module}.ERASED_AT_ONCE", 3)
    for again in range(3):
        await store.record([numbered(number) for number in range(8)])
        assert await store.erase_before(NOW + 100 + again) == 8
        await verify(store)
    assert {kept.line.event for kept in await store.audit(0, 100)} == {"erased"}


async def test_rounds_that_are_erased_leave_a_line(store: Store) -> None:
    await store.commit([Step(ONE, begun(1)), close(1, closed_at(NOW))])
    assert await store.erase_before(NOW + 1) == 1
    (said,) = await store.audit(0, 10)
    assert json.loads(said.line.content)["rounds"] == 1
    await verify(store)


# -- what others do to it, in the real file and on the real server


@dataclass
class Crime:
    """A store that is closed and has seven lines, and a way to its tables around it."""

    open: Callable[[], Awaitable[AuditStore]]
    run: Callable[[str], None]
    literal: Callable[[bytes], str]
    names: tuple[str, str]
    keyed: bool

    def sql(self, statements: str, *values: float | bytes) -> None:
        """Runs statements on the tables AUDIT and STORE, with literals in place of the signs ?."""
        given = iter(values)
        texts = [self.literal(value) if isinstance(value := next(given), bytes) else str(value) for _ in values]
        pieces = statements.split("?")
        whole = "".join(piece + text for piece, text in zip(pieces, [*texts, ""], strict=True))
        self.run(whole.replace("AUDIT", self.names[0]).replace("STORE", self.names[1]))


@pytest.fixture(params=["sqlite", "postgres", "relay sqlite", "relay postgres"])
async def crime(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Crime]:
    """Each kind of store that is kept."""
    relay, path, schema = "relay" in request.param, tmp_path / "kept.db", ""
    if "postgres" in request.param:
        cluster: Cluster = request.getfixturevalue("cluster")
        database: str = request.getfixturevalue("database")
        schema = "cohortium_relay." if relay else "cohortium."
    opened: list[Store | MailStore] = []

    async def make() -> AuditStore:
        url = cluster.url(database) if schema else ""
        if relay:
            mail = mail_store(url or path, Rules(QUOTA, QUOTA, 60.0, 1 << 20))
            await mail.open(lambda _: None)
            opened.append(mail)
            return mail
        store = PostgresStore(url, NODE, KEY) if url else SqliteStore(path, NODE, KEY)
        await store.open()
        opened.append(store)
        return store

    def run(statements: str) -> None:
        if schema:
            cluster.sql(statements, database)
            return
        connection = sqlite3.connect(path)
        connection.executescript(statements)
        connection.close()

    await filled(await make())
    await opened.pop().close()
    yield Crime(
        make,
        run,
        (lambda data: f"decode('{data.hex()}', 'hex')") if schema else (lambda data: f"x'{data.hex()}'"),
        (f"{schema}audit", f"{schema}stores" if schema else "store"),
        not relay,
    )
    for store in opened:
        await store.close()


async def test_nothing_is_found_where_nothing_was_done(crime: Crime) -> None:
    assert (await verify(await crime.open())).last == LINES


async def test_a_changed_line_is_named(crime: Crime) -> None:
    changes: list[tuple[str, tuple[bytes, ...]]] = [
        ("UPDATE AUDIT SET at = at + 0.5 WHERE number = ?", ()),
        ("UPDATE AUDIT SET event = 'declined' WHERE number = ?", ()),
        ("UPDATE AUDIT SET study = 'weight' WHERE number = ?", ()),
        ("UPDATE AUDIT SET content = ? WHERE number = ?", (b"{}",)),
        ("UPDATE AUDIT SET salt = ? WHERE number = ?", (bytes(16),)),
        ("UPDATE AUDIT SET tag = ? WHERE number = ?", (bytes(32),)),
    ]
    mend = "UPDATE AUDIT SET at = ?, event = 'consented', study = 'pulse', content = ?, salt = ?, tag = ? WHERE number = ?"
    store = await crime.open()
    for number in (1, 4, LINES):
        (line,) = await store.audit(number - 1, 1)
        for change, values in changes:
            crime.sql(change, *values, number)
            assert await broken(store) == (number, f"line {number}: it was changed, or is not the one that was written here")
            crime.sql(mend, line.line.at, line.line.content, line.salt, line.tag, number)
    assert (await verify(store)).last == LINES


async def test_a_removed_line_is_named(crime: Crime) -> None:
    store = await crime.open()
    for number in (LINES, 4, 1):
        crime.sql("DELETE FROM AUDIT WHERE number = ?", number)
        found, why = await broken(store)
        assert found == number
        assert why.startswith(f"line {number}: it is missing")


async def test_a_cut_off_end_is_found(crime: Crime) -> None:
    store = await crime.open()
    for left in (5, 2, 0):
        crime.sql("DELETE FROM AUDIT WHERE number > ?", left)
        found, why = await broken(store)
        assert found == left + 1
        assert f"the log has {LINES} lines" in why


async def test_a_removed_line_is_not_hidden_by_counting_anew(crime: Crime) -> None:
    crime.sql("DELETE FROM AUDIT WHERE number = 3")
    for number in range(4, LINES + 1):
        crime.sql("UPDATE AUDIT SET number = ? WHERE number = ?", number - 1, number)
    crime.sql("UPDATE STORE SET last = ?", LINES - 1)
    assert (await broken(await crime.open()))[0] == 3


async def test_lines_that_changed_places_are_found(crime: Crime) -> None:
    for there, here in ((100, 2), (2, 5), (5, 100)):
        crime.sql("UPDATE AUDIT SET number = ? WHERE number = ?", there, here)
    assert (await broken(await crime.open()))[0] == 2


async def test_a_begin_that_nobody_erased_is_missed(crime: Crime) -> None:
    store = await crime.open()
    walk = Walk(0, bytes(32))
    for kept in await store.audit(0, 2):
        walk.take(kept.number, kept.body, kept.line, lambda _: True)
    crime.sql("DELETE FROM AUDIT WHERE number <= 2")
    crime.sql("UPDATE STORE SET erased_to = 2, anchor = ?", walk.digest)
    found, why = await broken(store)
    assert found == 2
    assert "no line says that they were erased" in why or "does not end here as this node has left it" in why


async def test_an_emptied_line_that_no_line_tells_of_is_found(crime: Crime) -> None:
    store = await crime.open()
    (kept,) = await store.audit(3, 1)
    empty = "UPDATE AUDIT SET at = 0, event = '', study = '', salt = ?, content = ? WHERE number = 4"
    crime.sql(empty, b"", kept.body)
    assert await broken(store) == (4, "line 4: it is empty, and no later line says that it was erased")


async def test_a_line_after_the_end_is_found(crime: Crime) -> None:
    store = await crime.open()
    columns = ("node, " if "." in crime.names[0] else "") + "at, event, study, content, salt, tag"
    crime.sql("INSERT INTO AUDIT (number, COLUMNS) SELECT 9, COLUMNS FROM AUDIT WHERE number = 7".replace("COLUMNS", columns))
    assert await broken(store) == (9, "line 9: it stands after the end of the log")


async def test_lines_made_up_without_the_key_are_found_and_at_a_relay_only_by_an_earlier_export(crime: Crime) -> None:
    """Somebody who knows the format changes a line and works out all that follows from it."""
    store = await crime.open()
    digest = bytes(32)
    for kept in await store.audit(0, 100):
        line = replace(kept.line, content=b'{"round":"cd"}') if kept.number == 4 else kept.line
        body = hashlib.sha256(text(line, kept.salt)).digest()
        digest = hashlib.sha256(b"cohortium/v1/audit\0" + digest + kept.number.to_bytes(8, "big") + body).digest()
        tag = digest if kept.number >= 4 or not crime.keyed else kept.tag
        crime.sql("UPDATE AUDIT SET content = ?, tag = ? WHERE number = ?", line.content, tag, kept.number)
    crime.sql("UPDATE STORE SET digest = ?", digest)
    if crime.keyed:
        assert (await broken(store))[0] == 4
    else:
        assert (await verify(store)).digest == digest


async def test_an_old_end_put_back_is_found_and_stays_on_record(crime: Crime) -> None:
    store = await crime.open()
    old = await store.audit_head()
    await store.record([numbered(8), numbered(9)])
    await store.close()  # type: ignore[attr-defined]
    crime.sql("DELETE FROM AUDIT WHERE number > ?", old.last)
    crime.sql("UPDATE STORE SET last = ?, digest = ?, seal = ?", old.last, old.digest, old.seal)
    store = await crime.open()
    if not crime.keyed:  # a relay has no key that would tell
        assert (await verify(store)).last == old.last
        return
    found, why = await broken(store)
    assert found == old.last
    assert "does not end here as this node has left it" in why
    await store.record([numbered(10)])
    found, why = await broken(store)
    assert found == old.last + 1
    assert "lines before it may be lost" in why
    assert [kept.line.event for kept in await store.audit(old.last, 10)] == ["tampered", "consented"]


async def test_lines_that_are_erased_while_they_are_read_are_no_finding(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.audit.PAGE", 2)
    async with place.opened() as store:
        await filled(store)
        read, calls = store.audit, 0

        async def audit(after: int, limit: int, *, since: float = 0.0, event: str = "") -> list[Kept]:
            nonlocal calls
            calls += 1
            if calls == 2:
                await store.erase_before(NOW + 5)
            return await read(after, limit, since=since, event=event)

        monkeypatch.setattr(store, "audit", audit)
        head = await verify(store)
        assert (head.erased_to, head.last) == (4, LINES + 1)


def test_a_made_up_erasure_of_everything_is_read_at_once() -> None:
    walk = Walk(0, bytes(32))
    line = AuditLine(NOW, AuditEvent.ERASED, "", b'{"up_to":0,"numbers":[[1,999999999999]]}')
    with pytest.raises(ChainBroken, match="line 1: it says that more was erased than"):
        walk.take(1, bytes(32), line, lambda _: True)
