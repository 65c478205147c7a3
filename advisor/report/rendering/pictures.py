"""A figure as pictures: PNG and SVG for files, and two SVGs, wide and narrow, that follow a page's dark mode."""

from __future__ import annotations

import base64
import re
import struct
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from advisor.plots.canvas import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    blank,
    encoded,
    styled,
)
from advisor.report.records import Figure
from advisor.report.rendering.svg import for_file, for_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

WHITE = "#FFFFFF"
PAPER = "#14171A"  # what is white by day
# name of the CSS variable -> (colour on white, colour on dark paper); each is at least 4.5 : 1 on PAPER, so that words
# may have it too (WCAG 2.2, 1.4.3)
COLOURS = {
    "paper": (WHITE, PAPER),
    "ink": (BLACK, "#E8EAED"),
    "grey": (GREY, "#A9AEB4"),
    "blue": (BLUE, "#4A9EDB"),
    "sky": (SKY, "#A3DBFA"),
    "orange": (ORANGE, "#F0B429"),
    "vermilion": (VERMILION, "#F4743B"),
    "green": (GREEN, "#2EBD94"),
    "purple": (PURPLE, "#DE9AC1"),
}
_LINES = {"grid": ("#B0B0B0", "#4B5158"), "frame": ("#CCCCCC", "#4B5158")}  # matplotlib's grid and legend frame
_VARIABLES = {light.lower(): name for name, (light, _) in {**COLOURS, **_LINES}.items()}
_HUE = re.compile(r"(fill|stroke): (#[0-9a-f]{6})\b")


@dataclass(frozen=True)
class Pictures:
    """One figure as files (`png`, `svg`) and as a page holds it: scaling, without a size, in light and dark colours."""

    png: bytes
    svg: str
    wide_svg: str
    narrow_svg: str


def draw(figure: Figure) -> Pictures:
    """Draw both forms of a figure. The same figure gives the same bytes, and no two files share an id inside.

    A "$" in any of its words is a dollar, never mathematics: names are anybody's text (but no half
    of a surrogate pair, which `profiling.output.text.clean` takes out). Raises what `figure.draw` does.
    """
    with warnings.catch_warnings(), styled(figure.id):
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a box is drawn in its place
        wide = drawn(figure)
        png = encoded(wide, "png")
        wide.set_layout_engine("none")  # laid out already: the SVG has the places of the PNG
        svg = for_file(encoded(wide, "svg").decode())
        with styled(f"{figure.id}-narrow"):
            narrow = for_file(encoded(drawn(figure, narrow=True), "svg").decode())
    return Pictures(png=png, svg=svg, wide_svg=_for_pages(svg), narrow_svg=_for_pages(narrow))


def raster_svg(pictures: Pictures) -> str:
    """The wide picture of dots instead of lines: smaller where it has very many of them. It stays light at night."""
    width, height = struct.unpack(">II", pictures.png[16:24])  # of the header: https://www.w3.org/TR/png-3/#11IHDR
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"><image width="{width}" '
        f'height="{height}" href="data:image/png;base64,{base64.b64encode(pictures.png).decode()}"/></svg>'
    )


def drawn(figure: Figure, *, narrow: bool = False) -> MatplotlibFigure:
    """A figure of the report as one of matplotlib's; for use within `styled`."""
    canvas = blank(figure.narrow_inches if narrow else figure.inches)
    figure.draw(canvas, narrow)
    _take_literally(canvas)
    return canvas


def _take_literally(canvas: MatplotlibFigure) -> None:
    """Let no words be read as mathematics, but the powers of ten that a logarithmic axis writes itself."""
    from matplotlib.text import Text
    from matplotlib.ticker import LogFormatter

    powers = set()
    for axes in canvas.axes:
        for axis in (axes.xaxis, axes.yaxis):
            for minor, formatter in ((False, axis.get_major_formatter()), (True, axis.get_minor_formatter())):
                labels = axis.get_ticklabels(minor=minor)
                if isinstance(formatter, LogFormatter):
                    powers.update(labels)
    for text in canvas.findobj(Text):
        if isinstance(text, Text) and text not in powers:
            text.set_parse_math(False)


def _for_pages(svg: str) -> str:
    """The same picture with its colours as CSS variables, which a dark page exchanges, and with no size of its own."""
    head, body = for_page(svg, lambda style: _HUE.sub(_variable, style)).split(">", 1)
    return f"{head}><style>{_stylesheet()}</style>{body}"


def _variable(found: re.Match[str]) -> str:
    name = _VARIABLES.get(found[2])
    return f"{found[1]}: var(--{name})" if name else found[0]


def _stylesheet() -> str:
    day, night = (
        "".join(f"--{name}:{pair[place]};" for name, pair in {**COLOURS, **_LINES}.items()) for place in (0, 1)
    )
    # letters and black faces have no fill of their own in matplotlib's SVG
    return f"svg{{{day}fill:var(--ink)}}@media (prefers-color-scheme: dark){{svg{{{night}}}}}"
