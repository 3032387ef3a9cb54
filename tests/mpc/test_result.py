"""A result has one encoding, and a commitment to it tells nothing to who has no key."""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpc.errors import MessageRefused
from mpc.result import Result, StatisticResult, commitment, make_result
from mpc.wire import decode, encode
from tests.mpc.nodes import study
from tests.mpc.properties import quick
from tests.mpc.world import array

ASKED = study("alice", "bob", "charlie")
CONTEXT = bytes(range(32))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=9))
@quick
def test_values_are_carried_exactly(values: list[int]) -> None:
    result = make_result(ASKED, CONTEXT, 3, (array(values),))

    assert decode(encode(result), Result) == result
    assert result.statistics[0].values == b"".join(value.to_bytes(8, "little", signed=True) for value in values)
    assert result.statistics[0].array().tolist() == values
    assert result.statistics[0].array().dtype == np.int64


def test_a_scalar_is_a_number_and_a_vector_a_list() -> None:
    assert make_result(ASKED, CONTEXT, 3, (array([1575]),)).plain() == {"value": {"sum": 1575}}
    assert make_result(ASKED, CONTEXT, 3, (array([1, -2]),)).plain() == {"value": {"sum": [1, -2]}}


def test_statistics_of_one_variable_stand_together() -> None:
    one = bytes([1]) + bytes(7)
    result = Result(CONTEXT, 3, (StatisticResult("sum", "a", one, ""), StatisticResult("count", "a", one, "")))
    assert result.plain() == {"a": {"sum": 1, "count": 1}}


def test_the_commitment_is_hmac_sha256() -> None:
    # RFC 4231 section 4.2, test case 1.
    assert commitment(b"\x0b" * 20, b"Hi There").hex() == ("b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7")


def test_a_small_result_cannot_be_guessed_from_its_commitment() -> None:
    """Every possible sum is tried, with what a guesser could try: no key, a public one, a plain digest."""
    key = hashlib.sha256(b"random, and the hospital's alone").digest()
    raw = encode(make_result(ASKED, CONTEXT, 3, (array([7]),)))
    committed = commitment(key, raw)

    for guess in range(100):
        other = encode(make_result(ASKED, CONTEXT, 3, (array([guess]),)))
        tried = [commitment(public, other) for public in (b"", bytes(32), CONTEXT)] + [hashlib.sha256(other).digest()]
        assert committed not in tried
        assert (commitment(key, other) == committed) == (guess == 7), "with the key it binds to the one result"
    assert committed == hmac.new(key, raw, hashlib.sha256).digest()


def test_results_do_not_print() -> None:
    assert repr(make_result(ASKED, CONTEXT, 3, (array([123456789]),))) == "<Result>"


def test_another_encoding_is_no_result() -> None:
    with pytest.raises(MessageRefused, match="encoding"):
        decode(encode(make_result(ASKED, CONTEXT, 3, (array([1]),))) + b"\0", Result)
