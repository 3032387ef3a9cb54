"""A signature has one form, one purpose, and verifies with the tools of others."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from mpc.messages import Kind
from mpc.signature import sha256, sign_digest, tagged_digest, verify_digest
from tests.mpc.parts import ORDER, needs_openssl
from tests.mpc.properties import quick

# The private key of RFC 6979 appendix A.2.5, and what it signs there: SHA-256 of "sample" and of "test".
RFC_KEY = ec.derive_private_key(0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721, ec.SECP256R1())
RFC_SIGNATURES = {
    "sample": (
        0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716,
        0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8,
    ),
    "test": (
        0xF1ABB023518351CD71D881567B1EA663ED3EFCF6C5132B354F28D3B0B7D38367,
        0x019F4113742A2B14BD25926B49C649155F267E60D3814B4C0CC84250E46F0083,
    ),
}
KEY = RFC_KEY
PUBLIC = KEY.public_key()
DIGEST = tagged_digest("share", b"data")


def raw(r: int, s: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def numbers(signature: bytes) -> tuple[int, int]:
    return int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")


@pytest.mark.parametrize("message", RFC_SIGNATURES)
def test_signing_is_deterministic_as_rfc_6979_says(message: str) -> None:
    r, s = RFC_SIGNATURES[message]

    assert sign_digest(KEY, sha256(message.encode())) == raw(r, min(s, ORDER - s))


def test_the_other_half_of_a_signature_is_refused() -> None:
    for number in range(20):
        digest = tagged_digest("share", b"%d" % number)
        r, s = numbers(sign_digest(KEY, digest))

        assert verify_digest(PUBLIC, raw(r, s), digest)
        # It is a valid signature to everyone else, which is why it must be refused here.
        PUBLIC.verify(encode_dss_signature(r, ORDER - s), b"cohortium/v1/share\0%d" % number, ec.ECDSA(hashes.SHA256()))
        assert not verify_digest(PUBLIC, raw(r, ORDER - s), digest)


@given(st.binary(max_size=80))
@quick
def test_every_signature_is_64_bytes_with_a_low_s(data: bytes) -> None:
    digest = tagged_digest("ready", data)
    signature = sign_digest(KEY, digest)

    assert len(signature) == 64
    assert 0 < numbers(signature)[1] <= ORDER // 2
    assert verify_digest(PUBLIC, signature, digest)


@given(st.integers(0, 511))
@quick
def test_no_bit_of_a_signature_can_change(bit: int) -> None:
    signature = bytearray(sign_digest(KEY, DIGEST))
    signature[bit // 8] ^= 1 << bit % 8

    assert not verify_digest(PUBLIC, bytes(signature), DIGEST)


def test_other_forms_are_refused() -> None:
    r, s = numbers(sign_digest(KEY, DIGEST))
    good = raw(r, s)

    for other in (
        b"",
        good[:-1],
        good + b"\0",
        b"\0" + good,
        encode_dss_signature(r, s),
        raw(0, s),
        raw(r, 0),
        raw(ORDER, s),
        raw(r, ORDER),
        raw(r, ORDER - 1),
        b"\xff" * 64,
        bytes(64),
    ):
        assert not verify_digest(PUBLIC, other, DIGEST)
    if r < 2**256 - ORDER:
        assert not verify_digest(PUBLIC, raw(r + ORDER, s), DIGEST)


def test_a_signature_holds_for_its_own_purpose_data_and_key_alone() -> None:
    signature = sign_digest(KEY, DIGEST)

    assert not verify_digest(PUBLIC, signature, tagged_digest("ready", b"data"))
    assert not verify_digest(PUBLIC, signature, tagged_digest("share", b"datA"))
    assert not verify_digest(ec.generate_private_key(ec.SECP256R1()).public_key(), signature, DIGEST)


def test_what_is_signed_is_the_tag_a_zero_and_the_data() -> None:
    assert sha256(b"cohortium/v1/share\0data") == DIGEST
    assert tagged_digest("share", memoryview(b"data")) == DIGEST
    # The zero keeps a purpose from running into the data.
    assert tagged_digest("shar", b"edata") != tagged_digest("share", b"data")


def test_every_kind_has_a_purpose_of_its_own() -> None:
    purposes = {kind.purpose for kind in Kind} | {"key-statement"}

    assert len(purposes) == len(Kind) + 1
    assert all("\0" not in purpose and not ("cohortium/v1/" + purpose).startswith(" ") for purpose in purposes)


@needs_openssl
def test_openssl_verifies_our_signature(tmp_path: Path) -> None:
    data = b"cohortium/v1/key-statement\0" + bytes(range(256))
    r, s = numbers(sign_digest(KEY, tagged_digest("key-statement", bytes(range(256)))))
    assert decode_dss_signature(encode_dss_signature(r, s)) == (r, s)
    for name, content in {
        "data": data,
        "signature": encode_dss_signature(r, s),
        "key.pem": PUBLIC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    }.items():
        (tmp_path / name).write_bytes(content)

    def verify() -> int:
        command = ["openssl", "dgst", "-sha256", "-verify", "key.pem", "-signature", "signature", "data"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=30).returncode

    assert verify() == 0
    (tmp_path / "data").write_bytes(data + b"\0")
    assert verify() == 1
