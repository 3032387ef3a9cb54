"""A round as it is kept: how it began, and each event that it took, with the time and what was sealed then.

A machine is determined by these, so a round is rebuilt by giving a new machine the same events again. `restore` checks after each
event that the machine stands where it stood; where it does not (the policy has changed, or the program), the round cannot go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from mpc.credentials import Credentials
from mpc.envelope import parse
from mpc.errors import Answer, CohortiumError, MessageRefused
from mpc.identity import Identity
from mpc.keys import WrappingKey
from mpc.messages import Kind
from mpc.ring import MAX_MODULUS, Ring
from mpc.rounds.admission import admit
from mpc.rounds.events import (
    CancelRound,
    Effect,
    Event,
    KeyPublished,
    MessageReceived,
    OpenRound,
    PeersRevoked,
    PersonDecided,
    Tick,
    Undeliverable,
    ValuesRead,
    ValuesUnavailable,
    Withdrawn,
)
from mpc.rounds.machine import Machine
from mpc.statistics.component import Values
from mpc.wire import Struct, decode, encode
from nodes.log import place

_DIGEST_BYTES = 32


class RoundLost(CohortiumError):
    """A kept round that cannot be rebuilt. The text says why."""


class Beginning(Struct, frozen=True):
    """What a round's machine is made from."""

    seed: bytes
    """Of its entropy, 32 bytes."""
    key_id: bytes
    """Of the encryption key that the round was promised."""
    asked: bytes
    """What is asked of whom, as the hospital encodes it. Empty at a patient, who learns it from the Invitation."""


class _Arrived(Struct, frozen=True, tag=1):
    raw: bytes
    peer: str


class Packed(Struct, frozen=True):
    """A variable's values."""

    variable: str
    minimum: int
    modulus: int
    length: int
    data: bytes


class _Read(Struct, frozen=True, tag=2):
    values: tuple[Packed, ...]
    noise: tuple[int, ...]


class _Unavailable(Struct, frozen=True, tag=3):
    pass


class _Ticked(Struct, frozen=True, tag=4):
    pass


class _Undelivered(Struct, frozen=True, tag=5):
    recipient: str
    kind: Kind
    answer: Answer


class _Opened(Struct, frozen=True, tag=6):
    pass


class _Cancelled(Struct, frozen=True, tag=7):
    pass


class _KeyPublished(Struct, frozen=True, tag=8):
    node: str
    key_id: bytes
    public_key: bytes
    """SubjectPublicKeyInfo, DER."""
    not_before: int
    not_after: int


class _Revoked(Struct, frozen=True, tag=9):
    nodes: tuple[str, ...]


class _PersonDecided(Struct, frozen=True, tag=10):
    approved: bool


class _Withdrawn(Struct, frozen=True, tag=11):
    pass


_Record = (
    _Arrived
    | _Read
    | _Unavailable
    | _Ticked
    | _Undelivered
    | _Opened
    | _Cancelled
    | _KeyPublished
    | _Revoked
    | _PersonDecided
    | _Withdrawn
)


class Entry(Struct, frozen=True):
    """One event, as it was taken."""

    now: float
    """Unix seconds, as the machine was told."""
    event: _Record
    sealed: bytes
    """Digests of the envelopes that the transition sealed, one after the other."""
    state: str
    """Where the machine stood afterwards."""


def write(event: Event, raw: bytes, peer: str, now: float, sealed: Sequence[bytes], state: str) -> bytes:
    """The entry for an event. For a MessageReceived, `raw` is the envelope as it came and `peer` who carried it."""
    return encode(Entry(now, _record(event, raw, peer), b"".join(sealed), state))


def _record(event: Event, raw: bytes, peer: str) -> _Record:
    match event:
        case MessageReceived():
            return _Arrived(raw, peer)
        case ValuesRead():
            return _Read(tuple(pack(name, values) for name, values in event.values.items()), event.noise)
        case ValuesUnavailable():
            return _Unavailable()
        case Tick():
            return _Ticked()
        case Undeliverable():
            return _Undelivered(event.recipient.uri, event.kind, event.answer)
        case OpenRound():
            return _Opened()
        case CancelRound():
            return _Cancelled()
        case KeyPublished(key):
            public_key = key.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            return _KeyPublished(key.node.uri, key.key_id, public_key, key.not_before, key.not_after)
        case PersonDecided():
            return _PersonDecided(event.approved)
        case Withdrawn():
            return _Withdrawn()
        case PeersRevoked():
            return _Revoked(tuple(node.uri for node in event.nodes))


