"""`cohortium round`: open rounds at a running hospital, and look at them."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpc.errors import TemporaryError, UserError, few
from nodes.commands.options import admin_socket, daemon_option, socket_option

if TYPE_CHECKING:
    from nodes.admin.client import AdminClient

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON; the result is the last line of stdout.")


@click.group()
def round() -> None:
    """Open rounds at a running hospital, and look at them."""


@round.command("open")
@click.argument("study")
@daemon_option
@socket_option
@click.option("--watch", is_flag=True, help="Wait for the end, showing each phase and who is missing.")
@json_option
def open_round(study: str, config: Path | None, socket: Path | None, watch: bool, as_json: bool) -> None:
    """Open a round of STUDY, the id of a study in the hospital's directory."""
    open_and_tell(admin_socket(config, socket), study, watch=watch, as_json=as_json)


def open_and_tell(socket: Path, study: str, *, watch: bool, as_json: bool) -> None:
    """Opens a round, waits for its end if it is to be watched, and prints where it stands. Exits with 1 without a result."""
    try:
        final = asyncio.run(_open(socket, study, watch=watch))
    except UserError as error:
        if as_json:
            click.echo(json.dumps({"outcome": "refused", "code": type(error).__name__, "detail": str(error)}))
        raise
    _print(final, as_json=as_json)
    if watch and final["outcome"] != "released":
        sys.exit(1)


@round.command("list")
@daemon_option
@socket_option
@json_option
def list_rounds(config: Path | None, socket: Path | None, as_json: bool) -> None:
    """List the rounds, oldest first."""
    rounds = asyncio.run(ask_hospital(admin_socket(config, socket), "/v1/rounds"))
    if as_json:
        click.echo(json.dumps(rounds))
        return
    for summary in rounds:
        click.echo(
            f"{summary['round'][:12]}  {summary['study']:<24} {summary['outcome']:<9} {summary.get('detail', '')}".rstrip()
        )


@round.command("show")
@click.argument("round_id", metavar="ID")
@daemon_option
@socket_option
@json_option
def show_round(round_id: str, config: Path | None, socket: Path | None, as_json: bool) -> None:
    """Show the round whose id begins with ID, with its result."""
    _print(asyncio.run(ask_hospital(admin_socket(config, socket), f"/v1/rounds/{round_id}")), as_json=as_json)


@round.command("cancel")
@click.argument("round_id", metavar="ID")
@daemon_option
@socket_option
def cancel_round(round_id: str, config: Path | None, socket: Path | None) -> None:
    """End the round whose id begins with ID; nothing is released."""
    asyncio.run(_post(admin_socket(config, socket), f"/v1/rounds/{round_id}/cancel"))


async def ask_hospital(socket: Path, path: str) -> Any:
    """What the hospital's admin socket has at `path`."""
    from nodes.admin.client import AdminClient

    async with AdminClient(socket) as hospital:
        return await hospital.get(path)


async def _post(socket: Path, path: str) -> Any:
    from nodes.admin.client import AdminClient

    async with AdminClient(socket) as hospital:
        return await hospital.post(path)


async def _open(socket: Path, study: str, *, watch: bool) -> dict[str, Any]:
    from nodes.admin.client import AdminClient

    async with AdminClient(socket) as hospital:
        opened: dict[str, Any] = await hospital.post("/v1/rounds", {"study": study})
        if not watch:
            return opened
        patients = {found["id"]: found["patients"] for found in await hospital.get("/v1/studies")}
    final = await _watch(socket, opened["round"], patients.get(study, 0))
    while "followed_by" in final:
        if final["outcome"] == "released":
            click.echo(f"step {final['fit']} of the fit is done; the next one follows", err=True)
            total = len(final["members"])
        else:
            click.echo(f"{final['detail']}; it is opened again without them", err=True)
            total = patients.get(study, 0) - len(final["missing"])
        final = await _watch(socket, final["followed_by"], total)
    return final


_PATIENCE = 300.0
"""Seconds that a watcher waits for a daemon that was restarted."""


async def _watch(socket: Path, round_id: str, total: int) -> dict[str, Any]:
    """The round when it has ended. A daemon that goes away and comes back goes on with its rounds, and so does the watcher."""
    from nodes.admin.client import AdminClient

    gone_since: float | None = None
    while True:
        try:
            async with AdminClient(socket) as hospital:
                await _show_progress(hospital, round_id, total)
                final: dict[str, Any] = await hospital.get(f"/v1/rounds/{round_id}")
            if final["outcome"] != "open":
                return final
        except TemporaryError as error:
            now = time.monotonic()
            if gone_since is None:
                click.echo(f"{error} Waiting for it.", err=True)
                gone_since = now
            if now - gone_since > _PATIENCE:
                raise
        else:
            gone_since = None
        await asyncio.sleep(0.3)


_PHASES = ("inviting", "sharing", "collecting")


async def _show_progress(hospital: AdminClient, round_id: str, total: int) -> None:
    """A bar a phase on stderr: how many of `total` patients are waited for no more, and who is missing."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description:<11}"),
        BarColumn(30),
        TextColumn("{task.completed}/{task.total} {task.fields[missing]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bars: dict[str, Any] = {}

        def show(phase: str, waiting: list[str]) -> None:
            if phase not in bars:
                bars[phase] = progress.add_task(phase, total=total, missing="")
            progress.update(bars[phase], completed=total - len(waiting), missing=_missing(waiting))

        async for state in hospital.lines(f"/v1/rounds/{round_id}/watch"):
            # Phases may pass between two looks, so whatever precedes what is seen is shown as done.
            reached = _PHASES.index(state["phase"]) if state["phase"] in _PHASES else 0
            if state["outcome"] == "released":
                reached = len(_PHASES)
            for phase in _PHASES[:reached]:
                show(phase, [])
            if state["phase"] in _PHASES and state["outcome"] == "open":
                show(state["phase"], state["waiting_for"])


def _missing(names: list[str]) -> str:
    return f"waiting for {few(names, 5)}" if names else ""


def _print(state: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(state))
        return
    click.echo(f"round    {state['round']}")
    click.echo(f"study    {state['study']}")
    click.echo(f"outcome  {state['outcome']}" + (f" ({state['code']})" if state.get("code") else ""))
    if state.get("detail"):
        click.echo(f"why      {state['detail']}")
    if state.get("waiting_for"):
        click.echo(f"waiting  {', '.join(state['waiting_for'])}")
    if "statistics" in state:
        click.echo(f"members  {state['patients']}")
        for variable, statistics in state["statistics"].items():
            for kind, value in statistics.items():
                click.echo(f"{kind:<8} {variable} = {_shown(value)}")
    if "seconds" in state:
        click.echo(f"seconds  {state['seconds']}")


def _shown(value: int | list[int]) -> str:
    if isinstance(value, int):
        return str(value)
    numbers = ", ".join(map(str, value[:8]))
    return f"[{numbers}{', …' if len(value) > 8 else ''}] ({len(value)} numbers; --json gives all)"
