"""Rounds at the admin socket of a hospital."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import msgspec
import pytest

from mpc.errors import StudyError
from mpc.result import Result, StatisticResult
from mpc.rounds.events import RELEASED, Ended, Progressed, Released
from nodes.admin.api import AdminApi
from nodes.admin.client import AdminClient
from nodes.admin.rounds import add_round_routes
from nodes.metrics import Registry
from nodes.records import Records, RoundRecord
from tests.mpc.nodes import study
from tests.nodes.house import soon

STUDY = study("alice", "bob", "charlie")
FIRST, SECOND = bytes.fromhex("ab" * 16), bytes.fromhex("abcd" * 8)


@dataclass
class Hospital:
    """What the routes ask of a hospital."""

    records: Records = field(default_factory=Records)
    cancelled: list[bytes] = field(default_factory=list)
    ids: list[bytes] = field(default_factory=lambda: [FIRST, SECOND])

    async def open_round(self, study_id: str) -> RoundRecord:
        if study_id != "pressure":
            raise StudyError(f"there is no study {study_id!r}")
        record = RoundRecord(self.ids.pop(0), STUDY.id, 3_000_001, opened=1_700_000_000.0)
        self.records.add(record)
        return record

    async def full(self, record: RoundRecord) -> dict[str, object]:
        return record.full(record.result)

    def cancel_round(self, round_id: bytes) -> None:
        self.cancelled.append(round_id)

    def release(self, round_id: bytes) -> None:
        values = (1575).to_bytes(8, "little")
        self.records.note(round_id, Released(Result(bytes(32), 3, (StatisticResult("sum", "value", values, ""),)), bytes(32)))
        self.records.note(round_id, Ended(RELEASED))


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="co") as directory:
        yield Path(directory) / "admin.sock"


@pytest.fixture
def hospital() -> Hospital:
    return Hospital()


@contextlib.asynccontextmanager
async def served(hospital: Hospital, place: Path) -> AsyncIterator[None]:
    admin = AdminApi(place, dict, Registry())
    add_round_routes(admin, hospital)
    await admin.start()
    try:
        yield
    finally:
        await admin.stop()


@pytest.fixture
async def client(hospital: Hospital, place: Path) -> AsyncIterator[AdminClient]:
    async with served(hospital, place), AdminClient(place) as client:
        yield client


@pytest.fixture
async def session(hospital: Hospital, place: Path) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.UnixConnector(str(place))
    async with served(hospital, place), aiohttp.ClientSession("http://daemon", connector=connector) as session:
        yield session


async def test_a_round_is_opened_shown_and_listed(client: AdminClient, hospital: Hospital) -> None:
    opened = await client.post("/v1/rounds", {"study": "pressure"})
    assert (opened["round"], opened["study"], opened["outcome"]) == (FIRST.hex(), "pressure", "open")
    assert await client.get("/v1/rounds") == [opened]
    hospital.release(FIRST)
    shown = await client.get(f"/v1/rounds/{FIRST.hex()}")
    assert (shown["patients"], shown["statistics"]) == (3, {"value": {"sum": 1575}})
    (listed,) = await client.get("/v1/rounds")
    assert listed["outcome"] == "released"
    assert "statistics" not in listed


async def test_opening_answers_created(session: aiohttp.ClientSession) -> None:
    async with session.post("/v1/rounds", data=b'{"study": "pressure"}') as response:
        assert (response.status, response.content_type) == (201, "application/json")


async def test_an_unknown_study_is_refused(client: AdminClient, hospital: Hospital) -> None:
    with pytest.raises(StudyError, match="there is no study 'weight'"):
        await client.post("/v1/rounds", {"study": "weight"})
    assert hospital.records.all() == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"pressure",
        b"[]",
        b"{}",
        b'{"study": 7}',
        b'{"study": null}',
        b'{"study": "pressure", "force": true}',
        b'{"study": "pressure"}{}',
        b'{"study": "\xff"}',
        b"\xff",
        b"[" * 100_000,
    ],
)
async def test_a_request_that_is_not_one_is_refused(body: bytes, session: aiohttp.ClientSession, hospital: Hospital) -> None:
    async with session.post("/v1/rounds", data=body) as response:
        assert response.status == 422
        answer = msgspec.json.decode(await response.read())
    assert answer["code"] == "UsageError"
    assert answer["detail"].startswith('the request must read {"study": "ID"}: ')
    assert hospital.records.all() == []


async def test_the_beginning_of_an_id_will_do_when_it_is_the_only_one(client: AdminClient) -> None:
    await client.post("/v1/rounds", {"study": "pressure"})
    await client.post("/v1/rounds", {"study": "pressure"})
    assert (await client.get("/v1/rounds/aba"))["round"] == FIRST.hex()
    assert (await client.get("/v1/rounds/ABCD"))["round"] == SECOND.hex()
    for given, said in [("ab", "more than one round begins with 'ab'"), ("ff", "no round begins with 'ff'")]:
        for ask in (client.get(f"/v1/rounds/{given}"), client.post(f"/v1/rounds/{given}/cancel")):
            with pytest.raises(Exception, match=said) as caught:
                await ask
            assert type(caught.value).__name__ == "UsageError"


async def test_cancelling_is_told_to_the_hospital(session: aiohttp.ClientSession, hospital: Hospital) -> None:
    await hospital.open_round("pressure")
    async with session.post(f"/v1/rounds/{FIRST.hex()[:4]}/cancel") as response:
        assert response.status == 202
    assert hospital.cancelled == [FIRST]


async def test_a_watcher_gets_a_line_for_each_change_until_the_end(client: AdminClient, hospital: Hospital) -> None:
    await hospital.open_round("pressure")
    lines = client.lines(f"/v1/rounds/{FIRST.hex()}/watch")
    assert (await soon(anext(lines)))["phase"] == "new"
    hospital.records.note(FIRST, Progressed("inviting", ("alice", "bob")))
    line = await soon(anext(lines))
    assert (line["phase"], line["waiting_for"]) == ("inviting", ["alice", "bob"])
    hospital.release(FIRST)
    line = await soon(anext(lines))
    assert (line["outcome"], "statistics" in line) == ("released", False)
    with pytest.raises(StopAsyncIteration):
        await anext(lines)


async def test_several_watch_at_once_and_one_goes_away(client: AdminClient, hospital: Hospital, place: Path) -> None:
    await hospital.open_round("pressure")
    watch = f"/v1/rounds/{FIRST.hex()}/watch"
    async with AdminClient(place) as impatient:
        assert (await soon(anext(impatient.lines(watch))))["phase"] == "new"
    lines = [client.lines(watch) for _ in range(3)]
    for line in lines:
        assert (await soon(anext(line)))["phase"] == "new"
    hospital.records.note(FIRST, Progressed("inviting", ("alice",)))
    for line in lines:
        assert (await soon(anext(line)))["phase"] == "inviting"
    hospital.release(FIRST)
    for line in lines:
        assert [state["outcome"] async for state in line] == ["released"]


async def test_watching_an_unknown_round_is_refused(client: AdminClient) -> None:
    with pytest.raises(Exception, match="no round begins with 'ff'"):
        await soon(anext(client.lines("/v1/rounds/ff/watch")))
