"""Where certificates and lists come from: the authority's own node signs what is due, the others ask it over mutual TLS."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from msgspec.structs import replace

from mpc.errors import Answer, IdentityError
from mpc.identity import Identity, Role
from nodes import upkeep
from nodes.config import AuthorityAddress, RelayAddress, RevocationRules, check_hospital, check_patient
from nodes.enrolment.desk import Desk
from nodes.metrics import Registry
from nodes.revocation import Revocations
from nodes.transport.base import DeliveryError
from nodes.transport.https import HttpsTransport
from nodes.transport.inbox import Reply, Route
from nodes.transport.limits import Limits
from nodes.transport.tls import client_context
from nodes.upkeep import REVOCATIONS_PATH, Own, Remote, service_of, tag
from pki.authority import Authority
from pki.lists import MAX_BYTES, take, unpack
from pki.register import Register
from pki.trust import TrustStore
from tests.mpc.nodes import CONSORTIUM
from tests.nodes.house import Clock, kept_log, make_site, short_directory
from tests.nodes.transport.certificates import Authority as TlsAuthority
from tests.nodes.transport.certificates import Files
from tests.pki.forge import DAY, NOW

GENERAL = Identity(CONSORTIUM, Role.HOSPITAL, "general")
ALICE = Identity(CONSORTIUM, Role.PATIENT, "alice")


# -- the authority here


class House:
    """A hospital that holds the authority, and obeys what it signs."""

    def __init__(self, directory: Path, clock: Clock, *, below: bool = False) -> None:
        self.clock = clock
        root = Authority.create(directory / "root", CONSORTIUM, NOW)
        self.authority = Authority.create_below(root, directory / "ca", NOW) if below else root
        self.trust = TrustStore([root.root.der])
        log, _ = kept_log()
        desk = Desk(self.authority, log, Registry(), lambda *_, **__: None)
        self.own = Own(GENERAL, desk, lambda: b"", lambda: self.trust, days=8)

    async def at(self, now: float) -> list[int]:
        """The numbers of the lists that it signs now."""
        self.clock.now = now
        found = await self.own.lists(b"")
        if found is None:
            return []
        self.trust, problems = take(self.trust, unpack(found), now)
        assert problems == []
        return [listed.revocations.number for listed in self.trust.lists]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock(NOW)
    monkeypatch.setattr(upkeep, "time", made)
    return made


@pytest.mark.parametrize("below", [False, True], ids=["root", "issuing authority"])
async def test_a_list_is_signed_at_once_and_the_next_at_half_of_its_time(tmp_path: Path, clock: Clock, below: bool) -> None:
    house = House(tmp_path, clock, below=below)
    assert await house.at(NOW) == [1]
    assert house.trust.lists[0].revocations.next_update == NOW + 8 * DAY
    for now in (NOW + 5, NOW + DAY, NOW + 4 * DAY - 1):
        assert await house.at(now) == []
    assert await house.at(NOW + 4 * DAY) == [2]
    assert await house.at(NOW + 4 * DAY + 5) == []


async def test_a_revocation_is_in_the_next_list_within_a_look(tmp_path: Path, clock: Clock) -> None:
    house = House(tmp_path, clock)
    house.authority.issue_node(ALICE, (), (), NOW, out=tmp_path)
    await house.at(NOW)
    [issued], _ = house.authority.revoke_identity(ALICE, "keyCompromise", NOW)
    assert await house.at(NOW) == [2], "in the very same second"
    assert [f"{serial:x}" for serial in house.trust.lists[0].revocations.revoked] == [issued.serial]
    assert await house.at(NOW + 5) == []


async def test_a_list_that_a_person_signed_elsewhere_is_followed_by_one_that_is_known_here(tmp_path: Path, clock: Clock) -> None:
    house = House(tmp_path, clock)
    house.authority.issue_node(ALICE, (), (), NOW, out=tmp_path)
    await house.at(NOW)
    house.authority.revoke_identity(ALICE, "superseded", NOW + 1)
    house.authority.revocation_list(NOW + 1)
    assert await house.at(NOW + 2) == [3]
    assert len(house.trust.lists[0].revocations.revoked) == 1


async def test_a_register_that_nobody_touched_is_not_read_again(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(tmp_path, clock)
    await house.at(NOW)
    await house.at(NOW + 1)

    def unexpected(_register: Register) -> None:
        raise AssertionError("a long register would be read every five seconds")

    monkeypatch.setattr(Register, "read", unexpected)
    for second in range(2, 60, 5):
        assert await house.at(NOW + second) == []


async def test_an_authority_that_cannot_sign_says_why(tmp_path: Path, clock: Clock) -> None:
    house = House(tmp_path, clock)
    (house.authority.directory / "register.jsonl").unlink(missing_ok=True)
    (house.authority.directory / "register.jsonl").mkdir()
    with pytest.raises(IdentityError, match=r"register\.jsonl"):
        await house.at(NOW)


# -- another node


class Service:
    """A hospital's listener that hands on what `give` says, as a node does."""

    def __init__(self, directory: Path) -> None:
        self.authority = TlsAuthority(directory)
        self.files: Files = self.authority.issue(GENERAL)
        self.lists = Revocations(
            None,
            state=directory / "state",
            rules=RevocationRules,
            trust=lambda: self.trust,
            adopt=self._adopt,
            metrics=Registry(),
            log=kept_log()[0],
        )
        self.trust = TrustStore(self.authority.roots)
        self.routes: dict[str, Route] = {REVOCATIONS_PATH: self.lists.route(Limits(), lambda _: None)}
        self.transport = HttpsTransport(
            "127.0.0.1:0",
            proof=self.files.pair,
            roots=self.authority.roots,
            roles=frozenset(Role),
            limits=Limits(stop_seconds=0.5),
            routes=self.routes,
        )

    async def _adopt(self, _lists: object) -> list[IdentityError]:
        raise AssertionError("it fetches nothing")

    def remote(self, who: Identity = GENERAL) -> Remote:
        own = self.authority.issue(ALICE)
        url = f"https://127.0.0.1:{self.transport.port}"
        return Remote(who, url, None, lambda: client_context(own.pair, self.authority.roots))


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    made = Service(tmp_path)

    async def refuse(_raw: bytes, _peer: Identity) -> Answer:
        return Answer.REFUSED

    await made.transport.start(refuse)
    yield made
    await made.transport.stop()


