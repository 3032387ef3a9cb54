"""Whole rounds: in every order, with every loss, they end in the exact sum or in a clear abort, and leave no secret behind."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from mpc.envelope import parse
from mpc.errors import Answer, InvalidTransition, MessageRefused
from mpc.identity import Identity
from mpc.keys import RoundKey
from mpc.messages import RULES, AbortCode, Invitation, Kind, PartialSum
from mpc.rounds.events import CancelRound, Effect, Ended, Event, OpenRound, Released, Tick
from mpc.rounds.hospital import HospitalState
from mpc.rounds.patient import PatientState
from mpc.secret import Secret
from mpc.statement import Signed
from mpc.study import Study
from mpc.wire import decode
from tests.mpc.nodes import HOSPITAL, NOW, keyring, patient, policy, study
from tests.mpc.parts import Parts
from tests.mpc.properties import slow
from tests.mpc.world import BASE, MAX_SIZE, Letter, World, powers, world

H = HOSPITAL.name
ALL = ("alice", "bob", "charlie")
FIVE = ("alice", "bob", "charlie", "dora", "emil")
SUM = 1 + BASE + BASE**2


def over(made: World) -> bool:
    """Whether every machine that has heard of the round has ended."""
    return made.hospital.ended and all(machine.ended or machine.state is PatientState.NEW for machine in made.patients.values())


# -- all goes well


@pytest.mark.parametrize("names", [ALL, FIVE])
def test_a_full_round_gives_the_exact_sum_and_nothing_else(names: tuple[str, ...]) -> None:
    made = world(*names)
    made.run()

    assert made.total() == sum(BASE**index for index in range(len(names)))
    assert made.released[0].result.members == len(names)
    assert over(made)
    assert {machine.state for machine in made.patients.values()} == {PatientState.FINISHED}
    assert not [effect for who, effect in made.effects if who != H and isinstance(effect, Released)]
    assert {answer for _, answer, _ in made.answers} <= {Answer.ACCEPTED, Answer.LATER, Answer.REJECTED}


def test_vectors_are_summed_element_by_element() -> None:
    rng = np.random.default_rng(5)
    rows = {name: rng.integers(0, 1_000_001, 5000).tolist() for name in ALL}
    made = World(study(*ALL, length=5000), rows)
    made.open()
    made.run()

    assert made.total() == np.sum([rows[name] for name in ALL], axis=0).tolist()


def test_values_at_the_edges_of_the_largest_ring() -> None:
    bound = (2**63 - 1) // 3
    made = World(study(*ALL, bound=bound), {name: [bound] for name in ALL})
    for machine in made.patients.values():
        machine.policy = policy(bound)
    made.open()
    made.run()

    assert made.total() == 3 * bound


def test_a_round_has_exactly_the_messages_that_it_needs() -> None:
    made = world()
    made.run()
    counted = {kind: sum(letter.kind is kind for letter in made.sent) for kind in Kind}

    assert counted == {
        Kind.INVITATION: 3,
        Kind.CONSENT: 3,
        Kind.DECLINED: 0,
        Kind.ROSTER: 3,
        Kind.SHARE: 6,
        Kind.READY: 3,
        Kind.COLLECT: 3,
        Kind.PARTIAL_SUM: 3,
        Kind.RECEIPT: 3,
        Kind.ABORT: 0,
        Kind.BURNT: 0,
        Kind.COUNTERSIGNATURE: 3,
    }


# -- every order


@given(st.data())
@slow
def test_any_order_with_repeats_gives_the_exact_sum(data: st.DataObject) -> None:
    """The schedule picks any letter, again and again; an answer may be lost, and then the letter is sent again."""
    names = FIVE[: data.draw(st.integers(3, 4), label="members")]
    made = world(*names)
    for _ in range(data.draw(st.integers(0, 80), label="steps")):
        if not made.letters:
            break
        letter = made.letters[data.draw(st.integers(0, len(made.letters) - 1))]
        answer = made.deliver(letter)
        if answer not in (Answer.LATER, Answer.REJECTED) and data.draw(st.booleans(), label="answered"):
            made.settle(letter)
    made.run()

    assert made.total() == sum(BASE**index for index in range(len(names)))
    assert over(made)


@given(st.data())
@slow
def test_old_letters_change_nothing_at_any_time(data: st.DataObject) -> None:
    """Between any two steps, anything that was ever sent comes again, the first message as well as the last."""
    made = world()
    while made.letters:
        letter = made.letters[data.draw(st.integers(0, len(made.letters) - 1))]
        if made.deliver(letter) not in (Answer.LATER, Answer.REJECTED):
            made.settle(letter)
        old = made.sent[data.draw(st.integers(0, len(made.sent) - 1))]
        if old not in made.letters:
            assert made.deliver(old) in (Answer.ACCEPTED, Answer.LATER, Answer.REJECTED)

    assert made.total() == SUM
    assert all(
        sum(letter.kind is Kind.PARTIAL_SUM and letter.sender == node for letter in made.sent) <= 1 for node in made.machines
    )


@given(st.data())
@slow
def test_any_order_and_any_loss_ends_in_the_exact_sum_or_an_abort(data: st.DataObject) -> None:
    made = world(minimum=3)
    lost: set[tuple[Kind, Identity, Identity]] = set()
    kinds = st.sampled_from([kind for kind in Kind if kind is not Kind.DECLINED])
    nodes = st.sampled_from(list(made.machines))
    for _ in range(data.draw(st.integers(1, 3), label="losses")):
        lost.add((data.draw(kinds), data.draw(nodes), data.draw(nodes)))

    def gone(letter: Letter) -> bool:
        return (letter.kind, letter.sender, letter.recipient) in lost

    for _ in range(data.draw(st.integers(0, 40), label="steps")):
        made.letters = [letter for letter in made.letters if not gone(letter)]
        if not made.letters:
            break
        letter = made.letters[data.draw(st.integers(0, len(made.letters) - 1))]
        if made.deliver(letter) not in (Answer.LATER, Answer.REJECTED):
            made.settle(letter)
        if data.draw(st.integers(0, 9)) == 0:
            made.advance(data.draw(st.sampled_from((1.0, 10.0, 25.0))))
    made.run_out(drop=gone)

    assert over(made)
    if made.released:
        assert made.total() == SUM
    else:
        assert made.ending().code in set(AbortCode)
        assert set(made.ending().missing) <= set(ALL)


# -- every loss

LOSSES = [
    # what is lost for ever, what the hospital says of it, when (seconds from the opening)
    (Kind.INVITATION, H, "bob", AbortCode.TOO_FEW, ("bob",), 20),
    (Kind.CONSENT, "bob", H, AbortCode.TOO_FEW, ("bob",), 20),
    (Kind.ROSTER, H, "bob", AbortCode.MISSING, ("bob",), 40),
    (Kind.SHARE, "bob", "alice", AbortCode.MISSING, ("bob",), 40),
    (Kind.SHARE, "charlie", "bob", AbortCode.MISSING, ("charlie",), 40),
    (Kind.READY, "bob", H, AbortCode.MISSING, ("bob",), 50),
    (Kind.COLLECT, H, "bob", AbortCode.MISSING, ("bob",), 60),
    (Kind.PARTIAL_SUM, "bob", H, AbortCode.MISSING, ("bob",), 60),
]


@pytest.mark.parametrize(
    ("kind", "sender", "recipient", "code", "missing", "at"),
    LOSSES,
    ids=lambda value: value.name if isinstance(value, Kind) else None,
)
def test_a_message_lost_for_ever_is_an_abort_in_time_with_the_right_name(
    kind: Kind, sender: str, recipient: str, code: AbortCode, missing: tuple[str, ...], at: int
) -> None:
    made = world()
    ended_at: list[float] = []

    def drop(letter: Letter) -> bool:
        if made.hospital.ended and not ended_at:
            ended_at.append(made.now)
        return (letter.kind, letter.sender.name, letter.recipient.name) == (kind, sender, recipient)

    made.run_out(drop=drop)
    ended = made.ending()

    assert (ended.outcome, ended.code, ended.missing) == ("aborted", code, missing)
    assert missing[0] in ended.detail
    assert ended_at == [NOW + at]
    assert not made.released
    assert over(made)


def test_one_lost_receipt_changes_nothing_for_the_others() -> None:
    made = world()
    made.run_out(drop=lambda letter: letter.kind is Kind.RECEIPT and letter.recipient.name == "bob")

    assert made.total() == SUM
    assert [made.ending(name).outcome for name in ALL] == ["released", "aborted", "released"]
    assert made.ending("bob").code == "no-receipt"


@pytest.mark.parametrize("name", ["alice", "bob", "charlie"])
@pytest.mark.parametrize(
    ("after", "phase", "at"),
    [
        (Kind.INVITATION, "inviting", 20),
        (Kind.CONSENT, "sharing", 40),
        (Kind.SHARE, "sharing", 50),
        (Kind.READY, "collecting", 60),
    ],
    ids=lambda value: value.name if isinstance(value, Kind) else None,
)
def test_a_patient_that_dies_is_named_when_time_is_up(name: str, after: Kind, phase: str, at: int) -> None:
    """It sent its last message of kind `after` and was never heard of again; nothing reaches it, either."""
    made = world()
    held = {
        Kind.INVITATION: frozenset({Kind.INVITATION}),
        Kind.CONSENT: frozenset({Kind.ROSTER}),
        Kind.SHARE: frozenset({Kind.READY}),
        Kind.READY: frozenset({Kind.COLLECT}),
    }[after]
    made.run(hold=held)
    made.wakes.pop(patient(name), None)
    times: list[float] = []

    def dead(letter: Letter) -> bool:
        return name in (letter.sender.name, letter.recipient.name)

    while not made.hospital.ended:
        made.run(drop=dead)
        if not made.hospital.ended:
            made.advance(1)
        times.append(made.now)
    made.run_out(drop=dead)
    ended = made.ending()

    assert (ended.missing, ended.phase) == ((name,), phase)
    assert name in ended.detail
    assert times[-1] == NOW + at
    assert all(made.patients[other].ended for other in ALL if other != name)
    assert not made.released


def test_after_a_failed_round_the_next_one_works() -> None:
    failed = world()
    failed.run_out(drop=lambda letter: "bob" in (letter.sender.name, letter.recipient.name))
    assert failed.ending().missing == ("bob",)

    following = world()
    following.run()
    assert following.total() == SUM


def test_many_rounds_at_once_do_not_touch_each_other() -> None:
    worlds = [world() for _ in range(3)]
    worlds[1].run(hold=frozenset({Kind.SHARE}))
    for made in (worlds[2], worlds[0], worlds[1]):
        made.run()
    assert [made.total() for made in worlds] == [SUM] * 3


def test_one_node_alone_hears_nothing_of_the_others_answers() -> None:
    """A letter for Bob is nothing to Alice, sealed or not."""
    made = world()
    made.run()
    for letter in made.sent:
        for name in ALL:
            if letter.recipient.name != name:
                stray = Letter(letter.sender, patient(name), letter.kind, letter.raw)
                assert made.deliver(stray) is Answer.REJECTED


# -- afterwards: a recording and every long-lived key


def unwrap(letter: Letter) -> bytes:
    """What the thief of an RSA key gets out of a recorded envelope."""
    parts = Parts.split(letter.raw)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), parts.header)
    return keyring(letter.recipient).encryption.private_key.decrypt(parts.wrapped, oaep)


def try_open(letter: Letter, secret: bytes, agreed: bytes) -> bytes | None:
    parts = Parts.split(letter.raw)
    key = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=parts.header).derive(secret + agreed)
    prefix = parts.signed_bytes[: -len(parts.ciphertext) - 4]
    try:
        return AESGCM(key).decrypt(bytes(12), parts.ciphertext, prefix)
    except InvalidTag:
        return None


def test_a_recording_of_a_round_and_every_rsa_key_open_nothing_but_the_question() -> None:
    made = world()
    made.run()
    recorded = made.sent
    public = {parse(letter.raw, MAX_SIZE).header.round_key for letter in recorded}
    thiefs = [RoundKey(lambda _, fill=fill: fill) for fill in (bytes(32), b"\xff" * 32)]  # type: ignore[misc]
    sealed = [letter for letter in recorded if RULES[letter.kind].sealed]
    assert len(sealed) == 24
    assert len(public) == 4

    for letter in sealed:
        secret = unwrap(letter)
        guesses = [b"", bytes(32), secret, *public, *(key.agree(point) for key in thiefs for point in public)]
        assert all(try_open(letter, secret, guess) is None for guess in guesses)
        # The key that everybody has erased is all that was lacking; so the attempts above were real ones.
        agreed = made.round_keys[letter.recipient].agree(parse(letter.raw, MAX_SIZE).header.round_key)
        payload = try_open(letter, secret, agreed)
        assert payload is not None
        decode(payload, RULES[letter.kind].payload)
    for letter in recorded:
        if letter.kind is Kind.INVITATION:
            assert decode(Parts.split(letter.raw).ciphertext, Invitation).study
        if letter.kind is Kind.COUNTERSIGNATURE:  # that opens, and has in it what the receipt shows to everybody
            said = try_open(letter, unwrap(letter), b"")
            assert said is not None
            assert decode(said, Signed).signature in made.receipts[H].countersignatures


def test_no_machine_can_open_a_recording_of_its_own_round() -> None:
    made = world()
    made.run()
    for letter in made.sent:
        machine = made.machines[letter.recipient]
        machine.seen.clear()
        if RULES[letter.kind].sealed:
            assert made.deliver(letter) is Answer.GONE


def reachable(root: object) -> Iterator[object]:
    """Everything that an object holds on to, through attributes, slots and containers."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or callable(one) or isinstance(one, str | int | float | type(None)):
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set | frozenset):
            waiting += one
        else:
            waiting += vars(one).values() if hasattr(one, "__dict__") else ()
            names = [name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())]
            waiting += [getattr(one, name) for name in names if isinstance(name, str) and hasattr(one, name)]
            waiting += [getattr(one, name) for name in getattr(one, "__struct_fields__", ())]


