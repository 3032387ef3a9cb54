"""The one command: what it exits with, and that it loads only what it uses."""

from __future__ import annotations

import importlib
import json
import pkgutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import click
import pytest

from mpc.errors import (
    Answer,
    CohortiumError,
    ConfigError,
    DataError,
    IdentityError,
    InvalidTransition,
    MessageRefused,
    RoundAborted,
    StudyError,
    TemporaryError,
    UsageError,
    UserError,
)
from nodes import cli
from tests.nodes.house import Site, make_site, short_directory

ROOT = Path(__file__).resolve().parents[2]
SECRET = 928_374


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with short_directory() as directory:
        yield make_site(directory, {"alice": SECRET, "bob": 310, "charlie": 540})


def cohortium(*arguments: str | Path, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nodes.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


def exits_with(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The status of `cohortium ARGUMENTS` in this process."""
    monkeypatch.setattr(sys, "argv", ["cohortium", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes `cohortium status` raise."""

    class Module:
        error: ClassVar[BaseException | None] = None

        @staticmethod
        @click.command()
        def status() -> None:
            if Module.error is not None:
                raise Module.error

    monkeypatch.setitem(sys.modules, "nodes.commands.status", Module)
    return Module


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, 0),
        (CohortiumError("x"), 1),
        (RoundAborted("member-missing", "sharing", ("bob",), "bob went silent"), 1),
        (MessageRefused(Answer.GONE, "round-ended"), 1),
        (InvalidTransition("m", "s", "e", ()), 1),
        (UsageError("x"), 2),
        (click.UsageError("x"), 2),
        (click.BadParameter("x"), 2),
        (click.ClickException("x"), 1),
        (TemporaryError("x"), 75),
        (IdentityError("x"), 77),
        (ConfigError("x"), 78),
        (StudyError("x"), 78),
        (DataError("x"), 78),
        (UserError("x"), 78),
        (click.Abort(), 130),
        (KeyboardInterrupt(), 130),
        (SystemExit(1), 1),
    ],
)
def test_each_error_has_its_exit_status(
    error: BaseException | None, status: int, failing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing.error = error
    assert exits_with(monkeypatch, "status") == status


def test_an_error_is_one_line_on_stderr(
    failing: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing.error = ConfigError("alice.yaml:3: name: 'Alice' is not a name; use lower-case letters")
    exits_with(monkeypatch, "status")
    assert capsys.readouterr() == ("", "cohortium: alice.yaml:3: name: 'Alice' is not a name; use lower-case letters\n")


def test_a_bug_is_not_dressed_up_as_a_users_mistake(failing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    failing.error = ZeroDivisionError()
    monkeypatch.setattr(sys, "argv", ["cohortium", "status"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_loading_the_command_loads_no_heavy_library() -> None:
    heavy = ("aiohttp", "numpy", "cryptography", "rich", "msgspec", "yaml", "structlog", "asyncio")
    code = f"import sys, nodes.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ("--version",)])
def test_help_and_version_answer_without_the_heavy_libraries(arguments: tuple[str, ...]) -> None:
    code = (
        "import sys, nodes.cli\n"
        "heavy = ('aiohttp', 'numpy', 'cryptography', 'rich')\n"
        "sys.argv = ['cohortium', *sys.argv[1:]]\n"
        "try: nodes.cli.main()\n"
        "except SystemExit as end: print(end.code, [name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 []"
    assert done.stdout.startswith(("Usage: cohortium ", "cohortium "))
    assert done.stderr == ""


@pytest.mark.parametrize("name", list(cli._COMMANDS))
def test_every_command_can_be_loaded_and_helps(name: str) -> None:
    command = getattr(importlib.import_module(f"nodes.commands.{name}"), name)
    assert isinstance(command, click.Command)
    assert command.name == name
    context = click.Context(cli.cohortium)
    assert cli.cohortium.get_command(context, name) is command
    assert command.get_short_help_str(200)
    assert command.get_help(click.Context(command, info_name=name))


def test_the_list_of_commands_is_that_of_the_files() -> None:
    modules = {module.name for module in pkgutil.iter_modules([str(ROOT / "nodes" / "commands")])} - {"options"}
    assert set(cli._COMMANDS) == modules
    context = click.Context(cli.cohortium)
    assert cli.cohortium.list_commands(context) == list(cli._COMMANDS)
    assert cli.cohortium.get_command(context, "nonsense") is None


def test_help_lists_the_commands_and_what_they_are_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exits_with(monkeypatch, "--help") == 0
    out = capsys.readouterr().out
    for name, said in cli._COMMANDS.items():
        assert name in out
        assert said.split(",")[0].split(".")[0] in out


@pytest.mark.parametrize(
    "arguments", [("nonsense",), ("--nonsense",), ("round", "nonsense"), ("hospital",), ("status", "--json", "x")]
)
def test_a_mistyped_command_is_a_usage_error(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exits_with(monkeypatch, *arguments) == 2
    assert capsys.readouterr().err.startswith("Usage: ")


def test_checking_good_and_bad_configurations(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nodes.run.configure", lambda _level, _format: None)
    assert exits_with(monkeypatch, "hospital", "--config", str(site.hospital), "--check") == 0
    assert capsys.readouterr().out == f"{site.hospital}: good; spiffe://demo/hospital/general\n"
    alice = site.patients["alice"]
    assert exits_with(monkeypatch, "patient", "--config", str(alice), "--check", "--value", "72") == 0
    out, err = capsys.readouterr()
    assert out == f"{alice}: good; spiffe://demo/patient/alice\n"
    assert err.startswith("cohortium: warning: --value stands in the process list")
    assert exits_with(monkeypatch, "patient", "--config", str(alice), "--check", "--value", "weight=72") == 2
    assert exits_with(monkeypatch, "patient", "--config", str(alice), "--check", "--value", "7.2") == 2
    assert "7.2" not in capsys.readouterr().err
    bad = alice.with_name("bad.yaml")
    bad.write_text(alice.read_text() + "nonsense: 1\n")
    assert exits_with(monkeypatch, "patient", "--config", str(bad), "--check") == 78
    stolen = alice.with_name("stolen.yaml")
    stolen.write_text(alice.read_text().replace("alice.key", "bob.key"))
    assert exits_with(monkeypatch, "patient", "--config", str(stolen), "--check") == 77
    assert exits_with(monkeypatch, "patient", "--config", str(alice.with_name("missing.yaml")), "--check") == 78


def test_a_daemon_process_ends_well_and_prints_no_value(site: Site) -> None:
    alice = site.patients["alice"]
    command = [sys.executable, "-m", "nodes.cli", "patient", "--config", str(alice)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 20
            while not alice.with_name("alice.sock").exists():
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.01)
            status = cohortium("status", "--config", alice, "--json")
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, out) == (0, "")
    assert json.loads(status.stdout)["identity"] == "spiffe://demo/patient/alice"
    lines = [json.loads(line) for line in err.splitlines()]
    assert [line["event"] for line in lines] == ["starting", "key-rotated", "ready", "stopping", "stopped"]
    assert str(SECRET) not in err
    assert not alice.with_name("alice.sock").exists()


def test_status_of_no_daemon_is_a_passing_fault(site: Site) -> None:
    done = cohortium("status", "--config", site.hospital)
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr.startswith("cohortium: no daemon answers at ")


def test_a_reader_that_goes_away_is_no_error_to_speak_of() -> None:
    command = [sys.executable, "-m", "nodes.cli", "--help"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
        process.wait(30)
    assert "Traceback" not in err
