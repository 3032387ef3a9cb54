"""The way to other nodes: one HTTP client over mutual TLS, straight or through an HTTP proxy.

Every request names the node that must be at the other end. Whatever goes wrong on the way becomes a DeliveryError that tells
a person what to look at.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar
from weakref import WeakSet

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.tracing import Trace
from yarl import URL

from mpc.identity import Identity
from nodes.transport.base import DeliveryError
from nodes.transport.limits import Limits
from nodes.transport.tls import CheckPeer, NodeContext, PeerRefused, is_refused

T = TypeVar("T")
Read = Callable[[aiohttp.ClientResponse], Awaitable[T]]
"""Makes a result of a response, whose body it reads as far as it wants."""

_PIECE = 256 * 1024
"""Bytes of a large body that are encrypted and written at a time; the loop does nothing else for about 0.2 ms."""


class NodeClient:
    """Connections to other nodes. `context` may be exchanged at any time: it holds for new connections.

    `proxy` is the http:// URL of a proxy that is asked for a tunnel (CONNECT, RFC 9110 section 9.3.6) to every node.
    """

    def __init__(self, context: NodeContext, limits: Limits, proxy: str | None = None) -> None:
        self.context = context
        self._limits = limits
        self._proxy = proxy
        self._session: aiohttp.ClientSession | None = None
        self._opened = WeakSet[ResponseHandler]()

    def start(self) -> None:
        """Needs the running event loop."""
        self._session = self._open_session()

    async def stop(self) -> None:
        """Closes every connection."""
        if self._session is not None:
            await self._session.close()
        self._session = None

    def close_refused(self, check_peer: CheckPeer) -> int:
        """Cuts every connection, also one in use, to a peer that `check_peer` refuses now. Returns how many."""
        transports = [handler.transport for handler in self._opened]
        refused = [one for one in transports if one is not None and not one.is_closing() and is_refused(one, check_peer)]
        for transport in refused:
            transport.abort()
        return len(refused)

    async def ask(
        self,
        method: str,
        node: Identity,
        url: URL,
        read: Read[T],
        *,
        seconds: float,
        body: Sequence[bytes] = (),
        headers: Mapping[str, str] | None = None,
    ) -> T:
        """What `read` makes of the answer of `node` at `url`, which must be here within `seconds`.

        Raises DeliveryError for one of these reasons: "stopped", "dns", "refused", "unreachable", "timeout", "tls",
        "certificate" (theirs), "certificate-refused" (ours), "revoked" (theirs), "identity-mismatch", "proxy", "protocol".
        """
        if self._session is None:
            raise DeliveryError("stopped", "this node is not running")
        # A kept connection may have been closed by the other end at the very moment of its use. The same message twice
        # is harmless, so it is sent again, until it meets a new connection: kept ones are few.
        for kept_ones_left in reversed(range(self._limits.connections_per_recipient + 1)):
            attempt = SimpleNamespace(kept=False)
            try:
                async with self._session.request(
                    method,
                    url,
                    data=_data(body),
                    headers={**(headers or {}), "Content-Length": str(sum(map(len, body)))} if body else headers,
                    ssl=self.context,
                    server_hostname=node.uri,  # whom the context expects; it is not sent
                    proxy=self._proxy,
                    timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=self._limits.connect_seconds),
                    allow_redirects=False,
                    trace_request_ctx=attempt,
                ) as response:
                    return await read(response)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if not (attempt.kept and kept_ones_left):
                    raise _explain(node, url, error) from error
            except (aiohttp.ClientError, TimeoutError) as error:
                raise _explain(node, url, error) from error
        raise AssertionError("the last attempt returns or raises")

    def _open_session(self) -> aiohttp.ClientSession:
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_note_kept)
        limits = self._limits
        return aiohttp.ClientSession(
            connector=_Connector(
                self._opened,
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


class _Connector(aiohttp.TCPConnector):
    """Remembers what it opened."""

    def __init__(self, opened: WeakSet[ResponseHandler], **options: Any) -> None:
        super().__init__(**options)
        self._opened = opened

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        handler = await super()._create_connection(req, traces, timeout)
        self._opened.add(handler)
        return handler


def origin(node: Identity, endpoint: str) -> URL:
    """The URL `endpoint`, "https://HOST:PORT". Raises DeliveryError ("endpoint") when it is anything else."""
    try:
        url = URL(endpoint)
    except ValueError:
        url = URL()
    if url.scheme != "https" or not url.host or url != url.origin():
        raise DeliveryError("endpoint", f"the address of {node} is {endpoint!r}; it must read https://HOST:PORT")
    return url


def unexpected(node: Identity, url: URL, status: int) -> DeliveryError:
    """What to say of a status that is no answer."""
    where = f"{node} at {url.host}:{url.port}"
    match status:
        case 408:
            return DeliveryError("timeout", f"{where} waited too long for the whole message; is the network slow?")
        case 413:
            return DeliveryError("too-large", f"the message is above the size limit of {where}")
        case 429:
            return DeliveryError("busy", f"{where} is still at work on earlier messages of this node")
        case _:
            return DeliveryError("answer", f"{where} answered with status {status}; its log tells why")


async def _note_kept(_session: aiohttp.ClientSession, trace: SimpleNamespace, _params: object) -> None:
    trace.trace_request_ctx.kept = True


def _data(body: Sequence[bytes]) -> bytes | AsyncIterator[memoryview] | None:
    if not body:
        return None
    if sum(map(len, body)) <= _PIECE:
        return b"".join(body)
    return _pieces(body)


async def _pieces(body: Sequence[bytes]) -> AsyncIterator[memoryview]:
    for part in body:
        view = memoryview(part)
        for start in range(0, len(view), _PIECE):
            yield view[start : start + _PIECE]


def _explain(recipient: Identity, url: URL, error: Exception) -> DeliveryError:
    """What went wrong between here and the other end, and what a person can look at."""
    where = f"{recipient} at {url.host}:{url.port}"
    # Specific ones first: aiohttp's errors inherit from one another.
    match error:
        case aiohttp.ClientProxyConnectionError(os_error=OSError() as problem):
            return DeliveryError("proxy", f"cannot reach the proxy to {where}: {problem.strerror or problem}; check 'proxy'")
        case aiohttp.ClientHttpProxyError(status=status):
            return DeliveryError("proxy", f"the proxy refuses the way to {where} with status {status}; ask who runs it")
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
