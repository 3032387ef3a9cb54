"""The authority's directory: made once, never overwritten by accident, and every certificate in its register."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes

from mpc.errors import IdentityError
from mpc.identity import Identity, Role
from pki.authority import Authority
from pki.files import read_certificates
from pki.trust import TrustStore
from tests.pki.forge import DAY, NOW, forge_authority, p256

ALICE = Identity("demo", Role.PATIENT, "alice")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca", "demo", NOW)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_authority_is_private_and_comes_back_from_disk(authority: Authority) -> None:
    assert mode(authority.directory) == 0o700
    assert mode(authority.directory / "ca.key") == 0o600
    assert Authority.load(authority.directory).certificate == authority.certificate
    assert Authority.load(authority.directory).consortium == "demo"


def test_an_authority_is_replaced_only_by_force(authority: Authority) -> None:
    before = (authority.directory / "ca.key").read_bytes()
    with pytest.raises(IdentityError, match=r"ca\.crt exists already and is not overwritten"):
        Authority.create(authority.directory, "demo", NOW)
    assert (authority.directory / "ca.key").read_bytes() == before
    assert Authority.create(authority.directory, "demo", NOW, force=True).certificate != authority.certificate


def test_a_lone_key_is_not_overwritten_either(tmp_path: Path) -> None:
    (tmp_path / "ca.key").write_text("precious")
    with pytest.raises(IdentityError, match=r"ca\.key exists already"):
        Authority.create(tmp_path, "demo", NOW)
    assert [entry.name for entry in tmp_path.iterdir()] == ["ca.key"]


def test_an_issued_certificate_is_trusted_and_registered(authority: Authority) -> None:
    key = p256()
    certificate = authority.issue(ALICE, key.public_key(), ["alice.example"], ["127.0.0.1"], NOW, 7)
    files = authority.issue_node(Identity("demo", Role.RELAY, "post"), (), (), NOW, out=authority.directory / "out")
    chain = read_certificates(files.certificate)
    trust = TrustStore.load(authority.directory / "ca.crt")
    assert trust.verify(chain, NOW).identity.uri == "spiffe://demo/relay/post"
    first, second = map(json.loads, (authority.directory / "issued.jsonl").read_text().splitlines())
    assert first == {
        "serial": f"{certificate.serial_number:x}",
        "identity": "spiffe://demo/patient/alice",
        "not_after": NOW + 7 * DAY,
        "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
    }
    assert second["identity"] == "spiffe://demo/relay/post"


def test_node_files_are_never_half_replaced(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue_node(ALICE, (), (), NOW, out=tmp_path / "out")
    assert (files.key, files.certificate) == (tmp_path / "out" / "alice.key", tmp_path / "out" / "alice.crt")
    assert mode(files.key) == 0o600
    files.key.unlink()
    with pytest.raises(IdentityError, match=r"alice\.crt exists already"):
        authority.issue_node(ALICE, (), (), NOW, out=tmp_path / "out")
    assert not files.key.exists()
    assert len((authority.directory / "issued.jsonl").read_text().splitlines()) == 1
    authority.issue_node(ALICE, (), (), NOW, out=tmp_path / "out", force=True)
    assert files.key.exists()


def test_nothing_is_handed_out_when_the_register_cannot_be_written(authority: Authority, tmp_path: Path) -> None:
    (authority.directory / "issued.jsonl").mkdir()
    with pytest.raises(IdentityError, match=r"cannot write .*issued\.jsonl"):
        authority.issue_node(ALICE, (), (), NOW, out=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_another_consortium_is_refused(authority: Authority) -> None:
    with pytest.raises(IdentityError, match="is not in demo"):
        authority.issue(Identity("other", Role.PATIENT, "alice"), p256().public_key(), (), (), NOW)


@pytest.mark.parametrize("now", [NOW - 301, NOW + 3650 * DAY, float("nan")])
def test_an_authority_that_is_not_valid_issues_nothing(authority: Authority, now: float) -> None:
    with pytest.raises(IdentityError, match="not now; check the clock"):
        authority.issue(ALICE, p256().public_key(), (), (), now)


def test_a_directory_without_an_authority_is_said(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=r"holds no authority \(ca\.crt is missing\); make one with"):
        Authority.load(tmp_path)


def test_a_missing_swapped_or_readable_authority_key_is_refused(authority: Authority, tmp_path: Path) -> None:
    key = authority.directory / "ca.key"
    other = Authority.create(tmp_path / "other", "demo", NOW)
    key.write_bytes((other.directory / "ca.key").read_bytes())
    with pytest.raises(IdentityError, match=r"ca\.key is not the key of .*ca\.crt"):
        Authority.load(authority.directory)
    key.chmod(0o640)
    with pytest.raises(IdentityError, match="chmod 600"):
        Authority.load(authority.directory)
    key.unlink()
    with pytest.raises(IdentityError, match=r"ca\.key does not exist"):
        Authority.load(authority.directory)


def test_a_root_that_names_no_consortium_cannot_issue(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(forge_authority().pem)
    with pytest.raises(IdentityError, match="with one URI name spiffe://CONSORTIUM"):
        Authority.load(tmp_path)


def test_its_repr_has_no_key(authority: Authority) -> None:
    assert "consortium='demo'" in repr(authority)
    assert "PrivateKey" not in repr(authority)
    assert "_key=" not in repr(authority)
