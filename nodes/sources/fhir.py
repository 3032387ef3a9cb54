"""FHIR R4 Observations by LOINC code: from a file (a Bundle, or NDJSON as a bulk export has it), or from a server by search.

Each has its subject as key. Units are compared as UCUM codes and never converted. Only what is final counts, and what only says
that a value lies below or above another (a comparator) is refused. An Observation without a value is as if it were not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, ClassVar, NoReturn
from urllib.parse import urlsplit

import msgspec

from mpc.disclosure import Categories
from nodes.fields import Text
from nodes.sources.base import Entry, Found, Wanted, refuse, typed_entry
from nodes.sources.duckdb_query import Seconds
from nodes.sources.fhir_model import LOINC, NotFhirError, Observation, Valued, bundle, observation
from nodes.sources.fhir_server import Search, Server
from nodes.sources.files import reading, together, whole
from nodes.sources.json_file import MOST_BYTES
from nodes.sources.people import Day, People, Take
from nodes.sources.secret import Secret
from nodes.yaml_struct import Problem, checked

_LINES = (".ndjson", ".jsonl")
_LINE_BYTES = 16 << 20


def _server(text: str) -> Iterator[Problem]:
    try:
        parts = urlsplit(text)
        loopback = _is_loopback(parts.hostname or "")
        good = parts.hostname and parts.port != 0 and not (parts.query or parts.fragment)
    except ValueError:
        parts, loopback, good = urlsplit(""), False, False
    if "@" in parts.netloc:  # not repeated: a password may stand there
        yield Problem((), "has a user or password; remove it, and say under 'token' where a bearer token is")
    elif not good or parts.scheme not in ("https", "http"):
        yield Problem((), "is no base URL of a FHIR server; write for instance https://fhir.example/r4")
    elif parts.scheme == "http" and not loopback:
        yield Problem((), "would send values over the network for all to read; write https:// (http:// is for this machine)")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


Code = Annotated[str, msgspec.Meta(pattern="^[0-9]{1,7}-[0-9]$")]
"""Of LOINC, such as 8480-6."""


class FhirObservations(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which Observations of whom."""

    needs: ClassVar[tuple[str, ...]] = ()
    quick: ClassVar[bool] = False

    file: Path | None = None
    """A Bundle (.json), or one resource a line (.ndjson)."""
    url: Annotated[str, checked(_server, pattern="^https?://")] | None = None
    """Base of a server: https://fhir.example/r4."""
    code: Code
    """LOINC code of the value."""
    panel: Code | None = None
    """LOINC code of the Observation, where the value is a component of it: 85354-9 for blood pressures."""
    unit: Text | None = None
    """UCUM code that every value must have, such as mm[Hg]; without it, none may have a unit."""
    subject: Annotated[str, msgspec.Meta(pattern="^Patient/[A-Za-z0-9.-]{1,64}$")] | None = None
    """Patient/ID; without it, everybody's."""
    take: Take = "latest"
    """Which of several of one subject."""
    since: Day | None = None
    """Earlier ones are left out."""
    token: Secret | None = None
    """The server's bearer token."""
    authority: Path | None = None
    """PEM certificates that the server's own must be signed by, instead of those of this machine."""
    timeout: Seconds = 30
    """Seconds that all questions of a round to the server may take."""

    def problems(self) -> Iterator[Problem]:
        """A file or a server."""
        if (self.file is None) == (self.url is None):
            yield Problem((), "give exactly one of file and url")
        for key in ("token", "authority"):
            if getattr(self, key) is not None and self.url is None:
                yield Problem((key,), "has no use for a file; remove it")

    @property
    def where(self) -> str:
        """File or server, for errors."""
        return str(self.file) if self.url is None else self.url

    @property
    def place(self) -> str:
        """See `Reader.place`."""
        return f"LOINC {self.code} of {self.where}"

    @property
    def search(self) -> Search:
        """What to ask the server for."""
        return Search(code=f"{LOINC}|{self.panel or self.code}", subject=self.subject or "", since=self.since or "")

    @classmethod
    def read(cls, asked: Sequence[tuple[FhirObservations, Wanted]]) -> list[Found]:
        """One record a subject. Raises DataError that never repeats a value."""
        return together(asked, lambda source: (source.file, source.url, source.token, source.authority, source.timeout), _read)


