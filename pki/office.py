"""The part of an authority that needs no key: what it is, what it has issued, whom it believes no more, whom it invites.

So revoking and handing out tokens go on while the key is locked by its passphrase; only signing waits for that.

    ca.crt            the root certificate: every node needs a copy
    ca.key            the private key that signs here (0600): it never leaves this directory
    issuing.crt       only below a root that is elsewhere: the certificate of ca.key, signed by the root
    register.jsonl    all that happened, see `pki.register`

Nothing here reads a clock: the time is an argument, in Unix seconds.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography import x509

from mpc.errors import IdentityError
from mpc.identity import Identity
from pki.certificate import Certificate, read, utc
from pki.files import is_there, read_certificates
from pki.profile import LEAF_DAYS, ListenerNames, check_days
from pki.register import Granted, Issued, Register, Revoked, Withdrawn
from pki.token import SECRET_BYTES, Token
from pki.trust import TrustStore

MAX_TOKEN_SECONDS = 7 * 86_400
REASONS = {
    reason.value: reason
    for reason in (
        x509.ReasonFlags.unspecified,
        x509.ReasonFlags.key_compromise,
        x509.ReasonFlags.ca_compromise,
        x509.ReasonFlags.affiliation_changed,
        x509.ReasonFlags.superseded,
        x509.ReasonFlags.cessation_of_operation,
        x509.ReasonFlags.privilege_withdrawn,
    )
}
"""Why a certificate can be revoked, as RFC 5280 section 5.3.1 spells it. A hold is none of them: what is revoked stays so."""


@dataclass(frozen=True, slots=True)
class Office:
    """An authority without its key."""

    directory: Path
    consortium: str
    root: Certificate
    """What nodes trust."""
    certificate: Certificate
    """Of the key that signs here: the root's own, or the issuing certificate."""

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The authority in `directory`. Raises IdentityError when a file is missing, damaged or not the other's."""
        path = root_path(directory)
        if not is_there(path):
            raise IdentityError(f"{directory} holds no authority ({path.name} is missing); make one with 'cohortium pki init'")
        trust = TrustStore.load(path)
        root = read(trust.roots[0])
        if len(trust.roots) != 1 or len(root.consortiums) != 1:
            raise IdentityError(f"{path} must hold one root certificate, with one URI name spiffe://CONSORTIUM")
        certificate = root
        if is_there(issuing_path(directory)):
            found = read_certificates(issuing_path(directory))
            try:
                if len(found) != 1:
                    raise IdentityError(f"it must hold one certificate, signed by that in {path.name}")
                trust.check_authority(found)
            except IdentityError as error:
                raise IdentityError(f"{issuing_path(directory)}: {error}") from error
            certificate = read(found[0])
        return cls(directory, next(iter(root.consortiums)), root, certificate)

    @property
    def register(self) -> Register:
        """All that happened here."""
        return Register(register_path(self.directory))

    def check_member(self, identity: Identity) -> None:
        """Raises IdentityError unless `identity` is of this authority's consortium."""
        if identity.consortium != self.consortium:
            raise IdentityError(f"{identity} is not in {self.consortium}, the consortium of the authority in {self.directory}")

    def revoke(self, serial: str, reason: str, now: float) -> Issued:
        """Take back the certificate with this serial number (hexadecimal); the next list says so.

        `reason` is a key of REASONS. Raises IdentityError when it is not in the register, or revoked already.
        """
        _check_reason(reason)
        with self.register.locked() as book:
            issued = book.records.issued.get(serial)
            if issued is None:
                raise IdentityError(f"no certificate with serial number {serial} was issued here; look with 'cohortium pki list'")
            revoked = book.records.revoked.get(serial)
            if revoked is not None:
                raise IdentityError(f"the certificate {serial} was revoked already, on {utc(revoked.at)} ({revoked.reason})")
            book.append(Revoked(at=int(now), serial=serial, reason=reason))
            return issued

    def revoke_identity(self, identity: Identity, reason: str, now: float) -> tuple[list[Issued], list[Granted]]:
        """Take back every certificate of `identity` that has not ended, and every token that it could still use.

        Returns both. `reason` is a key of REASONS. Raises IdentityError when there is nothing to take back.
        """
        self.check_member(identity)
        _check_reason(reason)
        with self.register.locked() as book:
            records, at = book.records, int(now)
            mine = [entry for entry in records.issued.values() if entry.identity == identity.uri and entry.not_after >= now]
            certificates = [entry for entry in mine if entry.serial not in records.revoked]
            tokens = [entry for entry in records.open_tokens(now) if entry.identity == identity.uri]
            if not certificates and not tokens:
                raise IdentityError(
                    f"{identity} has no certificate or token here that is valid and not revoked; look with 'cohortium pki list'"
                )
            book.append(
                *(Revoked(at=at, serial=entry.serial, reason=reason) for entry in certificates),
                *(Withdrawn(at=at, token=entry.token) for entry in tokens),
            )
            return certificates, tokens

    def grant(
        self,
        identity: Identity,
        dns: Sequence[str],
        ips: Sequence[str],
        now: float,
        days: int = LEAF_DAYS,
        *,
        seconds: int,
        service: Identity,
        address: str,
    ) -> Token:
        """A token by which `identity` gets one certificate from `service` at `address` (https://HOST:PORT), within `seconds`.

        `dns`, `ips` and `days` are what that certificate will have, as for `Authority.issue`. `seconds` is 1 to
        MAX_TOKEN_SECONDS. Only the digest of its secret is kept here. Raises IdentityError.
        """
        self.check_member(identity)
        names = ListenerNames.parse(dns, ips)
        check_days(days)
        if not 1 <= seconds <= MAX_TOKEN_SECONDS:
            raise IdentityError(f"a token cannot be valid for {seconds} seconds; use 1 to {MAX_TOKEN_SECONDS}, which is 7 days")
        token = Token(identity, service, address, self.root.digest, secrets.token_bytes(SECRET_BYTES))
        entry = Granted(
            at=int(now),
            token=token.digest,
            identity=identity.uri,
            dns=names.dns,
            ips=tuple(map(str, names.ips)),
            days=days,
            expires=int(now) + seconds,
        )
        with self.register.locked() as book:
            book.append(entry)
        return token


def _check_reason(reason: str) -> None:
    if reason not in REASONS:
        raise IdentityError(f"{reason!r} is no reason to revoke a certificate; reasons are {', '.join(REASONS)}")


def root_path(directory: Path) -> Path:
    """Where an authority keeps the root certificate."""
    return directory / "ca.crt"


def key_path(directory: Path) -> Path:
    """Where an authority keeps the key that signs."""
    return directory / "ca.key"


def issuing_path(directory: Path) -> Path:
    """Where an authority below another keeps its own certificate."""
    return directory / "issuing.crt"


def register_path(directory: Path) -> Path:
    """Where an authority keeps its register."""
    return directory / "register.jsonl"
