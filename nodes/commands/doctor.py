"""`cohortium doctor`: check a node's configuration, keys, peers and machine."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import click

from nodes.commands.options import config_option

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def doctor(config: Path, as_json: bool) -> None:
    """Check a node's configuration, keys, peers and machine, whether or not its daemon runs.

    One line a check: ok, warn or fail, what was found, and what to do. Exits with 1 when a check fails.
    """
    sys.exit(asyncio.run(_look(config, as_json=as_json)))


async def _look(config: Path, *, as_json: bool) -> int:
    from nodes.doctor import Verdict, look_over

    status = 0
    async for check in look_over(config):
        if as_json:
            click.echo(json.dumps({"check": check.name, "verdict": check.verdict, "text": check.text}))
        else:
            click.echo(f"{click.style(f'{check.verdict:<4}', fg=_COLOURS[check.verdict])}  {check.name:<14} {check.text}")
        if check.verdict is Verdict.FAIL:
            status = 1
    return status
