"""`cohortium pki init` with an offline root and with passphrases, from files and from a real terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from mpc.errors import IdentityError, UsageError
from tests.nodes.commands.pki_cli import refusal, run

ROOT = Path(__file__).resolve().parents[3]
PASSPHRASE = "correct horse battery"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that holds the passphrase."""
    path = tmp_path / "passphrase"
    path.write_text(PASSPHRASE + "\n")
    path.chmod(0o600)
    return path


def test_after_an_offline_root_is_away_the_issuing_authority_works_on(tmp_path: Path) -> None:
    said = run("init", "--dir", tmp_path / "ca", "--root-dir", tmp_path / "root", "--consortium", "demo")
    assert f"root in {tmp_path / 'root'}: lock it away" in said
    (tmp_path / "root").rename(tmp_path / "safe")
    run("issue", "patient/alice", "--dir", tmp_path / "ca", "--out", tmp_path)
    run("verify", tmp_path / "alice.crt", "--ca", tmp_path / "ca" / "ca.crt")
    assert (tmp_path / "ca" / "ca.crt").read_bytes() == (tmp_path / "safe" / "ca.crt").read_bytes()
    assert (tmp_path / "ca" / "ca.key").read_bytes() != (tmp_path / "safe" / "ca.key").read_bytes()


def test_a_root_signs_a_second_issuing_authority(tmp_path: Path) -> None:
    for name in ("one", "two"):
        run("init", "--dir", tmp_path / name, "--root-dir", tmp_path / "root", "--consortium", "demo")
        run("issue", f"patient/{name}", "--dir", tmp_path / name, "--out", tmp_path)
    for name in ("one", "two"):
        run("verify", tmp_path / f"{name}.crt", "--ca", tmp_path / "root" / "ca.crt")
    assert run("list", "--dir", tmp_path / "root").count(" spiffe://demo\n") == 2
    other = ("init", "--dir", tmp_path / "three", "--root-dir", tmp_path / "root", "--consortium", "other")
    assert "is for demo, not for other" in refusal(UsageError, *other)
    assert not (tmp_path / "three").exists()


def test_a_protected_key_needs_its_passphrase_to_sign_and_for_nothing_else(tmp_path: Path, secret: Path) -> None:
    ca = tmp_path / "ca"
    run("init", ca, "--consortium", "demo", "--passphrase-file", secret)
    assert "ENCRYPTED" in (ca / "ca.key").read_text()
    issue = ("issue", "patient/alice", "--dir", ca, "--out", tmp_path)
    said = refusal(IdentityError, *issue)
    assert said == f"{ca / 'ca.key'} is protected by a passphrase; give --passphrase-file FILE, or use a terminal"
    run(*issue, "--passphrase-file", secret)
    run("list", "--dir", ca)
    run("token", "patient/bob", "--address", "https://h:1", "--service", "hospital/h", "--dir", ca)
    run("revoke", "patient/alice", "--dir", ca)
    assert "is protected" in refusal(IdentityError, "crl", "--dir", ca)
    run("crl", "--dir", ca, "--passphrase-file", secret)
    secret.write_text("wrong horse battery\n")
    said = refusal(IdentityError, "crl", "--dir", ca, "--passphrase-file", secret)
    assert "does not open with this passphrase" in said
    assert "horse" not in said


def test_the_root_and_the_authority_below_it_have_a_passphrase_each(tmp_path: Path, secret: Path) -> None:
    init = ("init", "--root-dir", tmp_path / "root", "--consortium", "demo")
    run(*init, "--dir", tmp_path / "ca", "--root-passphrase-file", secret)
    assert "ENCRYPTED" in (tmp_path / "root" / "ca.key").read_text()
    assert "ENCRYPTED" not in (tmp_path / "ca" / "ca.key").read_text()
    assert "give --root-passphrase-file FILE" in refusal(IdentityError, *init, "--dir", tmp_path / "two")
    run(*init, "--dir", tmp_path / "two", "--root-passphrase-file", secret)


def test_options_that_do_not_go_together_are_a_usage_error(tmp_path: Path, secret: Path) -> None:
    init = ("init", tmp_path / "ca", "--consortium", "demo")
    assert "goes with --root-dir" in refusal(UsageError, *init, "--root-passphrase-file", secret)
    assert "must be another directory" in refusal(UsageError, *init, "--root-dir", tmp_path / "x" / ".." / "ca")
    assert "there is none; give it in a file" in refusal(UsageError, *init, "--protect")
    assert not (tmp_path / "ca").exists()


def at_terminal(directory: Path, typed: list[str], *arguments: str) -> tuple[int, str]:
    """Exit status and everything that a terminal shows while a person types each line when asked for it."""
    keyboard, terminal = pty.openpty()
    command = [sys.executable, "-m", "nodes.cli", "pki", *arguments]
    # Without a controlling terminal, so that the passphrase is asked on standard input, which is this one.
    process = subprocess.Popen(
        command, cwd=directory, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=terminal, stdout=terminal, stderr=terminal,
        start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    shown, answered = "", 0
    while True:
        try:
            piece = os.read(keyboard, 4096)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        shown += piece.decode()
        while answered < min(shown.count(": "), len(typed)):
            os.write(keyboard, typed[answered].encode() + b"\n")
            answered += 1
    os.close(keyboard)
    return process.wait(60), shown


def test_a_terminal_is_asked_twice_for_a_new_passphrase_and_once_for_an_old_one(tmp_path: Path) -> None:
    status, shown = at_terminal(tmp_path, [PASSPHRASE] * 2, "init", "--consortium", "demo", "--protect")
    assert status == 0, shown
    assert "New passphrase for ca/ca.key: " in shown
    status, shown = at_terminal(tmp_path, [PASSPHRASE], "issue", "patient/alice")
    assert status == 0, shown
    assert "Passphrase of ca/ca.key: " in shown
    assert PASSPHRASE not in shown
    assert (tmp_path / "alice.crt").exists()
