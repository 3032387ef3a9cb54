"""Liveness, readiness and metrics over plain HTTP, for monitoring on the same machine: a loopback port or a Unix socket.

GET /healthz      200 while the event loop turns and a node's protocol thread answers, else 503: restart the daemon
GET /readyz       200 while the daemon takes new work, else 503 and a line for each reason
GET /metrics      Prometheus text

Nothing here changes anything or tells a name, so there is no authentication; and nothing listens beyond this machine.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from mpc.errors import ConfigError
from nodes.metrics import CONTENT_TYPE, Registry

LIVE_SECONDS = 5.0
"""How long the protocol thread may take to answer: longer than its longest transition."""

Alive = Callable[[float], Awaitable[bool]]
"""Whether the daemon's parts answer within that many seconds."""
Reasons = Callable[[], list[str]]
"""Why the daemon takes no new work; empty when it does."""


class HealthServer:
    """Listens on `listen` (host and port, loopback) or `socket`, exactly one of them."""

    def __init__(
        self,
        *,
        listen: tuple[str, int] | None = None,
        socket: Path | None = None,
        alive: Alive,
        reasons: Reasons,
        metrics: Registry,
    ) -> None:
        assert (listen is None) != (socket is None), "the configuration gives one of the two"
        self._listen = listen
        self._socket = socket
        self._alive = alive
        self._reasons = reasons
        self._metrics = metrics
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Opens the listener. Raises ConfigError when the address cannot be had."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._render)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.5)
        await self._runner.setup()
        try:
            await self._site(self._runner).start()
        except OSError as error:
            await self.stop()
            where = self._socket if self._listen is None else f"{self._listen[0]}:{self._listen[1]}"
            raise ConfigError(
                f"cannot serve health on {where}: {error.strerror or error}; choose another place under 'health'"
            ) from error

    async def stop(self) -> None:
        """Closes the listener."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _site(self, runner: web.AppRunner) -> web.BaseSite:
        if self._listen is not None:
            return web.TCPSite(runner, *self._listen)
        assert self._socket is not None
        self._socket.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        return web.UnixSite(runner, self._socket)

    async def _healthz(self, _request: web.Request) -> web.Response:
        if await self._alive(LIVE_SECONDS):
            return web.Response(text="ok\n")
        return web.Response(text="the daemon does not answer: its protocol thread is stuck\n", status=503)

    async def _readyz(self, _request: web.Request) -> web.Response:
        reasons = self._reasons()
        if not reasons:
            return web.Response(text="ready\n")
        return web.Response(text="".join(f"{reason}\n" for reason in reasons), status=503)

    async def _render(self, _request: web.Request) -> web.Response:
        return web.Response(text=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})
