"""Pins: another authority, and a node with another key, are refused however well they are signed; digests are openssl's."""

from __future__ import annotations

import hashlib
import subprocess

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mpc.errors import IdentityError
from mpc.identity import Identity
from pki.pins import Pins
from pki.revocation import RevocationList
from pki.show import describe
from pki.trust import TrustStore
from tests.pki.forge import ALICE, NOW, Forged, forge, forge_authority, forge_list, needs_openssl

ROOT = forge_authority()
LEAF = forge(ROOT)
OTHER = bytes(range(32))


def digest(forged: Forged) -> bytes:
    return hashlib.sha256(forged.der).digest()


def key_digest(forged: Forged) -> bytes:
    key = forged.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(key).digest()


def openssl_digest(forged: Forged, *, key: bool) -> bytes:
    """SHA-256 of the certificate, or of its public key, as openssl writes them in DER."""

    def run(*words: str, given: bytes) -> bytes:
        return subprocess.run(["openssl", *words], input=given, capture_output=True, check=True).stdout

    if not key:
        return hashlib.sha256(run("x509", "-outform", "DER", given=forged.pem)).digest()
    public = run("x509", "-noout", "-pubkey", given=forged.pem)
    return hashlib.sha256(run("pkey", "-pubin", "-outform", "DER", given=public)).digest()


def store(*digests: bytes, uri: str = ALICE) -> TrustStore:
    return TrustStore([ROOT.der], pins=Pins(nodes={Identity.parse(uri): frozenset(digests)}))


@needs_openssl
@pytest.mark.parametrize("key", [False, True], ids=["certificate", "key"])
def test_a_node_pinned_to_its_certificate_or_to_its_key_is_believed(key: bool) -> None:
    pinned = openssl_digest(LEAF, key=key)
    assert store(pinned).verify((LEAF.der,), NOW).identity.uri == ALICE
    assert store(OTHER, pinned).verify((LEAF.der,), NOW).identity.uri == ALICE
    assert f"sha256:{pinned.hex()}" == describe(LEAF.der)["key_fingerprint" if key else "fingerprint"]


def test_a_key_that_was_pinned_outlives_its_certificate() -> None:
    again = forge(ROOT, key=LEAF.key)
    assert store(key_digest(LEAF)).verify((again.der,), NOW).identity.uri == ALICE
    with pytest.raises(IdentityError, match=r"'trust\.nodes' names neither"):
        store(digest(LEAF)).verify((again.der,), NOW)


def test_another_key_in_a_pinned_name_is_refused_and_the_digests_are_told() -> None:
    """The authority itself, or whoever has its key, has signed it."""
    false = forge(ROOT)
    with pytest.raises(IdentityError) as caught:
        store(digest(LEAF)).verify((false.der,), NOW)
    text = str(caught.value)
    assert text.startswith(f"the certificate of {ALICE} is sha256:{digest(false).hex()} and its key sha256:")
    assert "'trust.nodes' names neither; if that node was given a new key, ask who runs it" in text


def test_a_pin_is_of_one_node_alone() -> None:
    bob = ALICE.replace("alice", "bob")
    assert store(OTHER, uri=bob).verify((LEAF.der,), NOW).identity.uri == ALICE


def test_a_pin_outlives_a_new_revocation_list() -> None:
    pinned = store(OTHER)
    after = pinned.with_list(RevocationList.parse(forge_list(ROOT)), NOW)
    assert after is not pinned
    with pytest.raises(IdentityError, match="names neither"):
        after.verify((LEAF.der,), NOW)


def test_only_pinned_authorities_are_taken() -> None:
    assert TrustStore([ROOT.der], pins=Pins(frozenset({OTHER, digest(ROOT)}))).verify((LEAF.der,), NOW).identity.uri == ALICE
    second = forge_authority(subject="second")
    for roots in ([second.der], [ROOT.der, second.der]):
        with pytest.raises(IdentityError) as caught:
            TrustStore(roots, pins=Pins(frozenset({digest(ROOT)})))
        assert str(caught.value).startswith(
            f"the authority 'CN=second' is sha256:{digest(second).hex()}, which 'trust.authorities' does not name; ask who runs"
        )
