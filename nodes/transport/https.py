"""The real transport: every node has an inbox behind mutual TLS and posts to the inboxes of the others.

`guard` keeps the door, `inbox` answers requests, `tls` proves who is there; this file opens and closes the listener,
sends, and turns whatever goes wrong on the way into a DeliveryError that tells a person what to look at.
"""

from __future__ import annotations

import asyncio
import errno
import re
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import aiohttp
from yarl import URL

from mpc.errors import Answer, ConfigError
from mpc.identity import Identity, Role
from nodes.transport.base import DeliveryError, Receive
from nodes.transport.guard import Count, Guard
from nodes.transport.inbox import CONTENT_TYPE, PATH, STATUS, Inbox
from nodes.transport.limits import Limits
from nodes.transport.tls import CheckPeer, PeerRefused, client_context, server_context

_ANSWER = {status: answer for answer, status in STATUS.items()}

_PIECE = 256 * 1024
"""Bytes of a large body that are encrypted and written at a time; the loop does nothing else for about 0.2 ms."""


class HttpsTransport:
    """Sends to other nodes, and takes messages at `listen`, "HOST:PORT" or "[IPV6]:PORT".

    `key_file` and `certificate_file` are PEM, `roots` DER (see `tls.server_context`, whose errors the constructor
    raises). Peers whose role is not in `roles` are rejected. `count` hears a slug for each connection or request that
    is refused: those that `Guard` and `Inbox` list.
    """

    def __init__(
        self,
        listen: str,
        *,
        key_file: Path,
        certificate_file: Path,
        roots: Sequence[bytes],
        roles: frozenset[Role],
        check_peer: CheckPeer | None = None,
        limits: Limits | None = None,
        count: Count | None = None,
    ) -> None:
        self._listen = listen
        self._host, self._port = _parse_listen(listen)
        self._roles = roles
        self._check_peer = check_peer
        self._limits = limits or Limits()
        self._count = count or (lambda _: None)
        self._guard: Guard | None = None
        self._server: asyncio.Server | None = None
        self._session: aiohttp.ClientSession | None = None
        self.reload(key_file, certificate_file, roots)

    @property
    def port(self) -> int:
        """The port listened on; of use where `listen` asked for port 0, once started."""
        if self._server is None or not self._server.sockets:
            return self._port
        return int(self._server.sockets[0].getsockname()[1])

    def reload(self, key_file: Path, certificate_file: Path, roots: Sequence[bytes]) -> None:
        """Uses these for connections made from now on; those in use stay as they are.

        Raises IdentityError, and changes nothing, when a file cannot be used.
        """
        accepting = server_context(key_file, certificate_file, roots, self._check_peer)
        self._connecting = client_context(key_file, certificate_file, roots, self._check_peer)
        self._accepting = accepting
        if self._guard is not None:
            self._guard.context = accepting

    async def start(self, receive: Receive) -> None:
        """Listens, and gives each message to `receive`. Raises ConfigError when the address cannot be had."""
        inbox = Inbox(receive, self._roles, self._limits, self._count)
        self._guard = Guard(inbox.handle, self._accepting, self._limits, self._count)
        try:
            self._server = await asyncio.get_running_loop().create_server(self._guard.protocol, self._host, self._port)
        except OSError as error:
            raise ConfigError(_why_not_listening(self._listen, error)) from error
        self._session = self._open_session()

    async def stop(self) -> None:
        """Stops accepting, lets requests under way finish within `stop_seconds`, closes every connection."""
        if self._server is not None:
            self._server.close()
        if self._guard is not None:
            await self._guard.close()
        if self._session is not None:
            await self._session.close()
        if self._server is not None:
            await self._server.wait_closed()
        self._guard = self._server = self._session = None

    async def send(self, recipient: Identity, endpoint: str, envelope: bytes) -> Answer:
        """Posts `envelope` to the inbox at `endpoint`, "https://HOST:PORT", and returns the answer of `recipient`.

        Raises DeliveryError for one of these reasons: "stopped", "endpoint", "too-large", "dns", "refused",
        "unreachable", "timeout", "tls", "certificate" (theirs), "certificate-refused" (ours), "identity-mismatch",
        "protocol", "busy", "answer".
        """
        if self._session is None:
            raise DeliveryError("stopped", "this node is not running")
        if len(envelope) > self._limits.message_bytes:
            raise DeliveryError(
                "too-large", f"a message of {len(envelope)} bytes is above the limit of {self._limits.message_bytes}"
            )
        url = _inbox_url(recipient, endpoint)
        # A kept connection may have been closed by the other end at the very moment of its use. The same message twice
        # is harmless, so it is sent again, until it meets a new connection: kept ones are few.
        for kept_ones_left in reversed(range(self._limits.connections_per_recipient + 1)):
            attempt = SimpleNamespace(kept=False)
            try:
                return await self._post(self._session, recipient, url, envelope, attempt)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if not (attempt.kept and kept_ones_left):
                    raise _explain(recipient, url, error) from error
            except (aiohttp.ClientError, TimeoutError) as error:
                raise _explain(recipient, url, error) from error
        raise AssertionError("the last attempt returns or raises")

    async def _post(
        self, session: aiohttp.ClientSession, recipient: Identity, url: URL, envelope: bytes, attempt: SimpleNamespace
    ) -> Answer:
        size = len(envelope)
        async with session.post(
            url,
            data=_pieces(envelope) if size > _PIECE else envelope,
            headers={"Content-Type": CONTENT_TYPE, "Content-Length": str(size)},
            ssl=self._connecting,
            server_hostname=recipient.uri,  # whom the context expects; it is not sent
            timeout=aiohttp.ClientTimeout(total=self._limits.send_deadline(size), sock_connect=self._limits.connect_seconds),
            allow_redirects=False,
            trace_request_ctx=attempt,
        ) as response:
            answer = _ANSWER.get(response.status)
            if answer is None:
                raise _unexpected(recipient, url, response.status)
            # The status says it all; the word is read so that the connection can be kept. A longer body closes it.
            await response.content.read(64)
            return answer

    def _open_session(self) -> aiohttp.ClientSession:
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_note_kept)
        limits = self._limits
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=aiohttp.ThreadedResolver(),
                use_dns_cache=False,
                limit=0,
                limit_per_host=limits.connections_per_recipient,
                keepalive_timeout=limits.kept_seconds,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers={"User-Agent", "Accept", "Accept-Encoding"},
            auto_decompress=False,
            trust_env=False,
            trace_configs=[trace],
        )


