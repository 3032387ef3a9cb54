"""What both round machines share: the transition table, the story, and the checks that a message passes inside a round.

`handle(event, now)` returns effects or raises. MessageRefused leaves the round exactly as it was; InvalidTransition is a bug.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, ClassVar

from mpc.envelope import SECRET_BYTES, Envelope, Place, Recipient, open_sealed, seal
from mpc.errors import Answer, InvalidTransition, MessageRefused
from mpc.identity import Credential, Identity
from mpc.keys import Keyring, RoundKey
from mpc.messages import OLDEST_VERSION, RULES, AbortCode, Binding, Kind
from mpc.rounds.admission import Admitted
from mpc.rounds.events import Answered, Effect, Event, MessageReceived, ReadValues, Send
from mpc.secret import Entropy
from mpc.statistics import Segment
from mpc.study import Study
from mpc.wire import Struct, decode_payload, encode

LIGHT_LENGTH = 10_000
LIGHT_MEMBERS = 64
"""Up to these, no event of a round takes longer than some milliseconds."""
STORY_LENGTH = 200
"""Transitions that the story keeps; older ones are of no help to a reader."""

Sealer = Callable[..., tuple[bytes, bytes]]
"""`mpc.envelope.seal`, or what stands for it."""
Handler = Callable[[Any, Any, float], list[Effect]]
Transitions = Mapping[tuple[StrEnum, type[Any] | Kind], Handler]


class Machine:
    """One round as one node sees it. Subclasses give the states, the table and the rules."""

    name: ClassVar[str]
    transitions: ClassVar[Transitions]
    """(state, event type or message kind) -> handler. All that can happen."""

    def __init__(self, round_id: bytes, keyring: Keyring, entropy: Entropy, state: StrEnum) -> None:
        self.round_id = round_id
        self.keyring = keyring
        self.entropy = entropy
        self.state = state
        self.story: list[str] = []
        self.round_key: RoundKey | None = RoundKey(entropy)
        self.invitation_digest = b""
        self.context: bytes | None = None
        self.version = OLDEST_VERSION
        """What messages that are bound to the roster are written in."""
        self.seen: dict[tuple[bytes, Kind, Identity], bytes] = {}
        """Messages taken: (context, kind, sender) -> digest; the recipient is this node."""
        self.sealer: Sealer = seal
        """RSA-OAEP draws bytes of its own, the one thing here that events, time and `entropy` do not determine: whoever
        rebuilds a round from its journal puts in what was sealed then."""
        self.sealed: list[bytes] = []
        """Digests of what was sealed, oldest first; whoever keeps the journal takes them out."""

    def __repr__(self) -> str:
        return f"<{self.name} {self.round_id.hex()} {self.state}>"

    def handle(self, event: Event, now: float) -> list[Effect]:
        """One transition. `now` is Unix seconds. Raises MessageRefused or InvalidTransition, both without a change."""
        if isinstance(event, MessageReceived):
            return self._receive(event.message, now)
        handler = self.transitions.get((self.state, type(event)))
        if handler is None:
            raise InvalidTransition(self.name, self.state, type(event).__name__, tuple(self.story))
        self._tell(self.state, type(event).__name__)
        return handler(self, event, now)

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether nothing more can happen."""

    @property
    @abstractmethod
    def heavy(self) -> bool:
        """Whether an event may take more than some milliseconds: long vectors, or many members."""

    @property
    def unread(self) -> ReadValues | None:
        """The reading of values that this round waits for; asked for again when the round is rebuilt."""
        return None

    @property
    @abstractmethod
    def parties(self) -> tuple[Credential, ...]:
        """By which certificates the other nodes take part in this round, as far as they are known."""

    @abstractmethod
    def check_invariants(self) -> None:
        """Raises AssertionError when the round is in a condition that the protocol rules out. For tests."""

    # -- receiving

    def _receive(self, message: Admitted, now: float) -> list[Effect]:
        """round, context, sender, seen before; only then is the message opened (protocol.md, "Envelope")."""
        envelope = message.envelope
        if envelope.header.round != self.round_id:
            raise MessageRefused(Answer.REFUSED, "round")
        self._check_context(envelope)
        self._check_sender(message)
        binding = RULES[envelope.kind].binding
        # A round has one invitation: a second one under another digest is no new message but a contradiction.
        key = (b"" if binding is Binding.ITSELF else envelope.header.context, envelope.kind, envelope.sender)
        earlier = self.seen.get(key)
        if earlier == envelope.digest:
            return [Answered(Answer.ACCEPTED)]
        if earlier is not None:
            return self._equivocated(envelope.sender, now)
        handler = self.transitions.get((self.state, envelope.kind))
        if handler is None:
            raise MessageRefused(Answer.GONE if self.ended else Answer.REFUSED, "unexpected")
        payload = self._open(envelope)
        before = self.state
        effects = handler(self, Received(message, payload), now)
        self.seen[key] = envelope.digest
        self._tell(before, f"{envelope.kind.purpose} from {envelope.sender.name}")
        return [Answered(Answer.ACCEPTED), *effects]

    def _check_context(self, envelope: Envelope) -> None:
        binding = RULES[envelope.kind].binding
        if binding is Binding.ITSELF:
            return
        if binding is Binding.INVITATION:
            if self.invitation_digest and envelope.header.context != self.invitation_digest:
                raise MessageRefused(Answer.REFUSED, "context")
        elif self.context is None:
            # The roster that this message belongs to may still be on its way.
            raise MessageRefused(Answer.GONE if self.ended else Answer.LATER, "context-unknown")
        elif envelope.header.context != self.context:
            raise MessageRefused(Answer.REFUSED, "context")
        elif envelope.version != self.version:
            raise MessageRefused(Answer.REFUSED, "round-version")

    def _open(self, envelope: Envelope) -> Struct:
        rule = RULES[envelope.kind]
        if not envelope.sealed:
            payload = bytes(envelope.ciphertext)
        else:
            assert self.round_key is not None, "an ended round has no transition for a message"
            if envelope.header.key_id != self.keyring.encryption.key_id:
                raise MessageRefused(Answer.UNOPENABLE, "key-unknown")
            payload = open_sealed(envelope, self.keyring.encryption.private_key, self.round_key if rule.sealed else None)
        return decode_payload(payload, rule.payload)

    @abstractmethod
    def _check_sender(self, message: Admitted) -> None:
        """Raises MessageRefused unless the sender has a say in this round."""

    @abstractmethod
    def _equivocated(self, sender: Identity, now: float) -> list[Effect]:
        """`sender` signed two different messages where there is one."""

    # -- sending

    def _seal(self, kind: Kind, content: Struct, recipient: Recipient, until: float, endpoint: str = "") -> tuple[Send, bytes]:
        """(the effect, the envelope's digest). Bound to the roster's context or the invitation, as the kind demands."""
        assert self.round_key is not None, "a round that has forgotten its key seals nothing"
        context = self.context if RULES[kind].binding is Binding.ROSTER else self.invitation_digest
        assert context is not None, "a kind bound to the roster is sent only once there is one"
        envelope, digest = self.sealer(
            kind,
            encode(content),
            Place(self.round_id, context, self.version if RULES[kind].binding is Binding.ROSTER else OLDEST_VERSION),
            keyring=self.keyring,
            round_key=self.round_key,
            recipient=recipient,
            secret=self.entropy(SECRET_BYTES),
        )
        self.sealed.append(digest)
        return Send(recipient.identity, kind, envelope, endpoint, until), digest

    def _tell(self, state: StrEnum, what: str) -> None:
        if len(self.story) < STORY_LENGTH:
            self.story.append(f"{state}: {what}")


