"""The certificate profile as code: exactly what an authority's, a node's certificate and a revocation list of ours look like.

RFC 5280 with the X509-SVID rules of SPIFFE on top: one URI name says who the holder is, and a critical key usage keeps
authorities and nodes apart. Everything passes `openssl verify -x509_strict`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mpc.errors import IdentityError
from mpc.identity import Identity, Role
from pki.certificate import SPIFFE, Certificate

LEAF_DAYS = 30
MAX_LEAF_DAYS = 397
ROOT_DAYS = 3650
ISSUING_DAYS = 1825
LIST_DAYS = 7
MAX_LIST_DAYS = 397
BACKDATE = 300
"""Seconds by which validity starts early, for clocks that run behind."""

_DAY = 86_400
# RFC 1034 section 3.5, and the underscore that container networks use.
_DNS = re.compile(r"(?!.*\.\d+$)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")


@dataclass(frozen=True, slots=True)
class ListenerNames:
    """Where a node can be reached: the DNS names and addresses that go into its certificate, in order, each once."""

    dns: tuple[str, ...] = ()
    ips: tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...] = ()

    @classmethod
    def parse(cls, dns: Iterable[str], ips: Iterable[str]) -> ListenerNames:
        """Names as a person types them. Raises IdentityError for one that is not a host name or an address."""
        return cls(tuple(dict.fromkeys(map(_dns_name, dns))), tuple(dict.fromkeys(map(_ip_address, ips))))

    def __bool__(self) -> bool:
        return bool(self.dns or self.ips)


def root_certificate(consortium: str, key: ec.EllipticCurvePrivateKey, now: float) -> x509.Certificate:
    """A self-signed authority for one consortium, valid for ROOT_DAYS, that allows one level of issuing authorities.

    Its URI name `spiffe://CONSORTIUM` (X509-SVID section 3.2) limits it to that consortium. `now` is Unix seconds.
    Raises IdentityError when `consortium` is not a possible name.
    """
    try:
        Identity(consortium, Role.HOSPITAL, "any")
    except IdentityError as error:
        raise IdentityError(
            f"{consortium!r} cannot name a consortium: use lower-case letters, digits, '.', '-' and '_', "
            f"at most 63 of them, a letter or digit first and last"
        ) from error
    name = _name(consortium, "authority")
    builder = _builder(int(now) - BACKDATE, int(now) + ROOT_DAYS * _DAY).subject_name(name).issuer_name(name)
    key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    return _authority(builder, consortium, key.public_key(), key_id, path_length=1).sign(key, hashes.SHA256())


def issuing_certificate(
    consortium: str,
    public_key: ec.EllipticCurvePublicKey,
    root: x509.Certificate,
    root_key: ec.EllipticCurvePrivateKey,
    now: float,
) -> x509.Certificate:
    """An authority below `root` that issues to nodes only, valid for ISSUING_DAYS or until `root` ends.

    Its name ends in the start of its key's digest, so that the next one below the same root is not mistaken for it.
    """
    digest = x509.SubjectKeyIdentifier.from_public_key(public_key).digest.hex()
    builder = _builder(*_life(now, ISSUING_DAYS, root)).issuer_name(root.subject)
    builder = builder.subject_name(_name(consortium, f"issuing authority {digest[:8]}"))
    return _authority(builder, consortium, public_key, _key_id(root), path_length=0).sign(root_key, hashes.SHA256())


def leaf_certificate(
    identity: Identity,
    public_key: ec.EllipticCurvePublicKey,
    names: ListenerNames,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    now: float,
    days: int = LEAF_DAYS,
) -> x509.Certificate:
    """A node's certificate, signed by `issuer`; never valid outside the validity of `issuer`.

    `now` is Unix seconds; `days` is 1 to MAX_LEAF_DAYS. Raises IdentityError for other days or a key that is not P-256.
    """
    check_days(days)
    if not isinstance(public_key.curve, ec.SECP256R1):
        raise IdentityError(f"the key of {identity} is not P-256; identity keys are P-256")
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if identity.role is not Role.PATIENT or names:
        uses.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
    alternative_names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri)]
    alternative_names += map(x509.DNSName, names.dns)
    alternative_names += map(x509.IPAddress, names.ips)
    return (
        _builder(*_life(now, days, issuer))
        .subject_name(_name(identity.consortium, identity.name, identity.role))
        .issuer_name(issuer.subject)
        .public_key(public_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternative_names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(_key_id(issuer), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def check_days(days: int) -> None:
    """Raises IdentityError unless a node's certificate can be valid for so many days."""
    if not 1 <= days <= MAX_LEAF_DAYS:
        raise IdentityError(f"a certificate cannot be valid for {days} days; use 1 to {MAX_LEAF_DAYS}")


