"""A token's text: what it carries comes back, what is mistyped is found, and the secret shows nowhere else."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpc.errors import IdentityError
from mpc.identity import Identity, Role
from pki.token import Token, short

SECRET = bytes(range(100, 132))
TOKEN = Token(
    identity=Identity("demo", Role.PATIENT, "alice"),
    service=Identity("demo", Role.HOSPITAL, "general"),
    address="https://h.example:7000",
    root=bytes(32),
    secret=SECRET,
)
TEXT = TOKEN.encode()


def refusal(text: str) -> str:
    with pytest.raises(IdentityError) as caught:
        Token.parse(text)
    assert caught.value.__cause__ is None
    assert text[11:51] not in str(caught.value) or len(text) < 51
    return str(caught.value)


def spelled(fields: object) -> str:
    """A token of other fields, by the format's description."""
    data = msgspec.msgpack.encode(fields)
    whole = data + hashlib.sha256(data).digest()[:4]
    return "cohortium1_" + base64.urlsafe_b64encode(whole).rstrip(b"=").decode()


def test_the_text_is_as_described_and_comes_back() -> None:
    fields = ["spiffe://demo/patient/alice", "spiffe://demo/hospital/general", "https://h.example:7000", bytes(32), SECRET]
    assert spelled(fields) == TEXT
    assert Token.parse(f"  {TEXT}\n") == TOKEN
    assert TEXT.removeprefix("cohortium1_").replace("-", "").replace("_", "").isalnum()


def test_the_secret_is_in_the_text_alone() -> None:
    for shown in (repr(TOKEN), str(TOKEN), f"{TOKEN}", TOKEN.digest, short(TOKEN.digest)):
        assert "secret" not in shown
        assert repr(SECRET)[2:-1] not in shown
        assert SECRET.hex() not in shown
    assert TOKEN.digest == hashlib.sha256(SECRET).hexdigest()
    assert short(TOKEN.digest) == TOKEN.digest[:16]


@given(st.integers(0, len(TEXT) - 1), st.sampled_from("ABCXYZabcxyz0189-_.= \n"))
def test_one_wrong_character_is_found(position: int, character: str) -> None:
    changed = TEXT[:position] + character + TEXT[position + 1 :]
    if changed.strip() != TEXT:
        assert "not a token" in refusal(changed) or "mistyped or cut off" in refusal(changed)


@given(st.integers(0, len(TEXT) - 1))
def test_half_a_token_is_none(length: int) -> None:
    said = refusal(TEXT[:length])
    assert "copy all of it again, or have a new one made with 'cohortium pki token'" in said


def test_a_token_has_one_spelling() -> None:
    assert "mistyped" in refusal(TEXT + "=")
    assert "mistyped" in refusal(spelled(msgspec.Raw(b"\x95" + b"".join(_wide(part) for part in TOKEN_FIELDS))))
    assert "mistyped" in refusal("cohortium1_" + "A" * 3000)


TOKEN_FIELDS = (TOKEN.identity.uri, TOKEN.service.uri, TOKEN.address, TOKEN.root, TOKEN.secret)


def _wide(part: str | bytes) -> bytes:
    """MessagePack with a longer length than needed."""
    raw = part.encode() if isinstance(part, str) else part
    return (b"\xda" if isinstance(part, str) else b"\xc5") + len(raw).to_bytes(2, "big") + raw


@pytest.mark.parametrize(
    "fields",
    [
        [],
        "text",
        [*TOKEN_FIELDS, 1],
        [*TOKEN_FIELDS[:4], bytes(31)],
        [*TOKEN_FIELDS[:3], bytes(33), SECRET],
        ["x" * 300, *TOKEN_FIELDS[1:]],
    ],
)
def test_another_form_is_refused(fields: object) -> None:
    assert "of a form that this version does not know" in refusal(spelled(fields))


def test_parts_that_do_not_fit_are_refused() -> None:
    elsewhere = Identity("other", Role.HOSPITAL, "general")
    with pytest.raises(IdentityError, match="they are of different consortiums"):
        replace(TOKEN, service=elsewhere)
    with pytest.raises(IdentityError, match="cannot enrol nodes; name the hospital or a relay"):
        replace(TOKEN, service=Identity("demo", Role.PATIENT, "bob"))
    assert "must read spiffe://CONSORTIUM/ROLE/NAME" in refusal(spelled(["alice", *TOKEN_FIELDS[1:]]))


@pytest.mark.parametrize("address", ["https://h.example:7000", "https://[::1]:7000", "https://127.0.0.1:1", "https://a_b:65535"])
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    assert Token.parse(replace(TOKEN, address=address).encode()).address == address


@pytest.mark.parametrize(
    "address",
    [
        "",
        "h.example:7000",
        "http://h.example:7000",
        "https://h.example",
        "https://h.example:0",
        "https://h.example:65536",
        "https://h.example:7000/",
        "https://h.example:7000/path",
        "https://h.example:7000?q",
        "https://user@h.example:7000",
        "https://:7000",
        "https://h\n.example:7000",
        "https://[::1:7000",
    ],
)
def test_anything_else_is_no_address(address: str) -> None:
    with pytest.raises(IdentityError, match="write https://HOST:PORT and nothing more"):
        replace(TOKEN, address=address)


@given(st.text(max_size=200))
def test_noise_is_refused_with_the_one_error(noise: str) -> None:
    refusal("cohortium1_" + noise)