class Received:
    """An opened message, as handlers see it."""

    __slots__ = ("message", "payload")

    def __init__(self, message: Admitted, payload: Any) -> None:
        self.message = message
        self.payload = payload

    @property
    def sender(self) -> Identity:
        """Who signed it."""
        return self.message.envelope.sender


def is_heavy(study: Study, segments: tuple[Segment, ...]) -> bool:
    """Whether a round over these segments is `Machine.heavy`."""
    local = study.records * len(study.variables)
    return max(sum(segment.length for segment in segments), local) > LIGHT_LENGTH or len(study.members) > LIGHT_MEMBERS


def explain(code: AbortCode | str, missing: tuple[str, ...], phase: str) -> str:
    """A sentence for people: why the round ended, and who is concerned."""
    who = ", ".join(missing)
    texts = {
        AbortCode.TOO_FEW: f"too few patients consented in time; without an answer or declined: {who or 'nobody'}",
        AbortCode.MISSING: f"{who or 'a member'} went silent while {phase}",
        AbortCode.UNAVAILABLE: f"{who or 'a member'} has no value that fits the study",
        AbortCode.ROSTER: f"{who or 'a member'} refused the roster",
        AbortCode.COLLECT: f"{who or 'a member'} refused the proofs of readiness",
        AbortCode.EQUIVOCATION: f"{who or 'a node'} sent two different messages where there is one",
        AbortCode.TRANSCRIPT: f"what {who or 'a member'} sent is not what was received; nothing is released",
        AbortCode.OUT_OF_RANGE: "the total is outside what honest members can produce; nothing is released",
        AbortCode.UNDELIVERABLE: f"{who or 'a member'} finally refused a message that the round needs",
        AbortCode.REVOKED: f"the certificate of {who or 'a member'} was revoked",
        AbortCode.CANCELLED: "the hospital cancelled the round",
    }
    return texts.get(AbortCode(code), str(code))
