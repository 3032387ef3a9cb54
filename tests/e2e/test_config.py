"""What a daemon says about configuration that it cannot use: file, line, what to do; and the exit status that scripts read."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.deployment import HOSPITAL, STUDY
from tests.e2e.conftest import SUM_OF_THREE, TRIO
from tests.e2e.harness import PYTHON, ROOT, SECONDS, Cohort, cohortium, total
from tests.services import free_port

ROLES = pytest.mark.parametrize("name", [HOSPITAL, "alice"])
ROLE = {HOSPITAL: "hospital", "alice": "patient"}


@pytest.fixture
def draft(cohort: Cohort) -> Iterator[Callable[[str, Callable[[str], str]], Path]]:
    """Writes a changed copy beside a node's configuration, and takes it away again."""
    written: list[Path] = []

    def write(name: str, change: Callable[[str], str]) -> Path:
        path = cohort.directory / name / "draft.yaml"
        path.write_text(change(cohort.config(name).read_text()))
        written.append(path)
        return path

    yield write
    for path in written:
        path.unlink()


Draft = Callable[[str, Callable[[str], str]], Path]


def _with(**changes: Any) -> Callable[[str], str]:
    return lambda text: yaml.safe_dump(yaml.safe_load(text) | changes)


def _line(path: Path, start: str) -> int:
    return next(number for number, line in enumerate(path.read_text().splitlines(), 1) if line.strip().startswith(start))


@ROLES
def test_a_good_configuration_is_called_good_beside_its_running_daemon(cohort: Cohort, name: str) -> None:
    done = cohortium(ROLE[name], "--config", cohort.config(name), "--check")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{cohort.config(name)}: good; spiffe://demo/{ROLE[name]}/{name}\n"


@ROLES
@pytest.mark.parametrize(
    ("added", "complaint"),
    [
        ("colour: red\n", "colour: "),
        ("listen: 127.0.0.1:1\n", "listen: "),
        ("limits:\n  connections: many\n", "limits.connections: "),
        ("limits:\n  connections: 0\n", "limits.connections: must be positive"),
        ("limits: 7\n", "limits: "),
    ],
    ids=["unknown key", "key twice", "wrong type", "out of range", "no mapping"],
)
def test_a_line_that_cannot_stand_there_is_named(cohort: Cohort, draft: Draft, name: str, added: str, complaint: str) -> None:
    path = draft(name, lambda text: text + added)
    done = cohortium(ROLE[name], "--config", path, "--check")
    assert done.returncode == 78
    last = len(path.read_text().splitlines())
    assert re.search(rf"{path}:{last}(:\d+)?: {re.escape(complaint)}", done.stderr), done.stderr
    assert "Traceback" not in done.stderr


def test_all_problems_are_told_at_once(cohort: Cohort, draft: Draft) -> None:
    def spoil(text: str) -> str:
        return text.replace("\nname:", "\nlissen:").replace("consortium: demo", "consortium: 7") + "a: 1\n"

    path = draft("alice", spoil)
    done = cohortium("patient", "--config", path, "--check")
    assert done.returncode == 78
    for problem in ("lissen: is not a known key", "consortium: must be text", "a: is not a known key", "name: is missing"):
        assert problem in done.stderr


@pytest.mark.parametrize("literal", [".nan", "7.5", "'725'", "seven", "true", "[]", "[1, 2.5]"])
def test_a_literal_that_is_no_integer_is_named_and_not_repeated(cohort: Cohort, draft: Draft, literal: str) -> None:
    sources = f"sources:\n  value:\n    bounds: [0, 10000000]\n    literal: {literal}\n"
    path = draft("alice", lambda text: _without_sources(text) + sources)
    done = cohortium("patient", "--config", path, "--check")
    assert done.returncode == 78
    assert f"{path}:{_line(path, 'literal')}" in done.stderr
    assert not any(text in done.stderr for text in ("7.5", "2.5", "725", "seven"))


def _without_sources(text: str) -> str:
    config = yaml.safe_load(text)
    del config["sources"]
    return yaml.safe_dump(config)


def test_a_hospitals_configuration_is_checked_with_its_studies(cohort: Cohort) -> None:
    path = cohort.directory / HOSPITAL / "studies" / "wrong.yaml"
    cohort.write_study("wrong", members=("alice", "bob"), colour="red")
    try:
        done = cohortium("hospital", "--config", cohort.config(HOSPITAL), "--check")
        assert done.returncode == 78
        assert f"{path}:{_line(path, 'colour')}" in done.stderr
    finally:
        path.unlink()


def test_a_missing_file_is_told(cohort: Cohort) -> None:
    gone = cohort.directory / "gone.yaml"
    done = cohortium("patient", "--config", gone, "--check")
    assert done.returncode == 78
    assert str(gone) in done.stderr
    assert "Traceback" not in done.stderr


# -- keys and certificates


@pytest.fixture
def own_key(cohort: Cohort) -> Iterator[Path]:
    """A copy of alice's key that a test may spoil."""
    copy = cohort.directory / "alice" / "copy.key"
    shutil.copy(cohort.directory / "alice" / "alice.key", copy)
    copy.chmod(0o600)
    yield copy
    copy.unlink()


