"""The state directory: complete for a new node, and never a new storage key beside an old state."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from mpc.errors import IdentityError
from nodes.state import State, load_state
from tests.mpc.nodes import HOSPITAL


@pytest.fixture(autouse=True)
def no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


def load(directory: Path, url: str | None = None) -> State:
    return load_state(HOSPITAL, directory / "state", url, directory / "storage.key")


def close(state: State) -> None:
    state.round_keys.close()
    state.guard.close()


def test_a_new_node_gets_a_storage_key_that_nobody_else_can_read(tmp_path: Path) -> None:
    close(load(tmp_path))
    made = tmp_path / "storage.key"
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    content = made.read_bytes()
    close(load(tmp_path))
    assert made.read_bytes() == content


@pytest.mark.parametrize("left", ["store.db", "commits", "rounds.keys"])
def test_a_restored_copy_without_its_storage_key_gets_no_new_one(tmp_path: Path, left: str) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / left).write_bytes(b"")
    with pytest.raises(IdentityError, match=r"storage\.key does not exist; bring it back from where its copy is kept"):
        load(tmp_path)
    assert not (tmp_path / "storage.key").exists()
    assert [path.name for path in state.iterdir()] == [left]


def test_nobody_makes_a_key_for_a_database_that_may_be_in_use(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="with a PostgreSQL store, make it with: umask 077; openssl rand -out"):
        load(tmp_path, "postgresql://user@host/database")
    assert not (tmp_path / "storage.key").exists()
