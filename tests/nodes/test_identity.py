"""The pair that a daemon uses: the configured files or the one that it got itself, whichever holds and is the newer one."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from mpc.errors import IdentityError
from mpc.identity import Identity, Role
from nodes.identity import Kept, load_identity
from nodes.store.sealing import SealingKey
from pki.authority import Authority
from pki.files import read_private_key, write_private_key
from pki.node import NodeKey, check_node_key
from pki.trust import TrustStore
from tests.mpc.nodes import CONSORTIUM
from tests.pki.forge import DAY, NOW, p256

ALICE = Identity(CONSORTIUM, Role.PATIENT, "alice")
BOB = Identity(CONSORTIUM, Role.PATIENT, "bob")


@dataclass
class Desk:
    """An authority, alice's configured files, and where she keeps what she got herself."""

    directory: Path
    authority: Authority
    key: SealingKey

    @property
    def trust(self) -> TrustStore:
        return TrustStore([self.authority.root.der])

    @property
    def kept(self) -> Kept:
        return Kept(self.directory, lambda: self.key)

    def configure(self, at: float) -> None:
        """An administrator puts new files in place."""
        self.authority.issue_node(ALICE, (), (), at, out=self.directory, force=True)

    def renewed(self, at: float, who: Identity = ALICE) -> NodeKey:
        """What a renewal at that time gives."""
        key = ec.generate_private_key(ec.SECP256R1())
        chain = tuple(one.public_bytes(Encoding.DER) for one in self.authority.issue(who, key.public_key(), (), (), at))
        return check_node_key(key, chain, self.trust, at, who)

    def load(self, now: float, kept: Kept | None = None) -> tuple[NodeKey, str]:
        files = self.directory / "alice.key", self.directory / "alice.crt"
        found = load_identity(*files, kept or self.kept, self.trust, now, ALICE)
        return found.node, found.passed_over


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    made = Desk(tmp_path, Authority.create(tmp_path / "ca", CONSORTIUM, NOW), SealingKey(os.urandom(32)))
    made.configure(NOW)
    return made


def test_without_a_kept_pair_the_files_are_used(desk: Desk) -> None:
    node, note = desk.load(NOW)
    assert node.private_key.private_numbers() == read_private_key(desk.directory / "alice.key").private_numbers()
    assert note == ""


def test_a_kept_pair_is_used_from_then_on_and_the_files_may_expire(desk: Desk) -> None:
    fresh = desk.renewed(NOW + 20 * DAY)
    desk.kept.write(fresh)
    node, note = desk.load(NOW + 20 * DAY)
    assert (node.chain, note) == (fresh.chain, "")
    assert node.private_key.private_numbers() == fresh.private_key.private_numbers()
    node, note = desk.load(NOW + 35 * DAY)
    assert (node.chain, note) == (fresh.chain, ""), "that is how it should be"


def test_files_that_an_administrator_got_wrong_are_spoken_of(desk: Desk) -> None:
    desk.kept.write(desk.renewed(NOW + DAY))
    write_private_key(desk.directory / "alice.key", p256(), force=True)
    _, note = desk.load(NOW + DAY)
    assert "alice.crt: it is not the certificate of the key in" in note


def test_the_pairs_before_are_kept_for_rounds_of_their_time_while_they_hold(desk: Desk) -> None:
    second, third = desk.renewed(NOW + 20 * DAY), desk.renewed(NOW + 40 * DAY)
    desk.kept.write(third, (second, desk.renewed(NOW)))
    files = desk.directory / "alice.key", desk.directory / "alice.crt"
    found = load_identity(*files, desk.kept, desk.trust, NOW + 40 * DAY, ALICE)
    assert (found.node.chain, [one.chain for one in found.former]) == (third.chain, [second.chain])
    assert found.former[0].private_key.private_numbers() == second.private_key.private_numbers()


def test_newer_files_of_an_administrator_win(desk: Desk) -> None:
    desk.kept.write(desk.renewed(NOW + DAY))
    desk.configure(NOW + 2 * DAY)
    node, note = desk.load(NOW + 2 * DAY)
    assert node.private_key.private_numbers() == read_private_key(desk.directory / "alice.key").private_numbers()
    assert note == ""


