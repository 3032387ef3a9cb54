"""What a node's decisions ask of the past: in the store as entries, here as answers.

A patient's ledger says what its sources went into, which values they gave, and what a person has said; a hospital's, which rounds
can have no total. An entry is taken here with the transition that makes it, and is in the store with that transition's commit.
When a commit fails, all of it is read again from there (`load`).
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from mpc.disclosure import RATE_WINDOW, Contribution, Withdrawal
from mpc.identity import Identity
from mpc.messages import BurntRound
from mpc.rounds.events import Submitted, Unreleased
from mpc.rounds.roster import UnreleasedRoster
from mpc.signature import sha256
from mpc.wire import Struct, decode, encode
from nodes.recorded import Recorded
from nodes.store.base import LedgerEntry
from nodes.store.sealing import SealingKey

MOST_DECISIONS = 10_000
"""Decisions of the last minute that are counted."""
KEPT_SECONDS: Final = 366 * 24 * 3600.0
"""For which a hospital keeps what lets it ask again after a round that can have no total."""

_CONTRIBUTION = "contribution"
_RECORDED = "recorded"
_FREED = "freed"
_RESTORED = "restored"
_WITHDRAWAL = "withdrawal"
_APPROVAL = "approval"
_UNRELEASED = "unreleased"
_BURNT = "burnt"


class _Contribution(Struct, frozen=True):
    source: str
    context: bytes
    members: tuple[str, ...]
    vouched: tuple[str, ...]
    released: bool
    rho: int


class _Withdrawal(Struct, frozen=True):
    pattern: str
    questions: tuple[bytes, ...]


class _Members(Struct, frozen=True):
    members: tuple[str, ...]


class Ledger:
    """An `mpc.disclosure.Ledger`. For the protocol thread, except `values_of`."""

    def __init__(self, key: SealingKey | None = None) -> None:
        """`key` seals values; without one none are kept."""
        self._key = key
        self._open: set[bytes] = set()
        self._decided: deque[float] = deque(maxlen=MOST_DECISIONS)
        self._entries: dict[tuple[str, str], LedgerEntry] = {}
        self._contributions: dict[str, dict[bytes, Contribution]] = {}
        self._withdrawals: dict[str, Withdrawal] = {}
        self._under_way: dict[bytes, Mapping[str, Recorded]] = {}
        """By open round: the values that it has read of each source."""
        self._replaying = False

    def load(self, entries: Iterable[LedgerEntry]) -> None:
        """Forgets what it knows, but for the open rounds, and takes what the store has."""
        self._entries.clear()
        self._contributions.clear()
        self._withdrawals.clear()
        for entry in entries:
            self.take(entry)

    def forget(self, now: float) -> None:
        """Drops what the store drops: see `Store.forget_ledger`."""
        self.load([entry for entry in self._entries.values() if entry.until > now])

    def take(self, entry: LedgerEntry) -> None:
        """Remembers what the store has, or is about to have."""
        self._entries[entry.kind, entry.key] = entry  # in the place of an earlier one: contributions stay in their order
        if entry.kind == _CONTRIBUTION:
            of = decode(entry.content, _Contribution)
            self._contributions.setdefault(of.source, {})[of.context] = Contribution(
                of.context, entry.at, entry.until, frozenset(of.members), frozenset(of.vouched), of.released, of.rho
            )
        elif entry.kind == _WITHDRAWAL:
            said = decode(entry.content, _Withdrawal)
            self._withdrawals[entry.key] = Withdrawal(said.pattern, frozenset(said.questions))

    # -- what is asked of it

    @contextlib.contextmanager
    def replaying(self) -> Iterator[None]:
        """Inside, it remembers nothing: a round that is rebuilt decides what it decided then."""
        self._replaying = True
        try:
            yield
        finally:
            self._replaying = False

    def open_rounds(self) -> int:
        """Rounds that this patient takes part in now."""
        return 0 if self._replaying else len(self._open)

    def invitations_since(self, time: float) -> int:
        """Invitations decided on since `time` (Unix seconds, at most a minute ago)."""
        return 0 if self._replaying else sum(decided >= time for decided in self._decided)

    def contributions(self, source: str) -> Sequence[Contribution]:
        """See `mpc.disclosure.Ledger`."""
        if self._replaying:
            return ()
        freed = self._at(_FREED, source)
        return [one for one in self._contributions.get(source, {}).values() if one.at > freed]

    def withdrawals(self) -> Iterable[Withdrawal]:
        """See `mpc.disclosure.Ledger`."""
        return () if self._replaying else list(self._withdrawals.values())

    def forgot(self, source: str) -> float:
        """See `mpc.disclosure.Ledger`."""
        if self._replaying:
            return 0.0
        restored = self._at(_RESTORED, "")
        return 0.0 if restored <= self._at(_FREED, source) else restored

    def approved(self, study: bytes, until: float) -> bool:
        """Whether a person has approved the study with this digest in advance, up to then at least."""
        entry = self._entries.get((_APPROVAL, study.hex()))
        return entry is not None and entry.until >= until

    def values_of(self, source: str, now: float) -> Recorded | None:
        """The values that count for a source: those of its period, else those that a round under way has read.

        Any thread may ask. Raises StoreError when what is kept does not open.
        """
        entry = self._entries.get((_RECORDED, source))
        if entry is not None and entry.until > now:
            assert self._key is not None, "whoever lacks the key keeps no values"
            return decode(self._key.unseal(entry.content, _label(source)), Recorded)
        return next((read[source] for read in list(self._under_way.values()) if source in read), None)

    def sources(self) -> dict[str, list[Contribution]]:
        """All that has contributed, and is not released."""
        return {source: list(found) for source in self._contributions if (found := self.contributions(source))}

    def unreleased(self) -> tuple[UnreleasedRoster, ...]:
        """At a hospital: the rosters without a total of which members have said that they burnt the round."""
        burnt: dict[str, list[tuple[str, BurntRound]]] = {}
        for (kind, key), entry in self._entries.items():
            if kind == _BURNT:
                context, who = key.split(" ")
                burnt.setdefault(context, []).append((who, decode(entry.content, BurntRound)))
        return tuple(
            UnreleasedRoster(decode(self._entries[_UNRELEASED, context].content, _Members).members, tuple(of_context))
            for context, of_context in burnt.items()
            if (_UNRELEASED, context) in self._entries
        )

    def awaits_burnt(self, context: bytes, member: Identity) -> bool:
        """At a hospital: whether there is no total over a roster with this context and member."""
        entry = self._entries.get((_UNRELEASED, context.hex()))
        return entry is not None and member.uri in decode(entry.content, _Members).members

    def _at(self, kind: str, key: str) -> float:
        entry = self._entries.get((kind, key))
        return 0.0 if entry is None else entry.at

    # -- what happens

    def decided(self, at: float) -> None:
        """An invitation was decided on."""
        self._decided.append(at)
        while self._decided and self._decided[0] < at - RATE_WINDOW:
            self._decided.popleft()

    def opened(self, round_id: bytes) -> None:
        """This node takes part in the round."""
        self._open.add(round_id)

    def read(self, round_id: bytes, values: Mapping[str, Recorded]) -> None:
        """What a round has read of each source: until it ends, other rounds use the same."""
        self._under_way[round_id] = values

    def closed(self, round_id: bytes) -> None:
        """It does not any more."""
        self._open.discard(round_id)
        self._under_way.pop(round_id, None)

    # -- what is to be kept; all of these take the entries, too

    def submitted(self, round_id: bytes, effect: Submitted, now: float) -> tuple[LedgerEntry, ...]:
        """A PartialSum is given: it counts under each of its sources, and the values that went into it are kept."""
        members = tuple(member.uri for member in effect.members)
        vouched = tuple(sorted(member.uri for member in effect.vouched))
        values = self._under_way.get(round_id, {})
        made: list[LedgerEntry] = []
        for source, until in effect.sources.items():
            content = _Contribution(source, effect.context, members, vouched, False, effect.rho)
            made.append(LedgerEntry(_CONTRIBUTION, f"{effect.context.hex()} {source}", now, until, encode(content)))
            kept = self._entries.get((_RECORDED, source))
            if self._key is not None and source in values and (kept is None or kept.until <= now):
                sealed = self._key.seal(encode(values[source]), _label(source))
                made.append(LedgerEntry(_RECORDED, source, now, until, sealed))
        return self._taken(made)

    def received(self, context: bytes) -> tuple[LedgerEntry, ...]:
        """A receipt came: the total over this roster is known to somebody."""
        found = [entry for entry in self._entries.values() if entry.kind == _CONTRIBUTION and entry.key.startswith(context.hex())]
        return self._taken(replace(entry, content=encode(_released(decode(entry.content, _Contribution)))) for entry in found)

    def free(self, sources: Iterable[str], now: float) -> tuple[LedgerEntry, ...]:
        """A person frees sources from their rosters; the values that were kept of them are overwritten."""
        made: list[LedgerEntry] = []
        for source in sources:
            made.append(LedgerEntry(_FREED, source, now, math.inf, b""))
            if (_RECORDED, source) in self._entries:
                made.append(LedgerEntry(_RECORDED, source, now, now, b""))
        return self._taken(made)

    def approve(self, study: bytes, until: float, now: float) -> tuple[LedgerEntry, ...]:
        """A person approves in advance of the study with this digest."""
        return self._taken([LedgerEntry(_APPROVAL, study.hex(), now, until, b"")])

    def withdraw(self, withdrawals: Iterable[Withdrawal], studies: Iterable[bytes], now: float) -> tuple[LedgerEntry, ...]:
        """A person takes no part any more. What was approved in advance of `studies`, by their digests, is so no longer."""
        made = [LedgerEntry(_APPROVAL, study.hex(), now, now, b"") for study in studies]
        for one in withdrawals:
            content = encode(_Withdrawal(one.pattern, tuple(sorted(one.questions))))
            made.append(LedgerEntry(_WITHDRAWAL, sha256(content).hex(), now, math.inf, content))
        return self._taken(made)

    def restored(self, now: float) -> tuple[LedgerEntry, ...]:
        """The store is an older copy: it may lack what the sources have contributed since."""
        return self._taken([LedgerEntry(_RESTORED, "", now, math.inf, b"")])

    def not_released(self, effect: Unreleased, now: float) -> tuple[LedgerEntry, ...]:
        """At a hospital: there will be no total over this roster."""
        content = encode(_Members(tuple(member.uri for member in effect.members)))
        return self._taken([LedgerEntry(_UNRELEASED, effect.context.hex(), now, now + KEPT_SECONDS, content)])

    def burnt(self, context: bytes, member: Identity, burnt: BurntRound, now: float) -> tuple[LedgerEntry, ...]:
        """At a hospital: a member has signed that it made no PartialSum for this context."""
        return self._taken([LedgerEntry(_BURNT, f"{context.hex()} {member.uri}", now, now + KEPT_SECONDS, encode(burnt))])

    def _taken(self, entries: Iterable[LedgerEntry]) -> tuple[LedgerEntry, ...]:
        made = tuple(entries)
        for entry in made:
            self.take(entry)
        return made


def _released(of: _Contribution) -> _Contribution:
    return _Contribution(of.source, of.context, of.members, of.vouched, True, of.rho)


def _label(source: str) -> str:
    return f"values of {source}"