def secrets_of(made: World) -> set[bytes]:
    """All that was drawn, but the nonces, which are sent for all members to see."""
    nonces = {participant.consent.nonce for participant in made.hospital.participants.values()}
    return {octets for _, octets in made.drawn} - nonces - {made.invitation.nonce}


def held(made: World, node: Identity) -> list[str]:
    """What this node still holds of the round's secrets, by the name of its type."""
    secrets, found = secrets_of(made), []
    for one in reachable(made.machines[node]):
        if isinstance(one, bytes | bytearray | memoryview) and any(secret in bytes(one) for secret in secrets):
            found.append("bytes")
        if isinstance(one, RoundKey | Secret | np.ndarray):
            found.append(type(one).__name__)
    return found


def test_while_the_round_runs_the_search_finds_secrets() -> None:
    made = world()
    made.run(hold=frozenset({Kind.COLLECT}))

    assert set(held(made, patient("alice"))) == {"bytes", "RoundKey", "Secret", "ndarray"}
    assert "RoundKey" in held(made, HOSPITAL)


def test_a_finished_round_leaves_no_secret_behind() -> None:
    made = world()
    made.run()

    assert {node.name: held(made, node) for node in made.machines} == {node.name: [] for node in made.machines}


def test_after_the_partial_sum_no_seed_or_value_is_left() -> None:
    made = world()
    made.run(hold=frozenset({Kind.PARTIAL_SUM}))

    assert held(made, patient("alice")) == ["RoundKey"], "the receipt is still to be opened"


