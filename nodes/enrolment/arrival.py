"""From a token to a directory with which a node can be started. May be repeated after whatever happened: nothing is done twice.

Each file appears whole or not at all, the key first. A key that is there is used again, and the authority gives the same
certificate to the same key again; so a power cut at any moment costs nothing but the repetition.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from mpc.errors import IdentityError
from mpc.identity import Role
from nodes.enrolment.kit import CERTIFICATE, KEY, PORTS, ROOT, TOKEN, Place, Plan, listen_at, write_kit
from nodes.enrolment.visit import Granted, check_granted
from nodes.fields import address
from pki.authority import Authority
from pki.certificate import read
from pki.files import (
    is_there,
    make_directory,
    read_certificates,
    read_private_key,
    write_certificates,
    write_private_key,
)
from pki.node import load_node_key
from pki.request import make_request
from pki.token import Token
from pki.trust import TrustStore, check_leaf

Fetch = Callable[[bytes], Awaitable[Granted]]
"""Gets what the token is good for, for a PKCS #10 request (PEM)."""


async def arrive(token: Token, directory: Path, wanted: Plan, fetch: Fetch, now: float) -> list[Path]:
    """Makes the node of `token` in `directory`, and returns what was written. `now` is Unix seconds.

    `wanted` is what is known without the token and the certificate. Where nothing is missing the token is not used, and stays
    where it is. Raises IdentityError and TemporaryError.
    """
    make_directory(directory)
    key = _own_key(directory / KEY)
    written: list[Path] = []
    if not (_is_done(token, directory, now) and is_there(directory / wanted.config_name)):
        granted = await fetch(make_request(key, token.identity.name))
        write_certificates(directory / ROOT, [granted.root], force=True)
        write_certificates(directory / CERTIFICATE, granted.chain, force=True)
        written = [directory / name for name in (KEY, ROOT, CERTIFICATE)]
        wanted = _known(token, wanted, granted)
        written += write_kit(wanted, directory)
        (directory / TOKEN).unlink(missing_ok=True)
    return written


def redeem_here(authority: Authority, token: Token, request: bytes, now: float) -> Granted:
    """What the token is good for, from the authority itself: how the node gets its certificate that will serve the others."""
    if authority.root.digest != token.root:
        raise IdentityError(f"the authority in {authority.directory} is not the one that made the token")
    chain = authority.redeem(token.secret, token.identity, request, now)
    granted = Granted(authority.root.x509, chain)
    check_granted(token, granted, request, TrustStore([authority.root.der]), now)
    return granted


def _own_key(path: Path) -> ec.EllipticCurvePrivateKey:
    if not is_there(path):
        write_private_key(path, ec.generate_private_key(ec.SECP256R1()), force=False)
    try:
        return read_private_key(path)
    except IdentityError as error:
        raise IdentityError(
            f"{error}. If this node has no certificate yet, remove the file and enrol again: the token is still good"
        ) from error


def _is_done(token: Token, directory: Path, now: float) -> bool:
    """Whether the certificate is there and holds. Raises IdentityError when the directory is another node's."""
    certificate, root = directory / CERTIFICATE, directory / ROOT
    if is_there(root) and (found := _first(root)) is not None and read(found).digest != token.root:
        raise IdentityError(f"{root} is not the authority of the token; give this node a directory of its own")
    if not is_there(certificate) or (leaf := _first(certificate)) is None:
        return False
    holder = check_leaf(leaf)
    if holder != token.identity:
        raise IdentityError(f"{directory} is that of {holder}, the token is for {token.identity}; give each node its own")
    try:
        load_node_key(directory / KEY, certificate, TrustStore.load(root), now, token.identity)
    except IdentityError:
        return False  # expired, or its root is missing: the token may be for another one
    return True


def _first(path: Path) -> bytes | None:
    """The first certificate of the file; None when it is torn, and to be fetched again."""
    try:
        return read_certificates(path)[0]
    except IdentityError:
        return None


def _known(token: Token, wanted: Plan, granted: Granted) -> Plan:
    """`wanted`, with what the certificate and whoever gave it say where nobody else did."""
    identity, service = token.identity, token.service
    facts = read(granted.chain[0].public_bytes(Encoding.DER))
    hosts = [*facts.dns, *(f"[{ip}]" if ":" in ip else ip for ip in facts.ips)]
    port = address(wanted.listen)[1] if wanted.listen else PORTS[identity.role]
    plan = replace(wanted, url=wanted.url or (f"https://{hosts[0]}:{port}" if hosts else ""))
    if service == identity:  # the authority lives here, and so does the door that the token names
        host, door = address(token.address.removeprefix("https://"))
        return replace(plan, door=listen_at(host, door))
    giver = Place(service.name, granted.service_url)
    relay = giver if service.role is Role.RELAY else granted.relay
    if identity.role is not Role.RELAY:
        plan = replace(plan, relay=plan.relay or relay)
    hospital = plan.hospital
    if service.role is Role.HOSPITAL and (hospital is None or (hospital.name == giver.name and not hospital.url)):
        hospital = giver
    if identity.role is Role.PATIENT and (service.role is Role.RELAY or plan.relay is None):
        return replace(plan, hospital=hospital)  # and asks it, or the relay, for its next certificate unless told otherwise
    return replace(plan, hospital=hospital, service=service, service_url=giver.url)
