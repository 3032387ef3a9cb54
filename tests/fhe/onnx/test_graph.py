"""What is read from ONNX files, and what is refused by name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from fhe.errors import InputError, UnsupportedModel
from fhe.onnx.chain import make_chain
from fhe.onnx.graph import read_graph
from tests.fhe.onnx.graphs import graph, reference

IMAGE = "net (float[N,2,6,6] x) => (float[N,M] y)"
ROW = "net (float[N,4] x) => (float[N,M] y)"

READABLE = {
    "Gemm": (
        ROW
        + " <float[3,4] w = {1,2,3,4,5,6,7,8,9,-1,-2,-3}, float[3] b = {1,2,3}>"
        + " { y = Gemm <alpha=0.5, beta=2.0, transB=1> (x, w, b) }"
    ),
    "MatMul-Add": ROW + " <float[4,2] w = {1,2,3,4,5,6,7,8}, float[2] b = {1,-1}> { s = MatMul (x, w) \n y = Add (b, s) }",
    "Sub-Mul-Div-Neg": ROW
    + " <float[4] a = {1,2,3,4}, float c = {3}> { s = Sub (a, x) \n t = Mul (s, a) \n u = Div (t, c) \n y = Neg (u) }",
    "two ways and a sum": ROW + " <float[4] a = {1,2,3,4}> { s = Mul (x, a) \n t = Sub (x, a) \n y = Add (s, t) }",
    "Constant": ROW + " { a = Constant <value_float = 2.5> () \n y = Mul (x, a) }",
    "folded": ROW + " <float[4] a = {1,2,3,4}, float c = {3}> { b = Mul (a, c) \n y = Add (x, b) }",
    "Cast-Dropout-Identity": ROW + " { s = Cast <to = 1> (x) \n t = Dropout (s) \n y = Identity (t) }",
    "Reshape -1": IMAGE + " <int64[2] s = {-1,72}> { y = Reshape (x, s) }",
    "Reshape 0": IMAGE + " <int64[2] s = {0,-1}> { y = Reshape (x, s) }",
    "Flatten": IMAGE + " { y = Flatten (x) }",
    "Transpose": IMAGE + " { s = Transpose <perm = [0, 2, 3, 1]> (x) \n y = Flatten (s) }",
    "Unsqueeze-Squeeze": ROW + " <int64[1] a = {1}> { s = Unsqueeze (x, a) \n y = Squeeze (s, a) }",
    "Pad": IMAGE + " <int64[8] p = {0,0,1,2,0,0,0,1}, float v = {1.5}> { s = Pad (x, p, v) \n y = Flatten (s) }",
    "AveragePool": IMAGE + " { s = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (x) \n y = Flatten (s) }",
    "GlobalAveragePool": IMAGE + " { s = GlobalAveragePool (x) \n y = Flatten (s) }",
    "BatchNormalization": IMAGE
    + " <float[2] a = {1,2}, float[2] b = {3,4}, float[2] m = {0.5,0.25}, float[2] v = {1,4}>"
    + " { s = BatchNormalization <epsilon = 0.01> (x, a, b, m, v) \n y = Flatten (s) }",
    "Conv": IMAGE
    + " <float[1,2,2,2] w = {1,2,3,4,5,6,7,8}, float[1] b = {0.5}>"
    + " { s = Conv <strides = [2, 1], pads = [1, 0, 1, 1], dilations = [1, 2]> (x, w, b) \n y = Flatten (s) }",
    "Scaler": ROW + " { y = ai.onnx.ml.Scaler <offset = [1.0, 2.0, 3.0, 4.0], scale = [0.5, 1.0, 2.0, 4.0]> (x) }",
    "LinearRegressor": ROW
    + " { y = ai.onnx.ml.LinearRegressor <coefficients = [1.0, 2.0, 3.0, 4.0], intercepts = [5.0], targets = 1> (x) }",
    "Relu": ROW + " { y = Relu (x) }",
    "Clip": ROW + " <float lo = {-0.5}, float hi = {0.25}> { s = Clip (x, lo, hi) \n y = Neg (s) }",
    "Sigmoid within": ROW + " { s = Sigmoid (x) \n y = Neg (s) }",
    "Tanh": ROW + " { y = Tanh (x) }",
    "square by Mul": ROW + " { y = Mul (x, x) }",
    "square by Pow": ROW + " <float e = {2}> { y = Pow (x, e) }",
}


@pytest.mark.parametrize("text", READABLE.values(), ids=READABLE)
def test_a_network_computes_what_onnxruntime_computes(text: str) -> None:
    data = graph(text)
    chain = make_chain(read_graph(data))
    samples = np.random.default_rng(5).normal(size=(3, *chain.graph.shape))
    np.testing.assert_allclose(chain(samples), reference(data, samples), atol=1e-5)


def test_a_linear_classifier_ends_before_its_sigmoid() -> None:
    data = graph(
        "net (float[N,4] x) => (int64[N] label, float[N,2] y) { label, y = ai.onnx.ml.LinearClassifier "
        "<classlabels_ints = [0, 1], coefficients = [-1.0, -2.0, -3.0, -4.0, 1.0, 2.0, 3.0, 4.0], "
        'intercepts = [-0.5, 0.5], post_transform = "LOGISTIC"> (x) }'
    )
    chain = make_chain(read_graph(data))
    samples = np.random.default_rng(5).normal(size=(3, 4))
    assert chain.link == "sigmoid"
    np.testing.assert_allclose(1 / (1 + np.exp(-chain(samples))), reference(data, samples), atol=1e-5)


def test_a_softmax_at_the_end_is_left_to_the_client() -> None:
    chain = make_chain(read_graph(graph(ROW + " { s = Neg (x) \n y = Softmax <axis = 1> (s) }")))
    assert (chain.link, chain.output_shape, len(chain.segments)) == ("softmax", (4,), 1)


REFUSED = {
    "an unknown operator": (ROW + " { [wave] y = Sin (x) }", "node 'wave' (Sin)", "Relu"),
    "a maximum": (
        IMAGE + " { [top] s = MaxPool <kernel_shape = [2, 2]> (x) \n y = Flatten (s) }",
        "node 'top' (MaxPool)",
        "AveragePool",
    ),
    "a nameless node": (ROW + " { y = Sin (x) }", "makes 'y'", "Sin"),
    "a softmax within": (ROW + " { [soft] s = Softmax (x) \n y = Neg (s) }", "node 'soft' (Softmax)", "last"),
    "a product of two": (
        ROW + " <float[4] a = {1,2,3,4}> { s = Add (x, a) \n [times] y = Mul (x, s) }",
        "node 'times' (Mul)",
        "constant",
    ),
    "a step over an activation": (ROW + " { s = Relu (x) \n [skip] y = Add (x, s) }", "node 'skip' (Add)", "chain"),
    "two activations side by side": (
        ROW + " { s = Relu (x) \n [other] t = Tanh (x) \n y = Add (s, t) }",
        "node 'other' (Tanh)",
        "beside",
    ),
    "a cube": (ROW + " <float e = {3}> { [cube] y = Pow (x, e) }", "node 'cube' (Pow)", "2"),
    "a division by a value": (ROW + " <float[4] a = {1,2,3,4}> { [ratio] y = Div (a, x) }", "node 'ratio' (Div)", "constant"),
    "integers": (ROW + " { [whole] s = Cast <to = 7> (x) \n [back] y = Cast <to = 1> (s) }", "node 'whole' (Cast)", "float"),
    "samples joined": (ROW + " <int64[2] s = {2,-1}> { [join] y = Reshape (x, s) }", "node 'join' (Reshape)", "first axis"),
    "samples turned": (
        "net (float[N,4] x) => (float[M,N] y) { [turn] y = Transpose <perm = [1, 0]> (x) }",
        "'turn' (Transpose)",
        "mix samples",
    ),
    "sizes that do not fit": (
        ROW + " <float[3,2] w = {1,2,3,4,5,6}> { [sum] y = MatMul (x, w) }",
        "'sum' (MatMul)",
        "do not fit",
    ),
    "no input": (ROW + " <float[1,4] a = {1,2,3,4}> { s = Neg (x) \n y = Neg (a) }", "does not depend", "input"),
}


@pytest.mark.parametrize(("text", "names", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_computed_is_refused_by_node_and_operator(text: str, names: str, says: str) -> None:
    with pytest.raises(UnsupportedModel) as refused:
        make_chain(read_graph(graph(text)))
    assert names in str(refused.value)
    assert says in str(refused.value)


def test_a_model_can_be_ended_before_what_is_not_supported() -> None:
    chain = make_chain(read_graph(graph(ROW + " { s = Neg (x) \n y = Sin (s) }"), "s"))
    np.testing.assert_array_equal(chain(np.array([[1.0, 2, 3, 4]])), [[-1, -2, -3, -4]])


def test_nodes_that_nobody_needs_do_not_matter() -> None:
    data = graph("net (float[N,4] x) => (int64[N,1] label, float[N,4] y) { y = Neg (x) \n label = ArgMax (y) }")
    assert len(make_chain(read_graph(data)).segments) == 1


UNUSABLE = {
    "two inputs": "net (float[N,4] x, float[N,4] z) => (float[N,4] y) { y = Add (x, z) }",
    "no axis for samples": "net (float[4] x) => (float[4] y) { y = Neg (x) }",
    "seven samples at once": "net (float[7,4] x) => (float[7,4] y) { y = Neg (x) }",
    "a free axis": "net (float[N,M] x) => (float[N,M] y) { y = Neg (x) }",
    "integers": "net (int64[N,4] x) => (int64[N,4] y) { y = Neg (x) }",
    "two outputs": "net (float[N,4] x) => (float[N,4] y, float[N,4] z) { y = Neg (x) \n z = Neg (y) }",
}


@pytest.mark.parametrize("text", UNUSABLE.values(), ids=UNUSABLE)
def test_a_model_of_another_form_is_an_input_error(text: str) -> None:
    with pytest.raises(InputError):
        read_graph(graph(text))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x08\x08" * 50, bytes(1000)])
def test_what_is_no_onnx_file_is_an_input_error(data: bytes) -> None:
    with pytest.raises(InputError, match="ONNX"):
        read_graph(data)


def test_a_constant_in_another_file_is_not_looked_for() -> None:
    model = onnx.load_model_from_string(graph(ROW + " <float[4] a = {1,2,3,4}> { y = Add (x, a) }"))
    tensor = model.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(InputError):
        read_graph(model.SerializeToString())


def test_weights_that_are_no_numbers_are_an_input_error() -> None:
    model = onnx.load_model_from_string(graph(ROW + " <float[4] a = {1,2,3,4}> { y = Add (x, a) }"))
    model.graph.initializer[0].float_data[0] = float("nan")
    with pytest.raises(InputError, match="'a'"):
        read_graph(model.SerializeToString())
