"""Verified certificates are remembered; nothing else is, and nothing for longer than it is valid."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mpc import credentials
from mpc.credentials import Credentials
from mpc.errors import IdentityError, RevokedError
from mpc.identity import Credential
from tests.mpc.nodes import HOSPITAL, NOW, credential, keyring, patient, revoking, trust

DAY = 86_400
ALICE = patient("alice")


class CountingTrust:
    """The real trust, and how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def verify(self, chain: tuple[bytes, ...], now: float) -> Credential:
        self.asked += 1
        return trust().verify(chain, now)


def test_a_verified_certificate_is_found_by_its_digest() -> None:
    known = Credentials(trust())
    assert known.find(credential(ALICE).digest, NOW) is None

    assert known.learn(keyring(ALICE).chain, NOW) == credential(ALICE)
    assert known.find(credential(ALICE).digest, NOW) == credential(ALICE)
    assert known.find(credential(HOSPITAL).digest, NOW) is None


@pytest.mark.parametrize("chain", [(), (b"",), (b"no certificate",)])
def test_what_is_not_trusted_is_not_remembered(chain: tuple[bytes, ...]) -> None:
    known = Credentials(trust())
    with pytest.raises(IdentityError):
        known.learn(chain, NOW)


def test_a_stranger_is_refused() -> None:
    known = Credentials(trust())
    stranger = keyring(ALICE, issuer="elsewhere")
    with pytest.raises(IdentityError):
        known.learn(stranger.chain, NOW)
    assert known.find(stranger.certificate_digest, NOW) is None


def test_a_certificate_that_has_expired_since_is_refused() -> None:
    known = Credentials(trust())
    known.learn(keyring(ALICE).chain, NOW)

    assert known.find(credential(ALICE).digest, NOW + 29 * DAY) == credential(ALICE)
    with pytest.raises(IdentityError, match="has expired"):
        known.find(credential(ALICE).digest, NOW + 31 * DAY)
    with pytest.raises(IdentityError, match="has expired"):
        known.learn(keyring(ALICE).chain, NOW + 31 * DAY)


def authorities() -> frozenset[bytes]:
    return frozenset({credential(ALICE).authority})


def test_who_is_revoked_later_is_refused_from_then_on() -> None:
    known = Credentials(trust())
    alice = known.learn(keyring(ALICE).chain, NOW)
    bob = known.learn(keyring(patient("bob")).chain, NOW)
    assert not known.revoked(alice, NOW)
    known.replace_trust(revoking(ALICE), authorities())

    with pytest.raises(RevokedError, match=r"of spiffe://demo/patient/alice was revoked on .* \(keyCompromise\)") as caught:
        known.find(alice.digest, NOW)
    assert caught.value.node == ALICE.uri
    with pytest.raises(RevokedError):
        known.learn(keyring(ALICE).chain, NOW)
    assert known.find(bob.digest, NOW) == bob
    assert (known.revoked(alice, NOW), known.revoked(bob, NOW)) == (True, False)


def test_who_has_expired_or_is_a_stranger_is_not_called_revoked() -> None:
    known = Credentials(revoking(patient("bob")))
    alice = known.learn(keyring(ALICE).chain, NOW)
    assert not known.revoked(alice, NOW + 31 * DAY)
    assert not known.revoked(credential(HOSPITAL), NOW)


def test_in_the_past_nobody_is_revoked_and_afterwards_all_are_again() -> None:
    now_revoked = revoking(ALICE)
    known = Credentials(now_revoked, now_revoked.without_lists())
    with known.in_the_past():
        alice = known.learn(keyring(ALICE).chain, NOW)
        assert known.find(alice.digest, NOW) == alice
        assert not known.revoked(alice, NOW)
    assert known.revoked(alice, NOW)
    with pytest.raises(ZeroDivisionError), known.in_the_past():
        1 / 0  # noqa: B018  (it raises)
    with pytest.raises(RevokedError):
        known.find(alice.digest, NOW)


def test_a_known_leaf_does_not_excuse_the_rest_of_its_chain() -> None:
    """Who does not know the leaf yet would refuse this chain, so who knows it must refuse it too: rosters carry chains on."""
    known = Credentials(trust())
    known.learn(keyring(ALICE).chain, NOW)

    with pytest.raises(IdentityError):
        known.learn((*keyring(ALICE).chain, b"no certificate"), NOW)


def test_the_least_recently_used_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "_CAPACITY", 2)
    known = Credentials(trust())
    first, second, third = patient("alice"), patient("bob"), patient("charlie")
    known.learn(keyring(first).chain, NOW)
    known.learn(keyring(second).chain, NOW)
    known.find(credential(first).digest, NOW)
    known.learn(keyring(third).chain, NOW)

    found = [known.find(credential(identity).digest, NOW) is not None for identity in (first, second, third)]
    assert found == [True, False, True]


def test_a_credential_does_not_compare_by_key_object() -> None:
    assert replace(credential(ALICE), public_key=credential(HOSPITAL).public_key) == credential(ALICE)
