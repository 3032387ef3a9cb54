"""What every daemon's admin socket offers of its audit log.

GET /v1/audit?since=SECONDS&event=EVENT    lines, as JSON lines; both parts of the query may be left out
GET /v1/audit/verify                       reads all of it: {"verified": true, "erased_to": N, "last": N}, or
                                           {"verified": false, "line": N, "detail": why}
GET /v1/audit/export                       the signed export (`nodes.audit_export`)

Lines that end with {"error": why} are not all.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

import msgspec
from aiohttp import web

from mpc.errors import CohortiumError, UsageError
from nodes.admin.api import AdminApi, json_response
from nodes.audit import PAGE, verify
from nodes.audit_export import export
from nodes.store.audit import AuditEvent, ChainBroken, Kept
from nodes.store.base import AuditStore
from pki.node import NodeKey


def add_audit_routes(admin: AdminApi, store: AuditStore, key: Callable[[], NodeKey]) -> None:
    """Adds the routes to the socket; `key` gives the identity key that signs exports."""

    async def show(request: web.Request) -> web.StreamResponse:
        return await _stream(request, _lines(store, *_asked(request)))

    async def check(_request: web.Request) -> web.Response:
        try:
            head = await verify(store)
        except ChainBroken as broken:
            return await json_response({"verified": False, "line": broken.number, "detail": str(broken)})
        return await json_response({"verified": True, "erased_to": head.erased_to, "last": head.last})

    async def give(request: web.Request) -> web.StreamResponse:
        return await _stream(request, export(store, key(), time.time()))

    router = admin.app.router
    router.add_get("/v1/audit", show)
    router.add_get("/v1/audit/verify", check)
    router.add_get("/v1/audit/export", give)


def _asked(request: web.Request) -> tuple[float, str]:
    since, event = request.query.get("since", "0"), request.query.get("event", "")
    try:
        return float(since), AuditEvent(event) if event else ""
    except ValueError:
        raise UsageError(f"write since=SECONDS, and event=EVENT with one of {', '.join(AuditEvent)}") from None


async def _lines(store: AuditStore, since: float, event: str) -> AsyncIterator[bytes]:
    last = 0
    while page := await store.audit(last, PAGE, since=since, event=event):
        last = page[-1].number
        yield b"".join(map(_line, page))


def _line(kept: Kept) -> bytes:
    line = kept.line
    if not line.event:
        return b'{"number":%d,"erased":true}\n' % kept.number
    try:
        content = msgspec.json.decode(line.content, type=dict)
    except ValueError:  # somebody has changed it: `verify` says so
        content = {"unreadable": line.content.hex()}
    shown = {"number": kept.number, "at": line.at, "event": line.event, "study": line.study, "content": content}
    return msgspec.json.encode(shown) + b"\n"


async def _stream(request: web.Request, pieces: AsyncIterator[bytes]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    try:
        async for piece in pieces:
            await response.write(piece)
    except CohortiumError as error:
        await response.write(msgspec.json.encode({"error": str(error)}) + b"\n")
    await response.write_eof()
    return response
