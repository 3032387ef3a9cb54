"""What a release rule lets through: no small cell, and nothing from which one follows, even for who knows the rule."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mpc.errors import StudyError
from mpc.release import Told, Withheld, in_words, release
from mpc.result import figures as all_figures
from mpc.result import make_result
from mpc.statistics import plan
from mpc.statistics.histogram import HistogramFigures
from mpc.study import OMIT, UNRESTRICTED, Privacy, Release, Statistic, Study, Variable
from tests.mpc.properties import quick
from tests.mpc.statistics.pool import Columns, question, totals, whole

SEX = Variable.category("sex", ["f", "m", "x"])
STAGE = Variable.category("stage", ["I", "II", "III", "IV"])
AGE = whole("age", 0, 9, "a")


def asked(variables: Sequence[Variable], *statistics: Statistic, cell: int = 5, round_to: int = 0, **more: Any) -> Study:
    study = question(variables, *statistics, **({"members": 4, "records": 1000} | more))
    return replace(study, release=Release(cell, round_to))


def told(study: Study, data: Columns) -> tuple[Told, ...]:
    return release(study, make_result(study, bytes(32), len(study.members), totals(study, data)))


def spread(*counts: int) -> Any:
    """So many records of each place."""
    return np.repeat(np.arange(len(counts)), counts)


def table(counts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Records that fill a table of sex and stage."""
    places = [(row, column) for row, line in enumerate(counts) for column, count in enumerate(line) for _ in range(count)]
    rows, columns = zip(*places, strict=True) if places else ((), ())
    return {"sex": np.array(rows, dtype=int), "stage": np.array(columns, dtype=int)}


# ---- what is told


def test_with_noise_the_rules_look_at_the_counts_with_noise() -> None:
    def noise(sigma: int, count: int) -> list[int]:
        return [place * sigma for place in range(count)]

    plain = asked([AGE], Statistic.of("histogram", "age", bins=5))
    study = replace(plain, privacy=Privacy(4_000_000, 10**9, "record", 1, 1000))
    (said,) = release(study, make_result(study, bytes(32), 4, totals(study, {"age": spread(*[9] * 10)}, noise)))
    assert isinstance(said, HistogramFigures)
    # All cells have 18 records; the first three lose most of them to the largest, which the noise makes larger still.
    assert sum(said.counts) == said.n
    assert min(said.counts) >= 5
    assert any("told as one" in note for note in said.notes)
    cells = len(said.counts)
    assert cells < 5
    # The widest of the merged bins adds up the noise of so many.
    longest = max(round((high - low) / 2) for low, high in pairwise(said.edges))
    (unmerged,) = all_figures(study, make_result(study, bytes(32), 4, totals(study, {"age": spread(*[9] * 10)}, noise)))
    assert said.noise[-1].standard_deviation == pytest.approx(unmerged.noise[-1].standard_deviation * longest**0.5)


def test_groups_told_as_one_have_the_noise_of_both() -> None:
    plain = asked([SEX, AGE], Statistic.of("count", "age", by="sex"))
    study = replace(plain, privacy=Privacy(4_000_000, 10**9, "record", 1, 1000))
    data = {"sex": spread(60, 70, 2), "age": spread(132)}
    (said,) = told(study, data)
    groups: Any = said
    assert [group.category for group in groups.groups] == ["f", "m or x"]
    first, both = (group.figures.noise[0].standard_deviation for group in groups.groups)
    assert both == pytest.approx(2**0.5 * first)


def test_without_rules_everything_is_told_as_it_is() -> None:
    study = asked([SEX, STAGE], Statistic.of("contingency", "sex", "stage"), cell=0)
    data = table([[1, 0, 7, 0], [2, 0, 0, 0], [0, 1, 0, 0]])
    assert told(study, data) == all_figures(study, make_result(study, bytes(32), 4, totals(study, data)))


