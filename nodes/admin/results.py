"""What a hospital's admin socket tells of results, by the release rules of their studies.

GET  /v1/results       released rounds that have not been gone on with, oldest first
GET  /v1/results/ID    the result of a round, by the beginning of its id, or the newest of a study, by its own id
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from mpc.errors import UsageError
from mpc.rounds.events import RELEASED
from nodes.admin.api import AdminApi, json_response
from nodes.records import ERASED, Records, RoundRecord

if TYPE_CHECKING:
    from typing import Protocol

    from nodes.results import StudyResult

    class Answers(Protocol):
        """The hospital, as far as these routes know it."""

        records: Records

        async def answer(self, record: RoundRecord) -> StudyResult | None:
            """What a released round may tell, while it is kept."""
            ...


def add_result_routes(admin: AdminApi, hospital: Answers) -> None:
    """Adds the routes to the socket of `hospital`."""

    def released() -> list[RoundRecord]:
        return [record for record in hospital.records.all() if record.outcome == RELEASED and not record.followed_by]

    async def show_all(_request: web.Request) -> web.Response:
        return await json_response([record.summary() for record in released()])

    async def show(request: web.Request) -> web.Response:
        given, found = request.match_info["result"], released()
        of_study = [record for record in found if record.study == given][-1:]
        matching = of_study or [record for record in found if record.round_id.hex().startswith(given.lower())]
        if len(matching) != 1:
            raise UsageError(
                f"{'no result' if not matching else 'more than one result'} of a study {given!r}, or of a round that begins so; "
                f"see 'results list'"
            )
        answer = await hospital.answer(matching[0])
        if answer is None:
            raise UsageError(f"{ERASED}: 'keep_days' is over, or a person has erased it")
        return await json_response(answer)

    admin.app.router.add_get("/v1/results", show_all)
    admin.app.router.add_get("/v1/results/{result}", show)
