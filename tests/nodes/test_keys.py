"""Encryption keys, pending, active, expired and erased, which outlive the process; peers accept each, open rounds find theirs."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mpc.identity import Identity, Role
from mpc.keys import check_statement
from nodes.config import EncryptionKeyRules
from nodes.keys import Keys
from nodes.metrics import Registry
from nodes.store.base import StoreError
from nodes.store.sealing import StorageKey
from nodes.store.volatile import VolatileStore
from pki.node import NodeKey
from tests.mpc.nodes import CONSORTIUM, HOSPITAL, NOW, credential, keyring
from tests.nodes.house import Clock, kept_log

STORAGE_KEY = StorageKey(bytes(range(32)))
NOBODY: frozenset[bytes] = frozenset()
DAY = 24 * 3600
HOUR = 3600
RULES = EncryptionKeyRules()

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


def node_key(identity: Identity) -> NodeKey:
    ring = keyring(identity)
    return NodeKey(identity, ring.signing_key, ring.chain, credential(identity))


def keys(
    store: VolatileStore, identity: Identity = HOSPITAL, storage_key: StorageKey = STORAGE_KEY, metrics: Registry | None = None
) -> tuple[Keys, list[Any]]:
    """Keys that are still to be opened, and what they log."""
    log, logged = kept_log()
    return Keys(node_key(identity), store, storage_key, lambda: RULES, metrics or Registry(), log), logged


def states(node: Keys) -> list[object]:
    return [key["state"] for key in node.status().values()]


RENEWED = Identity(CONSORTIUM, Role.HOSPITAL, "renewed")


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


async def test_after_a_renewal_and_a_restart_open_rounds_go_on_under_the_identity_that_they_began_with(
    store: VolatileStore,
) -> None:
    before, _ = keys(store)
    await before.open()
    promised = key_id(before)
    log, _ = kept_log()
    former = [node_key(HOSPITAL)]
    after = Keys(node_key(RENEWED), store, STORAGE_KEY, lambda: RULES, Registry(), log, former)
    await after.open()
    ring = after.find(promised)
    assert ring is not None
    assert ring.chain == keyring(HOSPITAL).chain
    assert ring.signing_key is former[0].private_key
    assert after.keyring.chain == keyring(RENEWED).chain
    assert states(after) == ["expired", "active"]


async def test_a_restart_after_a_day_makes_a_new_key_and_open_rounds_find_theirs(store: VolatileStore, clock: Clock) -> None:
    before, _ = keys(store)
    await before.open()
    clock.now += DAY
    after, _ = keys(store)
    await after.open()
    assert key_id(after) != key_id(before)
    promised = after.find(key_id(before))
    assert promised is not None
    assert promised.encryption.private_key.private_numbers() == before.keyring.encryption.private_key.private_numbers()
    assert states(after) == ["expired", "active"]


async def test_a_key_of_another_identity_is_kept_for_its_rounds_and_not_used(store: VolatileStore) -> None:
    """Nobody who sees the new certificate would accept what the old one has signed."""
    old, _ = keys(store)
    await old.open()
    renewed, _ = keys(store, RENEWED)
    await renewed.open()
    assert key_id(renewed) != key_id(old)
    assert renewed.find(key_id(old)) is not None


async def test_a_key_is_made_ahead_of_its_time_used_then_and_erased_at_last(store: VolatileStore, clock: Clock) -> None:
    metrics = Registry()
    node, logged = keys(store, metrics=metrics)
    await node.open()
    first = key_id(node)

    async def at(seconds: float) -> list[object]:
        clock.now = NOW + seconds
        await node.tend(NOBODY)
        return states(node)

    assert await at(DAY - 601) == ["active"]
    assert await at(DAY - 600) == ["active", "pending"]
    assert key_id(node) == first
    assert await at(DAY - 1) == ["active", "pending"]
    assert await at(DAY) == ["expired", "active"]
    assert key_id(node) != first
    accepted = check_statement(node.keyring.encryption.statement, credential(HOSPITAL), NOW + 2 * DAY + 7 * DAY - 1)
    assert accepted.key_id == key_id(node), "a round that is promised it in its last second has a week"
    assert await at(DAY + HOUR - 1) == ["expired", "active"]
    assert node.find(first) is not None
    assert await at(DAY + HOUR) == ["erased", "active"]
    assert node.find(first) is None
    assert [kept.key_id for kept in await store.keys()] == [key_id(node)]
    assert [entry["event"] for entry in logged] == ["key-rotated", "key-made", "key-rotated", "key-erased"]
    assert logged[-1]["key_id"] == first.hex()[:16]
    text = metrics.render()
    for line in ('keys{state="active"} 1', 'keys{state="pending"} 0', 'keys{state="expired"} 0', "keys_erased_total 1"):
        assert f"cohortium_encryption_{line}\n" in text
    assert "cohortium_encryption_key_age_seconds 3600.0\n" in text


async def test_a_key_that_an_open_round_was_promised_is_not_erased(store: VolatileStore, clock: Clock) -> None:
    node, _ = keys(store)
    await node.open()
    promised = key_id(node)
    await node.rotate()
    clock.now += DAY - 1
    await node.tend(frozenset({promised}))
    assert node.find(promised) is not None
    await node.tend(NOBODY)
    assert node.find(promised) is None


async def test_a_key_that_is_to_be_used_for_longer_than_it_was_made_for_is_replaced_in_time(
    store: VolatileStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rules have changed since."""
    node, _ = keys(store)
    await node.open()
    first = key_id(node)
    monkeypatch.setitem(globals(), "RULES", EncryptionKeyRules(every=5 * DAY))
    clock.now += DAY
    await node.tend(NOBODY)
    assert key_id(node) != first
    clock.now += 5 * DAY - 1
    second = key_id(node)
    await node.tend(NOBODY)
    assert key_id(node) == second


