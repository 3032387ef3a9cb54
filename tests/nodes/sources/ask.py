"""One study's worth of questions to sources, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pytest

from mpc.disclosure import Bounds, Categories
from mpc.errors import DataError
from mpc.statistics.component import MISSING
from mpc.study import Statistic, Variable
from nodes.sources.base import Reader, Source
from nodes.sources.reading import read_study
from tests.mpc.statistics.pool import question

SMALL = Bounds(0, 300)
TENTHS = Bounds(Fraction(0), Fraction(300), whole=False)
SEX = Categories(frozenset({"female", "male"}))

Declared = Bounds | Categories
Readers = Mapping[str, tuple[Reader, Declared]]
GONE = MISSING


def variable(name: str, declared: Declared, length: int = 1, missing: str = "refuse") -> Variable:
    """One whose words are those of the source; numbers with decimals in tenths."""
    if isinstance(declared, Categories):
        return Variable.category(name, sorted(declared.names), missing=missing)
    scale = None if declared.whole else 10
    low, high = (int(end * (scale or 1)) for end in (declared.minimum, declared.maximum))
    return Variable.number(name, "", low, high, length, scale=scale, missing=missing)


def ask(readers: Readers, *, records: int = 100, length: int = 1, missing: str = "refuse") -> dict[str, list[int]]:
    """What a study of `records` records gets of these variables at a node that declares as many."""
    variables = [variable(name, declared, length, missing) for name, (_, declared) in readers.items()]
    study = question(variables, *(Statistic.of("count", one.name) for one in variables), records=records)
    sources = {name: Source(name, declared, reader) for name, (reader, declared) in readers.items()}
    return {name: column.tolist() for name, column in read_study(study, sources, records).items()}


def read(reader: Reader, declared: Declared = SMALL, **how: Any) -> list[int]:
    """Of one variable, `systolic`."""
    return ask({"systolic": (reader, declared)}, **how)["systolic"]


def why_not(readers: Readers, **how: Any) -> str:
    """What the patient's own log says in place of values."""
    with pytest.raises(DataError) as caught:
        ask(readers, **how)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return str(caught.value)


def refused(reader: Reader, declared: Declared = SMALL, **how: Any) -> str:
    """The same of one variable, without its name."""
    text = why_not({"systolic": (reader, declared)}, **how)
    assert text.startswith("variable systolic: ")
    return text.removeprefix("variable systolic: ")
