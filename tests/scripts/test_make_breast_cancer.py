"""The records of the worked example are those of scikit-learn's table, each once."""

from __future__ import annotations

import csv

from sklearn.datasets import load_breast_cancer

from scripts.make_breast_cancer import DIRECTORY, PRACTICES, tables


def test_the_files_in_the_tree_are_those_that_the_script_makes() -> None:
    made = dict(tables())
    assert sorted(path.stem for path in DIRECTORY.glob("*.csv")) == sorted(made)
    for practice, rows in made.items():
        with (DIRECTORY / f"{practice}.csv").open(newline="", encoding="utf-8") as file:
            assert [*csv.reader(file)] == rows


def test_every_tumour_is_in_one_practice() -> None:
    data = load_breast_cancer()
    records = [row for _, rows in tables() for row in rows[1:]]
    assert (len(PRACTICES), len(records)) == (10, 569)
    assert sum(row[0] == "malignant" for row in records) == 212
    assert sorted(float(row[1]) for row in records) == sorted(data.data[:, 0].tolist())
