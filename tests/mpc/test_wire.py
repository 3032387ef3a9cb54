"""One value, one encoding: everything else is refused."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpc.envelope import Header
from mpc.errors import Answer, MessageRefused
from mpc.keys import KeyStatement
from mpc.messages import (
    RULES,
    Abort,
    AbortCode,
    Collect,
    Consent,
    Declined,
    Invitation,
    Kind,
    Member,
    PartialSum,
    Ready,
    Receipt,
    Roster,
    SegmentShape,
    Share,
)
from mpc.result import Result, StatisticResult
from mpc.statement import Signed
from mpc.study import Release, Statistic, Study, Variable
from mpc.wire import Struct, decode, encode
from tests.mpc.properties import quick

digests = st.binary(min_size=32, max_size=32)
times = st.integers(0, 2**53)
numbers = st.integers(-(2**63), 2**63 - 1)
words = st.text(max_size=9)
signed = st.builds(Signed, st.binary(max_size=40), st.binary(max_size=70))
chains = st.lists(st.binary(max_size=9), min_size=1, max_size=3).map(tuple)


def tuples(of: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(of, max_size=3).map(tuple)


values: dict[type[Struct], st.SearchStrategy[Any]] = {
    Header: st.builds(
        Header,
        st.sampled_from(Kind),
        st.binary(min_size=16, max_size=16),
        digests,
        st.text(max_size=9),
        st.text(max_size=9),
        st.binary(max_size=32),
        digests,
        digests,
    ),
    KeyStatement: st.builds(KeyStatement, st.text(max_size=9), digests, st.binary(max_size=9), st.integers(-9, 2**40), times),
    Signed: signed,
    Invitation: st.builds(
        Invitation,
        st.integers(0, 3),
        st.integers(0, 300),
        st.binary(min_size=16, max_size=16),
        digests,
        st.text(max_size=9),
        st.binary(max_size=300),
        st.text(max_size=9),
        tuples(st.builds(SegmentShape, st.integers(2, 2**63), st.integers(1, 2**40))),
        st.integers(0, 1000),
        times,
        times,
        times,
        signed,
        digests,
    ),
    Consent: st.builds(
        Consent, digests, st.text(max_size=9), digests, st.text(max_size=9), st.integers(1, 255), signed, digests, times
    ),
    Declined: st.builds(Declined, digests),
    Roster: st.builds(Roster, digests, chains, tuples(st.builds(Member, chains, signed))),
    Share: st.builds(Share, digests),
    Ready: st.builds(Ready, digests),
    Collect: st.builds(Collect, tuples(signed)),
    PartialSum: st.builds(PartialSum, tuples(st.binary(max_size=70)), tuples(digests), tuples(digests)),
    Receipt: st.builds(Receipt, digests, digests, st.binary(max_size=9), st.binary(max_size=32)),
    Abort: st.builds(
        Abort, st.binary(max_size=32), st.sampled_from(AbortCode), st.text(max_size=32), tuples(st.text(max_size=9))
    ),
    Study: st.builds(
        Study,
        st.text(max_size=9),
        st.text(max_size=40),
        st.text(max_size=9),
        tuples(
            st.builds(
                Variable,
                words,
                words,
                st.integers(-(2**63), 0),
                times,
                times,
                words,
                times,
                tuples(words),
                words,
                words,
            )
        ),
        tuples(
            st.builds(
                Statistic,
                words,
                words,
                words,
                tuples(words),
                words,
                times,
                tuples(numbers),
                tuples(times),
                times,
                tuples(numbers),
            )
        ),
        tuples(st.text(max_size=9)),
        st.integers(0, 9),
        st.none() | st.integers(0, 2**63),
        st.booleans(),
        st.text(max_size=9),
        times,
        times,
        times,
        times,
        st.text(max_size=9),
        st.builds(Release, times, times),
    ),
    Result: st.builds(Result, digests, st.integers(0, 9), tuples(st.builds(StatisticResult, words, words, digests, words))),
}


def refusal(raw: bytes, kind: type[Struct]) -> MessageRefused:
    with pytest.raises(MessageRefused) as caught:
        decode(raw, kind)
    return caught.value


def test_every_payload_is_covered_here() -> None:
    assert {rule.payload for rule in RULES.values()} <= set(values)


@pytest.mark.parametrize("kind", values, ids=lambda kind: kind.__name__)
@given(data=st.data())
@quick
def test_what_is_encoded_decodes_to_itself(kind: type[Struct], data: st.DataObject) -> None:
    value = data.draw(values[kind])

    raw = encode(value)

    assert decode(raw, kind) == value
    assert decode(memoryview(raw), kind) == value


@pytest.mark.parametrize("kind", values, ids=lambda kind: kind.__name__)
@given(data=st.data())
@quick
def test_altered_bytes_are_refused_or_are_the_one_encoding_of_something_else(kind: type[Struct], data: st.DataObject) -> None:
    raw = bytearray(encode(data.draw(values[kind])))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw)))
        match data.draw(st.sampled_from(("set", "insert", "cut"))):
            case "set" if at < len(raw):
                raw[at] = data.draw(st.integers(0, 255))
            case "insert":
                raw[at:at] = data.draw(st.binary(min_size=1, max_size=3))
            case _:
                del raw[at:]

    try:
        value = decode(bytes(raw), kind)
    except MessageRefused:
        return
    assert encode(value) == bytes(raw)


@given(st.binary(max_size=60))
@quick
def test_any_bytes_are_refused_or_canonical(raw: bytes) -> None:
    try:
        value = decode(raw, Abort)
    except MessageRefused:
        return
    assert encode(value) == raw


SHAPE = encode(SegmentShape(300, 5))
READY = encode(Ready(bytes(32)))


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        pytest.param(SHAPE + b"\0", SegmentShape, id="trailing byte"),
        pytest.param(SHAPE + SHAPE, SegmentShape, id="twice"),
        pytest.param(SHAPE[:-1], SegmentShape, id="truncated"),
        pytest.param(b"", SegmentShape, id="nothing"),
        pytest.param(b"\x93" + SHAPE[1:] + b"\5", SegmentShape, id="an element too many"),
        pytest.param(b"\x91" + SHAPE[1:4], SegmentShape, id="an element too few"),
        pytest.param(b"\x92\xcd\x01\x2c\xcc\x05", SegmentShape, id="an integer of two bytes where one does"),
        pytest.param(b"\x92\xce\x00\x00\x01\x2c\x05", SegmentShape, id="an integer of five bytes where three do"),
        pytest.param(b"\x92\xd1\x01\x2c\x05", SegmentShape, id="a signed integer where an unsigned one is shorter"),
        pytest.param(b"\xdc\x00\x02" + SHAPE[1:], SegmentShape, id="a long array header for a short array"),
        pytest.param(b"\x92\xca\x43\x96\x00\x00\x05", SegmentShape, id="a float"),
        pytest.param(b"\x92\xa3300\x05", SegmentShape, id="digits as text"),
        pytest.param(b"\x92\xc3\x05", SegmentShape, id="true for a number"),
        pytest.param(b"\x92\xc0\x05", SegmentShape, id="nil"),
        pytest.param(b"\x82\xa7modulus\xcd\x01\x2c\xa6length\x05", SegmentShape, id="a map"),
        pytest.param(b"\x92\x01\x05", SegmentShape, id="below the least modulus"),
        pytest.param(b"\x92\xcd\x01\x2c\x00", SegmentShape, id="length nought"),
        pytest.param(b"\x91\xc5\x00\x20" + bytes(32), Ready, id="a long header for short bytes"),
        pytest.param(b"\x91\xd9\x20" + b"a" * 32, Ready, id="text for bytes"),
        pytest.param(b"\x91\xc4\x1f" + bytes(31), Ready, id="31 bytes for a digest"),
        pytest.param(b"\x91\xc4\x21" + bytes(33), Ready, id="33 bytes for a digest"),
        pytest.param(b"\x91\xc4\xff" + bytes(32), Ready, id="a length beyond the end"),
        pytest.param(b"\x94\xc4\x00\xa7unheard\xa0\x90", Abort, id="an unknown code"),
        pytest.param(b"\x94\xc4\x00\xa9cancelled\xa1\xff\x90", Abort, id="text that is no UTF-8"),
        pytest.param(b"\x91" * 5000 + b"\x01", Collect, id="nested without end"),
    ],
)
def test_other_spellings_are_refused(raw: bytes, kind: type[Struct]) -> None:
    refused = refusal(raw, kind)

    assert (refused.answer, refused.reason) == (Answer.REJECTED, "encoding")


def test_the_good_spelling_of_the_cases_above_is_taken() -> None:
    assert SHAPE == b"\x92\xcd\x01\x2c\x05"
    assert decode(SHAPE, SegmentShape) == SegmentShape(300, 5)
    assert decode(b"\x91\xc4\x20" + bytes(32), Ready) == Ready(bytes(32))
    assert b"\x91\xc4\x20" + bytes(32) == READY
    assert decode(b"\x94\xc4\x00\xa9cancelled\xa0\x90", Abort).code is AbortCode.CANCELLED


@pytest.mark.parametrize("missing", [("n" * 64,), ("bob",) * 1001], ids=["a long name", "many names"])
def test_an_abort_names_no_more_than_a_round_can_lack(missing: tuple[str, ...]) -> None:
    """What it names goes into the log, the ledger and the summary of whoever receives it."""
    with pytest.raises(MessageRefused):
        decode(encode(Abort(b"", AbortCode.MISSING, "sharing", missing)), Abort)
    most = Abort(b"", AbortCode.MISSING, "sharing", ("n" * 63,) * 1000)
    assert decode(encode(most), Abort) == most


def test_a_refusal_does_not_quote_the_message() -> None:
    secret = os.urandom(31)
    refused = refusal(b"\x91\xc4\x1f" + secret, Share)

    assert str(refused) == "encoding"


def every_struct(kind: type[Struct]) -> list[type[Struct]]:
    return [kind, *(below for sub in kind.__subclasses__() for below in every_struct(sub))]


def test_no_struct_prints_its_fields() -> None:
    assert repr(Share(b"s" * 32)) == str(Share(b"s" * 32)) == "<Share>"
    assert f"{Collect((Signed(b'body', b'mark'),))}" == "<Collect>"
    for kind in every_struct(Struct):
        assert kind.__repr__ is Struct.__repr__, kind


def test_every_struct_is_frozen_and_strict() -> None:
    for kind in every_struct(Struct):
        assert kind.__struct_config__.frozen, kind
        assert kind.__struct_config__.array_like, kind
        assert kind.__struct_config__.forbid_unknown_fields, kind
        assert not kind.__struct_defaults__, f"{kind}: a default would be a second encoding"
