"""The key and certificate that a daemon uses: those of its configuration, or newer ones that it got itself.

    STATE/identity.sealed     key and chain, PEM, sealed under the storage key (mode 0600); then those before, of open rounds
    STATE/identity.pem        the same, plain (mode 0600), of a node that has no storage key: a relay

The file is replaced whole or not at all, so a power cut leaves the old pair or the new one. The configured files are never
written: whichever pair holds and is the newer one is used, and an administrator who puts new files in place wins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from ssl import DER_cert_to_PEM_cert, PEM_cert_to_DER_cert

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from mpc.errors import IdentityError
from mpc.identity import Identity, Trust
from nodes.store.base import StoreError
from nodes.store.sealing import SealingKey
from pki.certificate import read
from pki.files import PRIVATE, is_there, read_certificates, read_secret, write_file
from pki.node import NodeKey, check_node_key, load_node_key

SEALED = "identity.sealed"
PLAIN = "identity.pem"
_LABEL = "identity key and certificate"
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----\n")
_PAIR = re.compile(rf"(-----BEGIN PRIVATE KEY-----[^-]*-----END PRIVATE KEY-----\n)((?:{_CERTIFICATE.pattern})+)")


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a pair is kept, and what seals it: asked for only when there is something to seal or open."""

    state: Path
    key: Callable[[], SealingKey] | None = None

    @property
    def path(self) -> Path:
        """The file."""
        return self.state / (PLAIN if self.key is None else SEALED)

    def write(self, node: NodeKey, former: Sequence[NodeKey] = ()) -> None:
        """Keeps this pair in place of what is there. Raises IdentityError, and leaves that as it is."""
        pem = b"".join(map(_pem, (node, *former)))
        write_file(self.path, pem if self.key is None else self.key().seal(pem, _LABEL), mode=PRIVATE, force=True)

    def load(self, trust: Trust, now: float, expected: Identity) -> tuple[NodeKey, ...]:
        """The pairs that are kept, the newest first; of the others those that hold. Raises IdentityError if the first fails."""
        try:
            if not is_there(self.path):
                return ()
        except IdentityError:  # whoever may not look into the state directory hears it when that is opened
            return ()
        data = read_secret(self.path)
        found: list[NodeKey] = []
        try:
            for private_key, chain in _parse(data if self.key is None else self.key().unseal(data, _LABEL)):
                try:
                    found.append(check_node_key(private_key, chain, trust, now, expected))
                except IdentityError:
                    if not found:
                        raise
        except (IdentityError, StoreError) as error:
            raise IdentityError(f"{self.path}: {error}") from error
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Found:
    """What `load_identity` has found."""

    node: NodeKey
    former: tuple[NodeKey, ...]
    """The others that hold: rounds that were open when `node` came go on under them."""
    passed_over: str
    """Why one cannot be used that should be, if so. Files whose certificate has just ended, as one that was renewed does, should
    not.
    """


def load_identity(key: Path, certificate: Path, kept: Kept, trust: Trust, now: float, expected: Identity) -> Found:
    """The newest of the pair in the configured files and those that are kept.

    Raises IdentityError when none can be used now; see `load_node_key`.
    """
    usable: list[NodeKey] = []
    trouble = lost = ""
    try:
        usable.append(load_node_key(key, certificate, trust, now, expected))
    except IdentityError as error:
        trouble = str(error)
    ended = bool(trouble) and _has_ended(certificate, now)
    try:
        usable += kept.load(trust, now, expected)
    except IdentityError as error:
        lost = str(error)
    if not usable:
        raise IdentityError(f"{trouble}{'; nor can the one be used that this node got itself: ' if lost else ''}{lost}")
    newest, *former = sorted(usable, key=_newness, reverse=True)
    return Found(newest, tuple(former), lost or ("" if ended else trouble))


def _has_ended(certificate: Path, now: float) -> bool:
    try:
        return read(read_certificates(certificate)[0]).not_after < now
    except IdentityError:
        return False


def _newness(node: NodeKey) -> tuple[int, int]:
    leaf = read(node.chain[0])
    return leaf.not_before, leaf.not_after


def _pem(node: NodeKey) -> bytes:
    key = node.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return key + "".join(map(DER_cert_to_PEM_cert, node.chain)).encode()


def _parse(pem: bytes) -> list[tuple[ec.EllipticCurvePrivateKey, tuple[bytes, ...]]]:
    found = []
    try:
        for match in _PAIR.finditer(pem.decode("ascii")):
            private_key = load_pem_private_key(match[1].encode(), None)
            chain = tuple(PEM_cert_to_DER_cert(block) for block in _CERTIFICATE.findall(match[2]))
            assert isinstance(private_key, ec.EllipticCurvePrivateKey), "nothing else is kept"
            found.append((private_key, chain))
    except ValueError:
        found = []
    if not found:
        # Not chained: the parser's own words could quote the key.
        raise IdentityError("it is damaged; delete it, and the configured key and certificate are used") from None
    return found