def test_a_small_category_is_told_with_its_neighbour() -> None:
    study = asked([SEX, AGE], Statistic.of("mean", "age", by="sex"))
    data = {"sex": spread(6, 7, 2), "age": np.array([1] * 6 + [3] * 7 + [8] * 2)}
    (said,) = told(study, data)
    assert not isinstance(said, Withheld)
    groups: Any = said
    assert [(group.category, group.figures.n) for group in groups.groups] == [("f", 6), ("m or x", 9)]
    assert groups.groups[1].figures.mean.value == pytest.approx((7 * 3 + 2 * 8) / 9)
    assert groups.notes == ("sex: neighbouring categories are told as one where one alone would have fewer than 5 records",)


def test_the_figures_of_merged_categories_are_those_of_a_study_that_has_fewer() -> None:
    # III has three of f, and still so with IV: both join II.
    data = table([[9, 8, 3, 0], [7, 0, 6, 9], [5, 8, 6, 7]])
    (merged,) = told(asked([SEX, STAGE], Statistic.of("contingency", "sex", "stage")), data)
    fewer = Variable.category("stage", ["I", "II or III or IV"])
    data["stage"] = np.minimum(data["stage"], 1)
    (coarser,) = told(asked([SEX, fewer], Statistic.of("contingency", "sex", "stage"), cell=0), data)
    assert not isinstance(merged, Withheld)
    assert len(merged.notes) == 1
    assert replace(merged, notes=()) == coarser


def test_bins_widen_until_they_hold_enough() -> None:
    study = asked([AGE], Statistic.of("histogram", "age"), Statistic.of("quantiles", "age", quantiles=[500_000]))
    histogram, median = map(msgspec.to_builtins, told(study, {"age": spread(0, 2, 4, 5, 0, 1, 0, 9, 1, 0)}))
    assert histogram["edges"] == (0, 4, 10)
    assert histogram["counts"] == (11, 11)
    # The eleventh and twelfth of 22 lie in the bins 0 to 3 and 4 to 9.
    assert (median["values"][0]["value"], median["values"][0]["error"]) == (4.0, 2.0)


@pytest.mark.parametrize("edges", [(0, 2, 5, 10), (2, 5, 8), (2, 5, 8, 9)])
def test_what_lies_outside_the_bins_joins_them(edges: tuple[int, ...]) -> None:
    study = asked([whole("age", 0, 10)], Statistic.of("histogram", "age", edges=edges))
    ages = np.array([0, 3, 3, 4, 4, 4, 6, 6, 6, 6, 6, 9, 10])
    said = msgspec.to_builtins(told(study, {"age": ages})[0])
    counts, _ = np.histogram(ages, said["edges"])
    assert tuple(said["counts"]) == tuple(counts.tolist())
    assert sum(said["counts"]) == len(ages)
    assert (said["below"], said["above"]) == (0, 0)
    assert min(count for count in said["counts"] if count) >= 5


def test_survival_is_told_at_times_with_enough_events_and_censorings() -> None:
    time, event = whole("days", 0, 40), Variable.category("event", ["no", "yes"])
    study = asked([time, event], Statistic.of("kaplan-meier", "days", "event"))
    rng = np.random.default_rng(3)
    said = msgspec.to_builtins(told(study, {"days": rng.integers(0, 41, 200), "event": rng.integers(0, 2, 200)})[0])
    assert len(said["curve"]) > 5
    for row in said["curve"]:
        assert all(count == 0 or count >= 5 for count in (row["events"], row["censored"]))
    assert said["error"] > 0, "the order within wider cells is not known"


def test_every_statistic_of_a_study_has_the_same_categories() -> None:
    statistics = [Statistic.of("count", "stage", by="sex"), Statistic.of("contingency", "sex", "stage")]
    study = asked([SEX, STAGE], *statistics)
    counts, crossed = map(msgspec.to_builtins, told(study, table([[9, 9, 9, 9], [9, 9, 9, 9], [0, 0, 2, 0]])))
    assert [group["category"] for group in counts["groups"]] == ["f", "m or x"] == list(crossed["rows"])


