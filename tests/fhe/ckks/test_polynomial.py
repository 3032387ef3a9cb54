"""Polynomials in the place of activations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fhe.ckks.polynomial import Array, Fit, evaluate, fit, square, upwards

VALUES = np.random.default_rng(2).normal(0.5, 2.0, 2000)


def _error(made: Fit, activation: Callable[[Array], Array], degree: int, values: Array) -> float:
    """Root of the mean square, in the spread of the activation."""
    terms = np.array(made.terms)[:, None]
    p = evaluate(degree, terms, ((values - made.centre) / made.radius)[:, None, None])[:, 0, 0]
    wanted = activation(values)
    return float(np.sqrt(np.mean((made.gain * p + made.offset - wanted) ** 2)) / wanted.std())


def _relu(z: Array) -> Array:
    return np.maximum(z, 0)


def test_a_square_is_exact_even_far_beyond_what_was_seen() -> None:
    assert _error(square(VALUES), np.square, 2, VALUES * 1000) < 1e-12


@pytest.mark.parametrize(("degree", "most"), [(2, 0.18), (3, 0.18), (4, 0.1)])
def test_relu_is_met_the_better_the_higher_the_degree(degree: int, most: float) -> None:
    assert _error(fit(_relu, VALUES, degree), _relu, degree, VALUES) < most


@pytest.mark.parametrize(("degree", "most"), [(3, 0.15), (4, 0.15)])
def test_tanh_is_met(degree: int, most: float) -> None:
    assert _error(fit(np.tanh, VALUES / 2, degree), np.tanh, degree, VALUES / 2) < most


@pytest.mark.parametrize("degree", [2, 3, 4])
def test_the_fit_is_as_good_as_least_squares_by_numpy(degree: int) -> None:
    best = np.polynomial.Polynomial.fit(VALUES, _relu(VALUES), degree)
    wanted = float(np.sqrt(np.mean((best(VALUES) - _relu(VALUES)) ** 2)) / _relu(VALUES).std())
    assert _error(fit(_relu, VALUES, degree), _relu, degree, VALUES) < 1.1 * wanted


@pytest.mark.parametrize("degree", [2, 3, 4])
def test_where_relu_is_straight_it_is_met_by_a_slight_curve(degree: int) -> None:
    above, below = np.linspace(3, 5, 100), np.linspace(-5, -3, 100)
    assert _error(fit(_relu, above, degree), _relu, degree, above) < 0.05
    dead = fit(_relu, below, degree)
    terms = np.array(dead.terms)[:, None]
    assert np.abs(dead.gain * evaluate(degree, terms, np.zeros((1, 1, 1))) + dead.offset).max() < 1e-9


@pytest.mark.parametrize("degree", [2, 3, 4])
def test_one_value_alone_makes_a_fit_of_finite_numbers(degree: int) -> None:
    made = fit(_relu, np.full(10, 2.0), degree)
    assert np.isfinite([made.centre, made.radius, *made.terms, made.gain, made.offset]).all()


@pytest.mark.parametrize(("value", "above"), [(1.0, 1.0), (1.01, 1.25), (5.1, 6.0), (0.13, 0.15625), (0.0, 1.0)])
def test_a_radius_tells_three_bits_of_the_data(value: float, above: float) -> None:
    assert upwards(value) == above
