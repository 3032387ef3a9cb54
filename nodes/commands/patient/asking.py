"""Questions to the admin socket of a running patient."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any


def ask(socket: Path, path: str, content: object = None) -> Any:
    """The answer to a POST of `content`, or to a GET without one. Raises TemporaryError, or the daemon's own UserError."""
    from nodes.admin.client import AdminClient

    async def call() -> Any:
        async with AdminClient(socket) as daemon:
            return await (daemon.get(path) if content is None else daemon.post(path, content))

    return asyncio.run(call())
