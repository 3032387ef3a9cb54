"""A network and calibration data become a plan and a layout.

Walks the chain with the calibration's values as they will be under encryption, polynomials in place. What scales a number (its
range, a polynomial's gain) is folded into the map before or after it, so that every ciphertext holds numbers of about -1 to 1
and none of the levels is spent on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhe.ckks.plan import Affine, Layout, Parameters, Plan, Power, choose
from fhe.ckks.polynomial import LEVELS, TERMS, Fit, evaluate, fit, square, upwards
from fhe.errors import InputError, UnsupportedModel
from fhe.onnx.chain import Activation, Chain

Array = NDArray[np.float64]
Places = NDArray[np.int64]

MIN_SAMPLES = 20
"""Of the calibration: fewer say too little of where values lie."""
MAX_WEIGHTS = 1024 * 1024 * 1024
"""Bytes that the weights may take, encoded, in the service's memory: a plaintext for each diagonal that is not of zeros alone."""
_ODD = {"Sigmoid", "Tanh"}
"""The best parabola for these is a straight line: they take degree 3 at least."""
_NO_STEP = 1e-12
_LIFT, _LIFT_PLAIN = 2, 4
"""See `Parameters.lift`: of networks with fitted polynomials, and of those with none but squares. Measured to give the least
error."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """What became of a network."""

    plan: Plan
    layout: Layout

    def simulate(self, values: Array) -> Array:
        """(samples, size) -> (samples, results), in clear, as the service computes it but for the noise."""
        return self.layout.collect(self.plan.simulate(self.layout.spread(values)))


@dataclass(frozen=True, slots=True)
class _Vector:
    """Numbers between two maps: what is in the slots times `gain`, plus `offset`, is the number; `places` says in which slot it
    lies."""

    values: Array
    gain: Array
    offset: Array
    places: Places
    period: int


def compile_chain(chain: Chain, values: Array, centre: Array, radius: Array, degree: int) -> Compiled:
    """The plan for `chain`, calibrated on `values`, (samples, *shape) within -1 to 1: what is encrypted.

    The chain's own input is values * radius + centre, of one number each or of all. `degree` (2 to 4) is that of the
    polynomials in place of activations; a square is always exact. Raises InputError for too little data, UnsupportedModel for a
    network that is too deep or too large.
    """
    flat = values.reshape(len(values), -1)
    if len(flat) < MIN_SAMPLES:
        raise InputError(f"calibration takes at least {MIN_SAMPLES} samples, and {len(flat)} are given")
    windows = _windows(chain)
    compiled = _compile(chain, flat, centre, radius, degree, windows) if windows is not None else None
    compiled = compiled or _compile(chain, flat, centre, radius, degree, None)
    if compiled is None:
        raise UnsupportedModel("the network is too deep or too wide for 128-bit security; use fewer layers, or a lower degree")
    return compiled


def _compile(chain: Chain, flat: Array, centre: Array, radius: Array, degree: int, windows: Places | None) -> Compiled | None:
    """None when it does not fit: no parameters are large enough, or the first map is no plain convolution."""
    size = flat.shape[1]
    # What a slot without a number holds, 0, is multiplied by weights all the same, and adds nothing: the centre is in the bias.
    vector = _Vector(flat, np.broadcast_to(radius, size), np.broadcast_to(centre, size), np.arange(size), power(size))
    gather = np.concatenate([vector.places, np.full(vector.period - size, -1)])
    steps: list[Affine | Power] = []
    reach = 1.0
    for segment in chain.segments:
        matrix, bias = segment.matrix()
        matrix, bias = matrix * vector.gain, bias + matrix @ vector.offset
        values = vector.values @ matrix.T + bias
        rows, kernel = len(matrix), None
        if windows is not None and not steps:
            if (kernel := _kernel(matrix, windows)) is None:
                return None
            rows = len(kernel)
            gather = _padded(windows, -1).reshape(-1)
        fits = _fits(segment.activation, values.reshape(len(values), rows, -1), degree)
        each = len(matrix) // rows
        scale = np.array([entry.radius for entry in fits])
        shift = np.array([entry.centre for entry in fits])
        bias = (bias.reshape(rows, each) - shift[:, None]) / scale[:, None]
        wide = kernel if kernel is not None else _scatter(matrix, vector)
        affine = Affine(_padded(wide / scale[:, None], 0.0), _padded(bias, 0.0))
        steps.append(affine)
        block = affine.block
        if segment.activation is None:
            reach = fits[0].radius
        else:
            own = _degree(segment.activation, degree)
            terms = np.zeros((TERMS[own], power(rows)))
            terms[:, :rows] = np.array([entry.terms for entry in fits]).T
            steps.append(Power(own, terms, block))
            u = (values.reshape(len(values), rows, each) - shift[:, None]) / scale[:, None]
            values = evaluate(own, terms[:, :rows], u).reshape(len(values), -1)
        gain, offset = (np.repeat([getattr(entry, name) for entry in fits], each) for name in ("gain", "offset"))
        places = (np.arange(rows)[:, None] * block + np.arange(each)).reshape(-1)
        vector = _Vector(values, gain, offset, places, power(rows) * block)
    plan = Plan(tuple(steps))
    shifted = any(isinstance(step, Power) and step.terms.any() for step in steps)
    parameters = choose(plan.levels, max(plan.period, len(gather)), _LIFT if shifted else _LIFT_PLAIN)
    if parameters is None:
        return None
    _check_size(chain, plan, parameters)
    layout = Layout(
        parameters=parameters,
        size=size,
        gather=tuple(gather.tolist()),
        results=tuple(vector.places.tolist()),
        reach=reach,
        step=_NO_STEP,
        turns=tuple(turn for turn in plan.turns if turn < parameters.slots),
    )
    layout.check()
    return Compiled(plan, layout)


def _fits(activation: Activation | None, values: Array, degree: int) -> list[Fit]:
    """For each row of (samples, rows, values) how it is scaled and what replaces its activation."""
    rows = range(values.shape[1])
    if activation is None:
        reach = upwards(float(np.abs(values).max()))
        return [Fit(0.0, reach, (), 1.0, 0.0) for _ in rows]
    if activation.node.operator == "Square":
        return [square(values[:, row].reshape(-1)) for row in rows]
    return [fit(activation, values[:, row].reshape(-1), _degree(activation, degree)) for row in rows]


def _degree(activation: Activation, degree: int) -> int:
    if activation.node.operator == "Square":
        return 2
    if degree not in LEVELS:
        raise InputError(f"polynomials of degree {', '.join(map(str, LEVELS))} are supported, and not {degree}")
    return max(degree, 3) if activation.node.operator in _ODD else degree


def _scatter(matrix: Array, vector: _Vector) -> Array:
    """The matrix's columns moved to the slots in which its inputs lie."""
    wide = np.zeros((len(matrix), vector.period))
    wide[:, vector.places] = matrix
    return wide


