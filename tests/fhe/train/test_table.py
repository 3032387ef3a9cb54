"""The data that a model is trained with: what is read, what is refused where, and what ranges tell of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhe.errors import InputError
from fhe.train.job import Job
from fhe.train.table import declare, outwards, read_table

LINES = ["age,dose,ill", *(f"{20 + row},{row / 10},{'yes' if row > 5 else 'no'}" for row in range(12))]


def job(path: Path | str, **changes: object) -> Job:
    told = {"id": "x", "title": "x", "recipe": "logistic-regression", "data": str(path), "created": "2026-01-01T00:00:00Z"}
    return Job(**(told | changes))  # type: ignore[arg-type]  # as a job file would give them


def table(tmp_path: Path, lines: list[str]) -> Path:
    path = tmp_path / "data.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_csv_file_gives_rows_classes_and_names(tmp_path: Path) -> None:
    found = read_table(job(table(tmp_path, LINES)))
    assert found.names == ("age", "dose")
    assert found.classes == ("no", "yes")
    assert found.rows.shape == (12, 2)
    assert found.target.tolist() == [0] * 6 + [1] * 6


def test_the_target_may_be_any_column_and_a_number(tmp_path: Path) -> None:
    numbers = [LINES[0], *(line.replace("yes", "1").replace("no", "0") for line in LINES[1:])]
    found = read_table(job(table(tmp_path, numbers), target="age", recipe="linear-regression"))
    assert found.names == ("dose", "ill")
    assert found.classes == ()
    assert found.target.tolist() == list(range(20, 32))


def test_scikit_learns_sets_have_names_without_blanks() -> None:
    found = read_table(job("breast-cancer"))
    assert found.rows.shape == (569, 30)
    assert found.names[0] == "mean-radius"
    assert found.classes == ("malignant", "benign")


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (LINES[:5], "too few rows"),
        (["age,age,ill", *LINES[1:]], "each once"),
        ([*LINES, "1,2"], ":14: 2 values for 3 columns"),
        ([*LINES, "old,2,no"], ":14: every column but 'ill'"),
        ([*LINES, "nan,2,no"], ":14: a number is not finite"),
        ([LINES[0], *(f"1,2,{row}" for row in range(30))], "30 different values"),
        ([LINES[0], *(["1,2,same"] * 12)], "1 different values"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_by_its_place(tmp_path: Path, lines: list[str], why: str) -> None:
    with pytest.raises(InputError, match=why):
        read_table(job(table(tmp_path, lines)))


def test_a_missing_column_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no column 'weight'; it has age, dose, ill"):
        read_table(job(table(tmp_path, LINES), target="weight"))
    with pytest.raises(InputError, match="breast-cancer"):
        read_table(job(tmp_path / "none.csv"))


def test_ranges_are_declared_or_rounded_outwards(tmp_path: Path) -> None:
    found = read_table(job(path := table(tmp_path, LINES)))
    age, dose = declare(found, job(path, ranges={"age": (0, 120)}, units={"age": "years"}))
    assert (age.low, age.high, age.unit) == (0, 120, "years")
    assert (dose.low, dose.high) == (0, 1.1)


def test_a_declared_range_holds_all_that_was_trained_with(tmp_path: Path) -> None:
    found = read_table(job(path := table(tmp_path, LINES)))
    with pytest.raises(InputError, match="'age' has values outside of 0 to 25"):
        declare(found, job(path, ranges={"age": (0, 25)}))
    with pytest.raises(InputError, match="no column 'weight'"):
        declare(found, job(path, units={"weight": "kg"}))


@pytest.mark.parametrize(
    ("ends", "rounded"),
    [
        ((6.981, 28.11), (6, 29)),
        ((143.5, 2501.0), (100, 2600)),
        ((0.05263, 0.1634), (0.05, 0.17)),
        ((-0.137767, 0.198788), (-0.14, 0.2)),
        ((0, 0), (0, 0.1)),
        ((5, 5), (5, 5.1)),
    ],
)
def test_a_range_is_rounded_to_what_people_would_say(ends: tuple[float, float], rounded: tuple[float, float]) -> None:
    assert outwards(*ends) == rounded


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_a_rounded_range_holds_what_it_was_made_of_and_is_not_much_wider(low: float, distance: float) -> None:
    high = low + distance
    if distance < 1e-9 * abs(low):  # then floats themselves are too coarse
        return
    down, up = outwards(low, high)
    assert down <= low
    assert up >= high
    assert up - down <= 1.21 * (high - low) + 1e-9 * max(abs(low), abs(high))


def test_no_more_than_two_digits_of_a_column_are_told() -> None:
    column = np.random.default_rng(1).normal(120, 15, 1000)
    assert all(end % 10 == 0 for end in outwards(float(column.min()), float(column.max())))
