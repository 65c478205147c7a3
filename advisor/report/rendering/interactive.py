"""An interactive figure as plotly's JSON, with every point's facts beside it; report.js adds colours and hover texts.

Plotly reads a little HTML in the words it draws (`<a href>`, `<br>`, entities): names are anybody's text, so all are
escaped here. The facts are plain text: the page sets them as text, or escapes them itself.
"""

from __future__ import annotations

import html
import json
import math
import textwrap
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

from advisor.report.records import Cell, Interactive, Mark, Series

_SIZES = {"star": 13, "x": 8}  # px; of other symbols 7, and 5 where there are many
_MANY = 300
_LEAST_ACROSS, _MOST_ACROSS = 7, 30  # px, of markers whose areas differ
_LINE, _MOST_LINES = 40, 3  # characters of a line of words; the facts have them all
_LEGEND_LINE, _UPRIGHT_LINE = 36, 30  # of a legend's, which has a symbol beside it; of the y axis's


def chart_json(chart: Interactive) -> str:
    """JSON that may stand in an HTML script element: {"data", "layout", "names", "facts"}.

    `data` and `layout` are plotly's, without colours: a trace's `meta` is its tone. `names` and `facts` are parallel to
    `data`; facts are [name, unit, values], an unknown value is null. Marks are the last trace, on the axis y2.
    """
    heaviest = max((area for series in chart.series for area in series.areas or ()), default=0.0)
    data = [_trace(series, heaviest) for series in chart.series]
    names = [series.name for series in chart.series]
    facts: list[list[list[Any]]] = [
        [[fact.name, fact.unit, [_cell(value) for value in fact.values]] for fact in series.facts]
        for series in chart.series
    ]
    if chart.marks:
        data.append(_marks(chart.marks))
        names.append("mark")
        places = _numbers(mark.x for mark in chart.marks)
        facts.append([[chart.x_title, "", places], ["cause", "", [mark.reason for mark in chart.marks]]])
    return _for_script({"data": data, "layout": _layout(chart), "names": names, "facts": facts})


def _trace(series: Series, heaviest: float) -> dict[str, Any]:
    size: int | list[float] = _SIZES.get(series.symbol, 7 if len(series.x) < _MANY else 5)
    if series.areas is not None:
        size = [_across(area, heaviest) for area in series.areas]
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines" if series.kind == "line" else "markers",
        "name": _words(series.name, _LEGEND_LINE),
        "meta": series.tone,
        "x": _numbers(series.x),
        "y": _numbers(series.y),
        "marker": {"symbol": series.symbol, "size": size},
        "line": {"width": 2, "dash": "dash" if series.dashed else "solid"},
    }
    if series.areas is not None:
        trace["marker"]["opacity"] = 0.75  # small ones are seen through large ones
    if series.low is not None and series.high is not None:
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": _numbers(high - y for y, high in zip(series.y, series.high, strict=True)),
            "arrayminus": _numbers(y - low for y, low in zip(series.y, series.low, strict=True)),
            "thickness": 1,
            "width": 0,
        }
    return trace


def _across(area: float, heaviest: float) -> float:
    """Pixels across a marker whose area grows in proportion, from the least that is well seen."""
    part = area / heaviest if heaviest else 0.0
    return round(math.sqrt(_LEAST_ACROSS**2 + part * (_MOST_ACROSS**2 - _LEAST_ACROSS**2)), 1)


def _marks(marks: tuple[Mark, ...]) -> dict[str, Any]:
    """Marks as points along the top edge, so that they can be hovered and walked like any other point."""
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": "marks",
        "meta": "grey",
        "yaxis": "y2",
        "x": _numbers(mark.x for mark in marks),
        "y": [1] * len(marks),
        "text": [_words(mark.label) for mark in marks],
        "textposition": "top center",
        "marker": {"symbol": "triangle-down", "size": 8},
        "cliponaxis": False,
        "showlegend": False,
    }


def _layout(chart: Interactive) -> dict[str, Any]:
    y_axis: dict[str, Any] = {
        "title": {"text": _words(chart.y_title, _UPRIGHT_LINE), "standoff": 8},
        "automargin": True,
    }
    if chart.y_log:
        y_axis["type"] = "log"
    elif chart.y_from_zero:
        y_axis["rangemode"] = "tozero"
    if chart.y_range is not None:
        y_axis["range"] = [math.log10(end) if chart.y_log else end for end in chart.y_range]
    layout: dict[str, Any] = {
        "xaxis": {
            "title": {"text": _words(chart.x_title)},
            "automargin": True,
            "type": "log" if chart.x_log2 else "linear",
        },
        "yaxis": y_axis,
    }
    if chart.marks:
        layout["yaxis2"] = {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True}
        layout["shapes"] = [
            {"type": "line", "x0": x, "x1": x, "yref": "y domain", "y0": 0, "y1": 1, "layer": "below"}
            for x in _numbers(mark.x for mark in chart.marks)
        ]
    return layout


def _words(text: str, width: int = _LINE) -> str:
    """Anybody's text as plotly draws it literally, in few lines of a readable length."""
    lines = textwrap.wrap(text, width, max_lines=_MOST_LINES, placeholder=" …")
    return "<br>".join(html.escape(line, quote=False) for line in lines)


def _numbers(values: Iterable[float]) -> list[float | int | None]:
    """Numbers with six significant digits, whole ones exactly; None where there is none."""
    return [_number(value) for value in values]


def _number(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    return int(value) if float(value).is_integer() and abs(value) < 2**53 else float(f"{value:.6g}")


def _cell(value: Cell) -> str | float | int | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) and math.isfinite(value) else None


def _for_script(value: Any) -> str:
    """JSON without a character that could end the script element around it, or a line of a script."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # all ASCII: U+2028 is written as \u2028
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
