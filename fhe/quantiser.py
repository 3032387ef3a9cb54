"""Features become what is encrypted, and results become what people read: plain numpy and a few numbers from the bundle.

    features x      in the declared ranges; anything else is refused, by the feature's name
    u               x itself, or ("unit") x moved to -1 .. 1 by its declared range
    values          u, or for a circuit on integers  q = rint(u / scale) + zero_point, within low .. high
    results r       of a circuit on integers, y = scale * (r - zero_point); of one on reals, y = r
    predictions     link(y): nothing, the sigmoid, or the softmax; of one score for two labels, both labels' probabilities

`quantiser.json` holds the numbers. It is written and read as plain JSON: a client unpickles nothing.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fhe.bundle import QUANTISER, Bundle, Description, Input, Struct
from fhe.errors import BundleError, InputError

Reals = NDArray[np.float64]
Integers = NDArray[np.int64]

_MAX_BITS = 31


class Whole(Struct, frozen=True, kw_only=True, tag="integers"):
    """For a circuit on integers."""

    domain: Literal["unit", "as-is"]
    """What `u` is."""
    scale: float
    """Of one step of q, in units of u."""
    zero_point: int
    low: int
    high: int
    """The least and the greatest q."""
    result_scale: tuple[float, ...]
    """One for each result, or one for all."""
    result_zero_point: tuple[int, ...]
    """One for each result, or one for all."""

    def encode(self, units: Reals) -> Integers:
        """The q of `units`, of the same shape."""
        steps: Reals = np.rint(units / self.scale + self.zero_point)
        return steps.clip(self.low, self.high).astype(np.int64)

    def decode(self, results: Integers | Reals) -> Reals:
        """The y of `results`, (samples, *output shape)."""
        flat = results.reshape(len(results), -1).astype(np.float64)
        scores: Reals = (flat - np.array(self.result_zero_point)) * np.array(self.result_scale)
        return scores.reshape(results.shape)


class Real(Struct, frozen=True, kw_only=True, tag="reals"):
    """For a circuit on reals: values and results are what they are."""

    domain: Literal["unit", "as-is"] = "as-is"

    def encode(self, units: Reals) -> Reals:
        """`units` themselves."""
        return units

    def decode(self, results: Integers | Reals) -> Reals:
        """`results` themselves."""
        return results.astype(np.float64)


Quantiser = Whole | Real


def read_quantiser(bundle: Bundle) -> Quantiser:
    """The bundle's. Raises BundleError."""
    try:
        found: Quantiser = msgspec.json.decode(bundle.part(QUANTISER), type=Quantiser)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BundleError(f"{QUANTISER} does not say what it must: {error}") from error
    if isinstance(found, Whole):
        results = {1, int(np.prod(bundle.model.output.shape))}
        if not (
            0 < found.scale < np.inf
            and 0 < found.high - found.low < 2**_MAX_BITS
            and max(abs(found.low), abs(found.high), abs(found.zero_point)) < 2**_MAX_BITS
            and {len(found.result_scale), len(found.result_zero_point)} <= results
        ):
            raise BundleError(f"{QUANTISER} of {bundle.model.id} makes no sense; its owner has to make the bundle again")
    return found


def to_values(model: Input, quantiser: Quantiser, samples: ArrayLike) -> Reals | Integers:
    """What is encrypted of `samples`, (samples, *shape) or flat, (samples, size). Raises InputError."""
    return quantiser.encode(to_units(model, quantiser.domain, check_samples(model, samples)))


def to_units(model: Input, domain: Literal["unit", "as-is"], samples: Reals) -> Reals:
    """The u of samples that were checked."""
    if domain == "as-is":
        return samples
    low, high = _ranges(model)
    units: Reals = (2 * samples - (low + high)) / (high - low)
    return units


def check_samples(model: Input, samples: ArrayLike) -> Reals:
    """`samples` as float64, (samples, *shape).

    Raises InputError, naming sample and feature, for a number that is missing, not finite, or out of its declared range.
    """
    try:
        array = np.asarray(samples, dtype=np.float64)
    except (ValueError, TypeError):
        raise InputError("a sample holds something that is no number; every feature is a number") from None
    if array.shape in {model.shape, (model.size,)}:
        array = array[np.newaxis]  # one sample, given as such
    if array.ndim < 1 or not len(array) or array.shape[1:] not in {model.shape, (model.size,)}:
        raise InputError(f"samples have the shape {array.shape}, and this model takes {('samples', *model.shape)}")
    array = array.reshape(len(array), *model.shape)
    low, high = _ranges(model)
    # Written so that a number that is none is refused, too.
    wrong = np.argwhere(~((array >= low) & (array <= high)).reshape(len(array), -1))
    if len(wrong):
        sample, position = map(int, wrong[0])
        feature = model.feature(position)
        where = f"feature {feature.name!r}" if len(model.features) > 1 else f"number {position + 1}"
        raise InputError(
            f"sample {sample + 1}: {where} is not a number from {feature.low:g} to {feature.high:g}"
            f"{' ' + feature.unit if feature.unit else ''}, the range that the model was made for; check it and its unit"
        )
    return array


def to_predictions(model: Description, quantiser: Quantiser, results: Integers | Reals) -> Reals:
    """What people read of decrypted `results`: (samples, *output shape), or (samples, 2) of one score for two labels."""
    scores = quantiser.decode(results)
    if model.output.link == "softmax":
        scores = scores - scores.max(axis=-1, keepdims=True)
        powers = np.exp(scores)
        scores = powers / powers.sum(axis=-1, keepdims=True)
    elif model.output.link == "sigmoid":
        scores = 0.5 * (1 + np.tanh(scores / 2))  # which overflows nowhere
    if len(model.output.labels) == 2 and scores.size == len(scores):
        flat = scores.reshape(-1, 1)
        scores = np.hstack([1 - flat, flat])
    return scores


def _ranges(model: Input) -> tuple[Any, Any]:
    """Low and high, broadcast against (samples, *shape)."""
    low = np.array([feature.low for feature in model.features])
    high = np.array([feature.high for feature in model.features])
    if len(low) == 1:
        return low[0], high[0]
    return low.reshape(model.shape), high.reshape(model.shape)
