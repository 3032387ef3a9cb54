"""What a study has found, as people and programs get it: one object, whose JSON the command line prints and the client reads.

It holds what the study's release rules let through and nothing else, so that whoever has it may pass it on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from mpc import privacy
from mpc.release import Told, Withheld, in_words, release
from mpc.result import Result
from mpc.statistics.figures import Table, tables_of
from mpc.statistics.sum import Sum
from mpc.study import OVERVIEW, UNRESTRICTED, Study
from nodes.extras import library
from nodes.fitting import Fitting, is_fit
from nodes.records import RoundRecord

if TYPE_CHECKING:
    import pandas


class StudyResult(msgspec.Struct, frozen=True, kw_only=True):
    """One study's result, of one round or of a fit of several."""

    round: str
    """Its id in hex; of a fit, the last one's."""
    receipt: str
    """The id of its receipt in hex, see `cohortium receipt`; empty once that is erased."""
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
    privacy: str
    """What the study's noise promises, in words; empty when there is none."""
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
        yield OVERVIEW, self._about()
        for told in self.statistics:
            if isinstance(told, Withheld):
                continue
            first, *others = tables_of(told)
            yield told.id, first
            yield from ((f"{told.id}.{table.name.removeprefix(f'{first.name}-')}", table) for table in others)

    def frames(self) -> dict[str, pandas.DataFrame]:
        """The tables as pandas has them, by name. Raises ConfigError where pandas is not installed."""
        pandas = library("pandas", "results")
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
        return Table(name=OVERVIEW, columns=columns, rows=rows)


def study_result(record: RoundRecord, question: Fitting, result: Result, receipt: bytes) -> StudyResult:
    """What the round's result may tell; `receipt` is the digest of its receipt."""
    study = question.study
    told = question.after((), result).told() if is_fit(study) else release(study, result)
    return StudyResult(
        round=record.round_id.hex(),
        receipt=receipt.hex(),
        study=study.id,
        title=study.title,
        purpose=study.purpose,
        legal_basis=study.legal_basis,
        opened=record.opened,
        seconds=None if record.seconds is None else round(record.seconds, 4),
        members=result.members,
        rules=in_words(study.release),
        privacy=privacy.in_words(study.privacy),
        statistics=told,
    )


def how_told(study: Study) -> str:
    """In what way the totals of a round are told; empty where they are themselves what was asked for."""
    if study.release != UNRESTRICTED:
        return "by the study's release rules alone"
    if study.privacy is not None:
        return "with the noise that is in them"
    exact = all(
        statistic.kind == Sum.kind and not statistic.by and not study.variable(statistic.variable).rounded
        for statistic in study.statistics
    )
    # With missing values or many records, how many went in is a part of the answer.
    return "" if exact and study.records == 1 and not any(one.omits for one in study.variables) else "as statistics"


def columns(table: Table) -> dict[str, list[Any]]:
    """Column by column; one with a number that is no integer has no integers, for libraries with one type a column."""
    found: dict[str, list[Any]] = {}
    for place, name in enumerate(table.columns):
        cells = [row[place] for row in table.rows]
        if any(isinstance(cell, float) for cell in cells):
            cells = [float(cell) if isinstance(cell, int) else cell for cell in cells]
        found[name] = cells
    return found
