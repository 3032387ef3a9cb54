"""The authority in a daemon: taken only where it fits the node, and careful about whom it renews."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mpc.errors import IdentityError
from nodes.config import EnrolmentConfig
from nodes.enrolment.desk import load_authority
from pki.authority import Authority
from pki.request import make_request
from pki.trust import TrustStore
from tests.nodes.enrolment.conftest import ALICE, House
from tests.pki.forge import p256


def request() -> bytes:
    return x509.load_pem_x509_csr(make_request(p256(), "alice")).public_bytes(Encoding.DER)


def test_an_authority_that_the_node_would_not_believe_is_refused_at_the_start(authority: Authority, tmp_path: Path) -> None:
    config = EnrolmentConfig(listen="127.0.0.1:7010", authority=authority.directory)
    assert load_authority(config, TrustStore([authority.root.der])).certificate == authority.certificate
    other = Authority.create(tmp_path / "other", "demo", time.time())
    with pytest.raises(IdentityError, match="is not one that this node trusts"):
        load_authority(config, TrustStore([other.root.der]))
    missing = EnrolmentConfig(listen="127.0.0.1:7010", authority=tmp_path / "missing")
    with pytest.raises(IdentityError, match="holds no authority"):
        load_authority(missing, TrustStore([authority.root.der]))


def test_a_protected_key_needs_the_file_that_the_configuration_names(tmp_path: Path) -> None:
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("correct horse battery\n")
    passphrase.chmod(0o600)
    made = Authority.create(tmp_path / "ca", "demo", time.time(), passphrase=b"correct horse battery")
    trust = TrustStore([made.root.der])
    with pytest.raises(
        IdentityError, match=r"ca.key is protected by a passphrase; name the file that holds it: enrolment.passphrase"
    ):
        load_authority(EnrolmentConfig(listen="127.0.0.1:7010", authority=made.directory), trust)
    config = EnrolmentConfig(listen="127.0.0.1:7010", authority=made.directory, passphrase=passphrase)
    assert load_authority(config, trust).root == made.root


async def test_a_renewal_is_granted_for_a_certificate_that_holds_and_told_to_both_logs(house: House) -> None:
    desk = house.door._desk
    (leaf, _) = house.authority.sign(make_request(p256(), "alice"), ALICE, (), (), time.time())
    shown = leaf.public_bytes(Encoding.DER)
    renewed = x509.load_pem_x509_certificates(await desk.renew(ALICE, shown, request()))
    assert [event for event, _ in house.audited] == ["renewal-granted"]
    assert house.audited[0][1] == {"identity": ALICE.uri, "serial": f"{renewed[0].serial_number:x}"}
    house.authority.revoke(f"{leaf.serial_number:x}", "keyCompromise", time.time())
    with pytest.raises(IdentityError, match="has shown was revoked"):
        await desk.renew(ALICE, shown, request())
    assert [event for event, _ in house.audited] == ["renewal-granted", "renewal-refused"]
    assert 'cohortium_renewals_granted_total{outcome="refused"} 1' in house.metrics.render()
