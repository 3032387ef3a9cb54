"""`cohortium pki token`: a secret on standard output, and a digest in the register."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from pathlib import Path

import pytest

from mpc.errors import IdentityError, UsageError
from pki.authority import Authority
from pki.request import make_request
from pki.token import Token
from tests.nodes.commands.pki_cli import refusal, result, run
from tests.pki.forge import p256

AT = ("--address", "https://h.example:7000", "--service", "hospital/general")


def test_a_token_carries_what_its_node_needs(ca: Path) -> None:
    done = result("token", "patient/alice", *AT, "--ttl", "2h", "--dns", "alice.example", "--days", "7", "--dir", ca)
    token = Token.parse(done.stdout)
    assert done.stdout.count("\n") == 1
    assert (token.identity.uri, token.service.uri) == ("spiffe://demo/patient/alice", "spiffe://demo/hospital/general")
    assert token.address == "https://h.example:7000"
    [root] = json.loads(run("show", ca / "ca.crt", "--json"))
    assert f"sha256:{token.root.hex()}" == root["fingerprint"]
    digest = hashlib.sha256(token.secret).hexdigest()
    said = f"token {digest[:16]} for spiffe://demo/patient/alice at spiffe://demo/hospital/general, once, until 20"
    assert done.stderr.startswith(said)
    key = p256()
    (certificate,) = Authority.load(ca).redeem(token.secret, token.identity, make_request(key, "alice"), time.time() + 7100)
    assert certificate.public_key() == key.public_key()


def test_the_secret_is_printed_once_and_kept_nowhere(ca: Path) -> None:
    done = result("token", "patient/alice", *AT, "--dir", ca)
    token = Token.parse(done.stdout)
    spellings = [
        token.secret.hex(),
        base64.b64encode(token.secret).decode()[:40],
        base64.urlsafe_b64encode(token.secret).decode()[:40],
    ]
    listed = run("list", "--dir", ca) + run("list", "--dir", ca, "--json")
    for text in (done.stderr, listed, (ca / "register.jsonl").read_text()):
        assert token.digest[:16] in text
        assert not [spelling for spelling in spellings if spelling in text]


def test_tokens_differ_and_last_ten_minutes(ca: Path) -> None:
    tokens = {run("token", "patient/alice", *AT, "--dir", ca) for _ in range(3)}
    assert len(tokens) == 3
    granted = Authority.load(ca).register.read().granted.values()
    assert [entry.expires - entry.at for entry in granted] == [600] * 3


@pytest.mark.parametrize("ttl", ["", "10", "m", "0m", "-1m", "1.5h", "8d", "10 m", "1w", "9999999d"])
def test_a_time_that_is_none_is_a_usage_error(ca: Path, ttl: str) -> None:
    said = refusal(UsageError, "token", "patient/alice", *AT, "--ttl", ttl, "--dir", ca)
    assert "write a number and s, m, h or d, at most 7d, as in 10m" in said


def test_what_does_not_fit_together_is_refused(ca: Path) -> None:
    token = ("token", "patient/alice", "--dir", ca)
    no_path = ("--address", "https://h.example:7000/enroll", "--service", "hospital/general")
    assert "write https://HOST:PORT and nothing more" in refusal(IdentityError, *token, *no_path)
    patient = ("--address", "https://h.example:7000", "--service", "patient/bob")
    assert "cannot enrol nodes" in refusal(IdentityError, *token, *patient)
    assert "is not ROLE/NAME" in refusal(UsageError, "token", "alice", *AT, "--dir", ca)
    assert "1 to 397 days" in refusal(UsageError, *token, *AT, "--days", "0")
    assert not (ca / "register.jsonl").exists()
