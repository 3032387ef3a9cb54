"""Structured logs: a fixed vocabulary of events, coloured lines on a terminal, JSON lines otherwise, and no secrets.

Nobody passes a secret to a logger. Should it happen, `_scrub` is the second net: it lets pass what logs are made of
(short text, single numbers, names) and replaces everything else by its type.

    timestamp   UTC, ISO 8601        level   debug, info, warning, error
    event       one of Event         node    who logs: the node's name
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import time
import traceback
from collections.abc import Mapping, MutableMapping
from enum import Enum, StrEnum
from pathlib import PurePath
from types import ModuleType
from typing import Any, Literal, TextIO, cast

from mpc.identity import Identity

_hidden = "rich" not in sys.modules
if _hidden:
    # structlog imports rich, where there is one, for tracebacks that show local variables. We do not want those, and an
    # idle daemon does not want the 3 MB.
    sys.modules["rich"] = cast(ModuleType, None)
import structlog  # noqa: E402  (after rich is hidden)

if _hidden:
    del sys.modules["rich"]

Logger = structlog.typing.FilteringBoundLogger
"""What `logger` gives. Import it from here: this module is the one that imports structlog."""

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "console", "json"]

MAX_TEXT = 500
"""Characters of a text value."""
MAX_TRACEBACK = 8000
"""Characters of a traceback; its end says what went wrong."""
MAX_ITEMS = 50
"""Entries of a list or mapping, such as the names of who is missing."""
_THIN_SECONDS = 1.0


class Event(StrEnum):
    """Everything that is ever logged, as kebab-case slugs: a log can be searched by event without knowing the text."""

    STARTING = "starting"
    READY = "ready"
    RELOADED = "reloaded"
    RELOAD_REFUSED = "reload-refused"
    """The configuration was read again and cannot be used; the old one holds."""
    LOG_LEVEL = "log-level"
    """Somebody changed the level of this log."""
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    KEY_MADE = "key-made"
    """The next encryption key; it is published when its time comes."""
    KEY_ROTATED = "key-rotated"
    """A new encryption key is published from now on."""
    KEY_ERASED = "key-erased"
    """No open round needs that encryption key any more."""
    CONNECTION_REFUSED = "connection-refused"
    """Somebody who connected was turned away; `reason` is a slug."""
    MESSAGE_REFUSED = "message-refused"
    MESSAGE_TAKEN = "message-taken"
    """A message was accepted; `message` names it here and at its sender."""
    MESSAGE_SENT = "message-sent"
    """Its recipient gave its final answer."""
    DELIVERY_DELAYED = "delivery-delayed"
    """The first attempt failed; it goes on."""
    DELIVERY_ABANDONED = "delivery-abandoned"
    DELIVERY_REFUSED = "delivery-refused"
    """The recipient gave a final answer other than `accepted`."""
    INVITATION_DECIDED = "invitation-decided"
    """`reason` is empty for a consent."""
    SOURCE_FAILED = "source-failed"
    """A value is missing, no number, no known category or out of bounds; the reason names the rule, not the value."""
    ROUND_OPENED = "round-opened"
    ROUND_PHASE = "round-phase"
    SUBMITTED = "submitted"
    """This patient's partial sum is committed: the round counts."""
    ROUND_ENDED = "round-ended"
    ROUND_RESUMED = "round-resumed"
    """An open round goes on after a restart."""
    ROUND_LOST = "round-lost"
    """A kept round could not be rebuilt and is given up; the reason says what has changed."""
    SCHEDULED = "scheduled"
    """A round was opened because its study was due."""
    SCHEDULE_FAILED = "schedule-failed"
    """Nothing was opened although something was due; it is tried again."""
    ERASED = "erased"
    """Rounds, results and ledger lines that were older than they may be."""
    STORE_FAILED = "store-failed"
    """The store could not keep something; it is tried again and nothing is lost."""
    STORE_RESTORED = "store-restored"
    """The store is older than this node's last commit: open rounds are given up, so that nothing is said twice."""
    RELAY_UNREACHABLE = "relay-unreachable"
    """Nothing can be fetched from the relay; it goes on trying."""
    RELAY_REACHED = "relay-reached"
    ENROLLED = "enrolled"
    """This node's authority gave a certificate for a token."""
    ENROLMENT_REFUSED = "enrolment-refused"
    """Somebody at the enrolment address got none; `outcome` is a slug."""
    RENEWAL_GRANTED = "renewal-granted"
    """This node's authority renewed the certificate of another node."""
    RENEWAL_REFUSED = "renewal-refused"
    IDENTITY_RENEWED = "identity-renewed"
    """This node has a new key and certificate, and shows them on new connections."""
    IDENTITY_PASSED_OVER = "identity-passed-over"
    """Of the configured key and certificate and those that the node got itself, one pair cannot be used; the other is."""
    IDENTITY_LOST = "identity-lost"
    """This node's certificate has ended or was revoked: it stops."""
    RENEWAL_FAILED = "renewal-failed"
    """The next certificate could not be had; it is tried again."""
    CERTIFICATE_ENDING = "certificate-ending"
    """Two thirds of the certificate's life are over, and nobody is named who renews it."""
    CLOCK_BEHIND = "clock-behind"
    """The authority's clock is ahead of this machine's."""
    REVOCATIONS_TAKEN = "revocations-taken"
    """A newer revocation list is obeyed."""
    REVOCATIONS_REFUSED = "revocations-refused"
    """A list is older, of a stranger, damaged or too large; the one before is obeyed."""
    REVOCATIONS_UNREACHABLE = "revocations-unreachable"
    """Newer lists cannot be asked for; it goes on trying."""
    REVOCATIONS_OLD = "revocations-old"
    """A list should have had a successor long ago."""
    REVOCATIONS_NOT_KEPT = "revocations-not-kept"
    """The newest lists could not be written to the state directory; they are obeyed all the same."""
    CONNECTIONS_CUT = "connections-cut"
    """Peers that are not believed any more lost the connections that they had."""
    AUDIT_TAMPERED = "audit-tampered"
    """The end of the audit log is not as this node has left it: somebody else has written to its store."""
    MAIL_EXPIRED = "mail-expired"
    """Messages that nobody fetched in time were deleted."""
    LIBRARY = "library"
    """A message of a library through the standard `logging`; `logger` and `message` say which."""
    UNLISTED = "unlisted"
    """Something logged an event that is not in this vocabulary: a bug; its text is not repeated."""


