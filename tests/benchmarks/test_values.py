"""The benchmarks' values are those that a patient's synthetic source makes, so that the expected sum is right."""

from __future__ import annotations

import numpy as np

from benchmarks import values
from mpc.disclosure import Bounds
from nodes.sources.base import Wanted
from nodes.sources.synthetic import SyntheticValues


def test_a_benchmark_expects_what_the_synthetic_source_gives() -> None:
    wanted = Wanted(variable="value", declared=Bounds(0, 1000), length=50)
    readers = [SyntheticValues(seed=values.patient_seed(7, patient)) for patient in range(3)]
    given = np.array(SyntheticValues.read([(reader, wanted) for reader in readers]))
    assert np.array_equal(values.plain_sum(7, patients=3, length=50, largest=1000), given.sum(axis=0))


def test_patients_hold_different_values() -> None:
    first, second = (values.vector(values.patient_seed(7, patient), 50, 1000) for patient in range(2))
    assert not np.array_equal(first, second)