async def test_lists_are_handed_on_once_and_after_that_their_name_is_enough(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = service.remote()
    assert await remote.lists(b"") is None, "it has none"
    authority = Authority.create(tmp_path / "ca", CONSORTIUM, time.time())
    service.trust = TrustStore([authority.root.der]).with_list(authority.revocation_list(time.time()), time.time())
    await service.lists.changed()
    body = await remote.lists(b"")
    assert body is not None
    assert unpack(body).lists[0].number == 1
    assert await remote.lists(tag(body)) is None
    assert await remote.lists(b"other") == body
    assert service.transport.connections() == 0, "nobody's connection stays"


async def test_a_node_that_hands_on_more_than_there_can_be_is_cut_short(service: Service) -> None:
    async def endless(request: web.BaseRequest, _peer: Identity) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(bytes(1 << 20))

    service.routes[REVOCATIONS_PATH] = Route("GET", endless)
    async with asyncio.timeout(20):
        body = await service.remote().lists(b"")
    assert body is not None
    assert len(body) == MAX_BYTES + 1
    with pytest.raises(IdentityError, match="more than"):
        unpack(body)


@pytest.mark.parametrize(
    ("status", "said"),
    [(403, "does not renew this certificate; its log says why"), (404, "renews no certificates"), (503, "status 503")],
)
async def test_a_renewal_that_is_refused_says_who_refuses_it(service: Service, status: int, said: str) -> None:
    async def refuse(_request: web.BaseRequest, _peer: Identity) -> web.StreamResponse:
        return Reply(status)

    if status != 404:
        service.routes["/v1/renew"] = Route("POST", refuse)
    with pytest.raises(DeliveryError, match=said):
        await service.remote().renew(b"request")


async def test_a_node_of_another_name_is_asked_nothing(service: Service) -> None:
    with pytest.raises(DeliveryError, match="expected spiffe://demo/relay/mail, met spiffe://demo/hospital/general"):
        await service.remote(Identity(CONSORTIUM, Role.RELAY, "mail")).renew(b"request")


# -- whom to ask


def test_a_patient_asks_whom_it_talks_to_anyway_and_a_hospital_whom_it_is_told() -> None:
    with short_directory() as directory:
        site = make_site(directory, {"alice": 1, "bob": 2, "charlie": 3})
        patient, hospital = check_patient(site.patients["alice"]), check_hospital(site.hospital)
    assert service_of(patient) == (GENERAL, patient.hospital_url)
    relay = RelayAddress(name="mail", url="https://127.0.0.1:9")
    assert service_of(replace(patient, topology="relay", relay=relay)) == (
        Identity(CONSORTIUM, Role.RELAY, "mail"),
        "https://127.0.0.1:9",
    )
    assert service_of(hospital) is None
    told = AuthorityAddress(role="relay", name="other", url="https://127.0.0.1:8")
    for config in (hospital, patient):
        assert service_of(replace(config, authority=told)) == (Identity(CONSORTIUM, Role.RELAY, "other"), "https://127.0.0.1:8")
