"""Samples that people have, in the order that the model wants, and predictions as people read them.

A CSV file names the features in its header, in any order; other columns are left out. Arrays come as numpy writes them.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fhe.bundle import Description, Input
from fhe.errors import InputError
from fhe.files import read_file
from fhe.onnx import arrays

_MAX_CSV = 256 * 1024 * 1024


def read_samples(path: Path, model: Input) -> NDArray[np.float64]:
    """(samples, *shape). Raises InputError."""
    return _read_csv(path, model) if path.suffix == ".csv" else arrays.read_samples(path, model.shape)


def to_csv(model: Description, predictions: NDArray[np.float64]) -> str:
    """A header and one line a sample; of a classifier, its answer and the score of each label."""
    flat = predictions.reshape(len(predictions), -1)
    labels = model.output.labels
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if labels:
        writer.writerow(["answer", *labels])
        writer.writerows([labels[int(row.argmax())], *map(_number, row)] for row in flat)
    else:
        writer.writerow([f"y{place + 1}" for place in range(flat.shape[1])] if flat.shape[1] > 1 else ["y"])
        writer.writerows(map(_number, row) for row in flat)
    return text.getvalue()


def _number(value: float) -> str:
    return f"{value:.6g}"


def _read_csv(path: Path, model: Input) -> NDArray[np.float64]:
    if len(model.features) != model.size:
        raise InputError(f"{path}: this model takes {model.size} numbers without names; give them as an array, .npy")
    try:
        lines = list(csv.reader(io.StringIO(read_file(path, _MAX_CSV).decode("utf-8-sig"), newline="")))
    except (csv.Error, UnicodeError) as error:
        raise InputError(f"{path} is not a CSV file in UTF-8: {error}") from error
    header = lines[0] if lines else []
    missing = [feature.name for feature in model.features if header.count(feature.name) != 1]
    if missing:
        raise InputError(f"{path}: the first line must name each feature of the model once; not so {', '.join(missing[:5])}")
    places = [header.index(feature.name) for feature in model.features]
    rows = []
    for number, line in enumerate(lines[1:], 2):
        try:
            rows.append([float(line[place]) for place in places])
        except (ValueError, IndexError):
            raise InputError(f"{path}:{number}: every feature needs a number") from None
    if not rows:
        raise InputError(f"{path} has no samples below its first line")
    return np.array(rows).reshape(len(rows), *model.shape)
