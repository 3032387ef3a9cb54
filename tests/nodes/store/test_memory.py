"""The store in memory: which rounds are open, what was decided when, and what ended rounds had taken."""

from __future__ import annotations

from mpc.rounds.events import DECLINED, RELEASED, Decided, Ended, Progressed
from nodes.store.memory import MemoryStore
from tests.mpc.nodes import HOSPITAL, NOW, ROUND

OTHER = bytes(16)
CONSENT = Decided("pressure", HOSPITAL, "")
REFUSAL = Decided("pressure", HOSPITAL, "the policy says no")
ONE, TWO = b"1" * 32, b"2" * 32


def test_a_round_is_open_from_the_consent_to_its_end() -> None:
    store = MemoryStore()
    store.commit(ROUND, [CONSENT, Progressed("inviting", ())], NOW)
    store.commit(OTHER, [CONSENT], NOW)
    assert store.open_rounds() == 2
    store.commit(ROUND, [Ended(RELEASED)], NOW)
    assert store.open_rounds() == 1


def test_a_declined_round_is_not_open() -> None:
    store = MemoryStore()
    store.commit(ROUND, [REFUSAL, Ended(DECLINED)], NOW)
    assert store.open_rounds() == 0


def test_a_round_that_is_buried_is_not_open() -> None:
    store = MemoryStore()
    store.commit(ROUND, [CONSENT], NOW)
    store.bury(ROUND, frozenset())
    assert store.open_rounds() == 0


def test_every_invitation_decided_on_is_counted_whatever_the_decision() -> None:
    store = MemoryStore()
    store.commit(ROUND, [CONSENT], NOW)
    store.commit(OTHER, [REFUSAL, Ended(DECLINED)], NOW + 10)
    store.commit(OTHER, [Progressed("inviting", ())], NOW + 20)
    assert [store.invitations_since(NOW + seconds) for seconds in (0, 0.5, 10, 10.5)] == [2, 1, 1, 0]


def test_decisions_are_kept_within_bounds() -> None:
    store = MemoryStore()
    for number in range(10_050):
        store.commit(ROUND, [CONSENT], NOW + number)
    assert store.invitations_since(NOW) == 10_000


def test_an_ended_round_knows_what_it_took() -> None:
    store = MemoryStore()
    assert store.took(ROUND, ONE) is None
    store.bury(ROUND, frozenset({ONE}))
    assert (store.took(ROUND, ONE), store.took(ROUND, TWO), store.took(OTHER, ONE)) == (True, False, None)


def test_the_oldest_ended_rounds_are_forgotten_first() -> None:
    store = MemoryStore()
    rounds = [number.to_bytes(16, "big") for number in range(300)]
    for number in rounds:
        store.bury(number, frozenset({ONE}))
    known = [number for number in rounds if store.took(number, ONE)]
    assert known == rounds[-256:]