def test_counts_are_rounded_last_and_to_the_nearest_multiple() -> None:
    study = asked([SEX, STAGE], Statistic.of("contingency", "sex", "stage"), cell=0, round_to=5)
    said = msgspec.to_builtins(told(study, table([[1, 2, 3, 7], [8, 12, 13, 0], [0, 0, 0, 0]]))[0])
    assert [list(row) for row in said["counts"]] == [[0, 0, 5, 5], [10, 10, 15, 0], [0, 0, 0, 0]]
    assert said["n"] == 45


def test_rounding_reaches_into_groups_and_curves() -> None:
    time, event = whole("days", 0, 3), Variable.category("event", ["no", "yes"])
    study = asked([SEX, time, event], Statistic.of("kaplan-meier", "days", "event", by="sex"), cell=0, round_to=10)
    days = np.array([0, 1, 1, 2, 3] * 9)
    said = msgspec.to_builtins(told(study, {"sex": spread(15, 15, 15), "days": days, "event": (days > 1).astype(int)})[0])
    for group in said["groups"]:
        assert group["figures"]["n"] == 20
        assert {row["at_risk"] % 10 for row in group["figures"]["curve"]} == {0}


def test_the_rules_are_said_in_words() -> None:
    assert in_words(UNRESTRICTED) == ""
    assert in_words(Release(5, 10)) == "nothing is told of fewer than 5 records; counts are rounded to multiples of 10"


def test_what_is_told_can_be_read_back_from_json() -> None:
    study = asked(
        [SEX, AGE], Statistic.of("mean", "age"), Statistic.of("count", "age", by="sex"), Statistic.of("extremes", "age")
    )
    said = told(study, {"sex": spread(4, 0, 0), "age": np.array([1, 2, 3, 4])})
    assert {type(one) for one in said} == {Withheld}
    assert msgspec.json.decode(msgspec.json.encode(said), type=tuple[Told, ...]) == said


# ---- what is not


def withheld(said: Told) -> str:
    assert isinstance(said, Withheld)
    return said.reason


def test_nothing_is_told_of_too_few_records() -> None:
    age = replace(AGE, missing=OMIT)
    study = asked([age, SEX], Statistic.of("mean", "age"), Statistic.of("count", "sex"))
    ages = np.array([1, 2, 3, 4, *[-(2**63)] * 5])
    mean, count = told(study, {"age": ages, "sex": np.zeros(9, dtype=int)})
    assert withheld(mean) == "it would tell of fewer than 5 records"
    assert not isinstance(count, Withheld)


def test_nothing_is_told_of_fewer_members_than_the_study_asks_for() -> None:
    study = asked([AGE], Statistic.of("mean", "age"), cell=0)
    result = make_result(study, bytes(32), 2, totals(study, {"age": np.arange(9)}))
    assert "fewer than the study's 3" in withheld(release(study, result)[0])


@pytest.mark.parametrize("kind", ["sum", "mean"])
def test_a_sum_of_yes_and_no_is_a_count(kind: str) -> None:
    study = asked([whole("smokes", 0, 1)], Statistic.of(kind, "smokes"))
    assert "with one value of smokes" in withheld(told(study, {"smokes": spread(40, 3)})[0])
    assert not isinstance(told(study, {"smokes": spread(40, 5)})[0], Withheld)


def test_a_mean_and_a_variance_count_three_values() -> None:
    study = asked([whole("grade", 4, 6)], Statistic.of("mean", "grade"))
    assert "with one value of grade" in withheld(told(study, {"grade": 4 + spread(40, 30, 1)})[0])
    assert not isinstance(told(study, {"grade": 4 + spread(40, 0, 9)})[0], Withheld)


