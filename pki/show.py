"""What a certificate or a revocation list says, for a person and for a script. Describes; trusts nothing."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec

from mpc.errors import IdentityError
from mpc.identity import Identity
from pki.certificate import Certificate, read, utc
from pki.request import key_digest
from pki.revocation import RevocationList

_KEYS = {"secp256r1": "P-256", "secp384r1": "P-384"}


def describe(der: bytes) -> dict[str, object]:
    """One certificate as a JSON object; `identity` and `role` are null when it does not name a node.

    Raises IdentityError when the bytes are not a certificate.
    """
    facts = read(der)
    identity = _identity(facts)
    return {
        "identity": identity.uri if identity else None,
        "role": str(identity.role) if identity else None,
        "authority": facts.authority,
        "uris": list(facts.uris),
        "dns": list(facts.dns),
        "ips": list(facts.ips),
        "subject": facts.subject,
        "issuer": facts.issuer,
        "serial": f"{facts.serial:x}",
        "not_before": utc(facts.not_before),
        "not_after": utc(facts.not_after),
        "key": _KEYS.get(facts.curve, facts.curve or "not an elliptic curve key"),
        "key_usage": sorted(facts.key_usage or ()),
        "extended_key_usage": sorted(facts.extended_key_usage or ()),
        "fingerprint": fingerprint(facts.digest),
        "key_fingerprint": _key_fingerprint(facts),
    }


def describe_list(revocations: RevocationList) -> dict[str, object]:
    """One revocation list as a JSON object."""
    return {
        "issuer": revocations.issuer,
        "number": revocations.number,
        "this_update": utc(revocations.this_update),
        "next_update": utc(revocations.next_update),
        "revoked": [
            {"serial": f"{serial:x}", "at": utc(revocation.at), "reason": revocation.reason}
            for serial, revocation in revocations.revoked.items()
        ],
    }


def render(description: dict[str, object]) -> str:
    """`description` as aligned lines; empty fields are left out."""
    lines = []
    for field, value in description.items():
        if value:
            lines += [f"{field.replace('_', ' '):<19} {text}" for text in _texts(value)]
    return "\n".join(lines)


def fingerprint(digest: bytes) -> str:
    """A SHA-256 digest as `sha256:HEX`, the form in which people compare certificates."""
    return f"sha256:{digest.hex()}"


def _key_fingerprint(facts: Certificate) -> str | None:
    key = facts.x509.public_key() if facts.curve else None
    return fingerprint(key_digest(key)) if isinstance(key, ec.EllipticCurvePublicKey) else None


def _texts(value: object) -> list[str]:
    """A line each for objects, one for everything else."""
    if isinstance(value, list) and isinstance(value[0], dict):
        return [" ".join(item.values()) for item in value]
    return [", ".join(map(str, value)) if isinstance(value, list) else "yes" if value is True else str(value)]


def _identity(facts: Certificate) -> Identity | None:
    if facts.authority or len(facts.uris) != 1:
        return None
    try:
        return Identity.parse(facts.uris[0])
    except IdentityError:
        return None