def pack(variable: str, values: Values) -> Packed:
    """As few bytes a number as its range needs: a million values of 22 bits take 3 MB, not 8."""
    minimum = int(values.min()) if values.size else 0
    span = int(values.max()) - minimum if values.size else 0
    ring = Ring(min(max(span + 1, 2), MAX_MODULUS))
    if span >= MAX_MODULUS:
        return Packed(variable, 0, 0, values.size, values.astype("<i8", copy=False).tobytes())
    offsets = values.astype(np.uint64) - np.uint64(minimum % 2**64)
    return Packed(variable, minimum, ring.modulus, values.size, ring.pack(offsets))


def unpack(packed: Packed) -> Values:
    """The same values again."""
    if packed.modulus == 0:
        return np.frombuffer(packed.data, dtype="<i8").astype(np.int64)
    offsets = Ring(packed.modulus).unpack(packed.data, packed.length)
    return (offsets + np.uint64(packed.minimum % 2**64)).view(np.int64)


@dataclass(frozen=True, slots=True)
class Restored:
    """What replaying a journal gave: the effects of each event, in order."""

    machine: Machine
    effects: tuple[list[Effect], ...]
    times: tuple[float, ...]
    values: ValuesRead | None
    """Those that it has taken."""


def restore(machine: Machine, entries: Sequence[bytes], *, me: Identity, credentials: Credentials, max_message: int) -> Restored:
    """Gives a new `machine` the events of its journal. Raises RoundLost when it does not end up where it was."""
    genuine = machine.sealer
    effects: list[list[Effect]] = []
    times: list[float] = []
    values: ValuesRead | None = None
    try:
        for raw in entries:
            entry = decode(raw, Entry)
            machine.sealer = _Sealed(entry.sealed)
            with credentials.in_the_past():
                event = _event(entry.event, me, credentials, max_message, entry.now)
                effects.append(machine.handle(event, entry.now))
            values = event if isinstance(event, ValuesRead) else values
            times.append(entry.now)
            machine.sealed.clear()
            if str(machine.state) != entry.state:
                raise RoundLost(
                    f"it was {entry.state} and would now be {machine.state}: its policy, its trust or the program has changed"
                )
    except RoundLost:
        raise
    except CohortiumError as error:
        raise RoundLost(f"an event that it took is now refused: {error}") from error
    except Exception as error:  # a bug must cost the one round, and not keep the node from starting
        raise RoundLost(f"this program fails at an event that it took: {type(error).__name__} at {place(error)}") from error
    machine.sealer = genuine
    return Restored(machine, tuple(effects), tuple(times), values)


def _event(record: _Record, me: Identity, credentials: Credentials, max_message: int, now: float) -> Event:
    match record:
        case _Arrived():
            envelope = parse(record.raw, max_message)
            return MessageReceived(admit(envelope, peer=Identity.parse(record.peer), me=me, credentials=credentials, now=now))
        case _Read():
            values: Mapping[str, Values] = {packed.variable: unpack(packed) for packed in record.values}
            return ValuesRead(values, record.noise)
        case _Unavailable():
            return ValuesUnavailable()
        case _Ticked():
            return Tick()
        case _Undelivered():
            return Undeliverable(Identity.parse(record.recipient), record.kind, record.answer)
        case _Opened():
            return OpenRound()
        case _Cancelled():
            return CancelRound()
        case _KeyPublished():
            public_key = load_der_public_key(record.public_key)
            assert isinstance(public_key, rsa.RSAPublicKey), "nothing else is kept"
            key = WrappingKey(Identity.parse(record.node), record.key_id, public_key, record.not_before, record.not_after)
            return KeyPublished(key)
        case _PersonDecided():
            return PersonDecided(record.approved)
        case _Withdrawn():
            return Withdrawn()
        case _Revoked():
            return PeersRevoked(tuple(map(Identity.parse, record.nodes)))


class _Sealed:
    """Stands for `mpc.envelope.seal`: nothing is sealed again, the envelopes are in the outbox or were delivered."""

    def __init__(self, digests: bytes) -> None:
        self._digests = [digests[at : at + _DIGEST_BYTES] for at in range(0, len(digests), _DIGEST_BYTES)]

    def __call__(self, *_arguments: object, **_named: object) -> tuple[bytes, bytes]:
        if not self._digests:
            raise MessageRefused(Answer.REFUSED, "sealed-more")
        return b"", self._digests.pop(0)