async def _note_kept(_session: aiohttp.ClientSession, trace: SimpleNamespace, _params: object) -> None:
    trace.trace_request_ctx.kept = True


async def _pieces(envelope: bytes) -> AsyncIterator[memoryview]:
    view = memoryview(envelope)
    for start in range(0, len(view), _PIECE):
        yield view[start : start + _PIECE]


def _parse_listen(listen: str) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:/\s]+)):([0-9]{1,5})", listen)
    if match is None or int(match[3]) > 65535:
        raise ConfigError(f"cannot listen on {listen!r}: write HOST:PORT, such as 127.0.0.1:8443, 0.0.0.0:8443 or [::]:8443")
    return match[1] or match[2], int(match[3])


def _why_not_listening(listen: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        why = "another program uses that port; stop it, or choose another port"
    elif error.errno == errno.EACCES:
        why = "ports below 1024 need a privilege; choose another port"
    elif error.errno == errno.EADDRNOTAVAIL:
        why = "this machine has no such address; use one of its own, or 0.0.0.0 for all"
    else:
        why = error.strerror or str(error)
    return f"cannot listen on {listen}: {why}"


def _inbox_url(recipient: Identity, endpoint: str) -> URL:
    try:
        url = URL(endpoint)
    except ValueError:
        url = URL()
    if url.scheme != "https" or not url.host or url != url.origin():
        raise DeliveryError("endpoint", f"the address of {recipient} is {endpoint!r}; it must read https://HOST:PORT")
    return url.with_path(PATH)


def _explain(recipient: Identity, url: URL, error: Exception) -> DeliveryError:
    """What went wrong between here and the other end, and what a person can look at."""
    where = f"{recipient} at {url.host}:{url.port}"
    # Specific ones first: aiohttp's errors inherit from one another.
    match error:
        case aiohttp.ConnectionTimeoutError():
            return DeliveryError("timeout", f"no connection to {where} in time; is it up, and the firewall open?")
        case TimeoutError():
            return DeliveryError("timeout", f"no answer from {where} in time; is it overloaded, or the network slow?")
        case aiohttp.ClientConnectorCertificateError(certificate_error=PeerRefused() as refused):
            return DeliveryError(
                refused.slug, f"refused to talk to {where}: {refused}; check the address and that node's certificate"
            )
        case aiohttp.ClientConnectorCertificateError(certificate_error=ssl.SSLCertVerificationError() as untrusted):
            return DeliveryError(
                "certificate",
                f"the certificate of {where} is not accepted: {untrusted.verify_message}; "
                f"check its validity and that both nodes trust the same authority",
            )
        case aiohttp.ClientConnectorSSLError():
            return DeliveryError("tls", f"no TLS 1.3 with {where}; is that port a node's?")
        case aiohttp.ClientConnectorDNSError():
            return DeliveryError("dns", f"cannot find the host of {where}; check its spelling and the name service")
        case aiohttp.ClientConnectorError(os_error=ConnectionRefusedError()):
            return DeliveryError("refused", f"nothing listens for {where}; is that node started, and the port right?")
        case aiohttp.ClientConnectorError(os_error=ConnectionError()):
            return DeliveryError("tls", f"{where} closed the connection during the handshake; it is at its limits, or not a node")
        case aiohttp.ClientConnectorError(os_error=OSError() as problem):
            return DeliveryError("unreachable", f"cannot reach {where}: {problem.strerror or problem}")
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return _explain_closed(where, error)
        case _:
            return DeliveryError("protocol", f"{where} does not answer as a node does ({type(error).__name__})")


def _explain_closed(where: str, error: Exception) -> DeliveryError:
    # In TLS 1.3 the client is done before the server has looked at its certificate (RFC 8446 section 2, figure 1): the
    # server's verdict arrives, at best as an alert, in place of the first answer.
    alert = error.__cause__
    if isinstance(alert, ssl.SSLError) and "_ALERT_" in (alert.reason or ""):
        verdict = str(alert.reason).partition("_ALERT_")[2].replace("_", " ").lower()
        return DeliveryError(
            "certificate-refused",
            f"{where} does not accept this node's certificate ({verdict}); "
            f"check its validity and that both nodes trust the same authority",
        )
    return DeliveryError(
        "certificate-refused",
        f"{where} closed the connection instead of answering: it does not accept this node's certificate, "
        f"is at its limits or has just stopped; its log tells",
    )


def _unexpected(recipient: Identity, url: URL, status: int) -> DeliveryError:
    where = f"{recipient} at {url.host}:{url.port}"
    match status:
        case 408:
            return DeliveryError("timeout", f"{where} waited too long for the whole message; is the network slow?")
        case 413:
            return DeliveryError("too-large", f"the message is above the size limit of {where}")
        case 429:
            return DeliveryError("busy", f"{where} is still at work on earlier messages of this node")
        case _:
            return DeliveryError("answer", f"{where} answered with status {status}; its log tells why")
