"""Makes any certificate, however wrong, and hierarchies by the openssl program, for the tests of pki."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = 1_800_000_000
DAY = 86_400
ALICE = "spiffe://demo/patient/alice"

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
LEAF_USAGE = ("digital_signature",)
AUTHORITY_USAGE = ("key_cert_sign", "crl_sign")

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl program is not installed")


@dataclass(frozen=True)
class Forged:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


def p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def forge(
    issuer: Forged | None = None,
    *,
    key: Key | None = None,
    subject: str = "leaf",
    uris: Sequence[str] = (ALICE,),
    ca: bool | None = False,
    path_length: int | None = None,
    constraints_critical: bool = True,
    usage: Sequence[str] | None = LEAF_USAGE,
    usage_critical: bool = True,
    extended: Sequence[x509.ObjectIdentifier] | None = (ExtendedKeyUsageOID.CLIENT_AUTH,),
    not_before: int = NOW - DAY,
    not_after: int = NOW + DAY,
    algorithm: hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None = None,
    extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
    serial: int | None = None,
) -> Forged:
    """A certificate signed by `issuer`, or by itself. The defaults are a good patient's."""
    key = key or p256()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    builder = (
        x509.CertificateBuilder()
        .serial_number(serial or x509.random_serial_number())
        .subject_name(name)
        .issuer_name(issuer.certificate.subject if issuer else name)
        .public_key(key.public_key())
        .not_valid_before(datetime.fromtimestamp(not_before, UTC))
        .not_valid_after(datetime.fromtimestamp(not_after, UTC))
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, path_length), critical=constraints_critical)
    if usage is not None:
        builder = builder.add_extension(_usage(usage), critical=usage_critical)
    if extended is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
    if uris:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        builder = builder.add_extension(names, critical=False)
    for extension, critical in extra:
        builder = builder.add_extension(extension, critical=critical)
    certificate = builder.sign(issuer.key if issuer else key, algorithm or hashes.SHA256())
    return Forged(certificate, key)


