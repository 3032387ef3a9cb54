"""Certificates for the transport's tests, made with `cryptography` alone: good ones, and each kind of bad one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mpc.identity import Identity

_numbers = count()


@dataclass(frozen=True, slots=True)
class Pair:
    """A key and certificates for it that nobody has checked."""

    private_key: ec.EllipticCurvePrivateKey
    chain: tuple[bytes, ...]


def pair_of(key_file: Path, certificate_file: Path) -> Pair:
    """What two PEM files hold."""
    private_key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    assert isinstance(private_key, ec.EllipticCurvePrivateKey)
    chain = x509.load_pem_x509_certificates(certificate_file.read_bytes())
    return Pair(private_key, tuple(one.public_bytes(serialization.Encoding.DER) for one in chain))


@dataclass(frozen=True, slots=True)
class Files:
    """What one node has on disk."""

    key_file: Path
    certificate_file: Path
    roots: tuple[bytes, ...]
    """DER."""

    @property
    def pair(self) -> Pair:
        """What is in the files."""
        return pair_of(self.key_file, self.certificate_file)


class Authority:
    """A root that issues whatever a test asks for."""

    def __init__(self, directory: Path, name: str = "test authority") -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            _builder(self._name, self._name, self._key, self._key, days=(-1, 10))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(key_cert_sign=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file = directory / f"ca-{next(_numbers)}.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.roots = (certificate.public_bytes(serialization.Encoding.DER),)

    def issue(self, *uris: str | Identity, days: tuple[float, float] = (-1, 5), dns: tuple[str, ...] = ()) -> Files:
        """Files of a node whose certificate has these URI names and is valid in these days, counted from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.UniformResourceIdentifier(str(uri)) for uri in uris] + [x509.DNSName(name) for name in dns]
        certificate = (
            _builder(x509.Name([]), self._name, key, self._key, days=days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(key_cert_sign=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        number = next(_numbers)
        files = Files(self._directory / f"{number}.key", self._directory / f"{number}.pem", self.roots)
        files.key_file.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        files.certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return files


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    days: tuple[float, float],
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )


def _key_usage(*, key_cert_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        encipher_only=False,
        decipher_only=False,
    )
