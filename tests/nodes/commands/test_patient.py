"""`cohortium patient inbox` and the others: what a person types reaches the daemon, and what it says comes out as text."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mpc.errors import CohortiumError, TemporaryError, UsageError
from nodes.admin.api import AdminApi
from nodes.admin.audit import add_audit_routes
from nodes.admin.patient import add_patient_routes
from nodes.commands.patient import patient
from nodes.metrics import Registry
from nodes.store.audit import AuditEvent, audit_line
from nodes.store.volatile import VolatileStore
from tests.nodes.house import short_directory

REQUEST = {
    "study": "pressure",
    "digest": "ab" * 32,
    "title": "Mean\x1b[2J pressure",
    "purpose": "care",
    "legal_basis": "",
    "hospital": "general",
    "asks": ["mean systolic", "histogram systolic by ward"],
    "invited": 5,
    "minimum": 3,
    "publish": "members",
    "noise": True,
    "answer_by": 1_800_000_000,
    "deadline": 1_800_000_060,
    "round": "cd" * 16,
}
BOUND = {"source": "systolic", "guard": "bound", "until": 1_800_000_000.0, "rounds": 2, "members": ["alice", "bob"], "rho": 0}


@dataclass
class Person:
    """A patient that notes what it is told."""

    told: list[tuple[str, Any]] = field(default_factory=list)
    waiting: list[dict[str, object]] = field(default_factory=lambda: [REQUEST])

    async def inbox(self) -> list[dict[str, object]]:
        return self.waiting

    async def asked(self, study: str) -> dict[str, object]:
        raise UsageError(f"nothing waits under {study!r}")

    async def approve(self, study: str, until: float | None) -> list[dict[str, object]]:
        self.told.append((study, until))
        return self.waiting

    async def decline(self, study: str) -> list[dict[str, object]]:
        self.told.append((study, "decline"))
        if study == "nothing":
            raise UsageError("nothing waits under 'nothing'")
        return self.waiting

    async def withdraw(self, pattern: str) -> dict[str, object]:
        self.told.append((pattern, "withdraw"))
        given = {"round": "cd" * 16, "study": "pressure", "at": 1_800_000_000.0, "members": ["alice", "bob", "charlie"]}
        return {"withdrawn": pattern, "ended": [], "given": [given] if pattern == "pressure" else []}

    async def release(self, sources: tuple[str, ...]) -> list[str]:
        self.told.append(("release", sources))
        return list(sources or ("systolic", "weight"))

    async def bindings(self) -> list[dict[str, object]]:
        return [BOUND]


@dataclass
class Daemon:
    """What answers at the socket."""

    socket: Path
    person: Person = field(default_factory=Person)
    store: VolatileStore = field(default_factory=VolatileStore)

    def say(self, *words: str) -> Result:
        return CliRunner().invoke(patient, [*words, "--socket", str(self.socket)])


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with short_directory() as directory:
        made = Daemon(directory / "alice.sock")
        ready, loop = threading.Event(), asyncio.new_event_loop()

        async def serve() -> AdminApi:
            await made.store.open()
            lines = [
                audit_line(1_800_000_000.0, AuditEvent.RELOADED),
                audit_line(1_800_000_001.0, AuditEvent.DECLINED, "pulse", reason="a person has declined it", questions=["ab"]),
            ]
            await made.store.record(lines)
            admin = AdminApi(made.socket, dict, Registry())
            add_patient_routes(admin, made.person)
            add_audit_routes(admin, made.store, lambda: pytest.fail("nothing is exported"))
            await admin.start()
            return admin

        def live() -> None:
            admin = loop.run_until_complete(serve())
            ready.set()
            loop.run_forever()
            loop.run_until_complete(admin.stop())

        thread = threading.Thread(target=live)
        thread.start()
        assert ready.wait(10)
        yield made
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def test_the_inbox_tells_what_is_asked_and_nothing_in_it_moves_the_cursor(daemon: Daemon) -> None:
    assert daemon.say("inbox").output.splitlines() == [
        "pressure  Mean\N{REPLACEMENT CHARACTER}[2J pressure",
        "  what for   care",
        "  asks       mean systolic",
        "             histogram systolic by ward",
        "  of         5 patients, at least 3, by general",
        "  result     noised, for the hospital and all members",
        "  answer by  2027-01-15 08:00 UTC; the round ends by 2027-01-15 08:01 UTC",
        f"  digest     {'ab' * 32}",
    ]
    assert json.loads(daemon.say("inbox", "--json").output) == [REQUEST]
    daemon.person.waiting = []
    assert daemon.say("inbox").output == "nothing waits\n"


def test_an_approval_may_reach_into_the_future(daemon: Daemon) -> None:
    assert daemon.say("approve", "pressure").output == f"approved pressure (digest {'ab' * 8}, round {'cd' * 6})\n"
    done = daemon.say("approve", "pressure", "--until", "2027-01-31")
    assert done.output.splitlines()[-1] == "the same study is consented to until 2027-01-31 00:00 UTC, without asking again"
    before = time.time()
    assert daemon.say("approve", "pressure", "--for", "12h").exit_code == 0
    (_, first), (_, second), (_, third) = daemon.person.told
    assert (first, second) == (None, 1_801_353_600.0)
    assert before + 12 * 3600 <= third <= time.time() + 12 * 3600


def test_a_refusal_of_the_daemon_is_the_commands_own(daemon: Daemon) -> None:
    assert daemon.say("decline", "pressure").output.startswith("declined pressure")
    done = daemon.say("decline", "nothing")
    assert isinstance(done.exception, UsageError)
    assert str(done.exception) == "nothing waits under 'nothing'"


def test_a_withdrawal_lists_what_was_given(daemon: Daemon) -> None:
    assert daemon.say("withdraw", "pressure").output.splitlines() == [
        "withdrawn from pressure; 0 open rounds ended",
        f"2027-01-15 08:00 UTC  pressure                 round {'cd' * 6}, 3 members",
    ]
    assert daemon.say("withdraw", "weight-*").output.splitlines()[-1].startswith("nothing was ever given to it")
    assert json.loads(daemon.say("withdraw", "weight-*", "--json").output)["withdrawn"] == "weight-*"


def test_the_ledger_is_the_part_of_the_audit_log_that_is_about_requests(daemon: Daemon) -> None:
    assert daemon.say("ledger").output.splitlines() == [
        "     2  2027-01-15 08:00:01  declined          pulse            reason=a person has declined it"
    ]
    assert json.loads(daemon.say("ledger", "--json").output)["content"]["questions"] == ["ab"]
    assert daemon.say("ledger", "--sources").output == (
        "systolic                 until 2027-01-15 08:00 UTC, 2 rounds, last over alice, bob\n"
    )
    assert json.loads(daemon.say("ledger", "--sources", "--json").output) == BOUND


def test_the_ledger_is_verified(daemon: Daemon) -> None:
    assert daemon.say("ledger", "--verify").output == "lines 1 to 2 are as they were written\n"
    line = daemon.store._disk.audit[1]
    daemon.store._disk.audit[1] = type(line)(line.number, audit_line(0.0, AuditEvent.CONSENTED, "pulse"), line.salt, line.tag)
    done = daemon.say("ledger", "--verify")
    assert (type(done.exception), done.exit_code) == (CohortiumError, 1)
    assert str(done.exception).startswith("line 2: it was changed")


def test_sources_are_freed_by_name_or_all_at_once(daemon: Daemon) -> None:
    assert daemon.say("release", "systolic").output == "free: systolic\n"
    assert daemon.say("release", "--all").output == "free: systolic, weight\n"
    assert daemon.person.told == [("release", ("systolic",)), ("release", ())]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("approve", "pressure", "--until", "2027-01-31", "--for", "1h"), "give --until or --for, and not both"),
        (("approve", "pressure", "--for", "1 hour"), "is no duration; write a number of minutes, hours or days"),
        (("approve", "pressure", "--for", "0h"), "is no duration"),
        (("release",), "name the sources, or say --all"),
        (("release", "systolic", "--all"), "name the sources, or say --all"),
        (("--check", "inbox"), "run a daemon"),
    ],
)
def test_what_cannot_be_meant_is_told(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(patient, [*words, "--socket", str(tmp_path / "none.sock")])
    assert done.exit_code != 0
    assert said in done.output + str(done.exception)


def test_a_daemon_that_does_not_run_is_named(tmp_path: Path) -> None:
    for words in (("inbox",), ("approve", "x"), ("decline", "x"), ("withdraw", "x"), ("ledger",), ("release", "--all")):
        done = CliRunner().invoke(patient, [*words, "--socket", str(tmp_path / "admin.sock")])
        assert isinstance(done.exception, TemporaryError)
        assert "no daemon answers at" in str(done.exception)
