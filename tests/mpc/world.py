"""A round of real machines in memory. The test decides which message is delivered when, twice, or never, and may forge any.

Every input is a different power of a base, so that an input that is missing or counted twice shows in the sum.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mpc.envelope import Place, Recipient, open_sealed, parse, seal, write_unsealed
from mpc.errors import Answer, MessageRefused
from mpc.identity import Identity
from mpc.keys import RoundKey, check_statement
from mpc.messages import RULES, Binding, Invitation, Kind
from mpc.receipt import SignedReceipt
from mpc.rounds.admission import admit
from mpc.rounds.countersigning import Countersigning
from mpc.rounds.events import (
    Answered,
    Countersigned,
    Effect,
    Ended,
    Event,
    MessageReceived,
    OpenRound,
    ReadValues,
    Receipted,
    Released,
    Send,
    StopSending,
    Tick,
    Undeliverable,
    ValuesRead,
    ValuesUnavailable,
    WakeAt,
)
from mpc.rounds.hospital import HospitalRound
from mpc.rounds.machine import Machine
from mpc.rounds.patient import PatientRound
from mpc.signature import sha256
from mpc.study import Study
from mpc.wire import Struct, decode, encode
from tests.mpc.nodes import HOSPITAL, NOW, ROUND, credential, hospital_round, keyring, patient, patient_round, policy, study

MAX_SIZE = 1 << 20
FINAL = frozenset({Answer.GONE, Answer.REFUSED, Answer.UNOPENABLE})
BASE = 100
"""More than the members of any test, so that the digits of a sum to this base say how often each input was counted."""


@dataclass(frozen=True, eq=False)
class Letter:
    """A message on its way."""

    sender: Identity
    recipient: Identity
    kind: Kind
    raw: bytes = field(repr=False)


@dataclass
class World:
    """One hospital, its patients, and what lies between them."""

    study: Study
    values: Mapping[str, list[int] | None]
    """By patient; None: its source has no value."""
    patients: dict[str, PatientRound] = field(default_factory=dict)
    noise: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """By patient, for a study with noise."""
    now: float = NOW
    letters: list[Letter] = field(default_factory=list)
    """Sent and not yet answered for good, oldest first."""
    sent: list[Letter] = field(default_factory=list)
    """Everything that was ever sent: what an eavesdropper has."""
    answers: list[tuple[Letter, Answer, str]] = field(default_factory=list)
    effects: list[tuple[str, Effect]] = field(default_factory=list)
    wakes: dict[Identity, float] = field(default_factory=dict)
    drawn: list[tuple[str, bytes]] = field(default_factory=list, repr=False)
    """Everything that any node drew from its entropy: private round keys, seeds, wrapped secrets, nonces."""
    receipts: dict[str, SignedReceipt] = field(default_factory=dict)
    """By node, as it keeps it."""
    countersigning: Countersigning | None = None
    """At the hospital, once it has a result."""

    def __post_init__(self) -> None:
        self.hospital: HospitalRound = hospital_round(self.study, entropy=self.entropy(HOSPITAL.name))
        for name in self.values:
            if name not in self.patients:
                self.patients[name] = patient_round(name, entropy=self.entropy(name))
        self.machines: dict[Identity, HospitalRound | PatientRound] = {HOSPITAL: self.hospital}
        self.machines.update({patient(name): machine for name, machine in self.patients.items()})
        self.round_keys = {identity: round_key(machine) for identity, machine in self.machines.items()}

    def entropy(self, name: str) -> Callable[[int], bytes]:
        def draw(size: int) -> bytes:
            octets = os.urandom(size)
            self.drawn.append((name, octets))
            return octets

        return draw

    def handle(self, node: Identity, event: Event) -> list[Effect]:
        """The one place where a machine is given an event."""
        if isinstance(event, MessageReceived) and event.message.envelope.kind is Kind.COUNTERSIGNATURE and self.countersigning:
            return self.countersigning.handle(event, self.now)
        return self.machines[node].handle(event, self.now)

    def open(self) -> None:
        self._do(HOSPITAL, self.handle(HOSPITAL, OpenRound()))

    def give(self, node: Identity, event: Event) -> None:
        """An event that is no message."""
        self._do(node, self.handle(node, event))

    def deliver(self, letter: Letter, peer: Identity | None = None) -> Answer:
        """Hands the letter over as a transport would. A transient answer leaves it to the caller to try again."""
        machine = self.machines[letter.recipient]
        reason = ""
        try:
            admitted = admit(
                parse(letter.raw, MAX_SIZE),
                peer=peer or letter.sender,
                me=letter.recipient,
                credentials=machine.credentials,
                now=self.now,
            )
            effects = self.handle(letter.recipient, MessageReceived(admitted))
        except MessageRefused as error:
            effects, answer, reason = [], error.answer, error.reason
        else:
            (answer,) = (effect.answer for effect in effects if isinstance(effect, Answered))
        machine.check_invariants()
        self.answers.append((letter, answer, reason))
        self._do(letter.recipient, effects)
        sender = self.machines.get(letter.sender)
        if answer in FINAL and letter in self.letters and sender is not None and not sender.ended:
            self.give(letter.sender, Undeliverable(letter.recipient, letter.kind, answer))
        return answer

    @property
    def reason(self) -> str:
        """Why the last message that was delivered was not taken."""
        return self.answers[-1][2]

    def run(self, *, drop: Callable[[Letter], bool] = lambda letter: False, hold: frozenset[Kind] = frozenset()) -> None:
        """Delivers until nothing changes; letters with a transient answer stay. `drop` loses letters, `hold` keeps kinds back."""
        moved = True
        while moved:
            moved = False
            for letter in list(self.letters):
                if letter not in self.letters or letter.kind in hold:
                    continue
                if drop(letter):
                    self.letters.remove(letter)
                elif self.deliver(letter) not in (Answer.LATER, Answer.REJECTED):
                    moved = True
                    self.settle(letter)

    def settle(self, letter: Letter) -> None:
        """The sender knows that the letter has its final answer."""
        if letter in self.letters:
            self.letters.remove(letter)

    def run_out(self, *, drop: Callable[[Letter], bool] = lambda letter: False) -> None:
        """Runs, and lets time pass, until every machine with an alarm has ended."""
        self.run(drop=drop)
        for _ in range(100):
            alarms = [at for node, at in self.wakes.items() if not self.machines[node].ended]
            if not alarms:
                return
            self.advance(max(0.0, min(alarms) - self.now))
            self.run(drop=drop)
        raise AssertionError("alarms go on and on")

    def advance(self, seconds: float) -> None:
        """Lets time pass, and wakes every machine whose time has come."""
        self.now += seconds
        for identity, at in list(self.wakes.items()):
            if at <= self.now and not self.machines[identity].ended:
                del self.wakes[identity]
                self.give(identity, Tick())

    def _do(self, node: Identity, effects: list[Effect]) -> None:
        self.machines[node].check_invariants()
        for effect in effects:
            self.effects.append((node.name, effect))
            match effect:
                case Send():
                    letter = Letter(node, effect.recipient, effect.kind, effect.envelope)
                    self.letters.append(letter)
                    self.sent.append(letter)
                case StopSending():
                    self.letters = [letter for letter in self.letters if letter.sender != node]
                case WakeAt():
                    self.wakes[node] = effect.at
                case Receipted():
                    self.receipts[node.name] = effect.receipt
                    if node == HOSPITAL:
                        self.countersigning = Countersigning(self.hospital.keyring, effect.receipt)
                case Countersigned():
                    self.receipts[node.name] = self.receipts[node.name].countersigned(effect.place, effect.signature)
                case ReadValues():
                    values = self.values[node.name]
                    self.give(node, ValuesUnavailable() if values is None else self._read(node, values))

    def _read(self, node: Identity, values: list[int]) -> ValuesRead:
        return ValuesRead({"value": array(values)}, self.noise.get(node.name, ()))

    # -- what a test looks at

    def pick(self, kind: Kind, sender: str = "", recipient: str = "") -> Letter:
        """The one letter on its way of this kind, from and to these; it stays where it is."""
        (letter,) = [
            letter
            for letter in self.letters
            if letter.kind is kind and sender in ("", letter.sender.name) and recipient in ("", letter.recipient.name)
        ]
        return letter

    def take(self, kind: Kind, sender: str = "", recipient: str = "") -> Letter:
        """The same, taken off its way: lost unless the test delivers it."""
        letter = self.pick(kind, sender, recipient)
        self.letters.remove(letter)
        return letter

    def endings(self, name: str) -> list[Ended]:
        return [effect for who, effect in self.effects if who == name and isinstance(effect, Ended)]

    def ending(self, name: str = HOSPITAL.name) -> Ended:
        (ended,) = self.endings(name)
        return ended

    @property
    def released(self) -> list[Released]:
        return [effect for who, effect in self.effects if who == HOSPITAL.name and isinstance(effect, Released)]

    def total(self) -> int | list[int]:
        (released,) = self.released
        return released.result.plain()["value"]["sum"]

    def opened(self, letter: Letter) -> Struct:
        """What the letter says, by the keys of its recipient: as the test's own, the world keeps every round key."""
        envelope = parse(letter.raw, MAX_SIZE)
        key = keyring(letter.recipient).encryption.private_key
        payload = open_sealed(envelope, key, self.round_keys[letter.recipient] if RULES[letter.kind].sealed else None)
        return decode(payload, RULES[letter.kind].payload)

    # -- what a malicious node sends: real keys, any content

    def forge(
        self,
        kind: Kind,
        content: Struct | bytes,
        sender: str,
        recipient: str,
        *,
        context: bytes | None = None,
        round_id: bytes = ROUND,
        key: RoundKey | None = None,
    ) -> Letter:
        """A letter that this node really signed and sealed. `context` and `key` (its round key) are the round's unless given."""
        source, target = self.identity(sender), self.identity(recipient)
        payload = content if isinstance(content, bytes) else encode(content)
        if context is None:
            context = {
                Binding.ITSELF: sha256(payload),
                Binding.INVITATION: self.hospital.invitation_digest,
                Binding.ROSTER: self.hospital.context or bytes(32),
            }[RULES[kind].binding]
        place, key = Place(round_id, context), key or self.round_keys[source]
        if not RULES[kind].sealed:
            raw, _ = write_unsealed(kind, payload, place, keyring=keyring(source), round_key=key, recipient=target)
        else:
            wrapping_key = check_statement(keyring(target).encryption.statement, credential(target), NOW)
            to = Recipient(target, wrapping_key, self.round_keys[target].public)
            raw, _ = seal(kind, payload, place, keyring=keyring(source), round_key=key, recipient=to, secret=os.urandom(32))
        return Letter(source, target, kind, raw)

    def identity(self, name: str) -> Identity:
        return HOSPITAL if name == HOSPITAL.name else patient(name)

    @property
    def invitation(self) -> Invitation:
        assert self.hospital.question is not None
        return self.hospital.question.invitation


def round_key(machine: Machine) -> RoundKey:
    assert machine.round_key is not None
    return machine.round_key


def powers(*names: str) -> dict[str, list[int] | None]:
    """An input for each: 1, BASE, BASE^2, ..."""
    return {name: [BASE**index] for index, name in enumerate(names)}


def world(*names: str, minimum: int = 0, publish_to: str = "hospital") -> World:
    """An opened round over patients whose inputs are powers of BASE. `minimum` 0: all of them."""
    names = names or ("alice", "bob", "charlie")
    asked = study(*names, bound=BASE ** len(names), minimum=minimum, publish_to=publish_to)
    values = powers(*names)
    made = World(asked, values, {})
    for machine in made.patients.values():
        machine.policy = policy(BASE ** len(names))
    made.open()
    return made


def forget_encryption_key(made: World, name: str) -> None:
    """The node was restored from an old backup: it has another encryption key than the one that it published."""
    machine = made.patients[name]
    machine.keyring = dataclasses.replace(machine.keyring, encryption=keyring(patient(f"{name}-before")).encryption)


def array(values: list[int]) -> npt.NDArray[np.int64]:
    return np.array(values, dtype=np.int64)
