"""From a checked configuration to a running process: logging, keys, event loop, exit status."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from nodes.config import HospitalConfig, PatientConfig
from nodes.daemon import Daemon
from nodes.log import configure

C = TypeVar("C", HospitalConfig, PatientConfig)


def run_daemon(path: Path, config: C, daemon: Callable[[C], Daemon], *, check: bool) -> None:
    """Runs the daemon; with `check` only builds it, which reads and verifies everything that it would use.

    Raises ConfigError or IdentityError.
    """
    configure(config.log.level, config.log.format)
    logging.captureWarnings(True)  # what a library finds odd in a peer's certificate belongs into the log
    node = daemon(config)
    if check:
        click.echo(f"{path}: good; {node.identity}")
        return
    asyncio.run(node.run())
