"""Noise as nodes draw it: of the promised distribution, drawn once a round, and enough without the members that collude."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from scipy.stats import chi2, chisquare, norm

from mpc.credentials import Credentials
from mpc.errors import ConfigError
from mpc.ring import RunningSum
from mpc.rounds.events import ValuesRead, ValuesUnavailable
from mpc.sharing import combine, draw_seeds, own_share, partial_sum
from mpc.statistics import draws, encode, make_layout
from mpc.study import MEMBER, MILLION, Privacy, Study
from nodes.config import check_patient
from nodes.journal import restore, write
from nodes.noise import can_draw, draw
from nodes.patient import PatientDaemon
from tests.mpc.nodes import patient, study, trust
from tests.nodes.house import make_site, short_directory

FALSE_ALARM = 1e-6
NAMES = ("alice", "bob", "charlie", "dora", "emil", "flora", "gus")
PROMISE = Privacy(epsilon=MILLION, delta=10**9, per=MEMBER, colluding=3, tail=1000)


def noised(length: int) -> Study:
    return replace(study(*NAMES, length=length, bound=1000), privacy=PROMISE)


def test_the_sampler_gives_the_discrete_gaussian() -> None:
    sigma, count = 3, 20_000
    drawn = np.array(draw([(sigma, count)]))
    places = np.arange(-40, 41)
    mass = np.exp(-np.square(places) / (2 * sigma**2))
    expected = count * mass / mass.sum()
    kept = expected > 10
    found = np.array([(drawn == place).sum() for place in places])
    rest = [found[~kept].sum() + count - found.sum()], [expected[~kept].sum()]
    assert chisquare([*found[kept], *rest[0]], [*expected[kept], *rest[1]]).pvalue > FALSE_ALARM


def test_numbers_come_in_the_order_they_are_asked_for() -> None:
    drawn = draw([(1, 300), (10**12, 200), (1, 300)])
    sizes = [np.abs(drawn[start:end]).max() for start, end in ((0, 300), (300, 500), (500, 800))]
    assert len(drawn) == 800
    assert sizes[0] < 10 > sizes[2]
    assert sizes[1] > 10**10
    assert draw([]) == ()


def test_no_two_draws_are_the_same() -> None:
    assert draw([(10**6, 20)]) != draw([(10**6, 20)])


def test_the_honest_members_alone_give_the_promised_noise() -> None:
    # A whole round's arithmetic: seven members share, three of them and the hospital put together what they know.
    asked = noised(2000)
    (segment,), (part,) = make_layout(asked).segments, make_layout(asked).parts
    (piece,) = part.pieces
    ring, context = segment.ring, bytes(32)
    values = {name: np.random.default_rng(place).integers(0, 1001, 2000) for place, name in enumerate(NAMES)}
    vectors = {name: encode(asked, {"value": values[name]}, draw(draws(asked)))[0] for name in NAMES}
    seeds = {(sender, to): draw_seeds(1, os.urandom)[0] for sender in NAMES for to in NAMES if sender != to}
    partials = []
    for me in NAMES:
        own = own_share(ring, vectors[me], [seeds[me, to] for to in NAMES if to != me], context)
        partials.append(partial_sum(ring, own, [seeds[sender, me] for sender in NAMES if sender != me], context))
    known = RunningSum(ring, ring.zeros(2000))
    for name in NAMES[:3]:
        known.add(vectors[name])
    rest = ring.subtract(combine(ring, partials, 2000), known.finish())

    exact = sum(values[name] for name in NAMES[3:]) * piece.share.steps
    noise = (rest.astype(np.int64) - exact).astype(float)
    noise -= segment.modulus * np.rint(noise / segment.modulus)
    variance = 4 * float(piece.share.sigma) ** 2
    squares = np.square(noise).sum() / variance
    assert chi2.ppf(FALSE_ALARM / 2, 2000) < squares < chi2.isf(FALSE_ALARM / 2, 2000)
    assert abs(noise.mean()) < norm.isf(FALSE_ALARM / 2) * np.sqrt(variance / 2000)
    # What zCDP asks for: two inputs lie 1000 apart in each of 2000 numbers, and rho was worked out by OpenDP's accountant.
    promised = 2000 * (1000 * piece.share.steps) ** 2 / (2 * 0.0243559703)
    assert promised <= variance < 1.02 * promised


def test_the_noise_of_a_round_is_kept_with_its_values(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def handle(event: object, now: float) -> list[object]:
        seen.append(event)
        return []

    machine: Any = SimpleNamespace(sealer=None, sealed=[], state="sharing", handle=handle)
    kept = write(ValuesRead({"value": np.array([7])}, (5, -(2**60), 0)), b"", "", 1.0, [], "sharing")
    monkeypatch.setattr("nodes.noise.draw", lambda wanted: pytest.fail("a kept round draws nothing"))
    restore(machine, [kept], me=patient("alice"), credentials=Credentials(trust()), max_message=1000)
    assert [event.noise for event in seen] == [(5, -(2**60), 0)]


def test_a_kept_event_prints_no_noise() -> None:
    assert "725313" not in repr(ValuesRead({}, (725313,)))


@pytest.fixture
def daemon() -> Iterator[PatientDaemon]:
    with short_directory() as directory:
        site = make_site(directory, dict.fromkeys(NAMES[:3], 500))
        yield PatientDaemon(check_patient(site.patients["alice"]))


def asked_of_three() -> Study:
    return replace(study(*NAMES[:3]), privacy=replace(PROMISE, colluding=1))


def test_a_patient_draws_new_noise_for_each_round(daemon: PatientDaemon) -> None:
    first, second = (daemon.read_sources(asked_of_three()) for _ in range(2))
    assert isinstance(first, ValuesRead)
    assert isinstance(second, ValuesRead)
    assert len(first.noise) == 1
    assert first.noise != second.noise
    assert not daemon.at_hand(asked_of_three()), "it is drawn off the event loop"
    assert daemon.at_hand(study(*NAMES[:3]))


def test_without_the_sampler_no_value_leaves_and_the_policy_knows(daemon: PatientDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_draw()
    assert daemon.policy.noise
    for name in [name for name in sys.modules if name.partition(".")[0] == "opendp"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opendp", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs opendp, which is not installed: pip install 'cohortium\[privacy\]'"):
        draw([(10, 1)])
    assert isinstance(daemon.read_sources(asked_of_three()), ValuesUnavailable)
    assert isinstance(daemon.read_sources(study(*NAMES[:3])), ValuesRead), "other studies need no sampler"
    daemon.use(daemon.config)
    assert not daemon.policy.noise
