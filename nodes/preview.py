"""What a patient would contribute to a study, in words for whoever asks on the patient's own machine: here values are printed."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from mpc.errors import DataError
from mpc.statistics.component import MISSING, Values
from mpc.study import CATEGORY, Study, Variable
from nodes.config import PatientConfig
from nodes.config.answers import Answers
from nodes.sources.reading import read_study

MOST_RECORDS = 20
"""Records that are shown unless all are asked for."""
_GAP = "  "
_MISSING = "-"

Cell = int | float | str | None


class Contribution(msgspec.Struct, frozen=True, kw_only=True):
    """What would go into each statistic, never beyond this node as it stands here."""

    study: str
    records: int
    places: dict[str, str]
    """Where the values of each variable come from."""
    values: dict[str, list[list[Cell]]]
    """By variable and record, rounded as the study says; null is a missing value."""

    def __repr__(self) -> str:
        return f"<Contribution to {self.study}>"


def contribution(study: Study, config: PatientConfig) -> Contribution:
    """Reads the sources as the daemon would. Raises ConfigError; DataError where the daemon would have nothing to contribute."""
    wanted = {variable.name for variable in study.variables}
    ours = {name: source for name, source in config.sources.items() if name in wanted}
    for variable in study.variables:
        if variable.name not in ours:
            raise DataError(f"variable {variable.name}: there is no source for it; add one, or leave the study")
    answered = Answers().fill(msgspec.structs.replace(config, sources=ours))
    sources = {name: source.source(name) for name, source in answered.sources.items()}
    columns = read_study(study, sources, config.policy.records)
    first = study.variables[0]
    return Contribution(
        study=study.id,
        records=columns[first.name].size // first.length,
        places={name: source.reader.place for name, source in sources.items()},
        values={variable.name: _cells(variable, columns[variable.name]) for variable in study.variables},
    )


def lines(found: Contribution, most: int | None = MOST_RECORDS) -> Iterator[str]:
    """A table with one line a record, as many as `most` says, after where it comes from."""
    yield f"study    {found.study}"
    for name, place in found.places.items():
        yield f"reads    {name}: {place}"
    yield f"records  {found.records:,}"
    table = [["record", *found.values]]
    for at in range(found.records if most is None else min(found.records, most)):
        table.append([str(at + 1), *(", ".join(map(_text, column[at])) for column in found.values.values())])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table if len(table) > 1 else ():
        yield _GAP.join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    if len(table) <= found.records:
        yield f"... and {found.records - len(table) + 1:,} more; --all shows them"


def _cells(variable: Variable, column: Values) -> list[list[Cell]]:
    entries = [_cell(variable, value) for value in column.tolist()]
    return [entries[at : at + variable.length] for at in range(0, len(entries), variable.length)]


def _cell(variable: Variable, value: int) -> Cell:
    if value == MISSING:
        return None
    if variable.type == CATEGORY:
        return variable.categories[value]
    return value if variable.scale == 1 else value / variable.scale


def _text(cell: Cell) -> str:
    return _MISSING if cell is None else str(cell)
