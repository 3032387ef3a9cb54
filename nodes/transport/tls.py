"""TLS 1.3 between nodes: both ends show a certificate, and each knows who the other is when the handshake ends.

A node is its SPIFFE URI (`mpc.identity`), so host names are not compared (RFC 9525 section 6 with a URI-ID as the only
reference identity). The client names the node it expects; another node, however good its certificate, never sees a byte
of the request.

Contexts are made by hand and not by `ssl.create_default_context`, which would trust the machine's web authorities and obey
SSLKEYLOGFILE.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import secrets
import ssl
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, Protocol, cast

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from mpc.errors import IdentityError, RevokedError
from mpc.identity import Identity
from nodes.transport.limits import KIB

ALPN = "http/1.1"

# asyncio holds a buffer of this size for every TLS connection from its first moment on. Its own 256 KiB would let strangers who
# connect and say nothing take hundreds of megabytes.
asyncio.sslproto.SSLProtocol.max_size = 64 * KIB

CheckPeer = Callable[[tuple[bytes, ...]], Identity]
"""The chain of a peer (DER, leaf first, without the root) to its identity. Raises IdentityError.

OpenSSL has verified the chain, which may not be the one that the peer sent. It knows no more than RFC 5280.
"""


class Proof(Protocol):
    """What a node proves itself with: `pki.node.NodeKey` is one."""

    @property
    def private_key(self) -> ec.EllipticCurvePrivateKey:
        """Of the first certificate."""
        ...

    @property
    def chain(self) -> tuple[bytes, ...]:
        """DER, leaf first, without the root."""
        ...


handshake_failed: ContextVar[Callable[[ssl.SSLError], None] | None] = ContextVar("handshake_failed", default=None)
"""Told why a server's handshake failed. A context variable: asyncio makes the SSLObject and hands nothing on."""


class PeerRefused(ssl.SSLCertVerificationError):
    """The chain is valid, but the node behind it is not one to talk to. `slug` is for counters, the text for people."""

    def __init__(self, slug: str, text: str) -> None:
        super().__init__(text)
        self.slug = slug

    def __str__(self) -> str:
        return str(self.args[0])


class NodeObject(ssl.SSLObject):
    """One end of a connection; knows its `peer` from the moment the handshake succeeds, and the `chain` that proved it."""

    peer: Identity
    chain: tuple[bytes, ...]
    _expected: Identity | None
    _incoming: ssl.MemoryBIO
    _outgoing: ssl.MemoryBIO
    _on_failure: Callable[[ssl.SSLError], None] | None
    _failed: bool

    def do_handshake(self) -> None:
        """As `ssl.SSLObject.do_handshake`, and raises PeerRefused when the verified peer is not one to talk to."""
        if self._failed:
            self._incoming.read()  # nobody will read it: do not let it pile up
            raise ssl.SSLWantReadError
        try:
            super().do_handshake()
            self.peer = self._verified_peer()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            if self._on_failure is not None:
                self._on_failure(error)
                if self._outgoing.pending:
                    # asyncio cuts the connection on an error without sending the alert that OpenSSL has just written,
                    # and the peer would learn nothing. Told to wait, it does send it; the listener cuts a moment later.
                    self._failed = True
                    raise ssl.SSLWantReadError from error
            raise

    def _verified_peer(self) -> Identity:
        # RFC 7301 section 3.2: a server that ignores the extension is no error for OpenSSL.
        if self.selected_alpn_protocol() != ALPN:
            raise PeerRefused("protocol", f"the other end did not agree on {ALPN}; it is not a node's inbox")
        try:
            self.chain = _chain(self)
            peer = peer_identity(self, self.chain, cast(NodeContext, self.context).check_peer)
        except RevokedError as error:
            raise PeerRefused("revoked", str(error)) from error
        except IdentityError as error:
            raise PeerRefused("certificate", str(error)) from error
        if self._expected is not None and peer != self._expected:
            raise PeerRefused("identity-mismatch", f"expected {self._expected}, met {peer}")
        return peer


class NodeContext(ssl.SSLContext):
    """A context whose connections verify the peer's identity. Made by `server_context` and `client_context`."""

    sslobject_class = NodeObject
    check_peer: CheckPeer | None = None

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """As `ssl.SSLContext.wrap_bio`, but a client's `server_hostname` is the URI of the node that it expects.

        It is compared with the certificate and never sent: no name of a node travels in the clear as SNI would. So one
        context serves all peers. Raises IdentityError when a client names nobody.
        """
        expected = None
        if not server_side:
            if not isinstance(server_hostname, str):
                raise IdentityError("a client must say which node it expects")
            expected = Identity.parse(server_hostname)
        # No session is passed: resuming one would skip the certificate.
        connection = cast(NodeObject, super().wrap_bio(incoming, outgoing, server_side))
        connection._expected = expected
        connection._incoming = incoming
        connection._outgoing = outgoing
        connection._on_failure = handshake_failed.get() if server_side else None
        connection._failed = False
        return connection


