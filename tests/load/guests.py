"""Clients who mean harm: `python -m tests.load.guests KIND COUNT ADDRESSES PORT DIRECTORY` plays that many until it is killed.

A process of its own, so that what they cost is not the test's. DIRECTORY has the authority and mallory's key and certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path

HEAD = b"POST /v1/inbox HTTP/1.1\r\nHost: h\r\nContent-Type: application/octet-stream\r\n"
_AGAIN_SECONDS = 0.2


@dataclass(frozen=True)
class Door:
    """Where they come in."""

    port: int
    mallory: ssl.SSLContext

    async def connect(self, address: str, *, secured: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """From that address, as a stranger or as mallory."""
        tls = {"ssl": self.mallory, "server_hostname": ""} if secured else {}
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=(address, 0), **tls)  # type: ignore[arg-type]


async def _until_cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, octets: bytes = b"", every: float = 1.0) -> None:
    """Sends `octets` now and then, until the other end hangs up."""
    try:
        while True:
            if octets:
                writer.write(octets)
                await writer.drain()
            try:
                async with asyncio.timeout(every):
                    if not await reader.read(1 << 16):
                        return
            except TimeoutError:
                continue
    finally:
        writer.transport.abort()


async def silent(door: Door, address: str) -> None:
    """Connects, and that is all."""
    await _until_cut(*await door.connect(address, secured=False))


async def handshake_by_the_byte(door: Door, address: str) -> None:
    """One byte of a ClientHello a second."""
    await _until_cut(*await door.connect(address, secured=False), b"\x16")


async def noise(door: Door, address: str) -> None:
    """What is not TLS at all."""
    await _until_cut(*await door.connect(address, secured=False), b"GET / HTTP/1.0\r\n\r\n")


async def head_by_the_byte(door: Door, address: str) -> None:
    """One byte of a request's head a second."""
    reader, writer = await door.connect(address, secured=True)
    writer.write(HEAD + b"X: ")
    await _until_cut(reader, writer, b"x")


async def body_by_the_byte(door: Door, address: str) -> None:
    """One byte of a large body a second."""
    reader, writer = await door.connect(address, secured=True)
    writer.write(HEAD + b"Content-Length: 1000000\r\n\r\n")
    await _until_cut(reader, writer, b"x")


async def body_without_end(door: Door, address: str) -> None:
    """Chunk after chunk, as fast as they are taken."""
    reader, writer = await door.connect(address, secured=True)
    writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    await _until_cut(reader, writer, b"8000\r\n" + bytes(0x8000) + b"\r\n", every=0.02)


async def slow_reader(door: Door, address: str) -> None:
    """Asks and asks and reads no answer."""
    _, writer = await door.connect(address, secured=True)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    try:
        while not writer.transport.is_closing():
            writer.write(b"GET /v1/inbox HTTP/1.1\r\nHost: h\r\n\r\n" * 500)
            async with asyncio.timeout(3):
                await writer.drain()
            await asyncio.sleep(0.02)
    except TimeoutError:
        pass
    finally:
        writer.transport.abort()


GUESTS = {
    guest.__name__: guest
    for guest in (silent, handshake_by_the_byte, noise, head_by_the_byte, body_by_the_byte, body_without_end, slow_reader)
}


async def _storm(kind: str, count: int, addresses: int, door: Door) -> None:
    async def again(address: str) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await GUESTS[kind](door, address)
            await asyncio.sleep(_AGAIN_SECONDS)

    await asyncio.gather(*(again(f"127.0.0.{2 + number % addresses}") for number in range(count)))


def main() -> None:
    """Until killed."""
    kind, count, addresses, port, directory = sys.argv[1:]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    mallory = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    mallory.check_hostname = False
    mallory.set_alpn_protocols(["http/1.1"])
    mallory.load_verify_locations(Path(directory, "ca", "ca.crt"))
    mallory.load_cert_chain(Path(directory, "mallory", "mallory.crt"), Path(directory, "mallory", "mallory.key"))
    asyncio.run(_storm(kind, int(count), int(addresses), Door(int(port), mallory)))


if __name__ == "__main__":
    main()
