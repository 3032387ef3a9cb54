"""What a hospital's admin socket offers besides: its rounds.

POST /v1/rounds {"study": ID}    opens a round: 201 and its summary
GET  /v1/rounds                  summaries, oldest first
GET  /v1/rounds/ID               one round, with the result once released
GET  /v1/rounds/ID/watch         a line of JSON whenever it changes, until it has ended
POST /v1/rounds/ID/cancel        ends it
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from mpc.errors import UsageError
from nodes.admin.api import AdminApi, json_response
from nodes.records import Records, RoundRecord

if TYPE_CHECKING:
    from typing import Protocol

    class Rounds(Protocol):
        """The hospital, as far as these routes know it."""

        records: Records

        async def open_round(self, study_id: str) -> RoundRecord:
            """Opens a round."""
            ...

        async def full(self, record: RoundRecord) -> dict[str, object]:
            """A round with its result."""
            ...

        def cancel_round(self, round_id: bytes) -> None:
            """Ends a round."""
            ...


class _Open(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    study: str


def add_round_routes(admin: AdminApi, hospital: Rounds) -> None:
    """Adds the routes to the socket of `hospital`."""
    routes = _Routes(hospital)
    router = admin.app.router
    router.add_post("/v1/rounds", routes.open)
    router.add_get("/v1/rounds", routes.list)
    router.add_get("/v1/rounds/{round}", routes.show)
    router.add_get("/v1/rounds/{round}/watch", routes.watch)
    router.add_post("/v1/rounds/{round}/cancel", routes.cancel)


class _Routes:
    def __init__(self, hospital: Rounds) -> None:
        self._hospital = hospital

    async def open(self, request: web.Request) -> web.Response:
        try:
            asked = msgspec.json.decode(await request.read(), type=_Open)
        except ValueError as error:  # msgspec's own errors, and UnicodeDecodeError
            raise UsageError(f'the request must read {{"study": "ID"}}: {error}') from error
        record = await self._hospital.open_round(asked.study)
        return await json_response(record.summary(), 201)

    async def list(self, _request: web.Request) -> web.Response:
        return await json_response([record.summary() for record in self._hospital.records.all()])

    async def show(self, request: web.Request) -> web.Response:
        return await json_response(await self._hospital.full(self._find(request)))

    async def watch(self, request: web.Request) -> web.StreamResponse:
        record = self._find(request)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        async for state in self._hospital.records.watch(record.round_id):
            await response.write(msgspec.json.encode(state.summary()) + b"\n")
        await response.write_eof()
        return response

    async def cancel(self, request: web.Request) -> web.Response:
        record = self._find(request)
        self._hospital.cancel_round(record.round_id)
        return await json_response(record.summary(), 202)

    def _find(self, request: web.Request) -> RoundRecord:
        """The round whose id begins with what was given, when there is just one."""
        given = request.match_info["round"].lower()
        found = [record for record in self._hospital.records.all() if record.round_id.hex().startswith(given)]
        if len(found) != 1:
            raise UsageError(f"{'no round' if not found else 'more than one round'} begins with {given!r}; see 'round list'")
        return found[0]
