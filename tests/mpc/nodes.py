"""Keys, certificates, studies and round machines for tests of `mpc`: real RSA, real certificates, made once a test run."""

from __future__ import annotations

import os
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from mpc.credentials import Credentials
from mpc.disclosure import Bounds, Policy
from mpc.identity import Credential, Identity, Role
from mpc.keys import Keyring, publish
from mpc.rounds.hospital import HospitalRound
from mpc.rounds.patient import PatientRound
from mpc.secret import Entropy
from mpc.study import UNRESTRICTED, Statistic, Study, Variable
from pki.profile import ListenerNames, leaf_certificate, revocation_list, root_certificate
from pki.revocation import RevocationList
from pki.trust import TrustStore

NOW = 1_700_000_000.0
CONSORTIUM = "demo"
HOSPITAL = Identity(CONSORTIUM, Role.HOSPITAL, "st-marys")
ROUND = bytes(range(16))
BOUND = 1_000_000


def patient(name: str) -> Identity:
    return Identity(CONSORTIUM, Role.PATIENT, name)


@cache
def authority(name: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    return key, root_certificate(name, key, NOW)


@cache
def trust() -> TrustStore:
    return TrustStore([authority(CONSORTIUM)[1].public_bytes(Encoding.DER)])


def revoking(*identities: Identity, number: int = 1) -> TrustStore:
    """`trust()`, told of a list that names these nodes' certificates."""
    key, root = authority(CONSORTIUM)
    serials = [x509.load_der_x509_certificate(keyring(identity).chain[0]).serial_number for identity in identities]
    entries = [(serial, int(NOW), x509.ReasonFlags.key_compromise) for serial in serials]
    signed = revocation_list(entries, number, root, key, int(NOW) - 300, int(NOW) + 86_400)
    return trust().with_list(RevocationList.parse(signed.public_bytes(Encoding.DER)), NOW)


def certificate(identity: Identity, key: ec.EllipticCurvePublicKey, issuer: str = CONSORTIUM, days: int = 30) -> bytes:
    issuer_key, root = authority(issuer)
    names = ListenerNames.parse((), ("127.0.0.1",))
    return leaf_certificate(identity, key, names, root, issuer_key, NOW, days).public_bytes(Encoding.DER)


@cache
def keyring(identity: Identity, issuer: str = CONSORTIUM) -> Keyring:
    """The node's keys. RSA of 2048 bits, the least that is allowed: tests make many."""
    key = ec.generate_private_key(ec.SECP256R1())
    encryption = publish(identity, key, rsa.generate_private_key(65537, 2048), NOW)
    return Keyring(identity, key, (certificate(identity, key.public_key(), issuer),), encryption)


@cache
def credential(identity: Identity) -> Credential:
    return trust().verify(keyring(identity).chain, NOW)


def study(*names: str, length: int = 1, bound: int = BOUND, minimum: int = 0, publish_to: str = "hospital") -> Study:
    """A sum over one variable, `value`, of these patients. `minimum` 0: all of them."""
    return Study(
        id="pressure",
        title="Mean systolic pressure",
        purpose="test",
        variables=(Variable.number("value", "mmHg", 0, bound, length),),
        statistics=(Statistic.of("sum", "value"),),
        members=tuple(sorted(patient(name).uri for name in names)),
        minimum=minimum or len(names),
        range=None,
        assume_in_range=False,
        publish=publish_to,
        answer_within=20,
        ready_within=40,
        deadline=60,
        records=1,
        legal_basis="",
        release=UNRESTRICTED,
    )


def policy(bound: int = BOUND, **changes: object) -> Policy:
    """Answers HOSPITAL about `value`, and trusts the test authority to certify none but real members."""
    defaults: dict[str, object] = {
        "hospital": HOSPITAL,
        "sources": {"value": Bounds(0, bound)},
        "vouched_authorities": frozenset({credential(HOSPITAL).authority}),
    }
    return Policy(**(defaults | changes))  # type: ignore[arg-type]


class OpenLedger:
    """Remembers nothing, so that nothing is refused for what went before."""

    def open_rounds(self) -> int:
        return 0

    def invitations_since(self, time: float) -> int:
        return 0


def hospital_round(asked: Study, round_id: bytes = ROUND, entropy: Entropy = os.urandom) -> HospitalRound:
    return HospitalRound(
        round_id, keyring(HOSPITAL), entropy, credentials=Credentials(trust()), me=credential(HOSPITAL), study=asked
    )


def patient_round(name: str, rules: Policy | None = None, round_id: bytes = ROUND, entropy: Entropy = os.urandom) -> PatientRound:
    return PatientRound(
        round_id,
        keyring(patient(name)),
        entropy,
        credentials=Credentials(trust()),
        policy=rules or policy(),
        ledger=OpenLedger(),
        endpoint=f"https://{name}.example:8443",
    )
