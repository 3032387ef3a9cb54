"""What a study has found, as people and programs get it: one object, whose JSON the command line prints and the client reads.

It holds what the study's release rules let through and nothing else, so that whoever has it may pass it on.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from mpc.errors import ConfigError
from mpc.release import Told, Withheld, in_words, release
from mpc.result import Result
from mpc.statistics.figures import Table
from nodes.fitting import Fitting, is_fit
from nodes.records import RoundRecord

if TYPE_CHECKING:
    import pandas

ABOUT = "statistics"
"""The table with one row a statistic."""


class StudyResult(msgspec.Struct, frozen=True, kw_only=True):
    """One study's result, of one round or of a fit of several."""

    round: str
    """Its id in hex; of a fit, the last one's."""
    study: str
    """The study's id."""
    title: str
    purpose: str
    legal_basis: str
    opened: float
    """Unix seconds."""
    seconds: float | None
    """From opening to the result; of the last round."""
    members: Annotated[int, msgspec.Meta(ge=0)]
    """Who took part."""
    rules: str
    """The release rules in words; empty when everything is told as it is."""
    statistics: tuple[Told, ...]
    """In the study's order."""

    def __repr__(self) -> str:
        return f"<StudyResult of {self.study}, round {self.round[:12]}>"

    def __getitem__(self, name: str) -> Told:
        """The statistic with that id, or KIND-VARIABLE. Raises KeyError that says which there are."""
        for told in self.statistics:
            if told.id == name:
                return told
        raise KeyError(f"{self.study} has no statistic {name!r}; it has {', '.join(told.id for told in self.statistics)}")

    def tables(self) -> Iterator[tuple[str, Table]]:
        """All numbers, each table with a name of its own; the first says of each statistic over what it is."""
        yield ABOUT, self._about()
        for told in self.statistics:
            first, *others = told.tables() or (None,)
            if first is not None:
                yield told.id, first
                yield from ((f"{told.id}.{table.name.removeprefix(f'{first.name}-')}", table) for table in others)

    def frames(self) -> dict[str, pandas.DataFrame]:
        """The tables as pandas has them, by name. Raises ConfigError where pandas is not installed."""
        pandas = library("pandas")
        return {name: pandas.DataFrame(columns(table)) for name, table in self.tables()}

    def json(self) -> bytes:
        """What `cohortium results show --json` prints."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, raw: bytes) -> StudyResult:
        """What `json` gave. Raises ValueError for anything else."""
        return msgspec.json.decode(raw, type=cls)

    def _about(self) -> Table:
        columns = ("statistic", "kind", "variable", "n", "left_out", "notes", "rules")
        rows = tuple(
            (
                told.id,
                told.name,
                told.variable,
                None if isinstance(told, Withheld) else told.n,
                None if isinstance(told, Withheld) else told.left_out,
                "; ".join(("withheld", *told.notes) if isinstance(told, Withheld) else told.notes),
                self.rules,
            )
            for told in self.statistics
        )
        return Table(name=ABOUT, columns=columns, rows=rows)


def study_result(record: RoundRecord, question: Fitting, result: Result) -> StudyResult:
    """What the round's result may tell."""
    study = question.study
    told = question.after((), result).told() if is_fit(study) else release(study, result)
    return StudyResult(
        round=record.round_id.hex(),
        study=study.id,
        title=study.title,
        purpose=study.purpose,
        legal_basis=study.legal_basis,
        opened=record.opened,
        seconds=None if record.seconds is None else round(record.seconds, 4),
        members=result.members,
        rules=in_words(study.release),
        statistics=told,
    )


def library(name: str) -> ModuleType:
    """A library of the extra `results`. Raises ConfigError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ConfigError(f"this needs {package}, which is not installed: pip install 'cohortium[results]'") from error


def columns(table: Table) -> dict[str, list[Any]]:
    """Column by column; one with a number that is no integer has no integers, for libraries with one type a column."""
    found: dict[str, list[Any]] = {}
    for place, name in enumerate(table.columns):
        cells = [row[place] for row in table.rows]
        if any(isinstance(cell, float) for cell in cells):
            cells = [float(cell) if isinstance(cell, int) else cell for cell in cells]
        found[name] = cells
    return found
