"""Texts in ONNX files, against the `onnx` package's own reader and writer."""

from __future__ import annotations

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhe.onnx.metadata import find_text, put_text
from tests.fhe.onnx.graphs import graph

MODEL = graph("net (float[N,4] x) => (float[N,4] y) { y = Neg (x) }")


@pytest.mark.parametrize("value", ["", "text", "é" * 1000, "x" * 100_000])
def test_onnx_reads_what_is_written_and_the_model_stays_valid(value: str) -> None:
    model = onnx.load_model_from_string(put_text(MODEL, "key", value))
    onnx.checker.check_model(model)
    assert [(entry.key, entry.value) for entry in model.metadata_props] == [("key", value)]


def test_what_onnx_writes_is_read_and_the_last_of_two_counts() -> None:
    model = onnx.load_model_from_string(MODEL)
    onnx.helper.set_model_props(model, {"other": "no", "key": "first"})
    data = model.SerializeToString()
    assert find_text(data, "key") == "first"
    assert find_text(put_text(data, "key", "second"), "key") == "second"


def test_a_model_without_it_and_what_is_no_model_have_none() -> None:
    assert find_text(MODEL, "key") is None
    assert find_text(put_text(MODEL, "key", "x" * 50)[:-1], "key") is None


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_an_error(data: bytes) -> None:
    assert find_text(data, "key") is None or b"key" in data