def forge_authority(
    issuer: Forged | None = None,
    *,
    key: Key | None = None,
    subject: str = "root",
    uris: Sequence[str] = (),
    ca: bool | None = True,
    path_length: int | None = None,
    constraints_critical: bool = True,
    usage: Sequence[str] | None = AUTHORITY_USAGE,
    extended: Sequence[x509.ObjectIdentifier] | None = None,
    not_after: int = NOW + DAY,
    extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> Forged:
    """As `forge`; the defaults are a good authority's."""
    return forge(
        issuer,
        key=key,
        subject=subject,
        uris=uris,
        ca=ca,
        path_length=path_length,
        constraints_critical=constraints_critical,
        usage=usage,
        extended=extended,
        not_after=not_after,
        extra=extra,
    )


def forge_list(
    issuer: Forged,
    revoked: Sequence[tuple[int, x509.ReasonFlags | None]] = (),
    *,
    key: Key | None = None,
    number: int | None = 1,
    this_update: int = NOW - DAY,
    next_update: int = NOW + DAY,
    algorithm: hashes.SHA256 | hashes.SHA512 | None = None,
    extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
    entry_extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> bytes:
    """A revocation list in DER, by `issuer` or in its name by `key`; each certificate was revoked an hour before NOW."""
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.certificate.subject)
    builder = builder.last_update(datetime.fromtimestamp(this_update, UTC))
    builder = builder.next_update(datetime.fromtimestamp(next_update, UTC))
    numbered: list[tuple[x509.ExtensionType, bool]] = [] if number is None else [(x509.CRLNumber(number), False)]
    for extension, critical in [*numbered, *extra]:
        builder = builder.add_extension(extension, critical)
    for serial, reason in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(datetime.fromtimestamp(NOW - 3600, UTC))
        reasons: list[tuple[x509.ExtensionType, bool]] = [] if reason is None else [(x509.CRLReason(reason), False)]
        for extension, critical in [*reasons, *entry_extra]:
            entry = entry.add_extension(extension, critical)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(key or issuer.key, algorithm or hashes.SHA256()).public_bytes(Encoding.DER)


def openssl(directory: Path, *arguments: str) -> str:
    """Standard output of the openssl program, run in `directory`; its own complaint when it fails."""
    done = subprocess.run(["openssl", *arguments], cwd=directory, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def openssl_hierarchy(directory: Path, *, digest: str = "-sha256") -> None:
    """root.crt, issuing.crt and alice.crt with their keys, made by openssl alone, valid from today on for a while."""
    extensions = {
        "root": "basicConstraints=critical,CA:TRUE,pathlen:1\nkeyUsage=critical,keyCertSign,cRLSign\n",
        "issuing": "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n",
        "alice": "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
        f"extendedKeyUsage=clientAuth\nsubjectAltName=URI:{ALICE},DNS:alice.example\n",
    }
    identifiers = "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    signer: list[str] = []
    for name, text in extensions.items():
        (directory / f"{name}.ext").write_text(text + identifiers)
        openssl(directory, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", f"{name}.key")
        openssl(directory, "req", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}", "-out", f"{name}.csr")
        openssl(
            directory,
            *("x509", "-req", "-in", f"{name}.csr", "-extfile", f"{name}.ext", "-days", "2", "-out", f"{name}.crt"),
            *(signer or ["-signkey", "root.key"]),
            digest if name == "alice" else "-sha256",
        )
        signer = ["-CA", f"{name}.crt", "-CAkey", f"{name}.key", "-CAcreateserial"]


def _usage(names: Sequence[str]) -> x509.KeyUsage:
    every = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: name in names for name in every})


@dataclass(frozen=True)
class OpensslAuthority:
    """An authority that is the openssl program, in a directory of its own. Everything it signs is valid a day round NOW."""

    directory: Path
    name: str

    @classmethod
    def create(cls, directory: Path, name: str, issuer: OpensslAuthority | None = None, key: str = "P-256") -> OpensslAuthority:
        """NAME.key and NAME.crt, self-signed without `issuer`."""
        (directory / "index").touch()
        made = cls(directory, name)
        (directory / f"{name}.cnf").write_text(
            "[ca]\ndefault_ca=here\n[here]\ndatabase=index\nnew_certs_dir=.\nrand_serial=yes\nunique_subject=no\n"
            f"policy=policy\ncertificate={name}.crt\nprivate_key={name}.key\n[policy]\ncommonName=supplied\n"
        )
        extensions = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n"
        (issuer or made).sign(name, extensions, key=key, selfsign=issuer is None)
        return made

    def sign(
        self,
        name: str,
        extensions: str,
        *,
        key: str = "P-256",
        digest: str = "sha256",
        days: tuple[int, int] = (-1, 1),
        selfsign: bool = False,
    ) -> bytes:
        """NAME.key (of a curve, or RSA with so many bits) and NAME.crt, whose DER is returned; `days` is counted from NOW."""
        kind = ["RSA", "-pkeyopt", f"rsa_keygen_bits:{key}"] if key.isdigit() else ["EC", "-pkeyopt", f"ec_paramgen_curve:{key}"]
        (self.directory / f"{name}.ext").write_text(f"{extensions}subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")
        openssl(self.directory, "genpkey", "-algorithm", *kind, "-out", f"{name}.key")
        openssl(self.directory, "req", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}", "-out", f"{name}.csr")
        first, last = (datetime.fromtimestamp(NOW + day * DAY, UTC).strftime("%Y%m%d%H%M%SZ") for day in days)
        openssl(
            self.directory,
            *("ca", "-batch", "-notext", "-config", f"{self.name}.cnf", "-md", digest, "-startdate", first, "-enddate", last),
            *("-extfile", f"{name}.ext", "-in", f"{name}.csr", "-out", f"{name}.crt", *(["-selfsign"] if selfsign else [])),
        )
        return self.der(name)

    def der(self, name: str) -> bytes:
        """What NAME.crt holds."""
        return x509.load_pem_x509_certificate((self.directory / f"{name}.crt").read_bytes()).public_bytes(Encoding.DER)
