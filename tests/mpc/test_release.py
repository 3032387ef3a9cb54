"""What a release rule lets through: no small cell, and nothing from which one follows, even for who knows the rule."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
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
from mpc.study import OMIT, UNRESTRICTED, Release, Statistic, Study, Variable
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
    assert histogram["edges"] == (0, 1, 3, 4, 5, 10)
    assert histogram["counts"] == (0, 6, 5, 0, 11)
    # The eleventh and twelfth of 22 lie in the bins 3 and 5 to 9.
    assert (median["values"][0]["value"], median["values"][0]["error"]) == (5.0, 1.0)


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
    assert said.tables() == ()
    return said.reason


def test_nothing_is_told_of_too_few_records() -> None:
    age = replace(AGE, missing=OMIT)
    study = asked([age, SEX], Statistic.of("mean", "age"), Statistic.of("count", "sex"))
    mean, count = told(study, {"age": np.array([1, 2, 3, 4, -(2**63)]), "sex": np.zeros(5, dtype=int)})
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
    assert "with one value of sex" in withheld(told(study, {"ill": np.arange(60) % 2, "sex": spread(35, 15, 10)})[0])
    assert not isinstance(told(study, {"ill": np.arange(90) % 2, "sex": np.arange(90) // 2 % 3})[0], Withheld)


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


def _never_told(study: Study, tables: Iterator[tuple[tuple[int, ...], tuple[Any, ...]]]) -> None:
    """Who knows the rule, and all that is told, knows of no small cell how many records it has."""
    merged = 0
    for alike in _everything(study, tables).values():
        rows = np.array(alike)
        known = (rows == rows[0]).all(axis=0)
        small = (rows[0] > 0) & (rows[0] < study.release.minimum_cell)
        assert not (known & small).any(), rows[0]
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

    _never_told(asked([rows, columns], *statistics, cell=3), tables())


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
