"""Figures of every kind are JSON and tables, with nothing in them that is no number."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mpc.result import figures as figures_of
from mpc.result import make_result
from mpc.statistics import FAMILIES, interpret, make_layout
from mpc.statistics.figures import Figures, per, quantity, times
from mpc.statistics.grouped import AnyFigures, Ungrouped
from mpc.study import Statistic
from tests.mpc.properties import quick
from tests.mpc.statistics.pool import Columns, totals
from tests.mpc.statistics.test_layout import DOSE, EVERYTHING

GENERATOR = np.random.default_rng(11)


def columns(size: int) -> Columns:
    return {
        variable.name: GENERATOR.integers(variable.minimum, variable.maximum, (size, variable.length), endpoint=True).reshape(
            (size, variable.length) if variable.length > 1 else size
        )
        for variable in EVERYTHING.variables
    }


MANY, NONE = totals(EVERYTHING, columns(90)), totals(EVERYTHING, columns(0))


def said(decoded: Any) -> tuple[Figures, ...]:
    return interpret(EVERYTHING, decoded, len(EVERYTHING.members))


def numbers(value: object) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from numbers(item)


def test_every_family_has_figures_of_its_own_name() -> None:
    tags = {kind.__struct_config__.tag for kind in Ungrouped.__args__}
    assert tags == set(FAMILIES)


@pytest.mark.parametrize("decoded", [MANY, NONE], ids=["many records", "none"])
def test_figures_go_through_json_and_hold_numbers_alone(decoded: Any) -> None:
    for one in said(decoded):
        raw = msgspec.json.encode(one)
        assert msgspec.json.decode(raw, type=AnyFigures) == one
        assert all(map(math.isfinite, numbers(json.loads(raw))))
        assert json.loads(raw)["n"] == one.n


@pytest.mark.parametrize("decoded", [MANY, NONE], ids=["many records", "none"])
def test_figures_are_tables_with_a_cell_in_every_column(decoded: Any) -> None:
    for one in said(decoded):
        tables = one.tables()
        assert tables
        assert len({table.name for table in tables}) == len(tables)
        for table in tables:
            assert all(len(row) == len(table.columns) for row in table.rows)
            assert all(cell is None or isinstance(cell, str | int | float) for row in table.rows for cell in row)


@given(st.data())
@quick
def test_totals_that_no_records_give_are_no_exception_and_no_number_made_up(data: st.DataObject) -> None:
    """A member may add what it likes, as long as every total stays in its range."""
    decoded, layout = [], make_layout(EVERYTHING)
    for part in layout.parts:
        vector = np.zeros(part.length, dtype=np.int64)
        for piece in part.pieces:
            low, high = 10 * piece.low, 10 * (piece.low + piece.width)
            near = st.integers(max(low, -3), min(high, 5))
            some = data.draw(st.lists(near | st.integers(low, high) | st.sampled_from((low, high)), min_size=1, max_size=7))
            vector[piece.start : piece.start + piece.length] = np.resize(np.array(some, dtype=np.int64), piece.length)
        decoded.append(vector)
    for one in said(decoded):
        assert all(map(math.isfinite, numbers(json.loads(msgspec.json.encode(one)))))
        assert one.tables()


def test_contradictory_totals_say_so() -> None:
    mean = replace(EVERYTHING, variables=(DOSE,), statistics=(Statistic.of("mean", "dose"),))
    (found,) = interpret(mean, (np.array([0, 3, 6, 2]),), 10)  # three records whose sum is 6 and whose squares add up to 2
    assert found.mean.value is None  # type: ignore[attr-defined]
    assert found.mean.reason.startswith("the totals contradict each other")  # type: ignore[attr-defined]


def test_groups_stand_one_under_the_other() -> None:
    grouped = said(MANY)[2]
    (table,) = grouped.tables()
    assert table.columns[:3] == ("ward", "quantity", "value")
    assert [row[0] for row in table.rows if row[1] == "mean"] == ["a", "b", "c"]


def test_figures_are_called_by_id_or_by_kind_and_variable() -> None:
    assert said(MANY)[1].id == "count-dose"
    named = replace(EVERYTHING, statistics=(replace(EVERYTHING.statistics[0], id="total"), *EVERYTHING.statistics[1:]))
    assert interpret(named, MANY, 10)[0].id == "total"


def test_figures_do_not_print() -> None:
    for one in said(MANY):
        assert repr(one) == f"<{type(one).__name__}>"
    assert repr(quantity(73519)) == "<Quantity>"


def test_a_result_holds_all_that_figures_need() -> None:
    result = make_result(EVERYTHING, bytes(32), 10, MANY)
    assert figures_of(EVERYTHING, result) == said(MANY)
    with pytest.raises(ValueError, match="other statistics than the study"):
        figures_of(replace(EVERYTHING, statistics=EVERYTHING.statistics[:2]), result)


def test_what_is_too_large_for_a_number_is_no_number() -> None:
    assert quantity(math.inf, "kg").value is None
    assert quantity(math.inf, "kg").reason == "it is too large to be written"


@pytest.mark.parametrize(
    ("made", "unit"),
    [
        (times("kg", "kg"), "kg^2"),
        (times("kg", "m"), "kg*m"),
        (times("", "m"), "m"),
        (times("1/min", "1/min"), "(1/min)^2"),
        (per("kg", "kg"), ""),
        (per("kg", "m"), "kg/m"),
        (per("", "m"), "1/m"),
        (per("kg", "1/min"), "kg/(1/min)"),
        (per("kg", ""), "kg"),
    ],
)
def test_units_of_products_and_quotients(made: str, unit: str) -> None:
    assert made == unit
