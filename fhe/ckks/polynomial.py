"""A polynomial in the place of an activation, fitted to where its values lie, in a form that costs few multiplications.

A value z is first brought to u = (z - centre) / radius, about -1 to 1 on the calibration's values; that is folded into the
affine map before, as `gain` and `offset` are into the one after. What is computed under encryption is p(u), and p is

    degree 2    (u + h)^2                            one level: h is folded into the map before
    degree 3    (c3 u + c2) u^2 + c1 u               two levels
    degree 4    (u^2 + a u + b)^2 + c u              two levels: the square completed twice

and the activation is about gain * p(u) + offset. Each row has a polynomial of its own (each channel of a convolution, each
number of a dense map); that costs nothing more and fits far better than one for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import Polynomial
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEVELS = {2: 1, 3: 2, 4: 2}
"""Degrees, and the levels that each takes."""
TERMS = {2: 1, 3: 3, 4: 3}
"""How many coefficients each has: h; c3, c2, c1; a, b, c."""

_MARGIN = 1.05
"""Times the range seen in calibration: what the polynomial is fitted for."""
_EVEN = 0.02
"""The weight of the whole range, evenly; the rest is the weight of the values seen. A fit to these alone runs away beyond
them."""
_POINTS = 200
_STEEP = 16.0
"""The most that the square's linear term may outweigh it. A function that is all but straight gets a slight curve."""


@dataclass(frozen=True, slots=True)
class Fit:
    """One row's polynomial: activation(z) is about gain * p((z - centre) / radius) + offset."""

    centre: float
    radius: float
    terms: tuple[float, ...]
    gain: float
    offset: float


def square(values: Array) -> Fit:
    """z^2 itself: exact, at any z."""
    radius = upwards(float(np.abs(values).max()))
    return Fit(0.0, radius, (0.0,), radius * radius, 0.0)


def fit(activation: Callable[[Array], Array], values: Array, degree: int) -> Fit:
    """Weighted least squares for `activation` on `values`, those of the calibration, and evenly on a little more than their
    range."""
    low, high = float(values.min()), float(values.max())
    centre, radius = (low + high) / 2, upwards(_MARGIN * (high - low) / 2)
    even = np.linspace(-1, 1, _POINTS)
    u = np.concatenate([(values - centre) / radius, even])
    weights = np.concatenate([np.full(len(values), (1 - _EVEN) / len(values)), np.full(_POINTS, _EVEN / _POINTS)])
    c = Polynomial.fit(u, activation(centre + radius * u), degree, domain=[-1, 1], window=[-1, 1], w=np.sqrt(weights)).coef
    match degree:
        case 2:
            lead = _at_least(c[2], abs(c[1]) / (2 * _STEEP))
            h = c[1] / (2 * lead) if lead else 0.0
            return Fit(centre, radius, (h,), lead, c[0] - lead * h * h)
        case 3:
            return Fit(centre, radius, (c[3], c[2], c[1]), 1.0, c[0])
        case _:
            lead = _at_least(c[4], max(abs(c[1:4])) / _STEEP)
            if not lead:
                return Fit(centre, radius, (0.0, 0.0, 0.0), 0.0, c[0])
            a = c[3] / (2 * lead)
            b = (c[2] / lead - a * a) / 2
            return Fit(centre, radius, (a, b, c[1] / lead - 2 * a * b), lead, c[0] - lead * b * b)


def evaluate(degree: int, terms: Array, u: Array) -> Array:
    """p(u) in clear; `terms` is (TERMS[degree], rows), `u` is (samples, rows, values)."""
    t = terms[:, None, :, None]
    p: Array
    match degree:
        case 2:
            p = (u + t[0]) ** 2
        case 3:
            p = (t[0] * u + t[1]) * u * u + t[2] * u
        case _:
            p = (u * u + t[0] * u + t[1]) ** 2 + t[2] * u
    return p


def _at_least(value: float, least: float) -> float:
    return value if abs(value) >= least else float(np.copysign(least, value))


def upwards(value: float) -> float:
    """A little more than `value`: at most three bits long, so that a plan tells less of the data that it was calibrated on."""
    if value <= 0:
        return 1.0
    unit = float(2.0 ** (np.floor(np.log2(value)) - 2))
    return float(np.ceil(value / unit)) * unit
