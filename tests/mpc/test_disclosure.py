"""A patient's refusals: each has its reason, and none can depend on the value."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import msgspec
import pytest

from mpc import disclosure
from mpc.disclosure import Bounds, Categories, Policy, refuse_invitation, refuse_roster
from mpc.identity import Credential, Identity
from mpc.messages import Invitation, SegmentShape
from mpc.statistics import plan
from mpc.study import Statistic, Study, Variable
from mpc.wire import encode
from tests.mpc.nodes import BOUND, HOSPITAL, NOW, ROUND, credential, keyring, patient, policy, study

ME = patient("alice")
ASKED = study("alice", "bob", "charlie")


@dataclass
class Ledger:
    """So much has gone before."""

    rounds: int = 0
    invitations: int = 0
    since: float = 0.0

    def open_rounds(self) -> int:
        return self.rounds

    def invitations_since(self, time: float) -> int:
        self.since = time
        return self.invitations


def invitation(asked: Study = ASKED, **changes: Any) -> Invitation:
    segments = tuple(SegmentShape(segment.modulus, segment.length) for segment in plan(asked))
    content = Invitation(
        version_min=1,
        version_max=1,
        round=ROUND,
        nonce=bytes(32),
        hospital=HOSPITAL.uri,
        study=encode(asked),
        encoding="statistics/1",
        segments=segments,
        floor=asked.minimum,
        answer_by=int(NOW) + 20,
        ready_by=int(NOW) + 40,
        deadline=int(NOW) + 60,
        key_statement=keyring(HOSPITAL).encryption.statement,
        round_key=bytes(32),
    )
    return msgspec.structs.replace(content, **changes)


def decide(
    asked: Study = ASKED,
    *,
    rules: Policy | None = None,
    ledger: Ledger | None = None,
    me: Identity = ME,
    now: float = NOW,
    message: Invitation | None = None,
    **changes: Any,
) -> str:
    message = message or invitation(asked, **changes)
    return refuse_invitation(rules or policy(), ledger or Ledger(), me, message, asked, now)


def test_a_study_within_the_policy_is_consented_to() -> None:
    assert decide() == ""


def test_a_round_that_would_stay_open_too_long_is_declined() -> None:
    week = 7 * 24 * 3600
    assert decide(deadline=int(NOW) + week) == ""
    assert decide(deadline=int(NOW) + week + 1) == "its deadline is more than 604800 s away"
    assert decide(rules=policy(max_seconds=59)) == "its deadline is more than 59 s away"


@pytest.mark.parametrize(("least", "most", "taken"), [(1, 1, True), (0, 5, True), (2, 3, False), (0, 0, False), (2, 1, False)])
def test_protocol_versions_must_overlap(least: int, most: int, taken: bool) -> None:
    reason = decide(version_min=least, version_max=most)
    assert (reason == "") is taken
    assert taken or "needs protocol version" in reason


@pytest.mark.parametrize(
    ("patterns", "taken"),
    [(("*",), True), (("pressure",), True), (("press*", "x"), True), (("PRESSURE",), False), (("weight",), False), ((), False)],
)
def test_only_studies_that_the_policy_names_are_answered(patterns: tuple[str, ...], taken: bool) -> None:
    reason = decide(rules=policy(studies=patterns))
    assert (reason == "") is taken
    assert taken or reason == "the policy answers no study called pressure"


@pytest.mark.parametrize(
    "times",
    [
        {"answer_by": int(NOW)},
        {"answer_by": int(NOW) - 1},
        {"ready_by": int(NOW) + 20},
        {"ready_by": int(NOW) + 10},
        {"deadline": int(NOW) + 40},
        {"deadline": 0},
    ],
    ids=str,
)
def test_deadlines_that_are_over_or_out_of_order_are_declined(times: dict[str, Any]) -> None:
    assert "deadlines are over or out of order" in decide(**times)


def test_too_many_open_rounds_are_declined() -> None:
    rules = policy(max_open_rounds=2)
    assert decide(rules=rules, ledger=Ledger(rounds=1)) == ""
    assert decide(rules=rules, ledger=Ledger(rounds=2)) == "2 rounds are open already"


def test_invitations_are_rate_limited() -> None:
    rules, ledger = policy(invitations_per_minute=5), Ledger(invitations=5)
    assert decide(rules=rules, ledger=Ledger(invitations=4)) == ""
    assert decide(rules=rules, ledger=ledger) == "more than 5 invitations in a minute"
    assert ledger.since == NOW - 60


def test_an_unknown_encoding_is_declined() -> None:
    assert "the encoding 'statistics/2' is not known here" in decide(encoding="statistics/2")


@pytest.mark.parametrize(
    "changes",
    [
        {"members": ASKED.members[:2]},
        {"members": (*ASKED.members, ASKED.members[0])},
        {"members": ("nonsense", *ASKED.members)},
        {"members": ("spiffe://demo/doctor/who", *ASKED.members)},
        {"minimum": 2},
        {"statistics": (Statistic.of("mode", "value"),)},
        {"range": 5},
        {"variables": (Variable.number("value", "", 0, 2**63 - 1, 1),)},
        {"deadline": 0},
        {"id": "Bad Id"},
    ],
    ids=str,
)
def test_a_study_that_cannot_be_run_is_declined_whatever_the_hospital_says(changes: dict[str, Any]) -> None:
    wrong = msgspec.structs.replace(ASKED, **changes)
    assert decide(wrong, message=invitation(study=encode(wrong), floor=wrong.minimum)) != ""


def test_a_reason_is_short_however_much_is_wrong() -> None:
    members = tuple(f"spiffe://demo/doctor/d{number:04d}" for number in range(1000))
    wrong = msgspec.structs.replace(ASKED, members=members)
    assert 500 < len(decide(wrong, message=invitation(study=encode(wrong), floor=wrong.minimum))) <= 1000
    assert len(decide(encoding="e" * 100_000)) <= 1000


@pytest.mark.parametrize(
    "segments",
    [
        (),
        (SegmentShape(3 * BOUND + 2, 1),),
        (SegmentShape(3 * BOUND, 1),),
        (SegmentShape(3 * BOUND + 1, 2),),
        (SegmentShape(3 * BOUND + 1, 1),) * 2,
        (SegmentShape(2**64 - 1, 1),),
    ],
    ids=str,
)
def test_rings_that_are_not_the_studys_are_declined(segments: tuple[SegmentShape, ...]) -> None:
    """One invitation with other scales for other patients would weigh their values differently."""
    assert "rings are not the ones that its study asks for" in decide(segments=segments)


def test_a_floor_below_the_policys_is_declined() -> None:
    five = study("alice", "bob", "charlie", "dora", "emil", minimum=3)
    assert decide(five) == ""
    assert "as few as 3 members, the policy's floor is 4" in decide(five, rules=policy(floor=4))
    assert "runs over as few as" in decide(five, floor=4)
    assert "runs over as few as" in decide(floor=2)


def test_a_study_of_others_is_declined() -> None:
    assert decide(study("bob", "charlie", "dora")) == "its study does not name this patient"


def test_caps_of_the_policy_hold() -> None:
    assert "names 3 members, the policy allows 2" in decide(rules=policy(max_members=2))
    long = study("alice", "bob", "charlie", length=11)
    assert decide(long, rules=policy(max_length=11)) == ""
    assert "asks for more than 10 numbers" in decide(long, rules=policy(max_length=10))
    huge = study("alice", "bob", "charlie", length=2**40)
    assert "asks for more than" in decide(huge)


@pytest.mark.parametrize(("allowed", "taken"), [(("*",), True), (("sum",), True), (("mean", "s*"), True), (("mean",), False)])
def test_only_statistics_that_the_policy_allows_are_taken_part_in(allowed: tuple[str, ...], taken: bool) -> None:
    reason = decide(rules=policy(statistics=allowed))
    assert reason == ("" if taken else "it asks for the statistic sum, the policy allows mean")


def test_a_variable_without_a_source_is_declined() -> None:
    assert "no source for the variable 'value'" in decide(rules=policy(sources={"weight": Bounds(0, BOUND)}))


@pytest.mark.parametrize(("low", "high", "taken"), [(0, BOUND, True), (5, 9, True), (-1, BOUND, False), (0, BOUND + 1, False)])
def test_the_studys_bounds_must_contain_the_sources(low: int, high: int, taken: bool) -> None:
    reason = decide(rules=policy(sources={"value": Bounds(low, high)}))
    assert (reason == "") is taken
    assert taken or "do not contain the declared" in reason


def asking(variable: Variable, records: int = 1) -> Study:
    return msgspec.structs.replace(ASKED, variables=(variable,), statistics=(Statistic.of("count", "value"),), records=records)


TENTHS = Bounds(Fraction(0), Fraction(3005, 10), whole=False)


@pytest.mark.parametrize(
    ("low", "high", "scale", "taken"),
    [(0, 3005, 10, True), (0, 3004, 10, False), (1, 3005, 10, False), (0, 300_500, 1000, True), (0, 301, 1, True)],
)
def test_the_bounds_of_a_fixed_point_variable_are_compared_in_its_steps(low: int, high: int, scale: int, taken: bool) -> None:
    reason = decide(asking(Variable.number("value", "", low, high, scale=scale)), rules=policy(sources={"value": TENTHS}))
    assert (reason == "") is taken
    assert taken or "do not contain the declared [0, 300.5]" in reason


def test_fractions_are_not_asked_for_as_whole_numbers() -> None:
    """Otherwise it would show by whom the round fails whose value is no whole number, or the result would hide an error."""
    reason = decide(asking(Variable.number("value", "", 0, 400)), rules=policy(sources={"value": TENTHS}))
    assert reason == "value is a whole number in the study, the source has fractions"


@pytest.mark.parametrize(
    ("names", "taken"), [(("a", "b"), True), (("b", "x", "a"), True), (("a", "x"), False), (("x", "y"), False)]
)
def test_the_studys_categories_must_contain_the_sources(names: tuple[str, ...], taken: bool) -> None:
    rules = policy(sources={"value": Categories(frozenset({"a", "b"}))})
    reason = decide(asking(Variable.category("value", names)), rules=rules)
    assert (reason == "") is taken
    assert taken or "its categories of value lack the declared" in reason


def test_a_number_is_no_category() -> None:
    category = Variable.category("value", ("a", "b"))
    assert "the source has numbers" in decide(asking(category))
    rules = policy(sources={"value": Categories(frozenset({"a", "b"}))})
    assert "the source has categories" in decide(asking(Variable.number("value", "", 0, BOUND)), rules=rules)


@pytest.mark.parametrize(("declared", "asked", "taken"), [(1, 1, True), (1, 500, True), (500, 500, True), (500, 499, False)])
def test_a_study_must_take_as_many_records_as_the_policy_declares(declared: int, asked: int, taken: bool) -> None:
    """Otherwise studies of ever fewer records would read how many there are."""
    reason = decide(asking(Variable.number("value", "", 0, BOUND), asked), rules=policy(records=declared))
    assert (reason == "") is taken
    assert taken or reason == "it takes 499 records of a node, the policy declares up to 500"


def test_shrinking_bounds_read_nothing() -> None:
    """Repeated invitations with ever narrower bounds: all below the declared ones are declined, wherever the value lies."""
    answers = [decide(study("alice", "bob", "charlie", bound=bound)) == "" for bound in (BOUND * 2, BOUND, BOUND // 2, 10, 1)]
    assert answers == [True, True, False, False, False]


def test_no_decision_can_be_given_a_value() -> None:
    """The functions' parameters, and everything those are made of, have no place for one."""
    for decision in (refuse_invitation, refuse_roster):
        names = {str(parameter.annotation) for parameter in inspect.signature(decision).parameters.values()}
        assert names <= {"Policy", "Ledger", "Identity", "Invitation", "Study", "float", "int", "tuple[Credential, ...]"}
    source = inspect.getsource(disclosure)
    assert "Values" not in source
    assert "Vector" not in source
    assert "numpy" not in source


