"""Every wrong certificate that openssl can be made to sign is refused, with a message that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from mpc.errors import IdentityError
from mpc.identity import Identity, Role
from pki.node import load_node_key
from pki.trust import TrustStore
from tests.pki.forge import ALICE, NOW, OpensslAuthority, forge, needs_openssl, openssl

pytestmark = needs_openssl

PROFILE = (
    "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=clientAuth\nsubjectAltName=URI:{}\n"
)
GOOD = PROFILE.format(ALICE)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("openssl")


@pytest.fixture(scope="module")
def root(directory: Path) -> OpensslAuthority:
    return OpensslAuthority.create(directory, "root")


@pytest.fixture(scope="module")
def trust(root: OpensslAuthority) -> TrustStore:
    return TrustStore([root.der("root")])


def refusal(trust: TrustStore, *chain: bytes) -> str:
    with pytest.raises(IdentityError) as caught:
        trust.verify(chain, NOW)
    assert caught.value.exit_status == 77
    return str(caught.value)


def test_a_good_one_is_believed(root: OpensslAuthority, trust: TrustStore) -> None:
    assert trust.verify((root.sign("good", GOOD),), NOW).identity.uri == ALICE
    strict = ("verify", "-x509_strict", "-attime", str(NOW), "-CAfile", "root.crt")
    assert openssl(root.directory, *strict, "good.crt") == "good.crt: OK\n"


def test_expired(root: OpensslAuthority, trust: TrustStore) -> None:
    said = refusal(trust, root.sign("expired", GOOD, days=(-9, -2)))
    assert said.endswith("alice has expired on 2027-01-13T08:00:00Z; issue a new one with 'cohortium pki issue'")


def test_not_yet_valid(root: OpensslAuthority, trust: TrustStore) -> None:
    said = refusal(trust, root.sign("early", GOOD, days=(2, 9)))
    assert said.endswith("alice is not valid before 2027-01-17T08:00:00Z; check the clocks of both machines")


@pytest.mark.parametrize("uri", ["spiffe://demo/hospital/alice", "spiffe://demo/patient/bob", "spiffe://other/patient/alice"])
def test_wrong_role_name_or_consortium(root: OpensslAuthority, trust: TrustStore, uri: str) -> None:
    root.sign("wrong", PROFILE.format(uri))
    with pytest.raises(IdentityError) as caught:
        load_node_key(
            root.directory / "wrong.key",
            root.directory / "wrong.crt",
            trust,
            NOW,
            Identity("demo", Role.PATIENT, "alice"),
        )
    said = f"wrong.crt: it is for {uri}, but this node is configured as {ALICE}; have one issued for this node"
    assert str(caught.value).endswith(said)


def test_an_unknown_role(root: OpensslAuthority, trust: TrustStore) -> None:
    said = refusal(trust, root.sign("surgeon", PROFILE.format("spiffe://demo/surgeon/alice")))
    assert said.endswith("names no known role; roles are hospital, patient, relay, model")


@pytest.mark.parametrize("second", [ALICE, "spiffe://demo/hospital/general"])
def test_two_uri_names(root: OpensslAuthority, trust: TrustStore, second: str) -> None:
    said = refusal(trust, root.sign("twice", GOOD.rstrip() + f",URI:{second}\n"))
    assert "has 2 URI names; exactly one must say who it is" in said
    assert said.endswith("; issue a new one")


def test_two_extensions_of_names(trust: TrustStore) -> None:
    # No tool signs that, so an extension is renamed afterwards. It spoils the signature, too, but that is looked at later.
    raw = bytes([0x86, len(ALICE)]) + ALICE.encode()
    own = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.99"), bytes([0x30, len(raw)]) + raw)
    der = forge(extra=[(own, False)]).der.replace(bytes.fromhex("0603551d63"), bytes.fromhex("0603551d11"))
    assert refusal(trust, der) == "a certificate is damaged or of a form that is not supported; issue a new one"


def test_self_signed(root: OpensslAuthority, trust: TrustStore) -> None:
    (root.directory / "self.cnf").write_text((root.directory / "root.cnf").read_text().replace("root.", "self."))
    der = OpensslAuthority(root.directory, "self").sign("self", GOOD, selfsign=True)
    assert refusal(trust, der).endswith("is self-signed and not a trusted authority; have the authority issue one")


def test_another_authority(root: OpensslAuthority, trust: TrustStore) -> None:
    other = OpensslAuthority.create(root.directory, "other")
    said = refusal(trust, other.sign("foreign", GOOD))
    assert said.endswith("is not trusted here, 'CN=other'; trusted: 'CN=root'; have one of these issue it")


@pytest.mark.parametrize("key", ["1024", "2048", "P-192", "secp256k1", "P-384"])
def test_a_weak_or_other_key(root: OpensslAuthority, trust: TrustStore, key: str) -> None:
    said = refusal(trust, root.sign("weak", GOOD, key=key))
    assert said.endswith("does not hold a P-256 key; identity keys are P-256, so issue a new one")


@pytest.mark.parametrize("key", ["1024", "P-192"])
def test_an_authority_with_a_weak_key(root: OpensslAuthority, trust: TrustStore, key: str) -> None:
    weak = OpensslAuthority.create(root.directory, "weak-authority", root, key)
    said = refusal(trust, weak.sign("below-weak", GOOD), weak.der("weak-authority"))
    assert said.endswith("does not hold a P-256 or P-384 key; make a new authority") or "is not signed with ECDSA" in said


@pytest.mark.parametrize("digest", ["sha1", "sha224", "sha512"])
def test_another_digest(root: OpensslAuthority, trust: TrustStore, digest: str) -> None:
    said = refusal(trust, root.sign("digest", GOOD, digest=digest))
    assert said.endswith("is not signed with ECDSA and SHA-256 or SHA-384; issue a new one")


def test_a_chain_that_is_too_long(root: OpensslAuthority, trust: TrustStore) -> None:
    authorities = [root]
    for number in range(3):
        authorities.append(OpensslAuthority.create(root.directory, f"level{number}", authorities[-1]))
    third, second, first = (authority.der(authority.name) for authority in reversed(authorities[1:]))
    assert trust.verify((authorities[2].sign("deep", GOOD), second, first), NOW).identity.uri == ALICE
    said = refusal(trust, authorities[3].sign("deeper", GOOD), third, second, first)
    assert "the certificate chain is too long; at most 3 certificates" in said
    assert said.endswith("use an authority at most two steps below the root")
