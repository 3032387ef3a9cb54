"""TLS 1.3 between nodes: both ends show a certificate, and each knows who the other is when the handshake ends.

A node is its SPIFFE URI (`mpc.identity`), so host names are not compared (RFC 9525 section 6 with a URI-ID as the only
reference identity). The client names the node it expects; another node, however good its certificate, never sees a byte
of the request.

Contexts are made from files because Python's `ssl` loads keys in no other way. They are made by hand and not by
`ssl.create_default_context`, which would trust the machine's web authorities and obey SSLKEYLOGFILE.
"""

from __future__ import annotations

import asyncio.sslproto
import ssl
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import cast

from mpc.errors import IdentityError
from mpc.identity import Identity
from nodes.transport.limits import KIB

ALPN = "http/1.1"

# asyncio holds a buffer of this size for every TLS connection from its first moment on. Its own 256 KiB would let strangers who
# connect and say nothing take hundreds of megabytes.
asyncio.sslproto.SSLProtocol.max_size = 64 * KIB

CheckPeer = Callable[[bytes], Identity]
"""Leaf certificate (DER) of a peer whose chain is verified, to its identity. Raises IdentityError."""

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
    """One end of a connection; knows its `peer` from the moment the handshake succeeds."""

    peer: Identity
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
            peer = peer_identity(self, cast(NodeContext, self.context).check_peer)
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

        It is compared with the certificate and never sent: no name of a node travels in the clear as SNI would. One
        context serves all peers; a context a peer would read the key files again whenever a new peer is met, and could
        meet them half replaced. Raises IdentityError when a client names nobody.
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


def server_context(
    key_file: Path, certificate_file: Path, roots: Sequence[bytes], check_peer: CheckPeer | None = None
) -> NodeContext:
    """What a listener accepts connections with.

    The files are PEM: private key; certificate chain, leaf first. `roots` are the trusted certificates, DER.
    `check_peer` checks more of a peer's certificate than OpenSSL does, on every handshake. Raises IdentityError when a
    file cannot be used.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, key_file, certificate_file, roots, check_peer)
    context.num_tickets = 0  # RFC 8446 section 2.2: a ticket would let a revoked node back in without its certificate
    return context


def client_context(
    key_file: Path, certificate_file: Path, roots: Sequence[bytes], check_peer: CheckPeer | None = None
) -> NodeContext:
    """What connections to other nodes are opened with; arguments and errors as for `server_context`."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, key_file, certificate_file, roots, check_peer)


def peer_identity(connection: ssl.SSLObject, check_peer: CheckPeer | None = None) -> Identity:
    """Who the verified certificate of the other end says it is: its one URI SAN. Raises IdentityError."""
    leaf = connection.getpeercert(binary_form=True)
    if leaf is None:
        raise IdentityError("the other end showed no certificate")
    if check_peer is not None:
        return check_peer(leaf)
    names = (connection.getpeercert() or {}).get("subjectAltName", ())
    uris = [str(value) for kind, value in cast("tuple[tuple[str, str], ...]", names) if kind == "URI"]
    if len(uris) != 1:
        raise IdentityError(f"the other end's certificate has {len(uris)} URI names, it must have exactly one")
    return Identity.parse(uris[0])


def _context(
    protocol: int, key_file: Path, certificate_file: Path, roots: Sequence[bytes], check_peer: CheckPeer | None
) -> NodeContext:
    context = NodeContext(protocol)
    context.check_peer = check_peer
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    context.set_alpn_protocols([ALPN])
    _load_chain(context, key_file, certificate_file)
    context.load_verify_locations(cadata=b"".join(roots))
    return context


def _load_chain(context: ssl.SSLContext, key_file: Path, certificate_file: Path) -> None:
    for file in (key_file, certificate_file):
        _check_readable(file)
    try:
        # Without a password given, OpenSSL would ask the terminal for one and wait.
        context.load_cert_chain(certificate_file, key_file, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise IdentityError(
                f"the key {key_file} does not belong to the certificate {certificate_file}; use the pair that was issued together"
            ) from error
        raise IdentityError(
            f"cannot use key {key_file} with certificate {certificate_file}: both must be PEM, the key without a password"
        ) from error


def _check_readable(file: Path) -> None:
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise IdentityError(f"cannot read {file}: {error.strerror}") from error