def test_a_regression_tells_how_many_records_a_category_has() -> None:
    study = asked([AGE, SEX], Statistic.of("linear-regression", "age", "sex"))
    data = {"age": np.arange(50) % 10, "sex": spread(30, 17, 3)}
    assert "with one value of sex" in withheld(told(study, data)[0])
    assert not isinstance(told(study, {**data, "sex": spread(30, 12, 8)})[0], Withheld)


def test_a_covariance_crosses_yes_and_no() -> None:
    study = asked([whole("a", 0, 1), whole("b", 1, 2)], Statistic.of("covariance", "a", "b"))
    a = spread(20, 20)
    assert "with one value of a and b" in withheld(told(study, {"a": a, "b": 1 + np.array([0] * 18 + [1] * 22)})[0])
    assert not isinstance(told(study, {"a": a, "b": 1 + np.array([0, 1] * 20)})[0], Withheld)


def test_a_logistic_regression_needs_events_in_every_category() -> None:
    outcome = Variable.category("ill", ["no", "yes"])
    study = asked([outcome, SEX], Statistic.of("logistic-regression", "ill", "sex"))
    assert "with one value of ill" in withheld(told(study, {"ill": spread(40, 4), "sex": np.arange(44) % 3})[0])
    assert "with one value of ill and sex" in withheld(told(study, {"ill": np.arange(60) % 2, "sex": spread(35, 17, 8)})[0])
    assert not isinstance(told(study, {"ill": np.arange(90) % 2, "sex": np.arange(90) // 2 % 3})[0], Withheld)


def crossed(*counts: int) -> dict[str, Any]:
    """Records with two answers, a and b: neither, b alone, a alone, both; and a size."""
    n = sum(counts)
    return {"a": np.repeat([0, 0, 1, 1], counts), "b": np.repeat([0, 1, 0, 1], counts), "size": np.arange(n) * 37 % 101}


A, B, SIZE = whole("a", 0, 1), whole("b", 0, 1), whole("size", 0, 100)


def test_a_linear_regression_tells_the_cross_table_of_two_regressors() -> None:
    study = asked([SIZE, A, B], Statistic.of("linear-regression", "size", "a", "b"))
    data = crossed(19, 1, 1, 19)
    (fit,) = map(msgspec.to_builtins, all_figures(study, make_result(study, bytes(32), 4, totals(study, data))))
    # Who has the figures solves for the table: standard errors are those of the residuals by the inverse of X'X.
    seen = [one["standard_error"]["value"] / fit["residual_deviation"]["value"] for one in fit["coefficients"]]
    found = []
    for first, second, both in itertools.product(range(1, 40), range(1, 40), range(40)):
        if both <= min(first, second) and first + second - both <= 40:
            gram = np.array([[40, first, second], [first, first, both], [second, both, second]], dtype=float)
            if np.linalg.matrix_rank(gram) == 3 and np.allclose(np.sqrt(np.diag(np.linalg.inv(gram))), seen, rtol=1e-9):
                found.append((40 - first - second + both, second - both, first - both, both))
    assert found == [(19, 1, 1, 19)], "so it must not be told"
    assert "with one value of a and b" in withheld(told(study, data)[0])
    assert not isinstance(told(study, crossed(10, 9, 8, 13))[0], Withheld)


def test_a_number_is_crossed_with_a_category_by_how_many_differ_from_its_bounds() -> None:
    study = asked([SIZE, whole("a", 0, 3), SEX], Statistic.of("linear-regression", "size", "a", "sex"))
    sex, size = spread(20, 20, 20), np.arange(60) * 37 % 101
    alone = np.array([1] * 10 + [0] * 10 + [1] * 10 + [0] * 10 + [1] + [0] * 19)
    assert "with one value of a and sex" in withheld(told(study, {"size": size, "a": alone, "sex": sex})[0])
    assert not isinstance(told(study, {"size": size, "a": np.arange(60) % 4, "sex": sex})[0], Withheld)


@pytest.mark.parametrize("value", [1, 2, 40])
@pytest.mark.parametrize(("low", "high"), [(0, 3), (0, 10), (-5, 10), (0, 41)])
@pytest.mark.parametrize("rare", [1, 4])
def test_two_values_with_wider_bounds_are_still_counts(value: int, low: int, high: int, rare: int) -> None:
    value = min(value, high)
    x, y, sex = whole("x", low, high), whole("y", 0, 1000), spread(20, 20, 20)
    usual = low if value > 2 else max(low, value - 1)
    values = np.full(60, usual)
    values[:rare] = value
    data = {"x": values, "y": np.arange(60) * 37 % 101, "sex": sex}
    statistics = [Statistic.of("mean", "x"), Statistic.of("mean", "x", by="sex", id="groups")]
    statistics += [Statistic.of("covariance", "y", "x"), Statistic.of("linear-regression", "y", "x")]
    for said in told(asked([x, y, SEX], *statistics), data):
        assert "with one value of x" in withheld(said)
    data["x"] = np.where(np.arange(60) % 4 == 1, value, usual)
    assert not any(isinstance(said, Withheld) for said in told(asked([x, y, SEX], *statistics), data))


@pytest.mark.parametrize("kind", ["sum", "mean"])
def test_whole_units_of_a_fixed_point_variable_are_counts(kind: str) -> None:
    variable = Variable.number("hiv", "", 0, 1000, scale=100)
    study = asked([variable], Statistic.of(kind, "hiv"))
    assert "with one value of hiv" in withheld(told(study, {"hiv": 100 * spread(56, 4)})[0])
    assert not isinstance(told(study, {"hiv": 100 * spread(40, 20)})[0], Withheld)


def test_the_weighted_mean_of_a_rare_answer_is_a_count() -> None:
    study = asked([whole("x", 0, 9), whole("w", 0, 99)], Statistic.of("weighted-mean", "x", "w"))
    assert "with one value of x" in withheld(told(study, {"x": spread(58, 2), "w": np.ones(60, dtype=int)})[0])
    assert not isinstance(told(study, {"x": np.arange(60) % 10, "w": 1 + np.arange(60)})[0], Withheld)


MISSING = -(2**63)


def without(values: Any, *rows: int) -> Any:
    values = np.array(values)
    values[list(rows)] = MISSING
    return values


def test_a_few_records_that_a_statistic_leaves_out_do_not_follow_from_another() -> None:
    sex, size, height = replace(SEX, missing=OMIT), whole("size", 0, 1000), replace(whole("height", 0, 1000), missing=OMIT)
    numbers, groups = np.arange(60) * 17 % 1000, np.arange(60) % 3
    statistics = [Statistic.of("mean", "size"), Statistic.of("mean", "size", by="sex", id="groups")]
    study = asked([sex, size], *statistics)
    one = {"size": numbers, "sex": without(groups, 5)}
    overall, by_sex = map(msgspec.to_builtins, all_figures(study, make_result(study, bytes(32), 4, totals(study, one))))
    rest = sum(group["figures"]["n"] * group["figures"]["mean"]["value"] for group in by_sex["groups"])
    assert 60 * overall["mean"]["value"] - rest == pytest.approx(numbers[5]), "so one of both must not be told"
    mean, grouped = told(study, one)
    assert not isinstance(mean, Withheld)
    assert withheld(grouped).startswith("fewer than 5 records lack a value")
    several = told(study, {"size": numbers, "sex": without(groups, *range(6))})
    assert [msgspec.to_builtins(said).get("left_out") for said in several] == [0, 6]

    # Nine and eleven are left out: what lies between is two.
    statistics = [Statistic.of("mean", "size", by="sex"), Statistic.of("linear-regression", "size", "height", id="fit")]
    data = {"size": numbers, "sex": without(groups, *range(9)), "height": without(numbers[::-1], *range(11))}
    mean, fit = told(asked([sex, size, height], *statistics), data)
    assert not isinstance(mean, Withheld)
    assert withheld(fit) == "it has fewer than 5 records less than another statistic, and would tell theirs"


def test_nor_from_one_group_of_another() -> None:
    height = replace(whole("height", 0, 1000), missing=OMIT)
    statistics = [Statistic.of("mean", "size", by="sex"), Statistic.of("covariance", "size", "height", by="sex")]
    study = asked([SEX, whole("size", 0, 1000), height], *statistics)
    numbers, groups = np.arange(60) * 17 % 1000, spread(20, 20, 20)
    data = {"sex": groups, "size": numbers, "height": without(numbers[::-1], 0, *range(20, 26))}
    assert "fewer than 5 records less than another" in withheld(told(study, data)[1])
    data["height"] = without(numbers[::-1], *range(20, 26))
    assert not isinstance(told(study, data)[1], Withheld)


def test_what_needs_each_category_is_withheld_where_others_merge_them() -> None:
    statistics = [Statistic.of("contingency", "sex", "stage"), Statistic.of("linear-regression", "age", "stage")]
    data = table([[9, 9, 0, 0], [9, 9, 0, 0], [9, 1, 0, 0]]) | {"age": np.arange(46) % 10}
    crossed, fit = told(asked([SEX, STAGE, AGE], *statistics), data)
    assert not isinstance(crossed, Withheld)
    assert withheld(fit) == "it tells every stage on its own, of which some have fewer than 5 records"


def test_a_mean_is_withheld_where_it_would_undo_the_merger_of_bins() -> None:
    few = asked([whole("children", 0, 6)], Statistic.of("histogram", "children"), Statistic.of("mean", "children"))
    assert "with the bins of children" in withheld(told(few, {"children": spread(9, 9, 9, 9, 9, 9, 1)})[1])
    many = asked([whole("age", 0, 90)], Statistic.of("histogram", "age", bins=9), Statistic.of("mean", "age"))
    assert not isinstance(told(many, {"age": np.arange(91)})[1], Withheld)


def test_bins_that_cross_each_other_are_refused() -> None:
    study = asked([AGE], Statistic.of("histogram", "age", bins=3), Statistic.of("quantiles", "age"))
    with pytest.raises(StudyError, match=r"quantiles of age: it has other bins .* give all of them the same"):
        plan(study)
    plan(replace(study, release=UNRESTRICTED))


@pytest.mark.parametrize("rules", [Release(5, 0), Release(0, 5)])
def test_a_study_with_rules_is_for_the_hospital_alone(rules: Release) -> None:
    study = replace(question([AGE], Statistic.of("mean", "age")), publish="members", release=rules)
    with pytest.raises(StudyError, match="release: no rule holds for members, who get the exact totals"):
        plan(study)


@pytest.mark.parametrize(
    ("rules", "words"), [(Release(2, 0), "minimum_cell 2"), (Release(-1, 0), "-1"), (Release(5, 1), "round_to 1")]
)
def test_rules_that_hide_nothing_are_refused(rules: Release, words: str) -> None:
    with pytest.raises(StudyError, match=words):
        plan(replace(question([AGE], Statistic.of("mean", "age")), release=rules))


# ---- what follows from what is told


def _everything(study: Study, tables: Iterator[tuple[tuple[int, ...], tuple[Any, ...]]]) -> dict[bytes, list[tuple[int, ...]]]:
    """All tables that are told in the same words."""
    alike: dict[bytes, list[tuple[int, ...]]] = defaultdict(list)
    for cells, vectors in tables:
        result = make_result(study, bytes(32), len(study.members), tuple(np.array(vector, dtype=np.int64) for vector in vectors))
        alike[msgspec.json.encode(release(study, result))].append(cells)
    return alike


def _never_told(study: Study, tables: Iterator[tuple[tuple[int, ...], tuple[Any, ...]]], width: int = 100) -> None:
    """Who knows the rule, and all that is told, knows of no small cells, alone or together, how many records they have; and if
    they lie in one row or column of a table so wide, not even that they have any."""
    merged = 0
    for alike in _everything(study, tables).values():
        rows = np.array(alike)
        cells = range(rows.shape[1])
        # Of all cells together n is told.
        for chosen in (one for size in cells[1:] for one in itertools.combinations(cells, size)):
            together = rows[:, list(chosen)].sum(axis=1)
            if ((together > 0) & (together < study.release.minimum_cell)).any():
                assert len(set(together.tolist())) > 1, (rows[0], chosen)
                in_line = 1 in (len({cell // width for cell in chosen}), len({cell % width for cell in chosen}))
                assert not in_line or (together == 0).any(), (rows[0], chosen)
        merged += len(rows) > 1
    assert merged > 10


def _compositions(cells: int, most: int) -> Iterator[tuple[int, ...]]:
    return (counts for counts in itertools.product(range(most + 1), repeat=cells) if sum(counts) <= most)


@pytest.mark.parametrize(("least", "most"), [(3, 9), (5, 11)])
def test_no_small_group_follows_from_all_that_is_told(least: int, most: int) -> None:
    study = asked([SEX, AGE], Statistic.of("count", "age", by="sex"), cell=least)
    _never_told(study, ((counts, (counts,)) for counts in _compositions(3, most)))


def test_no_small_bin_follows_from_all_that_is_told() -> None:
    study = asked([whole("x", 0, 3)], Statistic.of("histogram", "x"), Statistic.of("mean", "x"), cell=3)

    def tables() -> Iterator[tuple[tuple[int, ...], tuple[Any, ...]]]:
        for counts in _compositions(4, 8):
            shifted = [sum(count * (place - 1) ** power for place, count in enumerate(counts)) for power in (1, 2)]
            yield counts, ((sum(counts), *counts), (sum(counts), *shifted))

    _never_told(study, tables())


def test_no_small_cell_of_a_table_follows_from_all_that_is_told() -> None:
    rows, columns = Variable.category("a", ["0", "1"]), Variable.category("b", ["0", "1"])
    statistics = [Statistic.of("contingency", "a", "b"), Statistic.of("count", "a", by="b")]

    def tables() -> Iterator[tuple[tuple[int, ...], tuple[Any, ...]]]:
        for counts in _compositions(4, 9):
            yield counts, ((sum(counts), *counts), (counts[0] + counts[2], counts[1] + counts[3]))

    _never_told(asked([rows, columns], *statistics, cell=3), tables(), width=2)


def test_the_extremes_are_no_persons_values() -> None:
    study = asked([whole("y", 0, 1000)], Statistic.of("extremes", "y"), Statistic.of("histogram", "y"))
    between = np.random.default_rng(0).integers(400, 600, 60)
    said = {
        msgspec.json.encode(told(study, {"y": np.array([least, *between, most])}))
        for least, most in [(137, 913), (0, 1000), (136, 914), (399, 605)]
    }
    assert len(said) == 1
    extremes, histogram = msgspec.json.decode(said.pop())
    assert extremes["minimum"]["value"] - extremes["minimum"]["error"] == 0
    assert extremes["maximum"]["value"] + extremes["maximum"]["error"] == 1000
    assert min(histogram["counts"]) >= 5


def test_no_time_of_a_survival_curve_is_that_of_one_person() -> None:
    time, event = whole("days", 0, 1000), Variable.category("event", ["no", "yes"])
    study = asked([time, event], Statistic.of("kaplan-meier", "days", "event"))
    days, ends = np.arange(300, 700, 4), np.arange(100) % 2
    said = {
        msgspec.json.encode(told(study, {"days": np.array([first, *days, last]), "event": np.array([1, *ends, 1])}))
        for first, last in [(10, 990), (200, 800), (299, 701)]
    }
    assert len(said) == 1


def test_statistics_of_different_records_share_their_categories() -> None:
    """Where one has none, another may have some."""
    first, second = (Variable.category(name, ["no", "yes"], missing=OMIT) for name in "ab")
    statistics = [Statistic.of("contingency", "stage", one, id=one) for one in "ab"]
    data = {"stage": spread(10, 10, 10, 10), "a": np.arange(40) // 5 % 2, "b": np.arange(40) // 5 % 2}
    data |= {"a": without(data["a"], *range(10)), "b": without(data["b"], *range(10, 20), *range(30, 40))}
    crossed = [msgspec.to_builtins(said) for said in told(asked([STAGE, first, second], *statistics), data)]
    assert [list(one["rows"]) for one in crossed] == [["I", "II", "III", "IV"]] * 2
    assert [[list(row) for row in one["counts"]] for one in crossed] == [
        [[0, 0], [5, 5], [5, 5], [5, 5]],
        [[5, 5], [0, 0], [5, 5], [0, 0]],
    ]


@quick
@given(st.lists(st.sampled_from([0, 0, 1, 2, 3, 4, 6, 9, 20]), min_size=24, max_size=24), st.integers(3, 6))
def test_no_small_cell_is_a_sum_of_told_ones(counts: list[int], least: int) -> None:
    """Tables of one study together: no small cell of any is in the space that all counts that are told span."""
    site = Variable.category("site", ["a", "b"])
    statistics = [
        Statistic.of("contingency", "sex", "stage"),
        Statistic.of("contingency", "sex", "stage", by="site", id="by-site"),
        Statistic.of("count", "sex", by="stage"),
        Statistic.of("count", "site", by="sex", id="sexes"),
    ]
    study = asked([SEX, STAGE, site], *statistics, cell=least)
    joint = np.array(counts).reshape(3, 4, 2)
    places = np.array([place for place in np.ndindex(joint.shape) for _ in range(joint[place])]).reshape(-1, 3)
    said = told(study, {"sex": places[:, 0], "stage": places[:, 1], "site": places[:, 2]})
    spanning = np.array([np.ones(24)] + [row for one in said for row in _indicators(msgspec.to_builtins(one))])
    told_counts = spanning @ joint.reshape(-1)
    assert not ((told_counts > 0) & (told_counts < least) & (told_counts != joint.sum())).any()
    cells = np.eye(24)
    margins = [
        cells.reshape(3, 4, 2, 24).sum(axis=axes).reshape(-1, 24) for axes in [(), (0,), (1,), (2,), (0, 2), (1, 2), (0, 1)]
    ]
    rank = np.linalg.matrix_rank(spanning)
    for cell in np.concatenate(margins[3:6]):
        if 0 < cell @ joint.reshape(-1) < least:
            assert np.linalg.matrix_rank(np.vstack([spanning, cell])) > rank


def _indicators(said: Any) -> Iterator[Any]:
    """Over the joint table, which cells each count that is told adds up."""
    if said["kind"] == "withheld":
        return
    for group in said["groups"] if said["kind"] == "grouped" else [{"category": None, "figures": said}]:
        here = {said.get("by"): group["category"]}
        inner = group["figures"]
        if inner["kind"] == "count":
            yield _indicator(here)
        else:
            for row, column in itertools.product(inner["rows"], inner["columns"]):
                yield _indicator(here | {"sex": row, "stage": column})


def _indicator(names: dict[Any, Any]) -> Any:
    table = np.ones((3, 4, 2))
    for axis, (name, categories) in enumerate([("sex", "f m x"), ("stage", "I II III IV"), ("site", "a b")]):
        if name in names:
            chosen = np.isin(categories.split(), names[name].split(" or "))
            table *= chosen.reshape([-1 if at == axis else 1 for at in range(3)])
    return table.reshape(-1)
