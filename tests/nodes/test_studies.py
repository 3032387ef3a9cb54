"""Study files: defaults, and each mistake with its line, the arithmetic included."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpc.errors import StudyError
from mpc.study import UNRESTRICTED, Release, Statistic, Study, Variable
from nodes.schedule import Schedule
from nodes.studies import load_studies, load_study

STUDY = """\
id: pressure
title: Mean pressure
purpose: Quality report
variables:
  - name: systolic
    bounds: [0, 300]
statistics:
  - kind: sum
    variable: systolic
cohort:
  members: [charlie, alice, bob]
"""


def _uri(name: str) -> str:
    return f"spiffe://demo/patient/{name}"


def test_a_study_is_read_with_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(STUDY)
    assert load_study(path, "demo").study == Study(
        id="pressure",
        title="Mean pressure",
        purpose="Quality report",
        variables=(Variable.number("systolic", "", 0, 300, 1),),
        statistics=(Statistic.of("sum", "systolic"),),
        members=(_uri("alice"), _uri("bob"), _uri("charlie")),
        minimum=3,
        range=None,
        assume_in_range=False,
        publish="hospital",
        answer_within=30,
        ready_within=48,
        deadline=60,
        records=1,
        legal_basis="",
        release=UNRESTRICTED,
    )


def test_everything_can_be_said(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        STUDY.replace("bounds: [0, 300]", "bounds: [-5, 300]\n    unit: mmHg\n    length: 4").replace("bob]", "bob, dan]")
        + "  minimum: 3\nrange: 500\nassume_in_range: true\npublish: members\n"
        "deadline: 10\nanswer_within: 1\nready_within: 2\nlegal_basis: Consent\n"
        "schedule: {cron: 0 6 * * mon}\ntopology: direct\n"
    )
    planned = load_study(path, "demo", dict.fromkeys(("alice", "bob", "charlie", "dan"), "https://a:1"))
    study = planned.study
    assert study.variables == (Variable.number("systolic", "mmHg", -5, 300, 4),)
    assert (study.legal_basis, planned.path, planned.file.schedule) == ("Consent", path, Schedule(cron="0 6 * * mon"))
    assert (study.minimum, len(study.members), study.range, study.assume_in_range) == (3, 4, 500, True)
    assert (study.publish, study.deadline, study.answer_within, study.ready_within) == ("members", 10, 1, 2)


def test_release_rules_are_part_of_the_question(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(STUDY + "release: {minimum_cell: 5, round_to: 10}\n")
    assert load_study(path, "demo").study.release == Release(5, 10)


VISITS = """\
id: visits
title: Visits
purpose: Quality report
records: 5000
variables:
  - {name: weight, unit: kg, type: fixed, scale: 10, bounds: [0.5, 300], code: LOINC 29463-7, missing: omit}
  - {name: ward, type: category, categories: [north, south]}
  - {name: age, bounds: [0, 120]}
statistics:
  - {kind: histogram, variable: weight, id: shape, by: ward, edges: [40, 62.5, 90]}
  - {kind: quantiles, variable: age, bins: 60, quantiles: [0.1, 0.5, 1]}
  - {kind: linear-regression, variable: weight, others: [age, ward], level: 0.99}
cohort:
  members: [alice, bob, charlie]
