"""What monitoring is told over plain HTTP, and that only this machine is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from mpc.errors import ConfigError
from nodes.config import HealthConfig
from nodes.health import HealthServer
from nodes.metrics import Registry
from nodes.yaml_struct import load
from tests.services import free_port


@dataclass
class Daemon:
    lives: bool = True
    why_not: list[str] = field(default_factory=list)

    async def alive(self, seconds: float) -> bool:
        return self.lives

    def reasons(self) -> list[str]:
        return self.why_not


@asynccontextmanager
async def serving(daemon: Daemon, path: Path, metrics: Registry | None = None) -> AsyncIterator[aiohttp.ClientSession]:
    server = HealthServer(socket=path, alive=daemon.alive, reasons=daemon.reasons, metrics=metrics or Registry())
    await server.start()
    try:
        async with aiohttp.ClientSession("http://daemon", connector=aiohttp.UnixConnector(str(path))) as session:
            yield session
    finally:
        await server.stop()


async def ask(session: aiohttp.ClientSession, path: str) -> tuple[int, str]:
    async with asyncio.timeout(5), session.get(path) as response:
        return response.status, await response.text()


async def test_a_daemon_that_lives_and_works_says_so(tmp_path: Path) -> None:
    async with serving(Daemon(), tmp_path / "run" / "health.sock") as session:
        assert await ask(session, "/healthz") == (200, "ok\n")
        assert await ask(session, "/readyz") == (200, "ready\n")


async def test_a_protocol_thread_that_does_not_answer_is_told(tmp_path: Path) -> None:
    async with serving(Daemon(lives=False), tmp_path / "health.sock") as session:
        status, text = await ask(session, "/healthz")
    assert status == 503
    assert text.startswith("the daemon does not answer")


async def test_every_reason_not_to_take_work_is_told_and_is_no_reason_to_restart(tmp_path: Path) -> None:
    async with serving(Daemon(why_not=["draining", "the store fails: full"]), tmp_path / "health.sock") as session:
        assert await ask(session, "/readyz") == (503, "draining\nthe store fails: full\n")
        assert (await ask(session, "/healthz"))[0] == 200


async def test_metrics_are_served_in_prometheus_own_type(tmp_path: Path) -> None:
    registry = Registry()
    registry.counter("things_total", "Things.").inc(3)
    async with serving(Daemon(), tmp_path / "health.sock", registry) as session, session.get("/metrics") as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert (await response.text()).splitlines()[-1] == "things_total 3"


@pytest.mark.parametrize("path", ["/", "/v1/status", "/v1/rounds"])
async def test_nothing_else_is_offered(tmp_path: Path, path: str) -> None:
    async with serving(Daemon(), tmp_path / "health.sock") as session:
        assert (await ask(session, path))[0] == 404


async def test_nothing_can_be_changed(tmp_path: Path) -> None:
    async with serving(Daemon(), tmp_path / "health.sock") as session, session.post("/healthz") as response:
        assert response.status == 405


async def test_a_loopback_port_serves_too() -> None:
    port = free_port()
    daemon = Daemon()
    server = HealthServer(listen=("127.0.0.1", port), alive=daemon.alive, reasons=daemon.reasons, metrics=Registry())
    await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            assert await ask(session, f"http://127.0.0.1:{port}/readyz") == (200, "ready\n")
    finally:
        await server.stop()


async def test_a_port_in_use_is_a_clear_error() -> None:
    daemon = Daemon()
    taken = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    server = HealthServer(listen=("127.0.0.1", port), alive=daemon.alive, reasons=daemon.reasons, metrics=Registry())
    with pytest.raises(ConfigError, match="'health'"):
        await server.start()
    taken.close()
    await taken.wait_closed()


@pytest.mark.parametrize("listen", ["127.0.0.1:9000", "[::1]:9000", "127.3.4.5:9000"])
def test_loopback_addresses_are_taken(tmp_path: Path, listen: str) -> None:
    path = tmp_path / "health.yaml"
    path.write_text(f'listen: "{listen}"\n')
    assert load(path, HealthConfig).listen == listen


@pytest.mark.parametrize("listen", ["0.0.0.0:9000", "192.0.2.1:9000", "[::]:9000", "localhost:9000", "example.org:9000"])
def test_an_address_that_the_network_may_reach_is_refused(tmp_path: Path, listen: str) -> None:
    path = tmp_path / "health.yaml"
    path.write_text(f'listen: "{listen}"\n')
    with pytest.raises(ConfigError, match=r"health.yaml:1: listen: .* is not a loopback address"):
        load(path, HealthConfig)


@pytest.mark.parametrize("text", ["{}", '{listen: "127.0.0.1:1", socket: a.sock}'])
def test_exactly_one_place_is_given(tmp_path: Path, text: str) -> None:
    path = tmp_path / "health.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="exactly one of listen"):
        load(path, HealthConfig)
