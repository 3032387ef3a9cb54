"""A client that is not ours: Python's own TLS and HTTP, with whatever certificate a test gives it."""

from __future__ import annotations

import http.client
import ssl
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from mpc.identity import Identity
from pki.authority import Authority
from pki.files import write_certificates, write_private_key
from pki.profile import ListenerNames, leaf_certificate
from tests.e2e.harness import SECONDS, Cohort

_DAY = timedelta(days=1).total_seconds()


@dataclass(frozen=True)
class Files:
    """A key, its certificate, and the authority that it trusts: PEM."""

    key: Path
    certificate: Path
    authority: Path


def files_of(cohort: Cohort, name: str) -> Files:
    """What a node of the deployment has."""
    directory = cohort.directory / name
    return Files(directory / f"{name}.key", directory / f"{name}.crt", cohort.directory / "ca" / "ca.crt")


def issue(cohort: Cohort, identity: Identity, out: Path, *, expired: bool = False) -> Files:
    """A certificate for `identity` of the deployment's authority, good from now on or until a minute ago."""
    # Issued a day and a minute ago for one day; the authority itself begins some minutes before the test.
    began = time.time() - (_DAY + 60 if expired else 0)
    return _issue(cohort, Authority.load(cohort.directory / "ca"), identity, out, began)


def issue_elsewhere(cohort: Cohort, identity: Identity, out: Path) -> Files:
    """A certificate for `identity` of an authority that the deployment does not trust."""
    return _issue(cohort, Authority.create(out / "other-ca", identity.consortium, time.time()), identity, out, time.time())


def _issue(cohort: Cohort, issuer: Authority, identity: Identity, out: Path, began: float) -> Files:
    key = ec.generate_private_key(ec.SECP256R1())
    names = ListenerNames.parse((), ("127.0.0.1",))
    certificate = leaf_certificate(identity, key.public_key(), names, issuer.certificate.x509, issuer._key, began, days=1)
    stem = f"{identity.role}-{identity.name}"
    files = Files(out / f"{stem}.key", out / f"{stem}.crt", cohort.directory / "ca" / "ca.crt")
    write_private_key(files.key, key, force=False)
    write_certificates(files.certificate, [certificate], force=False)
    return files


def context(authority: Path, shown: Files | None) -> ssl.SSLContext:
    """TLS as any program would do it: the server's certificate is verified, `shown` is what the client shows."""
    made = ssl.create_default_context(cafile=str(authority))
    made.set_alpn_protocols(["http/1.1"])
    if shown is not None:
        made.load_cert_chain(shown.certificate, shown.key)
    return made


def request(
    port: int,
    tls: ssl.SSLContext,
    body: bytes = b"",
    *,
    method: str = "POST",
    path: str = "/v1/inbox",
    headers: dict[str, str] | None = None,
) -> tuple[int, str]:
    """Status and word of the answer."""
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=SECONDS, context=tls)
    try:
        connection.request(method, path, body, {"Content-Type": "application/octet-stream", **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()
