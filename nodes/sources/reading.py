"""The variables that one study asks for, read together: record by record, within what is declared, in the study's steps."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np

from mpc.disclosure import Categories, refuse_variable
from mpc.errors import DataError
from mpc.statistics.columns import numbers, steps
from mpc.statistics.component import MISSING, Values
from mpc.study import CATEGORY, Study, Variable
from nodes.sources.base import Column, Found, Source, Wanted
from nodes.sources.records import Asked, aligned


def read_study(study: Study, sources: Mapping[str, Source], records: int) -> dict[str, Values]:
    """The study's variables in its own steps, shape (records x length,) each. Blocking: call it off the event loop.

    `records` is the most that this node declares to hold. Raises DataError that names the variable, the record and the broken
    rule, and never a value.
    """
    return settle(study, sources, records, find(study, sources, records))


def find(study: Study, sources: Mapping[str, Source], records: int, known: Collection[str] = ()) -> dict[str, Found]:
    """What the sources have for the study's variables, as it stands there; nothing of those that are `known`. As `read_study`."""
    unread = [(source.reader, wanted) for source, wanted in _asked(study, sources, records) if wanted.variable not in known]
    found: dict[str, Found] = {}
    for kind in dict.fromkeys(type(reader) for reader, _ in unread):
        ours = [(reader, wanted) for reader, wanted in unread if type(reader) is kind]
        found |= zip((wanted.variable for _, wanted in ours), kind.read(ours), strict=True)
    return found


def settle(study: Study, sources: Mapping[str, Source], records: int, found: Mapping[str, Found]) -> dict[str, Values]:
    """What was found, record by record in the study's steps. As `read_study`, but reads nothing."""
    one = study.records == 1
    asked = [Asked(wanted, source.reader.place, found[wanted.variable]) for source, wanted in _asked(study, sources, records)]
    columns = aligned(asked, one=one)
    return {
        variable.name: _in_steps(variable, columns[variable.name], each.wanted, each.place, one=one)
        for variable, each in zip(study.variables, asked, strict=True)
    }


def _asked(study: Study, sources: Mapping[str, Source], records: int) -> Iterator[tuple[Source, Wanted]]:
    for variable in study.variables:
        source = sources[variable.name]
        # What was consented to may have been another configuration's.
        reason = refuse_variable(variable, source.declared)
        if reason:
            raise DataError(f"variable {variable.name}: {reason}; leave the study, or correct the source")
        yield source, Wanted(variable.name, source.declared, variable.length, records if study.records > 1 else 1)


def _in_steps(variable: Variable, column: Column, wanted: Wanted, place: str, *, one: bool) -> Values:
    what = f"variable {variable.name}: {place}"
    _check_size(what, len(column), wanted, one=one)
    absent = _check_entries(what, column, wanted, one=one)
    if absent is not None and not variable.omits:
        raise DataError(f"{what}: {_nth(wanted, absent, len(column), one=one)} is missing, which the study refuses; fill it in")
    return in_steps(variable, column)


def in_steps(variable: Variable, column: Column) -> Values:
    """A column whose entries are as declared, in the variable's steps."""
    if variable.type == CATEGORY:
        assert isinstance(column, list), "the source has categories, as `refuse_variable` says"
        return numbers(variable, column)
    assert not isinstance(column, list), "the source has numbers"
    return steps(variable, column)


def _check_size(what: str, found: int, wanted: Wanted, *, one: bool) -> None:
    if one and found != wanted.length:
        has = str(found) if found < wanted.length else "more"
        raise DataError(
            f"{what}: the study asks for {wanted.length} values, there are {has}; correct the source or leave the study"
        )
    if found > wanted.most:
        raise DataError(
            f"{what}: there are more than the {wanted.records} records that the policy declares; raise its 'records', "
            f"or correct the source"
        )
    if found % wanted.length:
        raise DataError(f"{what}: {found} values are no whole records of {wanted.length}; correct the source")


def _check_entries(what: str, column: Column, wanted: Wanted, *, one: bool) -> int | None:
    """Raises DataError for the first entry that is not as declared. Returns the place of the first that is missing."""
    declared = wanted.declared
    if isinstance(declared, Categories):
        assert isinstance(column, list), "a reader gives what is declared"
        if not declared.names.issuperset(set(column) - {""}):
            at = next(at for at, name in enumerate(column) if name and name not in declared.names)
            nth = _nth(wanted, at, len(column), one=one)
            raise DataError(f"{what}: {nth} is none of the declared categories; correct it or the categories")
        return column.index("") if "" in column else None
    assert not isinstance(column, list), "a reader gives what is declared"
    absent = column == MISSING if declared.whole else np.isnan(column)
    low, high = (int(end) if declared.whole else float(end) for end in (declared.minimum, declared.maximum))
    for beyond, rule in ((column < low, f"below its minimum {low}"), (column > high, f"above its bound {high}")):
        outside = beyond & ~absent
        if outside.any():
            nth = _nth(wanted, int(outside.argmax()), len(column), one=one)
            raise DataError(f"{what}: {nth} is {rule}; correct it or its bounds")
    return int(absent.argmax()) if absent.any() else None


def _nth(wanted: Wanted, at: int, size: int, *, one: bool) -> str:
    """An entry in words, counted from 1."""
    if one:
        return f"value {at + 1} of {size}"
    value = f"value {at % wanted.length + 1} of " if wanted.length > 1 else ""
    return f"{value}record {at // wanted.length + 1} of {size // wanted.length}"