def _identity(key: str = "copy.key", certificate: str = "alice.crt") -> Callable[[str], str]:
    return _with(identity={"key": key, "certificate": certificate, "authorities": ["../ca/ca.crt"]})


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_that_others_can_read_is_refused(draft: Draft, own_key: Path, mode: int) -> None:
    own_key.chmod(mode)
    done = cohortium("patient", "--config", draft("alice", _identity()), "--check")
    assert done.returncode == 77
    assert str(own_key) in done.stderr
    assert "chmod 600" in done.stderr


def test_a_key_that_is_not_the_certificates_is_refused(cohort: Cohort, draft: Draft) -> None:
    done = cohortium("patient", "--config", draft("alice", _identity(key="../bob/bob.key")), "--check")
    assert done.returncode == 77
    assert "it is not the certificate of the key in" in done.stderr


def test_a_certificate_of_another_role_is_refused(cohort: Cohort, draft: Draft) -> None:
    identity = _identity(key="../alice/alice.key", certificate="../alice/alice.crt")
    done = cohortium("hospital", "--config", draft(HOSPITAL, identity), "--check")
    assert done.returncode == 77
    assert "it is for spiffe://demo/patient/alice, but this node is configured as spiffe://demo/hospital/hospital" in done.stderr


def test_a_key_that_is_missing_is_refused(draft: Draft) -> None:
    done = cohortium("patient", "--config", draft("alice", _identity(key="gone.key")), "--check")
    assert done.returncode == 77
    assert "gone.key" in done.stderr


_AS_NOBODY = """
import os, sys
import nodes.cli

def run():
    try:
        nodes.cli.main()
    except SystemExit as ended:
        return ended.code

sys.argv = ["cohortium", "patient", "--config", sys.argv[1], "--check"]
assert run() == 0, "root may read it all; and now every module is loaded"
os.setgid(65534)
os.setuid(65534)
sys.exit(run())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_key_of_another_user_is_refused(cohort: Cohort) -> None:
    with tempfile.TemporaryDirectory(prefix="cohortium-") as copied:
        for part in ("alice", "ca"):
            shutil.copytree(cohort.directory / part, Path(copied, part), ignore=shutil.ignore_patterns("*.sock"))
            Path(copied, part).chmod(0o755)
        Path(copied).chmod(0o755)
        config = Path(copied, "alice", "patient.yaml")
        config.chmod(0o644)
        done = subprocess.run(
            [PYTHON, "-c", _AS_NOBODY, config],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 77, done.stderr
        key = config.parent / "alice.key"
        assert done.stderr == f"cohortium: {key} cannot be read by this user (uid 65534); give it to that user with chown\n"


# -- ports and sockets


def _starts(role: str, path: Path) -> subprocess.CompletedProcess[str]:
    return cohortium(role, "--config", path)


@ROLES
def test_a_state_directory_in_use_is_told_and_left_to_its_daemon(cohort: Cohort, name: str) -> None:
    done = _starts(ROLE[name], cohort.config(name))
    assert done.returncode == 78
    store = cohort.directory / name / "state" / "store.db"
    assert f"cohortium: {store} is in use by another daemon (process {cohort.process(name).pid}); stop that one" in done.stderr
    assert total(cohort.run("three")) == SUM_OF_THREE


@ROLES
def test_a_port_in_use_is_told_with_what_to_do(cohort: Cohort, draft: Draft, tmp_path: Path, name: str) -> None:
    path = draft(name, _with(admin="second.sock", state=str(tmp_path)))
    done = _starts(ROLE[name], path)
    assert done.returncode == 78
    at = f"127.0.0.1:{cohort.port(name)}"
    told = f"cohortium: cannot listen on {at}: another program uses that port; stop it, or choose another port\n"
    assert done.stderr.endswith(told)
    assert not (path.parent / "second.sock").exists()
    assert total(cohort.run("three")) == SUM_OF_THREE


@ROLES
def test_an_admin_socket_in_use_is_told_and_left_to_its_daemon(cohort: Cohort, draft: Draft, tmp_path: Path, name: str) -> None:
    elsewhere = _with(listen=f"127.0.0.1:{free_port()}", state=str(tmp_path))
    done = _starts(ROLE[name], draft(name, elsewhere))
    assert done.returncode == 78
    socket = cohort.deployment.socket(name)
    assert f"another daemon answers at {socket}; stop it, or give this one another 'admin' socket" in done.stderr
    assert cohort.admin(name).answers


def test_an_admin_path_that_is_no_socket_is_left_alone(cohort: Cohort, draft: Draft, tmp_path: Path) -> None:
    precious = cohort.directory / "alice" / "precious"
    precious.write_text("data")
    elsewhere = _with(admin="precious", listen=f"127.0.0.1:{free_port()}", state=str(tmp_path))
    done = _starts("patient", draft("alice", elsewhere))
    assert done.returncode == 78
    assert f"{precious} is there and is no socket; choose another path for 'admin'" in done.stderr
    assert precious.read_text() == "data"


def test_a_study_is_read_when_its_round_is_opened(cohort: Cohort) -> None:
    assert STUDY in [study["id"] for study in cohort.hospital.get("/v1/studies")]
    name = cohort.write_study("new", members=("alice", "bob", "charlie"), variable=TRIO)
    assert total(cohort.run(name)) == SUM_OF_THREE
