"""`cohortium audit`: what cannot be meant is told before anything is asked, and a daemon's words come out as text."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mpc.errors import IdentityError, TemporaryError, UsageError
from nodes.admin.api import AdminApi
from nodes.admin.audit import add_audit_routes
from nodes.commands.audit import audit
from nodes.metrics import Registry
from nodes.store.audit import AuditEvent, AuditLine, audit_line
from nodes.store.volatile import VolatileStore
from pki.node import NodeKey, load_node_key
from pki.trust import TrustStore
from tests.mpc.nodes import patient
from tests.nodes.commands.play import at_work
from tests.nodes.house import Site, make_site, short_directory


@dataclass
class Node:
    """A daemon, as far as its audit log goes."""

    site: Site
    key: NodeKey
    store: VolatileStore = field(default_factory=VolatileStore)

    @property
    def socket(self) -> str:
        return str(self.site.directory / "audit.sock")


@pytest.fixture
def node() -> Iterator[Node]:
    """A daemon with two lines, and its admin socket on a thread of its own."""
    with short_directory() as directory:
        site = make_site(directory, {"alice": 1, "bob": 2, "charlie": 3})
        files = directory / "alice.key", directory / "alice.crt"
        trust = TrustStore.load(directory / "ca" / "ca.crt")
        made = Node(site, load_node_key(*files, trust, time.time(), patient("alice")))

        async def serve() -> AdminApi:
            await made.store.open()
            await made.store.record(
                [audit_line(1_800_000_000.0, AuditEvent.DECLINED, "pulse", reason="no\x1b[2J", who=["a", "b"])]
            )
            await made.store.record([AuditLine(1_800_000_060.0, AuditEvent.RELOADED, "", b"not json")])
            admin = AdminApi(Path(made.socket), dict, Registry())
            add_audit_routes(admin, made.store, lambda: made.key)
            await admin.start()
            return admin

        with at_work(serve):
            yield made


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(audit, [str(argument) for argument in arguments])


def test_lines_are_shown_for_people_and_nothing_in_them_moves_the_cursor(node: Node) -> None:
    done = invoke("show", "--socket", node.socket)
    assert done.output.splitlines() == [
        "     1  2027-01-15 08:00:00  declined          pulse            reason=no\N{REPLACEMENT CHARACTER}[2J who=a,b",
        "     2  2027-01-15 08:01:00  reloaded                           unreadable=6e6f74206a736f6e",
    ]
    assert invoke("show", "--socket", node.socket, "--since", "2027-01-15T08:00:30").output.count("\n") == 1


def test_an_event_that_there_is_not_is_told_with_those_that_there_are(node: Node) -> None:
    done = invoke("show", "--socket", node.socket, "--event", "agreed")
    assert isinstance(done.exception, UsageError)
    assert "consented, declined" in str(done.exception)


def test_an_export_overwrites_nothing_unless_told_to(node: Node, tmp_path: Path) -> None:
    file = tmp_path / "export.jsonl"
    file.write_text("mine")
    done = invoke("export", file, "--socket", node.socket)
    assert isinstance(done.exception, IdentityError)
    assert "exists already" in str(done.exception)
    assert file.read_text() == "mine"
    assert invoke("export", file, "--socket", node.socket, "--force").exit_code == 0
    done = invoke("verify", file, "--authority", node.site.directory / "ca" / "ca.crt")
    # The second line says nothing that JSON could: no node writes such a line, and no other program has to read it.
    assert str(done.exception) == "line 2: it cannot be read"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("verify",), "say which daemon"),
        (("verify", "--certificate", "alice.crt"), "name its FILE"),
        (("verify", "--after", "old.jsonl"), "name its FILE"),
        (("verify", "new.jsonl"), "say who signed FILE"),
        (("verify", "new.jsonl", "--certificate", "alice.crt", "--authority", "ca.crt"), "say who signed FILE"),
        (("verify", "new.jsonl", "--certificate", "alice.crt", "--socket", "admin.sock"), "but not both"),
        (("verify", "nowhere.jsonl", "--certificate", "alice.crt"), "cannot read nowhere.jsonl"),
        (("show",), "say which daemon"),
    ],
)
def test_what_cannot_be_meant_is_told(words: tuple[str, ...], text: str) -> None:
    done = invoke(*words)
    assert isinstance(done.exception, UsageError)
    assert text in str(done.exception)


@pytest.mark.parametrize("words", [("show",), ("verify",), ("export", "new.jsonl")])
def test_a_daemon_that_does_not_run_is_named(words: tuple[str, ...], tmp_path: Path) -> None:
    done = invoke(*words, "--socket", tmp_path / "admin.sock")
    assert isinstance(done.exception, TemporaryError)
    assert "no daemon answers at" in str(done.exception)
