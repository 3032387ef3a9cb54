"""Ports of loopback for daemons that are started, stopped and started again.

A port that the kernel picks lies where it also takes the near ends of connections from: while a daemon is down for a
moment, any connection of this machine may come to sit on it. So these are picked below that range.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

LOWEST = 10_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUAL = 32_768
"""Where the kernel's own range begins unless the administrator says otherwise (Linux; elsewhere it begins higher)."""


def free_ports(count: int) -> list[int]:
    """So many different ports that nobody listens on now and that no outgoing connection is given."""
    chosen: list[int] = []
    held: list[socket.socket] = []
    try:
        for port in random.SystemRandom().sample(range(LOWEST, _end()), k=_end() - LOWEST):
            if len(chosen) == count:
                break
            one = socket.socket()
            held.append(one)
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            chosen.append(port)
    finally:
        for one in held:
            one.close()
    if len(chosen) < count:
        raise OSError(f"fewer than {count} ports from {LOWEST} to {_end() - 1} are free")
    return chosen


def _end() -> int:
    """Where the range of outgoing connections begins; the usual place if that leaves no room below it."""
    try:
        first = int(_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _USUAL
    return first if first >= LOWEST + 1000 else _USUAL