async def test_a_pending_key_outlives_a_restart(store: VolatileStore, clock: Clock, made: list[tuple[int, int, str]]) -> None:
    before, _ = keys(store)
    await before.open()
    clock.now += DAY - 10
    await before.tend(NOBODY)
    after, _ = keys(store)
    await after.open()
    assert states(after) == ["active", "pending"]
    clock.now += 10
    await after.tend(NOBODY)
    assert states(after) == ["expired", "active"]
    assert len(made) == 2


async def test_whoever_rotates_gets_a_key_that_was_made_after_that(store: VolatileStore, clock: Clock) -> None:
    node, _ = keys(store)
    await node.open()
    clock.now += DAY - 10
    await node.tend(NOBODY)
    pending = list(node.status())[1]
    await node.rotate()
    assert key_id(node).hex()[:16] != pending
    assert states(node) == ["expired", "expired", "active"]
    clock.now += HOUR
    await node.tend(NOBODY)
    assert states(node) == ["erased", "erased", "active"]


async def test_a_renewed_identity_is_used_with_a_key_of_its_own_at_once(store: VolatileStore, clock: Clock) -> None:
    node, _ = keys(store)
    await node.open()
    old = key_id(node)
    abandoned = await node.make(node_key(Identity(CONSORTIUM, Role.HOSPITAL, "never")))
    made = await node.make(node_key(RENEWED))
    assert (key_id(node), states(node)) == (old, ["active", "expired", "pending"])
    node.adopt(made)
    ring = node.keyring
    assert (ring.identity, ring.chain, ring.encryption.key_id) == (RENEWED, keyring(RENEWED).chain, made.encryption.key_id)
    assert check_statement(ring.encryption.statement, credential(RENEWED), NOW).key_id == key_id(node)
    promised = node.find(old)
    assert promised is not None
    assert promised.identity == HOSPITAL, "what was promised under the old identity goes on under it"
    clock.now += HOUR
    await node.tend(NOBODY)
    assert node.find(old) is None
    assert node.find(abandoned.encryption.key_id) is None


async def test_a_clock_that_was_put_back_leaves_a_usable_key(store: VolatileStore, clock: Clock) -> None:
    before, _ = keys(store)
    await before.open()
    clock.now -= 30 * DAY
    after, _ = keys(store)
    await after.open()
    accepted = check_statement(after.keyring.encryption.statement, credential(HOSPITAL), clock.now)
    assert accepted.key_id == key_id(after) != key_id(before)


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


async def test_a_next_key_that_cannot_be_kept_leaves_the_active_one(store: VolatileStore, clock: Clock) -> None:
    async def full(_method: str) -> None:
        raise StoreError("disk-full", "the disk is full")

    node, _ = keys(store)
    await node.open()
    store.before = full
    clock.now += DAY - 600
    with pytest.raises(StoreError, match="the disk is full"):
        await node.tend(NOBODY)
    assert states(node) == ["active"]


async def test_the_next_chore_is_never_far_away(store: VolatileStore, clock: Clock) -> None:
    node, _ = keys(store)
    await node.open()
    assert node.due() == HOUR
    clock.now += DAY - 610
    assert node.due() == 10
    clock.now += 10
    assert node.due() == 0
    await node.tend(NOBODY)
    assert node.due() == 600
    clock.now += 600
    await node.tend(NOBODY)
    clock.now += HOUR - 7
    assert node.due() == 7, "the expired one goes"


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
