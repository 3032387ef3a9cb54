"""What a study asks and reveals, in words, and what it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from mpc.messages import Kind
from mpc.statistics import make_layout
from nodes.cost import cost
from nodes.description import describe
from nodes.studies import load_study
from tests.mpc.nodes import study
from tests.mpc.world import World

VISITS = """\
id: visits
title: Visits
purpose: Quality report
legal_basis: Consent of each practice
records: 5000
variables:
  - {name: weight, unit: kg, type: fixed, scale: 10, bounds: [0.5, 300], code: LOINC 29463-7, missing: omit}
  - {name: ward, type: category, categories: [north, south]}
  - {name: ill, type: category, categories: [healthy, ill]}
  - {name: age, bounds: [0, 120]}
  - {name: steps, unit: steps, bounds: [-3, 100000], length: 7}
statistics:
  - {kind: histogram, variable: weight, id: shape, by: ward, edges: [40, 62.5, 90]}
  - {kind: quantiles, variable: age, bins: 60, quantiles: [0.1, 0.5, 1]}
  - {kind: logistic-regression, variable: ill, others: [weight, ward], level: 0.99}
  - {kind: sum, variable: steps}
cohort: {members: [alice, bob, charlie, dora], minimum: 3}
release: {minimum_cell: 5}
schedule: {every: 7d}
deadline: 100
"""


@pytest.fixture
def words(tmp_path: Path) -> dict[str, list[str]]:
    path = tmp_path / "a.yaml"
    path.write_text(VISITS)
    return dict(describe(load_study(path, "demo")))


def test_what_is_asked_of_whom(words: dict[str, list[str]]) -> None:
    assert words["study"] == ["visits: Visits"]
    assert (words["what for"], words["legal basis"]) == (["Quality report"], ["Consent of each practice"])
    assert words["asks"] == [
        "4 patients: alice, bob, charlie, dora; at least 3 must take part",
        "up to 5,000 records each: a practice; of every record:",
        "- weight (LOINC 29463-7): a number in steps of 1/10, 0.5 to 300 kg; a record without it is left out",
        "- ward: one of north, south; must not be missing",
        "- ill: one of healthy, ill; must not be missing",
        "- age: a whole number, 0 to 120; must not be missing",
        "- steps: a whole number, -3 to 100,000 steps, 7 of them; must not be missing",
    ]
    assert words["rounds"] == [
        "one for each step of the fit, often 5 to 10, at most 25; all over the members of the first",
        "schedule: every 7d",
        "answers within 50 s, shares within 80 s, an end within 100 s",
    ]


def test_what_is_computed_and_revealed(words: dict[str, list[str]]) -> None:
    assert words["computes"] == [
        "shape: histogram of weight, for each ward (2 groups), in 2 given bins",
        "quantiles-age: quantiles of age, in 60 bins, at 0.1, 0.5, 1",
        "logistic-regression-ill: logistic-regression of ill with weight, ward, intervals of 0.99",
        "sum-steps: sum of steps",
    ]
    assert words["the hospital sees"] == [
        "of all together, and of nobody alone:",
        "- shape: the number of records, the count in each bin, in each group, and how many records were left out",
        "- quantiles-age: the number of records, the count in each bin",
        "- logistic-regression-ill: the number of records, the number of events and, at the coefficients of the round, "
        "log-likelihood, gradient and Hessian, and how many records were left out",
        "- sum-steps: the number of records, the sum",
        "who took part, who did not, and when",
    ]
    assert words["members see"] == ["nothing of the result, only that there is one"]
    assert words["release"] == ["nothing is told of fewer than 5 records"]


def test_the_rings_are_those_of_the_round(words: dict[str, list[str]], tmp_path: Path) -> None:
    layout = make_layout(load_study(tmp_path / "a.yaml", "demo").study)
    assert words["rings"][-1] == f"together {layout.length:,} numbers, {layout.octets:,} bytes"
    # Of 4 x 5000 records: a count needs 15 bits.
    assert words["rings"][0].endswith(" numbers modulo 20,001, 2 bytes each")
    assert len(words["rings"]) == len(layout.segments) + 1


def test_a_person_and_a_published_result(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    text = "id: a\ntitle: T\npurpose: P\npublish: members\nvariables: [{name: x, bounds: [0, 9]}]\n"
    path.write_text(text + "statistics: [{kind: sum, variable: x}]\ncohort: {members: [alice, bob, charlie]}\n")
    words = dict(describe(load_study(path, "demo")))
    assert words["asks"][1] == "one record each: a person; of every record:"
    assert words["legal basis"] == ["not stated"]
    assert words["rounds"][:2] == ["one", "schedule: when a person opens one"]
    assert words["members see"] == ["the result; all but one of them together can then work out the last one's part"]
    assert words["the hospital sees"][1] == "- sum-x: the sum"


@pytest.mark.parametrize(
    ("names", "length"), [(("alice", "bob", "charlie"), 1), (tuple("abcdefgh"), 1), (("a", "b", "c"), 20_000)]
)
def test_the_cost_is_near_that_of_a_round(names: tuple[str, ...], length: int) -> None:
    """Envelopes alone are counted here; HTTP and TLS add some hundred bytes to each."""
    asked = study(*names, length=length)
    world = World(asked, {name: [1] * length for name in names})
    world.open()
    world.run()
    found = cost(asked, make_layout(asked))
    sent = sum(len(letter.raw) for letter in world.sent if letter.sender.name == names[0])
    received = sum(len(letter.raw) for letter in world.sent if letter.recipient.name == names[0])
    messages = 2 * len(names) + 6
    assert sent < found.sent < sent + 500 * messages
    assert received < found.received < received + 700 * messages
    assert [letter.kind for letter in world.sent].count(Kind.RECEIPT) == len(names)


def test_seconds_grow_with_members_and_length() -> None:
    small, wide = study("a", "b", "c"), study(*(f"p{number:02}" for number in range(50)))
    long = replace(small, variables=(replace(small.variables[0], length=10**6),))
    seconds = [cost(asked, make_layout(asked)) for asked in (small, wide, long)]
    assert seconds[0].together < 0.1
    assert 2 < seconds[1].together < 5  # benchmarks/README.md: 3 s
    assert 0.1 < seconds[2].together < 0.3  # ... 0.15 to 0.2 s
    assert all(one.apart <= one.together * 2 for one in seconds)
