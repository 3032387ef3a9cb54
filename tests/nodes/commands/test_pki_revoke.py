"""`cohortium pki revoke`, `crl`, `list`, `show --dir` and `verify --crl`: what the register knows, and who hears of it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from mpc.errors import IdentityError, UsageError
from mpc.identity import Identity, Role
from nodes.commands.pki.revoke import _REASONS
from pki.authority import Authority
from pki.office import REASONS
from tests.nodes.commands.pki_cli import refusal, result, run
from tests.pki.forge import needs_openssl, openssl


def serial(file: Path) -> str:
    return str(json.loads(run("show", file, "--json"))[0]["serial"])


def listed(ca: Path, *options: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(run("list", "--dir", ca, "--json", *options))["certificates"]
    return found


@pytest.fixture
def nodes(ca: Path, tmp_path: Path) -> Path:
    """Where alice's and bob's files are."""
    run("issue", "patient/alice", "patient/bob", "--dir", ca, "--out", tmp_path)
    return tmp_path


def test_a_revoked_certificate_does_not_verify_with_the_list(ca: Path, nodes: Path) -> None:
    said = run("revoke", "patient/alice", "--reason", "keycompromise", "--dir", ca)
    assert said.splitlines() == [
        f"revoked {serial(nodes / 'alice.crt')} of spiffe://demo/patient/alice",
        "nodes hear of it by the next list: cohortium pki crl",
    ]
    assert run("crl", "--dir", ca, "--days", "3").startswith("list number 1, 1 revoked, until 20")
    verify = ("--ca", ca / "ca.crt", "--crl", ca / "ca.crl")
    said = refusal(IdentityError, "verify", nodes / "alice.crt", *verify)
    assert "alice.crt: the certificate of spiffe://demo/patient/alice was revoked on 20" in said
    assert "(keyCompromise)" in said
    assert "is trusted until" in run("verify", nodes / "bob.crt", *verify)
    assert "is trusted until" in run("verify", nodes / "alice.crt", "--ca", ca / "ca.crt")


@needs_openssl
def test_openssl_obeys_the_list(ca: Path, nodes: Path) -> None:
    run("revoke", "patient/alice", "--dir", ca)
    run("crl", "--dir", ca, "--out", nodes / "list.pem")
    check = ("verify", "-x509_strict", "-crl_check", "-CAfile", str(ca / "ca.crt"), "-CRLfile", "list.pem")
    assert openssl(nodes, *check, "bob.crt") == "bob.crt: OK\n"
    with pytest.raises(AssertionError, match="certificate revoked"):
        openssl(nodes, *check, "alice.crt")


def test_a_serial_number_is_taken_as_other_tools_print_it(ca: Path, nodes: Path) -> None:
    number = serial(nodes / "bob.crt").upper().rjust(40, "0")
    colons = ":".join(number[at : at + 2] for at in range(0, 40, 2))
    assert "bob" in run("revoke", colons, "--reason", "superseded", "--dir", ca)
    assert "was revoked already" in refusal(IdentityError, "revoke", number, "--dir", ca)
    assert "is neither a serial number" in refusal(UsageError, "revoke", "bob", "--dir", ca)
    assert "no certificate with serial number abc" in refusal(IdentityError, "revoke", "abc", "--dir", ca)
    assert "surgeon/bob" in refusal(UsageError, "revoke", "surgeon/bob", "--dir", ca)


def test_the_reasons_are_those_of_the_library() -> None:
    assert set(_REASONS) == set(REASONS)


def test_the_next_list_replaces_the_last_and_counts_on(ca: Path, nodes: Path) -> None:
    run("crl", "--dir", ca)
    first = (ca / "ca.crl").read_bytes()
    run("revoke", "patient/bob", "--dir", ca)
    assert run("crl", "--dir", ca).startswith("list number 2, 1 revoked")
    [described] = json.loads(run("show", ca / "ca.crl", "--json"))
    assert (described["number"], described["revoked"][0]["serial"]) == (2, serial(nodes / "bob.crt"))
    assert "number              2\n" in run("show", ca / "ca.crl")
    (nodes / "old.crl").write_bytes(first)
    verify = ("verify", nodes / "alice.crt", "--ca", ca / "ca.crt", "--crl", ca / "ca.crl", "--crl", nodes / "old.crl")
    assert "number 1 is not newer than number 2" in refusal(IdentityError, *verify)
    assert "1 to 397 days" in refusal(UsageError, "crl", "--dir", ca, "--days", "0")


def test_a_list_that_says_nothing_of_the_certificate_is_not_enough(nodes: Path, tmp_path: Path) -> None:
    run("init", "--dir", tmp_path / "issuing", "--root-dir", tmp_path / "root", "--consortium", "demo")
    run("issue", "patient/carol", "--dir", tmp_path / "issuing", "--out", tmp_path)
    run("crl", "--dir", tmp_path / "root")
    verify = ("verify", tmp_path / "carol.crt", "--ca", tmp_path / "issuing" / "ca.crt", "--crl", tmp_path / "root" / "ca.crl")
    assert "no list that is given is of the authority that issued it" in refusal(IdentityError, *verify)
    run("crl", "--dir", tmp_path / "issuing")
    assert "is trusted" in run(*verify, "--crl", tmp_path / "issuing" / "ca.crl")
    assert "not signed by an authority that is trusted" in refusal(
        IdentityError, "verify", nodes / "alice.crt", "--ca", tmp_path / "ca" / "ca.crt", "--crl", tmp_path / "root" / "ca.crl"
    )


def test_the_register_is_listed_with_the_state_of_each(tmp_path: Path) -> None:
    ca = tmp_path / "ca"
    now = time.time()
    authority = Authority.create(ca, "demo", now - 90 * 86_400)
    for name, then in (("alice", now - 60 * 86_400), ("bob", now), ("carol", now)):
        authority.issue_node(Identity("demo", Role.PATIENT, name), (), (), then, out=tmp_path)
    run("revoke", "patient/carol", "--reason", "superseded", "--dir", ca)
    run("token", "patient/dora", "--address", "https://h:1", "--service", "hospital/general", "--dir", ca)
    assert [(entry["identity"][-5:], entry["state"]) for entry in listed(ca)] == [("t/bob", "valid"), ("carol", "revoked")]
    assert [entry["state"] for entry in listed(ca, "--all")] == ["expired", "valid", "revoked"]
    lines = run("list", "--dir", ca).splitlines()
    assert lines[0].split() == [listed(ca)[0]["serial"], listed(ca)[0]["not_after"], "valid", "spiffe://demo/patient/bob"]
    assert lines[1].endswith(" superseded")
    assert (lines[2].split()[0], lines[2].split()[-2:]) == ("token", ["open", "spiffe://demo/patient/dora"])


@pytest.mark.usefixtures("nodes")
def test_a_torn_line_is_told_and_the_rest_is_listed(ca: Path) -> None:
    with (ca / "register.jsonl").open("ab") as file:
        file.write(b'{"kind":"issued","at":18')
    done = result("list", "--dir", ca, "--json")
    assert "register.jsonl, line 3, was cut off by a crash; nothing was handed out for it" in done.stderr
    assert len(json.loads(done.stdout)["certificates"]) == 2
    run("revoke", "patient/alice", "--dir", ca)
    assert [entry["state"] for entry in listed(ca)] == ["revoked", "valid"]


def test_a_certificate_is_shown_from_the_register(ca: Path, nodes: Path) -> None:
    [from_file] = json.loads(run("show", nodes / "alice.crt", "--json"))
    (nodes / "alice.crt").unlink()
    for what in ("patient/alice", from_file["serial"]):
        [found] = json.loads(run("show", what, "--dir", ca, "--json"))
        assert found == {**from_file, "file": str(ca / "register.jsonl")}
    assert "nothing was issued to patient/carol" in refusal(IdentityError, "show", "patient/carol", "--dir", ca)