@pytest.mark.parametrize(
    "hold", [Kind.ROSTER, Kind.SHARE, Kind.READY, Kind.COLLECT, Kind.PARTIAL_SUM], ids=lambda kind: kind.name
)
def test_an_aborted_round_leaves_no_secret_behind(hold: Kind) -> None:
    made = world()
    made.run(hold=frozenset({hold}))
    made.give(HOSPITAL, CancelRound())
    made.run()

    assert {node.name: held(made, node) for node in made.machines} == {node.name: [] for node in made.machines}


def test_a_declined_round_leaves_no_secret_behind() -> None:
    made = world()
    made.patients["alice"].policy = policy(studies=())
    made.run()

    assert held(made, patient("alice")) == []


# -- nothing prints


@dataclass
class Watched(World):
    """A world in which somebody prints everything that passes."""

    printed: list[str] = field(default_factory=list)

    def handle(self, node: Identity, event: Event) -> list[Effect]:
        machine = self.machines[node]
        self.printed += [repr(event), str(event), repr(machine)]
        if hasattr(event, "message"):
            self.printed += [repr(event.message), repr(event.message.envelope), repr(event.message.envelope.header)]
        try:
            effects = super().handle(node, event)
        except Exception as error:
            self.printed += [repr(error), str(error), repr(vars(error))]
            raise
        self.printed += [repr(effect) for effect in effects]
        self.printed += machine.story
        self.printed += [repr(machine), repr(machine.keyring), repr(machine.round_key), f"{machine.question}"]
        self.printed += [repr(participant) for participant in getattr(machine, "participants", {}).values()]
        for attribute in ("_sent", "_received"):
            self.printed.append(repr(getattr(machine, attribute, None)))
        return effects


