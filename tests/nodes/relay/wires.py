"""What lies between nodes and relays: an HTTP proxy that tunnels, and a balancer that passes TCP on to whoever listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _join(
    one: tuple[asyncio.StreamReader, asyncio.StreamWriter], other: tuple[asyncio.StreamReader, asyncio.StreamWriter]
) -> None:
    try:
        await asyncio.gather(_pump(one[0], other[1]), _pump(other[0], one[1]))
    finally:
        for _, writer in (one, other):
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()


class Wire:
    """A listener on loopback whose connections can all be cut."""

    def __init__(self) -> None:
        self.port = 0
        self.asked: list[str] = []
        """Of a proxy: the places that tunnels were asked for."""
        self.tasks: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """Ends every connection."""
        for task in self.tasks:
            task.cancel()


@asynccontextmanager
async def _serving(wire: Wire, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]) -> AsyncIterator[Wire]:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        wire.tasks.add(task)
        with suppress(asyncio.CancelledError, OSError):
            await serve(reader, writer)  # type: ignore[misc]
        writer.transport.abort()
        wire.tasks.discard(task)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()
        tasks = list(wire.tasks)
        wire.cut()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


@asynccontextmanager
async def proxy(*, allows: bool = True) -> AsyncIterator[Wire]:
    """Takes CONNECT HOST:PORT and nothing else."""
    wire = Wire()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[0]
        method, place, _ = request.split()
        assert method == "CONNECT"
        wire.asked.append(place)
        if not allows:
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return
        host, _, port = place.rpartition(":")
        other = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await _join((reader, writer), other)

    async with _serving(wire, serve) as served:
        yield served


@asynccontextmanager
async def balancer(*ports: int) -> AsyncIterator[Wire]:
    """Passes each connection on to the next of the ports at which somebody listens."""
    wire = Wire()
    turns = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal turns
        turns += 1
        for port in (*ports[turns % len(ports) :], *ports[: turns % len(ports)]):
            with suppress(OSError):
                other = await asyncio.open_connection("127.0.0.1", port)
                await _join((reader, writer), other)
                return

    async with _serving(wire, serve) as served:
        yield served
