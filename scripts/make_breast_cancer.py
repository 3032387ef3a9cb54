"""The records of config/studies/breast-cancer.yaml: scikit-learn's breast cancer table, dealt out to ten practices.

    python scripts/make_breast_cancer.py      writes config/studies/data/breast-cancer/*.csv again

Wolberg, Street and Mangasarian, "Breast Cancer Wisconsin (Diagnostic)", UCI Machine Learning Repository, 1995, CC BY 4.0: 569
tumours, of which scikit-learn ships ten features of the cell nuclei, each as mean, standard error and worst. Four of the means
are used here. Practices have between 30 and 90 records each, as the seed has it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer

DIRECTORY = Path(__file__).resolve().parent.parent / "config" / "studies" / "data" / "breast-cancer"
PRACTICES = tuple(f"practice-{number:02}" for number in range(1, 11))
COLUMNS = {"radius": "mean radius", "texture": "mean texture", "area": "mean area", "smoothness": "mean smoothness"}
SEED = 1995


def tables() -> Iterator[tuple[str, list[list[str]]]]:
    """Each practice with its rows, the first of which names the columns."""
    data = load_breast_cancer()
    places = {name: list(data.feature_names).index(feature) for name, feature in COLUMNS.items()}
    chance = np.random.default_rng(SEED)
    owners = chance.choice(len(PRACTICES), size=len(data.target), p=chance.dirichlet(np.full(len(PRACTICES), 20)))
    for owner, practice in enumerate(PRACTICES):
        rows = [["diagnosis", *COLUMNS]]
        for record in np.flatnonzero(owners == owner):
            diagnosis = str(data.target_names[data.target[record]])
            rows.append([diagnosis, *(f"{data.data[record, place]:g}" for place in places.values())])
        yield practice, rows


def main() -> None:
    """Writes a file a practice."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for practice, rows in tables():
        with (DIRECTORY / f"{practice}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
