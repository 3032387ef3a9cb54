"""Study files: defaults, and each mistake with its line, the arithmetic included."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpc.errors import StudyError
from mpc.study import Statistic, Study, Variable
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
    assert load_study(path, "demo") == Study(
        id="pressure",
        title="Mean pressure",
        purpose="Quality report",
        variables=(Variable("systolic", "", 0, 300, 1),),
        statistics=(Statistic("sum", "systolic"),),
        members=(_uri("alice"), _uri("bob"), _uri("charlie")),
        minimum=3,
        range=None,
        assume_in_range=False,
        publish="hospital",
        answer_within=30,
        ready_within=48,
        deadline=60,
    )


def test_everything_can_be_said(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        STUDY.replace("bounds: [0, 300]", "bounds: [-5, 300]\n    unit: mmHg\n    length: 4").replace("bob]", "bob, dan]")
        + "  minimum: 3\nrange: 500\nassume_in_range: true\npublish: members\n"
        "deadline: 10\nanswer_within: 1\nready_within: 2\n"
    )
    study = load_study(path, "demo")
    assert study.variables == (Variable("systolic", "mmHg", -5, 300, 4),)
    assert (study.minimum, len(study.members), study.range, study.assume_in_range) == (3, 4, 500, True)
    assert (study.publish, study.deadline, study.answer_within, study.ready_within) == ("members", 10, 1, 2)


MISTAKES = [
    ("id: pressure", "id: Pressure", "1: id 'Pressure': use lower-case letters"),
    ("id: pressure", "id: 12:30", "1: id: must be text, but YAML reads a whole number (digits with colons"),
    ("bounds: [0, 300]", "bounds: [0, 30O]", "6: variables[0].bounds[1]: must be a whole number, but YAML reads text"),
    ("bounds: [0, 300]", "bounds: [300, 300]", "4: variable systolic: bounds [300, 300] must rise"),
    ("bounds: [0, 300]", "bounds: [0, 300]\n    length: 0", "7: variables[0].length: is too small; give 1 or more"),
    ("kind: sum", "kind: mode", "4: study pressure: there is no statistic 'mode'; this version computes sum"),
    ("    variable: systolic", "    variable: weight", "7: sum of 'weight': no such variable"),
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
    (
        "bob]\n",
        "bob]\nrange: 899\n",
        "12: study pressure: sum of systolic: 3 members x 300 = 900 is above the range 899",
    ),
    (
        "bounds: [0, 300]",
        "bounds: [0, 9223372036854775807]",
        "4: study pressure: sum of systolic: 3 members x 9223372036854775807 = 27670116110564327421 is above 2^63 - 1",
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


def test_the_studies_of_a_directory_are_found_by_their_ids(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(STUDY)
    (tmp_path / "b.yaml").write_text(STUDY.replace("id: pressure", "id: other"))
    (tmp_path / "README.md").write_text("not a study")
    assert {name: study.id for name, study in load_studies(tmp_path, "demo").items()} == {
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