def _read(_place: Any, asked: Sequence[tuple[FhirObservations, Wanted]]) -> list[Found]:
    (first, wanted), collectors = asked[0], [_Collector(*each) for each in asked]
    if first.file is not None:
        for found in _of_file(first.file, wanted.variable):
            for collector in collectors:
                collector.take(found)
    else:
        assert first.url is not None, "`problems` asks for one of the two"
        token = first.token.read(wanted.variable, f"the token of {first.url}") if first.token is not None else ""
        server = Server(first.url, token, first.authority, first.timeout, wanted.variable)

        def take(question: Search, found: Observation) -> None:
            for collector in collectors:
                if collector.source.search == question:
                    collector.take(found)

        # Systolic and diastolic pressure are one question: that for their panel.
        server.ask(list(dict.fromkeys(source.search for source, _ in asked)), take)
    return [collector.people.found("observations", collector.source.place) for collector in collectors]


def _of_file(path: Path, variable: str) -> Iterator[Observation]:
    """Of NDJSON line by line, so that a long file takes no memory; of a Bundle at once."""
    at = 0
    try:
        if path.suffix.lower() in _LINES:
            with reading(variable, path, "an NDJSON file"), path.open("rb") as file:
                for at, line in enumerate(iter(lambda: file.readline(_LINE_BYTES), b""), start=1):  # noqa: B007 (for the error)
                    found = observation(line) if line.strip() else None
                    if found is not None:
                        yield found
        else:
            for entry in bundle(whole(variable, path, "a Bundle", MOST_BYTES)).entry:
                found = observation(entry.resource)
                if found is not None:
                    yield found
    except NotFhirError as error:
        refuse(variable, f"{path}:{at}" if at else str(path), f"{error}; see who exported it")


class _Collector:
    """What one variable takes of Observations."""

    def __init__(self, source: FhirObservations, wanted: Wanted) -> None:
        self.source, self.wanted, self.people = source, wanted, People(wanted, source.take)

    def take(self, found: Observation) -> None:
        """One of them, if it is asked for."""
        source, subject = self.source, found.subject.key
        if not found.is_final or not found.code.has(source.panel or source.code):
            return
        if source.subject is not None and source.subject != f"Patient/{subject}":
            return
        moment = found.moment
        if source.since is not None and moment[: len(source.since)] < source.since:
            return
        for part in (found,) if source.panel is None else found.component:
            value = self._value(part) if part.code.has(source.code) else None
            if value is not None:
                if not subject:
                    self._fail("does not say of whom it is")
                if not moment:
                    self._fail("does not say of when it is")
                self.people.add(subject, moment, found.id, value)

    def _value(self, part: Valued) -> Entry | None:
        """What it says; None when it has no value."""
        declared, quantity = self.wanted.declared, part.value_quantity
        if isinstance(declared, Categories):
            concept = part.value_codeable_concept
            said = [*(one.code for one in concept.coding), concept.text] if concept is not None else [part.value_string or ""]
            said = [text.strip() for text in said if text.strip()]
            return next((text for text in said if text in declared.names), said[0] if said else None)
        if quantity is not None:
            if quantity.value is None:
                return None
            if quantity.comparator:
                self._fail("is a limit and no value (comparator)")
            if not quantity.is_in(self.source.unit):
                self._wrong_unit()
            return self._number(quantity.value)
        if part.value_integer is not None:
            if self.source.unit is not None:
                self._wrong_unit()
            return self._number(part.value_integer)
        if part.value_string is not None or part.value_codeable_concept is not None:
            self._fail("has words where a number should be")
        return None

    def _number(self, value: float) -> Entry | None:
        try:
            return typed_entry(self.wanted.declared, value)
        except ValueError as rule:
            self._fail(str(rule))

    def _wrong_unit(self) -> NoReturn:
        unit = self.source.unit
        self._fail("has a unit, and 'unit' says that none has" if unit is None else f"has not the UCUM unit {unit}")

    def _fail(self, text: str) -> NoReturn:
        refuse(self.wanted.variable, self.source.place, f"an Observation {text}; correct the source, or leave the study")