VALUES = {"alice": [725_313], "bob": [310_977], "charlie": [540_991]}
TOTAL = 1_577_281


def forms(octets: bytes) -> set[str]:
    """How bytes look when somebody prints them."""
    plain = base64.b64encode(octets).decode().rstrip("=")
    url = base64.urlsafe_b64encode(octets).decode().rstrip("=")
    number = int.from_bytes(octets, "big")
    return {octets.hex(), octets.hex().upper(), plain, url, repr(octets)[2:-1], str(list(octets))[1:-1], str(number)}


def assert_clean(made: Watched) -> None:
    text = "\n".join(made.printed)
    for value in (*itertools.chain.from_iterable(VALUES.values()), TOTAL):
        assert str(value) not in text
        assert f"{value:_}" not in text
        assert f"{value:,}" not in text
    for secret in secrets_of(made):
        assert not [form for form in forms(secret) if form in text]
    for node in made.machines:
        ring = keyring(node)
        numbers = ring.encryption.private_key.private_numbers()
        private = {numbers.d, numbers.p, numbers.q, ring.signing_key.private_numbers().private_value}
        assert not [number for number in private if str(number) in text or f"{number:x}" in text]


def watched(asked: Study | None = None) -> Watched:
    made = Watched(asked or study(*ALL), VALUES)
    made.open()
    return made


