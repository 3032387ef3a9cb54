"""Networks become plans: what they compute, how they are laid out, and which are too large."""

from __future__ import annotations

import numpy as np
import pytest

from fhe.ckks.compile import MIN_SAMPLES, Compiled, compile_chain
from fhe.errors import InputError, UnsupportedModel
from fhe.onnx.chain import Chain, make_chain
from fhe.onnx.graph import read_graph
from tests.fhe.onnx.graphs import graph, reference

DICE = np.random.default_rng(4)


def _compiled(text: str, degree: int = 2, *, centre: float = 0.5, radius: float = 2.0) -> tuple[Compiled, Chain, bytes]:
    data = graph(text)
    chain = make_chain(read_graph(data))
    values = DICE.uniform(-1, 1, (200, *chain.graph.shape))
    return compile_chain(chain, values, np.full(1, centre), np.full(1, radius), degree), chain, data


def _same(compiled: Compiled, chain: Chain, data: bytes) -> None:
    values = DICE.uniform(-1, 1, (7, *chain.graph.shape))
    wanted = reference(data, values * 2.0 + 0.5)
    np.testing.assert_allclose(compiled.simulate(values.reshape(7, -1)), wanted, atol=1e-4 * np.abs(wanted).max())


def _numbers(count: int) -> str:
    return ",".join(f"{value:.4f}" for value in np.random.default_rng(count).normal(size=count))


IMAGE = "net (float[N,2,6,6] x) => (float[N,M] y)"


@pytest.mark.parametrize(
    ("attributes", "windows"),
    [
        ("", 20),
        (", strides = [2, 1]", 10),
        (", pads = [1, 1, 1, 1]", 42),
        (", pads = [0, 1, 2, 0], strides = [3, 3]", 4),
        (", dilations = [2, 3]", 6),
    ],
)
def test_a_convolution_is_laid_out_by_kernel_element_and_window(attributes: str, windows: int) -> None:
    compiled, chain, data = _compiled(
        f"{IMAGE} <float[3,2,3,2] w = {{{_numbers(36)}}}, float[3] b = {{1,-2,3}}>"
        f"{{ s = Conv <kernel_shape = [3, 2]{attributes}> (x, w, b) \n t = Mul (s, s) \n y = Flatten (t) }}"
    )
    _same(compiled, chain, data)
    block = 1 << (windows - 1).bit_length()
    assert len(compiled.layout.gather) == 16 * block  # 2 x 3 x 2 elements, filled up
    # One row for each channel, filled up, and not one for each of 3 x windows numbers.
    assert next(compiled.plan.affine).matrix.shape == (4, 16)


def test_a_scaled_convolution_is_still_one_and_a_pooled_one_is_a_plain_matrix() -> None:
    scaled = _compiled(
        f"{IMAGE} <float[3,2,3,3] w = {{{_numbers(54)}}}, float[3,1,1] s = {{2,3,4}}>"
        "{ a = Conv <kernel_shape = [3, 3]> (x, w) \n b = Mul (a, s) \n c = Mul (b, b) \n y = Flatten (c) }"
    )
    _same(*scaled)
    assert len(scaled[0].layout.gather) == 32 * 16
    pooled = _compiled(
        f"{IMAGE} <float[3,2,3,3] w = {{{_numbers(54)}}}>"
        "{ a = Conv <kernel_shape = [3, 3]> (x, w) \n b = AveragePool <kernel_shape = [2, 2]> (a)"
        " \n c = Mul (b, b) \n y = Flatten (c) }"
    )
    _same(*pooled)
    assert len(pooled[0].layout.gather) == 128  # 2 x 6 x 6, filled up


def test_a_map_to_more_numbers_than_it_takes_and_back() -> None:
    _same(
        *_compiled(
            "net (float[N,3] x) => (float[N,M] y)"
            f" <float[3,21] w = {{{_numbers(63)}}}, float[21,2] v = {{{_numbers(42)}}}, float[2] b = {{5,6}}>"
            "{ s = MatMul (x, w) \n t = Mul (s, s) \n y = Gemm (t, v, b) }"
        )
    )