# -- rosters


def credentials(*names: str) -> tuple[Credential, ...]:
    return tuple(credential(patient(name)) for name in names)


def test_a_roster_of_certified_members_is_shared_with() -> None:
    assert refuse_roster(policy(), ME, 3, credentials("alice", "bob", "charlie")) == ""


@pytest.mark.parametrize("names", [(), ("alice",), ("alice", "bob")])
def test_a_roster_below_the_floor_gets_nothing(names: tuple[str, ...]) -> None:
    assert f"{len(names)} of its {len(names)} members are vouched for" in refuse_roster(policy(), ME, 3, credentials(*names))


def test_a_roster_below_the_invitations_floor_gets_nothing() -> None:
    reason = refuse_roster(policy(), ME, 4, credentials("alice", "bob", "charlie"))
    assert reason == "it has 3 members, the invitation promised at least 4"


def test_invented_members_do_not_count() -> None:
    """The hospital runs the authority: its certificates prove nothing here, only pinned names and this patient count."""
    pinned = frozenset({patient("bob"), patient("charlie")})
    rules = policy(vouched_authorities=frozenset(), vouched_members=pinned)
    invented = credentials("alice", "bob", "dora", "emil", "fritz")

    assert refuse_roster(rules, ME, 3, invented) == "2 of its 5 members are vouched for, the policy's floor is 3"
    assert refuse_roster(rules, ME, 3, credentials("alice", "bob", "charlie", "dora")) == ""


def test_an_authority_that_is_not_vouched_for_certifies_nobody() -> None:
    rules = policy(vouched_authorities=frozenset({bytes(32)}))
    assert "1 of its 3 members" in refuse_roster(rules, ME, 3, credentials("alice", "bob", "charlie"))
    mixed = (*credentials("alice", "bob"), replace(credential(patient("charlie")), authority=bytes(32)))
    assert "2 of its 3 members" in refuse_roster(policy(), ME, 3, mixed)


def test_a_policy_that_vouches_for_nobody_shares_with_nobody() -> None:
    rules = policy(vouched_authorities=frozenset())
    assert "1 of its 3 members" in refuse_roster(rules, ME, 3, credentials("alice", "bob", "charlie"))


def test_a_node_that_is_not_on_the_roster_does_not_count_itself() -> None:
    rules = policy(vouched_authorities=frozenset(), vouched_members=frozenset({patient("bob"), patient("charlie")}))
    assert "2 of its 3 members" in refuse_roster(rules, ME, 3, credentials("bob", "charlie", "dora"))


def test_the_policys_own_floor_holds_whatever_was_invited() -> None:
    assert "the policy's floor is 4" in refuse_roster(policy(floor=4), ME, 3, credentials("alice", "bob", "charlie"))
