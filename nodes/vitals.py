"""What a daemon measures of itself: its start, its certificate, its last reload; a node with rounds, their phases as well."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from mpc.rounds.events import Effect, Ended, Progressed
from nodes.metrics import Registry

_PHASE_SECONDS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0, 86400.0)


def program_version() -> str:
    """The version of the installed program."""
    try:
        return version("cohortium")
    except PackageNotFoundError:  # run from a source tree that nobody installed
        return "unknown"


class Vitals:
    """Times are Unix seconds. For the event loop's thread, as metrics are."""

    def __init__(
        self, metrics: Registry, *, certificate_not_after: Callable[[], float], connections: Callable[[], float]
    ) -> None:
        self.version = program_version()
        self.started = time.time()
        self.reloaded: float | None = None
        """When the configuration was last read again, if ever."""
        self.reload_error = ""
        """Why that failed; empty when it did not."""
        self._since = time.perf_counter()
        metrics.gauge("cohortium_build_info", "Always 1; the label is the program's version.", ("version",)).set(
            1, version=self.version
        )
        metrics.gauge("cohortium_started_timestamp_seconds", "When the daemon was started, Unix time.").set(self.started)
        metrics.gauge(
            "cohortium_certificate_not_after_timestamp_seconds",
            "When the first certificate of this node's chain ends, Unix time.",
            read=certificate_not_after,
        )
        metrics.gauge("cohortium_connections", "Connections from other nodes that are open.", read=connections)
        self._success = metrics.gauge(
            "cohortium_last_reload_success", "1 when the configuration in use is the one last read, 0 when that was refused."
        )
        self._success.set(1)
        self._timestamp = metrics.gauge(
            "cohortium_last_reload_timestamp_seconds", "When the configuration in use was read, Unix time."
        )
        self._timestamp.set(self.started)

    def uptime(self) -> float:
        """Seconds."""
        return time.perf_counter() - self._since

    def reload_ended(self, error: str = "") -> None:
        """The configuration was read again; `error` says why it is not used."""
        self.reloaded = time.time()
        self.reload_error = error
        self._success.set(0 if error else 1)
        if not error:
            self._timestamp.set(self.reloaded)

    def as_status(self) -> dict[str, object]:
        """For `GET /v1/status`."""
        return {
            "version": self.version,
            "uptime_seconds": round(self.uptime(), 1),
            "last_reload": {
                "at": self.started if self.reloaded is None else self.reloaded,
                "success": not self.reload_error,
                **({"reason": self.reload_error} if self.reload_error else {}),
            },
        }


class RoundPhases:
    """How long rounds stay in each phase. For the event loop's thread, as metrics are."""

    def __init__(self, metrics: Registry) -> None:
        self._phases: dict[bytes, tuple[str, float]] = {}
        self._seconds = metrics.histogram(
            "cohortium_round_phase_seconds", "How long rounds stayed in each phase.", _PHASE_SECONDS, ("phase",)
        )

    def observe(self, round_id: bytes, effect: Effect) -> None:
        """Notes how long a round stayed in the phase that it leaves."""
        now = time.perf_counter()
        before = self._phases.get(round_id)
        match effect:
            case Progressed(phase=phase) if before is None or before[0] != phase:
                self._phases[round_id] = (phase, now)
            case Ended():
                self._phases.pop(round_id, None)
            case _:
                return
        if before is not None:
            self._seconds.observe(now - before[1], phase=before[0])
