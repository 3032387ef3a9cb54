"""No bytes from outside crash a parser, stall it, or stay in memory; whatever is taken is the one encoding of what it means.

A failure shows the seed and the message in hex. COHORTIUM_FUZZ_SEED=N tries other changes.
"""

from __future__ import annotations

import os

import pytest

from mpc.messages import Kind
from tests.fuzz.run import fuzz
from tests.fuzz.targets import PARSERS, SAYS, insider, parsers

SEED = int(os.environ.get("COHORTIUM_FUZZ_SEED", "1"))
PARSED, SAID = 46_000, 3_000
"""Mutated messages in `make test`; those over HTTP, in test_http.py, make them 50,000."""
SOAK = 20


says = pytest.mark.parametrize(
    ("kind", "sender", "recipient", "share"), SAYS, ids=[f"{sender}-{kind.purpose}" for kind, sender, _, _ in SAYS]
)


def test_every_parser_is_named() -> None:
    assert set(parsers()) == set(PARSERS)
    assert {kind for kind, _, _, _ in SAYS} == set(Kind) - {Kind.BURNT}, "a Burnt is for no round's machine"
    assert sum(target.share for target in parsers().values()) >= 100 <= sum(share for _, _, _, share in SAYS)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_stands_mutated_messages(name: str) -> None:
    fuzz(parsers()[name], PARSED * parsers()[name].share // 100, SEED)


@pytest.mark.slow
@says
def test_a_round_stands_what_its_own_nodes_may_sign(kind: Kind, sender: str, recipient: str, share: int) -> None:
    fuzz(insider(kind, sender, recipient, share), SAID * share // 100, SEED)


@pytest.mark.soak
@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_stands_its_part_of_a_million_mutated_messages(name: str) -> None:
    fuzz(parsers()[name], SOAK * PARSED * parsers()[name].share // 100, SEED + 1)


@pytest.mark.soak
@says
def test_a_round_stands_far_more_of_what_its_own_nodes_may_sign(kind: Kind, sender: str, recipient: str, share: int) -> None:
    fuzz(insider(kind, sender, recipient, share), SOAK * SAID * share // 100, SEED + 1)
