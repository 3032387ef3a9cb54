"""What a person says to the own daemon through its admin socket, and what the daemon does: real daemons in one process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mpc.errors import UsageError
from nodes.admin.client import AdminClient
from nodes.commands.patient.preview import preview
from nodes.config import check_hospital, check_patient
from nodes.hospital import HospitalDaemon
from nodes.patient import PatientDaemon
from nodes.records import RoundRecord
from tests.nodes.house import at_work, eventually, make_site, short_directory

VALUES = {"alice": 725, "bob": 310, "charlie": 540}


class Ward:
    """The daemons at work; alice is asked what she wants."""

    def __init__(self, directory: Path) -> None:
        self.site = make_site(directory, VALUES)
        self.table = directory / "alice.csv"
        self.put(VALUES["alice"])
        path = self.site.patients["alice"]
        text = path.read_text().replace(f"literal: {VALUES['alice']}", f"csv: {{file: {self.table.name}, column: value}}")
        path.write_text(text.replace("policy: {", "policy: {ask: [pressure], period: 3600, "))
        self.alice = PatientDaemon(check_patient(path))
        self.hospital = HospitalDaemon(check_hospital(self.site.hospital))
        self.others = [PatientDaemon(check_patient(self.site.patients[name])) for name in ("bob", "charlie")]

    def put(self, value: int) -> None:
        self.table.write_text(f"value\n{value}\n")

    async def ask(self, path: str, content: Any = None) -> Any:
        async with AdminClient(self.alice.config.admin) as client:
            return await (client.get(path) if content is None else client.post(path, content))

    async def inbox(self) -> list[Any]:
        found: list[Any] = await self.ask("/v1/inbox")
        return found

    async def opened(self) -> RoundRecord:
        return await self.hospital.open_round("pressure")

    async def waits(self) -> RoundRecord:
        """A round that waits for alice."""
        record = await self.opened()
        await eventually(lambda: len(self.alice.driver.rounds.machines()) == 1)
        return record

    async def total(self, record: RoundRecord) -> Any:
        await eventually(lambda: record.ended)
        full = await self.hospital.full(record)
        return full["statistics"]["value"]["sum"] if "statistics" in full else full["code"]  # type: ignore[index]

    async def lines(self, *events: str) -> list[Any]:
        async with AdminClient(self.alice.config.admin) as client:
            return [line async for line in client.lines("/v1/audit") if not events or line["event"] in events]


@pytest.fixture
async def ward(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ward]:
    monkeypatch.setattr("nodes.keys.DEFAULT_BITS", 2048)
    with short_directory() as directory:
        made = Ward(directory)
        async with at_work(made.hospital, made.alice, *made.others):
            yield made


async def test_what_waits_is_told_in_words_and_consented_to_without_a_look_at_the_value(ward: Ward) -> None:
    ward.table.unlink()  # whoever looks finds nothing
    record = await ward.waits()
    (request,) = await ward.inbox()
    assert (request["study"], request["purpose"], request["asks"], request["invited"]) == ("pressure", "test", ["sum value"], 3)
    ward.put(VALUES["alice"])
    assert [one["study"] for one in await ward.ask("/v1/approve", {"study": "pressure"})] == ["pressure"]
    assert await ward.total(record) == sum(VALUES.values())
    assert await ward.inbox() == []
    asked, consented = await ward.lines("asked", "consented")
    assert (consented["content"]["by"], consented["content"]["digest"]) == ("person", asked["content"]["digest"])


async def test_a_person_may_look_at_the_values_that_a_waiting_request_would_get(ward: Ward) -> None:
    record = await ward.waits()
    path = str(ward.site.patients["alice"])
    shown = await asyncio.to_thread(CliRunner().invoke, preview, ["pressure", "--config", path])
    assert shown.stdout.splitlines()[-1].split() == ["1", str(VALUES["alice"])]
    with pytest.raises(UsageError, match="nothing waits under 'weight'"):
        await ward.ask("/v1/inbox/weight")
    await ward.ask("/v1/decline", {"study": "pressure"})
    await ward.total(record)


async def test_what_is_declined_ends_for_the_hospital_without_a_reason(ward: Ward) -> None:
    record = await ward.waits()
    (request,) = await ward.inbox()
    await ward.ask("/v1/decline", {"study": request["digest"][:8]})
    assert await ward.total(record) == "too-few-members"
    (declined,) = await ward.lines("declined")
    assert declined["content"]["reason"] == "a person has declined it"


async def test_a_study_approved_in_advance_does_not_wait_until_the_approval_ends(ward: Ward) -> None:
    record = await ward.waits()
    await ward.ask("/v1/approve", {"study": "pressure", "until": time.time() + 3600})
    assert await ward.total(record) == sum(VALUES.values())
    assert await ward.total(await ward.opened()) == sum(VALUES.values()), "exactly this study is not asked about again"
    short = await ward.ask("/v1/withdraw", {"study": "weight-*"})
    assert short["given"] == []
    (line,) = await ward.lines("approved")
    assert line["study"] == "pressure"


async def test_an_approval_that_ends_before_the_round_does_is_no_approval(ward: Ward) -> None:
    record = await ward.waits()
    await ward.ask("/v1/approve", {"study": "pressure", "until": time.time() + 1})
    assert await ward.total(record) == sum(VALUES.values())
    again = await ward.waits()
    assert [one["study"] for one in await ward.inbox()] == ["pressure"]
    await ward.ask("/v1/decline", {"study": "pressure"})
    await ward.total(again)


async def test_withdrawal_ends_what_is_open_refuses_what_comes_and_lists_what_was(ward: Ward) -> None:
    record = await ward.waits()
    await ward.ask("/v1/approve", {"study": "pressure", "until": time.time() + 3600})
    await ward.total(record)
    answer = await ward.ask("/v1/withdraw", {"study": "press*"})
    assert [one["round"] for one in answer["given"]] == [record.round_id.hex()]
    assert answer["given"][0]["members"] == ["alice", "bob", "charlie"]
    later = await ward.opened()
    assert await ward.total(later) == "too-few-members", "what was approved in advance is withdrawn as well"
    assert (await ward.lines("declined"))[-1]["content"]["reason"] == "a person has withdrawn from press*"


async def test_withdrawal_ends_a_round_that_waits(ward: Ward) -> None:
    record = await ward.waits()
    answer = await ward.ask("/v1/withdraw", {"study": "pressure"})
    assert answer["ended"] == [record.round_id.hex()]
    assert await ward.total(record) == "too-few-members"


async def test_the_values_of_a_period_are_used_again_until_a_person_frees_the_source(ward: Ward) -> None:
    record = await ward.waits()
    await ward.ask("/v1/approve", {"study": "pressure", "until": time.time() + 3600})
    first = await ward.total(record)
    ward.put(VALUES["alice"] + 1)
    assert await ward.total(await ward.opened()) == first, "a repeated round shows nothing of what changed"
    ward.table.unlink()
    assert await ward.total(await ward.opened()) == first, "nor that it cannot be read any more"
    (bound,) = await ward.ask("/v1/sources")
    assert (bound["source"], bound["rounds"], bound["members"]) == ("value", 3, ["alice", "bob", "charlie"])
    ward.put(VALUES["alice"] + 1)
    assert await ward.ask("/v1/release", {"sources": []}) == ["value"]
    assert await ward.ask("/v1/sources") == []
    assert await ward.total(await ward.opened()) == first + 1


async def test_values_that_are_kept_are_not_in_the_store_as_they_are(ward: Ward) -> None:
    ward.put(987_654)
    record = await ward.waits()
    await ward.ask("/v1/approve", {"study": "pressure"})
    await ward.total(record)
    (kept,) = [entry for entry in await ward.alice.store.ledger() if entry.kind == "recorded"]
    assert (987_654).to_bytes(3, "little") not in kept.content
    await ward.ask("/v1/release", {"sources": ["value"]})
    (kept,) = [entry for entry in await ward.alice.store.ledger() if entry.kind == "recorded"]
    assert (kept.content, kept.until <= time.time()) == (b"", True)
    await ward.alice.forget_ledger()
    assert [entry.kind for entry in await ward.alice.store.ledger() if entry.kind == "recorded"] == []


MISTAKES = [
    ("/v1/approve", {"study": "weight"}, "nothing waits under 'weight'; see 'cohortium patient inbox'"),
    ("/v1/decline", {"study": "weight"}, "nothing waits under 'weight'; see 'cohortium patient inbox'"),
    ("/v1/approve", {"study": "pressure", "until": 1}, "the approval would be over before it began; give a time to come"),
    ("/v1/release", {"sources": ["weight"]}, "there is no source 'weight'; there is value"),
    ("/v1/approve", {"until": 1}, 'the request must read {"study": ID, "until": SECONDS or null}'),
    ("/v1/withdraw", {"study": ""}, 'the request must read {"study": PATTERN}'),
    ("/v1/release", {}, 'the request must read {"sources": [NAME]}'),
]


async def test_a_mistake_is_told_and_changes_nothing(ward: Ward) -> None:
    for path, content, said in MISTAKES:
        with pytest.raises(UsageError) as refused:
            await ward.ask(path, content)
        assert str(refused.value).startswith(said)
    assert await ward.alice.store.ledger() == []
