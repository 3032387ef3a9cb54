"""Which chains are believed, and what a person reads about those that are not."""

from __future__ import annotations

import hashlib
import ipaddress
import math
import warnings
from pathlib import Path
from typing import Literal

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier
from hypothesis import given
from hypothesis import strategies as st

from mpc.errors import IdentityError
from mpc.identity import Identity, Role, Trust
from pki.trust import TrustStore
from tests.pki.forge import (
    ALICE,
    DAY,
    NOW,
    Forged,
    forge,
    forge_authority,
    needs_openssl,
    openssl,
    openssl_hierarchy,
)

ROOT = forge_authority()
LEAF = forge(ROOT)
TRUST = TrustStore([ROOT.der])


def refusal(*chain: Forged | bytes, trust: TrustStore = TRUST, now: float = NOW) -> str:
    ders = tuple(link if isinstance(link, bytes) else link.der for link in chain)
    with pytest.raises(IdentityError) as caught:
        trust.verify(ders, now)
    return str(caught.value)


def test_a_good_chain_says_who_until_when_and_by_whom() -> None:
    trust: Trust = TRUST
    credential = trust.verify((LEAF.der,), NOW)
    assert credential.identity == Identity("demo", Role.PATIENT, "alice")
    assert credential.public_key == LEAF.certificate.public_key()
    assert credential.digest == LEAF.certificate.fingerprint(hashes.SHA256())
    assert (credential.not_before, credential.not_after) == (NOW - DAY, NOW + DAY)
    assert credential.authority == hashlib.sha256(ROOT.der).digest()


def test_an_intermediate_and_two_are_fine() -> None:
    first = forge_authority(ROOT, subject="first", path_length=1)
    second = forge_authority(first, subject="second", path_length=0, uris=["spiffe://demo"])
    assert TRUST.verify((forge(first).der, first.der), NOW).identity.name == "alice"
    assert TRUST.verify((forge(second).der, second.der, first.der), NOW).identity.name == "alice"


def test_a_credential_lasts_as_long_as_the_shortest_certificate_of_its_chain() -> None:
    short = forge_authority(ROOT, subject="short", not_after=NOW + 60)
    assert TRUST.verify((forge(short).der, short.der), NOW).not_after == NOW + 60


def test_the_second_of_several_roots_is_believed_too() -> None:
    other = forge_authority(subject="other")
    credential = TrustStore([other.der, ROOT.der]).verify((LEAF.der,), NOW)
    assert credential.authority == hashlib.sha256(ROOT.der).digest()


def test_sha384_and_a_p384_authority_are_fine() -> None:
    root = forge_authority(key=ec.generate_private_key(ec.SECP384R1()))
    leaf = forge(root, algorithm=hashes.SHA384())
    assert TrustStore([root.der]).verify((leaf.der,), NOW).identity.uri == ALICE


UNKNOWN = x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00")
LIMITS = x509.NameConstraints(None, [x509.DNSName("example")])


