"""The rules of a relay's mailboxes: who may post what to whom, in which order it is fetched, and when enough is enough.

A mailbox is the messages for one node, numbered from 1 as they come and never renumbered. The owner fetches in order and says
with each request up to where it has finished; only then are messages deleted. Nothing here stores or sends: `sort` decides on a
batch of letters from what a store says of the mailboxes and senders concerned, and the store writes what it is told.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from mpc.credentials import Credentials
from mpc.envelope import parse
from mpc.errors import Answer, IdentityError, MessageRefused
from mpc.identity import Identity, Role
from mpc.keys import WrappingKey, check_statement
from mpc.messages import Chain
from mpc.statement import Signed
from mpc.wire import Struct, decode

SERVED = frozenset({Role.HOSPITAL, Role.PATIENT})
"""Who posts and has a mailbox."""


@dataclass(frozen=True, slots=True)
class Quota:
    """The most that may wait."""

    messages: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Rules:
    """What a relay puts up with."""

    sender: Quota
    """Of one sender's messages, in all mailboxes together."""
    recipient: Quota
    """In one mailbox."""
    max_age: float
    """Seconds after which a message that nobody fetched is deleted."""
    max_message: int
    """Bytes."""


@dataclass(frozen=True, slots=True, repr=False)
class Letter:
    """An envelope that may be posted; the relay keeps it as it is."""

    sender: Identity
    recipient: Identity
    digest: bytes
    envelope: bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.envelope)


class Verdict(StrEnum):
    """What became of a posted letter; also the word for counters."""

    TAKEN = "taken"
    DUPLICATE = "duplicate"
    """The same bytes wait there already: no effect."""
    UNKNOWN = "unknown-recipient"
    """No mailbox: the recipient has never been here and is not on the list."""
    SENDER_FULL = "sender-full"
    RECIPIENT_FULL = "recipient-full"

    @property
    def answer(self) -> Answer:
        """What the sender is told."""
        return _ANSWERS[self]


_ANSWERS = {
    Verdict.TAKEN: Answer.ACCEPTED,
    Verdict.DUPLICATE: Answer.ACCEPTED,
    Verdict.UNKNOWN: Answer.REFUSED,
    Verdict.SENDER_FULL: Answer.LATER,
    Verdict.RECIPIENT_FULL: Answer.LATER,
}


@dataclass(frozen=True, slots=True)
class Usage:
    """What waits now: of a sender, or in a mailbox."""

    messages: int = 0
    bytes: int = 0

    def plus(self, size: int) -> Usage:
        """With one more message of `size` bytes."""
        return Usage(self.messages + 1, self.bytes + size)

    def within(self, quota: Quota) -> bool:
        """Whether that many may wait."""
        return self.messages <= quota.messages and self.bytes <= quota.bytes


@dataclass(frozen=True, slots=True)
class Box:
    """One mailbox."""

    last: int = 0
    """Number of the newest message that it ever had."""
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Sorted:
    """What a store has to write, all of it in one transaction."""

    verdicts: tuple[Verdict, ...]
    """One a letter, in their order."""
    taken: tuple[tuple[int, Letter], ...] = field(repr=False)
    """(number in the recipient's mailbox, letter)."""
    boxes: Mapping[Identity, Box]
    """Mailboxes that have changed, as they are now."""
    senders: Mapping[Identity, Usage]
    """Senders whose usage has changed, as it is now."""


def read_letter(raw: bytes, poster: Identity, relay: Identity, max_size: int) -> Letter:
    """The letter that `poster`, as TLS proved it, hands in at `relay`. Raises MessageRefused.

    Only the header is read. The signature is for the recipient to check: a relay is trusted with nothing.
    """
    envelope = parse(raw, max_size)
    if envelope.sender != poster:
        raise MessageRefused(Answer.REFUSED, "sender")
    if envelope.recipient.consortium != relay.consortium or envelope.recipient.role not in SERVED:
        raise MessageRefused(Answer.REFUSED, "recipient")
    if not envelope.sealed:
        raise MessageRefused(Answer.REFUSED, "unsealed")
    return Letter(envelope.sender, envelope.recipient, envelope.digest, raw)


def sort(
    letters: Iterable[Letter],
    boxes: Mapping[Identity, Box],
    senders: Mapping[Identity, Usage],
    waiting: Collection[tuple[Identity, bytes]],
    rules: Rules,
) -> Sorted:
    """Decides on the letters one after the other.

    `boxes` are the mailboxes that exist, `senders` what waits of each sender, `waiting` the (recipient, digest) of messages that
    are there already; all as they are before the first letter, and of the recipients and senders concerned only.
    """
    new_boxes: dict[Identity, Box] = {}
    new_senders: dict[Identity, Usage] = {}
    taken: list[tuple[int, Letter]] = []
    seen: set[tuple[Identity, bytes]] = set()
    verdicts: list[Verdict] = []
    for letter in letters:
        box = new_boxes.get(letter.recipient) or boxes.get(letter.recipient)
        name = (letter.recipient, letter.digest)
        sent = new_senders.get(letter.sender) or senders.get(letter.sender, Usage())
        sent = sent.plus(letter.size)
        if box is None:
            verdicts.append(Verdict.UNKNOWN)
        elif name in waiting or name in seen:
            verdicts.append(Verdict.DUPLICATE)
        elif not sent.within(rules.sender):
            verdicts.append(Verdict.SENDER_FULL)
        elif not (usage := box.usage.plus(letter.size)).within(rules.recipient):
            verdicts.append(Verdict.RECIPIENT_FULL)
        else:
            verdicts.append(Verdict.TAKEN)
            seen.add(name)
            new_boxes[letter.recipient] = Box(box.last + 1, usage)
            new_senders[letter.sender] = sent
            taken.append((box.last + 1, letter))
    return Sorted(tuple(verdicts), tuple(taken), new_boxes, new_senders)


class Cursor:
    """The owner's side: which numbers it has met, and up to where all of them are finished. Numbers may have gaps."""

    def __init__(self) -> None:
        self.met = 0
        """The highest number met so far."""
        self._open: set[int] = set()

    def meet(self, number: int) -> bool:
        """Whether `number` is new; numbers come in ascending order."""
        if number <= self.met:
            return False
        self.met = number
        self._open.add(number)
        return True

    def finish(self, number: int) -> None:
        """The message has its final answer and is not needed again."""
        self._open.discard(number)

    @property
    def finished(self) -> int:
        """Everything up to here is finished: what a fetch acknowledges."""
        return min(self._open) - 1 if self._open else self.met


# -- the key directory


class PublishedKey(Struct, frozen=True):
    """What a node behind the relay lets others know: with what to seal a first message for it."""

    chain: Chain
    statement: Signed


def read_key(raw: bytes, owner: Identity, credentials: Credentials, now: float) -> WrappingKey:
    """The key that `raw` publishes for `owner`. Raises MessageRefused unless chain and statement hold at `now` (Unix seconds)."""
    published = decode(raw, PublishedKey)
    try:
        credential = credentials.learn(published.chain, now)
    except IdentityError as error:
        raise MessageRefused(Answer.REFUSED, "certificate") from error
    if credential.identity != owner:
        raise MessageRefused(Answer.REFUSED, "owner")
    return check_statement(published.statement, credential, now)


def usable_key(raw: bytes | None, owner: Identity, credentials: Credentials, now: float) -> WrappingKey | None:
    """As `read_key`, but None for a key that does not hold, or that was not found: its owner cannot be invited."""
    try:
        return None if raw is None else read_key(raw, owner, credentials, now)
    except MessageRefused:
        return None
