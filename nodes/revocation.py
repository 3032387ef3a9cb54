"""The revocation lists that a node obeys: fetched, checked, kept in its state, and handed on to whoever asks it.

    STATE/revocations.pem     the newest list of each authority, see `pki.lists`

A list is taken because an authority that is trusted has signed it, and never in place of a newer one, restarts included. What it
means for connections, messages and rounds is the daemon's (`service`); here is where the lists come from and how old they get.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from mpc.errors import CohortiumError, IdentityError
from mpc.identity import Identity
from nodes.config import RevocationRules
from nodes.log import Event, Logger
from nodes.metrics import Registry
from nodes.transport.guard import Count
from nodes.transport.inbox import Intake, Reply, Route
from nodes.transport.limits import Limits
from nodes.upkeep import Source, tag
from pki.certificate import utc
from pki.files import PUBLIC, is_there, make_directory, read_public, write_file
from pki.lists import MAX_BYTES, Lists, pack, take, unpack
from pki.trust import OldListError, TrustStore

FILE = "revocations.pem"
PEM = "application/x-pem-file"
_REMIND_SECONDS = 3600.0
_FAILURES = 3
"""In a row, before the log speaks of it: nodes are started in any order."""


def with_kept(trust: TrustStore, state: Path, now: float) -> tuple[TrustStore, list[str]]:
    """`trust` with the lists that this node keeps, and which of them are not of an authority that is still trusted.

    Raises IdentityError when they cannot be read: going on without them would believe who was revoked.
    """
    path = state / FILE
    if not is_there(path):
        return trust, []
    try:
        kept = unpack(read_public(path, MAX_BYTES))
    except IdentityError as error:
        raise IdentityError(f"{path}: {error}; or delete it, if that is where it came from") from error
    # They were good when they were taken, whatever this machine's clock says today.
    trust, problems = take(trust, kept, max([now, *(one.this_update for one in kept.lists)]))
    return trust, [f"{path}: {problem}" for problem in problems]


def with_file(trust: TrustStore, path: Path, now: float, known: tuple[bytes, ...]) -> tuple[TrustStore, list[str]]:
    """`trust` with an administrator's lists, and which of them are older than those it has; `known` as for `pki.lists.take`.

    Raises IdentityError that names the file when one cannot be taken for another reason.
    """
    try:
        trust, problems = take(trust, unpack(read_public(path, MAX_BYTES)), now, known)
        for problem in problems:
            if not isinstance(problem, OldListError):
                raise problem
    except IdentityError as error:
        raise IdentityError(f"{path}: {error}") from error
    return trust, [f"{path}: {problem}" for problem in problems]


class Revocations:
    """Keeps one daemon's lists new. `adopt` takes lists and says which it refuses; `trust` obeys those that it took."""

    def __init__(
        self,
        source: Source | None,
        *,
        state: Path,
        rules: Callable[[], RevocationRules],
        trust: Callable[[], TrustStore],
        adopt: Callable[[Lists], Awaitable[list[IdentityError]]],
        metrics: Registry,
        log: Logger,
    ) -> None:
        self._source = source
        self._path = state / FILE
        self._rules = rules
        self._trust = trust
        self._adopt = adopt
        self._log = log
        self._packed = b""
        self._kept = True
        """Whether the disk has what is obeyed."""
        self._seen = b""
        """Tag of what was fetched last and needs no second look."""
        self._said = ""
        """What was refused last, so that it is logged once."""
        self._reminded = float("-inf")
        self._failures = 0
        self.trouble = ""
        """Why nothing could be fetched, for people; empty while it works."""
        metrics.gauge(
            "cohortium_revocation_list_number",
            "Highest number of a revocation list that is obeyed; 0 with none.",
            read=lambda: max((listed.revocations.number for listed in self._trust().lists), default=0),
        )
        metrics.gauge(
            "cohortium_revocation_list_next_update_timestamp_seconds",
            "When the oldest of the revocation lists should have a successor, Unix time; 0 with none.",
            read=lambda: min((listed.revocations.next_update for listed in self._trust().lists), default=0),
        )
        self._fetched = metrics.counter(
            "cohortium_revocation_fetches_total", "Questions for newer revocation lists, by outcome.", ("outcome",)
        )

    async def step(self) -> None:
        """Asks for newer lists, and says how old those are that it has."""
        if not self._kept:
            await self.changed()
        if self._source is not None:
            await self._fetch(self._source)
        self._remind(time.time())

    def pause(self) -> float:
        """Seconds until the next step; not the same for all nodes."""
        every = float(self._rules().every)
        return random.uniform(0.8, 1.0) * (every if self._source is None else min(every, self._source.seconds))  # noqa: S311  (no secret)

    async def changed(self) -> None:
        """The trust has other lists now: keeps them, and hands them on. A disk that refuses is told, and changes no more."""
        lists = self._trust().lists
        packed = pack(lists)
        if packed == self._packed and self._kept:
            return
        self._packed = packed
        self._reminded = float("-inf")
        try:
            await asyncio.to_thread(self._keep, packed)
            self._kept = True
        except IdentityError as error:
            self._kept = False  # tried again at the next step
            self._log.error(Event.REVOCATIONS_NOT_KEPT, reason=str(error))

    def _refused(self, problems: list[str]) -> None:
        """Lists were brought that are not taken; the same again is not said again."""
        said = "; ".join(problems)
        if said and said != self._said:
            self._log.warning(Event.REVOCATIONS_REFUSED, reason=said)
        self._said = said

    def too_old(self, now: float) -> list[str]:
        """Which lists are so old that nobody is believed whom they could have named."""
        limit = self._rules().refuse_after
        return [
            f"{listed.revocations} has ended on {utc(listed.revocations.next_update)}"
            for listed in self._trust().lists
            if now > listed.revocations.next_update + limit
        ]

    def status(self) -> list[dict[str, object]]:
        """For `GET /v1/status`: each list."""
        lists = [listed.revocations for listed in self._trust().lists]
        return [
            {"authority": one.issuer, "number": one.number, "revoked": len(one.revoked), "next_update": one.next_update}
            for one in lists
        ]

    def route(self, limits: Limits, count: Count) -> Route:
        """`GET /v1/revocations` for other nodes: the lists are public, and every node needs them."""
        intake = Intake(limits, count)

        async def answer(request: web.BaseRequest, _peer: Identity) -> web.StreamResponse:
            packed = self._packed
            if not packed:
                return Reply(404)
            name = f'"{tag(packed).hex()}"'
            if request.headers.get("If-None-Match") == name:
                return Reply(304, headers={"ETag": name})
            return await intake.give(request, Reply(200, packed, headers={"Content-Type": PEM, "ETag": name}), len(packed))

        return Route("GET", answer)

    def _keep(self, packed: bytes) -> None:
        make_directory(self._path.parent)
        write_file(self._path, packed, mode=PUBLIC, force=True)

    async def _fetch(self, source: Source) -> None:
        try:
            answer = await source.lists(self._seen)
            if answer is None:
                self._note("", "unchanged")
                return
            problems = await self._adopt(await asyncio.to_thread(unpack, answer))
        except IdentityError as error:
            self._refused([str(error)])
            self._note("", "refused")
        except CohortiumError as error:
            self._note(str(error), "failed")
        else:
            self._refused([str(problem) for problem in problems])
            self._note("", "refused" if problems else "taken")
            # What was refused is looked at again: the clocks may agree by then.
            self._seen = b"" if problems else tag(answer)

    def _note(self, trouble: str, outcome: str) -> None:
        self._fetched.inc(outcome=outcome)
        self._failures = self._failures + 1 if trouble else 0
        if self._failures == _FAILURES:
            self._log.warning(Event.REVOCATIONS_UNREACHABLE, reason=trouble)
        self.trouble = trouble

    def _remind(self, now: float) -> None:
        rules, lists = self._rules(), [listed.revocations for listed in self._trust().lists]
        old = [one for one in lists if now > one.next_update + rules.warn_after]
        if not old or now - self._reminded < _REMIND_SECONDS:
            return
        self._reminded = now
        for found in old:
            refusing = now > found.next_update + rules.refuse_after
            log = self._log.error if refusing else self._log.warning
            log(
                Event.REVOCATIONS_OLD,
                list=str(found),
                ended=utc(found.next_update),
                refused_from=utc(found.next_update + rules.refuse_after),
                reason=self.trouble or "nobody has made a newer one; the authority does it with 'cohortium pki crl'",
            )
