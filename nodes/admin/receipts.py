"""What the admin socket of a hospital or patient offers of receipts.

GET /v1/receipts              those that are kept, oldest first
GET /v1/receipts/ID           the newest of a study, by its id, or one by the beginning of its own or its round's id: the file,
                              and what it says
GET /v1/receipts/ID/result    what opens the commitment in it, where this node may disclose that
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from aiohttp import web

from mpc.errors import MessageRefused, UsageError
from mpc.receipt import ReceiptRefused, write_receipt, write_result
from nodes.admin.api import AdminApi, json_response
from nodes.proof import as_proof, prove
from nodes.receipts import assembled
from nodes.store.base import ReceiptLine, Store, StoreError
from pki.trust import TrustStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from mpc.receipt import DisclosedResult, SignedReceipt

    class Node(Protocol):
        """The daemon, as far as these routes know it."""

        store: Store

        async def disclosed(self, round_id: bytes) -> DisclosedResult:
            """What opens the commitment. Raises UsageError where it is not this node's to tell."""
            ...


MOST = 10_000
"""Receipts that are listed."""


def add_receipt_routes(admin: AdminApi, node: Node, trust: Callable[[], TrustStore]) -> None:
    """Adds the routes to the socket of `node`; `trust` gives what it believes now."""
    routes = _Routes(node, trust)
    router = admin.app.router
    router.add_get("/v1/receipts", routes.list)
    router.add_get("/v1/receipts/{receipt}", routes.show)
    router.add_get("/v1/receipts/{receipt}/result", routes.result)


class _Routes:
    def __init__(self, node: Node, trust: Callable[[], TrustStore]) -> None:
        self._node = node
        self._trust = trust

    async def list(self, _request: web.Request) -> web.Response:
        return await json_response([_summary(line) for line in reversed(await self._node.store.receipts(MOST))])

    async def show(self, request: web.Request) -> web.Response:
        line = await self._find(request)
        receipt = await self._read(line)
        try:
            checked, notes = await asyncio.to_thread(prove, receipt, self._trust().without_lists(), time.time())
        except ReceiptRefused as error:  # the authority was replaced since, for one
            said: dict[str, object] = {"problem": str(error)}
        else:
            said = {"proof": as_proof(checked, notes)}
        return await json_response(_summary(line) | {"file": write_receipt(receipt).decode()} | said)

    async def result(self, request: web.Request) -> web.Response:
        line = await self._find(request)
        disclosed = await self._node.disclosed(line.round_id)
        return await json_response(_summary(line) | {"file": write_result(disclosed).decode()})

    async def _find(self, request: web.Request) -> ReceiptLine:
        given = request.match_info["receipt"].lower()
        lines = await self._node.store.receipts(MOST)
        of_study = [line for line in lines if line.study == given][:1]
        names = [(line, line.digest.hex(), line.round_id.hex()) for line in lines]
        found = of_study or [line for line, *hexes in names if any(one.startswith(given) for one in hexes)]
        if len(found) != 1:
            raise UsageError(
                f"{'no receipt' if not found else 'more than one receipt'} is of a study {given!r}, or it or its round begins "
                f"so; see 'receipt list'"
            )
        return found[0]

    async def _read(self, line: ReceiptLine) -> SignedReceipt:
        kept = await self._node.store.find_receipt(line.round_id)
        if kept is None:
            raise UsageError("the receipt was erased meanwhile")
        try:
            return assembled(kept)
        except (MessageRefused, IndexError) as error:
            raise StoreError("damaged", "the receipt in the store is not as it was written") from error


def _summary(line: ReceiptLine) -> dict[str, object]:
    return {"receipt": line.digest.hex(), "round": line.round_id.hex(), "study": line.study, "ended": line.at}
