"""The authority at work in a daemon: it redeems tokens and renews certificates, one after the other, on a thread.

What it signs is in its register before anybody has it; the register is locked while that happens, also against people who use
`cohortium pki` in the same directory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mpc.errors import IdentityError
from mpc.identity import Identity
from nodes.config import EnrolmentConfig
from nodes.log import Event, Logger, Thinned
from nodes.metrics import Registry
from nodes.store.audit import AuditEvent
from pki.authority import Authority
from pki.files import read_passphrase
from pki.office import key_path
from pki.token import TokenRefused, secret_digest, short
from pki.trust import TrustStore

Audit = Callable[..., None]
"""Takes an event and its content into the audit log."""


def load_authority(config: EnrolmentConfig, trust: TrustStore) -> Authority:
    """The authority of the configuration. Raises IdentityError, also when this node would not believe what it signs."""

    def passphrase() -> bytes:
        if config.passphrase is None:
            raise IdentityError(
                f"{key_path(config.authority)} is protected by a passphrase; name the file that holds it: enrolment.passphrase"
            )
        return read_passphrase(config.passphrase)

    authority = Authority.load(config.authority, passphrase)
    if authority.root.der not in trust.roots:
        raise IdentityError(
            f"the root of the authority in {config.authority} is not one that this node trusts, so it could not talk to the "
            f"nodes that enrol here; add its ca.crt to 'identity.authorities'"
        )
    return authority


class Desk:
    """Signs for nodes that have shown a token, or the certificate that they have."""

    def __init__(self, authority: Authority, log: Logger, metrics: Registry, audit: Audit) -> None:
        self.authority = authority
        self._log = log
        self._audit = audit
        self._thinned = Thinned()
        self._turn = asyncio.Lock()
        self._enrolments = metrics.counter(
            "cohortium_enrolments_total", "Tokens that were shown, by what came of it.", ("outcome",)
        )
        self._granted = metrics.counter(
            "cohortium_renewals_granted_total", "Certificates that nodes asked to renew here, by what came of it.", ("outcome",)
        )

    async def enrol(self, secret: bytes, identity: Identity, request: bytes, address: str) -> bytes:
        """The certificate chain, PEM, that the token is good for. Raises TokenRefused, or IdentityError when signing fails."""
        token = short(secret_digest(secret))
        try:
            chain = await self._sign(lambda: self.authority.redeem(secret, identity, request, time.time()))
        except TokenRefused as refused:
            self.refused(refused.fault, address, str(refused), identity)
            raise
        except IdentityError as error:
            self.refused("failed", address, str(error), identity)
            raise
        self._enrolments.inc(outcome="enrolled")
        self._note(Event.ENROLLED, AuditEvent.ENROLLED, identity, chain, token=token, address=address)
        return _pem(chain)

    def refused(self, outcome: str, address: str, reason: str, identity: Identity | None = None) -> None:
        """Somebody at the door got nothing."""
        self._enrolments.inc(outcome=outcome)
        name = {} if identity is None else {"identity": identity.uri}
        self._audit(AuditEvent.ENROLMENT_REFUSED, address=address, outcome=outcome, **name)
        left_out = self._thinned.due(outcome)
        if left_out is not None:
            self._log.warning(Event.ENROLMENT_REFUSED, address=address, outcome=outcome, reason=reason, left_out=left_out, **name)

    async def renew(self, identity: Identity, certificate: bytes, request: bytes) -> bytes:
        """The next certificate chain, PEM, of a node that has proved itself by `certificate`, DER. Raises IdentityError."""
        try:
            chain = await self._sign(lambda: self.authority.renew(request, identity, time.time(), shown=certificate))
        except IdentityError as error:
            self._granted.inc(outcome="refused")
            self._audit(AuditEvent.RENEWAL_REFUSED, what=identity.uri)
            left_out = self._thinned.due(identity.uri)
            if left_out is not None:
                self._log.warning(Event.RENEWAL_REFUSED, identity=identity.uri, reason=str(error), left_out=left_out)
            raise
        self._granted.inc(outcome="renewed")
        self._note(Event.RENEWAL_GRANTED, AuditEvent.RENEWAL_GRANTED, identity, chain)
        return _pem(chain)

    async def _sign(self, sign: Callable[[], tuple[x509.Certificate, ...]]) -> tuple[x509.Certificate, ...]:
        async with self._turn:  # those who wait hold no thread
            return await asyncio.to_thread(sign)

    def _note(
        self, event: Event, audited: AuditEvent, identity: Identity, chain: tuple[x509.Certificate, ...], **more: str
    ) -> None:
        serial = f"{chain[0].serial_number:x}"
        self._log.info(event, identity=identity.uri, serial=serial, **more)
        self._audit(audited, identity=identity.uri, serial=serial, **more)


def _pem(chain: tuple[x509.Certificate, ...]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)
