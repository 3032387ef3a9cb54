"""A node's listener: an address, the guard at its door, and a handler for the requests of its guests."""

from __future__ import annotations

import asyncio
import errno
import re
import ssl
from collections.abc import Callable
from typing import Generic

from mpc.errors import ConfigError
from nodes.transport.guard import Count, Guard, Handler, P, Who
from nodes.transport.limits import Limits


class Listener(Generic[P]):
    """Listens at `listen`, "HOST:PORT" or "[IPV6]:PORT". `count` hears the slugs that `Guard` lists; `who` tells guests apart."""

    def __init__(self, listen: str, context: ssl.SSLContext, limits: Limits, count: Count, who: Who[P]) -> None:
        self._listen = listen
        self._host, self._port = _parse_listen(listen)
        self._context = context
        self._limits = limits
        self._count = count
        self._who = who
        self._guard: Guard[P] | None = None
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port listened on; of use where `listen` asked for port 0, once started."""
        if self._server is None or not self._server.sockets:
            return self._port
        return int(self._server.sockets[0].getsockname()[1])

    def connections(self) -> int:
        """Connections that other nodes have open here."""
        return 0 if self._guard is None else self._guard.count_connections()

    def cut(self, refused: Callable[[asyncio.Transport], bool]) -> int:
        """See `Guard.cut`."""
        return 0 if self._guard is None else self._guard.cut(refused)

    @property
    def context(self) -> ssl.SSLContext:
        """What connections are accepted with. A new one holds for new connections."""
        return self._context

    @context.setter
    def context(self, context: ssl.SSLContext) -> None:
        self._context = context
        if self._guard is not None:
            self._guard.context = context

    async def start(self, handler: Handler[P]) -> None:
        """Listens, and gives each request to `handler`. Raises ConfigError when the address cannot be had."""
        self._guard = Guard(handler, self._context, self._limits, self._count, self._who)
        try:
            self._server = await asyncio.get_running_loop().create_server(self._guard.protocol, self._host, self._port)
        except OSError as error:
            raise ConfigError(_why_not_listening(self._listen, error)) from error

    async def stop(self) -> None:
        """Stops accepting, lets requests under way finish within `stop_seconds`, closes every connection."""
        if self._server is not None:
            self._server.close()
        if self._guard is not None:
            await self._guard.close()
        if self._server is not None:
            await self._server.wait_closed()
        self._guard = self._server = None


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
