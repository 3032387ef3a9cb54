"""What is read of FHIR R4 (hl7.org/fhir/R4): Bundles, Observations, OperationOutcomes. Other elements are passed over."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TypeVar

import msgspec

LOINC = "http://loinc.org"
UCUM = "http://unitsofmeasure.org"
_FINAL = frozenset({"final", "amended", "corrected"})
"""Of observation-status: somebody stands by it."""
_DATE = re.compile(r"[0-9]{4}(-[0-9]{2}(-[0-9]{2}(T.+)?)?)?", re.ASCII)
_PATIENT = re.compile(r"(?:.*/)?Patient/([A-Za-z0-9.-]{1,64})(?:/_history/.*)?", re.ASCII)

T = TypeVar("T")


class NotFhirError(Exception):
    """What was read is not what R4 describes. The text says where, and repeats nothing of it."""


class _Element(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of all: elements that are not there are empty."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class Coding(_Element, frozen=True, kw_only=True):
    """R4, 2.24.0.5."""

    system: str = ""
    code: str = ""


class CodeableConcept(_Element, frozen=True, kw_only=True):
    """R4, 2.24.0.6."""

    coding: tuple[Coding, ...] = ()
    text: str = ""

    def has(self, loinc: str) -> bool:
        """Whether one of its codings is that LOINC code."""
        return any(one.system == LOINC and one.code == loinc for one in self.coding)


class Quantity(_Element, frozen=True, kw_only=True):
    """R4, 2.24.0.7."""

    value: int | float | None = None
    comparator: str = ""
    unit: str = ""
    system: str = ""
    code: str = ""

    def is_in(self, ucum: str | None) -> bool:
        """Whether its unit is that one; None: whether it has none."""
        if ucum is None:
            return not self.code and not self.unit
        return self.system == UCUM and self.code == ucum


class Reference(_Element, frozen=True, kw_only=True):
    """R4, 2.3."""

    reference: str = ""

    @property
    def key(self) -> str:
        """The patient's id, or the whole reference when it is not to a Patient by id."""
        match = _PATIENT.fullmatch(self.reference)
        return match[1] if match is not None else self.reference


class Period(_Element, frozen=True, kw_only=True):
    """R4, 2.24.0.13."""

    start: str = ""


class Valued(_Element, frozen=True, kw_only=True):
    """What an Observation and each of its components have."""

    code: CodeableConcept = CodeableConcept()
    value_quantity: Quantity | None = None
    value_integer: int | None = None
    value_codeable_concept: CodeableConcept | None = None
    value_string: str | None = None


class Observation(Valued, frozen=True, kw_only=True):
    """R4, 10.1."""

    id: str = ""
    status: str = ""
    subject: Reference = Reference()
    effective_date_time: str = ""
    effective_instant: str = ""
    effective_period: Period = Period()
    issued: str = ""
    component: tuple[Valued, ...] = ()

    @property
    def is_final(self) -> bool:
        """Whether it counts."""
        return self.status in _FINAL

    @property
    def moment(self) -> str:
        """When it was true of its subject: UTC, such that moments sort as text; empty where that is not said.

        A date without a time is its first moment. Raises NotFhirError.
        """
        text = self.effective_date_time or self.effective_instant or self.effective_period.start or self.issued
        match = _DATE.fullmatch(text)
        if not text:
            return ""
        try:
            if match is None:
                raise ValueError
            # A year and a month are filled up to the first day (R4, 2.24.0.1, dateTime).
            moment = datetime.fromisoformat(text + "-01-01"[len(text) - 4 :] if match[3] is None and len(text) < 10 else text)
        except ValueError:
            raise NotFhirError("an Observation has a date that is none") from None
        there = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        return there.astimezone(UTC).isoformat(timespec="microseconds")


class Link(_Element, frozen=True, kw_only=True):
    """To another page of a search."""

    relation: str = ""
    url: str = ""


class SearchPart(_Element, frozen=True, kw_only=True):
    """Why an entry is in a search's answer."""

    mode: str = ""


class BundleEntry(_Element, frozen=True, kw_only=True):
    """One resource; what it is shows `resource_type`."""

    resource: msgspec.Raw = msgspec.Raw()
    search: SearchPart = SearchPart()


class Bundle(_Element, frozen=True, kw_only=True):
    """R4, 2.36."""

    resource_type: str
    link: tuple[Link, ...] = ()
    entry: tuple[BundleEntry, ...] = ()


class Issue(_Element, frozen=True, kw_only=True):
    """R4, 2.28.4. What the server says in words is not read: it may hold anything."""

    severity: str = ""
    code: str = ""


class OperationOutcome(_Element, frozen=True, kw_only=True):
    """What went wrong at a server."""

    issue: tuple[Issue, ...] = ()

    @property
    def errors(self) -> list[str]:
        """The codes of what stopped it, as far as they look like codes."""
        wrong = [one.code for one in self.issue if one.severity in ("error", "fatal")]
        return [code if re.fullmatch("[a-z-]{1,32}", code) else "unknown" for code in wrong]


class Resource(_Element, frozen=True, kw_only=True):
    """Any."""

    resource_type: str = ""


def decoded(kind: type[T], raw: bytes | msgspec.Raw) -> T:
    """JSON as a `kind`. Raises NotFhirError."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError:
        raise NotFhirError(f"something is no {kind.__name__} as R4 has it") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotFhirError("is not JSON") from None


def bundle(raw: bytes) -> Bundle:
    """A whole file, or an answer of a server. Raises NotFhirError."""
    found = decoded(Bundle, raw)
    if found.resource_type != "Bundle":
        raise NotFhirError("is no Bundle")
    return found


def type_of(raw: bytes | msgspec.Raw) -> str:
    """The type of a resource; empty when there is none. Raises NotFhirError."""
    return decoded(Resource, raw).resource_type if bytes(raw) else ""


def observation(raw: bytes | msgspec.Raw) -> Observation | None:
    """The resource as an Observation; None when it is another. Raises NotFhirError."""
    return decoded(Observation, raw) if type_of(raw) == "Observation" else None
