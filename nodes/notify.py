"""Tells the service manager how the daemon is: sd_notify(3), one datagram a message, and nothing where nobody listens.

Started by hand or in a container there is no NOTIFY_SOCKET, and every method does nothing.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

_SEND_SECONDS = 1.0
"""A manager that does not read for so long misses a message; the daemon goes on."""


class Notifier:
    """Speaks to $NOTIFY_SOCKET: a path, or `@` and a name in Linux's abstract namespace."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_seconds = _watchdog_seconds(environment)
        """How often WATCHDOG=1 is due: half of what the manager waits for; None when it does not wait."""

    def ready(self, status: str) -> None:
        """Start-up or a reload is done."""
        self._send("READY=1", f"STATUS={_line(status)}")

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={_line(status)}")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it. The time lets the manager tell this one from an earlier one (Type=notify-reload)."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str) -> None:
        """The daemon is about to end."""
        self._send("STOPPING=1", f"STATUS={_line(status)}")

    def watchdog(self) -> None:
        """The daemon is alive."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.settimeout(_SEND_SECONDS)
                channel.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            pass  # no manager is no reason to stop working


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    # sd_watchdog_enabled(3): the variables are meant for the process that WATCHDOG_PID names, not for its children.
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    interval = environment.get("WATCHDOG_USEC", "")
    return int(interval) / 2e6 if interval.isascii() and interval.isdigit() and int(interval) > 0 else None


def _line(text: str) -> str:
    """The protocol's separator is the line end."""
    return " ".join(text.split())
