"""Units, installer, Dockerfile and compose file: systemd and shellcheck accept them, and they fit the program and each other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from nodes.cli import cohortium
from nodes.store.sealing import CREDENTIAL

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "scripts" / "systemd").iterdir())
INSTALL = ROOT / "scripts" / "install.sh"
SYSTEMD = shutil.which("systemd-analyze")
PROGRAM = "/opt/cohortium/bin/cohortium"

needs_systemd = pytest.mark.skipif(SYSTEMD is None, reason="systemd-analyze is not installed")


def settings(unit: Path) -> dict[str, list[str]]:
    """Every NAME=VALUE of a unit; a name may come more than once."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture(params=UNITS, ids=[unit.name for unit in UNITS])
def unit(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def instance(unit: Path, directory: Path) -> Path:
    """The unit as systemd would load it, for a program that is there."""
    copy = directory / unit.name.replace("@.", "@alice.")
    copy.write_text(unit.read_text().replace(PROGRAM, "/bin/true"))
    return copy


# ---- units


def test_there_is_a_unit_for_each_role() -> None:
    assert [unit.name for unit in UNITS] == [
        "cohortium-hospital.service",
        "cohortium-patient@.service",
        "cohortium-relay.service",
    ]


@needs_systemd
def test_systemd_accepts_the_unit(unit: Path, tmp_path: Path) -> None:
    done = subprocess.run(["systemd-analyze", "verify", instance(unit, tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "cohortium" in line]) == (0, [])


@needs_systemd
def test_the_unit_is_exposed_to_little(unit: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", "--no-pager", instance(unit, tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    [score] = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert float(score) <= 2.0
    assert done.returncode == 0


def test_the_unit_notifies_reloads_and_gives_up_where_trying_again_is_vain(unit: Path) -> None:
    has = settings(unit)
    assert has["Type"] == ["notify"]
    assert has["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert has["RestartPreventExitStatus"] == ["2 77 78"]
    assert has["WatchdogSec"] == ["30"]
    assert has["User"] == ["cohortium"]


def test_systemd_waits_longer_than_the_daemon_drains(unit: Path) -> None:
    from nodes.config import HospitalConfig

    defaults = dict(zip(reversed(HospitalConfig.__struct_fields__), reversed(HospitalConfig.__struct_defaults__), strict=False))
    assert int(settings(unit)["TimeoutStopSec"][0]) > defaults["shutdown_timeout"]


def test_keys_come_as_credentials_and_only_root_reads_their_files(unit: Path) -> None:
    loaded = dict(credential.split(":") for credential in settings(unit)["LoadCredential"])
    sealed = "relay" not in unit.name  # a relay keeps only what is sealed already
    assert loaded.keys() == {"identity.key", *([CREDENTIAL] if sealed else [])}
    [command] = settings(unit)["ExecStart"]
    assert {Path(path).parent for path in loaded.values()} == {Path(command.split()[-1]).parent}


def test_the_unit_starts_a_command_that_exists(unit: Path) -> None:
    [command] = settings(unit)["ExecStart"]
    program, role, option, config = command.split()
    assert (program, option) == (PROGRAM, "--config")
    assert config.startswith("/etc/cohortium/")
    done = CliRunner().invoke(cohortium, [role, "--help"])
    assert done.exit_code == 0
    assert "--config" in done.output


# ---- installer


def installed(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(INSTALL), *arguments], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing_in_the_installer() -> None:
    done = subprocess.run(["shellcheck", INSTALL], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Stands in for an interpreter: makes an environment that holds itself, and notes what it is told to install."""
    fake = tmp_path / "python"
    fake.write_text(
        "#!/bin/sh\n"
        f'echo "$*" >> {tmp_path}/told\n'
        'if [ "$1 $2" = "-m venv" ]; then\n'
        '    mkdir -p "$3/bin" && cp -f "$0" "$3/bin/python.new" && mv "$3/bin/python.new" "$3/bin/python"\n'
        "fi\n"
    )
    fake.chmod(0o755)
    return fake


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(root)): (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(root.rglob("*"))
    }


def test_a_dry_run_prints_the_commands_and_changes_nothing(tmp_path: Path, python: Path) -> None:
    root = tmp_path / "root"
    done = installed("--dry-run", "--root", str(root), "--python", str(python))
    assert done.returncode == 0
    assert done.stdout
    assert all(line.startswith("+ ") for line in done.stdout.splitlines())
    assert not root.exists()


def test_it_puts_program_units_and_manual_in_place(tmp_path: Path, python: Path) -> None:
    root = tmp_path / "root"
    done = installed("--root", str(root), "--python", str(python))
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in (root / "etc/systemd/system").iterdir()} == {unit.name for unit in UNITS}
    assert (root / "opt/cohortium/share/doc/cohortium/operations.md").read_bytes() == (ROOT / "docs/operations.md").read_bytes()
    assert oct((root / "etc/cohortium").stat().st_mode & 0o777) == "0o750"
    told = (tmp_path / "told").read_text()
    assert "--require-hashes" in told
    assert "core.lock" in told


def test_running_it_again_changes_nothing(tmp_path: Path, python: Path) -> None:
    root = tmp_path / "root"
    assert installed("--root", str(root), "--python", str(python)).returncode == 0
    before = tree(root)
    assert installed("--root", str(root), "--python", str(python)).returncode == 0
    assert tree(root) == before


def test_an_upgrade_replaces_the_units_and_leaves_configurations_alone(tmp_path: Path, python: Path) -> None:
    root = tmp_path / "root"
    assert installed("--root", str(root), "--python", str(python)).returncode == 0
    (root / "etc/systemd/system" / UNITS[0].name).write_text("old")
    (root / "etc/cohortium/hospital.yaml").write_text("mine")
    assert installed("--root", str(root), "--python", str(python)).returncode == 0
    assert (root / "etc/systemd/system" / UNITS[0].name).read_bytes() == UNITS[0].read_bytes()
    assert (root / "etc/cohortium/hospital.yaml").read_text() == "mine"


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 2), (["--root"], 2), (["--python", "/nowhere"], 78)])
def test_a_mistake_is_told_and_nothing_is_done(arguments: list[str], status: int) -> None:
    done = installed("--dry-run", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr


# ---- containers


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's, with continued lines joined."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def test_the_image_is_built_in_one_stage_and_runs_in_another_without_what_built_it() -> None:
    stages = [rest for word, rest in instructions() if word == "FROM"]
    assert stages == ["python:3.12-slim AS build", "python:3.12-slim"]
    final = instructions()[[word for word, _ in instructions()].index("FROM", 1) :]
    assert [rest for word, rest in final if word == "COPY"] == ["--from=build /opt/cohortium /opt/cohortium"]
    assert not any("pip" in rest or "apt-get" in rest for word, rest in final if word == "RUN")


def test_the_image_installs_only_what_the_lock_names() -> None:
    pips = [part for word, rest in instructions() if word == "RUN" for part in rest.split("&&") if "pip install" in part]
    assert len(pips) == 2
    assert all("--require-hashes" in part or "--no-index" in part for part in pips)


def test_the_image_runs_as_nobody_in_particular_and_stops_on_sigterm() -> None:
    last = dict(instructions())
    assert last["USER"] == "10001:10001"
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert last["ENTRYPOINT"] == '["cohortium"]'


def test_everything_that_the_image_copies_is_sent_to_the_builder_and_nothing_else() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for word, rest in instructions() if word == "COPY" and "--from" not in rest for source in rest.split()[:-1]}
    assert sent == copied
    assert all((ROOT / source).exists() for source in copied)
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return content


def test_compose_has_a_hospital_a_relay_and_three_patients_each_with_state_of_its_own() -> None:
    content = compose()
    roles = {name: service["command"][0] for name, service in content["services"].items()}
    assert roles == {"hospital": "hospital", "relay": "relay", "alice": "patient", "bob": "patient", "charlie": "patient"}
    mounts = [mount for service in content["services"].values() for mount in service["volumes"]]
    assert len(mounts) == len(set(mounts)) == 10
    states = {mount.split(":")[0] for mount in mounts if mount.endswith(":/var/lib/cohortium")}
    assert states == content["volumes"].keys()


def test_compose_gives_containers_no_privilege() -> None:
    for service in compose()["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all(mount.endswith(":ro") for mount in service["volumes"] if mount.startswith("./"))
        assert "ports" not in service


def test_compose_waits_longer_than_the_daemons_drain() -> None:
    assert {service["stop_grace_period"] for service in compose()["services"].values()} == {"30s"}
