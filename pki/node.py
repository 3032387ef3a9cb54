"""A node's own identity, checked before use: key, certificate and name belong together."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from mpc.errors import IdentityError
from mpc.identity import Credential, Identity, Trust
from pki.certificate import read
from pki.files import read_certificates, read_private_key


@dataclass(frozen=True, slots=True)
class NodeKey:
    """What a node proves itself with. Its repr shows the name and nothing of the key."""

    identity: Identity
    private_key: ec.EllipticCurvePrivateKey = field(repr=False)
    chain: tuple[bytes, ...] = field(repr=False)
    """DER, leaf first, without the root."""
    credential: Credential = field(repr=False)


def load_node_key(key_path: Path, certificate_path: Path, trust: Trust, now: float, expected: Identity) -> NodeKey:
    """The key and certificate of `expected` in these files, see `check_node_key`.

    Raises IdentityError that names the file and the remedy when one is missing, unsafe or damaged, or the two cannot be used.
    """
    private_key = read_private_key(key_path)
    chain = read_certificates(certificate_path)
    try:
        return check_node_key(private_key, chain, trust, now, expected, f"the key in {key_path}")
    except IdentityError as error:
        raise IdentityError(f"{certificate_path}: {error}") from error


def check_node_key(
    private_key: ec.EllipticCurvePrivateKey,
    chain: tuple[bytes, ...],
    trust: Trust,
    now: float,
    expected: Identity,
    key_name: str = "its key",
) -> NodeKey:
    """A private key and its certificates, checked against each other and against `trust` at `now` (Unix seconds).

    Raises IdentityError with the remedy when the key is not the certificate's, the chain is not trusted or not valid now, or
    the certificate names another node than `expected`.
    """
    if read(chain[0]).x509.public_key() != private_key.public_key():
        raise IdentityError(f"it is not the certificate of {key_name}; issue the two together")
    credential = trust.verify(chain, now)
    if credential.identity != expected:
        raise IdentityError(
            f"it is for {credential.identity}, but this node is configured as {expected}; have one issued for this node"
        )
    return NodeKey(expected, private_key, chain, credential)
