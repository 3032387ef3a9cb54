"""Runs `cohortium` in a process that kills itself, by SIGKILL, where its order says: -m tests.e2e.crashing ORDER [ARGUMENT]...

ORDER is a file that need not be there; it holds the name of one point and is removed when that point is reached. A commit is
named by the first message that it keeps for sending, or `countersigned` when it adds to a receipt, or `progress`; a send by its
message. This module is the one place that names the points.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

_COMMITS = {
    "hospital": ("invitation", "progress", "roster", "collect", "receipt", "countersigned"),
    "patient": ("consent", "share", "progress", "ready", "partial-sum", "countersignature"),
}
_SENDS = {
    "hospital": ("invitation", "roster", "collect", "receipt"),
    "patient": ("consent", "share", "ready", "partial-sum", "countersignature"),
}
POINTS = {
    role: tuple(
        f"{when} {what} {of}"
        for what, names in (("commit", _COMMITS[role]), ("send", _SENDS[role]))
        for of in names
        for when in ("before", "after")
    )
    for role in ("hospital", "patient")
}
"""By role: before and after every commit and every send of a round in which all goes well."""


def main() -> None:
    from mpc.envelope import parse
    from mpc.errors import Answer
    from mpc.identity import Identity
    from mpc.messages import Kind
    from nodes import cli
    from nodes.store.base import Step
    from nodes.store.sqlite import SqliteStore
    from nodes.transport.https import HttpsTransport

    order = Path(sys.argv.pop(1))
    commit, send = SqliteStore.commit, HttpsTransport.send

    def reach(point: str) -> None:
        try:
            ordered = order.read_text()
        except FileNotFoundError:
            return
        if point == ordered:
            order.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    def names(steps: Sequence[Step]) -> list[str]:
        quiet = "countersigned" if any(step.receipt for step in steps) else "progress"
        return [Kind(step.posted[0].kind).purpose for step in steps if step.posted] or [quiet]

    async def commit_or_die(store: SqliteStore, steps: Sequence[Step]) -> int:
        for name in names(steps):
            reach(f"before commit {name}")
        counter = await commit(store, steps)
        for name in names(steps):
            reach(f"after commit {name}")
        return counter

    async def send_or_die(transport: HttpsTransport, recipient: Identity, endpoint: str, envelope: bytes) -> Answer:
        kind = parse(envelope, len(envelope)).header.kind.purpose
        reach(f"before send {kind}")
        answer = await send(transport, recipient, endpoint, envelope)
        reach(f"after send {kind}")
        return answer

    with mock.patch.object(SqliteStore, "commit", commit_or_die), mock.patch.object(HttpsTransport, "send", send_or_die):
        cli.main()


if __name__ == "__main__":
    main()
