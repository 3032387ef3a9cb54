"""A node's own identity, read from its files and checked before use: key, certificate and name belong together."""

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
    """The key and certificate of `expected`, checked against each other and against `trust` at `now` (Unix seconds).

    Raises IdentityError that names the file and the remedy when a file is missing, unsafe or damaged, the key is not
    the certificate's, the chain is not trusted or not valid now, or the certificate names another node.
    """
    private_key = read_private_key(key_path)
    chain = read_certificates(certificate_path)
    try:
        leaf = read(chain[0])
        if leaf.x509.public_key() != private_key.public_key():
            raise IdentityError(f"it is not the certificate of the key in {key_path}; issue the two together")
        credential = trust.verify(chain, now)
        if credential.identity != expected:
            raise IdentityError(f"it is for {credential.identity}, but this node is configured as {expected}")
    except IdentityError as error:
        raise IdentityError(f"{certificate_path}: {error}") from error
    return NodeKey(expected, private_key, chain, credential)
