"""Every command of docs/pki.md is run here, in order; what comes out is judged by openssl, and the page's tables by the code."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mpc.identity import Role
from pki.profile import BACKDATE, ISSUING_DAYS, LEAF_DAYS, MAX_LEAF_DAYS, ROOT_DAYS
from tests.pki.forge import needs_openssl, openssl

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "pki.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n\$ (.*?)```", TEXT, re.DOTALL)
COMMANDS = [command.replace("\\\n", "").strip() for block in BLOCKS for command in block.split("\n$ ")]
LATER = "cohortium pki init --consortium demo.example --dir second --root-dir root --root-passphrase-file root-passphrase"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which the page was followed from top to bottom."""
    directory = tmp_path_factory.mktemp("pki")
    (directory / "bin").mkdir()
    program = directory / "bin" / "cohortium"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m nodes.cli "$@"\n')
    program.chmod(0o755)
    for name in ("passphrase", "root-passphrase"):
        (directory / name).write_text(f"a sentence for {name}\n")
        (directory / name).chmod(0o600)
    for command in COMMANDS:
        shell(directory, command)
        if " init " in command:
            (directory / "root").rename(directory / "safe")
    return directory


def shell(directory: Path, command: str) -> str:
    path = os.pathsep.join([str(directory / "bin"), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euc", command],
        cwd=directory,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_page_shows_every_command(place: Path) -> None:
    from nodes.commands.pki import pki

    assert {command.split()[2] for command in COMMANDS} == set(pki.commands)
    assert (place / "ca" / "ca.crl").exists()


@needs_openssl
def test_openssl_believes_what_the_page_made_and_not_what_it_revoked(place: Path) -> None:
    shell(place, "cp -r safe root")
    shell(place, "cohortium pki crl --dir root --passphrase-file root-passphrase")
    check = ("verify", "-x509_strict", "-crl_check_all", "-CAfile", "ca/ca.crt", "-untrusted", "ca/issuing.crt")
    lists = ("-CRLfile", "ca/ca.crl", "-CRLfile", "root/ca.crl")
    for name in ("alice", "general", "mail"):
        assert openssl(place, *check, *lists, f"{name}/{name}.crt") == f"{name}/{name}.crt: OK\n"
    for certificate in ("bob/bob.crt", "bob/new/bob.crt"):
        with pytest.raises(AssertionError, match="certificate revoked"):
            openssl(place, *check, *lists, certificate)


def test_the_way_out_of_a_stolen_issuing_key_works_as_told(place: Path) -> None:
    shell(place, "rm -rf root && cp -r safe root")
    [line] = shell(place, "cohortium pki list --dir root").splitlines()
    shell(place, f"cohortium pki revoke {line.split()[0]} --reason cACompromise --dir root")
    shell(place, "cohortium pki crl --dir root --passphrase-file root-passphrase")
    shell(place, LATER)
    shell(place, "cohortium pki issue patient/alice --dir second --out second/alice")
    shell(place, "cohortium pki verify second/alice/alice.crt --ca ca/ca.crt")
    with pytest.raises(AssertionError, match=r"was revoked on .* \(cACompromise\)"):
        shell(place, "cohortium pki verify alice/alice.crt --ca ca/ca.crt --crl ca/ca.crl --crl root/ca.crl")


def test_the_numbers_of_the_page_are_those_of_the_profile() -> None:
    assert f"| {ROOT_DAYS // 365} years | {ISSUING_DAYS // 365} years | {LEAF_DAYS} days, {MAX_LEAF_DAYS} at most |" in TEXT
    assert BACKDATE == 5 * 60
    assert f"Roles are {', '.join(f'`{role}`' for role in list(Role)[:-1])} and `{list(Role)[-1]}`." in TEXT


def test_the_messages_that_the_page_explains_are_those_of_the_code() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in [*(ROOT / "pki").glob("*.py"), *(ROOT / "mpc").glob("*.py")])
    explained = re.findall(r"^\| `([^`]+)` \|", TEXT[TEXT.index("## When things go wrong") :], re.MULTILINE)
    assert len(explained) == 10
    for message in explained:
        for part in re.split(r" \.\.\.|N\b|register\.jsonl|\bcheck", message):
            assert part.strip(" ;,") in source, message
