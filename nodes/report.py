"""A result as one HTML file to read and to print: tables and plots, nothing that is fetched, nothing that runs.

Plots are SVG pictures inside the file. A policy in its head forbids a browser everything but to show them, and every text in it
is escaped: titles and categories are words of whoever wrote the study.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any

from mpc.release import Told, Withheld
from mpc.statistics.figures import Cell, Figures, Table
from mpc.statistics.grouped import GroupedFigures
from mpc.statistics.histogram import HistogramFigures
from mpc.statistics.kaplan_meier import KaplanMeierFigures
from mpc.statistics.mean import MeanFigures
from nodes.results import StudyResult, library

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_CURVES = 8
"""Groups in one plot; of more, the tables alone tell."""
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999999")
"""Told apart with every kind of colour vision (Okabe and Ito)."""

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #111; background: #fff }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem } dt { color: #555 } dd { margin: 0 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; margin: .7rem 0; font-variant-numeric: tabular-nums }
caption { text-align: left; color: #555; padding-bottom: .2rem }
th, td { padding: .2rem .7rem .2rem 0; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top }
td.number, th.number { text-align: right }
figure { margin: .6rem 0 } img { max-width: 100%; height: auto; display: block }
figcaption, .note { color: #555; margin: .2rem 0 } .withheld { border-left: 4px solid #999; padding-left: .7rem }
@media print {
  body { margin: 0; max-width: none; font-size: 11px }
  h2, figure, tr { break-inside: avoid } h2 { break-after: avoid } .scroll { overflow: visible }
}
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def report(result: StudyResult) -> str:
    """The whole file. Raises ConfigError where the plotting library is not installed."""
    library("matplotlib")
    body = "".join(_section(told) for told in result.statistics)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(result.title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{escape(result.title)}</h1>{_facts(result)}{_means(result)}{body}</body></html>\n"
    )


def _facts(result: StudyResult) -> str:
    opened = datetime.fromtimestamp(result.opened, UTC)
    facts = {
        "Study": result.study,
        "Purpose": result.purpose,
        "Legal basis": result.legal_basis,
        "Round": result.round,
        "Opened": f"{opened:%Y-%m-%d %H:%M} UTC",
        "Members": str(result.members),
        "Release rules": result.rules or "none: everything is told as it is",
    }
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{escape(fact)}</dd>' for name, fact in facts.items() if fact)}</dl>\n"


def _section(told: Told) -> str:
    head = f"<h2>{escape(told.id)}</h2>"
    if isinstance(told, Withheld):
        return f'<section>{head}<p class="withheld">Withheld: {escape(told.reason)}.</p></section>\n'
    left_out = f", {told.left_out} left out because a value is missing" if told.left_out else ""
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in told.notes)
    tables = "".join(_table(table) for table in told.tables())
    return f"<section>{head}<p>n = {told.n}{left_out}</p>{notes}{_plot(told)}{tables}</section>\n"


def _table(table: Table) -> str:
    kept = [place for place in range(len(table.columns)) if any(row[place] not in (None, "") for row in table.rows)]
    numbers = [all(not isinstance(row[place], str) for row in table.rows) for place in range(len(table.columns))]

    def cells(tag: str, row: Sequence[Cell]) -> str:
        return "".join(f"<{tag}{' class=number' if numbers[place] else ''}>{_text(row[place])}</{tag}>" for place in kept)

    rows = "".join(f"<tr>{cells('td', row)}</tr>" for row in table.rows)
    head = f"<thead><tr>{cells('th', table.columns)}</tr></thead>"
    return f'<div class="scroll"><table><caption>{escape(table.name)}</caption>{head}<tbody>{rows}</tbody></table></div>'


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    return f"{cell:.6g}" if isinstance(cell, float) else escape(str(cell))


# ---- plots


def _means(result: StudyResult) -> str:
    """The means of whole cohorts, those of one unit together."""
    of_unit: dict[str, list[tuple[str, MeanFigures]]] = {}
    for told in result.statistics:
        if isinstance(told, MeanFigures):
            of_unit.setdefault(told.mean.unit, []).append((told.id, told))
    pictures = "".join(_forest("Means", unit, means) for unit, means in of_unit.items())
    return f"<section><h2>Means</h2>{pictures}</section>\n" if pictures else ""


def _plot(told: Figures) -> str:
    """A picture of a statistic, where there is one of its kind."""
    groups: list[tuple[str, Any]] = [("", told)]
    what = told.variable
    if isinstance(told, GroupedFigures):
        what = f"{told.variable} by {told.by}"
        groups = [(group.category, group.figures) for group in told.groups if group.figures.n]
    kinds = {type(figures) for _, figures in groups}
    if isinstance(told, GroupedFigures) and kinds == {MeanFigures}:
        return _forest(f"Mean of {what}", groups[0][1].mean.unit, groups)
    if kinds == {HistogramFigures} and len(groups) <= MAX_CURVES:
        return _histogram(what, told.variable, groups)
    if kinds == {KaplanMeierFigures} and len(groups) <= MAX_CURVES:
        return _survival(what, told.variable, groups)
    return ""


def _forest(title: str, unit: str, means: Sequence[tuple[str, MeanFigures]]) -> str:
    """Means with their confidence intervals, one under the other."""
    there = [(name, one) for name, one in means if one.mean.value is not None]
    if not there:
        return ""

    def draw(axes: Axes) -> None:
        for place, (_, one) in enumerate(there):
            mean, low, high = one.mean.value, one.low.value, one.high.value
            assert mean is not None
            if low is not None and high is not None:
                axes.plot([low, high], [place, place], color=_COLOURS[0], linewidth=1.6)
            axes.plot([mean], [place], marker="s", color=_COLOURS[0])
        axes.set_yticks(range(len(there)))
        axes.set_yticklabels([f"{name} (n = {one.n})" for name, one in there], parse_math=False)
        axes.set_ylim(len(there) - 0.4, -0.6)
        axes.set_xlabel(_label("mean", unit), parse_math=False)

    percent = f"{100 * there[0][1].level:g} % confidence intervals"
    return _picture(f"{title}, with {percent}", draw, height=1.1 + 0.36 * len(there))


def _histogram(what: str, variable: str, groups: Sequence[tuple[str, HistogramFigures]]) -> str:
    """Outlines of counts; of bins of different widths, counts per unit of width."""
    widths = {round(high - low, 9) for _, one in groups for low, high in zip(one.edges[:-1], one.edges[1:], strict=True)}
    even = len(widths) == 1

    def draw(axes: Axes) -> None:
        for place, (category, one) in enumerate(groups):
            spans = [high - low for low, high in zip(one.edges[:-1], one.edges[1:], strict=True)]
            heights = [count if even else count / span for count, span in zip(one.counts, spans, strict=True)]
            alone = len(groups) == 1
            axes.stairs(heights, one.edges, fill=alone, color=_COLOURS[place], label=category, linewidth=1.6)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(_label(variable, groups[0][1].unit), parse_math=False)
        axes.set_ylabel("records" if even else _label("records", f"per {groups[0][1].unit or 'step'}"), parse_math=False)
        _legend(axes, groups)

    return _picture(f"Histogram of {what}", draw)


def _survival(what: str, variable: str, groups: Sequence[tuple[str, KaplanMeierFigures]]) -> str:
    """Kaplan-Meier curves with their confidence bands."""

    def draw(axes: Axes) -> None:
        for place, (category, one) in enumerate(groups):
            times, curve = [0.0, *(row.time for row in one.curve)], [1.0, *(row.survival for row in one.curve)]
            axes.step(times, curve, where="post", color=_COLOURS[place], label=category)
            low = [1.0, *(row.survival if row.low is None else row.low for row in one.curve)]
            high = [1.0, *(row.survival if row.high is None else row.high for row in one.curve)]
            axes.fill_between(times, low, high, step="post", color=_COLOURS[place], alpha=0.15, linewidth=0)
        axes.set_ylim(0, 1.02)
        axes.set_xlim(left=0)
        axes.set_xlabel(_label(variable, groups[0][1].unit), parse_math=False)
        axes.set_ylabel("survival")
        _legend(axes, groups)

    percent = f"{100 * groups[0][1].level:g} % confidence band"
    return _picture(f"Survival (Kaplan-Meier, {what}), with {percent}", draw)


def _legend(axes: Axes, groups: Sequence[object]) -> None:
    if len(groups) > 1:
        for text in axes.legend(frameon=False).get_texts():
            text.set_parse_math(False)


def _label(what: str, unit: str) -> str:
    return f"{what} ({unit})" if unit else what


def _picture(title: str, draw: Callable[[Axes], None], height: float = 3.4) -> str:
    """An SVG picture as an element. The same figures always give the same bytes."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cohortium", "font.size": 10}):
        figure = Figure(figsize=(7.2, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    data = base64.b64encode(drawn.getvalue()).decode("ascii")
    image = f'<img alt="{escape(title)}" src="data:image/svg+xml;base64,{data}">'
    return f"<figure>{image}<figcaption>{escape(title)}</figcaption></figure>"
