"""An authority with its key: what it signs, it has entered in its register before. See `pki.office` for its directory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from mpc.errors import IdentityError
from mpc.identity import Identity
from pki.certificate import SPIFFE, Certificate, read, utc
from pki.files import (
    Passphrase,
    check_free,
    check_passphrase,
    make_directory,
    read_private_key,
    set_aside,
    write_certificates,
    write_private_key,
)
from pki.office import REASONS, Office, issuing_path, key_path, register_path, root_path
from pki.profile import (
    BACKDATE,
    ISSUING_DAYS,
    LEAF_DAYS,
    LIST_DAYS,
    MAX_LIST_DAYS,
    ListenerNames,
    issuing_certificate,
    leaf_certificate,
    revocation_list,
    root_certificate,
)
from pki.register import Book, Granted, Issued, Listed, Records, Revoked
from pki.request import key_digest, read_request
from pki.revocation import RevocationList
from pki.token import Fault, TokenRefused, secret_digest, short

_DAY = 86_400
_MOST_A_DAY = 10
"""Certificates of one node: a node renews at two thirds of its certificate's life, and whoever asks more fills the register."""


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """Where a node's new key and certificate are, and what the certificate says."""

    key: Path
    certificate: Path
    facts: Certificate


@dataclass(frozen=True, slots=True)
class Authority(Office):
    """Issues certificates and revocation lists for one consortium.

    A certificate is returned as the chain that its node shows: followed by the issuing authority's, if that is not the root.
    """

    _key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def create(
        cls, directory: Path, consortium: str, now: float, force: bool = False, *, passphrase: bytes | None = None
    ) -> Authority:
        """A new root in `directory`, which is made when missing. `now` is Unix seconds; `passphrase` protects the key.

        With `force` it replaces the one that is there, whose certificates are then worth nothing. Raises IdentityError.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = root_certificate(consortium, key, now)
        _make_room(directory, now, force, passphrase)
        write_private_key(key_path(directory), key, force=force, passphrase=passphrase)
        write_certificates(root_path(directory), [certificate], force=force)
        return cls.load(directory, lambda: passphrase or b"")

    @classmethod
    def create_below(
        cls, root: Authority, directory: Path, now: float, force: bool = False, *, passphrase: bytes | None = None
    ) -> Authority:
        """A new issuing authority in `directory`, signed by `root` and entered in its register; otherwise as `create`.

        `root` is needed again only when this one ends or is to be revoked, so its directory can be locked away.
        """
        if root.certificate != root.root:
            raise IdentityError(f"{root.directory} holds an issuing authority, which cannot sign another; name that of the root")
        root.check_time(now)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = issuing_certificate(root.consortium, key.public_key(), root.root.x509, root._key, now)
        _make_room(directory, now, force, passphrase)
        with root.register.locked() as book:
            book.append(_entry(certificate, SPIFFE + root.consortium, ISSUING_DAYS, now))
        write_private_key(key_path(directory), key, force=force, passphrase=passphrase)
        write_certificates(issuing_path(directory), [certificate], force=force)
        write_certificates(root_path(directory), [root.root.x509], force=force)
        return cls.load(directory, lambda: passphrase or b"")

    @classmethod
    def load(cls, directory: Path, passphrase: Passphrase | None = None) -> Self:
        """The authority in `directory`; `passphrase` is asked if its key is protected.

        Raises IdentityError when a file is missing, unsafe or not the other's, or the passphrase is wrong.
        """
        office = Office.load(directory)
        key = read_private_key(key_path(directory), passphrase)
        if key.public_key() != office.certificate.x509.public_key():
            own = root_path(directory) if office.certificate == office.root else issuing_path(directory)
            raise IdentityError(f"{key_path(directory)} is not the key of {own}; restore the pair from a backup")
        return cls(directory, office.consortium, office.root, office.certificate, key)

    def issue(
        self,
        identity: Identity,
        public_key: ec.EllipticCurvePublicKey,
        dns: Sequence[str],
        ips: Sequence[str],
        now: float,
        days: int = LEAF_DAYS,
    ) -> tuple[x509.Certificate, ...]:
        """A certificate that binds `public_key` (P-256) to `identity`, entered in the register before it is returned.

        `dns` and `ips` are where the node listens; `now` is Unix seconds; `days` is 1 to 397, cut at the authority's
        own end. Raises IdentityError for another consortium, impossible names or days, a key that is another node's or
        was revoked, or when the authority is not valid now.
        """
        self.check_member(identity)
        names = ListenerNames.parse(dns, ips)
        with self.register.locked() as book:
            return self._issue(book, identity, public_key, names, now, days)

    def issue_node(
        self,
        identity: Identity,
        dns: Sequence[str],
        ips: Sequence[str],
        now: float,
        days: int = LEAF_DAYS,
        *,
        out: Path,
        force: bool = False,
    ) -> NodeFiles:
        """A new key and its certificate as NAME.key and NAME.crt in the directory `out`, which is made when missing.

        Arguments and errors as for `issue`; existing files are replaced only with `force`.
        """
        node_key, certificate = out / f"{identity.name}.key", out / f"{identity.name}.crt"
        make_directory(out)
        if not force:
            check_free(node_key, certificate)
        key = ec.generate_private_key(ec.SECP256R1())
        chain = self.issue(identity, key.public_key(), dns, ips, now, days)
        write_private_key(node_key, key, force=force)
        write_certificates(certificate, chain, force=force)
        return NodeFiles(node_key, certificate, read(chain[0].public_bytes(Encoding.DER)))

    def sign(
        self,
        request: bytes,
        identity: Identity,
        dns: Sequence[str],
        ips: Sequence[str],
        now: float,
        days: int = LEAF_DAYS,
    ) -> tuple[x509.Certificate, ...]:
        """As `issue`, for the key of a PKCS #10 request (PEM or DER), which must prove that its sender has that key.

        Nothing else of the request counts. The caller has made sure that it comes from `identity`.
        """
        return self.issue(identity, read_request(request).public_key, dns, ips, now, days)

    def renew(
        self, request: bytes, identity: Identity, now: float, *, shown: bytes | None = None
    ) -> tuple[x509.Certificate, ...]:
        """As `sign`, with the names and days of the certificate that `identity` got last.

        The key may be the same as before. Raises IdentityError when `identity` has none, or its last one was revoked, or when
        `shown`, the certificate (DER) by which it proves itself, is not one that was issued here and holds.
        """
        self.check_member(identity)
        public_key = read_request(request).public_key
        with self.register.locked() as book:
            if shown is not None:
                _check_shown(book.records, identity, shown)
            last = book.records.newest(identity.uri)
            if last is None:
                raise IdentityError(f"{identity} has no certificate that could be renewed here; use 'cohortium pki sign'")
            lately = [one for one in book.records.issued.values() if one.identity == identity.uri and one.at > now - _DAY]
            if len(lately) >= _MOST_A_DAY:
                raise IdentityError(
                    f"{identity} has been given {len(lately)} certificates within a day; renew one when two thirds of its life "
                    f"are over, or use 'cohortium pki sign'"
                )
            revoked = book.records.revoked.get(last.serial)
            if revoked is not None:
                raise IdentityError(
                    f"the certificate of {identity} was revoked on {utc(revoked.at)} ({revoked.reason}), so it is not renewed; "
                    f"if its node is to take part again, use 'cohortium pki sign'"
                )
            facts = read(last.certificate)
            return self._issue(book, identity, public_key, ListenerNames.parse(facts.dns, facts.ips), now, last.days)

    def redeem(self, secret: bytes, identity: Identity, request: bytes, now: float) -> tuple[x509.Certificate, ...]:
        """The one certificate that a token is good for, as `sign` makes it, and the token is used up by the same line on disk.

        `secret` is the token's; `identity` is who the sender says it is, which must be whom the token is for. The same key
        again gets the same certificate again: the answer may have been lost on the way. Raises TokenRefused when the token was
        never made here, was used or withdrawn, has expired, or is for another; and IdentityError as `sign` does. After either
        the token is as good as before.
        """
        public_key = read_request(request).public_key
        with self.register.locked() as book:
            used = book.records.used.get(secret_digest(secret))
            mine = used is not None and (used.identity, used.key) == (identity.uri, key_digest(public_key).hex())
            if used is not None and mine and used.serial not in book.records.revoked:
                return self._chain(x509.load_der_x509_certificate(used.certificate))
            granted = _granted(book.records, secret, identity, now)
            names = ListenerNames.parse(granted.dns, granted.ips)
            return self._issue(book, identity, public_key, names, now, granted.days, token=granted.token)

    def revocation_list(self, now: float, days: int = LIST_DAYS) -> RevocationList:
        """The next list of everything that was revoked here, entered in the register before it is returned.

        Its number is one more than that of the last, and its time is later, even if the clock went back. `days` is 1 to
        MAX_LIST_DAYS: when the next list is due at the latest. Raises IdentityError for other days, or when the
        authority is not valid now.
        """
        if not 1 <= days <= MAX_LIST_DAYS:
            raise IdentityError(f"a revocation list cannot be valid for {days} days; use 1 to {MAX_LIST_DAYS}")
        self.check_time(now)
        with self.register.locked() as book:
            last = book.records.lists[-1] if book.records.lists else Listed(at=0, number=0, this_update=0, next_update=0)
            # Back-dated like a certificate. Never the same second twice: OpenSSL takes a list for a newer one by its time.
            this_update = max(int(now) - BACKDATE, self.certificate.not_before, last.this_update + 1)
            entry = Listed(
                at=int(now),
                number=last.number + 1,
                this_update=this_update,
                next_update=max(int(now), this_update) + days * _DAY,
            )
            signed = revocation_list(
                [(int(revoked.serial, 16), revoked.at, REASONS[revoked.reason]) for revoked in _listed(book.records, last.at)],
                entry.number,
                self.certificate.x509,
                self._key,
                entry.this_update,
                entry.next_update,
            )
            parsed = RevocationList.parse(signed.public_bytes(Encoding.DER))
            book.append(entry)  # only what can be used: what nobody may read would be signed again and again
        return parsed

    def check_time(self, now: float) -> None:
        """Raises IdentityError when the authority is not valid at `now`, Unix seconds."""
        if not self.certificate.not_before <= now < self.certificate.not_after:
            raise IdentityError(
                f"the authority in {self.directory} is valid from {utc(self.certificate.not_before)} to "
                f"{utc(self.certificate.not_after)}, not now; check the clock, or make a new one "
                f"with 'cohortium pki init'"
            )

    def _issue(
        self,
        book: Book,
        identity: Identity,
        public_key: ec.EllipticCurvePublicKey,
        names: ListenerNames,
        now: float,
        days: int,
        token: str = "",
    ) -> tuple[x509.Certificate, ...]:
        self.check_time(now)
        _check_key(book.records, identity, public_key)
        certificate = leaf_certificate(identity, public_key, names, self.certificate.x509, self._key, now, days)
        book.append(_entry(certificate, identity.uri, days, now, token))
        return self._chain(certificate)

    def _chain(self, certificate: x509.Certificate) -> tuple[x509.Certificate, ...]:
        return (certificate,) if self.certificate == self.root else (certificate, self.certificate.x509)


def _make_room(directory: Path, now: float, force: bool, passphrase: bytes | None) -> None:
    """`directory` is there and free for a new authority; with `force`, what the old one knew is kept under another name."""
    if passphrase is not None:
        check_passphrase(passphrase)  # before anything is set aside
    make_directory(directory)
    if force:
        set_aside(register_path(directory), f"until-{int(now)}")
        set_aside(issuing_path(directory), f"until-{int(now)}")
    else:
        check_free(root_path(directory), key_path(directory), issuing_path(directory), register_path(directory))


def _entry(certificate: x509.Certificate, identity: str, days: int, now: float, token: str = "") -> Issued:
    facts = read(certificate.public_bytes(Encoding.DER))
    return Issued(
        at=int(now),
        serial=f"{facts.serial:x}",
        identity=identity,
        days=days,
        not_after=facts.not_after,
        key=key_digest(facts.public_key).hex(),
        token=token,
        certificate=facts.der,
    )


def _check_shown(records: Records, identity: Identity, shown: bytes) -> None:
    """A node proves itself by a certificate of this authority: another's, or a revoked one, is no reason to sign."""
    serial = f"{read(shown).serial:x}"
    issued = records.issued.get(serial)
    if issued is None or issued.certificate != shown:
        raise IdentityError(f"the certificate that {identity} has shown was not issued here; renew it where it was")
    if serial in records.revoked:
        raise IdentityError(
            f"the certificate that {identity} has shown was revoked; if its node is to come back, use 'cohortium pki sign'"
        )


