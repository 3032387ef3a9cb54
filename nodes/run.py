"""From a configuration file to a running process: logging, keys, event loop, exit status."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click

from mpc.identity import Identity
from nodes.config import HospitalConfig, PatientConfig, RelayConfig
from nodes.log import configure

C = TypeVar("C", HospitalConfig, PatientConfig, RelayConfig)


class Runs(Protocol):
    """A daemon that is built and not yet running."""

    identity: Identity

    async def run(self, read: Callable[[], Any]) -> None:
        """Until it is told to stop."""
        ...


def run_daemon(path: Path, read: Callable[[], C], daemon: Callable[[C], Runs], *, check: bool) -> None:
    """Runs the daemon on what `read` gives, now and at each SIGHUP; with `check` only builds it, which verifies all it would use.

    Raises ConfigError, IdentityError or StoreError.
    """
    config = read()
    configure(config.log.level, config.log.format)
    logging.captureWarnings(True)  # what a library finds odd in a peer's certificate belongs into the log
    node = daemon(config)
    if check:
        click.echo(f"{path}: good; {node.identity}")
        return
    sys.setswitchinterval(0.0005)
    asyncio.run(node.run(read))
