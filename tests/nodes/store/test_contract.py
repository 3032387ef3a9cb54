"""What every store promises, whatever it keeps its bytes in."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

import pytest

from nodes.store.audit import AuditEvent, AuditLine
from nodes.store.base import ClosedRound, KeptKey, OpenRound, Step, Store, StoreError
from tests.nodes.store.conftest import Place
from tests.nodes.store.steps import (
    CLOSED,
    NOW,
    ONE,
    TWO,
    begin,
    begun,
    close,
    closed_at,
    event,
    line,
    posted,
    round_id,
)


async def said(store: Store) -> list[AuditLine]:
    return [kept.line for kept in await store.audit(0, 10)]


async def test_a_new_store_holds_nothing(store: Store) -> None:
    assert await store.counter() == 0
    assert await store.open_rounds() == []
    assert await store.left_over() == []
    assert await store.closed_rounds(10) == []
    assert await store.find_closed(ONE) is None
    assert await store.audit(0, 10) == []
    assert await store.keys() == []


async def test_what_was_committed_is_there_after_a_restart(place: Place) -> None:
    async with place.opened() as store:
        assert await store.commit([begin(1), begin(2), event(1, b"first")]) == 1
        assert await store.commit([Step(ONE, event=b"second", posted=(posted(0, b"to bob"), posted(1)))]) == 2
        assert await store.commit([event(2, b"other"), Step(ONE, event=b"third", posted=(posted(2),))]) == 3
    async with place.opened() as store:
        assert await store.counter() == 3
        assert await store.open_rounds() == [
            OpenRound(ONE, begun(1), (b"first", b"second", b"third"), (posted(0, b"to bob"), posted(1), posted(2))),
            OpenRound(TWO, begun(2), (b"other",), ()),
        ]
        assert await store.commit([event(1, b"fourth")]) == 4
        assert (await store.open_rounds())[0].events[-1] == b"fourth"


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(event(9), id="event of a round never begun"),
        pytest.param(close(9), id="end of a round never begun"),
        pytest.param(begin(1), id="begun twice"),
        pytest.param(begin(2), id="begun again after its end"),
        pytest.param(event(2), id="event after the end"),
        pytest.param(close(2), id="ended twice"),
        pytest.param(Step(ONE, posted=(posted(7), posted(7))), id="two messages of one number"),
    ],
)
async def test_a_commit_that_cannot_be_kept_changes_nothing(store: Store, wrong: Step) -> None:
    await store.commit([begin(1), begin(2), close(2)])
    before = await store.open_rounds()
    with pytest.raises(StoreError) as caught:
        await store.commit([Step(ONE, event=b"fine", posted=(posted(0),), audit=(line(NOW),)), wrong])
    assert caught.value.reason == "inconsistent"
    assert await store.counter() == 1
    assert await store.open_rounds() == before
    assert await said(store) == []
    assert await store.commit([event(1, b"fine")]) == 2


async def test_a_delivered_message_leaves_the_outbox_and_no_other_does(store: Store) -> None:
    await store.commit([replace(begin(1), posted=(posted(0), posted(1))), replace(begin(2), posted=(posted(0),))])
    await store.delivered([(ONE, 0)])
    await store.delivered([(ONE, 0), (ONE, 99), (round_id(9), 0)])
    assert [kept.outbox for kept in await store.open_rounds()] == [(posted(1),), (posted(0),)]
    assert await store.counter() == 1


async def test_called_back_messages_give_way_to_those_of_the_same_step(store: Store) -> None:
    await store.commit([replace(begin(1), posted=(posted(0), posted(1)))])
    await store.commit([Step(ONE, called_back=True, posted=(posted(2),))])
    assert (await store.open_rounds())[0].outbox == (posted(2),)


async def test_an_ended_round_leaves_its_end_and_what_it_still_has_to_say(place: Place) -> None:
    async with place.opened() as store:
        await store.commit([begin(1), begin(2), Step(ONE, event=b"e", posted=(posted(0),))])
        await store.commit(
            [Step(ONE, event=b"last", closed=CLOSED, posted=(posted(1, b"receipt"), posted(2)), audit=(line(NOW),))]
        )
        await store.delivered([(ONE, 2)])
    async with place.opened() as store:
        assert [kept.round_id for kept in await store.open_rounds()] == [TWO]
        assert await store.left_over() == [(ONE, posted(1, b"receipt"))]
        ended = ClosedRound(ONE, begun(1).opened, "study-1", CLOSED)
        assert await store.find_closed(ONE) == ended
        assert await store.closed_rounds(10) == [ended]
        assert await store.find_closed(TWO) is None
        assert await said(store) == [line(NOW)]


async def test_a_round_may_begin_and_end_in_one_step(store: Store) -> None:
    await store.commit([Step(ONE, begun=begun(1), event=b"declined", closed=CLOSED, posted=(posted(0),))])
    assert await store.open_rounds() == []
    assert await store.left_over() == [(ONE, posted(0))]
    found = await store.find_closed(ONE)
    assert found is not None
    assert found.closed == CLOSED


async def test_ended_rounds_come_newest_first_whatever_the_clock_said(store: Store) -> None:
    for number, at in ((1, NOW + 100), (2, NOW - 100), (3, NOW)):
        await store.commit([begin(number), close(number, closed_at(at))])
    assert [ended.round_id for ended in await store.closed_rounds(10)] == [round_id(3), round_id(2), round_id(1)]
    assert [ended.round_id for ended in await store.closed_rounds(2)] == [round_id(3), round_id(2)]


async def test_lines_keep_their_order_and_are_found_by_number_time_and_event(store: Store) -> None:
    lines = [line(NOW + 2), line(NOW, AuditEvent.SUBMITTED), line(NOW + 1), line(NOW + 1, AuditEvent.ENDED)]
    await store.commit([Step(ONE, audit=tuple(lines[:2]))])
    await store.record(lines[2:3])
    await store.commit([Step(TWO, audit=tuple(lines[3:]))])
    assert await said(store) == lines
    assert [kept.number for kept in await store.audit(0, 10)] == [1, 2, 3, 4]
    assert [kept.number for kept in await store.audit(1, 2)] == [2, 3]
    assert [kept.number for kept in await store.audit(0, 10, since=NOW + 1)] == [1, 3, 4]
    assert [kept.number for kept in await store.audit(0, 10, since=NOW + 1, event="ended")] == [4]
    assert [kept.number for kept in await store.audit(0, 10, event="consented")] == [1, 3]


async def test_encryption_keys_are_kept_replaced_and_forgotten(place: Place) -> None:
    first, second = KeptKey(b"b" * 32, NOW, b"sealed"), KeptKey(b"a" * 32, NOW + 1, b"sealed too")
    async with place.opened() as store:
        await store.keep_key(first)
        await store.keep_key(second)
        await store.keep_key(replace(first, sealed=b"sealed again"))
    async with place.opened() as store:
        assert await store.keys() == [replace(first, sealed=b"sealed again"), second]
        await store.erase_key(first.key_id)
        await store.erase_key(first.key_id)
        assert await store.keys() == [second]


async def test_erasing_by_age_leaves_what_is_younger_or_open(store: Store) -> None:
    await store.commit([begin(1), begin(2), begin(3), event(3), Step(ONE, audit=(line(NOW - 1), line(NOW), line(NOW + 1)))])
    await store.commit([replace(close(1, closed_at(NOW - 1)), posted=(posted(0),)), close(2, closed_at(NOW))])
    assert await store.erase_before(NOW) == 2
    assert [ended.round_id for ended in await store.closed_rounds(10)] == [TWO]
    assert await store.left_over() == []
    assert (await said(store))[:2] == [line(NOW), line(NOW + 1)]
    assert [kept.events for kept in await store.open_rounds()] == [(b"sealed event",)]
    assert await store.erase_before(NOW) == 0


async def test_erasing_one_study_leaves_the_others(store: Store) -> None:
    lines = tuple(replace(line(NOW - 1), study=f"study-{number}") for number in (1, 2))
    await store.commit([begin(1), begin(2), Step(ONE, audit=lines)])
    await store.commit([replace(close(1, closed_at(NOW - 1)), posted=(posted(0),)), close(2, closed_at(NOW - 1))])
    assert await store.erase_before(NOW - 2, "study-1") == 0
    assert await store.erase_before(NOW, "study-1") == 2
    assert [ended.round_id for ended in await store.closed_rounds(10)] == [TWO]
    assert await store.left_over() == []
    assert (await said(store))[0] == lines[1]
    assert await store.erase_before(NOW, "another") == 0


async def test_large_events_come_back_as_they_were(place: Place) -> None:
    large = hashlib.shake_256(b"a partial sum").digest(3_000_000)
    async with place.opened() as store:
        await store.commit([Step(ONE, begun=begun(1, sealed=large), event=large, posted=(posted(0, large),))])
    async with place.opened() as store:
        (kept,) = await store.open_rounds()
        assert kept.begun.sealed == large
        assert kept.events == (large,)
        assert kept.outbox[0].envelope == large


async def test_calls_at_the_same_time_are_all_done(store: Store) -> None:
    await store.commit([replace(begin(1), posted=tuple(posted(number) for number in range(50)))])
    *_, counter, rounds = await asyncio.gather(
        *(store.delivered([(ONE, number)]) for number in range(0, 50, 2)),
        store.commit([event(1)]),
        store.open_rounds(),
    )
    assert counter == 2
    assert isinstance(rounds, list)
    (kept,) = await store.open_rounds()
    assert [post.number for post in kept.outbox] == list(range(1, 50, 2))


async def test_one_call_that_fails_takes_no_other_with_it(store: Store) -> None:
    await store.commit([replace(begin(1), posted=(posted(0), posted(1)))])
    done, failed, also_done = await asyncio.gather(
        store.delivered([(ONE, 0)]), store.commit([event(9)]), store.delivered([(ONE, 1)]), return_exceptions=True
    )
    assert isinstance(failed, StoreError)
    assert (done, also_done) == (None, None)
    assert (await store.open_rounds())[0].outbox == ()


async def test_a_store_that_is_not_open_says_so(place: Place) -> None:
    store = place.make()
    with pytest.raises(StoreError, match="is not open") as caught:
        await store.counter()
    assert caught.value.reason == "closed"
    await store.open()
    await store.close()
    await store.close()
    with pytest.raises(StoreError, match="is not open"):
        await store.commit([begin(1)])


async def test_nothing_that_is_kept_prints_its_bytes(store: Store) -> None:
    await store.commit([Step(ONE, begun=begun(1), event=b"s-event", posted=(posted(0, b"s-envelope"),))])
    printed = repr(await store.open_rounds())
    await store.commit([replace(close(1, replace(CLOSED, result=b"s-result")), posted=(posted(0, b"s-envelope"),))])
    printed += repr(await store.find_closed(ONE)) + repr(await store.left_over())
    assert "study-1" in printed
    assert [secret for secret in ("s-event", "s-envelope", "s-result", "sealed seed") if secret in printed] == []
