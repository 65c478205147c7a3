"""A report as one HTML page that needs nothing else: no network, no files beside it.

Names of models, kernels and GPUs are anybody's text. Three walls keep it text: every word goes through autoescape,
the data of charts is JSON that cannot end its element, and a Content-Security-Policy lets only our scripts run.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from advisor.report.records import Cell, Figure, Report, Table
from advisor.report.rendering.interactive import chart_json
from advisor.report.rendering.pictures import COLOURS, Pictures
from advisor.report.rendering.prose import items, pieces, sources
from advisor.report.rendering.tables import known_columns, numeric, printed

_PIXELS_PER_INCH = 96
_WITHIN_FIGURE = re.compile(  # the blanks of "12 %", "M = 256"
    r"(?<=\d) (?=(?:%|[num]?s|[KMGT]i?B|[GT]FLOP/s|GB/s|[MG]Hz|W|SMs|(?:images|samples)/s)(?!\w))"
    r"|(?<=\b[MNK]) (?== \d)|(?<=\b[MNK] =) (?=\d)"
)
# What stands in a URL as it is, and in an attribute and a srcset too: no blank, quote, ampersand, "#", "<" or ">".
_PLAIN = "!$()*+,/:;=?@"
_LONG_CELL = 32  # characters
_PLOTLY = "plotly/plotly-basic.min.js"
_SCRIPTS = ("sortable/sortable.min.js", "sortable/sortable.a11y.min.js", "report.js")


@dataclass(frozen=True)
class _Source:
    """One form of a picture: a data URI, and its size in CSS pixels."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class _Cell:
    """A cell as printed, and what it sorts by where that is not its text."""

    text: str
    sort: str | None

    @property
    def long(self) -> bool:
        """Whether it may take several lines."""
        return len(self.text) > _LONG_CELL


def page(report: Report, pictures: Mapping[str, Pictures]) -> str:
    """The whole page; the same report and pictures give the same text.

    `pictures` are by figure id; one whose `narrow_svg` is empty has its wide form on phones too. Raises KeyError where
    a figure has none.
    """
    figures = [figure for section in report.sections for figure in section.figures]
    interactive = any(figure.interactive for figure in figures)
    scripts = [_asset(name) for name in ((_PLOTLY, *_SCRIPTS) if interactive else _SCRIPTS)]
    text = (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            policy=_policy(scripts),
            style=Markup(_variables() + _asset("report.css")),
            scripts=[Markup(script) for script in scripts],
            wide={figure.id: _source(pictures[figure.id].wide_svg, figure.inches) for figure in figures},
            narrow={figure.id: _source(pictures[figure.id].narrow_svg, figure.narrow_inches) for figure in figures},
            charts={figure.id: Markup(chart_json(figure.interactive)) for figure in figures if figure.interactive},
            sources=sources(report),
            items=items,
            is_figure=lambda item: isinstance(item, Figure),
            rows=_rows,
            known_columns=known_columns,
            numeric=lambda table: [numeric(table, place) for place in range(len(table.columns))],
        )
    )
    return text.encode(errors="replace").decode()  # half a surrogate pair cannot be written


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("advisor.report.rendering"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = _prose
    return environment


def _prose(text: str) -> Markup:
    """A sentence with its code, in which a number stays on one line with its unit or its M, N or K."""
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if is_code else escape(_WITHIN_FIGURE.sub("\N{NO-BREAK SPACE}", piece))
        for piece, is_code in pieces(text)
    )


@cache
def _asset(name: str) -> str:
    """A file of the folder assets, as it stands inside a script or style element."""
    return resources.files("advisor.report").joinpath("assets", *name.split("/")).read_text("utf-8")


def _policy(scripts: list[str]) -> str:
    """The Content-Security-Policy that lets these scripts run and nothing else, and loads nothing."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}; "
        "base-uri 'none'; form-action 'none'"
    )


def _variables() -> str:
    """The colours of figures as CSS variables, in light and dark."""
    day, night = ("".join(f"--{name}:{pair[place]};" for name, pair in COLOURS.items()) for place in (0, 1))
    return f":root{{{day}}}@media (prefers-color-scheme:dark){{:root{{{night}}}}}\n"


def _source(svg: str, inches: tuple[float, float]) -> _Source | None:
    width, height = (round(side * _PIXELS_PER_INCH) for side in inches)
    return _Source(_uri(svg), width, height) if svg else None


def _uri(svg: str) -> str:
    """The SVG as a data URI, URL-encoded or base64, whichever is shorter."""
    quoted = "data:image/svg+xml," + urllib.parse.quote(svg, safe=_PLAIN)
    encoded = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
    return min(quoted, encoded, key=len)


def _rows(table: Table) -> list[list[_Cell]]:
    """The rows that the page shows."""
    return [
        [_Cell(printed(cell, column), _sort_value(cell)) for column, cell in zip(table.columns, row, strict=True)]
        for row in table.rows[: table.shown]
    ]


def _sort_value(cell: Cell) -> str | None:
    """What a cell sorts by: "" is last whichever way, None its printed words."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, str):
        return None
    number = float(cell)
    return str(number).replace("inf", "Infinity") if math.isinf(number) else f"{number:.12g}"
