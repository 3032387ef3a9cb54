"""Networks as chains of affine maps and activations."""

from __future__ import annotations

import numpy as np

from fhe.onnx.chain import make_chain
from fhe.onnx.graph import read_graph
from tests.fhe.onnx.graphs import graph


def test_all_between_two_activations_is_one_map_and_its_matrix_is_known() -> None:
    data = graph(
        "net (float[N,2] x) => (float[N,1] y)"
        " <float[2,2] w = {1,2,3,4}, float[2] b = {5,6}, float[2] s = {10,100}, float[2,1] v = {7,8}>"
        " { p = MatMul (x, w) \n q = Add (p, b) \n r = Mul (q, s) \n t = Relu (r) \n y = MatMul (t, v) }"
    )
    chain = make_chain(read_graph(data))
    first, second = chain.segments
    matrix, bias = first.matrix()
    np.testing.assert_allclose(matrix, [[10, 30], [200, 400]])
    np.testing.assert_allclose(bias, [50, 600])
    np.testing.assert_allclose(second.matrix()[0], [[7, 8]])
    assert first.activation is not None
    assert second.activation is None


def test_a_network_that_ends_in_an_activation_has_a_map_behind_it_that_changes_nothing() -> None:
    chain = make_chain(read_graph(graph("net (float[N,3] x) => (float[N,3] y) { y = Relu (x) }")))
    matrix, bias = chain.segments[1].matrix()
    np.testing.assert_array_equal(matrix, np.eye(3))
    np.testing.assert_array_equal(bias, np.zeros(3))


def test_two_activations_in_a_row_are_both_applied() -> None:
    chain = make_chain(
        read_graph(graph("net (float[N,2] x) => (float[N,2] y) { s = Relu (x) \n t = Mul (s, s) \n y = Neg (t) }"))
    )
    np.testing.assert_allclose(chain(np.array([[-3.0, 3.0]])), [[0, -9]])
