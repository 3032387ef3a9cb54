"""What a patient's admin socket offers to the person whose values they are. Nothing here reads one.

GET  /v1/inbox                                       requests that wait for a person, oldest first
GET  /v1/inbox/ID                                    the study itself of one that waits, under ID or its digest
POST /v1/approve  {"study": ID, "until": SECONDS}    consents to what waits under ID, or under the digest that begins so; with
                                                     `until` (Unix seconds) also, up to then, to the very same study again
POST /v1/decline  {"study": ID}                      declines what waits
POST /v1/withdraw {"study": PATTERN}                 no round any more of studies whose ids match, nor of any that asks the same
POST /v1/release  {"sources": [NAME, ...]}           frees these sources, or all if there are none, from their rosters
GET  /v1/sources                                     what each source is bound to
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
from aiohttp import web

from mpc.errors import UsageError
from nodes.admin.api import AdminApi, json_response

if TYPE_CHECKING:
    from typing import Protocol

    class Person(Protocol):
        """The patient, as far as these routes know it."""

        async def inbox(self) -> list[dict[str, object]]:
            """What waits."""
            ...

        async def asked(self, study: str) -> dict[str, object]:
            """The study of what waits under this id or digest."""
            ...

        async def approve(self, study: str, until: float | None) -> list[dict[str, object]]:
            """Consents to what waits; returns it."""
            ...

        async def decline(self, study: str) -> list[dict[str, object]]:
            """Declines what waits; returns it."""
            ...

        async def withdraw(self, pattern: str) -> dict[str, object]:
            """Ends a participation; returns what was given before."""
            ...

        async def release(self, sources: tuple[str, ...]) -> list[str]:
            """Frees sources; returns which."""
            ...

        async def bindings(self) -> list[dict[str, object]]:
            """What each source is bound to."""
            ...


class _Of(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    study: Annotated[str, msgspec.Meta(min_length=1)]


class _Approval(_Of, frozen=True, forbid_unknown_fields=True):
    until: float | None = None


class _Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sources: tuple[str, ...]


T = TypeVar("T")


def add_patient_routes(admin: AdminApi, patient: Person) -> None:
    """Adds the routes to the socket of `patient`."""

    async def inbox(_request: web.Request) -> web.Response:
        return await json_response(await patient.inbox())

    async def asked(request: web.Request) -> web.Response:
        return await json_response(await patient.asked(request.match_info["study"]))

    async def approve(request: web.Request) -> web.Response:
        asked = await _read(request, _Approval, '{"study": ID, "until": SECONDS or null}')
        return await json_response(await patient.approve(asked.study, asked.until))

    async def decline(request: web.Request) -> web.Response:
        return await json_response(await patient.decline((await _read(request, _Of, '{"study": ID}')).study))

    async def withdraw(request: web.Request) -> web.Response:
        return await json_response(await patient.withdraw((await _read(request, _Of, '{"study": PATTERN}')).study))

    async def release(request: web.Request) -> web.Response:
        return await json_response(await patient.release((await _read(request, _Release, '{"sources": [NAME]}')).sources))

    async def bindings(_request: web.Request) -> web.Response:
        return await json_response(await patient.bindings())

    router = admin.app.router
    router.add_get("/v1/inbox", inbox)
    router.add_get("/v1/inbox/{study}", asked)
    router.add_post("/v1/approve", approve)
    router.add_post("/v1/decline", decline)
    router.add_post("/v1/withdraw", withdraw)
    router.add_post("/v1/release", release)
    router.add_get("/v1/sources", bindings)


async def _read(request: web.Request, kind: type[T], form: str) -> T:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except ValueError as error:  # msgspec's own errors, and UnicodeDecodeError
        raise UsageError(f"the request must read {form}: {error}") from error
