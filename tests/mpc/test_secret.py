"""A secret is seen only by who asks for it by name."""

from __future__ import annotations

import copy
import pickle

import pytest

from mpc.secret import Secret

SECRET = Secret(b"do not show this")


@pytest.mark.parametrize("shown", [repr(SECRET), str(SECRET), f"{SECRET}", f"{[SECRET]}"])
def test_a_secret_does_not_print(shown: str) -> None:
    assert "show" not in shown


def test_a_secret_is_not_pickled_or_copied() -> None:
    for attempt in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match="not pickled"):
            attempt(SECRET)


def test_secrets_do_not_compare_by_value() -> None:
    assert Secret(b"same") != Secret(b"same")
    assert SECRET.reveal() == b"do not show this"
