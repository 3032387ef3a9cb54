"""Renewal by a clock that the test sets: when it is due, what is checked of the answer, and an authority that is away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from mpc.errors import IdentityError, RevokedError
from mpc.identity import Identity, Role
from nodes import renewal
from nodes.metrics import Registry
from nodes.renewal import Renewal
from nodes.transport.base import DeliveryError
from pki.authority import Authority
from pki.node import NodeKey, check_node_key
from pki.trust import TrustStore
from tests.mpc.nodes import CONSORTIUM
from tests.nodes.house import Clock, kept_log
from tests.pki.forge import DAY, NOW, p256

ALICE = Identity(CONSORTIUM, Role.PATIENT, "alice")
BOB = Identity(CONSORTIUM, Role.PATIENT, "bob")
DUE = NOW + 20 * DAY - 100
"""Two thirds of a certificate's 30 days, that begin 300 s early."""
LATEST = DUE + 1.5 * DAY + 15
"""With all of the twentieth by which it may be later."""


@dataclass
class Node:
    """A certificate, its renewal, and an authority's node that answers as `answer` says."""

    authority: Authority
    clock: Clock
    answer: Callable[[bytes], bytes]
    current: NodeKey
    trust: TrustStore
    metrics: Registry = field(default_factory=Registry)
    adopted: list[NodeKey] = field(default_factory=list)
    asked: list[bytes] = field(default_factory=list)
    unwritable: str = ""
    seconds: float = 60.0

    def __post_init__(self) -> None:
        self.log, self.logged = kept_log()
        self.renewal = self.make(self)

    def make(self, source: Any) -> Renewal:
        self.metrics = Registry()
        return Renewal(
            source,
            current=lambda: self.current,
            trust=lambda: self.trust,
            adopt=self.adopt,
            metrics=self.metrics,
            log=self.log,
        )

    async def renew(self, request: bytes) -> bytes:
        self.asked.append(request)
        return self.answer(request)

    async def lists(self, have: bytes) -> bytes | None:
        raise AssertionError("nobody asks a renewal for lists")

    async def adopt(self, fresh: NodeKey) -> None:
        if self.unwritable:
            raise IdentityError(self.unwritable)
        self.adopted.append(fresh)
        self.current = fresh

    async def at(self, now: float) -> None:
        self.clock.now = now
        await self.renewal.step()

    def events(self) -> list[str]:
        return [str(entry["event"]) for entry in self.logged]

    def pem(self, request: bytes, **other: Any) -> bytes:
        """What the authority answers, but for what the test wants `other`."""
        asked = {"who": ALICE, "key": x509.load_der_x509_csr(request).public_key(), "at": self.clock.now, "days": 30} | other
        chain = self.authority.issue(asked["who"], asked["key"], (), (), asked["at"], asked["days"])
        return b"".join(one.public_bytes(Encoding.PEM) for one in chain)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    clock = Clock(NOW)
    monkeypatch.setattr(renewal, "time", clock)
    authority = Authority.create(tmp_path / "ca", CONSORTIUM, NOW)
    trust = TrustStore([authority.root.der])
    key = ec.generate_private_key(ec.SECP256R1())
    chain = tuple(one.public_bytes(Encoding.DER) for one in authority.issue(ALICE, key.public_key(), (), (), NOW))
    made = Node(authority, clock, bytes, check_node_key(key, chain, trust, NOW, ALICE), trust)
    made.answer = made.pem
    return made


async def test_nothing_happens_before_two_thirds_of_the_life(node: Node) -> None:
    for now in (NOW, NOW + DAY, DUE - 1):
        await node.at(now)
    assert (node.asked, node.logged) == ([], [])


async def test_then_a_new_key_gets_a_new_certificate(node: Node) -> None:
    first = node.current
    await node.at(LATEST)
    [fresh] = node.adopted
    assert fresh.identity == ALICE
    assert fresh.credential.not_after == int(LATEST) + 30 * DAY
    assert fresh.private_key.private_numbers() != first.private_key.private_numbers()
    assert x509.load_der_x509_csr(node.asked[0]).public_key() == fresh.credential.public_key, "DER, of the new key"
    assert 'cohortium_renewals_total{outcome="renewed"} 1' in node.metrics.render()
    await node.at(LATEST + DAY)
    assert len(node.adopted) == 1


