"""A study says what is wrong with it, all at once, and nothing that is wrong passes."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from mpc.errors import MessageRefused, StudyError
from mpc.study import Statistic, Study, Variable, check_study, problems
from mpc.wire import decode_payload, encode
from tests.mpc.nodes import HOSPITAL, patient, study

GOOD = study("alice", "bob", "charlie")


def variable(**changes: Any) -> Variable:
    return replace(GOOD.variables[0], **changes)


def with_variables(*variables: Variable) -> Study:
    return replace(GOOD, variables=variables, statistics=tuple(Statistic.of("sum", name) for name in {v.name for v in variables}))


def test_a_good_study_has_no_problem() -> None:
    assert problems(GOOD) == []
    check_study(GOOD)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (replace(GOOD, id=""), "id '': use lower-case"),
        (replace(GOOD, id="Blood Pressure"), "id 'Blood Pressure': use lower-case"),
        (replace(GOOD, id="a" * 64), "use lower-case"),
        (replace(GOOD, id="a\n"), "use lower-case"),
        (replace(GOOD, publish="everyone"), "publish 'everyone': say hospital or members"),
        (with_variables(variable(name="1st")), "a name begins with a letter"),
        (with_variables(variable(name="a b")), "a name begins with a letter"),
        (with_variables(variable(), variable()), "variable 'value' is there twice"),
        (with_variables(variable(minimum=5, maximum=5)), r"bounds \[5, 5\] must rise"),
        (with_variables(variable(minimum=6, maximum=5)), r"bounds \[6, 5\] must rise"),
        (with_variables(variable(maximum=2**63)), "must rise and lie within"),
        (with_variables(variable(minimum=-(2**63) - 1)), "must rise and lie within"),
        (with_variables(variable(length=0)), "length 0 must be at least 1"),
        (with_variables(variable(length=-1)), "length -1 must be at least 1"),
        (replace(GOOD, statistics=()), "asks for no statistic; add one"),
        (replace(GOOD, statistics=GOOD.statistics * 2), "sum of 'value' is asked twice; remove one"),
        (
            replace(GOOD, statistics=(*GOOD.statistics, Statistic.of("sum", "height"))),
            "sum of 'height': no such variable; it has value",
        ),
        (replace(GOOD, variables=(*GOOD.variables, variable(name="height"))), "variable 'height' is asked for but no statistic"),
        (replace(GOOD, members=(HOSPITAL.uri, *GOOD.members)), "is no patient; only patients are members"),
        (replace(GOOD, members=(*GOOD.members, GOOD.members[-1])), "charlie is a member twice; name each patient once"),
        (replace(GOOD, members=GOOD.members[:2]), "2 patients are too few"),
        (replace(GOOD, members=()), "0 patients are too few"),
        (replace(GOOD, members=(GOOD.members[0],) * 3), "1 patients are too few"),
        (replace(GOOD, members=GOOD.members[::-1]), "not in order; sort them"),
        (replace(GOOD, minimum=2), "minimum 2 must lie between 3 and the 3 members"),
        (replace(GOOD, minimum=0), "minimum 0 must lie between"),
        (replace(GOOD, minimum=4), "minimum 4 must lie between 3 and the 3"),
        (replace(GOOD, range=0), "range 0 must be positive"),
        (replace(GOOD, range=-5), "range -5 must be positive"),
        (replace(GOOD, range=2**63), r"must be positive and at most 2\^63 - 1"),
        (replace(GOOD, assume_in_range=True), "assume_in_range is set but no range is given"),
        (replace(GOOD, records=0), "records 0 must lie between 1 and 1000000000"),
        (replace(GOOD, records=10**9 + 1), "records 1000000001 must lie between 1"),
        (with_variables(variable(type="float")), "type 'float': say integer, fixed, category"),
        (with_variables(variable(missing="guess")), "missing 'guess': say refuse or omit"),
        (with_variables(variable(type="fixed", scale=0)), "scale 0 must lie between 1 and"),
        (with_variables(variable(scale=10)), "only the type 'fixed' has a scale; remove it or change the type"),
        (with_variables(variable(categories=("a", "b"))), "only the type 'category' has categories"),
        (with_variables(Variable.category("ward", ("a",))), "its 1 categories are numbered from 0; give at least two"),
        (with_variables(replace(Variable.category("ward", ("a", "b")), maximum=2)), "2 categories are numbered from 0"),
        (with_variables(replace(Variable.category("ward", ("a", "b")), length=2)), "a category has the length 1"),
        (with_variables(Variable.category("ward", ("a", "b", "a"))), "category 'a' is there twice"),
        (with_variables(Variable.category("ward", ("a", ""))), "a category without a name means a missing value"),
        (replace(GOOD, statistics=(Statistic.of("sum", "value", id="1st"),)), "id '1st': begin with a letter"),
        (replace(GOOD, statistics=(Statistic.of("sum", "value", id="a"),) * 2), "two statistics with the id 'a'"),
        (replace(GOOD, statistics=(Statistic.of("mean", "value", "age"),)), "mean of 'value': there is no variable 'age'"),
        (replace(GOOD, statistics=(Statistic.of("mean", "value", by="ward"),)), "there is no variable 'ward'"),
        (replace(GOOD, statistics=(Statistic.of("mean", "value", "value"),)), "it names 'value' twice; once is enough"),
        (replace(GOOD, statistics=(Statistic.of("mean", "value", level=0),)), "a confidence level lies between 0 and 1"),
        (replace(GOOD, statistics=(Statistic.of("mean", "value", level=10**6),)), "a confidence level lies between 0 and 1"),
        (replace(GOOD, answer_within=0), "must be positive and in this order"),
        (replace(GOOD, ready_within=20), "must be positive and in this order"),
        (replace(GOOD, deadline=40), "must be positive and in this order"),
    ],
)
def test_each_problem_is_said_with_what_to_do(wrong: Study, text: str) -> None:
    with pytest.raises(StudyError, match=text):
        check_study(wrong)


@pytest.mark.parametrize("uri", ["alice", "", "spiffe://demo/doctor/who", "spiffe://demo/patient/Alice", "x\n"])
def test_a_member_that_is_no_identity_is_a_problem_like_any_other(uri: str) -> None:
    """It may come in an Invitation, so it must be no other kind of error."""
    with pytest.raises(StudyError, match="study pressure: "):
        check_study(replace(GOOD, members=tuple(sorted((*GOOD.members, uri)))))


def test_every_problem_is_listed_at_once() -> None:
    wrong = replace(GOOD, id="A", publish="x", minimum=1, range=0, deadline=1)
    with pytest.raises(StudyError) as caught:
        check_study(wrong)
    assert len(str(caught.value).splitlines()) == 5


def test_bounds_may_reach_both_ends_of_64_bits_but_for_the_one_that_means_missing() -> None:
    assert problems(with_variables(variable(minimum=-(2**63) + 1, maximum=2**63 - 1))) == []
    (problem,) = problems(with_variables(variable(minimum=-(2**63), maximum=2**63 - 1)))
    assert "must rise and lie within [-2^63 + 1, 2^63 - 1]" in problem


def test_one_statistic_may_be_asked_twice_under_different_ids() -> None:
    twice = (Statistic.of("mean", "value"), Statistic.of("mean", "value", id="again", level=990_000))
    assert problems(replace(GOOD, statistics=twice)) == []


def test_variables_are_made_with_the_little_that_they_need() -> None:
    assert Variable.number("x", "kg", 0, 9) == Variable("x", "kg", 0, 9, 1, "integer", 1, (), "", "refuse")
    fixed = Variable("x", "kg", 0, 90, 2, "fixed", 10, (), "LOINC 1", "omit")
    assert Variable.number("x", "kg", 0, 90, 2, scale=10, code="LOINC 1", missing="omit") == fixed
    assert Variable.category("w", ["a", "b"]) == Variable("w", "", 0, 1, 1, "category", 1, ("a", "b"), "", "refuse")


def test_a_variable_is_found_by_name() -> None:
    assert GOOD.variable("value") is GOOD.variables[0]
    with pytest.raises(StudyError, match="there is no variable 'weight'; it has value"):
        GOOD.variable("weight")


def test_members_are_patients_of_any_number_from_three() -> None:
    assert problems(study(*(f"p{number:03}" for number in range(100)))) == []
    assert patient("p000").uri in study("p000", "p001", "p002").members


def test_a_study_with_a_thousand_mistakes_is_refused_in_few_words() -> None:
    # A peer's Invitation may hold it; with all names in each of the texts they would have 60 MB together.
    names = [f"{'n' * 55}{number:04d}" for number in range(1000)]
    variables = tuple(Variable.number(name, "", 0, 1) for name in names)
    statistics = tuple(Statistic.of("sum", name.replace("n", "m")) for name in names)
    wrong = problems(replace(GOOD, variables=variables, statistics=statistics))
    assert len(wrong) == 2000
    assert sum(map(len, wrong)) < 1_500_000
    assert wrong[0].endswith(f"no such variable; it has {', '.join(names[:10])} and 990 more")


@pytest.mark.parametrize(
    "long",
    [
        replace(GOOD, id="a" * 64),
        replace(GOOD, publish="a" * 64),
        replace(GOOD, variables=(variable(name="a" * 64),)),
        replace(GOOD, statistics=(Statistic.of("a" * 64, "value"),)),
        replace(GOOD, statistics=(Statistic.of("sum", "a" * 64),)),
    ],
)
def test_a_word_that_no_study_may_have_is_not_even_read(long: Study) -> None:
    with pytest.raises(MessageRefused, match="payload"):
        decode_payload(encode(long), Study)
    assert decode_payload(encode(GOOD), Study) == GOOD


def test_a_study_of_more_members_or_variables_than_a_round_takes_is_refused() -> None:
    crowd = tuple(f"spiffe://demo/patient/p{number:04d}" for number in range(1001))
    assert "1001 members are too many; at most 1000 fit one round" in problems(replace(GOOD, members=crowd))
    many = tuple(Variable.number(f"v{number}", "", 0, 1, 1) for number in range(1001))
    assert "1001 variables are too many; at most 1000 fit one round" in problems(replace(GOOD, variables=many))