def _check_key(records: Records, identity: Identity, public_key: ec.EllipticCurvePublicKey) -> None:
    """A key belongs to one node, and is never used again after one of its certificates was revoked."""
    digest = key_digest(public_key).hex()
    for entry in records.issued.values():
        if entry.key == digest and entry.identity != identity.uri:
            raise IdentityError(f"the key for {identity} is that of {entry.identity}; make a new one on each node")
        if entry.key == digest and entry.serial in records.revoked:
            raise IdentityError(f"a certificate of this key of {identity} was revoked; make a new key on the node")


def _granted(records: Records, secret: bytes, identity: Identity, now: float) -> Granted:
    """What the token allows, if it may be used now. Raises TokenRefused."""
    digest = secret_digest(secret)
    granted = records.granted.get(digest)
    if granted is None:
        raise TokenRefused(Fault.UNKNOWN, "this token was not made here; have one made with 'cohortium pki token'")
    name = f"the token {short(digest)} for {granted.identity}"
    used = records.used.get(digest)
    if used is not None:
        raise TokenRefused(
            Fault.USED,
            f"{name} was used on {utc(used.at)} for the certificate {used.serial}; if that was not its node, revoke that "
            f"with 'cohortium pki revoke', and have a new token made",
        )
    if digest in records.withdrawn:
        raise TokenRefused(Fault.WITHDRAWN, f"{name} was withdrawn on {utc(records.withdrawn[digest].at)}; have a new one made")
    if not now <= granted.expires:
        raise TokenRefused(Fault.LATE, f"{name} has expired on {utc(granted.expires)}; have a new one made")
    if granted.identity != identity.uri:
        raise TokenRefused(Fault.OTHER_NAME, f"{name} was shown by {identity}; each node needs a token of its own")
    return granted


def _listed(records: Records, last_list: int) -> Iterator[Revoked]:
    """What the next list names: all but what had ended when a list last named it (RFC 5280 section 3.3)."""
    for revoked in records.revoked.values():
        if records.issued[revoked.serial].not_after >= last_list or revoked.at > last_list:
            yield revoked
