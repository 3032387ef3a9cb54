"""sd_notify: what the service manager hears, on a path and on an abstract name, and that nobody listening is no error."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nodes.notify import Notifier
from tests.services import manager


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "path" else f"@cohortium-test-{secrets.token_hex(8)}"


@pytest.mark.parametrize(
    ("say", "heard"),
    [
        (lambda notifier: notifier.ready("listening"), "READY=1\nSTATUS=listening"),
        (lambda notifier: notifier.status("two\n  lines"), "STATUS=two lines"),
        (lambda notifier: notifier.stopping("draining"), "STOPPING=1\nSTATUS=draining"),
        (lambda notifier: notifier.watchdog(), "WATCHDOG=1"),
    ],
    ids=["ready", "status", "stopping", "watchdog"],
)
def test_each_message_is_one_datagram(address: str, say: Callable[[Notifier], None], heard: str) -> None:
    with manager(address) as listening:
        say(Notifier({"NOTIFY_SOCKET": address}))
        assert listening.channel.recv(4096).decode() == heard


def test_a_reload_says_when_it_began_on_the_managers_clock(address: str) -> None:
    with manager(address) as listening:
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        Notifier({"NOTIFY_SOCKET": address}).reloading()
        first, second = listening.channel.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nowhere/at/all"}])
def test_nobody_listening_is_no_error(environment: dict[str, str]) -> None:
    Notifier(environment).ready("listening")


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_at_half_of_its_patience(environment: dict[str, str], seconds: float | None) -> None:
    assert Notifier(environment).watchdog_seconds == seconds


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with manager(address) as listening:
        Notifier().watchdog()
        assert listening.channel.recv(4096) == b"WATCHDOG=1"
