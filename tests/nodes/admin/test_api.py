"""The admin socket: who can open it, what it says, and what is in its way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from mpc.errors import Answer, CohortiumError, ConfigError, MessageRefused, StudyError, TemporaryError, UserError
from nodes.admin import api
from nodes.admin.api import AdminApi, json_response
from nodes.metrics import Registry
from tests.nodes.house import eventually, soon


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path: a socket's has 107 bytes at the most."""
    with tempfile.TemporaryDirectory(prefix="co") as directory:
        yield Path(directory) / "run" / "admin.sock"


def put(place: Path, text: str) -> None:
    """A file where the socket should be."""
    place.parent.mkdir()
    place.write_text(text)


def link(place: Path) -> None:
    place.parent.mkdir()
    place.symlink_to(place.parent / "elsewhere")


def mode(place: Path) -> tuple[bool, int]:
    """Whether it is a socket, and its permissions."""
    found = place.stat().st_mode
    return stat.S_ISSOCK(found), stat.S_IMODE(found)


def there(place: Path) -> bool:
    return place.exists()


def content(place: Path) -> str:
    return place.read_text()


@contextlib.asynccontextmanager
async def serving(place: Path, *routes: tuple[str, Any]) -> AsyncIterator[aiohttp.ClientSession]:
    metrics = Registry()
    metrics.counter("cohortium_rounds_total", "Rounds.").inc(3)
    admin = AdminApi(place, lambda: {"identity": "spiffe://demo/patient/alice"}, metrics)
    for path, handler in routes:
        admin.app.router.add_get(path, handler)
    await admin.start()
    try:
        async with aiohttp.ClientSession("http://daemon", connector=aiohttp.UnixConnector(str(place))) as session:
            yield session
    finally:
        await admin.stop()


async def get(session: aiohttp.ClientSession, path: str) -> tuple[int, str, str]:
    async with session.get(path) as response:
        return response.status, response.content_type, await response.text()


async def test_the_common_routes(place: Path) -> None:
    async with serving(place) as session:
        assert await get(session, "/healthz") == (200, "text/plain", "ok\n")
        assert await get(session, "/v1/status") == (200, "application/json", '{"identity":"spiffe://demo/patient/alice"}')
        status, kind, text = await get(session, "/metrics")
        assert (status, kind) == (200, "text/plain")
        assert "cohortium_rounds_total 3\n" in text


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_only_the_daemons_user_may_open_the_socket(umask: int, place: Path) -> None:
    before = os.umask(umask)
    try:
        async with serving(place):
            assert mode(place) == (True, 0o600)
            assert mode(place.parent) == (False, 0o700)
        left = os.umask(umask)
        assert left == umask  # of the process, and as it was
    finally:
        os.umask(before)


async def test_the_socket_goes_away_with_the_daemon(place: Path) -> None:
    async with serving(place):
        pass
    assert not there(place)


async def test_a_daemon_that_never_listened_removes_nothing(place: Path) -> None:
    put(place, "somebody's")
    admin = AdminApi(place, dict, Registry())
    await admin.stop()
    assert content(place) == "somebody's"


async def test_a_stale_socket_is_replaced(place: Path) -> None:
    place.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place))
    async with serving(place) as session:
        assert (await get(session, "/healthz"))[0] == 200


async def test_the_socket_of_a_running_daemon_is_left_alone(place: Path) -> None:
    async with serving(place) as session:
        second = AdminApi(place, dict, Registry())
        with pytest.raises(
            ConfigError, match=r"another daemon answers at .*admin.sock; stop it, or give this one another 'admin'"
        ):
            await second.start()
        await second.stop()
        assert (await get(session, "/healthz"))[0] == 200
        assert there(place)


async def test_what_is_no_socket_is_left_alone(place: Path) -> None:
    put(place, "notes")
    with pytest.raises(ConfigError, match="is there and is no socket; choose another path for 'admin'"):
        await AdminApi(place, dict, Registry()).start()
    assert content(place) == "notes"


