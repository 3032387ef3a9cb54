"""The rules of a mailbox: what is taken, in which order, within which quotas, and how a cursor moves."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpc.credentials import Credentials
from mpc.envelope import Place, Recipient, seal, write_unsealed
from mpc.errors import Answer, MessageRefused
from mpc.identity import Identity, Role
from mpc.keys import RoundKey, check_statement
from mpc.mailbox import (
    Box,
    Cursor,
    Letter,
    PublishedKey,
    Quota,
    Rules,
    Sorted,
    Usage,
    Verdict,
    read_key,
    read_letter,
    sort,
)
from mpc.messages import Kind
from mpc.wire import encode
from tests.mpc.nodes import CONSORTIUM, HOSPITAL, NOW, ROUND, credential, keyring, patient, trust
from tests.mpc.properties import quick

ALICE, BOB, CHARLIE = patient("alice"), patient("bob"), patient("charlie")
RELAY = Identity(CONSORTIUM, Role.RELAY, "post")
MAX = 1 << 20
AMPLE = Quota(1000, 1 << 20)


def rules(sender: Quota = AMPLE, recipient: Quota = AMPLE) -> Rules:
    return Rules(sender, recipient, 60.0, MAX)


def letter(text: str, sender: Identity = ALICE, to: Identity = BOB, size: int = 10) -> Letter:
    return Letter(sender, to, text.encode().ljust(32, b"."), bytes(size))


def decide(*letters: Letter, rules: Rules = rules()) -> Sorted:  # noqa: B008  (frozen)
    return sort(letters, {ALICE: Box(), BOB: Box(7, Usage(2, 30)), CHARLIE: Box()}, {ALICE: Usage(3, 45)}, set(), rules)


# -- what is taken


def test_messages_are_numbered_in_their_order_from_the_newest_on() -> None:
    done = decide(letter("a"), letter("b", to=CHARLIE), letter("c"))

    assert [(number, taken.recipient, taken.digest[:1]) for number, taken in done.taken] == [
        (8, BOB, b"a"),
        (1, CHARLIE, b"b"),
        (9, BOB, b"c"),
    ]
    assert done.verdicts == (Verdict.TAKEN,) * 3
    assert done.boxes == {BOB: Box(9, Usage(4, 50)), CHARLIE: Box(1, Usage(1, 10))}
    assert done.senders == {ALICE: Usage(6, 75)}


def test_the_same_message_twice_is_one_and_is_accepted() -> None:
    twice = decide(letter("a"), letter("a"))
    again = sort([letter("a")], {BOB: Box(7)}, {}, {(BOB, letter("a").digest)}, rules())

    assert twice.verdicts == (Verdict.TAKEN, Verdict.DUPLICATE)
    assert len(twice.taken) == 1
    assert again.verdicts == (Verdict.DUPLICATE,)
    assert not again.taken
    assert not again.boxes
    assert Verdict.DUPLICATE.answer is Answer.ACCEPTED


def test_the_same_digest_in_another_mailbox_is_another_message() -> None:
    assert decide(letter("a"), letter("a", to=CHARLIE)).verdicts == (Verdict.TAKEN, Verdict.TAKEN)


def test_a_node_that_was_never_here_gets_no_mail() -> None:
    done = decide(letter("a", to=patient("nobody")), letter("b"))

    assert done.verdicts == (Verdict.UNKNOWN, Verdict.TAKEN)
    assert Verdict.UNKNOWN.answer is Answer.REFUSED
    assert done.senders == {ALICE: Usage(4, 55)}


@pytest.mark.parametrize(
    ("limits", "verdict"),
    [
        (rules(sender=Quota(4, 1000)), Verdict.SENDER_FULL),
        (rules(sender=Quota(100, 55)), Verdict.SENDER_FULL),
        (rules(recipient=Quota(3, 1000)), Verdict.RECIPIENT_FULL),
        (rules(recipient=Quota(100, 40)), Verdict.RECIPIENT_FULL),
    ],
)
def test_what_fits_a_quota_exactly_is_taken_and_the_next_one_waits(limits: Rules, verdict: Verdict) -> None:
    assert decide(letter("a"), letter("b"), rules=limits).verdicts == (Verdict.TAKEN, verdict)
    assert verdict.answer is Answer.LATER


def test_a_full_mailbox_does_not_keep_mail_from_another() -> None:
    done = decide(letter("a"), letter("b"), letter("c", to=CHARLIE), rules=rules(recipient=Quota(3, 1000)))
    assert done.verdicts == (Verdict.TAKEN, Verdict.RECIPIENT_FULL, Verdict.TAKEN)


def test_a_full_sender_does_not_keep_others_from_posting() -> None:
    done = decide(letter("a"), letter("b", sender=CHARLIE), rules=rules(sender=Quota(3, 1000)))
    assert done.verdicts == (Verdict.SENDER_FULL, Verdict.TAKEN)


@given(
    st.lists(
        st.tuples(st.sampled_from([ALICE, BOB]), st.sampled_from([BOB, CHARLIE]), st.integers(0, 9), st.integers(1, 40)),
        max_size=30,
    ),
    st.integers(1, 12),
    st.integers(1, 200),
)
@quick
def test_no_order_of_letters_breaks_a_quota(posted: list[tuple[Identity, Identity, int, int]], count: int, size: int) -> None:
    quota = Quota(count, size)
    letters = [Letter(sender, to, bytes([name]).ljust(32), bytes(length)) for sender, to, name, length in posted]
    done = sort(letters, {BOB: Box(), CHARLIE: Box()}, {}, set(), rules(quota, quota))

    for ends in ([kept.sender for _, kept in done.taken], [kept.recipient for _, kept in done.taken]):
        sizes: Counter[Identity] = Counter()
        for end, (_, kept) in zip(ends, done.taken, strict=True):
            sizes[end] += kept.size
        assert all(number <= count for number in Counter(ends).values())
        assert all(number <= size for number in sizes.values())
    names = [(kept.recipient, kept.digest) for _, kept in done.taken]
    assert len(names) == len(set(names))
    for owner, box in done.boxes.items():
        assert [number for number, kept in done.taken if kept.recipient == owner] == list(range(1, box.last + 1))


# -- what may be posted


def envelope(sender: Identity = ALICE, to: Identity = BOB, kind: Kind = Kind.SHARE) -> bytes:
    key = check_statement(keyring(to).encryption.statement, credential(to), NOW)
    round_key = RoundKey(os.urandom)
    mixed_in = b"" if kind is Kind.INVITATION else RoundKey(os.urandom).public
    raw, _ = seal(
        kind,
        b"payload",
        Place(ROUND, bytes(32)),
        keyring=keyring(sender),
        round_key=round_key,
        recipient=Recipient(to, key, mixed_in),
        secret=os.urandom(32),
    )
    return raw


def refusal(raw: bytes, poster: Identity = ALICE, relay: Identity = RELAY, max_size: int = MAX) -> tuple[Answer, str]:
    with pytest.raises(MessageRefused) as caught:
        read_letter(raw, poster, relay, max_size)
    return caught.value.answer, caught.value.reason


def test_a_letter_is_its_senders_for_a_node_of_the_consortium() -> None:
    raw = envelope()
    found = read_letter(raw, ALICE, RELAY, MAX)

    assert (found.sender, found.recipient, found.envelope, found.size) == (ALICE, BOB, raw, len(raw))


def test_nobody_posts_in_anothers_name() -> None:
    assert refusal(envelope(), poster=BOB) == (Answer.REFUSED, "sender")
    assert refusal(envelope(), poster=HOSPITAL) == (Answer.REFUSED, "sender")


def test_mail_for_another_consortium_or_role_is_refused() -> None:
    assert refusal(envelope(), relay=Identity("other", Role.RELAY, "post")) == (Answer.REFUSED, "recipient")
    model = Identity(CONSORTIUM, Role.MODEL, "oracle")
    assert refusal(envelope(to=model)) == (Answer.REFUSED, "recipient")
    assert refusal(envelope(to=RELAY)) == (Answer.REFUSED, "recipient")


def test_what_is_not_sealed_is_refused() -> None:
    bare, _ = write_unsealed(
        Kind.INVITATION,
        b"question",
        Place(ROUND, bytes(32)),
        keyring=keyring(HOSPITAL),
        round_key=RoundKey(os.urandom),
        recipient=BOB,
    )
    assert refusal(bare, poster=HOSPITAL) == (Answer.REFUSED, "unsealed")
    assert read_letter(envelope(HOSPITAL, kind=Kind.INVITATION), HOSPITAL, RELAY, MAX).recipient == BOB


def test_what_is_no_envelope_or_too_large_is_rejected() -> None:
    raw = envelope()
    assert refusal(raw[:-1]) == (Answer.REJECTED, "encoding")
    assert refusal(b"\2" + raw[1:]) == (Answer.REJECTED, "version")
    assert refusal(raw, max_size=len(raw) - 1) == (Answer.REJECTED, "size")


# -- the cursor


def test_a_cursor_passes_what_is_finished_from_the_front_only() -> None:
    cursor = Cursor()
    assert [cursor.meet(number) for number in (1, 2, 3, 5)] == [True] * 4
    assert cursor.finished == 0

    cursor.finish(2)
    assert cursor.finished == 0
    cursor.finish(1)
    assert cursor.finished == 2
    cursor.finish(5)
    assert cursor.finished == 2
    cursor.finish(3)
    assert (cursor.finished, cursor.met) == (5, 5)


def test_a_message_met_before_is_not_new() -> None:
    cursor = Cursor()
    cursor.meet(4)
    assert not cursor.meet(4)
    assert not cursor.meet(3)
    cursor.finish(4)
    assert not cursor.meet(4)
    assert cursor.finished == 4


@given(st.sets(st.integers(1, 60), min_size=1), st.randoms(use_true_random=False))
@quick
def test_nothing_unfinished_is_ever_acknowledged(numbers: set[int], chance: object) -> None:
    cursor, left = Cursor(), sorted(numbers)
    for number in left:
        cursor.meet(number)
    chance.shuffle(order := list(left))  # type: ignore[attr-defined]
    for number in order:
        assert cursor.finished < min(left)
        cursor.finish(number)
        left.remove(number)
        assert cursor.finished == (min(left) - 1 if left else max(numbers))


# -- published keys


def published(owner: Identity = ALICE, statement_of: Identity | None = None) -> bytes:
    return encode(PublishedKey(keyring(owner).chain, keyring(statement_of or owner).encryption.statement))


def test_a_published_key_is_its_owners() -> None:
    key = read_key(published(), ALICE, Credentials(trust()), NOW)
    assert (key.node, key.key_id) == (ALICE, keyring(ALICE).encryption.key_id)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (published(BOB), "owner"),
        (published(ALICE, BOB), "key-statement"),
        (published()[:-1], "encoding"),
        (encode(PublishedKey((b"no certificate",), keyring(ALICE).encryption.statement)), "certificate"),
    ],
)
def test_another_nodes_key_is_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(MessageRefused, match=reason):
        read_key(raw, ALICE, Credentials(trust()), NOW)


def test_a_key_whose_time_is_over_is_refused() -> None:
    with pytest.raises(MessageRefused, match="key-statement"):
        read_key(published(), ALICE, Credentials(trust()), NOW + 10 * 24 * 3600)
