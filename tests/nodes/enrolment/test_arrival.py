"""A node's directory from a token: complete, private where it must be, and the same after any interruption and repetition."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mpc.errors import ConfigError, IdentityError, TemporaryError
from mpc.identity import Identity, Role
from nodes.config import check_hospital, check_patient, check_relay
from nodes.enrolment.arrival import arrive, redeem_here
from nodes.enrolment.kit import Place, Plan
from nodes.enrolment.visit import Granted, visit
from pki.authority import Authority
from pki.token import Token
from tests.nodes.enrolment.conftest import ALICE, BOB, GENERAL, House
from tests.pki.forge import needs_openssl, openssl

MAIL = Identity("demo", Role.RELAY, "mail")
FILES = ["README", "ca.crt", "identity.crt", "identity.key", "patient.yaml", "systemd.conf"]


class Arrival:
    """Enrols into one directory, as often as a test wants."""

    def __init__(self, token: Token, directory: Path) -> None:
        self.token = token
        self.directory = directory
        self.visits = 0

    async def __call__(self, **known: object) -> list[str]:
        async def fetch(request: bytes) -> Granted:
            self.visits += 1
            return await visit(self.token, request, time.time())

        plan = replace(Plan(self.token.identity, self.token.root), **known)  # type: ignore[arg-type]
        written = await arrive(self.token, self.directory, plan, fetch, time.time())
        return sorted(str(path.relative_to(self.directory)) for path in written)

    def read(self, name: str) -> bytes:
        return (self.directory / name).read_bytes()


@pytest.fixture
def arrival(house: House, tmp_path: Path) -> Arrival:
    return Arrival(house.token(dns=["alice.example"]), tmp_path / "alice")


async def test_a_new_node_has_everything_and_its_secrets_are_its_own(arrival: Arrival) -> None:
    assert await arrival(vouched=("bob", "carol")) == FILES
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in arrival.directory.iterdir()}
    assert modes == dict.fromkeys(FILES, 0o644) | {"identity.key": 0o600, "patient.yaml": 0o600}
    assert stat.S_IMODE(arrival.directory.stat().st_mode) == 0o700
    config = check_patient(arrival.directory / "patient.yaml")
    assert (config.consortium, config.name, config.listen) == ("demo", "alice", "0.0.0.0:7001")
    assert config.url == "https://alice.example:7001"
    assert (config.hospital.name, config.hospital.url) == ("general", "https://127.0.0.1:7000")
    assert config.trust.authorities == (f"sha256:{arrival.token.root.hex()}",)
    assert config.identity.key == (arrival.directory / "identity.key").resolve()
    assert len(arrival.read("README").splitlines()) == 3


@needs_openssl
async def test_openssl_believes_the_certificate(arrival: Arrival) -> None:
    await arrival()
    checked = openssl(
        arrival.directory, "verify", "-x509_strict", "-CAfile", "ca.crt", "-untrusted", "identity.crt", "identity.crt"
    )
    assert checked == "identity.crt: OK\n"


async def test_what_only_the_user_knows_is_a_commented_line_that_check_asks_for(arrival: Arrival) -> None:
    await arrival()
    config = arrival.directory / "patient.yaml"
    with pytest.raises(ConfigError, match="policy") as caught:
        check_patient(config)
    assert len(str(caught.value).splitlines()) == 1
    text = config.read_text()
    config.write_text(text.replace("# policy: {vouched: {members: [NAME, NAME]}}", "policy: {vouched: {members: [bob, carol]}}"))
    assert check_patient(config).policy.vouched.members == ("bob", "carol")


async def test_a_patient_without_a_name_to_be_reached_by_goes_through_the_relay(house: House, tmp_path: Path) -> None:
    arrival = Arrival(house.token(), tmp_path / "alice")
    await arrival(vouched=("bob", "carol"), proxy="http://proxy.example:3128")
    with pytest.raises(ConfigError, match="relay"):
        check_patient(arrival.directory / "patient.yaml")
    (arrival.directory / "patient.yaml").unlink()
    await arrival(vouched=("bob", "carol"), proxy="http://proxy.example:3128", relay=Place("mail", "https://mail.example:7100"))
    config = check_patient(arrival.directory / "patient.yaml")
    assert (config.topology, config.listen, config.proxy) == ("relay", None, "http://proxy.example:3128")
    assert config.relay is not None
    assert config.relay.url == "https://mail.example:7100"
    assert config.authority is not None, "the relay has no authority: it is the hospital that renews"
    assert (config.authority.role, config.authority.url) == ("hospital", "https://127.0.0.1:7000")


async def test_once_more_does_nothing_and_asks_nobody(arrival: Arrival) -> None:
    await arrival()
    before = {path.name: path.read_bytes() for path in arrival.directory.iterdir()}
    assert await arrival() == []
    assert arrival.visits == 1
    assert {path.name: path.read_bytes() for path in arrival.directory.iterdir()} == before


def _cut(directory: Path, name: str) -> None:
    data = (directory / name).read_bytes()
    (directory / name).write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    "harm",
    [
        lambda directory: [(directory / name).unlink() for name in FILES if name != "identity.key"],
        lambda directory: (directory / "identity.crt").unlink(),
        lambda directory: (directory / "patient.yaml").unlink(),
        lambda directory: _cut(directory, "identity.crt"),
        lambda directory: _cut(directory, "ca.crt"),
        lambda directory: (directory / "identity.crt").write_bytes(b""),
    ],
    ids=["all but the key", "certificate", "configuration", "torn certificate", "torn root", "empty certificate"],
)
async def test_after_a_power_cut_the_same_token_and_key_give_the_same_certificate(
    arrival: Arrival, harm: Callable[[Path], object]
) -> None:
    await arrival()
    key, certificate = arrival.read("identity.key"), arrival.read("identity.crt")
    harm(arrival.directory)
    assert await arrival()
    assert (arrival.read("identity.key"), arrival.read("identity.crt")) == (key, certificate)
    assert sorted(path.name for path in arrival.directory.iterdir()) == FILES


async def test_a_torn_key_is_told_with_the_way_out_which_works_while_the_token_is_good(arrival: Arrival, house: House) -> None:
    arrival.directory.mkdir()
    key = arrival.directory / "identity.key"
    key.write_bytes(b"-----BEGIN PRIVATE KEY-----\nMIGHAgEA")
    key.chmod(0o600)
    with pytest.raises(IdentityError, match=r"identity.key is cut off, .* remove the file and enrol again"):
        await arrival()
    assert not house.authority.register.read().used
    key.unlink()
    assert await arrival() == FILES


async def test_a_configuration_that_was_changed_since_stays_as_it_is(arrival: Arrival) -> None:
    await arrival()
    (arrival.directory / "patient.yaml").write_text("changed: yes\n")
    (arrival.directory / "identity.crt").unlink()
    assert "patient.yaml" not in await arrival()
    assert arrival.read("patient.yaml") == b"changed: yes\n"


async def test_the_authority_away_costs_nothing_but_the_repetition(arrival: Arrival, house: House) -> None:
    house.authority.directory.rename(away := house.authority.directory.with_name("away"))
    with pytest.raises(TemporaryError):
        await arrival()
    key = load_pem_private_key(arrival.read("identity.key"), None)
    away.rename(house.authority.directory)
    assert await arrival() == FILES
    assert load_pem_private_key(arrival.read("identity.key"), None).private_numbers() == key.private_numbers()  # type: ignore[union-attr]


async def test_a_directory_is_one_nodes(arrival: Arrival, house: House, tmp_path: Path) -> None:
    await arrival()
    bob = Arrival(house.token(BOB), arrival.directory)
    with pytest.raises(
        IdentityError, match=r"is that of spiffe://demo/patient/alice, the token is for spiffe://demo/patient/bob"
    ):
        await bob()
    other = Authority.create(tmp_path / "other", "demo", time.time())
    token = other.grant(ALICE, [], [], time.time(), seconds=60, service=GENERAL, address=house.address)
    with pytest.raises(IdentityError, match=r"ca.crt is not the authority of the token"):
        await Arrival(token, arrival.directory)()
    assert bob.visits == 0


async def test_the_token_that_came_with_the_directory_is_gone_afterwards(arrival: Arrival) -> None:
    arrival.directory.mkdir()
    (arrival.directory / "token").write_text(arrival.token.encode())
    await arrival()
    assert not (arrival.directory / "token").exists()


async def test_a_token_that_was_not_needed_stays_where_it_is(arrival: Arrival) -> None:
    await arrival()
    (arrival.directory / "token").write_text(arrival.token.encode())
    assert await arrival() == []
    assert (arrival.directory / "token").exists()


# ---- the node that is to hold the authority, and relays and hospitals that do not


async def test_the_first_node_redeems_its_token_at_the_authority_itself(authority: Authority, tmp_path: Path) -> None:
    address = "https://127.0.0.1:7010"
    token = authority.grant(GENERAL, [], ["127.0.0.1"], time.time(), seconds=60, service=GENERAL, address=address)

    async def fetch(request: bytes) -> Granted:
        return redeem_here(authority, token, request, time.time())

    directory = tmp_path / "general"
    plan = Plan(GENERAL, token.root, patients={"bob": "https://bob.example:7001"}, authority=Path("../ca"))
    await arrive(token, directory, plan, fetch, time.time())
    config = check_hospital(directory / "hospital.yaml")
    assert config.enrolment is not None
    assert (config.enrolment.listen, config.listen) == ("127.0.0.1:7010", "127.0.0.1:7000")
    assert config.enrolment.authority.resolve() == authority.directory.resolve()
    other = Authority.create(tmp_path / "other", "demo", time.time())
    with pytest.raises(IdentityError, match="is not the one that made the token"):
        redeem_here(other, token, b"", time.time())


async def test_a_relay_enrols_at_the_hospital(house: House, tmp_path: Path) -> None:
    arrival = Arrival(house.token(MAIL, dns=["mail.example"]), tmp_path / "mail")
    await arrival(listen="0.0.0.0:7200")
    config = check_relay(arrival.directory / "relay.yaml")
    assert (config.listen, config.enrolment) == ("0.0.0.0:7200", None)
    assert config.authority is not None
    assert (config.authority.role, config.authority.name, config.authority.url) == (
        "hospital",
        "general",
        "https://127.0.0.1:7000",
    )