def test_nothing_that_a_whole_round_prints_holds_a_secret() -> None:
    made = watched(study(*ALL, publish_to="members"))
    made.run()
    made.printed += [repr(letter) for letter in made.sent] + [
        repr(made.opened(letter)) for letter in made.sent if RULES[letter.kind].sealed
    ]
    (released,) = made.released
    made.printed += [repr(released), str(released), repr(released.result)]

    assert made.total() == TOTAL
    assert len(made.printed) > 300
    assert_clean(made)


def test_nothing_that_goes_wrong_prints_a_secret() -> None:
    for hold in (Kind.CONSENT, Kind.SHARE, Kind.COLLECT, Kind.PARTIAL_SUM):
        made = watched()
        made.run(hold=frozenset({hold}))
        for letter in list(made.letters):
            parts = Parts.split(letter.raw)
            broken = parts.replace(wrapped=parts.wrapped[::-1]).signed(keyring(letter.sender).signing_key, letter.kind.purpose)
            with pytest.raises(MessageRefused):
                raise_refusal(made, Letter(letter.sender, letter.recipient, letter.kind, broken.join()))
        for node, machine in made.machines.items():
            with pytest.raises(InvalidTransition):
                machine.handle(OpenRound(), made.now)
            try:
                made.handle(node, OpenRound())
            except InvalidTransition as error:
                made.printed.append(str(error))
        made.run_out(drop=lambda letter: letter.sender.name == "bob")
        made.printed += [repr(effect) for _, effect in made.effects] + [repr(answer) for answer in made.answers]
        assert_clean(made)


