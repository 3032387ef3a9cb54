"""Certificate requests (PKCS #10, RFC 2986): a node makes one, so that its key never leaves it; an authority reads one.

All that an authority takes from a request is the public key and the proof that the sender has the private one. Names,
addresses and extensions that a request asks for are not even looked at: they are the authority's to grant.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from mpc.errors import IdentityError
from pki.certificate import ECDSA
from pki.files import PUBLIC, check_free, make_directory, read_public, write_file, write_private_key

MAX_REQUEST_BYTES = 16 * 1024

_REMEDY = "make it on the node with 'cohortium pki request'"
_UNREADABLE = (ValueError, TypeError, OverflowError, UnsupportedAlgorithm, x509.InvalidVersion)


@dataclass(frozen=True, slots=True)
class Request:
    """What counts of a request whose proof of possession holds."""

    public_key: ec.EllipticCurvePublicKey
    digest: bytes
    """SHA-256 of the SubjectPublicKeyInfo, which both sides can compare before a certificate is granted."""


@dataclass(frozen=True, slots=True)
class RequestFiles:
    """Where a node's new key and the request for it are."""

    key: Path
    request: Path
    digest: bytes
    """As in `Request`."""


def make_request(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    """A PEM request for `key`, signed by it. `name` is for people who sort requests; the authority ignores it."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM)


def request_node(name: str, out: Path, *, force: bool = False) -> RequestFiles:
    """A new key and the request for it as NAME.key and NAME.csr in the directory `out`, which is made when missing.

    Existing files are replaced only with `force`. Raises IdentityError.
    """
    key_path, request_path = out / f"{name}.key", out / f"{name}.csr"
    make_directory(out)
    if not force:
        check_free(key_path, request_path)
    key = ec.generate_private_key(ec.SECP256R1())
    write_private_key(key_path, key, force=force)
    write_file(request_path, make_request(key, name), mode=PUBLIC, force=force)
    return RequestFiles(key_path, request_path, key_digest(key.public_key()))


def read_request(data: bytes) -> Request:
    """The request in `data`, PEM or DER. Raises IdentityError, and nothing else, for any bytes.

    Refused are: more than MAX_REQUEST_BYTES, a key that is not P-256, and a signature that is not that key's own.
    """
    if len(data) > MAX_REQUEST_BYTES:
        raise IdentityError(f"the certificate request is larger than {MAX_REQUEST_BYTES} bytes; {_REMEDY}")
    try:
        pem = data.lstrip().startswith(b"-----BEGIN")
        request = x509.load_pem_x509_csr(data) if pem else x509.load_der_x509_csr(data)
        public_key = request.public_key()
        if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP256R1):
            raise IdentityError(f"the certificate request is for a key that is not P-256; {_REMEDY}")
        if request.signature_algorithm_oid not in ECDSA:
            raise IdentityError(f"the certificate request is not signed with ECDSA and SHA-256 or SHA-384; {_REMEDY}")
        proven = request.is_signature_valid
    except _UNREADABLE as error:
        raise IdentityError(f"the certificate request is damaged or cut off; {_REMEDY}") from error
    if not proven:
        raise IdentityError(f"the certificate request is not signed by its own key, so its sender may not have it; {_REMEDY}")
    return Request(public_key, key_digest(public_key))


def load_request(path: Path) -> bytes:
    """The bytes of the request file at `path`, checked as by `read_request`. Raises IdentityError that names the file."""
    data = read_public(path, MAX_REQUEST_BYTES)
    try:
        read_request(data)
    except IdentityError as error:
        raise IdentityError(f"{path}: {error}") from error
    return data


def key_digest(key: ec.EllipticCurvePublicKey) -> bytes:
    """SHA-256 of the DER SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7)."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
