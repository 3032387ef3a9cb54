"""Who is believed: a chain of certificates is walked from the leaf up to a root, and every rule is checked.

The order of the chain is the order of trust, so there is no search for a path. Rules are RFC 5280 section 6.1 for this
one shape, plus those of X509-SVID; what is not understood is refused. A revocation list is believed when an authority of such
a path signed it, and then nothing that it names is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mpc.errors import IdentityError, RevokedError
from mpc.identity import Credential, Identity
from pki.certificate import ECDSA, Certificate, brief, read, utc
from pki.files import read_certificates
from pki.pins import Pins
from pki.revocation import RevocationList

MAX_CHAIN_BYTES = 16 * 1024
MAX_CHAIN_LENGTH = 3
"""A leaf and two intermediates."""

_CACHED_CHAINS = 1024
"""A roster has 1000 at the most."""
_AUTHORITY_CURVES = {ec.SECP256R1.name, ec.SECP384R1.name}
_MAX_URI = 256


@dataclass(frozen=True, slots=True)
class _Path:
    """A chain whose every rule but the time holds."""

    certificates: tuple[tuple[str, Certificate], ...]
    """What to call each certificate in a message, and the certificate; leaf first, root last."""
    issuers: tuple[bytes, ...]
    """Of each certificate but the root: who issued it, see `_authority_key`."""
    credential: Credential


@dataclass(frozen=True, slots=True)
class Listed:
    """A list that is believed, and why."""

    revocations: RevocationList
    intermediates: tuple[bytes, ...] = field(repr=False)
    """DER, from the authority that signed it upwards, without the root; empty for a root's list."""


class OldListError(IdentityError):
    """A list that is not newer than the one of the same authority that is obeyed."""