@pytest.mark.parametrize(
    ("leaf", "said"),
    [
        (forge(ROOT, uris=[]), "has no URI names"),
        (forge(ROOT, uris=[ALICE, "spiffe://demo/hospital/general"]), "has 2 URI names"),
        (forge(ROOT, uris=[ALICE, ALICE]), "has 2 URI names"),
        (forge(ROOT, uris=["spiffe://demo/surgeon/alice"]), "names no known role"),
        (forge(ROOT, uris=["https://demo/patient/alice"]), "must read spiffe://CONSORTIUM/ROLE/NAME"),
        (forge(ROOT, uris=["spiffe://demo/patient/" + "a" * 300]), "too long"),
        (forge(ROOT, key=rsa.generate_private_key(65537, 2048)), "does not hold a P-256 key"),
        (forge(ROOT, key=ec.generate_private_key(ec.SECP384R1())), "does not hold a P-256 key"),
        (forge(ROOT, ca=True), "CA:TRUE"),
        (forge(ROOT, usage=None), "key usage with digitalSignature"),
        (forge(ROOT, usage=["key_agreement"]), "key usage with digitalSignature"),
        (forge(ROOT, usage_critical=False), "critical key usage"),
        (forge(ROOT, usage=["digital_signature", "key_cert_sign"]), "may sign certificates"),
        (forge(ROOT, extended=None), "lacks the extended key usage clientAuth"),
        (forge(ROOT, extended=[ExtendedKeyUsageOID.SERVER_AUTH]), "lacks the extended key usage clientAuth"),
        (forge(ROOT, extra=[(UNKNOWN, True)]), "1.2.3.4"),
        (forge(ROOT, algorithm=hashes.SHA512()), "ECDSA and SHA-256"),
        (forge(), "self-signed"),
        (forge(forge_authority(subject="stranger")), "not trusted here, 'CN=stranger'; trusted: 'CN=root'"),
        (forge(forge_authority(subject="root")), "not trusted here"),
        (ROOT, "has no URI names"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_a_leaf_outside_the_profile_is_refused(leaf: Forged, said: str) -> None:
    assert said in refusal(leaf)


def test_a_critical_extension_that_is_not_understood_is_ignored_only_when_not_critical() -> None:
    leaf = forge(ROOT, extra=[(UNKNOWN, False)])
    assert TRUST.verify((leaf.der,), NOW).identity.uri == ALICE


def test_common_name_and_host_names_are_never_a_name() -> None:
    named = x509.SubjectAlternativeName([x509.DNSName("alice.example"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    assert "no URI names" in refusal(forge(ROOT, subject=ALICE, uris=[], extra=[(named, False)]))


@pytest.mark.parametrize(
    ("intermediate", "said"),
    [
        (forge_authority(ROOT, subject="mid", ca=False), "is not an authority's"),
        (forge_authority(ROOT, subject="mid", ca=None), "is not an authority's"),
        (forge_authority(ROOT, subject="mid", constraints_critical=False), "is not an authority's"),
        (forge_authority(ROOT, subject="mid", usage=["digital_signature"]), "may not sign certificates"),
        (forge_authority(ROOT, subject="mid", usage=None), "may not sign certificates"),
        (forge_authority(ROOT, subject="mid", key=ec.generate_private_key(ec.SECP521R1())), "P-256 or P-384"),
        (forge_authority(ROOT, subject="mid", uris=["spiffe://other"]), "not for the consortium demo"),
        (forge_authority(ROOT, subject="mid", extended=[ExtendedKeyUsageOID.CODE_SIGNING]), "without clientAuth"),
        (forge_authority(ROOT, subject="mid", extra=[(LIMITS, True)]), "2.5.29.30"),
        (forge_authority(ROOT, subject="mid", extra=[(LIMITS, False)]), "2.5.29.30"),
        (forge_authority(ROOT, subject="mid", not_after=NOW - 1), "has expired"),
        (forge_authority(subject="mid"), "self-signed"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_an_intermediate_outside_the_profile_is_refused(intermediate: Forged, said: str) -> None:
    message = refusal(forge(intermediate), intermediate)
    assert said in message
    assert "'CN=mid'" in message


def test_a_node_cannot_issue() -> None:
    bob = forge(LEAF, uris=["spiffe://demo/patient/bob"])
    assert "is not an authority's" in refusal(bob, LEAF)


def test_a_path_length_holds_at_every_level() -> None:
    strict_root = forge_authority(path_length=0)
    below = forge_authority(strict_root, subject="below")
    assert "allows 0 intermediate" in refusal(forge(below), below, trust=TrustStore([strict_root.der]))
    last = forge_authority(ROOT, subject="last", path_length=0)
    beyond = forge_authority(last, subject="beyond")
    assert "allows 0 intermediate" in refusal(forge(beyond), beyond, last)


def test_a_chain_in_the_wrong_order_is_refused() -> None:
    first = forge_authority(ROOT, subject="first")
    second = forge_authority(first, subject="second")
    assert "goes from the node's certificate upwards" in refusal(forge(second), first, second)


def test_an_intermediate_that_did_not_sign_the_leaf_is_refused() -> None:
    assert "is not signed by the certificate after it" in refusal(LEAF, forge_authority(ROOT, subject="root"))


def test_the_root_does_not_belong_into_the_chain() -> None:
    assert "leave the root out" in refusal(LEAF, ROOT)


def test_a_root_vouches_for_its_own_consortium_only() -> None:
    root = forge_authority(uris=["spiffe://other"])
    assert "is for 'other', not for the consortium demo" in refusal(forge(root), trust=TrustStore([root.der]))


def test_the_first_and_the_last_second_are_valid_and_their_neighbours_are_not() -> None:
    for now in (NOW - DAY, NOW + DAY):
        assert TRUST.verify((LEAF.der,), now).identity.uri == ALICE
    assert "is not valid before 2027-01-14T08:00:00Z" in refusal(LEAF, now=NOW - DAY - 0.5)
    assert "has expired on 2027-01-16T08:00:00Z" in refusal(LEAF, now=NOW + DAY + 0.5)


def test_a_time_that_is_no_number_is_refused() -> None:
    assert "is not valid before" in refusal(LEAF, now=math.nan)


def test_an_expired_root_vouches_for_nobody() -> None:
    root = forge_authority(not_after=NOW - 1)
    assert "root certificate 'CN=root' has expired" in refusal(forge(root), trust=TrustStore([root.der]))


def test_a_chain_verified_once_is_remembered_and_still_expires() -> None:
    first = TRUST.verify((LEAF.der,), NOW)
    assert TRUST.verify((bytes(bytearray(LEAF.der)),), NOW + 1) is first
    assert "has expired" in refusal(LEAF, now=NOW + 2 * DAY)


def test_chains_that_are_empty_long_or_large_are_refused() -> None:
    assert "no certificate was presented" in refusal()
    assert "too long" in refusal(LEAF, LEAF, LEAF, LEAF)
    assert "too long" in refusal(bytes(16 * 1024 + 1))


def test_a_store_takes_roots_and_nothing_else() -> None:
    for roots, said in (
        ([], "no trusted authority is given"),
        ([LEAF.der], "is not an authority's"),
        ([forge_authority(ROOT, subject="mid").der], "not signed by its own key"),
        ([b"root"], "damaged"),
    ):
        with pytest.raises(IdentityError, match=said):
            TrustStore(roots)


def test_a_store_is_read_from_pem_and_its_errors_name_the_file(tmp_path: Path) -> None:
    good, bad = tmp_path / "roots.crt", tmp_path / "leaf.crt"
    good.write_bytes(forge_authority(subject="other").pem + ROOT.pem)
    bad.write_bytes(LEAF.pem)
    store = TrustStore.load(good)
    assert len(store.roots) == 2
    assert store.verify((LEAF.der,), NOW).identity.uri == ALICE
    with pytest.raises(IdentityError, match=r"leaf\.crt: .* is not an authority's"):
        TrustStore.load(bad)


def test_a_strangers_text_is_shortened_and_cannot_break_a_line() -> None:
    message = refusal(forge(forge_authority(subject="x\nFORGED LOG LINE" + "y" * 40)))
    assert "\n" not in message
    assert "y" * 41 not in refusal(forge(ROOT, uris=["y" * 1000])).replace("y" * 100, "")


@needs_openssl
def test_a_hierarchy_made_by_openssl_is_believed(tmp_path: Path) -> None:
    openssl_hierarchy(tmp_path)
    openssl(tmp_path, "verify", "-x509_strict", "-CAfile", "root.crt", "-untrusted", "issuing.crt", "alice.crt")
    alice, issuing = (x509.load_pem_x509_certificate((tmp_path / f"{name}.crt").read_bytes()) for name in ("alice", "issuing"))
    now = alice.not_valid_before_utc.timestamp() + 60
    chain = (alice.public_bytes(Encoding.DER), issuing.public_bytes(Encoding.DER))
    trust = TrustStore.load(tmp_path / "root.crt")
    assert trust.verify(chain, now).identity.uri == ALICE
    assert "not trusted here, 'CN=issuing'" in refusal(chain[0], trust=trust, now=now)


@needs_openssl
def test_a_sha1_signature_is_refused(tmp_path: Path) -> None:
    openssl_hierarchy(tmp_path, digest="-sha1")
    assert "ecdsa-with-SHA1" in openssl(tmp_path, "x509", "-in", "alice.crt", "-noout", "-text")
    alice, issuing = (x509.load_pem_x509_certificate((tmp_path / f"{name}.crt").read_bytes()) for name in ("alice", "issuing"))
    message = refusal(
        alice.public_bytes(Encoding.DER),
        issuing.public_bytes(Encoding.DER),
        trust=TrustStore.load(tmp_path / "root.crt"),
        now=alice.not_valid_before_utc.timestamp() + 60,
    )
    assert "is not signed with ECDSA and SHA-256" in message


def test_a_signature_has_one_spelling() -> None:
    leaf = next(leaf for leaf in iter(lambda: forge(ROOT), None) if leaf.der[-1] & 1 == 0)
    unused_bits = len(leaf.der) - len(leaf.certificate.signature) - 1
    assert leaf.der[unused_bits] == 0
    changed = leaf.der[:unused_bits] + b"\1" + leaf.der[unused_bits + 1 :]
    assert x509.load_der_x509_certificate(changed).signature == leaf.certificate.signature
    assert "damaged" in refusal(changed)


@pytest.mark.parametrize("action", ["error", "ignore"])
def test_a_serial_number_below_one_is_refused(action: Literal["error", "ignore"]) -> None:
    leaf = forge(ROOT, serial=0x7123456789)
    negative = leaf.der.replace(bytes.fromhex("7123456789"), bytes.fromhex("f123456789"))
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        assert "damaged" in refusal(negative)


MIDDLE = forge_authority(ROOT, subject="middle")
CHAIN = (forge(MIDDLE).der, MIDDLE.der)


@given(
    link=st.integers(0, 1),
    edits=st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 20),
)
def test_a_changed_certificate_is_refused_with_the_one_error(link: int, edits: list[tuple[int, int]], cut: int) -> None:
    der = bytearray(CHAIN[link])
    for position, change in edits:
        der[position % len(der)] ^= change
    changed = bytes(der[: len(der) - cut])
    chain = (changed, CHAIN[1]) if link == 0 else (CHAIN[0], changed)
    if chain == CHAIN:
        assert TRUST.verify(chain, NOW).identity.uri == ALICE
    else:
        assert refusal(*chain)


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_noise_is_refused_with_the_one_error(noise: list[bytes]) -> None:
    assert refusal(*noise)
