"""Talks to a running daemon through its admin socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

from mpc.errors import ConfigError, StudyError, TemporaryError, UsageError, UserError

_LINE_BYTES = 1024 * 1024
"""Of a line in a stream; longer ones are read, too, up to twice as much."""
_ERRORS: dict[str, type[UserError]] = {error.__name__: error for error in (UsageError, ConfigError, StudyError)}


class AdminClient:
    """One daemon. Use as an async context manager.

    Every method raises TemporaryError when nothing answers at the socket, and the UserError that the daemon gave as its
    reason for a refusal.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> AdminClient:
        self._session = aiohttp.ClientSession(
            "http://daemon",
            connector=aiohttp.UnixConnector(str(self._path)),
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=_LINE_BYTES,
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str) -> Any:
        """The JSON at `path`."""
        return await self._ask("GET", path)

    async def post(self, path: str, content: object = None) -> Any:
        """Posts JSON and returns the JSON of the answer."""
        return await self._ask("POST", path, content)

    async def lines(self, path: str) -> AsyncIterator[Any]:
        """The JSON objects of a stream, as they come."""
        async for line in self.raw_lines(path):
            yield json.loads(line)

    async def raw_lines(self, path: str) -> AsyncIterator[bytes]:
        """The lines of a stream, as they come, each with its end."""
        assert self._session is not None, "used outside 'async with'"
        try:
            async with self._session.get(path) as response:
                await _check(response)
                async for line in response.content:
                    yield line
        except aiohttp.ClientError as error:
            raise self._gone(error) from error

    async def _ask(self, method: str, path: str, content: object = None) -> Any:
        assert self._session is not None, "used outside 'async with'"
        try:
            async with self._session.request(method, path, json=content) as response:
                await _check(response)
                return await response.json()
        except aiohttp.ClientError as error:
            raise self._gone(error) from error

    def _gone(self, error: aiohttp.ClientError) -> TemporaryError:
        problem = getattr(error, "os_error", None)
        if isinstance(problem, PermissionError):
            return TemporaryError(f"{self._path} belongs to another user; run this as the daemon's user")
        return TemporaryError(f"no daemon answers at {self._path}; is it running, and is this its 'admin' socket?")


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.status < 400:
        return
    answer = await response.json() if response.content_type == "application/json" else {}
    kind = _ERRORS.get(answer.get("code", ""), UserError)
    raise kind(answer.get("detail", f"the daemon answered with status {response.status}"))