class TrustStore:
    """The roots that a node believes, and the newest revocation list of each authority that it was given.

    Implements `mpc.identity.Trust`; never changes, so it is safe to share between threads.
    """

    def __init__(self, roots: Sequence[bytes], list_grace: float = 0, pins: Pins | None = None) -> None:
        """`roots` is DER, one certificate each; `list_grace` is for how many seconds a list is obeyed after its end.

        Raises IdentityError when there is no root, or one is not a root or not among the pinned ones.
        """
        if not roots:
            raise IdentityError("no trusted authority is given; name the file of the authority, ca.crt")
        self.roots = tuple(roots)
        """DER of each root, for the TLS library."""
        self.list_grace = list_grace
        self._roots = tuple(_root(der) for der in roots)
        self._pins = pins or Pins()
        for root in self._roots:
            self._pins.check_authority(root)
        self._lists: dict[bytes, Listed] = {}
        # Keyed by the bytes themselves; only chains that hold are kept, so strangers cannot fill it.
        self._cached_walk = lru_cache(maxsize=_CACHED_CHAINS)(self._walk)

    @classmethod
    def load(cls, *paths: Path, list_grace: float = 0, pins: Pins | None = None) -> TrustStore:
        """The roots in these PEM files; the rest as for the constructor. Raises IdentityError that names the file."""
        roots: list[bytes] = []
        for path in paths:
            found = read_certificates(path)
            try:
                cls(found, pins=pins)
            except IdentityError as error:
                raise IdentityError(f"{path}: {error}") from error
            roots += found
        return cls(roots, list_grace, pins)

    @property
    def lists(self) -> tuple[Listed, ...]:
        """The revocation lists that are obeyed, one an authority."""
        return tuple(self._lists.values())

    def with_list(self, revocations: RevocationList, now: float, intermediates: Sequence[bytes] = ()) -> TrustStore:
        """This store with one more list, or a newer one of the same authority; this store itself when it has the same.

        `intermediates` is DER, as they follow the leaf in a chain: an issuing authority's list needs its certificate.
        `now` is Unix seconds. Raises IdentityError when the list is not of a trusted authority, not yet valid, or
        older than the one that is obeyed. One that has ended is taken: it revokes as before, and `verify` judges its age.
        """
        key = _authority_key(self._signer(revocations, intermediates, now))
        held = self._lists.get(key)
        if held is not None and held.revocations.der == revocations.der:
            return self
        if held is not None and not revocations.newer_than(held.revocations):
            raise OldListError(
                f"{revocations} is not newer than number {held.revocations.number}, which is known already; "
                f"fetch the newest, and do not go back to an old one"
            )
        if not now >= revocations.this_update:
            raise IdentityError(f"{revocations} is not valid before {utc(revocations.this_update)}; check the clocks")
        return self._with({**self._lists, key: Listed(revocations, tuple(intermediates))}, self.list_grace)

    def without_lists(self) -> TrustStore:
        """This store as if it had never heard of a revocation."""
        return self._with({}, self.list_grace)

    def whatever_age(self) -> TrustStore:
        """This store, obeying its lists for ever: for a node's own certificate, and for whom it asks for newer lists."""
        return self._with(self._lists, math.inf)

    def verify(self, chain: tuple[bytes, ...], now: float) -> Credential:
        """The credential of the leaf of `chain`: DER, leaf first, at most two intermediates, without the root.

        `now` is Unix seconds; every certificate and the root must be valid then, and the credential's validity is the
        time in which all of them are. None may be on its issuer's list, and a list that is there may not have ended more
        than `list_grace` ago. Raises IdentityError, and nothing else, for any bytes.
        """
        path = self._checked_walk(chain)
        lists = self._lists_of(path)
        for (label, certificate), revocations in zip(path.certificates, lists, strict=False):
            if revocations is not None:
                _check_listed(label, certificate, revocations, path.credential.identity)
        for label, certificate in path.certificates:
            _check_time(label, certificate, now)
        for revocations in lists:
            if revocations is not None and not now <= revocations.next_update + self.list_grace:
                raise IdentityError(
                    f"{revocations}, has ended on {utc(revocations.next_update)}, so nobody can tell who was revoked since; "
                    f"have the authority make a new one with 'cohortium pki crl' and fetch it"
                )
        return path.credential

    def check_authority(self, chain: Sequence[bytes]) -> None:
        """Raises IdentityError unless `chain` (DER) leads from an issuing authority's certificate to a root, at whatever time."""
        self._authorities(chain)

    def lists_for(self, chain: tuple[bytes, ...]) -> tuple[RevocationList | None, ...]:
        """For each certificate of `chain`, the list that it is looked up in. Errors as for `verify`, of the chain alone."""
        return self._lists_of(self._checked_walk(chain))

    def _lists_of(self, path: _Path) -> tuple[RevocationList | None, ...]:
        listed = map(self._lists.get, path.issuers)
        return tuple(None if found is None else found.revocations for found in listed)

    def _with(self, lists: dict[bytes, Listed], list_grace: float) -> TrustStore:
        store = TrustStore(self.roots, list_grace, self._pins)
        store._lists = lists
        store._cached_walk = self._cached_walk  # which asks no list
        return store

    def _checked_walk(self, chain: tuple[bytes, ...]) -> _Path:
        if not chain:
            raise IdentityError("no certificate was presented")
        if len(chain) > MAX_CHAIN_LENGTH or sum(map(len, chain)) > MAX_CHAIN_BYTES:
            raise IdentityError(
                f"the certificate chain is too long; at most {MAX_CHAIN_LENGTH} certificates, without the root, "
                f"and {MAX_CHAIN_BYTES} bytes are read: use an authority at most two steps below the root"
            )
        return self._cached_walk(chain)

    def _walk(self, chain: tuple[bytes, ...]) -> _Path:
        leaf, *intermediates = map(read, chain)
        identity = _check_leaf(leaf)
        self._pins.check_node(identity, leaf)
        path = self._climb([(f"the certificate of {identity}", leaf)], intermediates, identity.consortium)
        issuers = tuple(_authority_key(issuer) for _, issuer in path[1:])
        credential = Credential(
            identity=identity,
            public_key=leaf.public_key,
            digest=leaf.digest,
            not_before=max(certificate.not_before for _, certificate in path),
            not_after=min(certificate.not_after for _, certificate in path),
            authority=path[-1][1].digest,
        )
        return _Path(tuple(path), issuers, credential)

    def _authorities(self, chain: Sequence[bytes]) -> list[tuple[str, Certificate]]:
        """The intermediates of a chain, nearest to the leaf first, and their root, each with what to call it."""
        if not chain or len(chain) >= MAX_CHAIN_LENGTH or sum(map(len, chain)) > MAX_CHAIN_BYTES:
            raise IdentityError(
                f"between a root and its nodes there are at most {MAX_CHAIN_LENGTH - 1} authorities; check the file"
            )
        first, *others = map(read, chain)
        label = f"the intermediate certificate {brief(first.subject)}"
        _check_authority(label, first, below=0, consortium=None)
        return self._climb([(label, first)], others, None)

    def _climb(
        self, path: list[tuple[str, Certificate]], intermediates: Iterable[Certificate], consortium: str | None
    ) -> list[tuple[str, Certificate]]:
        """`path`, which holds what the first of `intermediates` signed, continued up to a root."""
        below = sum(1 for _, certificate in path if certificate.authority)
        for issuer in intermediates:
            label = f"the intermediate certificate {brief(issuer.subject)}"
            _check_authority(label, issuer, below=below, consortium=consortium)
            if not issued(path[-1][1], issuer):
                raise IdentityError(
                    f"{path[-1][0]} is not signed by the certificate after it, {brief(issuer.subject)}; "
                    f"a chain goes from the node's certificate upwards"
                )
            path.append((label, issuer))
            below += 1
        root = self._find_root(*path[-1])
        root_label = f"the root certificate {brief(root.subject)}"
        _check_authority(root_label, root, below=below, consortium=consortium)
        return [*path, (root_label, root)]

    def _signer(self, revocations: RevocationList, intermediates: Sequence[bytes], now: float) -> Certificate:
        """The trusted authority that signed the list. Raises IdentityError."""
        authorities = [(f"the root certificate {brief(root.subject)}", root) for root in self._roots]
        if intermediates:
            authorities += self._authorities(intermediates)[:-1]
        for label, authority in authorities:
            if revocations.signed_by(authority):
                _check_time(label, authority, now)
                if "cRLSign" not in (authority.key_usage or ()):
                    raise IdentityError(f"{label} may not sign revocation lists (key usage cRLSign); issue a new one")
                return authority
        raise IdentityError(
            f"{revocations} is not signed by an authority that is trusted here; "
            f"take the list of the authority that issued the certificates, with its own certificate if it is not a root"
        )

    def _find_root(self, label: str, top: Certificate) -> Certificate:
        if any(top.digest == root.digest for root in self._roots):
            raise IdentityError(f"{label} is the root itself; leave the root out of the certificate file")
        for root in self._roots:
            if issued(top, root):
                return root
        if top.x509.issuer == top.x509.subject:
            raise IdentityError(f"{label} is self-signed and not a trusted authority; have the authority issue one")
        raise IdentityError(
            f"{label} comes from an authority that is not trusted here, {brief(top.issuer)}; "
            f"trusted: {', '.join(brief(root.subject) for root in self._roots)}; have one of these issue it"
        )


