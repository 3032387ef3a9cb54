"""Concrete ML's numbers as ours: plain ones, out of the objects that it would pickle."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from fhe.quantiser import Whole


def quantiser_of(into: Any, out: Any, domain: Literal["unit", "as-is"]) -> Whole:
    """It gives u as scale * (q - zero_point), with q from -offset to 2^bits - 1 - offset."""
    return Whole(
        domain=domain,
        scale=float(into.scale),
        zero_point=int(into.zero_point),
        low=-int(into.offset),
        high=2 ** int(into.n_bits) - 1 - int(into.offset),
        result_scale=tuple(map(float, np.ravel(out.scale))),
        result_zero_point=tuple(map(int, np.ravel(out.zero_point))),
    )
