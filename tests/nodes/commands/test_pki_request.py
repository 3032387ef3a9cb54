"""`cohortium pki request`, `sign`, `renew` and `needs-renewal`: a key that never leaves its node."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from mpc.errors import IdentityError, UsageError
from mpc.identity import Identity, Role
from pki.authority import Authority
from tests.nodes.commands.pki_cli import refusal, result, run
from tests.pki.forge import forge, forge_authority

_DAY = 86_400


def shown(file: Path) -> dict[str, object]:
    first: dict[str, object] = json.loads(run("show", file, "--json"))[0]
    return first


def test_a_request_is_signed_in_the_name_and_with_the_names_that_the_authority_says(ca: Path, tmp_path: Path) -> None:
    made = run("request", "patient/alice", "--out", tmp_path / "node")
    sign = ("sign", tmp_path / "node" / "alice.csr", "--as", "relay/post", "--dir", ca, "--out", tmp_path / "out")
    said = run(*sign, "--dns", "post.example", "--ip", "::1", "--days", "7")
    [key] = [line for line in said.splitlines() if "  key sha256:" in line]
    assert f"{key}  the authority must see the same" in made.splitlines()
    assert run("verify", tmp_path / "out" / "post.crt", "--ca", ca / "ca.crt", "--role", "relay")
    facts = shown(tmp_path / "out" / "post.crt")
    assert (facts["identity"], facts["dns"], facts["ips"]) == ("spiffe://demo/relay/post", ["post.example"], ["::1"])
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == ["post.crt"]


def test_nothing_is_signed_that_could_not_be_handed_out(ca: Path, tmp_path: Path) -> None:
    run("request", "patient/alice", "--out", tmp_path)
    (tmp_path / "alice.crt").write_text("old")
    sign = ("sign", tmp_path / "alice.csr", "--as", "patient/alice", "--dir", ca, "--out", tmp_path)
    assert "alice.crt exists already" in refusal(IdentityError, *sign)
    assert json.loads(run("list", "--dir", ca, "--json"))["certificates"] == []
    run(*sign, "--force")
    assert "alice.key exists already" in refusal(IdentityError, "request", "patient/alice", "--out", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--as", "alice"], "'alice' is not ROLE/NAME"),
        (["--as", "patient/alice", "--dns", "10.0.0.1"], "an address goes into --ip"),
        (["--as", "patient/alice", "--days", "398"], "1 to 397 days"),
    ],
)
def test_a_mistyped_sign_is_a_usage_error(ca: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    run("request", "patient/alice", "--out", tmp_path)
    assert said in refusal(UsageError, "sign", tmp_path / "alice.csr", *arguments, "--dir", ca, "--out", tmp_path)
    assert "is not ROLE/NAME" in refusal(UsageError, "request", "alice")


def test_what_is_no_request_is_named(ca: Path, tmp_path: Path) -> None:
    sign = ("sign", ca / "ca.crt", "--as", "patient/alice", "--dir", ca, "--out", tmp_path)
    assert "ca.crt: the certificate request is damaged or cut off; make it on the node" in refusal(IdentityError, *sign)
    assert "does not exist" in refusal(IdentityError, "renew", tmp_path / "no.csr", "--as", "patient/alice", "--dir", ca)


def test_a_renewal_has_the_names_and_days_of_before_and_a_new_key(ca: Path, tmp_path: Path) -> None:
    run("issue", "patient/alice", "--dns", "alice.example", "--days", "9", "--dir", ca, "--out", tmp_path)
    before = shown(tmp_path / "alice.crt")
    run("request", "patient/alice", "--out", tmp_path / "new")
    renew = ("renew", tmp_path / "new" / "alice.csr", "--as", "patient/alice", "--dir", ca, "--out", tmp_path / "new")
    assert run(*renew).startswith("spiffe://demo/patient/alice until 20")
    after = shown(tmp_path / "new" / "alice.crt")
    assert [after[field] for field in ("identity", "dns", "ips")] == [before[field] for field in ("identity", "dns", "ips")]
    assert after["serial"] != before["serial"]
    left = Authority.load(ca).register.read().newest("spiffe://demo/patient/alice")
    assert left is not None
    assert left.days == 9
    refused = ("renew", tmp_path / "new" / "alice.csr", "--as", "patient/bob", "--dir", ca, "--out", tmp_path / "new")
    assert "bob has no certificate that could be renewed" in refusal(IdentityError, *refused)


def certificate(tmp_path: Path, age: float, days: int = 30) -> Path:
    """Alice's, issued so many seconds ago for so many days."""
    then = time.time() - age
    authority = Authority.create(tmp_path / "ca", "demo", then)
    return authority.issue_node(Identity("demo", Role.PATIENT, "alice"), (), (), then, days, out=tmp_path).certificate


@pytest.mark.parametrize(
    ("age", "status", "said"),
    [
        (0, 1, "not before 20"),
        (19.9 * _DAY, 1, "not before 20"),
        (20.1 * _DAY, 0, "renew it before 20"),
        (31 * _DAY, 0, "has expired on 20"),
    ],
    ids=["new", "just-before", "just-after", "expired"],
)
def test_a_certificate_needs_renewal_when_two_thirds_of_its_life_are_over(
    tmp_path: Path, age: float, status: int, said: str
) -> None:
    file = certificate(tmp_path, age)
    done = result("needs-renewal", file)
    assert (done.exit_code, done.stdout.startswith(f"{file}: {said}")) == (status, True)


def test_an_authority_needs_renewal_too(ca: Path) -> None:
    assert result("needs-renewal", ca / "ca.crt").exit_code == 1


def test_what_cannot_be_used_has_its_own_exit_status(tmp_path: Path) -> None:
    early = certificate(tmp_path, -_DAY)
    cut, strange = tmp_path / "cut.crt", tmp_path / "strange.crt"
    cut.write_bytes(early.read_bytes()[:100])
    strange.write_bytes(forge(forge_authority(), uris=()).pem)
    for file, said in (
        (early, "is not valid before"),
        (cut, "is cut off"),
        (strange, "has no URI names"),
        (tmp_path / "no.crt", "does not exist"),
    ):
        done = result("needs-renewal", file)
        assert (done.exit_code, done.stdout) == (2, "")
        assert said in done.stderr
