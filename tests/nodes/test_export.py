"""Results as files: what is read back is what was told."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from mpc.errors import ConfigError, UsageError
from mpc.study import Statistic
from nodes.export import export
from nodes.results import StudyResult
from tests.nodes.findings import found

CONTINGENCY = Statistic.of("contingency", "arm", "event")


def test_csv_is_a_file_a_table(tmp_path: Path) -> None:
    result = found()
    paths = export(result, "csv", tmp_path / "out")
    assert [path.name for path in paths] == [f"{name}.csv" for name, _ in result.tables()]
    for path, (_, table) in zip(paths, result.tables(), strict=True):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        assert tuple(rows[0]) == table.columns
        assert rows[1:] == [["" if cell is None else str(cell) for cell in row] for row in table.rows]


def test_parquet_keeps_numbers_and_absences(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    result = found()
    for path, (_, table) in zip(export(result, "parquet", tmp_path / "out"), result.tables(), strict=True):
        rows = [tuple(row.values()) for row in parquet.read_table(path).to_pylist()]
        assert rows == list(table.rows)


def test_json_is_the_object(tmp_path: Path) -> None:
    (path,) = export(found(), "json", tmp_path / "out.json")
    assert StudyResult.from_json(path.read_bytes()) == found()


@pytest.mark.parametrize(("form", "name"), [("csv", "out"), ("json", "out")])
def test_nothing_is_written_over(tmp_path: Path, form: str, name: str) -> None:
    place = tmp_path / name
    export(found(CONTINGENCY), form, place)
    with pytest.raises(UsageError, match=r"is not empty; name a new|is there already; name another"):
        export(found(CONTINGENCY), form, place)


@pytest.mark.parametrize("form", ["csv", "json"])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, form: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file/out"):
        export(found(CONTINGENCY), form, tmp_path / "file" / "out")


@pytest.mark.parametrize(("form", "module"), [("parquet", "pyarrow"), ("html", "matplotlib")])
def test_a_missing_library_is_named_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"this needs {module}, which is not installed: pip install"):
        export(found(CONTINGENCY), form, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
