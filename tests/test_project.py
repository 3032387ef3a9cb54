"""The project's promises about itself: README, Makefile, CI, locks, changelog and floors say the same thing."""

from __future__ import annotations

import ast
import os
import re
import stat
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
WHEELS = (
    subprocess.run([ROOT / "scripts" / "fhe_wheels", "python3"], check=False, capture_output=True, timeout=30).returncode == 0
)
"""Whether what encrypts comes for this machine."""
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = ("core", "dev", "bench", "fhe", "train")

# architecture.md names the first seven; "randomness and the current time enter mpc as arguments" gives most others.
# fmt: off
IMPURE_MODULES = frozenset({
    "asyncio", "ssl", "socket", "sqlite3", "time", "os", "logging",
    "aiohttp", "click", "concurrent", "getpass", "multiprocessing", "nodes", "pathlib", "pki", "random",
    "rich", "secrets", "select", "shutil", "signal", "structlog", "subprocess", "tempfile", "threading",
    "urllib", "yaml",
})
# fmt: on
IMPURE_CALLS = frozenset({"breakpoint", "input", "open", "print"})
IMPURE_ATTRIBUTES = frozenset({"default_rng", "now", "today", "urandom", "utcnow"})


def _environment(path: str) -> dict[str, str]:
    """An environment without the variables by which an outer make would speak to an inner one."""
    return {"PATH": path, "HOME": os.environ.get("HOME", "/")}


def _program(file: Path, script: str) -> Path:
    file.write_text(script, encoding="utf-8")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


def _make_plan(target: str) -> str:
    """What `make TARGET` would do on a fresh machine, without doing it."""
    return subprocess.run(
        ["make", "--dry-run", "--always-make", target],
        cwd=ROOT,
        env=_environment(os.environ["PATH"]),
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    ).stdout


def _ci(tmp_path: Path, failing: str = "none") -> tuple[int, list[str]]:
    """Exit status of `.ci/run`, and the targets that it asked a recording `make` for; `failing` is one that fails."""
    calls = tmp_path / "calls"
    _program(tmp_path / "make", f'#!/bin/sh\necho "$*" >>"{calls}"\n[ "$1" != {failing} ]\n')
    _program(tmp_path / "apt-get", "#!/bin/sh\n")  # a test installs nothing
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run([ROOT / ".ci" / "run"], env=_environment(path), check=False, capture_output=True, timeout=30)
    return done.returncode, calls.read_text(encoding="utf-8").split()


def _python_files(*packages: str) -> list[Path]:
    return [file for package in packages for file in sorted((ROOT / package).rglob("*.py"))]


# ---- README, Makefile, CI


def test_readme_gives_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in ("make run", "make test"):
        assert re.search(rf"^\s*(\$ )?{command}\b", readme, re.MULTILINE), f"README.md has no line `{command}`"


def test_every_make_command_that_a_document_gives_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        lines = re.findall(r"(?:^\s*(?:\$ )?|`)make ((?:[a-z][a-z-]* ?)+)(?:$|`|#|\s\s|[A-Z])", text, re.MULTILINE)
        named = {target for line in lines for target in line.split()}
        assert named <= targets, f"{name} names make targets that do not exist: {sorted(named - targets)}"


def test_make_run_is_the_demonstration_from_the_core_lock_alone() -> None:
    plan = _make_plan("run")
    assert "scripts/run_all.py" in plan
    assert "-r requirements/core.lock" in plan
    assert "dev.lock" not in plan


def test_make_test_sets_up_from_locks_with_hashes_and_runs_pytest() -> None:
    plan = _make_plan("test")
    installs = [line for line in plan.splitlines() if "pip install" in line]
    assert [re.findall(r"-r (\S+)", line) for line in installs if "--editable" not in line] == [
        ["requirements/core.lock"],
        ["requirements/dev.lock"],
        *([["requirements/fhe.lock"]] if WHEELS else []),
    ]
    assert all("--require-hashes" in line or "--no-index" in line for line in installs)
    assert "-m pytest" in plan.splitlines()[-1]


def test_make_test_train_adds_the_environment_of_training_and_make_test_does_not() -> None:
    assert "requirements/train.lock" in _make_plan("test-train")
    assert "train.lock" not in _make_plan("test")


