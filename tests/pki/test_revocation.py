"""Revocation lists: what is read, who is believed to have signed one, and what it does to a chain."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ObjectIdentifier
from hypothesis import given
from hypothesis import strategies as st

from mpc.errors import IdentityError, RevokedError
from pki.certificate import read
from pki.revocation import MAX_LIST_BYTES, Revocation, RevocationList
from pki.trust import Listed, TrustStore
from tests.pki.forge import (
    ALICE,
    DAY,
    NOW,
    Forged,
    forge,
    forge_authority,
    forge_list,
    needs_openssl,
    openssl,
    openssl_hierarchy,
    p256,
)

ROOT = forge_authority()
MIDDLE = forge_authority(ROOT, subject="middle", path_length=0)
LEAF = forge(ROOT)
BELOW = forge(MIDDLE)
TRUST = TrustStore([ROOT.der])
TRUST_ROOT = read(ROOT.der)
COMPROMISED = x509.ReasonFlags.key_compromise
UNKNOWN = x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00")


def revoking(issuer: Forged, *revoked: Forged, number: int = 1, next_update: int = NOW + DAY) -> RevocationList:
    entries = [(one.certificate.serial_number, COMPROMISED) for one in revoked]
    return RevocationList.parse(forge_list(issuer, entries, number=number, next_update=next_update))


def refusal(data: bytes) -> str:
    with pytest.raises(IdentityError) as caught:
        RevocationList.parse(data)
    assert str(caught.value).endswith("; fetch it again, or have the authority make one with 'cohortium pki crl'")
    return str(caught.value)


# ---- one list


def test_a_list_says_which_when_why_and_until_when() -> None:
    der = forge_list(ROOT, [(7, COMPROMISED), (2**158, None)], number=5)
    pem = x509.load_der_x509_crl(der).public_bytes(Encoding.PEM)
    for found in map(RevocationList.parse, (der, pem, b"\n" + pem)):
        assert (found.number, found.this_update, found.next_update) == (5, NOW - DAY, NOW + DAY)
        assert found.revoked == {7: Revocation(NOW - 3600, "keyCompromise"), 2**158: Revocation(NOW - 3600, "unspecified")}
        assert found.der == der
    assert str(found) == "the revocation list of 'CN=root', number 5"
    assert str(found.revoked[7]) == "on 2027-01-15T07:00:00Z (keyCompromise)"


def test_the_number_decides_which_is_newer() -> None:
    one, two = (revoking(ROOT, number=number) for number in (2**64, 2**64 + 1))
    assert two.newer_than(one)
    assert not one.newer_than(two)
    assert not one.newer_than(one)


def test_a_list_is_signed_by_a_key_under_its_name() -> None:
    assert revoking(ROOT).signed_by(TRUST_ROOT)
    assert not RevocationList.parse(forge_list(ROOT, key=p256())).signed_by(TRUST_ROOT)
    renamed = forge_authority(key=ROOT.key, subject="other")
    assert not revoking(renamed).signed_by(TRUST_ROOT)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"list",
        LEAF.der,
        LEAF.pem,
        forge_list(ROOT)[:-1],
        forge_list(ROOT, number=None),
        forge_list(ROOT, algorithm=hashes.SHA512()),
        forge_list(ROOT, extra=[(x509.DeltaCRLIndicator(1), True)]),
        forge_list(ROOT, extra=[(x509.IssuingDistributionPoint(None, None, True, False, None, False, False), True)]),
        forge_list(ROOT, [(7, None)], entry_extra=[(UNKNOWN, True)]),
    ],
    ids=["empty", "text", "certificate", "pem", "cut", "no-number", "sha512", "delta", "partial", "entry"],
)
def test_what_is_no_full_list_is_refused(data: bytes) -> None:
    assert "damaged or of a form that is not supported" in refusal(data)


def der_sequence(content: bytes) -> bytes:
    octets = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return b"\x30" + (octets if len(content) < 128 else bytes([0x80 | len(octets)]) + octets) + content


def test_a_list_without_an_end_is_refused() -> None:
    # Nothing makes one: a real one is taken apart and put together without its nextUpdate (RFC 5280 section 5.1.2.5).
    der = forge_list(ROOT)
    signed = x509.load_der_x509_crl(der).tbs_certlist_bytes
    content = signed[2 + (signed[1] & 0x7F if signed[1] & 0x80 else 0) :]
    shorter = content.replace(b"\x17\x0d270116080000Z", b"")
    assert len(shorter) == len(content) - 15
    endless = der_sequence(der_sequence(shorter) + der[der.index(signed) + len(signed) :])
    assert x509.load_der_x509_crl(endless).next_update_utc is None
    refusal(endless)


def test_a_huge_list_is_refused_before_it_is_read(tmp_path: Path) -> None:
    assert "larger than 4194304 bytes" in refusal(bytes(MAX_LIST_BYTES + 1))
    (tmp_path / "ca.crl").write_bytes(bytes(MAX_LIST_BYTES + 1))
    with pytest.raises(IdentityError, match=r"ca\.crl is larger than 4194304 bytes"):
        RevocationList.load(tmp_path / "ca.crl")


def test_the_error_of_a_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "ca.crl").write_bytes(b"list")
    with pytest.raises(IdentityError, match=r"ca\.crl: the revocation list is damaged"):
        RevocationList.load(tmp_path / "ca.crl")


LIST = forge_list(ROOT, [(7, COMPROMISED)])


@given(edits=st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 255)), min_size=1, max_size=4), cut=st.integers(0, 20))
def test_a_changed_list_is_refused_or_believed_to_be_nobodys(edits: list[tuple[int, int]], cut: int) -> None:
    der = bytearray(LIST)
    for position, change in edits:
        der[position % len(der)] ^= change
    changed = bytes(der[: len(der) - cut])
    try:
        found = RevocationList.parse(changed)
    except IdentityError:
        return
    assert changed == LIST or not found.signed_by(TRUST_ROOT)


@given(st.binary(max_size=300))
def test_noise_is_refused_with_the_one_error(noise: bytes) -> None:
    refusal(noise)


# ---- in a store


def chain_refusal(trust: TrustStore, *chain: Forged, now: float = NOW) -> str:
    with pytest.raises(IdentityError) as caught:
        trust.verify(tuple(link.der for link in chain), now)
    return str(caught.value)


def list_refusal(found: RevocationList, *intermediates: Forged, trust: TrustStore = TRUST, now: float = NOW) -> str:
    with pytest.raises(IdentityError) as caught:
        trust.with_list(found, now, [link.der for link in intermediates])
    return str(caught.value)


def test_a_revoked_certificate_is_refused_with_date_and_reason_and_others_are_not() -> None:
    trust = TRUST.with_list(revoking(ROOT, LEAF), NOW)
    assert chain_refusal(trust, LEAF) == (
        f"the certificate of {ALICE} was revoked on 2027-01-15T07:00:00Z (keyCompromise); if its holder is to take part again, "
        "make a new key there and have a certificate issued for it"
    )
    assert trust.verify((forge(ROOT).der,), NOW).identity.uri == ALICE
    assert TRUST.verify((LEAF.der,), NOW).identity.uri == ALICE, "the store that was there is as it was"


def test_a_chain_that_was_believed_is_not_any_more() -> None:
    trust = TRUST.with_list(revoking(ROOT), NOW)
    assert trust.verify((LEAF.der,), NOW).identity.uri == ALICE
    assert "was revoked" in chain_refusal(trust.with_list(revoking(ROOT, LEAF, number=2), NOW), LEAF)


def test_a_list_of_an_issuing_authority_is_believed_with_its_certificate() -> None:
    found = revoking(MIDDLE, BELOW)
    assert "with its own certificate if it is not a root" in list_refusal(found)
    trust = TRUST.with_list(found, NOW, [MIDDLE.der])
    assert "was revoked" in chain_refusal(trust, BELOW, MIDDLE)
    assert trust.lists_for((forge(MIDDLE).der, MIDDLE.der)) == (found, None)


def test_an_authority_revokes_what_it_issued_and_nothing_else() -> None:
    same_serial = forge(MIDDLE, serial=LEAF.certificate.serial_number)
    trust = TRUST.with_list(revoking(ROOT, LEAF), NOW)
    assert trust.verify((same_serial.der, MIDDLE.der), NOW).identity.uri == ALICE


def test_a_revoked_issuing_authority_takes_all_of_its_nodes_with_it() -> None:
    trust = TRUST.with_list(revoking(ROOT, MIDDLE), NOW)
    assert "the intermediate certificate 'CN=middle' was revoked" in chain_refusal(trust, BELOW, MIDDLE)


@pytest.mark.parametrize(
    "found",
    [
        revoking(forge_authority(subject="stranger")),
        revoking(forge_authority()),
        RevocationList.parse(forge_list(ROOT, key=p256())),
        revoking(MIDDLE),
    ],
    ids=["stranger", "same-name", "other-key", "intermediate-missing"],
)
def test_a_list_of_nobody_that_is_trusted_is_refused(found: RevocationList) -> None:
    assert "is not signed by an authority that is trusted here" in list_refusal(found)


def test_intermediates_of_a_list_are_checked_as_in_a_chain() -> None:
    stranger = forge_authority(forge_authority(subject="stranger"), subject="below")
    assert "not trusted here" in list_refusal(revoking(stranger), stranger)
    expired = forge_authority(ROOT, subject="old", not_after=NOW - 1)
    assert "has expired" in list_refusal(revoking(expired), expired)
    assert "at most 2 authorities" in list_refusal(revoking(MIDDLE), MIDDLE, MIDDLE, MIDDLE)
    assert "is not an authority's" in list_refusal(revoking(LEAF), LEAF)


def test_an_authority_without_the_right_to_sign_lists_is_not_believed() -> None:
    root = forge_authority(usage=["key_cert_sign"])
    assert "may not sign revocation lists" in list_refusal(revoking(root), trust=TrustStore([root.der]))


def test_the_list_never_goes_back() -> None:
    two = revoking(ROOT, LEAF, number=2)
    trust = TRUST.with_list(two, NOW)
    assert trust.with_list(RevocationList.parse(two.der), NOW) is trust
    for number in (1, 2):
        said = list_refusal(revoking(ROOT, number=number), trust=trust)
        assert f"number {number} is not newer than number 2, which is known already; fetch the newest" in said
    assert trust.lists == (Listed(two, ()),)
    three = revoking(ROOT, number=3)
    assert trust.with_list(three, NOW).lists == (Listed(three, ()),)


def test_lists_of_several_authorities_stand_side_by_side() -> None:
    trust = TRUST.with_list(revoking(ROOT, LEAF, number=9), NOW).with_list(revoking(MIDDLE, BELOW), NOW, [MIDDLE.der])
    assert len(trust.lists) == 2
    assert "was revoked" in chain_refusal(trust, LEAF)
    assert "was revoked" in chain_refusal(trust, BELOW, MIDDLE)


def test_a_list_of_the_future_is_refused() -> None:
    for now in (NOW - DAY - 1, math.nan):
        assert "check the clocks" in list_refusal(revoking(ROOT), now=now)


def test_a_list_that_has_ended_stops_everybody_after_the_grace_that_is_configured() -> None:
    ended = revoking(ROOT, next_update=NOW - 100)
    chain = (LEAF.der,)
    strict = TRUST.with_list(ended, NOW)
    said = chain_refusal(strict, LEAF)
    assert "has ended on 2027-01-15T07:58:20Z, so nobody can tell who was revoked since; have the authority make" in said
    patient = TrustStore([ROOT.der], list_grace=100).with_list(ended, NOW)
    assert patient.verify(chain, NOW).identity.uri == ALICE
    assert "has ended" in chain_refusal(patient, LEAF, now=NOW + 0.5)
    assert patient.with_list(revoking(ROOT, number=2), NOW).verify(chain, NOW + 0.5).identity.uri == ALICE


def test_the_grace_is_kept_when_a_store_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(ROOT.pem)
    assert TrustStore.load(tmp_path / "ca.crt", list_grace=5).list_grace == 5


def test_who_is_revoked_is_told_apart_from_what_else_is_wrong() -> None:
    trust = TRUST.with_list(revoking(MIDDLE, BELOW), NOW, [MIDDLE.der])
    with pytest.raises(RevokedError) as caught:
        trust.verify((BELOW.der, MIDDLE.der), NOW)
    assert caught.value.node == ALICE
    with pytest.raises(RevokedError) as caught:  # with its authority
        TRUST.with_list(revoking(ROOT, MIDDLE), NOW).verify((BELOW.der, MIDDLE.der), NOW)
    assert caught.value.node == ALICE


def test_a_store_can_be_asked_as_if_nothing_was_revoked_and_as_if_no_list_grew_old() -> None:
    trust = TRUST.with_list(revoking(ROOT, LEAF, next_update=NOW - 100), NOW)
    other = forge(ROOT)
    assert trust.without_lists().verify((LEAF.der,), NOW).identity.uri == ALICE
    assert "has ended on" in chain_refusal(trust, other)
    assert trust.whatever_age().verify((other.der,), NOW).identity.uri == ALICE
    assert "was revoked" in chain_refusal(trust.whatever_age(), LEAF)
    assert "was revoked" in chain_refusal(trust, LEAF), "the store itself is as it was"


def test_a_renewed_root_with_the_same_key_has_the_same_list() -> None:
    renewed = forge_authority(key=ROOT.key, not_after=NOW + 9 * DAY)
    trust = TrustStore([renewed.der]).with_list(revoking(ROOT, LEAF), NOW)
    assert "was revoked" in chain_refusal(trust, LEAF)


def test_a_p384_authority_signs_lists_too() -> None:
    root = forge_authority(key=ec.generate_private_key(ec.SECP384R1()))
    trust = TrustStore([root.der]).with_list(revoking(root), NOW)
    assert trust.verify((forge(root).der,), NOW).identity.uri == ALICE


@needs_openssl
def test_a_list_made_by_openssl_is_obeyed(tmp_path: Path) -> None:
    openssl_hierarchy(tmp_path)
    (tmp_path / "index").write_text("")
    (tmp_path / "number").write_text("1000\n")
    (tmp_path / "ca.cnf").write_text(
        "[ca]\ndefault_ca=here\n[here]\ndatabase=index\ncrlnumber=number\ndefault_md=sha256\ndefault_crl_days=2\n"
        "crl_extensions=extensions\n[extensions]\nauthorityKeyIdentifier=keyid\n"
    )
    authority = ("ca", "-config", "ca.cnf", "-cert", "issuing.crt", "-keyfile", "issuing.key")
    openssl(tmp_path, *authority, "-revoke", "alice.crt", "-crl_reason", "keyCompromise")
    openssl(tmp_path, *authority, "-gencrl", "-out", "issuing.crl")
    alice, issuing = (x509.load_pem_x509_certificate((tmp_path / f"{name}.crt").read_bytes()) for name in ("alice", "issuing"))
    chain = (alice.public_bytes(Encoding.DER), issuing.public_bytes(Encoding.DER))
    now = alice.not_valid_before_utc.timestamp() + 60
    found = RevocationList.load(tmp_path / "issuing.crl")
    assert found.number == 0x1000
    trust = TrustStore.load(tmp_path / "root.crt")
    trust.verify(chain, now)
    with pytest.raises(IdentityError, match=r"was revoked on .* \(keyCompromise\)"):
        trust.with_list(found, now, chain[1:]).verify(chain, now)
