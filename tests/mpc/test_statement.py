"""A statement stands on its own: its content, its purpose and its author hold together."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from mpc.errors import MessageRefused
from mpc.messages import Declined, Ready, SegmentShape
from mpc.signature import sign_digest, tagged_digest
from mpc.statement import Signed, read, sign
from mpc.wire import decode, encode
from tests.mpc.properties import quick

KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC = KEY.public_key()
STATEMENT = sign(KEY, "ready", Ready(bytes(32)))


@given(st.binary(min_size=32, max_size=32))
@quick
def test_what_was_signed_is_read(context: bytes) -> None:
    statement = sign(KEY, "ready", Ready(context))

    assert read(statement, "ready", Ready, PUBLIC) == Ready(context)
    assert decode(encode(statement), Signed) == statement
    assert sign(KEY, "ready", Ready(context)) == statement


def test_another_key_purpose_or_body_is_not_read() -> None:
    stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
    altered = encode(Ready(b"\1" + bytes(31)))

    assert read(STATEMENT, "ready", Ready, stranger) is None
    assert read(STATEMENT, "consent", Ready, PUBLIC) is None
    assert read(Signed(altered, STATEMENT.signature), "ready", Ready, PUBLIC) is None
    assert read(Signed(STATEMENT.body, b""), "ready", Ready, PUBLIC) is None


@given(st.integers(0, 8 * len(STATEMENT.body) - 1))
@quick
def test_no_bit_of_the_body_can_change(bit: int) -> None:
    body = bytearray(STATEMENT.body)
    body[bit // 8] ^= 1 << bit % 8

    assert read(Signed(bytes(body), STATEMENT.signature), "ready", Ready, PUBLIC) is None


def test_a_signed_body_of_another_shape_is_refused() -> None:
    statement = sign(KEY, "ready", SegmentShape(2, 1))
    with pytest.raises(MessageRefused, match="payload"):
        read(statement, "ready", Ready, PUBLIC)


def test_a_signed_body_that_is_not_canonical_is_refused() -> None:
    body = b"\x91\xc5\x00\x20" + bytes(32)
    statement = Signed(body, sign_digest(KEY, tagged_digest("declined", body)))
    with pytest.raises(MessageRefused, match="payload"):
        read(statement, "declined", Declined, PUBLIC)
