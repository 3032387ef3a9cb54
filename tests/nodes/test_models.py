"""Whose models are trusted by an authority's word, and what the library's errors are to a person."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fhe.bundle import Bundle
from fhe.errors import BundleError, InputError, Refused, SignerError, Unavailable, UnsupportedModel, Why, WorkerFailed
from fhe.signature import Signer, make_signer
from mpc.errors import CohortiumError
from mpc.identity import Identity, Role
from nodes.models import as_user_errors, trust_authorities
from pki.authority import Authority
from pki.files import read_certificates, read_private_key
from pki.trust import TrustStore
from tests.fhe.house import SIGN, TRUST, make_up

WHOLE = Bundle.open(make_up(), TRUST)


def owner(authority: Authority, role: Role, out: Path) -> Signer:
    """One whose key and certificate the authority has made."""
    files = authority.issue_node(Identity("demo", role, "owner"), (), (), time.time(), out=out)
    return make_signer(read_private_key(files.key), read_certificates(files.certificate))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca", "demo", time.time())


@pytest.fixture
def store(authority: Authority, tmp_path: Path) -> TrustStore:
    assert authority is not None
    return TrustStore.load(tmp_path / "ca" / "ca.crt")


def test_a_model_owner_with_a_certificate_is_trusted(authority: Authority, store: TrustStore, tmp_path: Path) -> None:
    data = WHOLE.signed_again(owner(authority, Role.MODEL, tmp_path))
    assert Bundle.open(data, trust_authorities(store)).hash == WHOLE.hash


def test_only_a_model_may_offer_models(authority: Authority, store: TrustStore, tmp_path: Path) -> None:
    data = WHOLE.signed_again(owner(authority, Role.PATIENT, tmp_path))
    with pytest.raises(SignerError, match=r"spiffe://demo/patient/owner signed"):
        Bundle.open(data, trust_authorities(store))


def test_another_authoritys_word_counts_for_nothing(store: TrustStore, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", "demo", time.time())
    data = WHOLE.signed_again(owner(other, Role.MODEL, tmp_path))
    with pytest.raises(SignerError, match="not known"):
        Bundle.open(data, trust_authorities(store))


def test_a_certificate_beside_another_key_counts_for_nothing(authority: Authority, store: TrustStore, tmp_path: Path) -> None:
    borrowed = owner(authority, Role.MODEL, tmp_path)(b"").certificates
    from tests.fhe.house import KEY

    data = WHOLE.signed_again(make_signer(KEY, borrowed))
    with pytest.raises(SignerError, match="not signed with the key"):
        Bundle.open(data, trust_authorities(store))


def test_a_signature_without_a_certificate_is_not_enough(store: TrustStore) -> None:
    with pytest.raises(SignerError, match="not known"):
        Bundle.open(WHOLE.signed_again(SIGN), trust_authorities(store))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SignerError("x"), 77),
        (WorkerFailed("x"), 75),
        (InputError("x"), 78),
        (BundleError("x"), 78),
        (UnsupportedModel("x"), 78),
        (Unavailable("x"), 78),
        (Refused(Why.MISMATCH, "x"), 78),
    ],
)
def test_each_error_has_an_exit_status(error: Exception, status: int) -> None:
    with pytest.raises(CohortiumError, match="x") as caught, as_user_errors():
        raise error
    assert caught.value.exit_status == status
