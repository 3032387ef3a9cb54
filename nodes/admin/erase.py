"""What a node's admin socket offers to those who must delete.

POST /v1/erase {"older_than_days": N, "study": ID or null}
    deletes what is kept of rounds that ended N days ago or earlier, of one study if it is given: {"rows": how many}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
from aiohttp import web

from mpc.errors import UsageError
from nodes.admin.api import AdminApi, json_response

if TYPE_CHECKING:
    from typing import Protocol

    class Node(Protocol):
        """A daemon, as far as this route knows it."""

        async def erase(self, older_than_days: int, study: str | None = None) -> int:
            """Deletes, and says how many rows."""
            ...


MAX_DAYS = 36_500


class _Erase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    older_than_days: Annotated[int, msgspec.Meta(ge=0, le=MAX_DAYS)]
    study: str | None = None


def add_erase_route(admin: AdminApi, node: Node) -> None:
    """Adds the route to the socket of `node`."""

    async def erase(request: web.Request) -> web.Response:
        try:
            asked = msgspec.json.decode(await request.read(), type=_Erase)
        except ValueError as error:  # msgspec's own errors, and UnicodeDecodeError
            raise UsageError(f'the request must read {{"older_than_days": N, "study": ID or null}}: {error}') from error
        return await json_response({"rows": await node.erase(asked.older_than_days, asked.study)})

    admin.app.router.add_post("/v1/erase", erase)
