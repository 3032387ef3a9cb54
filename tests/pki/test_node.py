"""A node starts only with a key, a certificate and a name that belong together."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpc.errors import IdentityError
from mpc.identity import Identity, Role
from pki.authority import Authority, NodeFiles
from pki.files import write_private_key
from pki.node import load_node_key
from pki.trust import TrustStore
from tests.pki.forge import DAY, NOW, p256

ALICE = Identity("demo", Role.PATIENT, "alice")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca", "demo", NOW)


@pytest.fixture
def trust(authority: Authority) -> TrustStore:
    return TrustStore.load(authority.directory / "ca.crt")


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> NodeFiles:
    return authority.issue_node(ALICE, (), (), NOW, out=tmp_path)


def test_what_was_issued_is_loaded(files: NodeFiles, trust: TrustStore) -> None:
    node = load_node_key(files.key, files.certificate, trust, NOW, ALICE)
    assert node.identity == ALICE
    assert node.chain == (files.facts.der,)
    assert node.private_key.public_key() == node.credential.public_key
    assert node.credential.digest == files.facts.digest


def test_its_repr_shows_the_name_and_no_key(files: NodeFiles, trust: TrustStore) -> None:
    node = load_node_key(files.key, files.certificate, trust, NOW, ALICE)
    assert "name='alice'" in repr(node)
    assert "Key" not in repr(node).removeprefix("NodeKey")


def refusal(files: NodeFiles, trust: TrustStore, now: float = NOW, expected: Identity = ALICE) -> IdentityError:
    with pytest.raises(IdentityError) as caught:
        load_node_key(files.key, files.certificate, trust, now, expected)
    assert caught.value.exit_status == 77
    return caught.value


def test_a_key_of_another_certificate_is_refused(files: NodeFiles, trust: TrustStore) -> None:
    write_private_key(files.key, p256(), force=True)
    said = f"{files.certificate}: it is not the certificate of the key in {files.key}"
    assert str(refusal(files, trust)).startswith(said)


def test_another_name_or_role_than_configured_is_refused(files: NodeFiles, trust: TrustStore) -> None:
    for other in (Identity("demo", Role.PATIENT, "bob"), Identity("demo", Role.HOSPITAL, "alice")):
        said = f"it is for spiffe://demo/patient/alice, but this node is configured as {other}"
        assert said in str(refusal(files, trust, expected=other))


def test_an_expired_or_early_certificate_is_refused(files: NodeFiles, trust: TrustStore) -> None:
    assert "has expired on" in str(refusal(files, trust, now=NOW + 31 * DAY))
    assert "is not valid before" in str(refusal(files, trust, now=NOW - 301))


def test_another_authority_is_refused_even_under_the_same_name(files: NodeFiles, tmp_path: Path) -> None:
    Authority.create(tmp_path / "other", "demo", NOW)
    other = TrustStore.load(tmp_path / "other" / "ca.crt")
    assert "comes from an authority that is not trusted here" in str(refusal(files, other))


def test_a_readable_or_missing_key_and_a_missing_certificate_are_refused(files: NodeFiles, trust: TrustStore) -> None:
    files.key.chmod(0o644)
    assert f"run: chmod 600 {files.key}" in str(refusal(files, trust))
    files.key.chmod(0o600)
    files.certificate.unlink()
    assert f"{files.certificate} does not exist" in str(refusal(files, trust))
    files.key.unlink()
    assert f"{files.key} does not exist" in str(refusal(files, trust))
