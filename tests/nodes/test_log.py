"""Log lines: their keys, their two forms, and the net that holds secrets back."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from mpc.errors import Answer
from mpc.identity import Identity, Role
from mpc.secret import Secret
from nodes.log import MAX_ITEMS, MAX_TEXT, MAX_TRACEBACK, Event, Format, Level, configure, logger


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:]
    yield
    root.handlers[:] = before
    structlog.reset_defaults()


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def _logged(**values: object) -> dict[str, Any]:
    stream = io.StringIO()
    configure("info", "json", stream)
    logger("alice").info(Event.READY, **values)
    [line] = _lines(stream)
    return line


def test_a_line_has_time_level_event_and_node_first() -> None:
    line = _logged(listen="127.0.0.1:7001")
    assert list(line) == ["timestamp", "level", "event", "node", "listen"]
    assert (line["level"], line["event"], line["node"]) == ("info", "ready", "alice")
    age = datetime.now(UTC) - datetime.fromisoformat(line["timestamp"])
    assert timedelta(0) <= age < timedelta(minutes=1)
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize(
    ("format", "stream", "is_json"),
    [
        ("auto", io.StringIO, True),
        ("auto", Terminal, False),
        ("json", Terminal, True),
        ("console", io.StringIO, False),
    ],
)
def test_auto_is_console_on_a_terminal(format: Format, stream: type[io.StringIO], is_json: bool) -> None:
    out = stream()
    configure("info", format, out)
    logger("alice").info(Event.READY)
    assert out.getvalue().startswith("{") is is_json
    assert "ready" in out.getvalue()


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def coloured(stream: io.StringIO) -> bool:
        configure("info", "console", stream)
        logger("alice").info(Event.READY)
        return "\x1b[" in stream.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert coloured(Terminal())
    assert not coloured(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not coloured(Terminal())


@pytest.mark.parametrize(("level", "expected"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_lines_below_the_level_are_left_out(level: Level, expected: int) -> None:
    stream = io.StringIO()
    configure(level, "json", stream)
    log = logger("alice")
    log.debug(Event.READY)
    log.info(Event.READY)
    log.warning(Event.READY)
    log.error(Event.READY)
    assert len(_lines(stream)) == expected


def test_configuring_again_replaces_what_was_there() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure("info", "json", first)
    log = logger("alice")
    configure("error", "json", second)
    log.error(Event.FAILED)
    logging.getLogger("aiohttp").error("lost")
    assert first.getvalue() == ""
    assert [line["event"] for line in _lines(second)] == ["failed", "library"]


def test_an_event_outside_the_vocabulary_is_not_repeated() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    logger("alice").info("the value is 73519")
    assert [line["event"] for line in _lines(stream)] == ["unlisted"]
    assert "73519" not in stream.getvalue()


def test_the_vocabulary_is_slugs() -> None:
    for event in Event:
        assert event.value.replace("-", "").isalnum()
        assert event.value == event.value.lower()


class Holder:
    def __repr__(self) -> str:
        return "73519"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"73519", "<bytes>"),
        (bytearray(b"73519"), "<bytearray>"),
        (memoryview(b"73519"), "<memoryview>"),
        (np.array([73519]), "<ndarray>"),
        (np.int64(73519), "<int64>"),
        (np.float64(73519), "<float64>"),
        (Secret(b"73519"), "<Secret>"),
        (Holder(), "<Holder>"),
        ([73519], "<list of 1>"),
        ((1, 73519), "<tuple of 2>"),
        ({"seed": b"73519"}, {"seed": "<bytes>"}),
        ({"a": [[b"73519"]]}, {"a": [["<bytes>"]]}),
        ([[[["73519"]]]], [[["<list>"]]]),
        (2**64, "<int>"),
        (7, 7),
        (True, True),
        (0.5, 0.5),
        (None, None),
        ("bob", "bob"),
        (("bob", "dan"), ["bob", "dan"]),
        ({"dan", "bob"}, ["bob", "dan"]),
        (Identity("demo", Role.PATIENT, "bob"), "spiffe://demo/patient/bob"),
        (Path("/run/x"), "/run/x"),
        (Answer.GONE, "gone"),
        (ValueError("lost"), "ValueError: lost"),
        ("a\n\x1b[31mb", "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[31mb"),
        ("x" * (MAX_TEXT + 1), "x" * MAX_TEXT + "..."),
        (["x"] * (MAX_ITEMS + 1), ["x"] * MAX_ITEMS),
    ],
)
def test_only_what_logs_are_made_of_is_shown(value: object, shown: object) -> None:
    assert _logged(value=value)["value"] == shown


def _fail(secret: str) -> None:
    raise RuntimeError(f"lost {len(secret)}")


@pytest.mark.parametrize("format", ["json", "console"])
def test_a_traceback_shows_no_local_variables(format: Format) -> None:
    stream = io.StringIO()
    configure("info", format, stream)
    try:
        _fail("73519")
    except RuntimeError:
        logger("alice").exception(Event.FAILED)
    assert "RuntimeError: lost 5" in stream.getvalue()
    assert "secret = " not in stream.getvalue()
    assert "'73519'" not in stream.getvalue().replace('_fail("73519")', "")


def test_a_long_traceback_keeps_its_end() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    try:
        raise RuntimeError("x" * MAX_TRACEBACK + "end")
    except RuntimeError:
        logger("alice").exception(Event.FAILED)
    [line] = _lines(stream)
    assert len(line["exception"]) == MAX_TRACEBACK
    assert line["exception"].endswith("xend")


def test_warnings_of_libraries_come_out_in_the_same_form() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    library = logging.getLogger("aiohttp.server")
    library.warning("from %s", "there")
    library.info("chatter")
    [line] = _lines(stream)
    assert (line["level"], line["event"], line["logger"]) == ("warning", "library", "aiohttp.server")
    assert line["message"] == "from there"
    assert "node" not in line


def test_logging_does_not_load_rich() -> None:
    code = "import sys, nodes.log; assert not any(name.split('.')[0] == 'rich' for name in sys.modules); import rich"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], timeout=60)
