"""A revocation list (RFC 5280 section 5) as plain facts: which certificates one authority has taken back, and how old it is.

Reading judges only the list's own form; who may be believed to have signed it is for `pki.trust` to say. Only full lists of one
authority are read: anything that limits or extends a list is a critical extension, and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from mpc.errors import IdentityError
from pki.certificate import ECDSA, Certificate, brief, utc
from pki.files import read_public

MAX_LIST_BYTES = 4 * 1024 * 1024

_REMEDY = "fetch it again, or have the authority make one with 'cohortium pki crl'"
_UNREADABLE = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
    x509.InvalidVersion,
    UserWarning,  # as for certificates: what the parser only warns of, where warnings are errors
)


@dataclass(frozen=True, slots=True)
class Revocation:
    """One certificate that is not to be believed any more."""

    at: int
    """Unix seconds."""
    reason: str
    """As RFC 5280 section 5.3.1 spells it ("keyCompromise")."""

    def __str__(self) -> str:
        return f"on {utc(self.at)} ({self.reason})"


@dataclass(frozen=True, slots=True)
class RevocationList:
    """What one list says, unverified."""

    der: bytes = field(repr=False)
    x509: x509.CertificateRevocationList = field(repr=False)
    issuer: str
    """Distinguished name as an RFC 4514 string: for people, never compared."""
    number: int
    """Grows from one list of an authority to its next."""
    this_update: int
    next_update: int
    """Unix seconds: from when it holds, and when there is a newer one at the latest."""
    revoked: Mapping[int, Revocation] = field(repr=False)
    """By serial number."""

    @classmethod
    def parse(cls, data: bytes) -> RevocationList:
        """The list in `data`, PEM or DER. Raises IdentityError, and nothing else, for any bytes."""
        if len(data) > MAX_LIST_BYTES:
            raise IdentityError(f"the revocation list is larger than {MAX_LIST_BYTES} bytes, which no list here is; {_REMEDY}")
        try:
            return _read(data)
        except _UNREADABLE as error:
            raise IdentityError(f"the revocation list is damaged or of a form that is not supported; {_REMEDY}") from error

    @classmethod
    def load(cls, path: Path) -> RevocationList:
        """The list in the file at `path`. Raises IdentityError that names the file."""
        data = read_public(path, MAX_LIST_BYTES)
        try:
            return cls.parse(data)
        except IdentityError as error:
            raise IdentityError(f"{path}: {error}") from error

    def signed_by(self, authority: Certificate) -> bool:
        """Whether the key of `authority` signed this list, and under its name. Does not ask whether it may."""
        key = authority.x509.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or self.x509.issuer != authority.x509.subject:
            return False
        try:
            return self.x509.is_signature_valid(key)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            return False

    def newer_than(self, other: RevocationList) -> bool:
        """Whether this list replaces `other`, of the same authority (RFC 5280 section 5.2.3)."""
        return self.number > other.number

    def __str__(self) -> str:
        return f"the revocation list of {brief(self.issuer)}, number {self.number}"


def _read(data: bytes) -> RevocationList:
    pem = data.lstrip().startswith(b"-----BEGIN")
    found = x509.load_pem_x509_crl(data) if pem else x509.load_der_x509_crl(data)
    if found.signature_algorithm_oid not in ECDSA:
        raise ValueError("not signed with ECDSA and SHA-256 or SHA-384")
    if found.next_update_utc is None:  # RFC 5280 section 5.1.2.5
        raise ValueError("no next update")
    # RFC 5280 section 5.2: with a critical extension that is not understood, a list must not be used.
    if any(extension.critical for extension in found.extensions):
        raise ValueError("critical extension")
    revoked = {}
    for entry in found:
        reason = x509.ReasonFlags.unspecified
        for extension in entry.extensions:
            if isinstance(extension.value, x509.CRLReason):
                reason = extension.value.reason
            elif extension.critical:
                raise ValueError("critical extension of an entry")
        revoked[entry.serial_number] = Revocation(int(entry.revocation_date_utc.timestamp()), reason.value)
    return RevocationList(
        der=found.public_bytes(Encoding.DER),
        x509=found,
        issuer=found.issuer.rfc4514_string(),
        number=found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number,
        this_update=int(found.last_update_utc.timestamp()),
        next_update=int(found.next_update_utc.timestamp()),
        revoked=revoked,
    )