def _windows(chain: Chain) -> Places | None:
    """(elements, windows): which number of the input lies under each element of a convolution's kernel, -1 for its padding.

    None when the map does not begin with a plain convolution in two dimensions.
    """
    nodes, shape = chain.segments[0].nodes, chain.graph.shape
    if not nodes or nodes[0].operator != "Conv" or len(shape) != 3:
        return None
    first, kernel = nodes[0], chain.graph.constants[nodes[0].inputs[1]].shape[2:]
    attributes: dict[str, Any] = {entry.name: list(entry.ints) or entry.i or entry.s for entry in first.proto.attribute}
    if attributes.get("group", 1) != 1 or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    strides, dilations, pads = (
        attributes.get("strides", [1, 1]),
        attributes.get("dilations", [1, 1]),
        attributes.get("pads", [0] * 4),
    )
    channels, *image = shape
    numbers = np.pad(
        np.arange(channels * image[0] * image[1]).reshape(channels, *image),
        ((0, 0), (pads[0], pads[2]), (pads[1], pads[3])),
        constant_values=-1,
    )
    spans = [dilation * (length - 1) + 1 for dilation, length in zip(dilations, kernel, strict=True)]
    found = np.lib.stride_tricks.sliding_window_view(numbers, spans, axis=(1, 2))
    found = found[:, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    return np.asarray(found.transpose(0, 3, 4, 1, 2).reshape(channels * kernel[0] * kernel[1], -1), dtype=np.int64)


def _kernel(matrix: Array, windows: Places) -> Array | None:
    """(channels, elements) of the convolution that `matrix` is; None when it is not one, as after pooling or a turn of the
    axes."""
    elements, count = windows.shape
    if len(matrix) % count:
        return None
    by_window = matrix.reshape(-1, count, matrix.shape[1])
    seen = np.argmax(windows >= 0, axis=1)  # for each element a window in which it does not lie on padding
    kernel = by_window[:, seen, windows[np.arange(elements), seen]] * (windows[np.arange(elements), seen] >= 0)
    again = np.zeros_like(by_window)
    for element, place in zip(kernel.T, windows, strict=True):
        inside = np.flatnonzero(place >= 0)
        again[:, inside, place[inside]] = element[:, None]
    return kernel if np.allclose(again, by_window, atol=1e-12 * np.abs(matrix).max()) else None


def _padded(values: NDArray[Any], filler: float) -> NDArray[Any]:
    """With both axes filled up to powers of two."""
    return np.pad(values, [(0, power(length) - length) for length in values.shape], constant_values=filler)


def power(value: int) -> int:
    """The least power of two that is not below `value`."""
    return 1 << (value - 1).bit_length()


def _check_size(chain: Chain, plan: Plan, parameters: Parameters) -> None:
    taken, each = 0, 8 * parameters.degree * (parameters.levels + 1)
    for step, segment in zip(plan.affine, chain.segments, strict=True):
        used = sum(bool(np.any(step.diagonal(d))) for d in range(step.diagonals))
        names = ", ".join(repr(node.name) for node in segment.nodes) or "the last step"
        if not used:
            raise UnsupportedModel(f"{names}: all weights are zero, so that the result does not depend on the input")
        taken += used * each
        if taken > MAX_WEIGHTS:
            raise UnsupportedModel(
                f"{names}: too many weights for one ciphertext; use a smaller image, a larger stride or fewer channels"
            )
