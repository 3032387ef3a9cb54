"""What a command hears from a daemon, and how it is told that there is none."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from mpc.errors import ConfigError, DataError, IdentityError, StudyError, TemporaryError, UsageError, UserError
from nodes.admin.api import AdminApi, json_response
from nodes.admin.client import AdminClient
from nodes.metrics import Registry
from tests.nodes.house import soon

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path: a socket's has 107 bytes at the most."""
    with tempfile.TemporaryDirectory(prefix="co") as directory:
        yield Path(directory) / "admin.sock"


@contextlib.asynccontextmanager
async def daemon(place: Path, handler: Any) -> AsyncIterator[AdminClient]:
    """A client of a daemon that answers /here with `handler`."""
    admin = AdminApi(place, lambda: {"identity": "alice"}, Registry())
    admin.app.router.add_route("*", "/here", handler)
    await admin.start()
    try:
        async with AdminClient(place) as client:
            yield client
    finally:
        await admin.stop()


async def test_json_goes_there_and_back(place: Path) -> None:
    async def echo(request: web.Request) -> web.Response:
        return await json_response({"method": request.method, "content": await request.json() if request.can_read_body else None})

    async with daemon(place, echo) as client:
        assert await client.get("/v1/status") == {"identity": "alice"}
        assert await client.get("/here") == {"method": "GET", "content": None}
        assert await client.post("/here", {"study": "pressure"}) == {"method": "POST", "content": {"study": "pressure"}}
        assert await client.post("/here") == {"method": "POST", "content": None}


async def test_lines_come_one_by_one(place: Path) -> None:
    go_on = asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"phase":"inviting"}\n')
        await go_on.wait()
        await response.write(b'{"phase":"released"}\n')
        return response

    async with daemon(place, stream) as client, asyncio.timeout(5):
        lines = client.lines("/here")
        assert await anext(lines) == {"phase": "inviting"}
        go_on.set()
        assert [line async for line in lines] == [{"phase": "released"}]


@pytest.mark.parametrize("names", [100, 5000])
async def test_a_line_may_be_long(names: int, place: Path) -> None:
    waiting = [f"{number:063}" for number in range(names)]

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(("[" + ",".join(f'"{name}"' for name in waiting) + "]\n").encode())
        return response

    async with daemon(place, stream) as client, asyncio.timeout(5):
        assert [line async for line in client.lines("/here")] == [waiting]


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (UsageError, UsageError),
        (ConfigError, ConfigError),
        (StudyError, StudyError),
        (IdentityError, UserError),
        (DataError, UserError),
        (UserError, UserError),
        (TemporaryError, UserError),
    ],
)
@pytest.mark.parametrize("method", ["get", "post", "lines"])
async def test_a_refusal_is_the_error_that_the_daemon_raised(
    method: str, raised: type[Exception], told: type[UserError], place: Path
) -> None:
    async def refuse(_request: web.Request) -> web.Response:
        raise raised("there is no study 'x'; there is pressure")

    async with daemon(place, refuse) as client:
        asking = anext(client.lines("/here")) if method == "lines" else getattr(client, method)("/here")
        with pytest.raises(UserError, match=r"^there is no study 'x'; there is pressure$") as caught:
            await asking
    assert type(caught.value) is told


async def test_an_answer_that_is_not_the_houses_is_told_by_its_status(place: Path) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=500, text="<html>")

    async with daemon(place, handler) as client:
        with pytest.raises(UserError, match=r"^the daemon answered with status 404$"):
            await client.get("/v1/rounds")  # as a patient's daemon does
        with pytest.raises(UserError, match=r"^the daemon answered with status 500$"):
            await client.get("/here")


def put(what: str, place: Path) -> None:
    if what == "file":
        place.write_text("notes")
    elif what == "dead socket":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(place))


@pytest.mark.parametrize("what", ["nothing", "dead socket", "file"])
@pytest.mark.parametrize("method", ["get", "lines"])
async def test_no_daemon_is_told_with_the_path(what: str, method: str, place: Path) -> None:
    put(what, place)
    async with AdminClient(place) as client:
        with pytest.raises(TemporaryError) as caught:
            await (client.get("/v1/status") if method == "get" else anext(client.lines("/v1/status")))
    assert str(caught.value) == f"no daemon answers at {place}; is it running, and is this its 'admin' socket?"


async def test_a_daemon_that_stops_in_the_middle_is_a_passing_fault(place: Path) -> None:
    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"phase":"inviting"}\n')
        await asyncio.Event().wait()
        return response

    admin = AdminApi(place, dict, Registry())
    admin.app.router.add_get("/here", stream)
    await admin.start()
    async with AdminClient(place) as client:
        lines = client.lines("/here")
        assert await soon(anext(lines)) == {"phase": "inviting"}
        await admin.stop()
        with pytest.raises(TemporaryError, match="no daemon answers"):
            await soon(anext(lines))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
async def test_a_socket_of_another_user_is_told_so(place: Path) -> None:
    code = (
        "import asyncio, os, sys\n"
        "from pathlib import Path\n"
        "from nodes.admin.client import AdminClient\n"
        "async def ask():\n"
        "    async with AdminClient(Path(sys.argv[1])) as client:\n"
        "        await client.get('/v1/status')\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: asyncio.run(ask())\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )

    async def here(_request: web.Request) -> web.Response:
        return web.Response()

    async with daemon(place, here):
        place.parent.chmod(0o755)
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", code, str(place)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    assert done.stdout == f"TemporaryError {place} belongs to another user; run this as the daemon's user\n"
