"""Noise for a round: discrete Gaussians from OpenDP's exact sampler, which no floating point bends and whose bits are the
operating system's. It is an extra, loaded when the first study asks for noise.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterator, Sequence

from nodes.extras import library

_EXTRA = "privacy"


def can_draw() -> bool:
    """Whether the sampler is installed."""
    return importlib.util.find_spec("opendp") is not None


def draw(wanted: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Independent numbers, as `mpc.statistics.draws` wants them: (standard deviation, how many). Blocking.

    Raises ConfigError where the sampler is not installed.
    """
    totals = Counter[int]()
    for sigma, count in wanted:
        totals[sigma] += count
    drawn = {sigma: iter(_sample(sigma, count)) for sigma, count in totals.items()}
    return tuple(number for sigma, count in wanted for number in _take(drawn[sigma], count))


def _take(numbers: Iterator[int], count: int) -> Iterator[int]:
    return (next(numbers) for _ in range(count))


def _sample(sigma: int, count: int) -> list[int]:
    """From N_Z(0, sigma^2)."""
    library("opendp.mod", _EXTRA).enable_features("contrib")
    domains, metrics = library("opendp.domains", _EXTRA), library("opendp.metrics", _EXTRA)
    space = domains.vector_domain(domains.atom_domain(T="i64")), metrics.l2_distance(T="f64")
    add_noise = library("opendp.measurements", _EXTRA).make_gaussian(*space, scale=float(sigma))
    sample: list[int] = add_noise([0] * count)
    return sample
