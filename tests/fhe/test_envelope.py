"""A key or ciphertext that is foreign, cut, lengthened or altered is told from a right one before anybody computes with it."""

from __future__ import annotations

import json
import struct

import msgspec
import pytest

from fhe.bundle import Bundle
from fhe.envelope import MAGIC, Header, check_fits, open_payloads, seal_payloads, split_header, write_header
from fhe.errors import STATUS, Refused, Why
from tests.fhe.house import DESCRIPTION, TRUST, make_up

MODEL = Bundle.open(make_up(), TRUST)
OTHER = Bundle.open(make_up(msgspec.structs.replace(DESCRIPTION, id="other")), TRUST)
ID = "0123456789abcdef" * 2
TWO = [bytes(range(10)), bytes(range(10, 20))]
SEALED = seal_payloads("input", MODEL, ID, TWO)


def refusal(data: bytes, bundle: Bundle = MODEL) -> Why:
    with pytest.raises(Refused) as caught:
        open_payloads(data, bundle, "input")
    return caught.value.why


def with_header(**changes: object) -> bytes:
    found = split_header(SEALED)
    assert found is not None
    header, at = found
    raw = json.dumps(json.loads(msgspec.json.encode(header)) | changes).encode()
    return MAGIC + struct.pack(">I", len(raw)) + raw + SEALED[at:]


def test_payloads_come_back_with_the_id_of_their_key() -> None:
    header, payloads = open_payloads(SEALED, MODEL, "input")
    assert payloads == TWO
    assert (header.key, header.model) == (ID, MODEL.hash)


def test_every_prefix_is_damaged() -> None:
    for end in range(len(SEALED)):
        assert refusal(SEALED[:end]) is Why.DAMAGED


def test_every_flipped_byte_is_refused() -> None:
    for at in range(len(SEALED)):
        altered = bytearray(SEALED)
        altered[at] ^= 1
        try:
            header, _ = open_payloads(bytes(altered), MODEL, "input")
        except Refused:
            continue
        # Only the id of the key may differ: that of another set, whose secret is asked for next, and not found.
        assert header.key != ID


def test_a_byte_too_many_is_damaged() -> None:
    assert refusal(SEALED + b"\0") is Why.DAMAGED


def test_another_models_ciphertext_is_a_mismatch() -> None:
    assert refusal(SEALED, OTHER) is Why.MISMATCH
    assert STATUS[Why.MISMATCH] == 409


def test_a_result_is_no_input() -> None:
    assert refusal(seal_payloads("output", MODEL, ID, [bytes(20)])) is Why.MISMATCH


@pytest.mark.parametrize("length", [1, 9, 11, 1000])
def test_a_ciphertext_of_another_length_than_the_models_is_damaged(length: int) -> None:
    assert refusal(seal_payloads("input", MODEL, ID, [bytes(length)])) is Why.DAMAGED
    assert STATUS[Why.DAMAGED] == 422


@pytest.mark.parametrize(
    "changes",
    [
        {"key": "../../etc/passwd"},
        {"key": ID.upper()},
        {"model": "x"},
        {"sizes": []},
        {"sizes": [-10, 30]},
        {"sizes": [10] * 20_000},
        {"sizes": "two"},
        {"kind": "pickle"},
        {"extra": 1},
        {"sha256": "0"},
    ],
)
def test_a_header_that_does_not_say_what_it_must_is_damaged(changes: dict[str, object]) -> None:
    assert refusal(with_header(**changes)) is Why.DAMAGED


def test_a_header_of_gigabytes_is_not_waited_for() -> None:
    with pytest.raises(Refused):
        split_header(MAGIC + struct.pack(">I", 2**31))


def test_a_header_is_waited_for_until_it_is_whole() -> None:
    whole = write_header(Header(kind="key", backend="concrete", model=MODEL.hash, key=ID, sizes=(5,), sha256="0" * 64))
    assert all(split_header(whole[:end]) is None for end in range(len(whole)))
    found = split_header(whole + b"rest")
    assert found is not None
    assert found[1] == len(whole)


def test_a_key_larger_than_the_models_is_too_large() -> None:
    header = Header(kind="key", backend="concrete", model=MODEL.hash, key=ID, sizes=(1001,), sha256="0" * 64)
    with pytest.raises(Refused) as caught:
        check_fits(header, MODEL, "key")
    assert STATUS[caught.value.why] == 413


def test_a_key_of_another_backend_is_a_mismatch() -> None:
    header = Header(kind="key", backend="ckks", model=MODEL.hash, key=ID, sizes=(10,), sha256="0" * 64)
    with pytest.raises(Refused) as caught:
        check_fits(header, MODEL, "key")
    assert caught.value.why is Why.MISMATCH
