"""A certificate as plain facts: all of it is read here, once, so that odd bytes fail in one place and with one error.

Reading judges nothing: whether the facts make a good certificate is for `pki.trust` to say.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, SignatureAlgorithmOID

from mpc.errors import IdentityError

SPIFFE = "spiffe://"
ECDSA = frozenset({SignatureAlgorithmOID.ECDSA_WITH_SHA256, SignatureAlgorithmOID.ECDSA_WITH_SHA384})
"""The signatures that are accepted on certificates, requests and revocation lists."""

_UNDERSTOOD_WHEN_CRITICAL = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
}
_KEY_USAGES = {
    "digital_signature": "digitalSignature",
    "content_commitment": "nonRepudiation",
    "key_encipherment": "keyEncipherment",
    "data_encipherment": "dataEncipherment",
    "key_agreement": "keyAgreement",
    "key_cert_sign": "keyCertSign",
    "crl_sign": "cRLSign",
}
_EXTENDED_KEY_USAGES = {ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth", ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth"}
# Everything that `cryptography` documents for a certificate it cannot make sense of.
_UNREADABLE = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    x509.InvalidVersion,
    UserWarning,  # what RFC 5280 forbids and the parser only warns of, where warnings are errors
)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What one certificate says, unverified."""

    der: bytes = field(repr=False)
    x509: x509.Certificate = field(repr=False)
    digest: bytes
    """SHA-256 of the DER."""
    curve: str
    """Name of the key's elliptic curve ("secp256r1"), or "" for a key of another kind."""
    serial: int
    subject: str
    issuer: str
    """Distinguished names as RFC 4514 strings: for people, never compared."""
    not_before: int
    not_after: int
    """Unix seconds; first and last valid second (RFC 5280 section 4.1.2.5)."""
    authority: bool
    """basicConstraints says CA."""
    path_length: int | None
    """How many intermediates may stand below this authority; None is no limit."""
    constraints_critical: bool
    key_usage: frozenset[str] | None
    """RFC 5280 names ("digitalSignature"); None when the extension is absent."""
    key_usage_critical: bool
    extended_key_usage: frozenset[str] | None
    """"clientAuth", "serverAuth", or a dotted identifier; None when the extension is absent."""
    uris: tuple[str, ...]
    dns: tuple[str, ...]
    ips: tuple[str, ...]
    """Subject alternative names, in the certificate's order."""
    unhandled: tuple[str, ...]
    """Dotted identifiers of extensions that RFC 5280 section 4.2 forbids to ignore and that nobody here understands."""

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The P-256 key. Raises IdentityError for a key of another kind."""
        key = self.x509.public_key() if self.curve == ec.SECP256R1.name else None
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise IdentityError(f"the certificate {brief(self.subject)} holds no P-256 key; identity keys are P-256")
        return key

    @property
    def consortiums(self) -> frozenset[str]:
        """What an authority's own spiffe:// names limit it to (X509-SVID section 3.2); empty when it has none."""
        return frozenset(uri.removeprefix(SPIFFE) for uri in self.uris if uri.startswith(SPIFFE))


def read(der: bytes) -> Certificate:
    """The facts of one DER certificate. Raises IdentityError, and nothing else, for any bytes that are not one."""
    try:
        return _read(der)
    except _UNREADABLE as error:
        raise IdentityError("a certificate is damaged or of a form that is not supported; issue a new one") from error


def brief(text: str) -> str:
    """`text` of a stranger, quoted and shortened, fit for an error message."""
    return repr(text if len(text) <= 100 else text[:100] + "...")


def utc(seconds: int) -> str:
    """Unix seconds as RFC 3339 text, "2026-01-31T12:00:00Z"."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _read(der: bytes) -> Certificate:
    certificate = x509.load_der_x509_certificate(der)
    # A signature is whole octets (RFC 3279 section 2.2.3). The parser lets a stranger say that some last bits do not
    # count, which would give one certificate several digests.
    if not der.endswith(b"\0" + certificate.signature):
        raise ValueError("signature is not whole octets")
    if certificate.serial_number < 1:  # RFC 5280 section 4.1.2.2
        raise ValueError("serial number is not positive")
    constraints = usage = extended = names = None
    unhandled = []
    for extension in certificate.extensions:
        match extension.value:
            case x509.BasicConstraints():
                constraints = extension
            case x509.KeyUsage():
                usage = extension
            case x509.ExtendedKeyUsage():
                extended = extension
            case x509.SubjectAlternativeName():
                names = extension
        # RFC 5280 section 4.2.1.10 wants name constraints critical; one that forgot is still a limit to respect.
        must_handle = extension.critical or extension.oid == ExtensionOID.NAME_CONSTRAINTS
        if must_handle and extension.oid not in _UNDERSTOOD_WHEN_CRITICAL:
            unhandled.append(extension.oid.dotted_string)
    key = certificate.public_key()
    return Certificate(
        der=der,
        x509=certificate,
        digest=hashlib.sha256(der).digest(),
        curve=key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else "",
        serial=certificate.serial_number,
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        not_before=int(certificate.not_valid_before_utc.timestamp()),
        not_after=int(certificate.not_valid_after_utc.timestamp()),
        authority=constraints is not None and constraints.value.ca,
        path_length=constraints.value.path_length if constraints else None,
        constraints_critical=constraints is not None and constraints.critical,
        key_usage=_usages(usage.value) if usage else None,
        key_usage_critical=usage is not None and usage.critical,
        extended_key_usage=_extended_usages(extended.value) if extended else None,
        uris=tuple(names.value.get_values_for_type(x509.UniformResourceIdentifier)) if names else (),
        dns=tuple(names.value.get_values_for_type(x509.DNSName)) if names else (),
        ips=tuple(str(ip) for ip in names.value.get_values_for_type(x509.IPAddress)) if names else (),
        unhandled=tuple(unhandled),
    )


def _usages(usage: x509.KeyUsage) -> frozenset[str]:
    return frozenset(name for attribute, name in _KEY_USAGES.items() if getattr(usage, attribute))


def _extended_usages(usage: x509.ExtendedKeyUsage) -> frozenset[str]:
    return frozenset(_EXTENDED_KEY_USAGES.get(oid, oid.dotted_string) for oid in usage)
