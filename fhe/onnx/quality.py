"""What a conversion is made with and judged by: declared ranges, samples held out, the distance from the clear model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhe.bundle import Feature
from fhe.errors import InputError
from fhe.onnx.arrays import read_arrays
from fhe.onnx.job import Conversion
from fhe.train.table import outwards

Array = NDArray[np.float64]

_HELD_OUT = 4
"""One sample of so many is not calibrated with."""
_FEW = 4096
"""Numbers of a sample that may each have a name and a range; more than these, and all of an image, have one together."""


def held_out(count: int) -> NDArray[np.bool_]:
    """Which of `count` samples are not calibrated with."""
    chosen: NDArray[np.bool_] = np.arange(count) % _HELD_OUT == _HELD_OUT - 1
    return chosen


def choose_measure(
    clear: Array, truth: NDArray[Any] | None, link: str
) -> tuple[str, Callable[[Array, NDArray[Any], str], float], NDArray[Any]]:
    """The measure's name, itself, and what scores are compared with: true classes, the clear model's, or its very scores."""
    if truth is not None:
        return "accuracy", share, truth
    if clear.shape[1] > 1 or link != "identity":
        return "agreement", share, classes(clear, link)
    return "deviation", deviation, clear


def declare(job: Conversion, samples: Array) -> tuple[Feature, ...]:
    """The features of samples, (samples, *shape). Raises InputError."""
    flat = samples.reshape(len(samples), -1)
    each = len(samples.shape) == 2 and flat.shape[1] <= _FEW
    names = job.names or (tuple(f"x{place + 1}" for place in range(flat.shape[1])) if each else ("x",))
    if len(names) not in {1, flat.shape[1]}:
        raise InputError(f"{len(names)} names are given for {flat.shape[1]} numbers; name each of them, or none")
    if unknown := {*job.ranges, *job.units} - set(names):
        raise InputError(f"there is no feature {sorted(unknown)[0]!r}; they are {', '.join(names[:10])}")
    columns = flat.T if len(names) > 1 else flat.reshape(1, -1)
    features = []
    for name, column in zip(names, columns, strict=True):
        low, high = job.ranges.get(name) or outwards(float(column.min()), float(column.max()))
        features.append(Feature(name=name, unit=job.units.get(name, ""), low=low, high=high))
    return tuple(features)


def read_truth(path: Path, count: int) -> NDArray[np.int64]:
    """The true class of each of `count` samples. Raises InputError."""
    ((_, array), *more) = read_arrays(path)
    if more or array.size != count:
        raise InputError(f"{path} must hold one array with the class of each of the {count} samples")
    return array.reshape(-1).astype(np.int64)


def classes(scores: Array, link: str) -> NDArray[np.int64]:
    """The class of each sample: of a single score, the second class when it is above what the link maps to a half."""
    if scores.shape[1] == 1:
        return (scores[:, 0] > (0.0 if link == "sigmoid" else 0.5)).astype(np.int64)
    return np.asarray(scores.argmax(axis=1), dtype=np.int64)


def share(scores: Array, expected: NDArray[Any], link: str) -> float:
    """Of the samples that get the expected class."""
    return round(float((classes(scores, link) == expected).mean()), 4)


def deviation(scores: Array, expected: NDArray[Any], link: str) -> float:
    """The largest from the expected scores."""
    return float(f"{np.abs(scores - expected).max():.2g}")
