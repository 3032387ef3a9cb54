"""An authority in a directory, for the tests of `cohortium pki`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.nodes.commands.pki_cli import run


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    """Where the authority is."""
    run("init", tmp_path / "ca", "--consortium", "demo")
    return tmp_path / "ca"
