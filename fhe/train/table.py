"""Rows to train with, from a CSV file with a header or from scikit-learn's own data sets, and the range of each column."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhe.bundle import Feature
from fhe.errors import InputError
from fhe.train.job import Job

MAX_CLASSES = 20
_SETS = {
    "breast-cancer": "load_breast_cancer",
    "digits": "load_digits",
    "iris": "load_iris",
    "wine": "load_wine",
    "diabetes": "load_diabetes",
}


@dataclass(frozen=True)
class Table:
    """Rows, complete and of numbers."""

    names: tuple[str, ...]
    rows: NDArray[np.float64]
    target: NDArray[Any]
    """Positions in `classes`, or numbers."""
    classes: tuple[str, ...]
    """Empty for a regression."""


def read_table(job: Job) -> Table:
    """The job's data. Raises InputError."""
    return _known(job.data) if job.data in _SETS else _csv(Path(job.data), job.target, job.recipe == "linear-regression")


def declare(table: Table, job: Job) -> tuple[Feature, ...]:
    """The features with their ranges. Raises InputError for a range that does not hold what was trained with."""
    if unknown := {*job.ranges, *job.units} - set(table.names):
        raise InputError(f"there is no column {sorted(unknown)[0]!r} in {job.data}; it has {', '.join(table.names)}")
    features = []
    for position, name in enumerate(table.names):
        column = table.rows[:, position]
        low, high = job.ranges.get(name) or outwards(float(column.min()), float(column.max()))
        if not low < high or column.min() < low or column.max() > high:
            raise InputError(f"column {name!r} has values outside of {low:g} to {high:g}; declare a range that holds them all")
        features.append(Feature(name=name, unit=job.units.get(name, ""), low=low, high=high))
    return tuple(features)


def outwards(low: float, high: float) -> tuple[float, float]:
    """A range around `low` and `high` in steps of 1 to 10 % of their distance, which tells neither of them."""
    distance = high - low or abs(high) or 1.0
    exponent = math.floor(math.log10(distance)) - 1
    # By division with a whole number where steps are fractions, so that 0.3 comes out as 0.3.
    step, per_one = (10**exponent, 1) if exponent >= 0 else (1, 10**-exponent)
    down, up = math.floor(low * per_one / step) * step / per_one, math.ceil(high * per_one / step) * step / per_one
    return (down, up) if down < up else (down, up + step / per_one)


def _known(name: str) -> Table:
    from sklearn import datasets

    data = getattr(datasets, _SETS[name])()
    names = tuple(str(one).replace(" ", "-") for one in data.feature_names)
    classes = tuple(str(one) for one in getattr(data, "target_names", ()))
    return Table(names, np.asarray(data.data, dtype=np.float64), np.asarray(data.target), classes)


def _csv(path: Path, target: str, regression: bool) -> Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; name a CSV file or one of {', '.join(_SETS)}") from error
    except (csv.Error, UnicodeError) as error:
        raise InputError(f"{path} is not a CSV file in UTF-8: {error}") from error
    if len(lines) < 10:
        raise InputError(f"{path} has too few rows to train with")
    header = lines[0]
    if len(set(header)) != len(header) or len(header) < 2:
        raise InputError(f"{path}: the first line must name the columns, each once, and there are two at least")
    chosen = target or header[-1]
    if chosen not in header:
        raise InputError(f"{path} has no column {chosen!r}; it has {', '.join(header)}")
    at = header.index(chosen)
    rows, targets = [], []
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(header):
            raise InputError(f"{path}:{number}: {len(line)} values for {len(header)} columns")
        try:
            row = [float(text) for column, text in enumerate(line) if column != at]
        except ValueError:
            raise InputError(f"{path}:{number}: every column but {chosen!r} must hold a number in every row") from None
        if not all(map(math.isfinite, row)):
            raise InputError(f"{path}:{number}: a number is not finite")
        rows.append(row)
        targets.append(line[at])
    names = tuple(name for name in header if name != chosen)
    if regression:
        try:
            return Table(names, np.array(rows), np.array(targets, dtype=np.float64), ())
        except ValueError:
            raise InputError(f"{path}: column {chosen!r} must hold a number in every row for a regression") from None
    classes = tuple(sorted(set(targets)))
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise InputError(f"{path}: column {chosen!r} has {len(classes)} different values; classes are 2 to {MAX_CLASSES}")
    return Table(names, np.array(rows), np.array([classes.index(one) for one in targets]), classes)