def raise_refusal(made: World, letter: Letter) -> None:
    answer = made.deliver(letter)
    assert answer is Answer.UNOPENABLE
    raise MessageRefused(answer, made.reason)


def test_the_search_would_find_what_it_looks_for() -> None:
    made = watched()
    made.run()
    seed = next(iter(secrets_of(made)))
    for leak in ("725313", seed.hex(), base64.b64encode(seed).decode(), repr(seed)):
        leaky = watched()
        leaky.drawn += made.drawn
        leaky.printed.append(f"debug: {leak}")
        with pytest.raises(AssertionError):
            assert_clean(leaky)


# -- what the machines promise their driver


def test_a_tick_that_comes_early_changes_nothing() -> None:
    for hold in (Kind.CONSENT, Kind.SHARE, Kind.COLLECT, Kind.PARTIAL_SUM, Kind.RECEIPT):
        made = world()
        made.run(hold=frozenset({hold}))
        for node, machine in made.machines.items():
            if not machine.ended and machine.state is not PatientState.NEW:
                state = machine.state
                made.give(node, Tick())
                assert machine.state is state
        made.run()
        assert made.total() == SUM


def test_an_open_machine_always_has_an_alarm() -> None:
    """Every wait has a deadline."""
    for hold in (Kind.CONSENT, Kind.ROSTER, Kind.SHARE, Kind.COLLECT, Kind.PARTIAL_SUM, Kind.RECEIPT):
        made = world()
        made.run(hold=frozenset({hold}))
        for node, machine in made.machines.items():
            assert machine.ended or machine.state is PatientState.NEW or made.wakes[node] > made.now


def test_every_machine_ends_once() -> None:
    made = world()
    made.run()
    made.run_out()
    assert [len(made.endings(name)) for name in (H, *ALL)] == [1, 1, 1, 1]
    assert made.hospital.state is HospitalState.RELEASED


def test_partial_sums_show_no_input() -> None:
    """None of them is a value or a sum of values; in a ring of 2^61 elements that cannot happen by chance."""
    bound = 2**59
    made = World(study(*ALL, bound=bound), powers(*ALL))
    for machine in made.patients.values():
        machine.policy = policy(bound)
    made.open()
    made.run()
    contents = [made.opened(letter) for letter in made.sent if letter.kind is Kind.PARTIAL_SUM]
    numbers = [int.from_bytes(one.segments[0], "little") for one in contents if isinstance(one, PartialSum)]
    sums = {sum(some) for count in range(4) for some in itertools.combinations((1, BASE, BASE**2), count)}

    assert len(numbers) == 3
    assert sum(numbers) % (3 * bound + 1) == made.total() == SUM
    assert not set(numbers) & sums


def test_endings_are_told_in_words() -> None:
    made = world()
    made.run_out(drop=lambda letter: letter.kind is Kind.READY and letter.sender.name == "bob")
    ended = made.ending()

    assert ended == Ended("aborted", AbortCode.MISSING, "sharing", ("bob",), "bob went silent while sharing")
