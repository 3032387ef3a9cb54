"""`cohortium study`: check a study before anybody is asked, and see, open and plan those of a running hospital."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from nodes.commands.options import admin_socket, daemon_option, socket_option
from nodes.commands.round import ask_hospital, json_option, open_and_tell

_WIDTH = 18


@click.group()
def study() -> None:
    """Check studies, and see, open and plan those of a running hospital."""


@study.command("check")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--config", metavar="FILE", type=click.Path(path_type=Path), help="The hospital's YAML file, which has its patients."
)
@json_option
def check(file: Path, config: Path | None, as_json: bool) -> None:
    """Say in words what the study in FILE asks and reveals, and what a round of it takes; or every mistake, with its line."""
    from nodes.config import check_hospital
    from nodes.description import describe
    from nodes.studies import load_study

    hospital = check_hospital(config) if config is not None else None
    consortium, patients = (hospital.consortium, hospital.patients) if hospital is not None else ("example", None)
    _print_words(describe(load_study(file, consortium, patients)), as_json=as_json)


@study.command("list")
@daemon_option
@socket_option
@json_option
def list_studies(config: Path | None, socket: Path | None, as_json: bool) -> None:
    """List the studies in the hospital's directory."""
    studies = asyncio.run(ask_hospital(admin_socket(config, socket), "/v1/studies"))
    if as_json:
        click.echo(json.dumps(studies))
        return
    for found in studies:
        click.echo(f"{found['id']:<24} {found['patients']:>4} patients  {found['title']}")


@study.command("show")
@click.argument("name", metavar="ID")
@daemon_option
@socket_option
@json_option
def show(name: str, config: Path | None, socket: Path | None, as_json: bool) -> None:
    """Say in words what the study ID asks and reveals, and what a round of it takes."""
    found = asyncio.run(ask_hospital(admin_socket(config, socket), f"/v1/studies/{name}"))
    _print_words([(heading, lines) for heading, lines in found["words"]], as_json=as_json)


@study.command("open")
@click.argument("name", metavar="ID")
@daemon_option
@socket_option
@click.option("--watch", is_flag=True, help="Wait for the end, showing each phase and who is missing.")
@json_option
def open_study(name: str, config: Path | None, socket: Path | None, watch: bool, as_json: bool) -> None:
    """Open a round of the study ID, and those that follow where it is a fit of several."""
    open_and_tell(admin_socket(config, socket), name, watch=watch, as_json=as_json)


@study.command("schedule")
@daemon_option
@socket_option
@json_option
def schedule(config: Path | None, socket: Path | None, as_json: bool) -> None:
    """Show which studies the hospital opens by itself: when next, and what came of the last time."""
    found = asyncio.run(ask_hospital(admin_socket(config, socket), "/v1/schedule"))
    if as_json:
        click.echo(json.dumps(found))
        return
    for entry in found:
        click.echo(f"{entry['study']:<24} {entry['schedule']:<22} next {_time(entry['next'])}  {_last(entry)}")


def _print_words(words: list[tuple[str, list[str]]], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(dict(words)))
        return
    for heading, lines in words:
        for at, line in enumerate(lines):
            click.echo(f"{heading if at == 0 else '':<{_WIDTH}} {line}")


def _time(moment: float | None) -> str:
    return "never" if moment is None else f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"


def _last(entry: dict[str, Any]) -> str:
    last = entry.get("last")
    if last is None:
        return "not run yet"
    part = f", {len(last['members'])} of {last['asked']} took part" if last.get("members") else ""
    return f"last {_time(last['opened'])}: {last['outcome']}{part}"
