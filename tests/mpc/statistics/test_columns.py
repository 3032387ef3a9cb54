"""What a node reads becomes integers, and what a study cannot take is refused without being shown."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from mpc.errors import DataError
from mpc.statistics import encode
from mpc.statistics.columns import numbers, read, steps
from mpc.statistics.component import MISSING
from mpc.study import Statistic, Variable
from tests.mpc.statistics.pool import question, whole

WEIGHT = Variable.number("weight", "kg", 0, 3000, scale=10)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([72.53, 72.46, 0.0, 300.0], [725, 725, 0, 3000]),
        ([0.05, 0.15, 0.25, -0.25], [0, 2, 2, -2]),  # half to even
        ([np.nan, 1.0], [MISSING, 10]),
        ([], []),
    ],
)
def test_numbers_are_rounded_to_the_nearest_step(values: list[float], expected: list[int]) -> None:
    assert steps(WEIGHT, np.array(values, dtype=np.float64)).tolist() == expected


def test_whole_numbers_are_exact_up_to_64_bits() -> None:
    large = np.array([2**62 + 1, MISSING, -(2**63) + 1])
    assert steps(whole("x", 0, 1), large).tolist() == large.tolist()
    assert steps(WEIGHT, np.array([2**59, 7])).tolist() == [2**59 * 10, 70]


@pytest.mark.parametrize("values", [np.array([1e18]), np.array([2**61]), np.array([-np.inf]), np.array([-(2**61)])])
def test_a_number_that_leaves_64_bits_is_refused(values: Any) -> None:
    with pytest.raises(DataError, match="variable weight: a value leaves 64 bits in steps of 1/10"):
        steps(WEIGHT, values)


def test_categories_are_numbered_in_the_studys_order() -> None:
    sex = Variable.category("sex", ("female", "male"))
    assert numbers(sex, ["male", "", "female"]).tolist() == [1, MISSING, 0]
    with pytest.raises(DataError) as caught:
        numbers(sex, ["male", "secret"])
    assert str(caught.value) == "variable sex: a value is none of its categories, female, male; correct it"


AGE, LAB = whole("age", 18, 120), whole("lab", -5, 5, length=3)
STUDY = question((AGE, LAB), Statistic.of("sum", "age"), Statistic.of("sum", "lab"), records=4)


def test_records_stand_one_after_the_other() -> None:
    records = read(STUDY, {"age": np.array([20, 30]), "lab": np.array([1, 2, 3, -1, -2, -3])})
    assert records.count == 2
    assert records.columns["lab"].tolist() == [[1, 2, 3], [-1, -2, -3]]
    assert "20" not in re.sub(r" at 0x[0-9a-f]+", "", repr(records)), "an address may hold any digits"


@pytest.mark.parametrize(
    ("age", "lab", "text"),
    [
        ([20] * 5, [0] * 15, "variable age: 5 records where the study takes at most 4; it must ask for more 'records'"),
        ([20, 30], [0] * 5, "variable lab: 5 values are no whole records of 3"),
        ([20, 30], [0] * 3, "variable lab: 1 records where age has 2; give one value a record"),
        ([20, 17], [0] * 6, "variable age: a value is below the minimum 18"),
        ([20, 121], [0] * 6, "variable age: a value is above the bound 120"),
        ([20, MISSING], [0] * 6, "variable age: a value is missing, which the study refuses"),
    ],
)
def test_what_a_study_cannot_take_is_refused_and_not_shown(age: list[int], lab: list[int], text: str) -> None:
    with pytest.raises(DataError) as caught:
        encode(STUDY, {"age": np.array(age), "lab": np.array(lab)})
    assert str(caught.value) == text


def test_bounds_hold_beside_missing_values() -> None:
    age = whole("age", 18, 120, missing="omit")
    study = question((age,), Statistic.of("sum", "age"), records=4)
    assert read(study, {"age": np.array([MISSING, MISSING])}).count == 2
    for wrong in (17, 121):
        with pytest.raises(DataError, match="variable age: a value is"):
            read(study, {"age": np.array([MISSING, wrong])})


def test_a_practice_may_have_no_record_and_a_person_has_one() -> None:
    empty = {"age": np.array([], dtype=np.int64)}
    assert read(question((AGE,), Statistic.of("sum", "age"), records=4), empty).count == 0
    with pytest.raises(DataError, match="0 values where the study asks for 1"):
        read(question((AGE,), Statistic.of("sum", "age")), empty)
