"""The certificates we make are what the profile says, as openssl sees them."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from mpc.errors import IdentityError
from mpc.identity import Identity, Role
from pki.certificate import read
from pki.profile import ListenerNames, issuing_certificate, leaf_certificate, renewal_time, root_certificate
from tests.pki.forge import DAY, NOW, needs_openssl, openssl, p256

ROOT_KEY = p256()
ROOT = root_certificate("demo", ROOT_KEY, NOW)
LISTENS = ListenerNames.parse(["General.Example"], ["127.0.0.1", "::1"])


def leaf(role: Role, names: ListenerNames, days: int = 30, now: float = NOW) -> x509.Certificate:
    return leaf_certificate(Identity("demo", role, "one"), p256().public_key(), names, ROOT, ROOT_KEY, now, days)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


@needs_openssl
@pytest.mark.parametrize("names", [ListenerNames(), LISTENS], ids=["silent", "listens"])
@pytest.mark.parametrize("role", list(Role))
def test_openssl_accepts_every_certificate_strictly(tmp_path: Path, role: Role, names: ListenerNames) -> None:
    (tmp_path / "ca.crt").write_bytes(pem(ROOT))
    (tmp_path / "one.crt").write_bytes(pem(leaf(role, names)))
    strict = ("verify", "-x509_strict", "-check_ss_sig", "-attime", str(NOW), "-CAfile", "ca.crt")
    assert openssl(tmp_path, *strict, "-purpose", "sslclient", "one.crt") == "one.crt: OK\n"
    assert openssl(tmp_path, *strict, "ca.crt") == "ca.crt: OK\n"
    if role is not Role.PATIENT or names:
        assert openssl(tmp_path, *strict, "-purpose", "sslserver", "one.crt") == "one.crt: OK\n"


@needs_openssl
def test_openssl_reads_what_the_profile_says(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(pem(ROOT))
    (tmp_path / "one.crt").write_bytes(pem(leaf(Role.HOSPITAL, LISTENS)))
    root, node = (openssl(tmp_path, "x509", "-in", name, "-noout", "-text") for name in ("ca.crt", "one.crt"))
    root, node = (" ".join(text.split()) for text in (root, node))
    assert "Basic Constraints: critical CA:TRUE, pathlen:1" in root
    assert "Key Usage: critical Certificate Sign, CRL Sign" in root
    assert "URI:spiffe://demo X509v3" in root
    assert "Basic Constraints: critical CA:FALSE" in node
    assert "Key Usage: critical Digital Signature X509v3" in node
    assert "TLS Web Server Authentication, TLS Web Client Authentication" in node
    assert "URI:spiffe://demo/hospital/one, DNS:general.example, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1" in node
    for text in (root, node):
        assert "Signature Algorithm: ecdsa-with-SHA256" in text
        assert "NIST CURVE: P-256" in text
        assert "Subject Key Identifier" in text
        assert "Authority Key Identifier" in text


def extended(certificate: x509.Certificate) -> set[x509.ObjectIdentifier]:
    return set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_a_patient_is_a_server_only_when_it_listens() -> None:
    assert extended(leaf(Role.PATIENT, ListenerNames())) == {ExtendedKeyUsageOID.CLIENT_AUTH}
    both = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    assert extended(leaf(Role.PATIENT, LISTENS)) == both
    assert extended(leaf(Role.RELAY, ListenerNames())) == both


def test_validity_starts_five_minutes_early_and_ends_with_the_authority_at_the_latest() -> None:
    certificate = leaf(Role.PATIENT, ListenerNames(), now=NOW + DAY + 0.9)
    assert certificate.not_valid_before_utc.timestamp() == NOW + DAY - 300
    assert certificate.not_valid_after_utc.timestamp() == NOW + DAY + 30 * DAY
    assert ROOT.not_valid_before_utc.timestamp() == NOW - 300
    assert ROOT.not_valid_after_utc.timestamp() == NOW + 3650 * DAY
    late = leaf(Role.PATIENT, ListenerNames(), now=NOW + 3649 * DAY)
    assert late.not_valid_after_utc == ROOT.not_valid_after_utc


def test_serials_are_large_and_differ() -> None:
    serials = [leaf(Role.PATIENT, ListenerNames()).serial_number for _ in range(8)]
    assert len(set(serials)) == 8
    assert all(0 < serial < 2**159 for serial in serials)
    assert max(serials) > 2**150


@pytest.mark.parametrize("days", [0, -1, 398])
def test_days_outside_a_year_are_refused(days: int) -> None:
    with pytest.raises(IdentityError, match=f"cannot be valid for {days} days; use 1 to 397"):
        leaf(Role.PATIENT, ListenerNames(), days)


def test_a_key_that_is_not_p256_gets_no_certificate() -> None:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    with pytest.raises(IdentityError, match="is not P-256"):
        leaf_certificate(Identity("demo", Role.PATIENT, "one"), key, ListenerNames(), ROOT, ROOT_KEY, NOW)


@pytest.mark.parametrize("consortium", ["", "Demo", "a/b", "demo?", "-demo", "a" * 64, "dem\u00f6", "demo\n"])
def test_an_impossible_consortium_is_refused(consortium: str) -> None:
    with pytest.raises(IdentityError, match="cannot name a consortium"):
        root_certificate(consortium, ROOT_KEY, NOW)


@pytest.mark.parametrize(
    "name",
    ["", "*.example", "a b", "127.0.0.1", "a..b", "-a", "example.", "m\u00fcller.example", "a" * 64, "a\n", "a/b"],
)
def test_a_host_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(IdentityError, match="is not a host name"):
        ListenerNames.parse([name], [])


@pytest.mark.parametrize("address", ["", "localhost", "127.0.0.256", "10.0.0.0/8", "fe80::1%eth0"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(IdentityError, match=r"is not an IP address|holds an interface"):
        ListenerNames.parse([], [address])


def test_listener_names_are_kept_once_in_order() -> None:
    names = ListenerNames.parse(["b", "a", "B"], ["::1", "0:0::1"])
    assert names.dns == ("b", "a")
    assert list(map(str, names.ips)) == ["::1"]


ISSUING_KEY = p256()
ISSUING = issuing_certificate("demo", ISSUING_KEY.public_key(), ROOT, ROOT_KEY, NOW)


@needs_openssl
def test_openssl_accepts_an_issuing_authority_and_what_it_issues(tmp_path: Path) -> None:
    below = leaf_certificate(Identity("demo", Role.RELAY, "post"), p256().public_key(), LISTENS, ISSUING, ISSUING_KEY, NOW)
    for name, certificate in (("ca.crt", ROOT), ("issuing.crt", ISSUING), ("post.crt", below)):
        (tmp_path / name).write_bytes(pem(certificate))
    strict = ("verify", "-x509_strict", "-attime", str(NOW), "-CAfile", "ca.crt")
    assert openssl(tmp_path, *strict, "-untrusted", "issuing.crt", "post.crt") == "post.crt: OK\n"
    text = " ".join(openssl(tmp_path, "x509", "-in", "issuing.crt", "-noout", "-text").split())
    assert "Basic Constraints: critical CA:TRUE, pathlen:0" in text
    assert "Key Usage: critical Certificate Sign, CRL Sign" in text
    assert "URI:spiffe://demo X509v3" in text
    key_id = x509.SubjectKeyIdentifier.from_public_key(ISSUING_KEY.public_key()).digest.hex()
    assert f"CN = issuing authority {key_id[:8]}" in text


def test_an_issuing_authority_lasts_five_years_and_no_longer_than_its_root() -> None:
    assert ISSUING.not_valid_after_utc.timestamp() == NOW + 1825 * DAY
    late = issuing_certificate("demo", ISSUING_KEY.public_key(), ROOT, ROOT_KEY, NOW + 3000 * DAY)
    assert late.not_valid_after_utc == ROOT.not_valid_after_utc


def test_a_certificate_is_to_be_renewed_when_two_thirds_of_its_life_are_over() -> None:
    facts = read(leaf(Role.PATIENT, ListenerNames(), 30).public_bytes(Encoding.DER))
    assert renewal_time(facts) == NOW - 300 + (30 * DAY + 300) * 2 // 3