def test_on_the_disk_it_is_sealed_and_for_the_owner_alone(desk: Desk) -> None:
    desk.kept.write(desk.renewed(NOW))
    content = desk.kept.path.read_bytes()
    assert desk.kept.path.name == "identity.sealed"
    assert b"PRIVATE KEY" not in content
    assert stat.S_IMODE(desk.kept.path.stat().st_mode) == 0o600
    with pytest.raises(IdentityError, match="does not open"):
        Kept(desk.directory, lambda: SealingKey(os.urandom(32))).load(desk.trust, NOW, ALICE)


def test_a_node_without_a_storage_key_keeps_it_as_openssl_would(desk: Desk) -> None:
    kept = Kept(desk.directory)
    fresh = desk.renewed(NOW + DAY)
    kept.write(fresh)
    assert kept.path.name == "identity.pem"
    assert stat.S_IMODE(kept.path.stat().st_mode) == 0o600
    assert desk.load(NOW + DAY, kept)[0].chain == fresh.chain
    kept.path.chmod(0o644)
    _, note = desk.load(NOW + DAY, kept)
    assert "identity.pem holds a secret and others can use it" in note


@pytest.mark.parametrize("harm", ["cut", "altered", "empty"])
def test_a_damaged_kept_pair_is_passed_over_with_a_word(desk: Desk, harm: str) -> None:
    desk.kept.write(desk.renewed(NOW + DAY))
    content = desk.kept.path.read_bytes()
    desk.kept.path.write_bytes({"cut": content[:40], "altered": content[:-1] + b"\0", "empty": b""}[harm])
    node, note = desk.load(NOW + DAY)
    assert node.private_key.private_numbers() == read_private_key(desk.directory / "alice.key").private_numbers()
    assert "identity.sealed: what the store holds as 'identity key and certificate' does not open" in note


def test_a_plain_kept_pair_that_is_damaged_quotes_no_key(desk: Desk) -> None:
    kept = Kept(desk.directory)
    kept.write(desk.renewed(NOW))
    kept.path.write_bytes(kept.path.read_bytes()[:150])
    _, note = desk.load(NOW, kept)
    assert "identity.pem: it is damaged; delete it, and the configured key and certificate are used" in note


def test_another_nodes_pair_is_never_used(desk: Desk) -> None:
    desk.kept.write(desk.renewed(NOW + DAY, BOB))
    node, note = desk.load(NOW + DAY)
    assert node.identity == ALICE
    assert "it is for spiffe://demo/patient/bob, but this node is configured as spiffe://demo/patient/alice" in note


def test_another_authoritys_pair_is_never_used(desk: Desk, tmp_path: Path) -> None:
    other = Desk(tmp_path, Authority.create(tmp_path / "other", CONSORTIUM, NOW), desk.key)
    desk.kept.write(other.renewed(NOW + DAY))
    node, note = desk.load(NOW + DAY)
    assert node.credential.authority == desk.authority.root.digest
    assert "comes from an authority that is not trusted here" in note


def test_when_neither_can_be_used_both_are_spoken_of(desk: Desk) -> None:
    desk.kept.write(desk.renewed(NOW + DAY))
    with pytest.raises(IdentityError) as caught:
        desk.load(NOW + 90 * DAY)
    assert caught.value.exit_status == 77
    assert "alice.crt: the certificate of" in str(caught.value)
    assert "nor can the one be used that this node got itself: " in str(caught.value)
    desk.kept.path.unlink()
    with pytest.raises(IdentityError) as caught:
        desk.load(NOW + 90 * DAY)
    assert "nor" not in str(caught.value)


def test_a_disk_that_is_full_leaves_the_pair_before(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    first = desk.renewed(NOW + DAY)
    desk.kept.write(first)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr("pki.files.os.fsync", full)
        with pytest.raises(IdentityError, match="No space left on device"):
            desk.kept.write(desk.renewed(NOW + 2 * DAY))
    assert desk.load(NOW + 2 * DAY)[0].chain == first.chain
    assert [path.name for path in desk.directory.glob(".identity*")] == []
