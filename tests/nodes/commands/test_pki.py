"""`cohortium pki` as a person uses it: what is printed, what is written, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from mpc.errors import IdentityError, UsageError
from mpc.identity import Identity, Role
from nodes.commands.pki import pki
from pki.authority import Authority
from tests.nodes.commands.pki_cli import refusal, run

ROOT = Path(__file__).resolve().parents[3]


def test_an_authority_issues_a_certificate_that_verifies(ca: Path, tmp_path: Path) -> None:
    names = ("--dns", "general.example", "--dns", "general", "--ip", "127.0.0.1")
    said = run("issue", "hospital/general", *names, "--days", "7", "--dir", ca, "--out", tmp_path)
    assert said.startswith("spiffe://demo/hospital/general until 20")
    certificate = tmp_path / "general.crt"
    said = run("verify", certificate, "--ca", ca / "ca.crt", "--role", "hospital")
    assert said.startswith(f"{certificate}: spiffe://demo/hospital/general is trusted until 20")
    (shown,) = json.loads(run("show", certificate, "--json"))
    assert (shown["dns"], shown["ips"]) == (["general.example", "general"], ["127.0.0.1"])
    verified = json.loads(run("verify", certificate, "--ca", ca / "ca.crt", "--json"))
    assert verified["valid"] is True
    assert (verified["identity"], verified["role"]) == ("spiffe://demo/hospital/general", "hospital")
    assert verified["fingerprint"] == shown["fingerprint"]
    (root,) = json.loads(run("show", ca / "ca.crt", "--json"))
    assert verified["authority"] == root["fingerprint"]


def test_defaults_are_the_directory_ca_and_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "ca.key" in run("init", "--consortium", "demo")
    run("issue", "patient/alice")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["alice.crt", "alice.key", "ca"]


def test_the_directory_is_given_once(tmp_path: Path) -> None:
    run("init", "--dir", tmp_path / "a", "--consortium", "demo")
    assert (tmp_path / "a" / "ca.crt").exists()
    assert "given twice" in refusal(UsageError, "init", tmp_path / "b", "--dir", tmp_path / "c", "--consortium", "demo")


def test_nothing_is_overwritten_without_force(ca: Path, tmp_path: Path) -> None:
    alice = ("issue", "patient/alice", "--dir", ca, "--out", tmp_path)
    run(*alice)
    key = (tmp_path / "alice.key").read_bytes()
    assert "alice.key exists already" in refusal(IdentityError, *alice)
    assert "ca.crt exists already" in refusal(IdentityError, "init", ca, "--consortium", "demo")
    assert (tmp_path / "alice.key").read_bytes() == key
    run(*alice, "--force")
    assert (tmp_path / "alice.key").read_bytes() != key
    run("init", ca, "--consortium", "demo", "--force")
    assert "not trusted here" in refusal(IdentityError, "verify", tmp_path / "alice.crt", "--ca", ca / "ca.crt")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["alice"], "'alice' is not ROLE/NAME"),
        (["surgeon/alice"], "roles are hospital, patient, relay, model"),
        (["patient/"], "is not ROLE/NAME"),
        (["patient/Alice"], "use lower-case letters"),
        (["patient/a/b"], "is not a name"),
        (["patient/alice", "--days", "0"], "1 to 397 days"),
        (["patient/alice", "--days", "400"], "1 to 397 days"),
        (["patient/alice", "--dns", "10.0.0.1"], "an address goes into --ip"),
        (["patient/alice", "--ip", "localhost"], "a host name goes into --dns"),
    ],
)
def test_a_mistyped_issue_is_a_usage_error_and_writes_nothing(ca: Path, arguments: list[str], said: str) -> None:
    out = ca.parent / "out"
    assert said in refusal(UsageError, "issue", *arguments, "--dir", ca, "--out", out)
    assert not out.exists()


def test_no_command_prints_a_key(ca: Path, tmp_path: Path) -> None:
    printed = run("issue", "patient/alice", "--dir", ca, "--out", tmp_path)
    printed += run("show", tmp_path / "alice.crt", ca / "ca.crt")
    printed += run("verify", tmp_path / "alice.crt", "--ca", ca / "ca.crt")
    printed += refusal(IdentityError, "show", tmp_path / "alice.key")
    for key in (tmp_path / "alice.key", ca / "ca.key"):
        for line in key.read_text().splitlines()[1:-1]:
            assert line not in printed


def test_an_expired_certificate_does_not_verify(tmp_path: Path) -> None:
    year_ago = time.time() - 365 * 86_400
    authority = Authority.create(tmp_path / "ca", "demo", year_ago)
    files = authority.issue_node(Identity("demo", Role.PATIENT, "alice"), (), (), year_ago, out=tmp_path)
    said = refusal(IdentityError, "verify", files.certificate, "--ca", tmp_path / "ca" / "ca.crt")
    assert said.startswith(f"{files.certificate}: the certificate of spiffe://demo/patient/alice has expired on 20")


def test_a_wrong_role_does_not_verify_and_json_says_why(ca: Path, tmp_path: Path) -> None:
    run("issue", "patient/alice", "--dir", ca, "--out", tmp_path)
    verify = ("verify", tmp_path / "alice.crt", "--ca", ca / "ca.crt")
    said = "it is for spiffe://demo/patient/alice, which is not a hospital"
    assert said in refusal(IdentityError, *verify, "--role", "hospital")
    result = CliRunner().invoke(pki, [*map(str, verify), "--role", "hospital", "--json"])
    assert isinstance(result.exception, IdentityError)
    assert json.loads(result.stdout) == {"valid": False, "detail": said}
    assert "roles are hospital, patient" in refusal(UsageError, *verify, "--role", "surgeon")


def test_missing_files_are_named(ca: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing.crt"
    assert f"{missing} does not exist" in refusal(IdentityError, "show", missing)
    assert f"{missing} does not exist" in refusal(IdentityError, "verify", ca / "ca.crt", "--ca", missing)
    assert "holds no authority" in refusal(IdentityError, "issue", "patient/alice", "--dir", tmp_path)


def test_the_command_loads_no_library_before_it_is_used() -> None:
    code = "import sys, nodes.commands.pki; print([name for name in ('cryptography', 'pki') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n"
