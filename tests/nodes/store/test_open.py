"""Which store a configuration means."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mpc.errors import ConfigError
from mpc.identity import Identity
from nodes.store.open import make_store
from scripts.postgres import Cluster
from tests.nodes.store.conftest import KEY
from tests.nodes.store.steps import NODE, begin

ALICE = Identity.parse(NODE)


async def test_without_a_url_a_store_is_a_file_in_the_state_directory(state: Path) -> None:
    store = make_store(None, state, ALICE, KEY)
    await store.open()
    await store.commit([begin()])
    await store.close()
    assert (state / "store.db").read_bytes().startswith(b"SQLite format 3\x00")


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
async def test_a_postgresql_url_is_a_store_there(cluster: Cluster, database: str, state: Path, scheme: str) -> None:
    store = make_store(cluster.url(database).replace("postgresql", scheme), state, ALICE, KEY)
    await store.open()
    await store.commit([begin()])
    await store.close()
    assert cluster.sql("SELECT identity, counter FROM cohortium.stores", database) == f"{NODE}|1"
    assert not state.exists()


@pytest.mark.parametrize("url", ["mysql://root:hunter2@host/db", "/var/lib/store.db", "", "hunter2"])
def test_another_url_is_refused_without_its_password(state: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="write postgresql://USER@HOST/DATABASE, or leave it out") as caught:
        make_store(url, state, ALICE, KEY)
    assert "root" not in str(caught.value)


def test_a_missing_driver_says_what_to_install(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(ConfigError, match=r"needs the package asyncpg.*install cohortium\[postgres\]"):
        make_store("postgresql:///db", state, ALICE, KEY)


def test_the_drivers_are_loaded_only_when_they_are_asked_for(state: Path) -> None:
    make_store(None, state, ALICE, KEY)
    source = Path(sys.modules[make_store.__module__].__file__ or "").read_text()
    assert "import asyncpg" not in source
