"""A round with noise: the hospital sees the noised total alone, and nobody shares a value without its noise."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from mpc.messages import AbortCode, Kind
from mpc.rounds.events import Ended, Released
from mpc.rounds.hospital import HospitalState
from mpc.rounds.patient import PatientState
from mpc.statistics import make_layout
from mpc.study import MEMBER, MILLION, Privacy, Study
from tests.mpc.nodes import HOSPITAL, patient_round, policy, study
from tests.mpc.world import World

NAMES = ("alice", "bob", "charlie")
VALUES = {"alice": [10], "bob": [200], "charlie": [3000]}
PROMISE = Privacy(epsilon=MILLION, delta=10**9, per=MEMBER, colluding=1, tail=1000)


def noised(publish: str = "hospital") -> Study:
    return replace(study(*NAMES, bound=10_000, publish_to=publish), privacy=PROMISE)


def rounds(noise: dict[str, tuple[int, ...]], asked: Study | None = None, *, sampler: bool = True) -> World:
    patients = {name: patient_round(name, policy(10_000, noise=sampler)) for name in NAMES}
    return World(asked or noised(), VALUES, patients, noise=noise)


def steps() -> int:
    (part,) = make_layout(noised()).parts
    return part.pieces[0].share.steps


@pytest.mark.parametrize(("noise", "total"), [((0, 0, 0), 3210), ((-4000, -10, 0), -800), ((7000, 20_000, 30_000), 60_210)])
def test_the_total_has_the_noise_of_every_member(noise: tuple[int, ...], total: int) -> None:
    made = rounds({name: (number * steps(),) for name, number in zip(NAMES, noise, strict=True)})
    made.open()
    made.run()
    (released,) = [effect for who, effect in made.effects if isinstance(effect, Released)]
    assert released.result.plain() == {"value": {"sum": total}}


@pytest.mark.parametrize("drawn", [(), (1, 2)])
def test_a_value_without_its_noise_is_not_shared(drawn: tuple[int, ...]) -> None:
    made = rounds({"alice": (1,), "bob": drawn, "charlie": (1,)})
    made.open()
    made.run()
    assert made.hospital.state is HospitalState.ABORTED
    (ended,) = [effect for who, effect in made.effects if who == HOSPITAL.name and isinstance(effect, Ended)]
    assert (ended.code, ended.missing) == (AbortCode.UNAVAILABLE, ("bob",))
    assert not [letter for letter in made.sent if letter.kind is Kind.SHARE and letter.sender.name == "bob"]
    assert not [letter for letter in made.sent if letter.kind is Kind.PARTIAL_SUM]


def test_a_patient_that_cannot_draw_declines() -> None:
    made = rounds(dict.fromkeys(NAMES, (0,)), sampler=False)
    made.open()
    made.run()
    assert {machine.state for machine in made.patients.values()} == {PatientState.DECLINED}
    (reason,) = {effect.detail for who, effect in made.effects if isinstance(effect, Ended) and who != HOSPITAL.name}
    assert reason == "it asks for noise, which this node cannot draw: pip install 'cohortium[privacy]'"


def test_a_study_without_noise_takes_none() -> None:
    made = rounds({"bob": (1,)}, study(*NAMES, bound=10_000))
    made.open()
    made.run()
    assert made.hospital.state is HospitalState.ABORTED
    assert not [letter for letter in made.sent if letter.kind is Kind.PARTIAL_SUM]
