"""Sets of keys that are made once for all tests: making them takes seconds."""

from __future__ import annotations

import pytest

from tests.fhe.house import Keyed, make_keys


@pytest.fixture(scope="session")
def logistic(tmp_path_factory: pytest.TempPathFactory) -> Keyed:
    """A linear model: its evaluation key is next to empty."""
    return make_keys("logistic", tmp_path_factory.mktemp("logistic"))


@pytest.fixture(scope="session")
def stumps(tmp_path_factory: pytest.TempPathFactory) -> Keyed:
    """Two trees, and an evaluation key of 12 MB."""
    return make_keys("stumps", tmp_path_factory.mktemp("stumps"))