def _root(der: bytes) -> Certificate:
    root = read(der)
    label = f"the root certificate {brief(root.subject)}"
    _check_authority(label, root, below=0, consortium=None)
    if not issued(root, root):
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
            f"exactly one must say who it is, spiffe://CONSORTIUM/ROLE/NAME; issue a new one"
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
        raise IdentityError(f"{label} does not hold a P-256 or P-384 key; make a new authority")
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


def _check_listed(label: str, certificate: Certificate, revocations: RevocationList, leaf: Identity) -> None:
    found = revocations.revoked.get(certificate.serial)
    if found is not None:
        raise RevokedError(
            f"{label} was revoked {found}; if its holder is to take part again, "
            f"make a new key there and have a certificate issued for it",
            leaf.uri,
        )


def _authority_key(authority: Certificate) -> bytes:
    """An authority is a name and a key (RFC 5280 section 6.1.1 (d)): it may have several certificates, and one list."""
    key = authority.x509.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return authority.x509.subject.public_bytes() + key


def _check_common(label: str, certificate: Certificate) -> None:
    if certificate.x509.signature_algorithm_oid not in ECDSA:
        raise IdentityError(f"{label} is not signed with ECDSA and SHA-256 or SHA-384; issue a new one")
    if certificate.unhandled:
        raise IdentityError(f"{label} has extensions that must be understood and are not: {', '.join(certificate.unhandled)}")


def _check_time(label: str, certificate: Certificate, now: float) -> None:
    # Written so that a time that is not a number is refused, too.
    if not now >= certificate.not_before:
        raise IdentityError(f"{label} is not valid before {utc(certificate.not_before)}; check the clocks of both machines")
    if not now <= certificate.not_after:
        raise IdentityError(f"{label} has expired on {utc(certificate.not_after)}; issue a new one with 'cohortium pki issue'")


def issued(certificate: Certificate, issuer: Certificate) -> bool:
    """Whether `issuer` signed `certificate`: names match, both signature algorithms agree, the signature holds."""
    try:
        certificate.x509.verify_directly_issued_by(issuer.x509)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
