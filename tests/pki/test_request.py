"""A request proves that its sender has the key; anything else about it is ignored, and anything wrong is refused."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from mpc.errors import IdentityError
from pki.files import read_private_key
from pki.request import load_request, make_request, read_request, request_node
from tests.pki.forge import Key, forge, needs_openssl, openssl, p256

KEY = p256()
PEM = make_request(KEY, "alice")
DER = x509.load_pem_x509_csr(PEM).public_bytes(Encoding.DER)


def request(key: Key, algorithm: hashes.SHA256 | hashes.SHA512 | None = None) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, algorithm or hashes.SHA256()).public_bytes(Encoding.PEM)


def refusal(data: bytes) -> str:
    with pytest.raises(IdentityError) as caught:
        read_request(data)
    assert str(caught.value).endswith("; make it on the node with 'cohortium pki request'")
    return str(caught.value)


def test_a_request_gives_its_key_and_the_digest_that_both_sides_see() -> None:
    for data in (PEM, DER, b"\n" + PEM):
        found = read_request(data)
        assert found.public_key == KEY.public_key()
        spki = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert found.digest == hashlib.sha256(spki).digest()


def test_a_node_makes_its_own_key_which_stays_with_it(tmp_path: Path) -> None:
    files = request_node("alice", tmp_path / "new")
    assert (files.key, files.request) == (tmp_path / "new" / "alice.key", tmp_path / "new" / "alice.csr")
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
    key = read_private_key(files.key)
    found = read_request(load_request(files.request))
    assert (found.public_key, found.digest) == (key.public_key(), files.digest)
    with pytest.raises(IdentityError, match=r"alice\.key exists already"):
        request_node("alice", tmp_path / "new")
    files.key.unlink()
    with pytest.raises(IdentityError, match=r"alice\.csr exists already"):
        request_node("alice", tmp_path / "new")
    assert not files.key.exists()
    assert request_node("alice", tmp_path / "new", force=True).digest != files.digest


@needs_openssl
def test_openssl_reads_our_request_and_we_read_its(tmp_path: Path) -> None:
    (tmp_path / "alice.csr").write_bytes(PEM)
    openssl(tmp_path, "req", "-in", "alice.csr", "-verify", "-noout")
    openssl(tmp_path, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "bob.key")
    openssl(
        tmp_path, "req", "-new", "-key", "bob.key", "-subj", "/CN=bob", "-addext", "subjectAltName=DNS:evil", "-out", "bob.csr"
    )
    assert read_request(load_request(tmp_path / "bob.csr")).public_key == read_private_key(tmp_path / "bob.key").public_key()


def test_a_signature_of_another_key_is_no_proof() -> None:
    (tbs, signature) = (x509.load_der_x509_csr(DER), x509.load_pem_x509_csr(make_request(p256(), "alice")).signature)
    forged = DER.replace(tbs.signature, signature) if len(signature) == len(tbs.signature) else DER[:-1] + bytes([DER[-1] ^ 1])
    assert "is not signed by its own key, so its sender may not have it" in refusal(forged)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (request(rsa.generate_private_key(65537, 2048)), "not P-256"),
        (request(ec.generate_private_key(ec.SECP384R1())), "not P-256"),
        (request(ec.generate_private_key(ec.SECP256K1())), "not P-256"),
        (request(KEY, hashes.SHA512()), "not signed with ECDSA and SHA-256"),
        (b"", "damaged or cut off"),
        (b"request", "damaged or cut off"),
        (PEM[:-40], "damaged or cut off"),
        (forge().pem, "damaged or cut off"),
        (b"x" * 20_000, "larger than 16384 bytes"),
    ],
    ids=["rsa", "p384", "secp256k1", "sha512", "empty", "text", "cut", "certificate", "large"],
)
def test_a_request_that_cannot_be_granted_is_refused(data: bytes, said: str) -> None:
    assert said in refusal(data)


def test_the_error_of_a_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "alice.csr").write_bytes(PEM[:-40])
    with pytest.raises(IdentityError, match=r"alice\.csr: the certificate request is damaged"):
        load_request(tmp_path / "alice.csr")
    (tmp_path / "alice.csr").write_bytes(b"x" * 20_000)
    with pytest.raises(IdentityError, match=r"alice\.csr is larger than 16384 bytes"):
        load_request(tmp_path / "alice.csr")


@given(edits=st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 255)), min_size=1, max_size=4), cut=st.integers(0, 20))
def test_a_changed_request_is_refused_with_the_one_error(edits: list[tuple[int, int]], cut: int) -> None:
    der = bytearray(DER)
    for position, change in edits:
        der[position % len(der)] ^= change
    changed = bytes(der[: len(der) - cut])
    if changed != DER:
        refusal(changed)


@given(st.binary(max_size=300))
def test_noise_is_refused_with_the_one_error(noise: bytes) -> None:
    refusal(noise)
