"""The ledger in memory is what the store has: every entry that it makes, it would be again from that entry."""

from __future__ import annotations

import os

import numpy as np
import pytest

from mpc.disclosure import Bounds, Categories, Withdrawal
from mpc.errors import DataError
from mpc.rounds.events import Submitted
from mpc.statistics.component import MISSING
from mpc.study import Variable
from nodes.ledger import Ledger
from nodes.recorded import Recorded, recall, record
from nodes.sources.base import Column, Found
from nodes.store.base import LedgerEntry, StoreError
from nodes.store.sealing import KEY_BYTES, SealingKey
from tests.attacks.scene import asks
from tests.mpc.nodes import NOW, ROUND, patient, policy
from tests.mpc.world import array

FOUR = tuple(patient(name) for name in ("alice", "bob", "charlie", "dora"))
CONTEXT = bytes(range(32))


def submitted(context: bytes = CONTEXT, until: float = NOW + 3600, rho: int = 0) -> Submitted:
    return Submitted("pressure", context, FOUR, frozenset(FOUR[:3]), {"value": until}, rho)


def reloaded(entries: tuple[LedgerEntry, ...], key: SealingKey | None = None) -> Ledger:
    again = Ledger(key)
    again.load(entries)
    return again


def test_a_contribution_is_remembered_across_lives_with_all_that_guards_ask() -> None:
    ledger = Ledger()
    entries = ledger.submitted(ROUND, submitted(rho=7), NOW)
    for one in (ledger, reloaded(entries)):
        (given,) = one.contributions("value")
        assert (given.context, given.at, given.until, given.released, given.rho) == (CONTEXT, NOW, NOW + 3600, False, 7)
        assert given.members == {member.uri for member in FOUR}
        assert given.vouched == {member.uri for member in FOUR[:3]}
    after = reloaded((*entries, *ledger.received(CONTEXT)))
    assert [one.released for one in after.contributions("value")] == [True]
    assert ledger.received(bytes(32)) == (), "a round of which it knows nothing"


def test_a_freed_source_has_no_past_and_a_new_one_begins() -> None:
    ledger = Ledger()
    entries = ledger.submitted(ROUND, submitted(), NOW)
    entries += ledger.free(["value"], NOW)
    assert reloaded(entries).contributions("value") == ledger.contributions("value") == []
    entries += ledger.submitted(ROUND, submitted(bytes(32)), NOW + 1)
    assert [one.context for one in reloaded(entries).contributions("value")] == [bytes(32)]


def test_a_restore_is_forgotten_where_a_person_has_freed_the_source_since() -> None:
    ledger = Ledger()
    entries = ledger.restored(NOW)
    assert reloaded(entries).forgot("value") == NOW
    entries += ledger.free(["value"], NOW + 1)
    again = reloaded(entries)
    assert (again.forgot("value"), again.forgot("weight")) == (0.0, NOW)


def test_while_a_round_is_rebuilt_nothing_has_gone_before() -> None:
    ledger = Ledger()
    ledger.submitted(ROUND, submitted(), NOW)
    ledger.restored(NOW)
    ledger.withdraw([Withdrawal("*", frozenset())], [], NOW)
    ledger.opened(ROUND)
    ledger.decided(NOW)
    with ledger.replaying():
        assert (ledger.open_rounds(), ledger.invitations_since(0), ledger.forgot("value")) == (0, 0, 0.0)
        assert not ledger.contributions("value")
        assert not list(ledger.withdrawals())
    assert (ledger.open_rounds(), len(ledger.contributions("value")), len(list(ledger.withdrawals()))) == (1, 1, 1)


def test_an_approval_in_advance_holds_until_its_end_and_until_a_withdrawal() -> None:
    ledger, digest = Ledger(), bytes(32)
    assert not ledger.approved(digest, NOW)
    entries = ledger.approve(digest, NOW + 60, NOW)
    assert reloaded(entries).approved(digest, NOW + 60)
    assert not ledger.approved(digest, NOW + 61)
    entries += ledger.withdraw([Withdrawal("pressure", frozenset())], [digest], NOW + 1)
    assert not reloaded(entries).approved(digest, NOW + 2)


