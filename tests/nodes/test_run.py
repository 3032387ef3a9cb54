"""From a checked configuration to a running process, or to the word that all is good."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpc.errors import IdentityError
from nodes.config import PatientConfig, check_patient
from nodes.daemon import Config
from nodes.patient import PatientDaemon
from nodes.run import run_daemon
from nodes.service import Read
from tests.nodes.house import Site, make_site, short_directory


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with short_directory() as directory:
        yield make_site(directory, {"alice": 725, "bob": 310, "charlie": 540})


@pytest.fixture(autouse=True)
def configured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """How logging would have been set up for the process."""
    configured: list[tuple[str, str]] = []
    monkeypatch.setattr("nodes.run.configure", lambda level, format: configured.append((level, format)))
    return configured


class Recorded(PatientDaemon):
    """A daemon whose life is one turn of the loop."""

    lived = 0

    async def run(self, read: Read[Config]) -> None:
        assert read() == self.config
        assert asyncio.get_running_loop().is_running()
        type(self).lived += 1


@pytest.fixture
def path(site: Site) -> Path:
    return site.patients["alice"]


@pytest.fixture
def config(path: Path) -> PatientConfig:
    return check_patient(path)


def test_checking_builds_the_daemon_and_does_not_run_it(
    path: Path, config: PatientConfig, capsys: pytest.CaptureFixture[str], configured: list[tuple[str, str]]
) -> None:
    before = Recorded.lived
    run_daemon(path, lambda: config, Recorded, check=True)
    assert capsys.readouterr().out == f"{path}: good; spiffe://demo/patient/alice\n"
    assert Recorded.lived == before
    assert configured == [("info", "auto")]


def test_running_lives_the_daemons_life(path: Path, config: PatientConfig, capsys: pytest.CaptureFixture[str]) -> None:
    before = Recorded.lived
    run_daemon(path, lambda: config, Recorded, check=False)
    assert Recorded.lived == before + 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("check", [True, False])
def test_what_cannot_be_built_is_told(check: bool, path: Path, config: PatientConfig) -> None:
    def broken(_config: PatientConfig) -> PatientDaemon:
        raise IdentityError("alice.crt: the certificate has expired")

    with pytest.raises(IdentityError, match="has expired"):
        run_daemon(path, lambda: config, broken, check=check)
