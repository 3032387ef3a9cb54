"""How often strangers may try: a few failures an address, and a number of attempts in all.

A token's secret cannot be guessed; this keeps those who try from keeping the authority busy. Who succeeds is never slowed by
who shares an address with it: a whole practice may enrol from behind one.
"""

from __future__ import annotations

import ipaddress
import math

_FAILURES = 10
_FAILURE_SECONDS = 6.0
"""Ten failures at once from an address, then one every six seconds."""
_ATTEMPTS = 50
_ATTEMPT_SECONDS = 0.1
_MAX_ADDRESSES = 10_000


class Allowance:
    """A number that grows by one every `seconds` up to `most`, and is taken from. Times are seconds of a steady clock."""

    __slots__ = ("_at", "_left", "_most", "_seconds")

    def __init__(self, most: int, seconds: float, now: float) -> None:
        self._most, self._seconds = most, seconds
        self._left, self._at = float(most), now

    def wait(self, now: float) -> float:
        """Seconds until there is one to take; 0 when there is."""
        self._left = min(self._most, self._left + (now - self._at) / self._seconds)
        self._at = now
        return max(0.0, (1 - self._left) * self._seconds)

    def take(self) -> None:
        """Takes one; `wait` said that there is one, or a debt does no harm."""
        self._left -= 1

    def is_full(self, now: float) -> bool:
        """Whether nothing was taken for so long that it makes no difference."""
        self.wait(now)
        return self._left >= self._most


class Rate:
    """The allowances of one door."""

    def __init__(self, now: float) -> None:
        self._attempts = Allowance(_ATTEMPTS, _ATTEMPT_SECONDS, now)
        self._failures: dict[str, Allowance] = {}

    def attempt(self, address: str, now: float) -> int:
        """0 when `address` may try now, which counts as an attempt; otherwise in how many whole seconds."""
        known = self._failures.get(_network(address))
        wait = max(self._attempts.wait(now), 0.0 if known is None else known.wait(now))
        if wait == 0:
            self._attempts.take()
        return math.ceil(wait)

    def failed(self, address: str, now: float) -> None:
        """The attempt was one that an honest node does not make."""
        if len(self._failures) >= _MAX_ADDRESSES:
            self._forget(now)
        self._failures.setdefault(_network(address), Allowance(_FAILURES, _FAILURE_SECONDS, now)).take()

    def _forget(self, now: float) -> None:
        self._failures = {name: kept for name, kept in self._failures.items() if not kept.is_full(now)}
        while len(self._failures) >= _MAX_ADDRESSES:  # so many at once: the oldest go, `_attempts` still holds
            del self._failures[next(iter(self._failures))]


def _network(address: str) -> str:
    """Whoever has one IPv6 address has 2^64 (RFC 6177); a scope is this machine's affair."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(parsed.ipv4_mapped or ipaddress.IPv6Network((parsed, 64), strict=False))
    return str(parsed)
