"""Which daemon a command speaks to."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpc.errors import ConfigError, UsageError
from nodes.commands.options import admin_socket


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "alice.yaml"
    path.write_text("admin: run/alice.sock\n")
    return path


def test_a_configuration_names_its_socket_beside_it(config: Path) -> None:
    assert admin_socket(config, None) == config.parent / "run" / "alice.sock"


def test_a_socket_may_be_given_itself(tmp_path: Path) -> None:
    assert admin_socket(None, tmp_path / "any.sock") == tmp_path / "any.sock"


def test_exactly_one_of_the_two_is_given(config: Path, tmp_path: Path) -> None:
    for given in ((None, None), (config, tmp_path / "any.sock")):
        with pytest.raises(UsageError, match="say which daemon: give --config FILE or --socket PATH"):
            admin_socket(*given)


@pytest.mark.parametrize(
    ("text", "said"), [("name: alice\n", "admin"), ("admin: 7\n", "admin"), ("admin: [", "alice.yaml"), ("", "alice.yaml")]
)
def test_a_configuration_without_a_socket_says_why(text: str, said: str, config: Path) -> None:
    config.write_text(text)
    with pytest.raises(ConfigError, match=said):
        admin_socket(config, None)


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.yaml"):
        admin_socket(tmp_path / "missing.yaml", None)
