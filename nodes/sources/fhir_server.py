"""Asks a FHIR server for Observations (R4, 3.1.1, search): page after page, in the time that there is, of that server alone.

A server that is busy (429, 503) is asked again when it says (Retry-After, RFC 9110, 10.2.3), or after a second, two, four, ...
Redirects are not followed, and links to further pages only to the same scheme, host and port: the token is for nobody else.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urljoin

from nodes.sources.base import refuse
from nodes.sources.fhir_model import Bundle, NotFhirError, Observation, OperationOutcome, bundle, decoded, observation, type_of

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession
    from yarl import URL

_COUNT = 500
"""Resources that a page should have at the most; servers may give fewer."""
_PAGE_BYTES = 64 << 20
_BUSY = (429, 503)
_MOST_WAIT = 30.0
_WORDS = {
    401: "does not accept the token; give one that is good under 'token'",
    403: "does not let this token read Observations; ask whoever runs it",
    404: "knows no Observations there; check the base URL",
}


@dataclass(frozen=True, slots=True)
class Search:
    """One question."""

    code: str
    """SYSTEM|CODE."""
    subject: str = ""
    since: str = ""

    @property
    def parameters(self) -> list[tuple[str, str]]:
        """Of R4's search of Observations."""
        asked = [("code", self.code), ("subject", self.subject), ("date", f"ge{self.since}" if self.since else "")]
        return [(name, value) for name, value in asked if value] + [("_count", str(_COUNT))]


@dataclass(frozen=True, slots=True, repr=False)
class Server:
    """Which, and how it is asked."""

    url: str
    token: str
    """Empty: none."""
    authority: Path | None
    seconds: float
    """For all questions together."""
    variable: str
    """Whom an error concerns."""

    def fail(self, text: str) -> NoReturn:
        """Raises DataError."""
        refuse(self.variable, self.url, text)

    def ask(self, questions: Sequence[Search], take: Callable[[Search, Observation], None]) -> None:
        """Gives `take` every Observation that answers a question. Blocking. Raises DataError."""
        import aiohttp

        try:
            asyncio.run(self._ask(questions, take))
        except TimeoutError:
            self.fail(f"takes longer than {self.seconds:g} s; ask for less, or raise its 'timeout'")
        except NotFhirError as error:
            self.fail(f"its answer: {error}; see whether that is a FHIR R4 server")
        except aiohttp.ClientSSLError:
            self.fail("its certificate is not accepted; check the URL, or name who signed it under 'authority'")
        except aiohttp.ClientConnectorError:
            self.fail("nothing answers there; check the URL, and that it is up")
        except aiohttp.ClientError:
            self.fail("breaks off in the middle of an answer; see its log")

    async def _ask(self, questions: Sequence[Search], take: Callable[[Search, Observation], None]) -> None:
        import aiohttp
        from yarl import URL

        headers = {"Accept": "application/fhir+json"} | ({"Authorization": f"Bearer {self.token}"} if self.token else {})
        end = asyncio.get_running_loop().time() + self.seconds
        async with (
            asyncio.timeout_at(end),
            aiohttp.ClientSession(
                headers=headers,
                connector=aiohttp.TCPConnector(ssl=self._tls()),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
            ) as session,
        ):
            for question in questions:
                url, seen = URL(self.url.rstrip("/") + "/Observation").with_query(question.parameters), set[URL]()
                while True:
                    seen.add(url)
                    page = bundle(await self._get(session, url, end))
                    self._hand_on(page, question, take)
                    link = next((link.url for link in page.link if link.relation == "next"), None)
                    if link is None:
                        break
                    try:
                        url = URL(urljoin(str(url), link), encoded=True)
                        same = url.origin() == URL(self.url).origin()
                    except ValueError:
                        raise NotFhirError("has a link that is none") from None
                    if not same:
                        self.fail("links to a page on another server, which is not asked; see its settings")
                    if url in seen:
                        self.fail("links its pages in a circle; see its log")

    def _tls(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self.authority)
        except OSError as error:
            refuse(self.variable, str(self.authority), f"no certificates can be read from it ({error.strerror}); check the file")

    def _hand_on(self, page: Bundle, question: Search, take: Callable[[Search, Observation], None]) -> None:
        for entry in page.entry:
            if type_of(entry.resource) == "OperationOutcome":
                errors = decoded(OperationOutcome, entry.resource).errors
                if errors:
                    self.fail(f"answers with an error ({', '.join(errors)}); see its log")
            found = observation(entry.resource) if entry.search.mode in ("", "match") else None
            if found is not None:
                take(question, found)

    async def _get(self, session: ClientSession, url: URL, end: float) -> bytes:
        patience = 1.0
        while True:
            async with session.get(url, allow_redirects=False) as answer:
                content = await self._content(answer)
                if answer.status == 200:
                    return content
                if answer.status not in _BUSY:
                    self._refused(answer.status, content)
                wait = wait_of(answer.headers.get("Retry-After", ""), time.time())
            if wait is None:
                wait, patience = patience, min(2 * patience, _MOST_WAIT)
            if asyncio.get_running_loop().time() + wait > end:
                self.fail(f"is busy for longer than {self.seconds:g} s; try again later, or raise its 'timeout'")
            await asyncio.sleep(wait)

    async def _content(self, answer: ClientResponse) -> bytes:
        content = bytearray()
        async for piece in answer.content.iter_chunked(1 << 16):
            content += piece
            if len(content) > _PAGE_BYTES:
                self.fail(f"sends a page of more than {_PAGE_BYTES >> 20} MiB; see its settings")
        return bytes(content)

    def _refused(self, status: int, content: bytes) -> NoReturn:
        errors: list[str] = []
        with suppress(NotFhirError):
            errors = decoded(OperationOutcome, content).errors
        told = f"{status}{', ' if errors else ''}{', '.join(errors)}"
        if status in _WORDS:
            self.fail(f"{_WORDS[status]} ({told})")
        if 300 <= status < 400:
            self.fail(f"sends this node elsewhere ({told}), where it does not go; write the URL that it means")
        self.fail(f"answers with an error ({told}); see its log")


def wait_of(header: str, now: float) -> float | None:
    """Seconds that a Retry-After of `now` (Unix seconds) asks for: a number of them, or a date; None for anything else."""
    if header.isascii() and header.isdigit():
        return float(header[:9])
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now)
    except ValueError:
        return None
