"""Encryption keys that are made anew while the daemon runs; peers accept each, and open rounds keep theirs."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from mpc.keys import check_statement
from nodes.keys import ROTATE_SECONDS, Keys
from nodes.transport.memory import MemoryNetwork
from pki.node import NodeKey
from tests.mpc.nodes import HOSPITAL, NOW, ROUND, credential, keyring, study
from tests.nodes.house import Clock, eventually, hospital_machine, kept_log, make_node

_generate = rsa.generate_private_key


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("nodes.keys.time", clock)
    return clock


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, str]]:
    """What was asked of the key generator and on which thread; it makes the smallest keys that peers take."""
    made: list[tuple[int, int, str]] = []

    def generate(exponent: int, bits: int) -> rsa.RSAPrivateKey:
        made.append((exponent, bits, threading.current_thread().name))
        return _generate(exponent, 2048)

    monkeypatch.setattr("nodes.keys.rsa", SimpleNamespace(generate_private_key=generate))
    return made


def keys() -> tuple[Keys, list[Any]]:
    ring = keyring(HOSPITAL)
    log, logged = kept_log()
    return Keys(NodeKey(HOSPITAL, ring.signing_key, ring.chain, credential(HOSPITAL)), log), logged


async def test_a_new_key_has_a_statement_that_peers_accept(clock: Clock, made: list[tuple[int, int, str]]) -> None:
    node, logged = keys()
    await node.rotate()
    ring = node.keyring
    assert (ring.identity, ring.chain) == (HOSPITAL, keyring(HOSPITAL).chain)
    for now in (NOW - 299, NOW, NOW + 24 * 3600 - 1):  # a clock five minutes slow, and a day's use
        accepted = check_statement(ring.encryption.statement, credential(HOSPITAL), now)
        assert accepted.key_id == ring.encryption.key_id
        assert accepted.public_key.public_numbers() == ring.encryption.private_key.public_key().public_numbers()
    assert made[0][:2] == (65537, 3072)
    assert [entry["event"] for entry in logged] == ["key-rotated"]
    assert logged[0]["key_id"] == ring.encryption.key_id.hex()[:16]


async def test_keys_are_made_off_the_loop(made: list[tuple[int, int, str]]) -> None:
    node, _ = keys()
    await node.rotate()
    assert made[0][2] != threading.main_thread().name


async def test_an_open_round_keeps_the_key_that_it_began_with() -> None:
    node, _ = keys()
    await node.rotate()
    first = node.keyring
    hospital = make_node(HOSPITAL, MemoryNetwork())
    machine = hospital_machine(hospital, study("alice", "bob", "charlie"), ROUND)
    machine.keyring = first
    await node.rotate()
    assert machine.keyring is first
    assert node.keyring.encryption.key_id != first.encryption.key_id
    assert node.keyring.signing_key is first.signing_key


async def test_before_the_first_key_there_is_no_keyring() -> None:
    with pytest.raises(AssertionError, match="before it listens"):
        _ = keys()[0].keyring


async def test_keys_are_made_again_and_again(monkeypatch: pytest.MonkeyPatch, made: list[tuple[int, int, str]]) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def at_once(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    node, logged = keys()
    await node.rotate()
    first = node.keyring
    monkeypatch.setattr("nodes.keys.asyncio", SimpleNamespace(sleep=at_once, to_thread=asyncio.to_thread))
    rotating = asyncio.create_task(node.keep_rotating())
    await eventually(lambda: len(logged) >= 3)
    rotating.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await rotating
    assert node.keyring is not first
    assert set(waits) == {ROTATE_SECONDS}
    assert ROTATE_SECONDS == 24 * 3600  # half of a statement's day


async def test_nothing_of_a_key_is_printed() -> None:
    node, logged = keys()
    await node.rotate()
    number = node.keyring.encryption.private_key.private_numbers().d
    printed = f"{node} {node.keyring} {logged}"
    assert str(number) not in printed
    assert f"{number:x}" not in printed