async def test_a_link_is_no_socket(place: Path) -> None:
    link(place)
    with pytest.raises(ConfigError, match="is no socket"):
        await AdminApi(place, dict, Registry()).start()


async def test_a_place_that_cannot_be_is_told(place: Path) -> None:
    place.parent.parent.joinpath("run").write_text("a file where the directory should be")
    with pytest.raises(ConfigError, match=r"cannot make the admin socket .*; check 'admin' and its directory"):
        await AdminApi(place, dict, Registry()).start()


async def test_an_unknown_path_is_404_and_another_method_405(place: Path) -> None:
    async with serving(place) as session:
        assert (await get(session, "/v1/secrets"))[0] == 404
        async with session.post("/v1/status") as response:
            assert response.status == 405


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StudyError("there is no study 'x'"), 422),
        (UserError("a mistake"), 422),
        (TemporaryError("try again"), 500),
        (MessageRefused(Answer.GONE, "round-ended"), 500),
    ],
)
async def test_an_error_of_the_house_is_told_as_json(error: CohortiumError, status: int, place: Path) -> None:
    async def fail(_request: web.Request) -> web.Response:
        raise error

    async with serving(place, ("/fail", fail)) as session:
        got, kind, text = await get(session, "/fail")
    assert (got, kind) == (status, "application/json")
    assert msgspec.json.decode(text) == {"outcome": "refused", "code": type(error).__name__, "detail": str(error)}


async def test_an_unforeseen_error_tells_the_client_nothing(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_request: web.Request) -> web.Response:
        raise ValueError("725 is the secret")

    async with serving(place, ("/fail", fail)) as session:
        status, _, text = await get(session, "/fail")
        assert status == 500
        assert "725" not in text
        assert (await get(session, "/healthz"))[0] == 200
    assert "725" not in caplog.text


async def test_json_is_encoded_off_the_loop_and_health_answers_meanwhile(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, encoding = threading.Event(), threading.Event()
    names: list[str] = []

    def encode(content: object) -> bytes:
        names.append(threading.current_thread().name)
        encoding.set()
        assert go_on.wait(5)
        return msgspec.json.encode(content)

    class Json:
        json = type("json", (), {"encode": staticmethod(encode)})

    monkeypatch.setattr(api, "msgspec", Json)

    async def large(_request: web.Request) -> web.Response:
        return await json_response({"sum": list(range(3))}, 201)

    async with serving(place, ("/large", large)) as session:
        asked = asyncio.create_task(get(session, "/large"))
        await eventually(encoding.is_set)
        assert await soon(get(session, "/healthz")) == (200, "text/plain", "ok\n")
        go_on.set()
        assert await soon(asked) == (201, "application/json", '{"sum":[0,1,2]}')
    assert threading.main_thread().name not in names


async def test_stopping_does_not_wait_for_a_client_that_stays(place: Path) -> None:
    asked = asyncio.Event()

    async def wait(_request: web.Request) -> web.Response:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError("never")

    admin = AdminApi(place, dict, Registry())
    admin.app.router.add_get("/wait", wait)
    await admin.start()
    async with aiohttp.ClientSession("http://daemon", connector=aiohttp.UnixConnector(str(place))) as session:
        waiting = asyncio.create_task(get(session, "/wait"))
        await soon(asked.wait())
        async with asyncio.timeout(4):
            await admin.stop()
        with pytest.raises(aiohttp.ClientError):
            await soon(waiting)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
async def test_another_user_cannot_connect(place: Path) -> None:
    code = (
        "import os, socket, sys\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "try: s.connect(sys.argv[1]); print('connected')\n"
        "except PermissionError: print('refused')\n"
    )
    async with serving(place):
        place.parent.chmod(0o755)
        place.parent.parent.chmod(0o755)  # so that the socket's own mode decides
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-S", "-c", code, str(place)], capture_output=True, text=True, timeout=20, check=True
        )
    assert done.stdout == "refused\n"