def revocation_list(
    revoked: Iterable[tuple[int, int, x509.ReasonFlags]],
    number: int,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    this_update: int,
    next_update: int,
) -> x509.CertificateRevocationList:
    """A full list (RFC 5280 section 5) of `revoked`: serial number, Unix seconds and reason of each. Times are Unix seconds."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(datetime.fromtimestamp(this_update, UTC))
        .next_update(datetime.fromtimestamp(next_update, UTC))
        .add_extension(_key_id(issuer), critical=False)
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    for serial, at, reason in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(datetime.fromtimestamp(at, UTC))
        if reason is not x509.ReasonFlags.unspecified:  # RFC 5280 section 5.3.1: absent rather than unspecified
            entry = entry.add_extension(x509.CRLReason(reason), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(issuer_key, hashes.SHA256())


def renewal_time(certificate: Certificate) -> int:
    """Unix seconds from which a certificate should be renewed: two thirds of its life are over."""
    return certificate.not_before + (certificate.not_after - certificate.not_before) * 2 // 3


def _authority(
    builder: x509.CertificateBuilder,
    consortium: str,
    public_key: ec.EllipticCurvePublicKey,
    issuer_key_id: x509.AuthorityKeyIdentifier,
    *,
    path_length: int,
) -> x509.CertificateBuilder:
    uri = x509.UniformResourceIdentifier(SPIFFE + consortium)
    return (
        builder.public_key(public_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(issuer_key_id, critical=False)
    )


def _builder(not_before: int, not_after: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())  # 159 random bits: positive, and at most 20 octets
        .not_valid_before(datetime.fromtimestamp(not_before, UTC))
        .not_valid_after(datetime.fromtimestamp(not_after, UTC))
    )


def _life(now: float, days: int, issuer: x509.Certificate) -> tuple[int, int]:
    """First and last second of what `issuer` signs now for so many days: within its own."""
    first, last = issuer.not_valid_before_utc, issuer.not_valid_after_utc
    return max(int(now) - BACKDATE, int(first.timestamp())), min(int(now) + days * _DAY, int(last.timestamp()))


def _key_id(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    subject_key = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_key)


def _name(organization: str, common: str, unit: str = "") -> x509.Name:
    """A distinguished name for people who look at a certificate with other tools; nothing of ours reads it."""
    attributes: Sequence[tuple[x509.ObjectIdentifier, str]] = (
        (NameOID.ORGANIZATION_NAME, organization),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
        (NameOID.COMMON_NAME, common),
    )
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes if value])


def _key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _dns_name(text: str) -> str:
    name = text.lower()
    if len(name) > 253 or _DNS.fullmatch(name) is None:
        raise IdentityError(f"{text!r} is not a host name (letters, digits, '-' and dots; an address goes into --ip)")
    return name


def _ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise IdentityError(f"{text!r} is not an IP address (a host name goes into --dns)") from error
    if "%" in text:
        raise IdentityError(f"{text!r} holds an interface, which means nothing on other machines; leave out '%...'")
    return address
