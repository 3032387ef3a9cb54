"""What a promise of epsilon and delta costs, and what a budget pays for; expected values are OpenDP's."""

from __future__ import annotations

import math

import opendp.prelude as dp
import pytest
from msgspec.structs import replace

from mpc.privacy import RHO, Budget, cost, epsilon_of, in_words, refuse_cost, rho_of
from mpc.study import MEMBER, MILLION, RECORD, TINY, Privacy, Statistic, Study, check_study, problems
from tests.mpc.statistics.pool import question, whole

PROMISES = [(MILLION, 10**9), (MILLION // 10, 10**6), (10 * MILLION, 10**3), (100 * MILLION, 10**14), (MILLION // 100, 10**12)]
ONE = Privacy(epsilon=MILLION, delta=10**9, per=MEMBER, colluding=1, tail=1000)


def profile(rho: float) -> dp.PrivacyProfile:
    """OpenDP's own: a discrete Gaussian that costs this rho for two totals 1 apart."""
    dp.enable_features("contrib")
    space = dp.atom_domain(T="i64"), dp.absolute_distance(T="f64")
    gaussian = dp.m.make_gaussian(*space, scale=math.sqrt(1 / (2 * rho)))
    return dp.c.make_zCDP_to_approxDP(gaussian).map(1.0)


def study(privacy: Privacy | None = ONE, members: int = 6, records: int = 1, minimum: int = 4) -> Study:
    asked = question([whole("value", 0, 100)], Statistic.of("sum", "value"), members=members, records=records)
    return replace(asked, minimum=minimum, privacy=privacy)


@pytest.mark.parametrize(("epsilon", "delta"), PROMISES)
def test_rho_keeps_the_promise_and_is_the_largest_that_does(epsilon: int, delta: int) -> None:
    rho = rho_of(epsilon, delta)
    kept = profile(rho / RHO)
    assert kept.delta(epsilon / MILLION) <= delta / TINY * (1 + 1e-9)
    assert kept.epsilon(delta / TINY) == pytest.approx(epsilon / MILLION, rel=2 / rho + 1e-9)
    assert profile(1.001 * rho / RHO).delta(epsilon / MILLION) > delta / TINY


@pytest.mark.parametrize(("epsilon", "delta"), PROMISES)
def test_a_spent_rho_comes_to_the_epsilon_that_it_was_made_of(epsilon: int, delta: int) -> None:
    assert epsilon_of(rho_of(epsilon, delta), delta) == pytest.approx(profile(rho_of(epsilon, delta) / RHO).epsilon(delta / TINY))


def test_the_conversion_is_below_the_simple_bound() -> None:
    # Bun and Steinke 2016, Proposition 1.3.
    for epsilon, delta in PROMISES:
        rho = rho_of(epsilon, delta) / RHO
        assert rho + 2 * math.sqrt(rho * math.log(TINY / delta)) > epsilon / MILLION


def test_an_epsilon_that_is_too_small_allows_nothing() -> None:
    assert rho_of(1, 1) == 0
    assert [rho_of(MILLION, delta) for delta in (0, -1, TINY)] == [0, 0, 0]
    assert epsilon_of(0, 1) == 0.0


def test_rounds_add_up_until_the_budget_is_spent() -> None:
    budget = Budget.of(2 * MILLION, 10**9)
    price = cost(study(), budget)
    assert price == rho_of(MILLION, 10**9)
    rounds = 0
    while not refuse_cost(study(), budget, rounds * price):
        rounds += 1
    assert rounds == budget.rho // price == 3  # epsilon grows with the root of the rounds, almost
    assert budget.left(rounds * price) == budget.rho - 3 * price < price
    assert budget.left(budget.rho + 1) == 0
    assert "of the privacy budget of 0.0882 there is 0.0151 left" in refuse_cost(study(), budget, rounds * price)


def test_no_budget_pays_for_a_study_without_noise() -> None:
    budget = Budget.of(100 * MILLION, 10**14)
    assert cost(study(None), budget) is None
    assert "adds no noise" in refuse_cost(study(None), budget, 0)


def test_members_that_nobody_vouches_for_add_no_noise_that_counts() -> None:
    budget, rho = Budget.of(MILLION, 10**9), rho_of(MILLION, 10**9)
    assert cost(study(), budget, vouched=4) == cost(study(), budget) == rho  # 4 - 1 colluding are what the noise reckons with
    assert cost(study(), budget, vouched=7) == -(-rho // 2)
    assert cost(study(), budget, vouched=2) == 3 * rho
    assert cost(study(), budget, vouched=1) is None
    assert refuse_cost(study(), budget, 0, vouched=1)
    assert cost(study(replace(ONE, colluding=4)), budget, vouched=6) is None, "nobody's noise was reckoned with"


def test_a_promise_for_each_record_is_weaker_for_a_member_that_holds_many() -> None:
    rho = rho_of(MILLION, 10**9)
    of_records, of_members = study(replace(ONE, per=RECORD), records=10), study(records=10)
    assert cost(of_records, Budget(RHO, RECORD, 10)) == rho
    assert cost(of_records, Budget(RHO, MEMBER, 10)) == 100 * rho
    assert cost(of_records, Budget(RHO, MEMBER, 3)) == 9 * rho, "its source never holds more"
    assert cost(of_records, Budget(RHO, MEMBER, 50)) == 100 * rho, "the study never takes more"
    assert cost(of_members, Budget(RHO, MEMBER, 10)) == rho
    assert cost(of_members, Budget(RHO, RECORD, 10)) == -(-rho // 100)


def test_a_promise_is_told_in_words() -> None:
    assert in_words(None) == ""
    words = in_words(ONE)
    assert words == "epsilon 1, delta 1e-06 for each member, with up to 1 of the members on the hospital's side"


def test_a_promise_that_says_enough_is_taken() -> None:
    check_study(study())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epsilon": 0}, "epsilon 0 must lie between 0 and 100"),
        ({"epsilon": 101 * MILLION}, "epsilon 101 must lie between 0 and 100"),
        ({"delta": 0}, "delta 0 must lie between 0 and 1 / 6"),
        ({"delta": TINY // 6 + 1}, "must lie between 0 and 1 / 6, the members"),
        ({"per": "ward"}, "per 'ward': say record or member"),
        ({"colluding": -1}, "colluding -1 must lie between 0 and 2"),
        ({"colluding": 3}, "of the 4 members of the smallest round two must be honest"),
        ({"tail": 0}, "tail 0 must lie between 0 and 0.001"),
        ({"tail": TINY // 100}, "tail 0.01 must lie"),
    ],
)
def test_a_promise_that_says_too_little_is_refused(changes: dict[str, object], words: str) -> None:
    found = problems(study(replace(ONE, **changes)))
    assert [problem for problem in found if problem.startswith("privacy: ") and words in problem], found


def test_records_need_a_smaller_delta_than_members() -> None:
    promise = replace(ONE, delta=TINY // 100)
    assert not problems(study(promise, records=20))
    (found,) = problems(study(replace(promise, per=RECORD), records=20))
    assert "1 / 120, the records" in found


def test_a_range_has_no_room_for_noise() -> None:
    (found,) = problems(replace(study(), range=1000, assume_in_range=True))
    assert "remove 'range'" in found