def server_context(proof: Proof, roots: Sequence[bytes], check_peer: CheckPeer | None = None) -> NodeContext:
    """What a listener accepts connections with.

    `roots` are the trusted certificates, DER. `check_peer` checks more of a peer's certificates than OpenSSL does, on every
    handshake. Raises IdentityError when OpenSSL cannot use `proof`.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, proof, roots, check_peer)
    context.num_tickets = 0  # RFC 8446 section 2.2: a ticket would let a revoked node back in without its certificate
    return context


def client_context(proof: Proof, roots: Sequence[bytes], check_peer: CheckPeer | None = None) -> NodeContext:
    """What connections to other nodes are opened with; arguments and errors as for `server_context`."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, proof, roots, check_peer)


def strangers_context(proof: Proof) -> ssl.SSLContext:
    """What a listener accepts guests with who have no certificate yet; it proves who it is. Errors as for `server_context`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _restrict(context)
    context.num_tickets = 0
    _show(context, proof)
    return context


def visitor_context(roots: Sequence[bytes] | None, check_peer: CheckPeer) -> NodeContext:
    """What a node that has no certificate yet opens connections with; arguments as for `server_context`.

    With None no chain is verified, and `check_peer` is shown the leaf alone: good for what is public and checked by other
    means, and for nothing else.
    """
    context = NodeContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_peer = check_peer
    _restrict(context)
    if roots is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        _trust(context, roots)
    return context


def is_refused(transport: asyncio.BaseTransport, check_peer: CheckPeer) -> bool:
    """Whether the peer at the other end of a connection of `NodeContext`, whose handshake has succeeded, would be refused now."""
    try:
        check_peer(cast(NodeObject, transport.get_extra_info("ssl_object")).chain)
    except IdentityError:
        return True
    return False


def peer_identity(connection: ssl.SSLObject, chain: tuple[bytes, ...], check_peer: CheckPeer | None = None) -> Identity:
    """Who the verified certificate of the other end says it is: its one URI SAN. Raises IdentityError."""
    if check_peer is not None:
        return check_peer(chain)
    names = (connection.getpeercert() or {}).get("subjectAltName", ())
    uris = [str(value) for kind, value in cast("tuple[tuple[str, str], ...]", names) if kind == "URI"]
    if len(uris) != 1:
        raise IdentityError(f"the other end's certificate has {len(uris)} URI names, it must have exactly one")
    return Identity.parse(uris[0])


def _chain(connection: ssl.SSLObject) -> tuple[bytes, ...]:
    """The certificates by which OpenSSL believes the other end, without the root. Raises IdentityError when there are none."""
    leaf = connection.getpeercert(binary_form=True)
    if leaf is None:
        raise IdentityError("the other end showed no certificate")
    if connection.context.verify_mode is ssl.CERT_NONE:
        return (leaf,)
    if sys.version_info >= (3, 13):
        found = [bytes(der) for der in connection.get_verified_chain()]
    else:  # there since Python 3.10, and not public until 3.13
        der = 2  # _ssl.ENCODING_DER
        found = [one.public_bytes(der) for one in cast(Any, connection)._sslobj.get_verified_chain() or ()]
    if len(found) < 2:  # so it is in a resumed session, which nobody here offers
        raise IdentityError("the certificates of the other end lead to no authority")
    return tuple(found[:-1])


def _context(protocol: int, proof: Proof, roots: Sequence[bytes], check_peer: CheckPeer | None) -> NodeContext:
    context = NodeContext(protocol)
    context.check_peer = check_peer
    _restrict(context)
    _show(context, proof)
    _trust(context, roots)
    return context


def _restrict(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    context.set_alpn_protocols([ALPN])


def _trust(context: ssl.SSLContext, roots: Sequence[bytes]) -> None:
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=b"".join(roots))


def _show(context: ssl.SSLContext, proof: Proof) -> None:
    # Python's `ssl` takes keys from files and in no other way. This one is encrypted under a password that nobody keeps.
    password = secrets.token_hex(32)
    key = proof.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password.encode()))
    try:
        with tempfile.NamedTemporaryFile(prefix="cohortium-") as file:
            file.write(key + "".join(map(ssl.DER_cert_to_PEM_cert, proof.chain)).encode())
            file.flush()
            context.load_cert_chain(file.name, password=password)
    except OSError as error:  # ssl.SSLError is one
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise IdentityError(
            f"TLS cannot use this node's key and certificate ({reason}); use a pair that was issued together, and see that "
            f"{tempfile.gettempdir()} can be written"
        ) from error
