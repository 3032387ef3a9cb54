"""Lists as nodes hand them on: what is packed is taken, in any order, and nothing is believed because it came along."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from mpc.errors import IdentityError
from pki import lists
from pki.lists import Lists, pack, take, unpack
from pki.revocation import MAX_LIST_BYTES, RevocationList
from pki.trust import OldListError, TrustStore
from tests.pki.forge import DAY, NOW, Forged, forge, forge_authority, forge_list, needs_openssl, openssl, openssl_hierarchy

ROOT = forge_authority()
MIDDLE = forge_authority(ROOT, subject="middle", path_length=1)
LOW = forge_authority(MIDDLE, subject="low", path_length=0)
STRANGER = forge_authority(subject="stranger")
TRUST = TrustStore([ROOT.der])
LEAF, BELOW, DEEP = forge(ROOT), forge(MIDDLE), forge(LOW)


def signed(issuer: Forged, *revoked: Forged, number: int = 1, this_update: int = NOW - DAY) -> RevocationList:
    entries = [(one.certificate.serial_number, x509.ReasonFlags.key_compromise) for one in revoked]
    return RevocationList.parse(forge_list(issuer, entries, number=number, this_update=this_update))


def pem(*parts: RevocationList | Forged) -> bytes:
    return b"".join(part.pem if isinstance(part, Forged) else part.x509.public_bytes(Encoding.PEM) for part in parts)


def taken(data: bytes, trust: TrustStore = TRUST, *known: Forged) -> TrustStore:
    found, problems = take(trust, unpack(data), NOW, [one.der for one in known])
    assert problems == []
    return found


def problem(data: bytes, trust: TrustStore = TRUST) -> IdentityError:
    """Why the one list is not taken; the trust is as it was."""
    found, problems = take(trust, unpack(data), NOW)
    assert found is trust
    [error] = problems
    return error


def refusal(data: bytes) -> str:
    with pytest.raises(IdentityError) as caught:
        unpack(data)
    return str(caught.value)


@pytest.mark.parametrize("form", ["PEM", "DER"])
def test_a_roots_list_needs_nothing_beside_it(form: str) -> None:
    found = signed(ROOT, LEAF)
    trust = taken(found.der if form == "DER" else pem(found))
    with pytest.raises(IdentityError, match="was revoked"):
        trust.verify((LEAF.der,), NOW)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_an_issuing_authoritys_list_is_taken_with_the_certificates_above_it(order: tuple[int, ...]) -> None:
    parts = (signed(LOW, DEEP), LOW, MIDDLE)
    trust = taken(pem(*(parts[index] for index in order)))
    assert trust.lists[0].intermediates == (LOW.der, MIDDLE.der)
    with pytest.raises(IdentityError, match="was revoked"):
        trust.verify((DEEP.der, LOW.der, MIDDLE.der), NOW)


def test_the_certificates_that_the_node_shows_itself_will_do() -> None:
    trust = taken(pem(signed(MIDDLE, BELOW)), TRUST, MIDDLE)
    with pytest.raises(IdentityError, match="was revoked"):
        trust.verify((BELOW.der, MIDDLE.der), NOW)


def test_what_is_packed_is_taken_by_whoever_trusts_the_root_alone() -> None:
    trust = taken(pem(signed(ROOT, LEAF, number=3), signed(LOW, DEEP), LOW, MIDDLE, signed(MIDDLE), MIDDLE))
    again = taken(pack(trust.lists))
    assert again.lists == trust.lists
    assert pack(again.lists) == pack(trust.lists)
    assert taken(pack(trust.lists), trust) is trust, "all of it is known"


def test_an_older_list_is_told_apart_and_the_newer_one_stays() -> None:
    two = taken(pem(signed(ROOT, LEAF, number=2)))
    for number in (1, 2):
        error = problem(pem(signed(ROOT, number=number)), two)
        assert isinstance(error, OldListError)
        assert f"number {number} is not newer than number 2" in str(error)


def test_one_bad_list_keeps_no_good_one_out() -> None:
    two = taken(pem(signed(ROOT, LEAF, number=2)))
    found, problems = take(two, unpack(pem(signed(ROOT, number=1), signed(STRANGER), signed(MIDDLE, BELOW), MIDDLE)), NOW)
    assert [isinstance(one, OldListError) for one in problems] == [True, False]
    assert "stranger', number 1 is not signed by an authority that is trusted here" in str(problems[1])
    assert {listed.revocations.issuer for listed in found.lists} == {"CN=root", "CN=middle"}


def test_a_stranger_with_the_name_of_an_authority_is_not_believed() -> None:
    impostor = forge_authority(subject="root")
    assert "not signed by an authority that is trusted here" in str(problem(pem(signed(impostor, LEAF), impostor)))
    own_middle = forge_authority(impostor, subject="middle")
    assert "not signed by an authority that is trusted here" in str(problem(pem(signed(own_middle), own_middle, impostor)))


def test_a_list_of_the_future_speaks_of_the_clocks() -> None:
    assert "check the clocks" in str(problem(pem(signed(ROOT, this_update=NOW + 10))))


def test_what_is_no_list_is_refused() -> None:
    assert "there must be a revocation list" in refusal(LEAF.pem)
    assert "there must be a revocation list" in refusal(b"-----BEGIN nothing-----")
    assert "at most 16 lists and certificates" in refusal(pem(signed(ROOT), *[MIDDLE] * 16))
    assert "the revocation list is damaged" in refusal(b"")
    damaged = pem(signed(ROOT)).replace(b"M", b"?", 1)
    assert "the revocation list is damaged" in refusal(damaged)
    assert "a certificate is damaged" in refusal(pem(signed(ROOT)) + LEAF.pem.replace(b"M", b"*", 2))


def test_what_is_huge_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "more than 8388608 bytes" in refusal(bytes(lists.MAX_BYTES + 1))
    assert f"larger than {MAX_LIST_BYTES} bytes" in refusal(bytes(MAX_LIST_BYTES + 1))
    block = ssl.DER_cert_to_PEM_cert(bytes(MAX_LIST_BYTES + 1)).replace("CERTIFICATE", "X509 CRL")
    assert f"larger than {MAX_LIST_BYTES} bytes" in refusal(block.encode())


@given(st.binary(max_size=300), st.binary(max_size=50))
def test_any_bytes_are_lists_or_one_error(data: bytes, more: bytes) -> None:
    for one in (data, b"-----BEGIN X509 CRL-----" + data + b"-----END X509 CRL-----" + more):
        with contextlib.suppress(IdentityError):
            assert isinstance(unpack(one), Lists)


@needs_openssl
def test_lists_that_openssl_made_for_two_levels_are_taken(tmp_path: Path) -> None:
    openssl_hierarchy(tmp_path)
    data = b""
    for name, victim in (("root", None), ("issuing", "alice")):
        (tmp_path / f"{name}.index").write_text("")
        (tmp_path / f"{name}.number").write_text("01\n")
        (tmp_path / "ca.cnf").write_text(
            f"[ca]\ndefault_ca=here\n[here]\ndatabase={name}.index\ncrlnumber={name}.number\ndefault_md=sha256\n"
            "default_crl_days=2\ncrl_extensions=extensions\n[extensions]\nauthorityKeyIdentifier=keyid\n"
        )
        authority = ("ca", "-config", "ca.cnf", "-cert", f"{name}.crt", "-keyfile", f"{name}.key")
        if victim is not None:
            openssl(tmp_path, *authority, "-revoke", f"{victim}.crt", "-crl_reason", "superseded")
        openssl(tmp_path, *authority, "-gencrl", "-out", f"{name}.crl")
        data += (tmp_path / f"{name}.crl").read_bytes()
    data += (tmp_path / "issuing.crt").read_bytes()
    alice, issuing = (x509.load_pem_x509_certificate((tmp_path / f"{name}.crt").read_bytes()) for name in ("alice", "issuing"))
    now = alice.not_valid_before_utc.timestamp() + 60
    trust, problems = take(TrustStore.load(tmp_path / "root.crt"), unpack(data), now)
    assert problems == []
    assert len(trust.lists) == 2
    with pytest.raises(IdentityError, match=r"was revoked on .* \(superseded\)"):
        trust.verify((alice.public_bytes(Encoding.DER), issuing.public_bytes(Encoding.DER)), now)