_VOCABULARY = frozenset(Event)


def configure(level: Level = "info", format: Format = "auto", stream: TextIO | None = None) -> None:
    """Sets up logging for the process, the standard library's included. May be called again (reload).

    `stream` is the current sys.stderr by default; `auto` is `console` when that is a terminal and `json` otherwise.
    """
    stream = sys.stderr if stream is None else stream
    threshold = logging.getLevelNamesMapping()[level.upper()]
    console = format == "console" or (format == "auto" and stream.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _scrub,
            _console(stream) if console else structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Tolerant(stream))),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Forward)]:
        root.removeHandler(handler)
    root.addHandler(_Forward(level=max(threshold, logging.WARNING)))


class Thinned:
    """Lets one line through of many alike: at most one a reason in so many seconds. Reasons are fixed slugs, so there are few."""

    def __init__(self, seconds: float = _THIN_SECONDS) -> None:
        self._seconds = seconds
        self._lines: dict[str, tuple[float, int]] = {}
        """By reason: when the last line was let through, and how many were left out since."""

    def due(self, reason: str) -> int | None:
        """How many lines were left out since the last one; None when this one is to be left out as well."""
        now = time.monotonic()
        last, left_out = self._lines.get(reason, (-math.inf, 0))
        if now - last < self._seconds:
            self._lines[reason] = (last, left_out + 1)
            return None
        self._lines[reason] = (now, 0)
        return left_out


def scrubbed(content: Mapping[str, object]) -> dict[str, object]:
    """What logs are made of, and the type of everything else in its place."""
    return {key: _safe(value) for key, value in content.items()}


def place(error: BaseException) -> str:
    """Where an unexpected error arose, innermost last, without its text, which might repeat data."""
    return " > ".join(f"{PurePath(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)[-6:])


def logger(node: Identity | str) -> Logger:
    """The logger of a node: `logger(me).info(Event.READY, listen="127.0.0.1:7001")`."""
    bound: Logger = structlog.get_logger(node=str(node))
    return bound


def _console(stream: TextIO) -> structlog.dev.ConsoleRenderer:
    colours = stream.isatty() and not os.environ.get("NO_COLOR")
    return structlog.dev.ConsoleRenderer(colors=colours, pad_event_to=24, exception_formatter=structlog.dev.plain_traceback)


class _Tolerant:
    """A stream whose failures (a full disk, a reader that has gone) cost lines of the log and nothing else."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            return self._stream.write(text)
        return 0

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


class _Forward(logging.Handler):
    """Carries what libraries log (warnings and worse) to our log."""

    def emit(self, record: logging.LogRecord) -> None:
        event: dict[str, Any] = {"logger": record.name, "message": record.getMessage()}
        structlog.get_logger().log(record.levelno, Event.LIBRARY, exc_info=record.exc_info, **event)


def _scrub(_logger: object, _method: str, entry: MutableMapping[str, Any]) -> Mapping[str, Any]:
    first = {key: entry.pop(key, None) for key in ("timestamp", "level", "event", "node")}
    if first["event"] not in _VOCABULARY:
        first["event"] = Event.UNLISTED
    traceback = entry.pop("exception", None)
    scrubbed = {key: _safe(value) for key, value in {**first, **entry}.items() if (key, value) != ("node", None)}
    if isinstance(traceback, str):
        scrubbed["exception"] = traceback[-MAX_TRACEBACK:]
    return scrubbed


def _safe(value: object, depth: int = 0) -> object:
    """`value` if it is what logs are made of, else its type in angle brackets."""
    if value is None or type(value) in (bool, int, float):
        return value if not isinstance(value, int) or abs(value) < 2**64 else "<int>"  # a longer one is a key
    if isinstance(value, str):
        return _text(str(value))
    if isinstance(value, Identity | PurePath):
        return _text(str(value))
    if isinstance(value, Enum):
        return _safe(value.value, depth)
    if isinstance(value, BaseException):
        return _text(f"{type(value).__name__}: {value}")
    if isinstance(value, list | tuple | set | frozenset | Mapping) and depth < 3:
        return _collection(value, depth)
    return f"<{type(value).__name__}>"


def _collection(value: Any, depth: int) -> object:
    if isinstance(value, Mapping):
        return {_text(str(key)): _safe(item, depth + 1) for key, item in list(value.items())[:MAX_ITEMS]}
    items = sorted(value, key=str) if isinstance(value, set | frozenset) else list(value)
    if any(isinstance(item, int | float) for item in items):  # a row of numbers is a vector
        return f"<{type(value).__name__} of {len(items)}>"
    return [_safe(item, depth + 1) for item in items[:MAX_ITEMS]]


def _text(text: str) -> str:
    """One short line that a terminal takes as text, whatever a peer may have put into it."""
    if text.isprintable() and len(text) <= MAX_TEXT:
        return text
    clean = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[: MAX_TEXT + 1])
    return clean if len(clean) <= MAX_TEXT else clean[:MAX_TEXT] + "..."
