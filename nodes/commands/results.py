"""`cohortium results`: show and export what studies have found, by their release rules."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nodes.commands.options import admin_socket, daemon_option, socket_option

if TYPE_CHECKING:
    from mpc.statistics.figures import Cell, Table
    from nodes.results import StudyResult

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON: the object that the Python client gives.")


@click.group()
def results() -> None:
    """Show and export what studies have found."""


@results.command("list")
@daemon_option
@socket_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_results(config: Path | None, socket: Path | None, as_json: bool) -> None:
    """List the results, oldest first."""
    from nodes.client import Hospital

    found = asyncio.run(Hospital(admin_socket(config, socket)).results())
    if as_json:
        click.echo(json.dumps([{"round": one.round, "study": one.study, "opened": one.opened} for one in found]))
        return
    for one in found:
        click.echo(f"{one.round[:12]}  {_when(one.opened)}  {one.study}")


@results.command("show")
@click.argument("name", metavar="ID")
@daemon_option
@socket_option
@_json_option
def show(name: str, config: Path | None, socket: Path | None, as_json: bool) -> None:
    """Show the newest result of the study ID, or of the round whose id begins with ID."""
    result = _get(admin_socket(config, socket), name)
    if as_json:
        click.echo(result.json())
        return
    for line in in_text(result):
        click.echo(line)


@results.command("export")
@click.argument("name", metavar="ID")
@daemon_option
@socket_option
@click.option(
    "--format",
    "form",
    required=True,
    type=click.Choice(["csv", "json", "parquet", "html"]),
    help="CSV and Parquet: a file a table.",
)
@click.option(
    "--to",
    "place",
    required=True,
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="The file to write; of CSV and Parquet, a new directory.",
)
def export(name: str, config: Path | None, socket: Path | None, form: str, place: Path) -> None:
    """Write the newest result of the study ID, or of the round whose id begins with ID, to files."""
    from nodes.export import export as write

    for path in write(_get(admin_socket(config, socket), name), form, place):
        click.echo(path)


def _get(socket: Path, name: str) -> StudyResult:
    from nodes.client import Hospital

    return asyncio.run(Hospital(socket).result(name))


def in_text(result: StudyResult) -> Iterator[str]:
    """All tables for a terminal."""
    from mpc.release import Withheld

    yield f"study    {result.study}: {result.title}"
    yield f"round    {result.round}, opened {_when(result.opened)}"
    yield f"members  {result.members}"
    yield f"rules    {result.rules or 'none: everything is told as it is'}"
    for told in result.statistics:
        yield ""
        if isinstance(told, Withheld):
            yield f"{told.id}: withheld, because {told.reason}"
            continue
        left_out = f", {told.left_out} left out" if told.left_out else ""
        yield f"{told.id}: n = {told.n}{left_out}"
        for note in told.notes:
            yield f"  note: {note}"
        for table in told.tables():
            yield from _aligned(table)


def _aligned(table: Table) -> Iterator[str]:
    rows = [table.columns, *([_text(cell) for cell in row] for row in table.rows)]
    kept = [place for place in range(len(table.columns)) if any(row[place] for row in rows[1:])]
    widths = [max(len(row[place]) for row in rows) for place in kept]
    numeric = [all(not isinstance(row[place], str) for row in table.rows) for place in kept]
    for row in rows:
        yield ("  " + "  ".join(_padded(row, kept, widths, numeric))).rstrip()


def _padded(row: Sequence[str], kept: Sequence[int], widths: Sequence[int], numeric: Sequence[bool]) -> Iterator[str]:
    for place, width, right in zip(kept, widths, numeric, strict=True):
        yield row[place].rjust(width) if right else row[place].ljust(width)


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)


def _when(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
