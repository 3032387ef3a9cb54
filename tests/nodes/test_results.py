"""The object that people and programs get: every number with what it is of, and nothing that the rules withhold."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from mpc.errors import ConfigError
from mpc.release import Withheld
from mpc.statistics.mean import MeanFigures
from mpc.study import Release, Statistic
from nodes.results import StudyResult, columns
from tests.nodes.findings import HOSTILE, ROUND, STATISTICS, data, found

MEAN = Statistic.of("mean", "age")


def test_a_result_says_whose_it_is_and_by_which_rules() -> None:
    result = found(MEAN, release=Release(5, 10))
    assert (result.round, result.study, result.members, result.seconds) == (ROUND.hex(), "question", 4, 1.2346)
    assert result.rules == "nothing is told of fewer than 5 records; counts are rounded to multiples of 10"
    assert repr(result) == "<StudyResult of question, round 000102030405>"


def test_figures_are_found_by_name() -> None:
    ages = found(MEAN)["mean-age"]
    assert isinstance(ages, MeanFigures)
    assert ages.mean.value == pytest.approx(np.mean(data()["age"]) / 10)
    with pytest.raises(KeyError, match="question has no statistic 'mean'; it has mean-age"):
        found(MEAN)["mean"]


def test_the_first_table_says_over_what_each_statistic_is() -> None:
    name, about = next(found().tables())
    assert (name, about.columns) == ("statistics", ("statistic", "kind", "variable", "n", "left_out", "notes", "rules"))
    rows = {row[0]: row[1:] for row in about.rows}
    assert len(rows) == len(STATISTICS)
    assert rows["mean-age"] == ("mean", "age", 233, 0, "", "nothing is told of fewer than 5 records")
    kind, variable, n, left_out, notes, _ = rows["mean-smokes"]
    assert (kind, variable, n, left_out) == ("mean", "smokes", None, None)
    assert notes == "withheld; it would tell of fewer than 5 records with one value of smokes"


def test_every_other_table_has_a_name_of_its_own() -> None:
    names = [name for name, _ in found().tables()]
    assert len(set(names)) == len(names)
    assert {"contingency-arm", "contingency-arm.tests", "linear-regression-days.fit", "ages", "ages-of-arms"} <= set(names)


def test_json_holds_all_and_comes_back_as_it_was() -> None:
    result = found()
    assert StudyResult.from_json(result.json()) == result
    plain = json.loads(result.json())
    assert [one["kind"] for one in plain["statistics"]][-1] == "withheld"
    assert plain["statistics"][3]["groups"][1]["category"] == f"{HOSTILE} or rare"


def test_no_count_that_is_too_small_is_anywhere() -> None:
    crossed = json.loads(found().json())["statistics"][8]
    assert crossed["rows"] == ["placebo", f"{HOSTILE} or rare"]
    assert min(count for row in crossed["counts"] for count in row) >= 5
    assert isinstance(found()["mean-smokes"], Withheld)


def test_frames_are_the_tables() -> None:
    pytest.importorskip("pandas")
    result = found()
    frames = result.frames()
    for name, table in result.tables():
        assert list(frames[name].columns) == list(table.columns)
        assert len(frames[name]) == len(table.rows)
    by_arm = frames["ages"]
    means = by_arm[by_arm["quantity"] == "mean"].set_index("arm")["value"]
    assert means["placebo"] == pytest.approx(data()["age"][:120].mean() / 10)


def test_without_pandas_frames_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match=r"this needs pandas, which is not installed: pip install 'cohortium\[results\]'"):
        found(MEAN).frames()


def test_a_column_has_one_type_of_number() -> None:
    tables = dict(found(Statistic.of("linear-regression", "days", "age")).tables())
    values = columns(tables["linear-regression-days.fit"])["value"]
    assert {type(value) for value in values if value is not None} == {float}
