"""Lists that a node fetches, keeps and hands on: what is refused and told, and what their age means by the test's clock."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mpc.errors import IdentityError, RevokedError
from mpc.identity import Identity, Role
from nodes import revocation
from nodes.config import RevocationRules
from nodes.metrics import Registry
from nodes.revocation import FILE, Revocations, with_file, with_kept
from nodes.transport.base import DeliveryError
from nodes.upkeep import tag
from pki.authority import Authority
from pki.lists import MAX_BYTES, Lists, pack, take
from pki.revocation import RevocationList
from pki.trust import Listed, TrustStore
from tests.mpc.nodes import CONSORTIUM
from tests.nodes.house import Clock, kept_log
from tests.pki.forge import DAY, NOW

ALICE = Identity(CONSORTIUM, Role.PATIENT, "alice")
RULES = RevocationRules()


@dataclass
class Node:
    """What it obeys, and a node that it asks, which says what `answer` holds or raises it."""

    state: Path
    authority: Authority
    clock: Clock
    trust: TrustStore
    rules: RevocationRules = RULES
    answer: bytes | Exception | None = None
    asked: list[bytes] = field(default_factory=list)
    seconds: float = 60.0

    def __post_init__(self) -> None:
        self.log, self.logged = kept_log()
        self.metrics = Registry()
        self.revocations = Revocations(
            self,
            state=self.state,
            rules=lambda: self.rules,
            trust=lambda: self.trust,
            adopt=self.adopt,
            metrics=self.metrics,
            log=self.log,
        )

    async def renew(self, request: bytes) -> bytes:
        raise AssertionError("nobody asks for a renewal")

    async def lists(self, have: bytes) -> bytes | None:
        self.asked.append(have)
        if isinstance(self.answer, Exception):
            raise self.answer
        return None if self.answer is None or tag(self.answer) == have else self.answer

    async def adopt(self, lists: Lists) -> list[IdentityError]:
        self.trust, problems = take(self.trust, lists, self.clock.now)
        await self.revocations.changed()
        return problems

    async def at(self, now: float) -> None:
        self.clock.now = now
        await self.revocations.step()

    def sign(self, authority: Authority | None = None, days: int = 7) -> bytes:
        return pack([Listed((authority or self.authority).revocation_list(self.clock.now, days), ())])

    def events(self, name: str) -> list[Any]:
        return [entry for entry in self.logged if entry["event"] == name]

    def restarted(self) -> TrustStore:
        """What the next life obeys."""
        trust, notes = with_kept(self.trust.without_lists(), self.state, self.clock.now)
        assert notes == []
        return trust


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    clock = Clock(NOW)
    monkeypatch.setattr(revocation, "time", clock)
    authority = Authority.create(tmp_path / "ca", CONSORTIUM, NOW)
    return Node(tmp_path / "state", authority, clock, TrustStore([authority.root.der], RULES.refuse_after))


def numbers(trust: TrustStore) -> list[int]:
    return [listed.revocations.number for listed in trust.lists]


async def test_a_new_list_is_obeyed_and_survives_the_end_of_the_daemon(node: Node) -> None:
    await node.at(NOW)
    assert (node.trust.lists, node.restarted().lists) == ((), ())
    node.answer = node.sign()
    await node.at(NOW + 1)
    assert numbers(node.trust) == numbers(node.restarted()) == [1]
    assert stat.S_IMODE((node.state / FILE).stat().st_mode) == 0o644
    assert 'cohortium_revocation_fetches_total{outcome="taken"} 1' in node.metrics.render()
    assert "cohortium_revocation_list_number 1\n" in node.metrics.render()
    assert f"cohortium_revocation_list_next_update_timestamp_seconds {NOW + 7 * DAY}" in node.metrics.render()
    assert node.revocations.status()[0]["number"] == 1


async def test_what_is_known_is_not_fetched_again(node: Node) -> None:
    node.answer = node.sign()
    await node.at(NOW)
    await node.at(NOW + 60)
    assert node.asked == [b"", tag(node.answer)]


async def test_an_older_list_is_refused_and_the_newer_one_stays_across_a_restart(node: Node) -> None:
    old = node.sign()
    node.clock.now += 10
    node.answer = node.sign()
    await node.at(NOW + 10)
    node.answer = old
    for second in range(3):
        await node.at(NOW + 20 + second)
    assert numbers(node.trust) == numbers(node.restarted()) == [2]
    [line] = node.events("revocations-refused")
    assert "number 1 is not newer than number 2, which is known already" in line["reason"]
    assert line["log_level"] == "warning"
    assert 'cohortium_revocation_fetches_total{outcome="refused"} 3' in node.metrics.render()


async def refused(node: Node, answer: bytes, reason: str) -> None:
    """The answer is refused for that reason, once, and the list that is there stays."""
    node.answer = node.sign()
    await node.at(NOW)
    before = node.trust
    node.answer = answer
    await node.at(NOW + 1)
    await node.at(NOW + 2)
    assert node.trust is before
    assert node.restarted().lists == before.lists != ()
    [line] = node.events("revocations-refused")
    assert reason in line["reason"]


async def test_a_list_of_another_authority_of_the_same_name_is_refused(node: Node, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", CONSORTIUM, NOW)
    await refused(node, node.sign(other), "is not signed by an authority that is trusted here")


async def test_a_list_whose_signature_does_not_hold_is_refused(node: Node) -> None:
    der = bytearray(node.authority.revocation_list(NOW).der)
    der[-1] ^= 1
    await refused(node, bytes(der), "is not signed by an authority that is trusted here")


async def test_a_huge_list_is_refused(node: Node) -> None:
    await refused(node, bytes(MAX_BYTES + 1), "there are more than 8388608 bytes")


async def test_what_is_no_list_is_refused(node: Node) -> None:
    await refused(node, b"<html>", "the revocation list is damaged")


async def test_a_list_from_the_future_is_looked_at_again_when_its_time_has_come(node: Node) -> None:
    node.clock.now = NOW + 1000
    node.answer = node.sign()
    await node.at(NOW)
    assert "check the clocks" in node.events("revocations-refused")[0]["reason"]
    await node.at(NOW + 700)
    assert numbers(node.trust) == [1]


async def test_who_cannot_be_asked_is_told_of_when_it_lasts(node: Node) -> None:
    node.answer = DeliveryError("refused", "nothing listens for the authority's node")
    await node.at(NOW)
    await node.at(NOW + 60)
    assert node.logged == [], "nodes are started in any order"
    assert node.revocations.trouble == "nothing listens for the authority's node"
    for minute in range(2, 10):
        await node.at(NOW + minute * 60)
    [line] = node.events("revocations-unreachable")
    assert line["reason"] == "nothing listens for the authority's node"
    node.answer = node.sign()
    await node.at(NOW + 700)
    assert node.revocations.trouble == ""


async def test_a_list_without_a_successor_is_warned_of_and_then_refuses_everybody(node: Node) -> None:
    chain = _chain(node)
    node.answer = node.sign(days=1)
    await node.at(NOW)
    ends = NOW + DAY
    await node.at(ends + RULES.warn_after)
    assert node.events("revocations-old") == []
    await node.at(ends + RULES.warn_after + 1)
    [line] = node.events("revocations-old")
    assert (line["log_level"], line["ended"]) == ("warning", "2027-01-16T08:00:00Z")
    assert line["refused_from"] == "2027-01-23T08:00:00Z"
    await node.at(ends + RULES.warn_after + 60)
    assert len(node.events("revocations-old")) == 1, "once an hour"
    assert node.trust.verify(chain, ends + RULES.refuse_after).identity == ALICE
    assert node.revocations.too_old(ends + RULES.refuse_after) == []
    await node.at(ends + RULES.refuse_after + 1)
    assert node.events("revocations-old")[-1]["log_level"] == "error"
    [reason] = node.revocations.too_old(ends + RULES.refuse_after + 1)
    assert reason.endswith("number 1 has ended on 2027-01-16T08:00:00Z")
    with pytest.raises(IdentityError, match="so nobody can tell who was revoked since"):
        node.trust.verify(chain, ends + RULES.refuse_after + 1)
    node.answer = node.sign()
    await node.at(ends + RULES.refuse_after + 2)
    assert node.trust.verify(chain, ends + RULES.refuse_after + 2).identity == ALICE, "a newer list heals it"
    assert node.revocations.too_old(node.clock.now) == []


def _chain(node: Node) -> tuple[bytes, ...]:
    files = node.authority.issue_node(ALICE, (), (), NOW, out=node.state)
    return (files.facts.der,)


async def test_a_disk_that_is_full_is_told_and_the_list_is_obeyed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    node.answer = node.sign()
    monkeypatch.setattr("pki.files.os.fsync", full)
    await node.at(NOW)
    assert numbers(node.trust) == [1]
    assert "No space left on device" in node.events("revocations-not-kept")[0]["reason"]
    monkeypatch.undo()
    await node.at(NOW + 60)
    assert (node.state / "revocations.pem").exists(), "it is kept as soon as there is room"


async def test_kept_lists_that_are_damaged_stop_the_start(node: Node) -> None:
    node.answer = node.sign()
    await node.at(NOW)
    (node.state / FILE).write_bytes((node.state / FILE).read_bytes()[:100])
    with pytest.raises(IdentityError, match=rf"{FILE}: there must be a revocation list .*; or delete it"):
        node.restarted()


async def test_kept_lists_of_an_authority_that_is_trusted_no_more_are_passed_over(node: Node, tmp_path: Path) -> None:
    node.answer = node.sign()
    await node.at(NOW)
    other = Authority.create(tmp_path / "other", CONSORTIUM, NOW)
    trust, [note] = with_kept(TrustStore([other.root.der]), node.state, NOW)
    assert trust.lists == ()
    assert "is not signed by an authority that is trusted here" in note


async def test_a_clock_that_went_back_unrevokes_nobody(node: Node) -> None:
    chain = _chain(node)
    node.authority.revoke_identity(ALICE, "keyCompromise", NOW)
    node.answer = node.sign()
    await node.at(NOW)
    node.clock.now = NOW - DAY
    with pytest.raises(RevokedError):
        node.restarted().verify(chain, NOW)


# -- what an administrator puts there


def filed(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "ca.crl"
    path.write_bytes(content)
    return path


def test_a_file_is_obeyed_and_may_grow_old_beside_what_is_fetched(node: Node, tmp_path: Path) -> None:
    first = filed(tmp_path, node.sign())
    trust, notes = with_file(node.trust, first, NOW, ())
    assert (numbers(trust), notes) == ([1], [])
    newer = node.trust.with_list(RevocationList.parse(node.sign()), NOW)
    trust, [note] = with_file(newer, first, NOW, ())
    assert trust is newer
    assert note.startswith(f"{first}: ")
    assert "number 1 is not newer than number 2" in note


def test_a_file_that_cannot_be_obeyed_is_an_error_that_names_it(node: Node, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", CONSORTIUM, NOW)
    for content, reason in ((node.sign(other), "not signed by an authority"), (b"", "damaged"), (bytes(MAX_BYTES + 1), "larger")):
        path = filed(tmp_path, content)
        with pytest.raises(IdentityError, match=reason) as caught:
            with_file(node.trust, path, NOW, ())
        assert str(path) in str(caught.value)
    with pytest.raises(IdentityError, match="does not exist"):
        with_file(node.trust, tmp_path / "missing.crl", NOW, ())


def test_an_issuing_authoritys_file_needs_no_more_than_the_nodes_own_chain(tmp_path: Path) -> None:
    root = Authority.create(tmp_path / "root", CONSORTIUM, NOW)
    issuing = Authority.create_below(root, tmp_path / "issuing", NOW)
    path = filed(tmp_path, issuing.revocation_list(NOW).der)
    trust, notes = with_file(TrustStore([root.root.der]), path, NOW, (issuing.certificate.der,))
    assert (numbers(trust), notes) == ([1], [])


def test_nodes_do_not_all_ask_in_the_same_second(node: Node) -> None:
    pauses = {node.revocations.pause() for _ in range(50)}
    assert len(pauses) > 40
    assert 48 <= min(pauses) < max(pauses) <= 60
    node.seconds = 5.0
    assert node.revocations.pause() <= 5, "an authority of one's own is asked more often"
