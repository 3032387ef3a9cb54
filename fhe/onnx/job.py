"""What is to be converted, and how good it came out: written by the command, read in the worker's environment, and back.

They speak through files in a scratch directory, as for training (`fhe.train.job`): `job.json`, then `description.json`,
`report.json` and one file a part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
from msgspec import field

from fhe.bundle import Struct
from fhe.errors import InputError
from fhe.files import read_file

MODULE = "fhe.onnx.run"
"""Carries out a conversion, in the worker's environment."""
REPORT = "report.json"


class Conversion(Struct, frozen=True, kw_only=True):
    """What is to be converted."""

    id: str
    title: str
    model: str
    """Path of an ONNX file."""
    calibration: str
    """Path of samples, see `fhe.onnx.arrays`: what the polynomials are fitted to. A quarter is held out for the metrics."""
    created: str
    """RFC 3339, UTC."""
    output: str = ""
    """The tensor to end at; the model's own output if none is named."""
    backend: Literal["ckks", "concrete"] = "ckks"
    """Which decides the environment of the work: the worker's, or that of training."""
    degree: int = 2
    """ckks: of the polynomials in place of activations, 2, 3 or 4."""
    bits: int = 5
    """concrete: of each number, 2 to 7."""
    names: tuple[str, ...] = ()
    """Of the features, one for each number; "x1" and on if none are named, and one for all of an image."""
    units: dict[str, str] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Declared by hand, by name. Every other range is the calibration's, rounded outwards."""
    labels: tuple[str, ...] = ()
    """Of a classifier."""
    truth: str = ""
    """Path of an array with the true class of each sample of the calibration, counted from 0: for the accuracy."""


class Report(Struct, frozen=True, kw_only=True):
    """How good it came out, on held-out samples."""

    samples: int
    """Held out."""
    tried: int
    """How many of these were truly encrypted."""
    measure: str
    """accuracy: share of true classes. agreement: share of the clear model's classes. deviation: the largest difference from
    it."""
    clear: float
    simulated: float
    encrypted: float
    """On those that were tried."""
    noise: float = 0.0
    """ckks: the largest difference of an encrypted result from the simulated one, before rounding."""
    step: float = 0.0
    """ckks: what results are rounded to."""
    degree: int = 0
    """ckks: of the scheme's polynomials."""
    bits: tuple[int, ...] = ()
    """ckks: of its primes."""
    levels: int = 0
    """ckks."""


def read_report(directory: Path) -> Report:
    """What a conversion says of itself. Raises InputError."""
    try:
        return msgspec.json.decode(read_file(directory / REPORT, 1024 * 1024), type=Report)
    except msgspec.MsgspecError as error:
        raise InputError(f"the conversion left nothing that can be read: {error}") from error