"""


def test_statistics_and_variables_of_every_kind_are_read_in_their_steps(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(VISITS)
    study = load_study(path, "demo").study
    assert study.records == 5000
    assert study.variables == (
        Variable.number("weight", "kg", 5, 3000, scale=10, code="LOINC 29463-7", missing="omit"),
        Variable.category("ward", ("north", "south")),
        Variable.number("age", "", 0, 120),
    )
    assert study.statistics == (
        Statistic.of("histogram", "weight", id="shape", by="ward", edges=(400, 625, 900)),
        Statistic.of("quantiles", "age", bins=60, quantiles=(100_000, 500_000, 1_000_000)),
        Statistic.of("linear-regression", "weight", "age", "ward", level=990_000),
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[0.5, 300]", "[0.55, 300]", "6: variables[0].bounds[0]: is no whole number of steps of 1/10; change it or the scale"),
        ("scale: 10, ", "", "6: variables[0]: is a fixed-point number without a scale; add one, 10 for one decimal"),
        ("bounds: [0, 120]", "unit: a", "8: variables[2]: has no bounds; add them: [smallest, largest]"),
        ("[north, south]", "[north, south], bounds: [0, 1]", "7: variables[1].bounds: a category has none; remove them"),
        ("[north, south]", "[north]", "7: variable ward: its 1 categories are numbered from 0; give at least two"),
        ("type: category", "type: kind", "7: variables[1].type: must be one of category, fixed, integer; choose one"),
        ("missing: omit", "missing: guess", "6: variables[0].missing: must be one of omit, refuse; choose one"),
        ("62.5", "62.55", "10: statistics[0].edges[1]: is no whole number of steps of 1/10; change it or the scale of weight"),
        ("quantiles: [0.1, 0.5, 1]", "quantiles: [0.1, 2]", "11: statistics[1].quantiles[1]: "),
        ("level: 0.99", "level: 1.0", "12: linear-regression of 'weight': a confidence level lies between 0 and 1"),
        ("records: 5000", "records: 0", "4: records: is too small; give 1 or more"),
        ("records: 5000", "records: 5000000000", "4: records 5000000000 must lie between 1 and 1000000000"),
        ("others: [age, ward]", "others: [age, sex]", "12: linear-regression of 'weight': there is no variable 'sex'"),
        ("bins: 60", "bins: 60, edges: [1, 2]", "11: study visits: quantiles of age: it has both bins and edges; give one"),
        (
            "{name: age, bounds: [0, 120]}",
            "{name: age, bounds: [0, 1000000000]}",
            "12: study visits: linear-regression of weight: squares: 3 members x 5000 records x 250000000000000000 = ",
        ),
    ],
)
def test_a_mistake_in_a_statistic_is_told_with_its_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in VISITS
    path = tmp_path / "a.yaml"
    path.write_text(VISITS.replace(old, new, 1))
    with pytest.raises(StudyError) as caught:
        load_study(path, "demo")
    found = [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]
    assert any(problem.startswith(expected) for problem in found), found


MISTAKES = [
    ("id: pressure", "id: Pressure", "1: id 'Pressure': use lower-case letters"),
    ("id: pressure", "id: 12:30", "1: id: must be text, but YAML reads a whole number (digits with colons"),
    ("bounds: [0, 300]", "bounds: [0, 30O]", "6: variables[0].bounds[1]: must be a whole number or a number, but YAML reads"),
    ("bounds: [0, 300]", "bounds: [300, 300]", "5: variable systolic: bounds [300, 300] must rise"),
    ("bounds: [0, 300]", "bounds: [0, 300]\n    length: 0", "7: variables[0].length: is too small; give 1 or more"),
    ("kind: sum", "kind: mode", "8: study pressure: there is no statistic 'mode'; this version computes sum"),
    ("    variable: systolic", "    variable: weight", "8: sum of 'weight': no such variable"),
    ("  - kind: sum\n    variable: systolic", "  []", "7: it asks for no statistic; add one under 'statistics'"),
    ("bob]", "bob, bob]", "11: spiffe://demo/patient/bob is a member twice; name each patient once"),
    (", bob]", "]", "11: 2 patients are too few: with fewer than 3 the sum gives values away; name at least 3"),
    ("bob]", "Bob]", "11: cohort.members[2]: 'Bob' is not a name"),
    ("bob]\n", "bob]\n  minimum: 2\n", "12: minimum 2 must lie between 3 and the 3 members named"),
    ("bob]\n", "bob]\nrange: 0\n", "12: range 0 must be positive and at most 2^63 - 1"),
    ("bob]\n", "bob]\nrange: 9223372036854775808\n", "12: range: is too large; give 9223372036854775807 or less"),
    ("bob]\n", "bob]\nassume_in_range: true\n", "12: assume_in_range is set but no range is given"),
    ("bob]\n", "bob]\npublish: everybody\n", "12: publish: must be one of hospital, members; choose one"),
    ("bob]\n", "bob]\ndeadline: 2\n", "12: answer_within 1 s, ready_within 1 s and deadline 2 s must be positive"),
    ("bob]\n", "bob]\nrelease: {minimum_cell: 2}\n", "12: release: minimum_cell 2 must lie between 3 and 1000000000, or be 0"),
    ("bob]\n", "bob]\nrelease: {minimum: 2}\n", "12: release.minimum: is not a known key; did you mean 'minimum_cell'?"),
    ("bob]\n", "bob]\nrelease: {round_to: 9}\npublish: members\n", "12: release: no rule holds for members, who get the exact"),
    ("bob]\n", "bob]\ntopology: ring\n", "12: topology: must be one of direct, relay; choose one"),
    ("bob]\n", "bob]\nschedule: {}\n", "12: schedule: has no time; give exactly one of once, cron, every"),
    ("bob]\n", "bob]\nschedule: {every: 1d, once: 2026-03-02}\n", "12: schedule.once: must be text, but YAML reads a date"),
    ("bob]\n", "bob]\nschedule: {cron: 0 25 * * *}\n", "12: schedule.cron: hour '25' must lie between 0 and 23, and a range"),
    (
        "bob]\n",
        "bob]\nrange: 899\n",
        "12: study pressure: sum of systolic: 3 members x 300 = 900 is above the range 899",
    ),
    (
        "bounds: [0, 300]",
        "bounds: [0, 9223372036854775807]",
        "8: study pressure: sum of systolic: 3 members x 9223372036854775807 = 27670116110564327421 is above 2^63 - 1",
    ),
]


@pytest.mark.parametrize(("old", "new", "expected"), MISTAKES)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in STUDY
    path = tmp_path / "a.yaml"
    path.write_text(STUDY.replace(old, new, 1))
    with pytest.raises(StudyError) as caught:
        load_study(path, "demo")
    found = [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]
    assert any(problem.startswith(expected) for problem in found), found


@pytest.mark.parametrize(
    ("statistics", "expected"),
    [
        ("[{kind: sum, variable: systolic}, {kind: sum, variable: systolic}]", "7: sum of 'systolic' is asked twice; remove one"),
        (
            "[{kind: sum, variable: systolic, id: a}, {kind: count, variable: systolic, id: a}]",
            "7: it has two statistics with the id 'a'; give each its own",
        ),
        (
            "\n  - {kind: mean, variable: systolic}\n  - {kind: mean, variable: systolic, id: b, bins: 4}",
            "9: study pressure: mean of systolic: 'bins' means nothing here; remove it",
        ),
        (
            "\n  - {kind: mean, variable: systolic}\n  - {kind: mode, variable: systolic}\n  - {kind: sum, variable: pulse}",
            "9: study pressure: there is no statistic 'mode'; this version computes ",
        ),
        (
            "\n  - {kind: histogram, variable: systolic, bins: 3}\n  - {kind: quantiles, variable: systolic, bins: 4, "
            "quantiles: [0.5]}\nrelease: {minimum_cell: 3}",
            "9: study pressure: quantiles of systolic: it has other bins than another statistic of systolic",
        ),
        (
            "\n  - {kind: mean, variable: systolic}\n  - {kind: mode, variable: systolic}\n  - {kind: sum, variable: pulse}",
            "10: sum of 'pulse': no such variable; it has systolic",
        ),
    ],
)
def test_of_several_statistics_the_wrong_one_is_told(tmp_path: Path, statistics: str, expected: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(STUDY.replace("statistics:\n  - kind: sum\n    variable: systolic", f"statistics: {statistics}"))
    with pytest.raises(StudyError) as caught:
        load_study(path, "demo")
    found = [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]
    assert any(problem.startswith(expected) for problem in found), found


@pytest.mark.parametrize(
    ("topology", "places", "expected"),
    [
        ("relay", {"alice": "relay", "bob": "relay", "charlie": "https://c:1"}, ["charlie is reached directly"]),
        ("direct", {"alice": "relay", "bob": "relay"}, ["charlie has no", "alice is reached through", "bob is reached through"]),
        ("relay", {"alice": "relay", "bob": "relay", "charlie": "relay"}, []),
    ],
)
def test_members_must_be_reached_as_the_study_says(
    tmp_path: Path, topology: str, places: dict[str, str], expected: list[str]
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(STUDY + f"topology: {topology}\n")
    if not expected:
        assert load_study(path, "demo", places).file.topology == topology
        return
    with pytest.raises(StudyError) as caught:
        load_study(path, "demo", places)
    found = str(caught.value).splitlines()
    assert len(found) == len(expected)
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(f"{path}:11: {start}")


def test_the_studies_of_a_directory_are_found_by_their_ids(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(STUDY)
    (tmp_path / "b.yaml").write_text(STUDY.replace("id: pressure", "id: other"))
    (tmp_path / "README.md").write_text("not a study")
    assert {name: planned.study.id for name, planned in load_studies(tmp_path, "demo").items()} == {
        "pressure": "pressure",
        "other": "other",
    }


def test_the_problems_of_all_files_come_together(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(STUDY)
    (tmp_path / "b.yaml").write_text(STUDY)
    (tmp_path / "c.yaml").write_text(STUDY.replace("purpose", "porpoise"))
    (tmp_path / "d.yml").write_text(STUDY)
    with pytest.raises(StudyError) as caught:
        load_studies(tmp_path, "demo")
    assert str(caught.value).splitlines() == [
        f"{tmp_path}/b.yaml: study 'pressure' is in {tmp_path}/a.yaml too; give each study its own id",
        f"{tmp_path}/c.yaml:1: purpose: is missing; add it (text)",
        f"{tmp_path}/c.yaml:3: porpoise: is not a known key; did you mean 'purpose'?",
        f"{tmp_path}/d.yml: a study's file ends in .yaml; rename it",
    ]


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"none: cannot be listed \(No such file or directory\); make the directory"):
        load_studies(tmp_path / "none", "demo")
