"""The authority's directory: made once, never overwritten by accident, and every certificate in its register."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mpc.errors import IdentityError
from mpc.identity import Identity, Role
from pki.authority import Authority
from pki.files import read_certificates
from pki.office import Office
from pki.request import make_request, read_request
from pki.revocation import RevocationList
from pki.token import Fault, Token, TokenRefused
from pki.trust import TrustStore
from tests.pki.forge import DAY, NOW, forge_authority, needs_openssl, openssl, p256

ALICE = Identity("demo", Role.PATIENT, "alice")
BOB = Identity("demo", Role.PATIENT, "bob")
HOSPITAL = Identity("demo", Role.HOSPITAL, "general")
PASSPHRASE = b"correct horse battery"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca", "demo", NOW)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_authority_is_private_and_comes_back_from_disk(authority: Authority) -> None:
    assert mode(authority.directory) == 0o700
    assert mode(authority.directory / "ca.key") == 0o600
    assert Authority.load(authority.directory).certificate == authority.certificate
    assert Authority.load(authority.directory).consortium == "demo"


def test_an_authority_is_replaced_only_by_force(authority: Authority) -> None:
    before = (authority.directory / "ca.key").read_bytes()
    with pytest.raises(IdentityError, match=r"ca\.crt exists already and is not overwritten"):
        Authority.create(authority.directory, "demo", NOW)
    assert (authority.directory / "ca.key").read_bytes() == before
    assert Authority.create(authority.directory, "demo", NOW, force=True).certificate != authority.certificate


def test_a_lone_key_is_not_overwritten_either(tmp_path: Path) -> None:
    (tmp_path / "ca.key").write_text("precious")
    with pytest.raises(IdentityError, match=r"ca\.key exists already"):
        Authority.create(tmp_path, "demo", NOW)
    assert [entry.name for entry in tmp_path.iterdir()] == ["ca.key"]


def test_an_issued_certificate_is_trusted_and_registered(authority: Authority) -> None:
    key = p256()
    (certificate,) = authority.issue(ALICE, key.public_key(), ["alice.example"], ["127.0.0.1"], NOW, 7)
    files = authority.issue_node(Identity("demo", Role.RELAY, "post"), (), (), NOW, out=authority.directory / "out")
    chain = read_certificates(files.certificate)
    trust = TrustStore.load(authority.directory / "ca.crt")
    assert trust.verify(chain, NOW).identity.uri == "spiffe://demo/relay/post"
    first, second = map(json.loads, (authority.directory / "register.jsonl").read_text().splitlines())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert first == {
        "kind": "issued",
        "at": NOW,
        "serial": f"{certificate.serial_number:x}",
        "identity": "spiffe://demo/patient/alice",
        "days": 7,
        "not_after": NOW + 7 * DAY,
        "key": hashlib.sha256(spki).hexdigest(),
        "certificate": base64.b64encode(certificate.public_bytes(Encoding.DER)).decode(),
    }
    assert second["identity"] == "spiffe://demo/relay/post"


def test_node_files_are_never_half_replaced(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue_node(ALICE, (), (), NOW, out=tmp_path / "out")
    assert (files.key, files.certificate) == (tmp_path / "out" / "alice.key", tmp_path / "out" / "alice.crt")
    assert mode(files.key) == 0o600
    files.key.unlink()
    with pytest.raises(IdentityError, match=r"alice\.crt exists already"):
        authority.issue_node(ALICE, (), (), NOW, out=tmp_path / "out")
    assert not files.key.exists()
    assert len((authority.directory / "register.jsonl").read_text().splitlines()) == 1
    authority.issue_node(ALICE, (), (), NOW, out=tmp_path / "out", force=True)
    assert files.key.exists()


def test_nothing_is_handed_out_when_the_register_cannot_be_written(authority: Authority, tmp_path: Path) -> None:
    (authority.directory / "register.jsonl").mkdir()
    with pytest.raises(IdentityError, match=r"cannot write .*register\.jsonl"):
        authority.issue_node(ALICE, (), (), NOW, out=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_another_consortium_is_refused(authority: Authority) -> None:
    with pytest.raises(IdentityError, match="is not in demo"):
        authority.issue(Identity("other", Role.PATIENT, "alice"), p256().public_key(), (), (), NOW)


@pytest.mark.parametrize("now", [NOW - 301, NOW + 3650 * DAY, float("nan")])
def test_an_authority_that_is_not_valid_issues_nothing(authority: Authority, now: float) -> None:
    with pytest.raises(IdentityError, match="not now; check the clock"):
        authority.issue(ALICE, p256().public_key(), (), (), now)


def test_a_directory_without_an_authority_is_said(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=r"holds no authority \(ca\.crt is missing\); make one with"):
        Authority.load(tmp_path)


def test_a_missing_swapped_or_readable_authority_key_is_refused(authority: Authority, tmp_path: Path) -> None:
    key = authority.directory / "ca.key"
    other = Authority.create(tmp_path / "other", "demo", NOW)
    key.write_bytes((other.directory / "ca.key").read_bytes())
    with pytest.raises(IdentityError, match=r"ca\.key is not the key of .*ca\.crt"):
        Authority.load(authority.directory)
    key.chmod(0o640)
    with pytest.raises(IdentityError, match="chmod 600"):
        Authority.load(authority.directory)
    key.unlink()
    with pytest.raises(IdentityError, match=r"ca\.key does not exist"):
        Authority.load(authority.directory)


def test_a_root_that_names_no_consortium_cannot_issue(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(forge_authority().pem)
    with pytest.raises(IdentityError, match="with one URI name spiffe://CONSORTIUM"):
        Authority.load(tmp_path)


def test_its_repr_has_no_key(authority: Authority) -> None:
    assert "consortium='demo'" in repr(authority)
    assert "PrivateKey" not in repr(authority)
    assert "_key=" not in repr(authority)


# ---- below a root that is elsewhere


@pytest.fixture
def root(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "root", "demo", NOW)


@pytest.fixture
def issuing(root: Authority, tmp_path: Path) -> Authority:
    return Authority.create_below(root, tmp_path / "issuing", NOW)


def ders(chain: tuple[x509.Certificate, ...]) -> tuple[bytes, ...]:
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in chain)


def registered(authority: Office) -> list[str]:
    return [json.loads(line)["kind"] for line in (authority.directory / "register.jsonl").read_text().splitlines()]


def test_an_issuing_authority_needs_its_own_directory_alone(root: Authority, issuing: Authority) -> None:
    trust = TrustStore.load(root.directory / "ca.crt")
    for path in root.directory.iterdir():
        path.unlink()
    again = Authority.load(issuing.directory)
    chain = ders(again.issue(ALICE, p256().public_key(), (), (), NOW))
    assert len(chain) == 2
    assert trust.verify(chain, NOW).identity == ALICE
    assert TrustStore.load(issuing.directory / "ca.crt").roots == trust.roots


def test_a_node_below_an_issuing_authority_has_its_certificate_in_the_file(issuing: Authority, tmp_path: Path) -> None:
    files = issuing.issue_node(ALICE, (), (), NOW, out=tmp_path)
    chain = read_certificates(files.certificate)
    assert chain == (files.facts.der, issuing.certificate.der)
    assert TrustStore.load(issuing.directory / "ca.crt").verify(chain, NOW).identity == ALICE


def test_the_root_knows_its_issuing_authority_and_can_revoke_it(root: Authority, issuing: Authority) -> None:
    assert registered(root) == ["issued"]
    chain = ders(issuing.issue(ALICE, p256().public_key(), (), (), NOW))
    assert root.revoke(f"{issuing.certificate.serial:x}", "cACompromise", NOW).identity == "spiffe://demo"
    trust = TrustStore.load(root.directory / "ca.crt").with_list(root.revocation_list(NOW), NOW)
    with pytest.raises(IdentityError, match=r"the intermediate certificate .* was revoked on .* \(cACompromise\)"):
        trust.verify(chain, NOW)


def test_an_issuing_authority_cannot_make_another(issuing: Authority, tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="cannot sign another; name that of the root"):
        Authority.create_below(issuing, tmp_path / "third", NOW)


def test_an_issuing_authority_is_replaced_only_by_force_and_its_register_is_kept(root: Authority, issuing: Authority) -> None:
    issuing.issue(ALICE, p256().public_key(), (), (), NOW)
    with pytest.raises(IdentityError, match="exists already"):
        Authority.create_below(root, issuing.directory, NOW)
    assert registered(root) == ["issued"]
    fresh = Authority.create_below(root, issuing.directory, NOW + 1, force=True)
    assert fresh.certificate != issuing.certificate
    assert fresh.register.read().issued == {}
    assert (issuing.directory / f"register.jsonl.until-{NOW + 1}").exists()
    alone = Authority.create(issuing.directory, "demo", NOW + 2, force=True)
    assert alone.certificate == alone.root


def test_an_issuing_certificate_of_another_root_is_refused(issuing: Authority, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", "demo", NOW)
    (issuing.directory / "ca.crt").write_bytes((other.directory / "ca.crt").read_bytes())
    with pytest.raises(IdentityError, match=r"issuing\.crt: .* not trusted here"):
        Authority.load(issuing.directory)
    with (issuing.directory / "issuing.crt").open("ab") as file:
        file.write((other.directory / "ca.crt").read_bytes())
    with pytest.raises(IdentityError, match=r"issuing\.crt: it must hold one certificate, signed by that in ca\.crt"):
        Office.load(issuing.directory)


@needs_openssl
def test_openssl_accepts_the_hierarchy_and_its_lists_strictly(root: Authority, issuing: Authority, tmp_path: Path) -> None:
    good = issuing.issue_node(ALICE, ["alice.example"], (), NOW, out=tmp_path)
    bad = issuing.issue_node(BOB, (), (), NOW, out=tmp_path)
    issuing.revoke_identity(BOB, "keyCompromise", NOW)
    for authority, name in ((root, "root.crl"), (issuing, "issuing.crl")):
        (tmp_path / name).write_bytes(authority.revocation_list(NOW).x509.public_bytes(Encoding.PEM))
    check = ("verify", "-x509_strict", "-check_ss_sig", "-crl_check_all", "-attime", str(NOW), "-CAfile", "issuing/ca.crt")
    lists = ("-CRLfile", "root.crl", "-CRLfile", "issuing.crl", "-untrusted", "issuing/issuing.crt")
    assert openssl(tmp_path, *check, *lists, "-purpose", "sslserver", str(good.certificate)) == f"{good.certificate}: OK\n"
    with pytest.raises(AssertionError, match="certificate revoked"):
        openssl(tmp_path, *check, *lists, str(bad.certificate))
    text = openssl(tmp_path, "crl", "-in", "issuing.crl", "-noout", "-text")
    assert "Version 2 (0x1)" in text
    assert "Key Compromise" in text
    assert f"Serial Number: {bad.facts.serial:040X}" in text


# ---- passphrase


def test_a_protected_key_is_asked_for_when_it_is_needed(tmp_path: Path) -> None:
    made = Authority.create(tmp_path / "ca", "demo", NOW, passphrase=PASSPHRASE)
    assert b"ENCRYPTED" in (made.directory / "ca.key").read_bytes()
    assert Authority.load(made.directory, lambda: PASSPHRASE).certificate == made.certificate
    with pytest.raises(IdentityError, match="does not open with this passphrase"):
        Authority.load(made.directory, lambda: b"correct horse")
    with pytest.raises(IdentityError, match="is protected by a passphrase"):
        Authority.load(made.directory)
    assert Office.load(made.directory).consortium == "demo"


def test_a_passphrase_that_is_too_short_spoils_nothing(root: Authority, issuing: Authority) -> None:
    issuing.issue(ALICE, p256().public_key(), (), (), NOW)
    before = {path.name: path.read_bytes() for path in issuing.directory.iterdir()}
    with pytest.raises(IdentityError, match="a passphrase must have 12 to 1023 bytes"):
        Authority.create_below(root, issuing.directory, NOW, force=True, passphrase=b"short")
    with pytest.raises(IdentityError, match="a passphrase must have 12 to 1023 bytes"):
        Authority.create(issuing.directory, "demo", NOW, force=True, passphrase=b"short")
    assert {path.name: path.read_bytes() for path in issuing.directory.iterdir()} == before
    assert registered(root) == ["issued"]


def test_an_unprotected_key_asks_for_nothing(authority: Authority) -> None:
    assert Authority.load(authority.directory, lambda: pytest.fail("asked")).consortium == "demo"


# ---- requests


def names(certificate: x509.Certificate) -> list[str]:
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in san]


def test_names_come_from_the_authority_and_never_from_the_request(authority: Authority) -> None:
    key = p256()
    wanted = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(HOSPITAL.uri), x509.DNSName("evil.example")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(authority.certificate.x509.subject)
    builder = builder.add_extension(wanted, critical=True)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    request = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    (certificate,) = authority.sign(request, ALICE, ["alice.example"], (), NOW, 3)
    assert names(certificate) == ["spiffe://demo/patient/alice", "alice.example"]
    assert certificate.public_key() == key.public_key()
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert certificate.not_valid_after_utc.timestamp() == NOW + 3 * DAY


def test_a_key_is_one_nodes_and_is_not_used_after_its_revocation(authority: Authority) -> None:
    request = make_request(p256(), "alice")
    authority.sign(request, ALICE, (), (), NOW)
    with pytest.raises(IdentityError, match=r"the key for .*/bob is that of .*/alice; make a new one on each node"):
        authority.sign(request, BOB, (), (), NOW)
    authority.revoke_identity(ALICE, "keyCompromise", NOW)
    with pytest.raises(IdentityError, match=r"of this key of .*/alice was revoked; make a new key on the node"):
        authority.sign(request, ALICE, (), (), NOW)
    assert registered(authority) == ["issued", "revoked"]


def test_a_renewal_keeps_names_and_days_with_a_new_key_or_the_old(authority: Authority) -> None:
    old = make_request(p256(), "alice")
    authority.sign(old, ALICE, ["alice.example"], ["::1"], NOW, 9)
    for request in (make_request(p256(), "alice"), old):
        (renewed,) = authority.renew(request, ALICE, NOW + 6 * DAY)
        assert names(renewed) == ["spiffe://demo/patient/alice", "alice.example", "::1"]
        assert renewed.not_valid_after_utc.timestamp() == NOW + 15 * DAY


def test_who_asks_for_more_than_ten_certificates_a_day_is_told_to_wait(authority: Authority) -> None:
    request = make_request(p256(), "alice")
    for _ in range(2):
        authority.sign(request, ALICE, (), (), NOW)
    for _ in range(8):
        authority.renew(request, ALICE, NOW + 60)
    with pytest.raises(IdentityError, match=r"patient/alice has been given 10 certificates within a day"):
        authority.renew(request, ALICE, NOW + 120)
    assert len(authority.register.read().issued) == 10
    authority.renew(request, ALICE, NOW + DAY + 120)


def test_only_an_identity_that_was_issued_and_not_revoked_is_renewed(authority: Authority) -> None:
    request = make_request(p256(), "alice")
    with pytest.raises(IdentityError, match=r"patient/alice has no certificate that could be renewed here"):
        authority.renew(request, ALICE, NOW)
    authority.sign(make_request(p256(), "alice"), ALICE, (), (), NOW)
    authority.revoke_identity(ALICE, "privilegeWithdrawn", NOW)
    with pytest.raises(IdentityError, match=r"was revoked on 2027-01-15T08:00:00Z \(privilegeWithdrawn\), so it is not renewed"):
        authority.renew(request, ALICE, NOW)
    (again,) = authority.sign(request, ALICE, (), (), NOW)
    (renewed,) = authority.renew(request, ALICE, NOW + 1)
    assert again.serial_number != renewed.serial_number


def test_who_renews_over_a_connection_must_have_shown_a_certificate_of_this_authority_that_holds(
    authority: Authority, tmp_path: Path
) -> None:
    (stolen,) = authority.sign(make_request(p256(), "alice"), ALICE, (), (), NOW)
    authority.revoke(f"{stolen.serial_number:x}", "keyCompromise", NOW)
    (good,) = authority.sign(make_request(p256(), "alice"), ALICE, (), (), NOW)
    request = make_request(p256(), "alice")
    with pytest.raises(IdentityError, match=r"that .*/alice has shown was revoked"):
        authority.renew(request, ALICE, NOW, shown=stolen.public_bytes(Encoding.DER))
    other = Authority.create(tmp_path / "other", "demo", NOW)
    (foreign,) = other.sign(make_request(p256(), "alice"), ALICE, (), (), NOW)
    with pytest.raises(IdentityError, match=r"that .*/alice has shown was not issued here"):
        authority.renew(request, ALICE, NOW, shown=foreign.public_bytes(Encoding.DER))
    (renewed,) = authority.renew(request, ALICE, NOW + 1, shown=good.public_bytes(Encoding.DER))
    assert renewed.public_key() == read_request(request).public_key


# ---- tokens


def grant(authority: Office, identity: Identity = ALICE, seconds: int = 600) -> Token:
    return authority.grant(
        identity, ["alice.example"], (), NOW, 5, seconds=seconds, service=HOSPITAL, address="https://h.example:7000"
    )


def fault(authority: Authority, secret: bytes, identity: Identity = ALICE, now: float = NOW) -> tuple[Fault, str]:
    before = registered(authority)
    with pytest.raises(TokenRefused) as caught:
        authority.redeem(secret, identity, make_request(p256(), "alice"), now)
    assert registered(authority) == before
    assert secret.hex() not in str(caught.value)
    return caught.value.fault, str(caught.value)


def test_a_token_is_good_for_one_certificate_as_granted(authority: Authority) -> None:
    token = grant(authority)
    (certificate,) = authority.redeem(token.secret, ALICE, make_request(p256(), "whoever"), NOW + 600)
    assert names(certificate) == ["spiffe://demo/patient/alice", "alice.example"]
    assert certificate.not_valid_after_utc.timestamp() == NOW + 600 + 5 * DAY
    assert token.root == hashlib.sha256(authority.root.der).digest()
    assert registered(authority) == ["token", "issued"]


def test_a_token_is_used_once_even_by_two_at_the_same_time(authority: Authority) -> None:
    token = grant(authority)
    requests = [make_request(p256(), "alice") for _ in range(8)]
    together = Barrier(len(requests))

    def redeem(request: bytes) -> Fault | None:
        together.wait(30)
        try:
            Authority.load(authority.directory).redeem(token.secret, ALICE, request, NOW)
        except TokenRefused as error:
            return error.fault
        return None

    with ThreadPoolExecutor(len(requests)) as pool:
        faults = list(pool.map(redeem, requests))
    assert sorted(map(str, faults)) == ["None", *["used"] * 7]
    assert registered(authority) == ["token", "issued"]


def test_the_same_key_gets_the_same_certificate_again_until_it_is_revoked(authority: Authority) -> None:
    token, request = grant(authority), make_request(p256(), "alice")
    first = authority.redeem(token.secret, ALICE, request, NOW)
    assert authority.redeem(token.secret, ALICE, request, NOW + DAY) == first
    assert registered(authority) == ["token", "issued"]
    with pytest.raises(TokenRefused, match="was used on"):
        authority.redeem(token.secret, BOB, request, NOW)
    authority.revoke_identity(ALICE, "keyCompromise", NOW)
    with pytest.raises(TokenRefused, match="was used on"):
        authority.redeem(token.secret, ALICE, request, NOW)


def test_every_wrong_token_has_its_own_error_and_spoils_nothing(authority: Authority) -> None:
    token = grant(authority)
    assert fault(authority, bytes(32)) == (
        Fault.UNKNOWN,
        "this token was not made here; have one made with 'cohortium pki token'",
    )
    late = fault(authority, token.secret, now=NOW + 600.5)
    assert (late[0], late[1].endswith("has expired on 2027-01-15T08:10:00Z; have a new one made")) == (Fault.LATE, True)
    assert fault(authority, token.secret, now=float("nan"))[0] is Fault.LATE
    for other in (BOB, Identity("demo", Role.HOSPITAL, "alice"), Identity("other", Role.PATIENT, "alice")):
        assert fault(authority, token.secret, other)[0] is Fault.OTHER_NAME
    with pytest.raises(IdentityError, match="damaged or cut off"):
        authority.redeem(token.secret, ALICE, b"request", NOW)
    (certificate,) = authority.redeem(token.secret, ALICE, make_request(p256(), "alice"), NOW)
    kind, said = fault(authority, token.secret)
    assert (kind, f"for the certificate {certificate.serial_number:x}; if that was not its node, revoke" in said) == (
        Fault.USED,
        True,
    )


def test_the_register_holds_no_secret_of_a_token(authority: Authority) -> None:
    token = grant(authority)
    kept = (authority.directory / "register.jsonl").read_bytes()
    assert hashlib.sha256(token.secret).hexdigest().encode() in kept
    assert base64.b64encode(token.secret)[:40] not in kept
    assert token.secret.hex().encode() not in kept
    assert mode(authority.directory / "register.jsonl") == 0o600


def test_revoking_an_identity_withdraws_its_open_tokens(authority: Authority) -> None:
    alice, bob = grant(authority), grant(authority, BOB)
    late = grant(authority, seconds=1)
    authority.issue(ALICE, p256().public_key(), (), (), NOW)
    certificates, tokens = authority.revoke_identity(ALICE, "superseded", NOW + 2)
    assert (len(certificates), [entry.token for entry in tokens]) == (1, [alice.digest])
    assert fault(authority, alice.secret)[0] is Fault.WITHDRAWN
    assert fault(authority, late.secret, now=NOW + 2)[0] is Fault.LATE
    authority.redeem(bob.secret, BOB, make_request(p256(), "bob"), NOW)


@pytest.mark.parametrize("seconds", [0, -1, 7 * DAY + 1])
def test_a_token_lasts_a_week_at_most(authority: Authority, seconds: int) -> None:
    with pytest.raises(IdentityError, match="use 1 to 604800, which is 7 days"):
        grant(authority, seconds=seconds)
    with pytest.raises(IdentityError, match="is not in demo"):
        grant(authority, Identity("other", Role.PATIENT, "alice"))
    assert not (authority.directory / "register.jsonl").exists()


# ---- revocation


def test_a_list_names_what_was_revoked_and_its_number_only_grows(authority: Authority) -> None:
    (first,) = authority.issue(ALICE, p256().public_key(), (), (), NOW)
    (second,) = authority.issue(BOB, p256().public_key(), (), (), NOW)
    empty = authority.revocation_list(NOW)
    authority.revoke(f"{first.serial_number:x}", "keyCompromise", NOW)
    one = authority.revocation_list(NOW)
    authority.revoke_identity(BOB, "unspecified", NOW + 5)
    two = authority.revocation_list(NOW - 100, 1)
    assert [found.number for found in (empty, one, two)] == [1, 2, 3]
    assert [set(found.revoked) for found in (empty, one, two)] == [
        set(),
        {first.serial_number},
        {first.serial_number, second.serial_number},
    ]
    assert one.revoked[first.serial_number].reason == "keyCompromise"
    assert empty.this_update < one.this_update < two.this_update
    assert one.next_update == NOW + 7 * DAY
    assert RevocationList.parse(two.der) == two


def test_an_ended_certificate_leaves_the_list_after_one_list_that_named_it_later(authority: Authority) -> None:
    (certificate,) = authority.issue(ALICE, p256().public_key(), (), (), NOW, 1)
    authority.revoke(f"{certificate.serial_number:x}", "superseded", NOW)
    found = [set(authority.revocation_list(NOW + days * DAY).revoked) for days in (0, 2, 3)]
    assert found == [{certificate.serial_number}, {certificate.serial_number}, set()]


def test_what_is_not_there_or_revoked_already_cannot_be_revoked(authority: Authority) -> None:
    (certificate,) = authority.issue(ALICE, p256().public_key(), (), (), NOW)
    with pytest.raises(IdentityError, match="no certificate with serial number abc was issued here"):
        authority.revoke("abc", "superseded", NOW)
    with pytest.raises(IdentityError, match="bob has no certificate or token here"):
        authority.revoke_identity(BOB, "superseded", NOW)
    with pytest.raises(IdentityError, match="'certificateHold' is no reason to revoke"):
        authority.revoke_identity(ALICE, "certificateHold", NOW)
    authority.revoke(f"{certificate.serial_number:x}", "superseded", NOW)
    with pytest.raises(IdentityError, match=r"was revoked already, on 2027-01-15T08:00:00Z \(superseded\)"):
        authority.revoke(f"{certificate.serial_number:x}", "keyCompromise", NOW)
    with pytest.raises(IdentityError, match="alice has no certificate or token here"):
        authority.revoke_identity(ALICE, "superseded", NOW)


@pytest.mark.parametrize("days", [0, 398])
def test_a_list_is_due_again_within_a_year(authority: Authority, days: int) -> None:
    with pytest.raises(IdentityError, match="use 1 to 397"):
        authority.revocation_list(NOW, days)


def test_a_list_is_not_returned_before_it_is_registered(authority: Authority) -> None:
    (authority.directory / "register.jsonl").mkdir()
    with pytest.raises(IdentityError, match="cannot write"):
        authority.revocation_list(NOW)


def test_two_processes_that_issue_at_once_lose_nothing(authority: Authority, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mpc.identity import Identity, Role; from pki.authority import Authority\n"
        f"authority = Authority.load(Path({str(authority.directory)!r})); sys.stdin.readline()\n"
        "for n in range(20): authority.issue_node(Identity('demo', Role.PATIENT, sys.argv[1] + str(n)), (), (), "
        f"{NOW}, out=Path({str(tmp_path)!r}))\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, name], stdin=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        for name in ("a", "b", "c")
    ]
    for process in running:
        process.communicate(b"\n", timeout=60)
        assert process.returncode == 0
    records = authority.register.read()
    wanted = {f"spiffe://demo/patient/{letter}{n}" for letter in "abc" for n in range(20)}
    assert {entry.identity for entry in records.issued.values()} == wanted
    assert (len(records.issued), records.torn) == (60, [])
