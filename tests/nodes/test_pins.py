"""What a configuration pins: another authority's file is refused before a daemon starts, another key when it is met."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mpc.errors import Answer, ConfigError, IdentityError
from mpc.identity import Identity, Role
from nodes.config import check_hospital, check_patient
from nodes.hospital import HospitalDaemon
from nodes.loaded import load
from nodes.patient import PatientDaemon
from nodes.transport.base import DeliveryError
from tests.e2e.harness import cohortium
from tests.mpc.nodes import CONSORTIUM
from tests.nodes.house import Site, at_work, make_site, short_directory, soon

VALUES = {"alice": 725, "bob": 310, "charlie": 540}
OTHER = "sha256:" + "5a" * 32
GENERAL = Identity(CONSORTIUM, Role.HOSPITAL, "general")
ALICE = Identity(CONSORTIUM, Role.PATIENT, "alice")


@pytest.fixture
def site() -> Iterator[Site]:
    with short_directory() as directory:
        yield make_site(directory, VALUES)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.keys.DEFAULT_BITS", 2048)
    monkeypatch.setattr("nodes.service._settle", lambda: None)


def pin(site: Site, name: str, authorities: str, nodes: str = "") -> Path:
    """Exchanges, or adds, what a node's configuration pins."""
    path = site.patients.get(name, site.hospital)
    lines = [line for line in path.read_text().splitlines() if not line.startswith("trust:")]
    path.write_text("\n".join([*lines, f"trust: {{authorities: [{authorities}], nodes: {{{nodes}}}}}", ""]))
    return path


def root(site: Site) -> str:
    return "sha256:" + hashlib.sha256(_certificate(site.directory / "ca" / "ca.crt").public_bytes(Encoding.DER)).hexdigest()


def _certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_an_authority_that_is_not_pinned_is_refused_by_check(site: Site) -> None:
    path = pin(site, "alice", OTHER)
    with pytest.raises(IdentityError) as caught:
        load(check_patient(path))
    expected = f"{site.directory}/ca/ca.crt: the authority '"
    assert str(caught.value).startswith(expected)
    assert f" is {root(site)}, which 'trust.authorities' does not name; " in str(caught.value)
    done = cohortium("patient", "--config", path, "--check")
    assert done.returncode == 77
    assert done.stderr == f"cohortium: {caught.value}\n"


def test_an_authority_that_is_pinned_is_good(site: Site) -> None:
    assert load(check_patient(pin(site, "alice", f"{OTHER}, {root(site)}"))).node_key.identity == ALICE


def test_a_patient_must_pin_its_authority_and_a_hospital_may(site: Site) -> None:
    with pytest.raises(ConfigError, match=r"trust\.authorities: is missing; add the digest that who runs the authority reads"):
        check_patient(pin(site, "alice", ""))
    assert load(check_hospital(site.hospital)).node_key.identity == GENERAL
    with pytest.raises(IdentityError, match=r"which 'trust\.authorities' does not name"):
        load(check_hospital(pin(site, "general", OTHER)))


def test_there_is_no_trust_at_first_use(site: Site) -> None:
    path = site.patients["alice"]
    lines = [line for line in path.read_text().splitlines() if not line.startswith("trust:")]
    path.write_text("\n".join([*lines, "trust: first-use", ""]))
    with pytest.raises(ConfigError, match="trust: must be a mapping, but YAML reads text"):
        check_patient(path)


async def test_a_node_with_another_key_than_the_pinned_one_is_refused_at_the_handshake(site: Site) -> None:
    """Whether it connects or is connected to; with its own key pinned it is as welcome as ever."""
    alice = PatientDaemon(check_patient(pin(site, "alice", root(site), f"hospital/general: [{OTHER}]")))
    bob = PatientDaemon(check_patient(pin(site, "bob", root(site), f"hospital/general: [{_key(site)}]")))
    general = HospitalDaemon(check_hospital(site.hospital))
    async with at_work(general, alice, bob):
        with pytest.raises(DeliveryError, match=r"its key sha256:[0-9a-f]{64}, and 'trust.nodes' names neither") as caught:
            await soon(alice.transport.send(GENERAL, alice.config.hospital_url, b"x"))
        assert caught.value.reason == "certificate"
        with pytest.raises(DeliveryError) as caught:
            await soon(general.transport.send(ALICE, alice.config.url, b"x"))
        assert caught.value.reason == "certificate-refused"
        assert 'cohortium_connections_refused_total{reason="certificate"} 1\n' in alice.metrics.render()
        assert await soon(bob.transport.send(GENERAL, bob.config.hospital_url, b"x")) is Answer.REJECTED
        assert await soon(general.transport.send(bob.identity, bob.config.url, b"x")) is Answer.REJECTED


def _key(site: Site) -> str:
    key = _certificate(site.directory / "general.crt").public_key()
    return "sha256:" + hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
