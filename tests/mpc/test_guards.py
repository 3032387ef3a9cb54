"""Which rosters a patient's past forbids: each rule at its edge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mpc.disclosure import Contribution
from mpc.guards import Cohort, charge, keeps_values, period_end, refuse_contribution, refuse_early
from mpc.privacy import Budget, cost
from mpc.study import MILLION, TINY, Privacy, Study
from tests.mpc.nodes import NOW, OpenLedger, patient, policy, study

DAY = 24 * 3600.0
FOUR = ("alice", "bob", "charlie", "dora")
ASKED = study(*FOUR)


def uris(*names: str) -> frozenset[str]:
    return frozenset(patient(name).uri for name in names)


def over(*names: str, burnt: dict[bytes, frozenset[str]] | None = None, vouched: Sequence[str] | None = None) -> Cohort:
    return Cohort(uris(*names), uris(*(names if vouched is None else vouched)), burnt or {})


def gave(*names: str, context: int = 1, until: float = NOW + DAY, released: bool = True, **more: Any) -> Contribution:
    content: dict[str, Any] = {"vouched": uris(*names), "rho": 0} | more
    return Contribution(bytes([context]) * 32, NOW - 60, until, uris(*names), released=released, **content)


class Past(OpenLedger):
    """So much has been given."""

    def __init__(self, *given: Contribution, restored: float = 0.0, **of: Sequence[Contribution]) -> None:
        self.given = {"value": given} | of
        self.restored = restored

    def contributions(self, source: str) -> Sequence[Contribution]:
        return self.given.get(source, ())

    def forgot(self, source: str) -> float:
        return self.restored


def refuse(past: Past, cohort: Cohort, asked: Study = ASKED, **rules: Any) -> str:
    return refuse_contribution(policy(**rules), past, asked, cohort, NOW)


# -- bound


def test_the_first_roster_is_free_and_the_same_one_again_is() -> None:
    assert refuse(Past(), over(*FOUR)) == ""
    assert refuse(Past(gave(*FOUR), gave(*FOUR, context=2)), over(*FOUR)) == ""


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (("alice", "bob", "charlie"), "this one lacks dora"),
        ((*FOUR, "emil"), "this one has emil besides"),
        (("alice", "bob", "charlie", "emil"), "this one lacks dora and has emil besides"),
        (("alice", "emil", "frank", "gina"), "this one lacks bob, charlie, dora and has emil, frank, gina besides"),
    ],
)
def test_any_other_roster_is_refused_until_the_period_ends(now: tuple[str, ...], said: str) -> None:
    assert refuse(Past(gave(*FOUR)), over(*now)) == f"value is bound to a roster of 4 members for another 24 h, and {said}"
    assert refuse(Past(gave(*FOUR, until=NOW)), over(*now)) == ""


def test_a_field_is_one_source_whatever_studies_call_it() -> None:
    renamed = study(*FOUR)
    past = Past(other=[gave("alice", "bob", "charlie")])
    assert refuse(past, over(*FOUR), renamed) == ""
    assert "other is bound" in refuse(past, over(*FOUR), renamed, fields={"value": "other"})


def burnt(*names: str, context: int = 1) -> dict[bytes, frozenset[str]]:
    return {bytes([context]) * 32: uris(*names)}


def test_a_roster_without_a_receipt_yields_to_itself_less_exactly_those_who_burnt_it() -> None:
    past = Past(gave(*FOUR, released=False))
    assert refuse(past, over("alice", "bob", "charlie", burnt=burnt("dora"))) == ""
    assert "lacks dora" in refuse(past, over("alice", "bob", "charlie")), "nobody has signed that"
    assert "lacks dora" in refuse(past, over("alice", "bob", "charlie", burnt=burnt("dora", context=2))), "for another round"
    assert "lacks charlie, dora" in refuse(past, over("alice", "bob", burnt=burnt("dora")))
    assert "lacks dora" in refuse(past, over("alice", "bob", "charlie", burnt=burnt("dora", "charlie"))), "more than are gone"
    assert "besides" in refuse(past, over("alice", "bob", "charlie", "emil", burnt=burnt("dora")))
    assert "besides" in refuse(past, over(*FOUR, "emil", burnt=burnt("dora")))


def test_a_roster_with_a_receipt_does_not_yield() -> None:
    past = Past(gave(*FOUR))
    assert "lacks dora" in refuse(past, over("alice", "bob", "charlie", burnt=burnt("dora")))


def test_each_round_over_the_roster_must_be_burnt() -> None:
    past = Past(gave(*FOUR, released=False), gave(*FOUR, context=2, released=False))
    first = over("alice", "bob", "charlie", burnt=burnt("dora"))
    both = over("alice", "bob", "charlie", burnt=burnt("dora") | burnt("dora", context=2))
    assert "lacks dora" in refuse(past, first)
    assert refuse(past, both) == ""
    with_total = Past(gave(*FOUR), gave(*FOUR, context=2, released=False))
    assert "lacks dora" in refuse(with_total, both)


def test_the_binding_moves_to_the_smaller_roster_and_does_not_go_back() -> None:
    past = Past(gave(*FOUR, released=False), gave("alice", "bob", "charlie", context=2))
    assert refuse(past, over("alice", "bob", "charlie")) == ""
    assert "has dora besides" in refuse(past, over(*FOUR))


def test_what_can_be_known_from_the_invitation_is_declined_there() -> None:
    fewer = study("alice", "bob", "charlie")
    assert "of whom it does not ask all" in refuse_early(policy(), Past(gave(*FOUR)), fewer, NOW)
    assert refuse_early(policy(), Past(gave(*FOUR, released=False)), fewer, NOW) == "", "there may be Burnts in its roster"
    assert refuse_early(policy(), Past(gave(*FOUR)), study(*FOUR, "emil", minimum=4), NOW) == "", "emil may decline"


# -- pairwise


def test_pairwise_looks_at_what_two_rosters_differ_by() -> None:
    six = (*FOUR, "emil", "frank", "gina")
    rules: dict[str, Any] = {"guard": "pairwise"}
    assert refuse(Past(gave(*six)), over(*FOUR), **rules) == "", "three of them"
    assert "differs from this one by frank, gina, 2 of them vouched for" in refuse(Past(gave(*six)), over(*six[:5]), **rules)
    assert "differs from this one by gina" in refuse(Past(gave(*six[:6])), over(*six), **rules)
    assert refuse(Past(gave(*six)), over(*six), **rules) == ""


def test_pairwise_counts_only_the_vouched_in_a_difference() -> None:
    six = (*FOUR, "emil", "frank", "gina")
    some = Past(gave(*six, vouched=uris(*FOUR, "emil", "frank")))
    assert "3 of them" not in refuse(some, over(*FOUR), guard="pairwise")
    assert "differs from this one by emil, frank, gina, 2 of them vouched for" in refuse(some, over(*FOUR), guard="pairwise")


# -- counted


def test_a_source_contributes_so_often_in_a_period() -> None:
    given = [gave(*FOUR, context=number) for number in range(3)]
    assert refuse(Past(*given), over(*FOUR), rounds_per_period=4) == ""
    said = "value went into 3 rounds in its period already, the policy allows 3"
    assert refuse(Past(*given), over(*FOUR), rounds_per_period=3) == said
    assert refuse_early(policy(rounds_per_period=3), Past(*given), ASKED, NOW) == said
    over_now = [gave(*FOUR, context=number, until=NOW) for number in range(3)]
    assert refuse(Past(*over_now), over(*FOUR), rounds_per_period=3) == ""


def test_a_period_begins_with_its_first_contribution() -> None:
    rules = policy(period=3600)
    assert period_end(rules, Past(), "value", NOW) == NOW + 3600
    assert period_end(rules, Past(gave(*FOUR, until=NOW + 5)), "value", NOW) == NOW + 5
    assert period_end(rules, Past(gave(*FOUR, until=NOW)), "value", NOW) == NOW + 3600


NOISY = Privacy(epsilon=MILLION, delta=TINY // 10**6, per="member", colluding=1, tail=1000)


def noisy() -> Study:
    plain = study(*FOUR)
    return Study(**{field: getattr(plain, field) for field in plain.__struct_fields__} | {"privacy": NOISY})


def test_a_budget_is_charged_by_the_round_and_refuses_past_its_end() -> None:
    asked = noisy()
    price = cost(asked, Budget(10**12), 4)
    assert price is not None
    rules: dict[str, Any] = {"guard": "privacy-budget", "budget": Budget(2 * price)}
    assert charge(policy(**rules), asked, 4) == price
    assert refuse(Past(gave(*FOUR, rho=price)), over(*FOUR), asked, **rules) == ""
    assert "left in this period" in refuse(Past(gave(*FOUR, rho=price + 1)), over(*FOUR), asked, **rules)
    assert refuse(Past(gave("alice", "emil", "frank", rho=price)), over(*FOUR), asked, **rules) == "", (
        "noise hides the difference"
    )


def test_a_study_without_noise_has_no_budget_to_take_from() -> None:
    rules: dict[str, Any] = {"guard": "privacy-budget", "budget": Budget(10**12)}
    assert "adds no noise" in refuse(Past(), over(*FOUR), **rules)
    assert refuse(Past(), over(*FOUR), guard="privacy-budget") == "value has no privacy budget, which alone protects it"
    assert charge(policy(), noisy(), 4) == 0, "no budget, no charge"


# -- the rest


def test_after_a_restore_nothing_is_given_for_a_period() -> None:
    assert "restored from an older copy" in refuse(Past(restored=NOW - 60), over(*FOUR), period=3600)
    assert refuse(Past(restored=NOW - 3600), over(*FOUR), period=3600) == ""


def test_values_are_kept_where_noise_alone_does_not_protect() -> None:
    assert [keeps_values(policy(guard=guard)) for guard in ("bound", "pairwise", "privacy-budget")] == [True, True, False]
