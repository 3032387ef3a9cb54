"""What a person and a script are told about a certificate."""

from __future__ import annotations

import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from mpc.errors import IdentityError
from pki.revocation import RevocationList
from pki.show import describe, describe_list, render
from tests.pki.forge import ALICE, forge, forge_authority, forge_list

SPKI = PublicFormat.SubjectPublicKeyInfo
ODD = ObjectIdentifier("1.2.3.4")


def test_a_nodes_certificate_is_described() -> None:
    node = forge(forge_authority(), extended=[ExtendedKeyUsageOID.CLIENT_AUTH, ODD])
    assert describe(node.der) == {
        "identity": ALICE,
        "role": "patient",
        "authority": False,
        "uris": [ALICE],
        "dns": [],
        "ips": [],
        "subject": "CN=leaf",
        "issuer": "CN=root",
        "serial": f"{node.certificate.serial_number:x}",
        "not_before": "2027-01-14T08:00:00Z",
        "not_after": "2027-01-16T08:00:00Z",
        "key": "P-256",
        "key_usage": ["digitalSignature"],
        "extended_key_usage": ["1.2.3.4", "clientAuth"],
        "fingerprint": "sha256:" + node.certificate.fingerprint(hashes.SHA256()).hex(),
        "key_fingerprint": "sha256:" + hashlib.sha256(node.key.public_key().public_bytes(Encoding.DER, SPKI)).hexdigest(),
    }


def test_certificates_that_no_node_could_use_are_described_too() -> None:
    root = describe(forge_authority(uris=["spiffe://demo"]).der)
    assert (root["identity"], root["authority"]) == (None, True)
    odd = describe(forge(key=rsa.generate_private_key(65537, 2048), uris=["https://example"], usage=None).der)
    assert (odd["identity"], odd["key"], odd["key_usage"]) == (None, "not an elliptic curve key", [])
    assert odd["key_fingerprint"] is None


def test_the_text_has_a_line_a_fact_and_none_for_what_is_absent() -> None:
    text = render(describe(forge(forge_authority()).der))
    assert f"identity            {ALICE}\n" in text
    assert "extended key usage  clientAuth\n" in text
    assert "dns" not in text
    assert "authority " not in text
    assert "authority           yes\n" in render(describe(forge_authority().der))


def test_bytes_that_are_no_certificate_are_refused() -> None:
    with pytest.raises(IdentityError, match="damaged"):
        describe(b"certificate")


def test_a_revocation_list_is_described_a_certificate_a_line() -> None:
    revoked = [(0xA1, x509.ReasonFlags.superseded), (0xB2, None)]
    described = describe_list(RevocationList.parse(forge_list(forge_authority(), revoked, number=7)))
    assert described == {
        "issuer": "CN=root",
        "number": 7,
        "this_update": "2027-01-14T08:00:00Z",
        "next_update": "2027-01-16T08:00:00Z",
        "revoked": [
            {"serial": "a1", "at": "2027-01-15T07:00:00Z", "reason": "superseded"},
            {"serial": "b2", "at": "2027-01-15T07:00:00Z", "reason": "unspecified"},
        ],
    }
    lines = render(described).splitlines()
    assert lines[1] == "number              7"
    assert lines[4:] == [
        "revoked             a1 2027-01-15T07:00:00Z superseded",
        "revoked             b2 2027-01-15T07:00:00Z unspecified",
    ]
