"""What is taken into the audit log outside rounds: kept in the end, thinned where strangers could fill a disk, no secrets."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from nodes.audit import AuditLog, verify
from nodes.store.audit import AuditEvent, audit_line
from nodes.store.base import StoreError
from nodes.store.volatile import VolatileStore
from tests.nodes.house import eventually, kept_log, nothing_left_over

HOUR = 3600.0


@pytest.fixture
async def store() -> VolatileStore:
    made = VolatileStore()
    await made.open()
    return made


async def said(store: VolatileStore) -> list[tuple[str, Any]]:
    return [(kept.line.event, json.loads(kept.line.content)) for kept in await store.audit(0, 1000)]


def failing(times: int) -> tuple[list[str], Callable[[str], Awaitable[None]]]:
    """A hook that fails so often when something is recorded, and what it did."""
    tried: list[str] = []

    async def hook(method: str) -> None:
        if method == "record":
            tried.append(method)
            if len(tried) <= times:
                raise StoreError("disk-full", "no room")

    return tried, hook


async def test_what_happens_before_the_store_is_open_is_kept_too(store: VolatileStore) -> None:
    log, _ = kept_log()
    async with nothing_left_over():
        audit = AuditLog(log)
        audit(AuditEvent.ENROLLED, identity="spiffe://demo/patient/alice")
        await audit.begin(store)
        audit(AuditEvent.RELOADED, study="pulse", certificate="ab")
        await audit.end()
    assert await said(store) == [("enrolled", {"identity": "spiffe://demo/patient/alice"}), ("reloaded", {"certificate": "ab"})]
    assert (await store.audit(1, 1))[0].line.study == "pulse"
    await verify(store)


async def test_lines_wait_for_a_store_that_fails_and_come_once_in_their_order(
    store: VolatileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodes.audit._RETRY_SECONDS", 0.001)
    log, logged = kept_log()
    tried, store.before = failing(3)
    async with nothing_left_over():
        audit = AuditLog(log)
        await audit.begin(store)
        for number in range(3):
            audit(AuditEvent.RENEWED, number=number)
        await eventually(lambda: len(tried) == 2)
        audit(AuditEvent.RENEWED, number=3)
        await eventually(lambda: len(tried) == 5)
        await audit.end()
    assert [content["number"] for _, content in await said(store)] == [0, 1, 2, 3]
    assert [entry["reason"] for entry in logged] == ["disk-full"] * 3


async def test_an_end_does_not_wait_for_a_store_that_is_away(store: VolatileStore) -> None:
    log, _ = kept_log()
    tried, store.before = failing(1000)
    async with nothing_left_over():
        audit = AuditLog(log)
        await audit.begin(store)
        audit(AuditEvent.RENEWED)
        await eventually(lambda: bool(tried))
        await audit.end()
    assert len(tried) == 2, "once more at the end"


async def test_of_refusals_of_one_kind_one_an_hour_is_kept(store: VolatileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("nodes.log.time.monotonic", lambda: now)
    log, _ = kept_log()
    audit = AuditLog(log)
    for _ in range(500):
        audit(AuditEvent.REFUSED, what="connection", reason="certificate")
        audit(AuditEvent.ENROLMENT_REFUSED, outcome="used", address="127.0.0.1")
    audit(AuditEvent.REFUSED, what="message", reason="certificate")
    now += HOUR - 1
    audit(AuditEvent.REFUSED, what="connection", reason="certificate")
    now += 1
    audit(AuditEvent.REFUSED, what="connection", reason="certificate")
    await audit.begin(store)
    await audit.end()
    assert await said(store) == [
        ("refused", {"what": "connection", "reason": "certificate", "left_out": 0}),
        ("enrolment-refused", {"outcome": "used", "address": "127.0.0.1", "left_out": 0}),
        ("refused", {"what": "message", "reason": "certificate", "left_out": 0}),
        ("refused", {"what": "connection", "reason": "certificate", "left_out": 500}),
    ]


async def test_nothing_but_what_logs_are_made_of_is_kept(store: VolatileStore) -> None:
    log, _ = kept_log()
    audit = AuditLog(log)
    audit(AuditEvent.RENEWED, key=b"secret bytes", number=2**300, text="x" * 1000)
    with pytest.raises(ValueError, match="made-up"):
        audit("made-up")
    await audit.begin(store)
    await audit.end()
    ((_, content),) = await said(store)
    assert content == {"key": "<bytes>", "number": "<int>", "text": "x" * 500 + "..."}


async def test_a_log_whose_end_was_changed_is_told_at_the_start(store: VolatileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.record([audit_line(0.0, AuditEvent.RELOADED)])
    log, logged = kept_log()
    await AuditLog(log).begin(store)
    assert logged == []
    monkeypatch.setattr("nodes.store.audit.Chain.is_genuine", lambda _chain, _head: False)
    await AuditLog(log).begin(store)
    assert [entry["event"] for entry in logged] == ["audit-tampered"]
