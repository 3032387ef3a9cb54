"""Encryption keys that are made anew every day and outlive the process; peers accept each, and open rounds find theirs."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mpc.identity import Identity, Role
from mpc.keys import check_statement
from nodes.keys import ROTATE_SECONDS, Keys
from nodes.store.base import StoreError
from nodes.store.sealing import StorageKey
from nodes.store.volatile import VolatileStore
from pki.node import NodeKey
from tests.mpc.nodes import CONSORTIUM, HOSPITAL, NOW, credential, keyring
from tests.nodes.house import Clock, kept_log

STORAGE_KEY = StorageKey(bytes(range(32)))
NOBODY: frozenset[bytes] = frozenset()

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

    monkeypatch.setattr("nodes.keys.rsa", SimpleNamespace(generate_private_key=generate, RSAPrivateKey=rsa.RSAPrivateKey))
    return made


@pytest.fixture
async def store() -> VolatileStore:
    store = VolatileStore()
    await store.open()
    return store


def keys(store: VolatileStore, identity: Identity = HOSPITAL, storage_key: StorageKey = STORAGE_KEY) -> tuple[Keys, list[Any]]:
    """Keys that are still to be opened."""
    ring = keyring(identity)
    log, logged = kept_log()
    return Keys(NodeKey(identity, ring.signing_key, ring.chain, credential(identity)), store, storage_key, log), logged


def key_id(node: Keys) -> bytes:
    return node.keyring.encryption.key_id


async def test_a_new_key_has_a_statement_that_peers_accept(store: VolatileStore, made: list[tuple[int, int, str]]) -> None:
    node, logged = keys(store)
    await node.open()
    ring = node.keyring
    assert (ring.identity, ring.chain) == (HOSPITAL, keyring(HOSPITAL).chain)
    for now in (NOW - 299, NOW, NOW + 8 * 24 * 3600 - 1):  # a clock five minutes slow; a day's use, and the longest round
        accepted = check_statement(ring.encryption.statement, credential(HOSPITAL), now)
        assert accepted.key_id == ring.encryption.key_id
        assert accepted.public_key.public_numbers() == ring.encryption.private_key.public_key().public_numbers()
    assert made[0][:2] == (65537, 3072)
    assert made[0][2] != threading.main_thread().name
    assert [(entry["event"], entry["key_id"]) for entry in logged] == [("key-rotated", ring.encryption.key_id.hex()[:16])]


async def test_a_restart_finds_the_key_that_peers_were_promised(store: VolatileStore, made: list[tuple[int, int, str]]) -> None:
    before, _ = keys(store)
    await before.open()
    after, logged = keys(store)
    await after.open()
    assert key_id(after) == key_id(before)
    assert after.keyring.encryption.private_key.private_numbers() == before.keyring.encryption.private_key.private_numbers()
    assert len(made) == 1
    assert not logged


async def test_a_restart_after_a_day_makes_a_new_key_and_open_rounds_find_theirs(store: VolatileStore, clock: Clock) -> None:
    before, _ = keys(store)
    await before.open()
    clock.now += ROTATE_SECONDS
    assert before.is_due()
    after, _ = keys(store)
    await after.open()
    assert key_id(after) != key_id(before)
    promised = after.find(key_id(before))
    assert promised is not None
    assert promised.encryption.private_key.private_numbers() == before.keyring.encryption.private_key.private_numbers()
    assert not after.is_due()


async def test_a_key_of_another_identity_is_kept_for_its_rounds_and_not_used(store: VolatileStore) -> None:
    """Nobody who sees the new certificate would accept what the old one has signed."""
    old, _ = keys(store)
    await old.open()
    renewed, _ = keys(store, Identity(CONSORTIUM, Role.HOSPITAL, "renewed"))
    await renewed.open()
    assert key_id(renewed) != key_id(old)
    assert renewed.find(key_id(old)) is not None


async def test_keys_that_nobody_needs_are_erased_but_not_the_newest_two(store: VolatileStore) -> None:
    node, logged = keys(store)
    await node.open()
    made = [key_id(node)]
    for _ in range(3):
        await node.rotate()
        made.append(key_id(node))
    await node.erase_unneeded(frozenset({made[0]}))
    assert [node.find(one) is not None for one in made] == [True, False, True, True]
    assert [kept.key_id for kept in await store.keys()] == [made[0], *made[2:]]
    assert logged[-1] == {"event": "key-erased", "key_id": made[1].hex()[:16], "log_level": "info"}
    await node.erase_unneeded(NOBODY)
    assert [kept.key_id for kept in await store.keys()] == made[2:]


async def test_a_key_that_cannot_be_kept_is_not_used(store: VolatileStore) -> None:
    async def full(_method: str) -> None:
        raise StoreError("disk-full", "the disk is full")

    node, _ = keys(store)
    await node.open()
    before = key_id(node)
    store.before = full
    with pytest.raises(StoreError, match="the disk is full"):
        await node.rotate()
    assert key_id(node) == before


async def test_the_next_chore_is_never_far_away(store: VolatileStore, clock: Clock) -> None:
    node, _ = keys(store)
    await node.open()
    assert node.due() == 3600
    clock.now += ROTATE_SECONDS - 10
    assert (node.due(), node.is_due()) == (10, False)
    clock.now += 20
    assert (node.due(), node.is_due()) == (0, True)


async def test_what_the_store_has_of_a_key_opens_with_the_storage_key_alone(store: VolatileStore) -> None:
    node, _ = keys(store)
    await node.open()
    private = node.keyring.encryption.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    (kept,) = await store.keys()
    assert private[40:72] not in kept.sealed
    with pytest.raises(StoreError, match="does not open"):
        await keys(store, storage_key=StorageKey(bytes(32)))[0].open()


async def test_nothing_of_a_key_is_printed(store: VolatileStore) -> None:
    node, logged = keys(store)
    await node.open()
    number = node.keyring.encryption.private_key.private_numbers().d
    printed = f"{node} {node.keyring} {logged} {await store.keys()}"
    assert str(number) not in printed
    assert f"{number:x}" not in printed