@pytest.mark.parametrize("operator", ["Relu", "Sigmoid", "Tanh"])
@pytest.mark.parametrize("degree", [2, 3, 4])
def test_activations_are_met_about_and_take_a_level_or_two(operator: str, degree: int) -> None:
    compiled, chain, data = _compiled(
        f"net (float[N,4] x) => (float[N,M] y) <float[4,6] w = {{{_numbers(24)}}}, float[6,2] v = {{{_numbers(12)}}}>"
        f"{{ s = MatMul (x, w) \n t = {operator} (s) \n y = MatMul (t, v) }}",
        degree,
        centre=0.1,
        radius=0.4,
    )
    values = DICE.uniform(-1, 1, (300, 4))
    wanted = reference(data, values * 0.4 + 0.1)
    assert np.abs(compiled.simulate(values) - wanted).mean() < 0.15 * wanted.std()
    assert compiled.plan.levels == (3 if degree == 2 and operator == "Relu" else 4)
    assert chain.link == "identity"


def test_numbers_between_the_maps_are_of_about_one() -> None:
    """So that none of the levels is spent on their size, and their precision is the scale's."""
    compiled, _, _ = _compiled(
        "net (float[N,4] x) => (float[N,M] y)"
        f" <float[4,6] w = {{{_numbers(24)}}}, float k = {{1000}}, float[6,2] v = {{{_numbers(12)}}}>"
        "{ r = Mul (x, k) \n s = MatMul (r, w) \n t = Mul (s, s) \n y = MatMul (t, v) }"
    )
    slots = compiled.layout.spread(DICE.uniform(-1, 1, (100, 4)))
    for count in range(1, 4):
        most = np.abs(type(compiled.plan)(compiled.plan.steps[:count]).simulate(slots)).max()
        assert 0.05 < most < 2


def test_too_few_samples_are_an_input_error() -> None:
    chain = make_chain(read_graph(graph("net (float[N,4] x) => (float[N,4] y) { y = Relu (x) }")))
    with pytest.raises(InputError, match=str(MIN_SAMPLES)):
        compile_chain(chain, np.zeros((MIN_SAMPLES - 1, 4)), np.zeros(1), np.ones(1), 2)


@pytest.mark.parametrize("degree", [0, 1, 5])
def test_a_degree_that_is_not_supported_is_an_input_error(degree: int) -> None:
    with pytest.raises(InputError, match="degree"):
        _compiled("net (float[N,4] x) => (float[N,4] y) { y = Relu (x) }", degree)


def test_a_network_that_is_too_deep_is_refused() -> None:
    deep = " \n ".join(f"s{place + 1} = Tanh (s{place})" for place in range(12))
    with pytest.raises(UnsupportedModel, match="too deep"):
        _compiled(f"net (float[N,4] s0) => (float[N,4] y) {{ {deep} \n y = Neg (s12) }}")


def test_a_network_with_too_many_weights_is_refused_by_the_name_of_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fhe.ckks.compile.MAX_WEIGHTS", 6 * 8 * 8192 * 6)
    with pytest.raises(UnsupportedModel, match=r"'wide'.*too many weights"):
        _compiled(
            "net (float[N,4] x) => (float[N,M] y)"
            f" <float[4,3] w = {{{_numbers(12)}}}, float[3,16] v = {{{_numbers(48)}}}, float[16,12] u = {{{_numbers(192)}}}>"
            "{ r = MatMul (x, w) \n s = Mul (r, r) \n [wide] t = MatMul (s, v) \n p = Mul (t, t) \n y = MatMul (p, u) }"
        )


def test_weights_of_zero_alone_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="zero"):
        _compiled("net (float[N,2] x) => (float[N,M] y) <float[2,1] w = {0,0}> { [dead] y = MatMul (x, w) }")
