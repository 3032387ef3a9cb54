"""From a compiled network to the parts of a bundle: tried with real keys, its noise measured, and the rounding chosen by it."""

from __future__ import annotations

import importlib.metadata
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
from numpy.typing import NDArray

from fhe.bundle import PROBE, Audience, Seconds, Security, Sizes, Span
from fhe.ckks.compile import Compiled
from fhe.ckks.engine import LAYOUT, PLAN, CkksEngine
from fhe.errors import UnsupportedModel

Array = NDArray[np.float64]

PACKAGE = "tenseal"
SECURITY = Security(bits=128)
NUMBERS = 32
"""The noise is measured on so many results at least."""
MAX_TRIED = 16

_GUARD = 4
"""The rounding's step in the largest errors seen, at least."""
_FINE = 1e-5
"""The step in the reach, at least: digits that nobody reads would only tell of the noise."""
_COARSE = 1 / 64
"""Of the reach: a network whose noise is above it has no result to speak of."""
_SLACK = 0.02
"""By how much the length of a ciphertext or a key may differ from those measured: SEAL compresses them."""


@dataclass(frozen=True, slots=True)
class Built:
    """The parts, but for the quantiser, and what was measured."""

    parts: dict[str, tuple[Audience, bytes]]
    sizes: Sizes
    seconds: Seconds
    results: Array
    """Decrypted and rounded, of the first samples."""
    noise: float
    """The most by which these differed from the simulation, before rounding."""
    step: float
    """What results are rounded to."""


def build(compiled: Compiled, values: Array, shape: tuple[int, ...]) -> Built:
    """Tries the network on the first of `values`, (samples, size), whose results have `shape`. Raises UnsupportedModel."""
    tried = values[: min(MAX_TRIED, max(3, -(-NUMBERS // len(compiled.layout.results))))]
    with TemporaryDirectory() as scratch:
        engine = CkksEngine(compiled.layout, compiled.plan, shape)
        key = Path(scratch) / "key"
        started = time.process_time()
        secret = engine.keygen(key)
        made = time.process_time()
        inputs = engine.encrypt(secret, tried)
        encrypted = time.process_time()
        expanded = engine.expand(key)
        engine.infer(expanded, inputs[0])  # the first computation encodes the weights, too
        warm = time.process_time()
        outputs = [engine.infer(expanded, payload) for payload in inputs]
        inferred = time.process_time()
        raw = engine.decrypt(secret, outputs).reshape(len(tried), -1)
        decrypted = time.process_time()
        noise = float(np.abs(raw - compiled.simulate(tried)).max())
        if not noise < compiled.layout.reach * _COARSE:
            raise UnsupportedModel(
                "the noise of the encryption drowns this network's results; use fewer layers, or a lower degree"
            )
        layout = msgspec.structs.replace(compiled.layout, step=round_step(max(_GUARD * noise, _FINE * compiled.layout.reach)))
        parts = {
            PLAN: (Audience.SERVER, compiled.plan.dump()),
            PROBE: (Audience.SERVER, engine.encrypt(secret, tried[:1] * 0)[0]),
            LAYOUT: (Audience.CLIENT, msgspec.json.encode(layout)),
        }
        sizes = Sizes(key=int(key.stat().st_size * (1 + _SLACK)), input=_span(inputs), output=_span(outputs))
        seconds = Seconds(
            keygen=_tidy(made - started),
            encrypt=_tidy((encrypted - made) / len(tried)),
            infer=_tidy((inferred - warm) / len(tried)),
            decrypt=_tidy((decrypted - inferred) / len(tried)),
        )
    return Built(parts, sizes, seconds, np.round(raw / layout.step) * layout.step, noise, layout.step)


def round_step(least: float) -> float:
    """The least of 1, 2 and 5 times a power of ten that is not below `least`."""
    ten = 10.0 ** np.floor(np.log10(least))
    return float(f"{next(ten * lead for lead in (1, 2, 5, 10) if ten * lead >= least):.1e}")


def versions() -> dict[str, str]:
    """Of the library: package to version."""
    return {PACKAGE: importlib.metadata.version(PACKAGE)}


def _span(payloads: list[bytes]) -> Span:
    lengths = list(map(len, payloads))
    return Span(least=int(min(lengths) * (1 - _SLACK)), most=int(max(lengths) * (1 + _SLACK)))


def _tidy(seconds: float) -> float:
    return float(f"{seconds:.3g}")