@pytest.mark.parametrize(
    ("system", "python", "said"),
    [
        ("Linux x86_64", "3.11", ""),
        ("Linux x86_64", "3.12", ""),
        ("Linux x86_64", "3.13", "Python 3.11 or 3.12"),
        ("Darwin arm64", "3.12", ""),
        ("Linux aarch64", "3.12", "Linux on x86_64"),
        ("Darwin x86_64", "3.12", "Linux on x86_64"),
    ],
)
def test_a_machine_without_the_wheels_is_told_so_and_the_rest_works(tmp_path: Path, system: str, python: str, said: str) -> None:
    _program(tmp_path / "uname", f"#!/bin/sh\necho {system}\n")
    interpreter = _program(tmp_path / "python", f"#!/bin/sh\necho {python}\n")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    asked = [ROOT / "scripts" / "fhe_wheels", interpreter]
    done = subprocess.run(asked, env=_environment(path), check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == (1 if said else 0)
    assert said in done.stderr
    assert not said or "the rest works" in done.stderr


def test_ci_runs_the_commands_of_the_readme(tmp_path: Path) -> None:
    status, calls = _ci(tmp_path)
    assert status == 0
    assert calls == ["test", "test-train", "lint", "types"]


@pytest.mark.parametrize("failing", ["test", "test-train", "lint", "types"])
def test_ci_fails_when_a_step_fails(tmp_path: Path, failing: str) -> None:
    status, calls = _ci(tmp_path, failing)
    assert status != 0
    assert calls[-1] == failing


# ---- setting up


def test_a_missing_interpreter_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "fresh_venv", "no-such-python", tmp_path / "venv"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "'no-such-python'" in done.stderr
    assert "make PYTHON=" in done.stderr


def test_an_old_interpreter_is_refused_with_its_version(tmp_path: Path) -> None:
    old = _program(tmp_path / "python", '#!/bin/sh\ncase "$2" in *sys.exit*) exit 1;; esac\necho 3.8\n')
    done = subprocess.run([ROOT / "scripts" / "fresh_venv", old, tmp_path / "venv"], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Python 3.8" in done.stderr
    assert "3.11, 3.12 or 3.13" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_an_interpreter_without_venv_is_told_what_to_install(tmp_path: Path) -> None:
    bare = _program(tmp_path / "python", '#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\n')
    done = subprocess.run([ROOT / "scripts" / "fresh_venv", bare, tmp_path / "venv"], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "venv module" in done.stderr


# ---- locks


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_names_no_host_no_path_and_hashes_everything(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.lock").read_text(encoding="utf-8")
    for forbidden in (
        "://",
        "--index-url",
        "--extra-index-url",
        "--find-links",
        "--trusted-host",
        " @ ",
        "-e ",
        "=/",
        " /",
    ):
        assert forbidden not in text, f"{lock}.lock contains {forbidden!r}"
    pins = re.findall(r"^([a-z0-9][a-z0-9._-]*)==\S+(?: ; .+)? \\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)
    requirements = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert len(requirements) == len(pins) > 0


@pytest.mark.parametrize(("lock", "extra"), [("core", None), ("dev", "dev"), ("bench", "bench")])
def test_lock_covers_what_pyproject_asks_for(lock: str, extra: str | None) -> None:
    wanted = PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["build"]
    if extra is not None:
        wanted += PROJECT["project"]["optional-dependencies"][extra]
    names = {re.split(r"[\[<>=!~ ]", requirement)[0].lower() for requirement in wanted}
    text = (ROOT / "requirements" / f"{lock}.lock").read_text(encoding="utf-8")
    assert names <= set(re.findall(r"^([a-z0-9._-]+)==", text, re.MULTILINE))


@pytest.mark.parametrize("group", ["fhe", "train"])
def test_the_locks_of_encrypted_models_cover_their_groups_and_keep_exact_versions(group: str) -> None:
    text = (ROOT / "requirements" / f"{group}.lock").read_text(encoding="utf-8")
    locked = dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE))
    for requirement in PROJECT["dependency-groups"][group]:
        name, _, exact = requirement.partition("==")
        assert re.split(r"[<>=]", name)[0] in locked
        assert not exact or locked[name] == exact
    assert "torch" not in locked or group == "train"


def test_dev_lock_adds_to_core_lock_and_changes_nothing() -> None:
    core, dev = (
        set(re.findall(r"^(\S+==\S+)", (ROOT / "requirements" / f"{name}.lock").read_text(encoding="utf-8"), re.MULTILINE))
        for name in ("core", "dev")
    )
    assert core <= dev


# ---- the package


def test_changelog_begins_with_the_version_of_pyproject() -> None:
    versions = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[0] == PROJECT["project"]["version"]


def test_the_locked_build_tools_are_those_that_the_build_asks_for() -> None:
    assert PROJECT["dependency-groups"]["build"] == PROJECT["build-system"]["requires"]


def test_every_directory_of_code_is_a_package() -> None:
    # The editable install would hide a missing __init__.py, and the wheel would lack the directory.
    directories = {file.parent for file in _python_files("fhe", "mpc", "nodes", "pki")}
    assert [str(directory) for directory in sorted(directories) if not (directory / "__init__.py").exists()] == []


@pytest.mark.parametrize("file", _python_files("mpc"), ids=lambda file: file.relative_to(ROOT).as_posix())
def test_mpc_is_pure(file: Path) -> None:
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                found += [alias.name for alias in names if alias.name.split(".")[0] in IMPURE_MODULES]
            case ast.ImportFrom(module=str(module), level=0) if module.split(".")[0] in IMPURE_MODULES:
                found.append(module)
            case ast.Call(func=ast.Name(id=name)) if name in IMPURE_CALLS:
                found.append(f"{name}()")
            case ast.Attribute(attr=name) if name in IMPURE_ATTRIBUTES:
                found.append(f".{name}")
            case ast.Attribute(value=ast.Name(id="np" | "numpy"), attr="random"):
                found.append("numpy.random")
    assert found == [], f"{file.name}: time, randomness and the world enter mpc as arguments"
