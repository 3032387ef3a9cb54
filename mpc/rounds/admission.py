"""What a message must pass before any round sees it (protocol.md, "Envelope").

The order is fixed: size, strict encoding, version, recipient, certificate chain and role, signature, TLS peer. Up to the
signature every failure gets the one answer `rejected`; what failed is for the local counters only.
"""

from __future__ import annotations

from dataclasses import dataclass

from mpc.credentials import Credentials
from mpc.envelope import Envelope
from mpc.errors import Answer, IdentityError, MessageRefused, RevokedError
from mpc.identity import Credential, Identity, Role
from mpc.messages import RULES
from mpc.signature import verify_digest


@dataclass(frozen=True, slots=True, repr=False)
class Admitted:
    """An envelope whose signature holds, and the credential of its signer."""

    envelope: Envelope
    credential: Credential


def admit(envelope: Envelope, *, peer: Identity, me: Identity, credentials: Credentials, now: float) -> Admitted:
    """Checks what `peer` carried here, once `parse` has checked size, encoding and version. Raises MessageRefused."""
    rule = RULES[envelope.kind]
    if envelope.recipient != me or me.role not in rule.recipients:
        raise MessageRefused(Answer.REJECTED, "recipient")
    try:
        credential = credentials.learn(envelope.chain, now) if envelope.chain else None
        credential = credential or credentials.find(envelope.header.certificate, now)
    except RevokedError as error:
        raise MessageRefused(Answer.REJECTED, "certificate-revoked") from error
    except IdentityError as error:
        raise MessageRefused(Answer.REJECTED, "certificate") from error
    if credential is None:
        raise MessageRefused(Answer.REJECTED, "certificate-unknown")
    if credential.digest != envelope.header.certificate or credential.identity != envelope.sender:
        raise MessageRefused(Answer.REJECTED, "certificate")
    if envelope.sender.consortium != me.consortium or envelope.sender.role not in rule.senders:
        raise MessageRefused(Answer.REJECTED, "role")
    if not verify_digest(credential.public_key, envelope.signature, envelope.digest):
        raise MessageRefused(Answer.REJECTED, "signature")
    carried = peer.role is Role.RELAY and envelope.sealed
    if peer != envelope.sender and not (carried and peer.consortium == me.consortium):
        raise MessageRefused(Answer.REFUSED, "carrier")
    return Admitted(envelope, credential)
