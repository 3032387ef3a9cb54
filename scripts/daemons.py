"""The daemons of a deployment as child processes: start, wait until ready, watch, stop."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from scripts.deployment import Deployment

_START_SECONDS = 60.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.02
_LAST_LINES = 12


class DaemonFailure(Exception):
    """A daemon that ended or did not become ready; the text has its last log lines."""


@dataclass
class Child:
    """One daemon; its output goes to `log`."""

    process: subprocess.Popen[bytes]
    log: Path


class Daemons:
    """A context manager: all daemons run inside, and none outside."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.children: dict[str, Child] = {}

    def __enter__(self) -> Daemons:
        try:
            for name in self.deployment.nodes:
                self.start(name)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self, name: str) -> Child:
        """Starts the daemon of one node."""
        log = self.deployment.directory / name / "daemon.log"
        with log.open("ab") as sink:
            # A session of its own: Ctrl-C reaches the parent alone, which then stops its children in order.
            process = subprocess.Popen(
                self.deployment.command(name), stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.children[name] = Child(process, log)
        return self.children[name]

    def wait_until_ready(self, check: Callable[[], None] | None = None) -> None:
        """Waits for every admin socket, which a daemon makes last of all. Raises DaemonFailure, as `check` does meanwhile."""
        deadline = time.monotonic() + _START_SECONDS + len(self.children)
        for name in list(self.children):
            while not self.deployment.socket(name).exists():
                (check or self.check)()
                if time.monotonic() > deadline:
                    raise DaemonFailure(f"{name} is not ready after {_START_SECONDS:.0f} s\n{self.last_lines(name)}")
                time.sleep(_POLL_SECONDS)

    def check(self) -> None:
        """Raises DaemonFailure when a daemon has ended."""
        for name, child in self.children.items():
            status = child.process.poll()
            if status is not None:
                raise DaemonFailure(f"{name} ended with status {status}; its last lines:\n{self.last_lines(name)}")

    def forget_killed(self) -> list[str]:
        """The names of daemons that a signal has ended, which are not looked after from now on."""
        killed = [name for name, child in self.children.items() if (child.process.poll() or 0) < 0]
        for name in killed:
            del self.children[name]
        return killed

    def stop(self) -> None:
        """Ends every daemon: asks first, insists after some seconds. A second Ctrl-C does not leave any behind."""
        with _undisturbed():
            for child in self.children.values():
                with contextlib.suppress(ProcessLookupError):
                    child.process.terminate()
            deadline = time.monotonic() + _STOP_SECONDS
            for child in self.children.values():
                try:
                    child.process.wait(max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    child.process.kill()
                    child.process.wait()

    def last_lines(self, name: str) -> str:
        """The end of a daemon's log."""
        lines = self.children[name].log.read_text(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-_LAST_LINES:]) or "  (it logged nothing)"


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals to stop are left for later; only the main thread may say so, and only it gets them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
