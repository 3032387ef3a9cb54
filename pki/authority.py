"""An authority: a directory with a root key, its certificate and the register of all that it issued.

    ca.crt          the root certificate: every node needs a copy
    ca.key          its private key (0600): never leaves this directory
    issued.jsonl    one line a certificate, written before the certificate is handed out; only ever grows

Nothing here reads a clock: the time is an argument.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from mpc.errors import IdentityError
from mpc.identity import Identity
from pki.certificate import Certificate, read, utc
from pki.files import (
    append_line,
    check_free,
    is_there,
    make_directory,
    read_private_key,
    write_certificates,
    write_private_key,
)
from pki.profile import LEAF_DAYS, ListenerNames, leaf_certificate, root_certificate
from pki.trust import TrustStore


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """Where a node's new key and certificate are, and what the certificate says."""

    key: Path
    certificate: Path
    facts: Certificate


@dataclass(frozen=True, slots=True)
class Authority:
    """Issues certificates for one consortium."""

    directory: Path
    consortium: str
    certificate: Certificate
    _key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def create(cls, directory: Path, consortium: str, now: float, force: bool = False) -> Authority:
        """A new root in `directory`, which is made when missing. `now` is Unix seconds.

        With `force` it replaces the one that is there, whose certificates are then worth nothing. Raises IdentityError.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = root_certificate(consortium, key, now)
        make_directory(directory)
        if not force:
            check_free(_certificate_path(directory), _key_path(directory))
        write_private_key(_key_path(directory), key, force=force)
        write_certificates(_certificate_path(directory), [certificate], force=force)
        return cls.load(directory)

    @classmethod
    def load(cls, directory: Path) -> Authority:
        """The authority in `directory`. Raises IdentityError when a file is missing, unsafe or not the other's."""
        path = _certificate_path(directory)
        if not is_there(path):
            raise IdentityError(f"{directory} holds no authority ({path.name} is missing); make one with 'cohortium pki init'")
        roots = TrustStore.load(path).roots
        certificate = read(roots[0])
        if len(roots) != 1 or len(certificate.consortiums) != 1:
            raise IdentityError(f"{path} must hold one root certificate, with one URI name spiffe://CONSORTIUM")
        key = read_private_key(_key_path(directory))
        if key.public_key() != certificate.x509.public_key():
            raise IdentityError(f"{_key_path(directory)} is not the key of {path}; restore the pair from a backup")
        return cls(directory, next(iter(certificate.consortiums)), certificate, key)

    def issue(
        self,
        identity: Identity,
        public_key: ec.EllipticCurvePublicKey,
        dns: Sequence[str],
        ips: Sequence[str],
        now: float,
        days: int = LEAF_DAYS,
    ) -> x509.Certificate:
        """A certificate that binds `public_key` (P-256) to `identity`, entered in the register before it is returned.

        `dns` and `ips` are where the node listens; `now` is Unix seconds; `days` is 1 to 397, cut at the authority's
        own end. Raises IdentityError for another consortium, impossible names or days, or when the authority is not
        valid now.
        """
        if identity.consortium != self.consortium:
            raise IdentityError(f"{identity} is not in {self.consortium}, the consortium of the authority in {self.directory}")
        if not self.certificate.not_before <= now < self.certificate.not_after:
            raise IdentityError(
                f"the authority in {self.directory} is valid from {utc(self.certificate.not_before)} to "
                f"{utc(self.certificate.not_after)}, not now; check the clock, or make a new one "
                f"with 'cohortium pki init'"
            )
        names = ListenerNames.parse(dns, ips)
        certificate = leaf_certificate(identity, public_key, names, self.certificate.x509, self._key, now, days)
        facts = read(certificate.public_bytes(Encoding.DER))
        entry = {
            "serial": f"{facts.serial:x}",
            "identity": identity.uri,
            "not_after": facts.not_after,
            "sha256": facts.digest.hex(),
        }
        append_line(self.directory / "issued.jsonl", json.dumps(entry))
        return certificate

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
        key_path, certificate_path = out / f"{identity.name}.key", out / f"{identity.name}.crt"
        make_directory(out)
        if not force:
            check_free(key_path, certificate_path)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.issue(identity, key.public_key(), dns, ips, now, days)
        write_private_key(key_path, key, force=force)
        write_certificates(certificate_path, [certificate], force=force)
        return NodeFiles(key_path, certificate_path, read(certificate.public_bytes(Encoding.DER)))


def _certificate_path(directory: Path) -> Path:
    return directory / "ca.crt"


def _key_path(directory: Path) -> Path:
    return directory / "ca.key"
