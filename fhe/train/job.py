"""What is to be trained, and what comes of it: written by the command, read in the training environment, and back.

The two speak through files in a scratch directory: `job.json`, then `description.json` and one file a part. The trained model is
signed by the command; the owner's key is never in the training environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
from msgspec import field

from fhe.bundle import Audience, Description, Struct
from fhe.errors import InputError
from fhe.files import read_file

Recipe = Literal["linear-regression", "logistic-regression", "xgboost", "random-forest", "mlp"]
RECIPES: tuple[Recipe, ...] = ("linear-regression", "logistic-regression", "xgboost", "random-forest", "mlp")

MODULE = "fhe.train.run"
"""What runs in the training environment."""
JOB, DESCRIPTION, SAMPLES = "job.json", "description.json", "samples.json"


class Job(Struct, frozen=True, kw_only=True):
    """What is to be trained."""

    id: str
    title: str
    recipe: Recipe
    data: str
    """Path of a CSV file with a header, or the name of one of scikit-learn's data sets, as "breast-cancer"."""
    created: str
    """RFC 3339, UTC."""
    target: str = ""
    """The column to predict; the last one if none is named. Texts, or numbers with few values, are classes."""
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Declared by hand. Every other range is the data's, rounded outwards."""
    units: dict[str, str] = field(default_factory=dict)
    bits: int = 0
    """Of each number; 0 takes the recipe's own."""
    trees: int = 10
    depth: int = 3
    hidden: tuple[int, ...] = (16,)
    """Units of each hidden layer."""
    held_out: float = 0.25
    """Share of the rows that are not trained with, for the metrics."""
    seed: int = 42
    """Of the split and the training. Keys and ciphertexts come from the operating system's randomness."""
    samples: int = 0
    """How many held-out rows are written to `samples.json` with the quantised model's results: for tests, on public data."""


class Samples(Struct, frozen=True, kw_only=True):
    """What `samples.json` says."""

    inputs: list[list[float]]
    labels: list[float]
    results: list[list[int]]
    """Of the quantised model in clear, as Concrete ML computes it: what must come out of the encryption."""
    clear: list[list[float]]
    """Scores of the model in clear, before its link."""


class Draft(Struct, frozen=True, kw_only=True):
    """What `description.json` says."""

    model: Description
    audience: dict[str, Audience]
    """Of each part, by the name of its file."""


def read_draft(directory: Path) -> tuple[Draft, dict[str, tuple[Audience, bytes]]]:
    """What came of a job: the description and the parts. Raises InputError."""
    try:
        draft = msgspec.json.decode(read_file(directory / DESCRIPTION, 16 * 1024 * 1024), type=Draft)
    except msgspec.MsgspecError as error:
        raise InputError(f"the training left nothing that can be read: {error}") from error
    return draft, {name: (audience, read_file(directory / name, 256 * 1024 * 1024)) for name, audience in draft.audience.items()}
