"""The made-up values of every benchmark: a seed gives a patient's vector, plain numpy the sum to expect."""

from __future__ import annotations

import numpy
import numpy.typing

Vector = numpy.typing.NDArray[numpy.int64]


def vector(seed: int, length: int, largest: int) -> Vector:
    """One patient's values: `length` integers from 0 to `largest`, the same for the same seed everywhere."""
    return numpy.random.default_rng(seed).integers(0, largest, endpoint=True, size=length)


def patient_seed(seed: int, patient: int) -> int:
    """The seed of the patient with this number (from 0), given the seed of the whole run."""
    return seed + patient


def plain_sum(seed: int, patients: int, length: int, largest: int) -> Vector:
    """What all patients' vectors add up to, without any protocol."""
    total = numpy.zeros(length, numpy.int64)
    for patient in range(patients):
        total += vector(patient_seed(seed, patient), length, largest)
    return total