async def test_nodes_that_were_made_together_do_not_ask_together(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    first = node.current
    for share, due in ((0.0, DUE), (0.5, (DUE + LATEST) / 2), (1.0, LATEST)):
        monkeypatch.setattr("nodes.renewal.random.uniform", lambda low, high, share=share: low + share * (high - low))
        node.renewal = node.make(node)
        asked = len(node.asked)
        await node.at(due - 1)
        assert len(node.asked) == asked
        await node.at(due)
        assert len(node.asked) == asked + 1
        node.current = first


async def test_an_authority_that_is_away_is_asked_again_and_again_with_a_warning_each_time(node: Node) -> None:
    def away(_request: bytes) -> bytes:
        raise DeliveryError("refused", "nothing listens for the authority's node")

    first, node.answer = node.current, away
    now, tries = LATEST, 0
    while now < first.credential.not_after:
        await node.at(now)
        now += 600
    tries = len(node.asked)
    assert 8 * 24 <= tries <= 8 * 24 * 6, "every hour at the most often, and at least that while days are left"
    assert node.current is first
    assert set(node.events()) == {"renewal-failed"}
    line = node.logged[0]
    assert line["reason"] == "nothing listens for the authority's node"
    assert line["until"] == "2027-02-14T08:00:00Z"
    assert line["log_level"] == "warning"
    assert node.renewal.trouble == "nothing listens for the authority's node"
    node.answer = node.pem
    await node.at(first.credential.not_after)
    assert len(node.adopted) == 1, "the last second is early enough"
    assert node.renewal.trouble == ""


async def test_when_it_has_ended_the_node_cannot_go_on(node: Node) -> None:
    def away(_request: bytes) -> bytes:
        raise DeliveryError("timeout", "no answer in time")

    node.answer = away
    await node.at(node.current.credential.not_after)
    with pytest.raises(IdentityError) as caught:
        await node.at(node.current.credential.not_after + 1)
    assert caught.value.exit_status == 77
    assert "the certificate of spiffe://demo/patient/alice has expired on 2027-02-14T08:00:00Z" in str(caught.value)
    assert str(caught.value).endswith("; it could not be renewed: no answer in time")


async def test_a_revoked_certificate_stops_the_node_at_once(node: Node) -> None:
    node.authority.revoke_identity(ALICE, "keyCompromise", NOW + DAY)
    node.trust = node.trust.with_list(node.authority.revocation_list(NOW + DAY), NOW + DAY)
    with pytest.raises(RevokedError, match="was revoked on"):
        await node.at(NOW + DAY)


async def test_a_list_that_nobody_renews_does_not_stop_the_node_that_may_fetch_the_next(node: Node) -> None:
    node.trust = node.trust.with_list(node.authority.revocation_list(NOW, days=1), NOW)
    await node.at(NOW + 19 * DAY)
    await node.at(LATEST)
    assert len(node.adopted) == 1


async def test_without_anybody_who_renews_a_warning_a_day_is_all(node: Node) -> None:
    node.renewal = node.make(None)
    for hour in range(48):
        await node.at(LATEST + hour * 3600)
    assert node.events() == ["certificate-ending"] * 2
    assert "name the node that does under 'authority'" in node.logged[0]["reason"]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"who": BOB}, "it is for spiffe://demo/patient/bob"),
        ({"key": p256().public_key()}, "it is not the certificate of its key"),
        ({"at": LATEST + 8 * DAY + 2 * 3600}, "is not valid before"),
        ({"at": LATEST, "days": 1}, "has expired on"),
    ],
    ids=["another name", "another key", "of tomorrow", "of last week"],
)
async def test_a_certificate_that_cannot_be_used_changes_nothing(node: Node, other: dict[str, Any], reason: str) -> None:
    first = node.current
    node.answer = lambda request: node.pem(request, **other)
    await node.at(LATEST + 8 * DAY)
    assert (node.current, node.adopted) == (first, [])
    [line] = node.logged
    assert reason in line["reason"]
    assert 'cohortium_renewals_total{outcome="failed"} 1' in node.metrics.render()


async def test_another_authority_is_not_believed_though_it_answers_in_place_of_the_right_one(node: Node, tmp_path: Path) -> None:
    node.authority = Authority.create(tmp_path / "other", CONSORTIUM, NOW)
    await node.at(LATEST)
    assert node.adopted == []
    assert "comes from an authority that is not trusted here" in node.logged[0]["reason"]


@pytest.mark.parametrize("answer", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
async def test_what_is_no_certificate_is_told_so(node: Node, answer: bytes) -> None:
    node.answer = lambda _request: answer
    await node.at(LATEST)
    assert "what came back is no certificate" in node.logged[0]["reason"]


async def test_a_pair_that_cannot_be_kept_is_not_used(node: Node) -> None:
    node.unwritable = "cannot write identity.sealed: No space left on device"
    await node.at(LATEST)
    assert node.logged[0]["reason"] == node.unwritable
    assert node.adopted == []
    node.unwritable = ""
    await node.at(LATEST + 3600)
    assert len(node.adopted) == 1


async def test_an_authority_whose_clock_is_ahead_is_waited_for(node: Node) -> None:
    node.answer = lambda request: node.pem(request, at=node.clock.now + 900)
    await node.at(LATEST)
    assert (node.adopted, node.events()) == ([], ["clock-behind"])
    assert node.logged[0]["seconds"] == 600, "a certificate begins five minutes before it is made"
    await node.at(LATEST + 599)
    assert node.adopted == []
    await node.at(LATEST + 600)
    assert len(node.adopted) == 1
    assert len(node.asked) == 1, "nothing is asked twice"


async def test_a_clock_that_goes_back_before_the_certificate_stops_nothing(node: Node) -> None:
    await node.at(NOW - 10 * DAY)
    assert node.logged == []


async def test_what_was_just_renewed_and_is_due_again_does_not_run_hot(node: Node) -> None:
    """An authority that ends soon can give no more than it has."""
    node.answer = lambda request: node.pem(request, at=node.clock.now - DAY + 100, days=1)
    for second in range(100):
        await node.at(LATEST + second)
    assert len(node.adopted) == 1
