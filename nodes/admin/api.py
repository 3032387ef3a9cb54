"""The admin socket: HTTP on a Unix socket that only the daemon's own user can open (0600).

GET /healthz      200 "ok" while the event loop turns
GET /metrics      Prometheus text
GET /v1/status    who this is, what it waits for
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
from aiohttp import web

from mpc.errors import CohortiumError, ConfigError, UserError
from nodes.log import Event, logger, place
from nodes.metrics import Registry


class AdminApi:
    """The common routes; daemons add their own to `app` before `start`."""

    def __init__(self, path: Path, status: Callable[[], dict[str, object]], metrics: Registry) -> None:
        self._path = path
        self._status = status
        self._metrics = metrics
        self._runner: web.AppRunner | None = None
        self.app = web.Application(middlewares=[_errors])
        self.app.router.add_get("/healthz", self._healthz)
        self.app.router.add_get("/metrics", self._render)
        self.app.router.add_get("/v1/status", self._show_status)

    async def start(self) -> None:
        """Opens the socket. Raises ConfigError when another daemon has it or it cannot be made."""
        listener = _listen(self._path)
        self._runner = web.AppRunner(self.app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.SockSite(self._runner, listener).start()

    async def stop(self) -> None:
        """Closes and removes the socket."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
            self._path.unlink(missing_ok=True)

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _render(self, _request: web.Request) -> web.Response:
        return web.Response(text=self._metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _show_status(self, _request: web.Request) -> web.Response:
        return await json_response(self._status())


async def json_response(content: object, status: int = 200) -> web.Response:
    """`content` as JSON, encoded off the event loop: a result may have a million numbers."""
    body = await asyncio.to_thread(msgspec.json.encode, content)
    return web.Response(body=body, status=status, content_type="application/json")


@web.middleware
async def _errors(request: web.Request, handler: Callable[[web.Request], object]) -> web.StreamResponse:
    try:
        return await handler(request)  # type: ignore[misc,no-any-return]
    except UserError as error:
        return await json_response({"outcome": "refused", "code": type(error).__name__, "detail": str(error)}, 422)
    except CohortiumError as error:
        return await json_response({"outcome": "refused", "code": type(error).__name__, "detail": str(error)}, 500)
    except web.HTTPException:
        raise
    except Exception as error:  # aiohttp would log its text, which may repeat data
        logger("admin").error(Event.FAILED, error=type(error).__name__, place=place(error))
        return await json_response({"outcome": "refused", "code": "failed", "detail": "the daemon's log has the place"}, 500)


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _remove_stale(path)
        # The mode must be right from the first moment on, and bind takes it from the umask alone.
        umask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(umask)
        listener.listen(16)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot make the admin socket {path}: {error.strerror}; check 'admin' and its directory") from error
    except ConfigError:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{path} is there and is no socket; choose another path for 'admin'")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(str(path)) == 0:
            raise ConfigError(f"another daemon answers at {path}; stop it, or give this one another 'admin' socket")
    path.unlink()
