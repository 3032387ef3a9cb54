"""What a hospital's admin socket offers besides: its studies.

GET  /v1/studies                 the studies in the directory, now
GET  /v1/studies/ID              one of them, in words and as its file has it
GET  /v1/schedule                those that the hospital opens by itself: when next, and what came of the last time
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from nodes.admin.api import AdminApi, json_response
from nodes.description import describe

if TYPE_CHECKING:
    from typing import Protocol

    from nodes.studies import Planned

    class Studies(Protocol):
        """The hospital, as far as these routes know it."""

        def studies(self) -> Mapping[str, Planned]:
            """By id."""
            ...

        def study(self, study_id: str) -> Planned:
            """One of them. Raises StudyError when there is none."""
            ...

        def schedule(self) -> list[dict[str, object]]:
            """See `Scheduler.plans`."""
            ...


def add_study_routes(admin: AdminApi, hospital: Studies) -> None:
    """Adds the routes to the socket of `hospital`."""

    async def show_all(_request: web.Request) -> web.Response:
        studies = [planned.study for planned in hospital.studies().values()]
        return await json_response([{"id": study.id, "title": study.title, "patients": len(study.members)} for study in studies])

    async def show(request: web.Request) -> web.Response:
        planned = hospital.study(request.match_info["study"])
        words = await asyncio.to_thread(describe, planned)
        return await json_response({"id": planned.study.id, "words": words, "file": msgspec.to_builtins(planned.file)})

    async def schedule(_request: web.Request) -> web.Response:
        return await json_response(hospital.schedule())

    admin.app.router.add_get("/v1/studies", show_all)
    admin.app.router.add_get("/v1/studies/{study}", show)
    admin.app.router.add_get("/v1/schedule", schedule)
