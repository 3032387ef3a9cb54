"""Who is believed: a chain of certificates is walked from the leaf up to a root, and every rule is checked.

The order of the chain is the order of trust, so there is no search for a path. Rules are RFC 5280 section 6.1 for this
one shape, plus those of X509-SVID; what is not understood is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import SignatureAlgorithmOID

from mpc.errors import IdentityError
from mpc.identity import Credential, Identity
from pki.certificate import Certificate, brief, read, utc
from pki.files import read_certificates

MAX_CHAIN_BYTES = 16 * 1024
MAX_CHAIN_LENGTH = 3
"""A leaf and two intermediates."""

_CACHED_CHAINS = 512
_SIGNATURES = {SignatureAlgorithmOID.ECDSA_WITH_SHA256, SignatureAlgorithmOID.ECDSA_WITH_SHA384}
_AUTHORITY_CURVES = {ec.SECP256R1.name, ec.SECP384R1.name}
_MAX_URI = 256


@dataclass(frozen=True, slots=True)
class _Path:
    """A chain whose every rule but the time holds."""

    certificates: tuple[tuple[str, Certificate], ...]
    """What to call each certificate in a message, and the certificate; leaf first, root last."""
    credential: Credential


class TrustStore:
    """The roots that a node believes. Implements `mpc.identity.Trust`; safe to share between threads."""

    def __init__(self, roots: Sequence[bytes]) -> None:
        """`roots` is DER, one certificate each. Raises IdentityError when there is none or one is not a root."""
        if not roots:
            raise IdentityError("no trusted authority is given; name the file of the authority, ca.crt")
        self.roots = tuple(roots)
        """DER of each root, for the TLS library."""
        self._roots = tuple(_root(der) for der in roots)
        # Keyed by the bytes themselves; only chains that hold are kept, so strangers cannot fill it.
        self._cached_walk = lru_cache(maxsize=_CACHED_CHAINS)(self._walk)

    @classmethod
    def load(cls, *paths: Path) -> TrustStore:
        """The roots in these PEM files. Raises IdentityError that names the file."""
        roots: list[bytes] = []
        for path in paths:
            found = read_certificates(path)
            try:
                cls(found)
            except IdentityError as error:
                raise IdentityError(f"{path}: {error}") from error
            roots += found
        return cls(roots)

    def verify(self, chain: tuple[bytes, ...], now: float) -> Credential:
        """The credential of the leaf of `chain`: DER, leaf first, at most two intermediates, without the root.

        `now` is Unix seconds; every certificate and the root must be valid then, and the credential's validity is the
        time in which all of them are. Raises IdentityError, and nothing else, for any bytes.
        """
        if not chain:
            raise IdentityError("no certificate was presented")
        if len(chain) > MAX_CHAIN_LENGTH or sum(map(len, chain)) > MAX_CHAIN_BYTES:
            raise IdentityError(
                f"the certificate chain is too long; at most {MAX_CHAIN_LENGTH} certificates, without the root, "
                f"and {MAX_CHAIN_BYTES} bytes are read"
            )
        path = self._cached_walk(chain)
        for label, certificate in path.certificates:
            _check_time(label, certificate, now)
        return path.credential

    def _walk(self, chain: tuple[bytes, ...]) -> _Path:
        leaf, *intermediates = map(read, chain)
        identity = _check_leaf(leaf)
        label = f"the certificate of {identity}"
        path = [(label, leaf)]
        for height, issuer in enumerate(intermediates):
            issuer_label = f"the intermediate certificate {brief(issuer.subject)}"
            _check_authority(issuer_label, issuer, below=height, consortium=identity.consortium)
            if not _issued(path[-1][1], issuer):
                raise IdentityError(
                    f"{path[-1][0]} is not signed by the certificate after it, {brief(issuer.subject)}; "
                    f"a chain goes from the node's certificate upwards"
                )
            path.append((issuer_label, issuer))
        root = self._find_root(*path[-1])
        root_label = f"the root certificate {brief(root.subject)}"
        _check_authority(root_label, root, below=len(intermediates), consortium=identity.consortium)
        path.append((root_label, root))
        credential = Credential(
            identity=identity,
            public_key=leaf.public_key,
            digest=leaf.digest,
            not_before=max(certificate.not_before for _, certificate in path),
            not_after=min(certificate.not_after for _, certificate in path),
            authority=root.digest,
        )
        return _Path(tuple(path), credential)

    def _find_root(self, label: str, top: Certificate) -> Certificate:
        if any(top.digest == root.digest for root in self._roots):
            raise IdentityError(f"{label} is the root itself; leave the root out of the certificate file")
        for root in self._roots:
            if _issued(top, root):
                return root
        if top.x509.issuer == top.x509.subject:
            raise IdentityError(f"{label} is self-signed and not a trusted authority; have the authority issue one")
        raise IdentityError(
            f"{label} comes from an authority that is not trusted here, {brief(top.issuer)}; "
            f"trusted: {', '.join(brief(root.subject) for root in self._roots)}"
        )


def _root(der: bytes) -> Certificate:
    root = read(der)
    label = f"the root certificate {brief(root.subject)}"
    _check_authority(label, root, below=0, consortium=None)
    if not _issued(root, root):
        raise IdentityError(f"{label} is not a root: it is not signed by its own key; name the root that issued it")
    return root


def check_leaf(der: bytes) -> Identity:
    """Who a certificate says it is, once its profile holds; for callers whose TLS library has verified its chain.

    Raises IdentityError. Says nothing about trust or time.
    """
    return _check_leaf(read(der))


def _check_leaf(leaf: Certificate) -> Identity:
    """X509-SVID sections 2, 4 and 5.2: who the leaf is, once its profile holds."""
    uris = leaf.uris
    if len(uris) != 1:
        raise IdentityError(
            f"the certificate {brief(leaf.subject)} has {len(uris) or 'no'} URI names; "
            f"exactly one must say who it is, spiffe://CONSORTIUM/ROLE/NAME"
        )
    if len(uris[0]) > _MAX_URI:
        raise IdentityError(f"the certificate's URI name {brief(uris[0])} is too long for an identity")
    identity = Identity.parse(uris[0])
    label = f"the certificate of {identity}"
    _check_common(label, leaf)
    if leaf.authority:
        raise IdentityError(f"{label} is an authority's (CA:TRUE); a node needs a certificate of its own")
    if leaf.curve != ec.SECP256R1.name:
        raise IdentityError(f"{label} does not hold a P-256 key; identity keys are P-256, so issue a new one")
    usage = leaf.key_usage or frozenset[str]()
    if "digitalSignature" not in usage or not leaf.key_usage_critical:
        raise IdentityError(f"{label} must have a critical key usage with digitalSignature; issue a new one")
    if usage & {"keyCertSign", "cRLSign"}:
        raise IdentityError(f"{label} may sign certificates or revocation lists, which no node may; issue a new one")
    if "clientAuth" not in (leaf.extended_key_usage or ()):
        raise IdentityError(f"{label} lacks the extended key usage clientAuth; issue a new one")
    return identity


def _check_authority(label: str, authority: Certificate, *, below: int, consortium: str | None) -> None:
    """RFC 5280 section 6.1.4 (k) to (n) for an authority with `below` intermediates under it in this chain."""
    _check_common(label, authority)
    if not authority.authority or not authority.constraints_critical:
        raise IdentityError(f"{label} is not an authority's (basicConstraints critical, CA:TRUE)")
    if authority.key_usage is None or "keyCertSign" not in authority.key_usage or not authority.key_usage_critical:
        raise IdentityError(f"{label} may not sign certificates (key usage critical, keyCertSign)")
    if authority.curve not in _AUTHORITY_CURVES:
        raise IdentityError(f"{label} does not hold a P-256 or P-384 key")
    if authority.path_length is not None and below > authority.path_length:
        raise IdentityError(
            f"{label} allows {authority.path_length} intermediate certificates below it, and the chain has {below}"
        )
    if authority.extended_key_usage is not None and "clientAuth" not in authority.extended_key_usage:
        raise IdentityError(f"{label} is limited to uses without clientAuth, so it cannot vouch for nodes")
    if consortium is not None and not authority.consortiums <= {consortium}:
        raise IdentityError(
            f"{label} is for {', '.join(map(brief, sorted(authority.consortiums)))}, "
            f"not for the consortium {consortium}; use the authority of {consortium}"
        )


def _check_common(label: str, certificate: Certificate) -> None:
    if certificate.x509.signature_algorithm_oid not in _SIGNATURES:
        raise IdentityError(f"{label} is not signed with ECDSA and SHA-256 or SHA-384; issue a new one")
    if certificate.unhandled:
        raise IdentityError(f"{label} has extensions that must be understood and are not: {', '.join(certificate.unhandled)}")


def _check_time(label: str, certificate: Certificate, now: float) -> None:
    # Written so that a time that is not a number is refused, too.
    if not now >= certificate.not_before:
        raise IdentityError(f"{label} is not valid before {utc(certificate.not_before)}; check the clocks of both machines")
    if not now <= certificate.not_after:
        raise IdentityError(f"{label} has expired on {utc(certificate.not_after)}; issue a new one with 'cohortium pki issue'")


def _issued(certificate: Certificate, issuer: Certificate) -> bool:
    """Whether `issuer` signed `certificate`: names match, both signature algorithms agree, the signature holds."""
    try:
        certificate.x509.verify_directly_issued_by(issuer.x509)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