def test_values_are_sealed_and_are_those_of_the_first_round_of_the_period() -> None:
    key = SealingKey(os.urandom(KEY_BYTES))
    ledger, asked = Ledger(key), asks("alice", "bob", "charlie")
    assert ledger.values_of("value", NOW) is None
    ledger.read(ROUND, record(asked, {"value": Found(array([72]), "table")}, policy()))
    under_way = ledger.values_of("value", NOW)
    assert under_way is not None, "of a round that has not contributed yet"
    entries = ledger.submitted(ROUND, submitted(), NOW)
    ledger.closed(ROUND)
    ledger.read(bytes(16), record(asked, {"value": Found(array([99]), "table")}, policy()))
    entries += ledger.submitted(bytes(16), submitted(bytes(32)), NOW + 1)
    assert [entry.kind for entry in entries] == ["contribution", "recorded", "contribution"]
    for one in (ledger, reloaded(entries, key)):
        kept = one.values_of("value", NOW + 3599)
        assert kept is not None
        assert list(recall(kept, Bounds(0, 100)).column) == [72]
    assert reloaded(entries, key).values_of("value", NOW + 3600) is None, "the period is over"
    with pytest.raises(StoreError, match="does not open"):
        reloaded(entries, SealingKey(os.urandom(KEY_BYTES))).values_of("value", NOW)


def test_values_of_a_round_that_contributes_nothing_are_not_kept() -> None:
    ledger = Ledger(SealingKey(os.urandom(KEY_BYTES)))
    ledger.read(ROUND, record(asks("alice", "bob", "charlie"), {"value": Found(array([72]), "table")}, policy()))
    ledger.closed(ROUND)
    assert ledger.values_of("value", NOW) is None


def test_what_is_forgotten_is_what_the_store_forgets() -> None:
    ledger = Ledger()
    ledger.submitted(ROUND, submitted(), NOW)
    ledger.forget(NOW + 3599)
    assert len(ledger.contributions("value")) == 1
    ledger.forget(NOW + 3600)
    assert not ledger.contributions("value")


# -- columns of what was kept


def kept(variable: Variable, found: Column) -> Recorded:
    asked = asks("alice", "bob", "charlie", variables=(variable,))
    return record(asked, {variable.name: Found(found, "table")}, policy())[variable.name]


def test_a_whole_number_comes_back_from_the_steps_of_any_study() -> None:
    fixed = Variable.number("value", "", 0, 30_000, scale=100)
    assert list(recall(kept(fixed, array([72, MISSING, 1])), Bounds(0, 300)).column) == [72, MISSING, 1]


def test_a_number_with_decimals_comes_back_as_it_was_rounded() -> None:
    fixed = Variable.number("value", "", 300, 450, scale=10)
    found = recall(kept(fixed, np.array([36.5713, np.nan])), Bounds(30, 45, whole=False)).column
    assert np.array_equal(np.asarray(found), np.array([36.6, np.nan]), equal_nan=True)


def test_a_category_comes_back_by_its_name_whatever_its_place_is_in_the_next_study() -> None:
    ward = Variable.category("ward", ["south", "north"])
    found = recall(kept(ward, ["north", "", "south"]), Categories(frozenset({"north", "south"}))).column
    assert found == ["north", "", "south"]


def test_values_of_another_kind_than_is_declared_now_are_refused() -> None:
    ward = Variable.category("ward", ["south", "north"])
    with pytest.raises(DataError, match="of another kind"):
        recall(kept(ward, ["north"]), Bounds(0, 10))


def test_two_variables_of_one_field_are_one_source() -> None:
    asked = asks(
        "alice",
        "bob",
        "charlie",
        variables=(Variable.number("value", "", 0, 100), Variable.number("pressure", "", 0, 100)),
    )
    rules = policy(fields={"value": "systolic", "pressure": "systolic"})
    found = record(asked, {"value": Found(array([1]), "a"), "pressure": Found(array([2]), "a")}, rules)
    assert [list(recall(one, Bounds(0, 100)).column) for one in found.values()] == [[1]]


def test_nothing_of_a_ledger_prints_a_value() -> None:
    value = 987_654
    made = kept(Variable.number("value", "", 0, 10**6), array([value]))
    assert str(value) not in repr(made)
    assert str(value) not in repr(LedgerEntry("recorded", "value", NOW, NOW, b"987654"))
